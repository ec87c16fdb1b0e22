"""`awm evaluate`: how well a network classifies, and how often a known trigger fools it."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from awm_defense.attacks import ATTACKS, make_attack
from awm_defense.commands.options import (
    add_data_options,
    add_model_options,
    add_run_options,
    get_device,
    get_normalisation,
    load_network,
    positive_int,
    print_json,
    say,
)
from awm_defense.data import load_dataset
from awm_defense.metrics import evaluate

MEANING = {
    "acc": "test images classified right",
    "asr": "triggered images sent to the target (target class left out)",
    "asr_all": "the same, target class included",
    "ra": "triggered images still classified right (target class left out)",
}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `awm evaluate` to the command line."""
    parser = commands.add_parser("evaluate", help="measure accuracy and attack success")
    add_model_options(parser, "MODEL")
    add_data_options(parser)
    parser.add_argument("--attack", required=True, choices=sorted(ATTACKS))
    parser.add_argument("--target", required=True, type=int, metavar="T", help="the target class")
    parser.add_argument(
        "--trigger-image", type=Path, metavar="PNG", help="the trigger, for attacks that need one"
    )
    parser.add_argument(
        "--trigger-mask", type=Path, metavar="NPY", help="array (3,H,W) in [0,1], for mode replace"
    )
    parser.add_argument("--trigger-mode", choices=("add", "replace", "blend"))
    parser.add_argument(
        "--limit", type=positive_int, metavar="N", help="only the first N test images"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    add_run_options(parser)
    parser.set_defaults(run=run)


def read_trigger_image(path: Path) -> Tensor:
    """An image file as float32 RGB (3,H,W) in [0,1]."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
    return torch.from_numpy(pixels / 255).permute(2, 0, 1).contiguous()


def read_trigger_mask(path: Path) -> Tensor:
    """An NPY file as float32 (3,H,W); arrays of Python objects are refused, never unpickled."""
    mask = np.load(path, allow_pickle=False)
    if mask.ndim != 3 or mask.shape[0] != 3:
        raise ValueError(f"--trigger-mask: expected an array (3,H,W), got shape {mask.shape}")
    return torch.from_numpy(mask.astype(np.float32))


def run(args: argparse.Namespace) -> int:
    """Print acc, asr, asr_all and ra in percent."""
    if not 0 <= args.target < args.num_classes:
        raise ValueError(
            f"--target: expected a class from 0 to {args.num_classes - 1}, got {args.target}"
        )
    device = get_device(args.device)
    mean, std = get_normalisation(args)
    attack = make_attack(
        args.attack,
        args.target,
        trigger_image=args.trigger_image and read_trigger_image(args.trigger_image),
        trigger_mask=args.trigger_mask and read_trigger_mask(args.trigger_mask),
        mode=args.trigger_mode,
    )
    model = load_network(args, args.checkpoint).to(device)
    images, labels = load_dataset(args.dataset, args.data_dir).test()
    images, labels = images[: args.limit], labels[: args.limit]
    say(f"evaluating {args.checkpoint.name} on {len(images)} test images of {args.dataset}")
    found = evaluate(
        model, images, labels, attack, mean=mean, std=std, device=device, progress=True
    )
    if args.json:
        print_json({name: round(value, 4) for name, value in found.items()})
    else:
        for name, value in found.items():
            print(f"{name:8} {value:6.2f} %   {MEANING.get(name, '')}".rstrip())
    return 0
