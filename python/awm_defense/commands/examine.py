"""`awm examine`: whether checkpoints look backdoored, by a few clean images."""

import argparse
from pathlib import Path
from typing import Any

import torch

from awm_defense.commands import networks, options, pictures, records
from awm_defense.commands.errors import explain
from awm_defense.commands.origins import named_by
from awm_defense.examination.examine import examine
from awm_defense.examination.verdict import Verdict
from awm_defense.files.text import escape


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `awm examine` to the command line."""
    parser = commands.add_parser(
        "examine", help="say whether checkpoints look backdoored, and toward which class"
    )
    networks.add_model_options(parser, "CHECKPOINT", nargs="+")
    pictures.add_picture_options(parser, required=False)
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
    """Print the verdict on each checkpoint; 1 where some of several could not be examined."""
    args.checkpoint = [records.find_checkpoint(path) for path in args.checkpoint]
    records.read_records(args, args.checkpoint)
    if args.dataset is None and args.images is None:
        raise ValueError("--dataset or --images: expected one of them")
    device = options.get_device(args.device)
    networks.get_normalisation(args)
    network = networks.load_first(args, alike=False)
    given = pictures.open_pictures(args)
    with networks.of_checkpoint(args.checkpoint[0]):
        drawn = given.draw(network, per_class=1, seed=args.seed, device=device)
        known = networks.count_classes(args, network, drawn.images.shape[1:])
    pictures.check_classes(drawn, known, of_each=True)
    found: dict[str, dict[str, Any]] = {}
    failed = False
    try:
        for checkpoint in args.checkpoint:
            try:
                with named_by(args):
                    verdict = _examine(args, checkpoint, given, drawn, device)
            except Exception as error:
                if len(args.checkpoint) == 1:
                    raise
                failed = True
                line, _ = explain(error)
                options.say(f"failed: {checkpoint}: {line.removeprefix(f'{checkpoint}: ')}")
                found[str(checkpoint)] = {"error": line}
                continue
            if not args.json:
                print(f"{escape(str(checkpoint))}: {verdict}")
            found[str(checkpoint)] = verdict.facts()
    finally:  # after Ctrl-C, too
        if args.json and found:
            options.print_json(found)
    return 1 if failed else 0


def _examine(
    args: argparse.Namespace,
    checkpoint: Path,
    given: pictures.Pictures,
    drawn: pictures.Drawn,
    device: torch.device,
) -> Verdict:
    mean, std = networks.get_normalisation(args)
    with options.warnings_said(), networks.of_checkpoint(checkpoint):
        network = networks.load_network(args, checkpoint)
        given.check_known(checkpoint, networks.count_classes(args, network, drawn.images.shape[1:]))
        return examine(
            network,
            drawn.images,
            drawn.labels,
            mean=mean,
            std=std,
            device=device,
            seed=args.seed,
            max_memory=args.max_memory,
            progress=True,
        )
