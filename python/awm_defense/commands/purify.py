"""`awm purify`: erase a backdoor from a checkpoint with a few clean images."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from awm_defense.checkpoint import save_model
from awm_defense.commands.options import (
    add_data_options,
    add_model_options,
    add_run_options,
    get_device,
    get_normalisation,
    load_network,
    positive_int,
    run_facts,
    say,
)
from awm_defense.data import draw_defender, load_dataset
from awm_defense.purify import purify
from awm_defense.recipes import RECIPES, Recipe, get_recipe
from awm_defense.report import write_report


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `awm purify` to the command line."""
    parser = commands.add_parser("purify", help="erase the backdoor of a checkpoint")
    add_model_options(parser, "CHECKPOINT")
    add_data_options(parser)
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument(
        "--per-class", type=positive_int, metavar="K", help="clean images per class (default: 1)"
    )
    amount.add_argument("--n", type=positive_int, metavar="N", help="clean images in all, instead")
    parser.add_argument("--recipe", choices=list(RECIPES), default="default")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change one hyper-parameter of the recipe; repeatable",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    add_run_options(parser)
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder to write to")
    parser.set_defaults(run=run)


def make_recipe(name: str, settings: Sequence[str]) -> Recipe:
    """The recipe called `name` with settings such as "tau=100" applied."""
    options = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not (key and equals and value):
            raise ValueError(f"--set: expected KEY=VALUE, got {setting!r}")
        options[key.strip()] = value.strip()
    return get_recipe(name).with_options(options)


def run(args: argparse.Namespace) -> int:
    """Purify the checkpoint and write the network, the masks and the report."""
    device = get_device(args.device)
    mean, std = get_normalisation(args)
    recipe = make_recipe(args.recipe, args.set)
    model = load_network(args).to(device)
    train_images, train_labels = load_dataset(args.dataset, args.data_dir).train()
    per_class = None if args.n else (args.per_class or 1)
    images, labels, _ = draw_defender(
        train_images, train_labels, per_class=per_class, n=args.n, seed=args.seed
    )
    args.out.mkdir(parents=True, exist_ok=True)
    say(f"purifying {args.checkpoint.name} with {len(images)} clean images, recipe {recipe.name}")
    result = purify(
        model,
        images,
        labels,
        recipe=recipe,
        mean=mean,
        std=std,
        device=device,
        seed=args.seed,
        progress=True,
    )
    save_model(args.out / "model.safetensors", result.model)
    save_model(args.out / "masks.safetensors", result.masks)
    write_report(
        args.out,
        result=result,
        title=f"Purified {args.checkpoint.name}",
        extra={
            "checkpoint": args.checkpoint.name,
            "arch": args.arch,
            "dataset": args.dataset,
            **run_facts(args, device, len(images)),
        },
        clean_image=images[0],
    )
    print(f"purified in {result.seconds:.1f} s: {args.out / 'model.safetensors'}")
    print(f"report: {args.out / 'report.html'}")
    return 0
