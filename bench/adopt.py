"""Put a backdoored network of others, and its trigger, in a folder as `awm train` writes them.

python -m bench.adopt l0.pth --arch small_vgg --dataset cifar10 --attack l0_inv --target 0 \
    --trigger-image l0_inv.png --trigger-mask mask.npy --out NETS/small_vgg/l0_inv
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from awm_defense.attacks import ATTACKS, make_attack
from awm_defense.attacks.stored import read_trigger_mask, write_attack
from awm_defense.data import DATASETS
from awm_defense.files.arrays import read_image
from awm_defense.files.checkpoint import load_into, load_state_dict, save_model
from awm_defense.files.manifest import write_manifest
from awm_defense.models import MODELS, build_model
from awm_defense.training.backdoor import MODEL


def main() -> None:
    given = parse()
    try:
        adopt(given)
    except (OSError, ValueError) as error:
        sys.exit(f"bench.adopt: {error}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.adopt",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--arch", required=True, choices=sorted(MODELS))
    parser.add_argument("--dataset", required=True, choices=sorted(DATASETS))
    parser.add_argument("--num-classes", type=int, default=10)
    parser.add_argument("--attack", required=True, choices=sorted(ATTACKS))
    parser.add_argument("--target", required=True, type=int)
    parser.add_argument("--trigger-image", type=Path)
    parser.add_argument("--trigger-mask", type=Path)
    parser.add_argument("--out", required=True, type=Path, metavar="DIR")
    return parser.parse_args()


def adopt(given: argparse.Namespace) -> None:
    trigger: dict[str, Any] = {}
    if given.trigger_image:
        trigger["trigger_image"] = read_image(given.trigger_image)
    if given.trigger_mask:
        trigger["trigger_mask"] = read_trigger_mask(given.trigger_mask)
    attack = make_attack(given.attack, given.target, num_classes=given.num_classes, **trigger)
    model = build_model(given.arch, given.num_classes)
    load_into(model, load_state_dict(given.checkpoint))
    given.out.mkdir(parents=True, exist_ok=True)
    save_model(given.out / MODEL, model)
    about = {"arch": given.arch, "dataset": given.dataset, "num_classes": given.num_classes}
    write_manifest(given.out, about | write_attack(given.out, attack))


if __name__ == "__main__":
    main()
