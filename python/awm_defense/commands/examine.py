"""`awm examine`: whether checkpoints look backdoored, by a few clean images."""

import argparse

from awm_defense.commands import options
from awm_defense.commands.errors import escape
from awm_defense.data import load_dataset
from awm_defense.examination.examine import examine


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `awm examine` to the command line."""
    parser = commands.add_parser(
        "examine", help="say whether checkpoints look backdoored, and toward which class"
    )
    options.add_model_options(parser, "CHECKPOINT", nargs="+")
    options.add_data_options(parser)
    parser.add_argument(
        "--seed", type=options.seed, default=0, metavar="S", help="of the draw of images"
    )
    options.add_run_options(parser)
    options.add_memory_option(parser)
    parser.add_argument(
        "--json", action="store_true", help="one JSON object on standard output, by checkpoint"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the verdict on each checkpoint."""
    device = options.get_device(args.device)
    mean, std = options.get_normalisation(args)
    for checkpoint in args.checkpoint:  # what can't be read is found before the work
        options.load_network(args, checkpoint)
    images, labels = load_dataset(args.dataset, args.data_dir).draw(per_class=1, seed=args.seed)
    found = {}
    for checkpoint in args.checkpoint:
        verdict = examine(
            options.load_network(args, checkpoint),
            images,
            labels,
            mean=mean,
            std=std,
            device=device,
            seed=args.seed,
            max_memory=args.max_memory,
            progress=True,
        )
        if not args.json:
            print(f"{escape(str(checkpoint))}: {verdict}")
        found[str(checkpoint)] = verdict.facts()
    if args.json:
        options.print_json(found)
    return 0
