"""What `examine` says of networks whose truth is known: hits and misses.

python bench/verdicts.py NETS/*/* --data-dir DATA --seeds 3 --out verdicts.json

Each folder is one that `awm train` or adopt.py wrote; seeds draw the one image a class.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from awm_defense import examine
from awm_defense.backdoor import MODEL
from awm_defense.checkpoint import load_into, load_state_dict
from awm_defense.data import draw_defender, load_dataset
from awm_defense.manifest import NAME, read_manifest
from awm_defense.models import build_model


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--data-dir", type=Path, help="(default: $AWM_DATA_DIR)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", required=True, type=Path, metavar="FILE")
    given = parser.parse_args()
    runs = [(folder, seed) for folder in given.folders for seed in range(given.seeds)]
    rows = [measure(folder, seed, given.data_dir) for folder, seed in tqdm(runs, "examine")]
    given.out.write_text(json.dumps({"torch": torch.__version__, "runs": rows}, indent=1) + "\n")
    print(table(rows))


def measure(folder: Path, seed: int, data_dir: Path | None) -> dict[str, Any]:
    """The verdict on one network from one draw of images, and the truth."""
    manifest = read_manifest(folder / NAME)
    model = build_model(manifest["arch"], manifest["num_classes"])
    load_into(model, load_state_dict(folder / MODEL))
    data = load_dataset(manifest["dataset"], data_dir)
    images, labels, _ = draw_defender(*data.train(), per_class=1, seed=seed)
    start = time.perf_counter()
    verdict = examine(model, images, labels, seed=seed)
    return {
        "network": f"{manifest['dataset']} {folder.name}",
        "attack": manifest["attack"],
        "planted": manifest.get("target"),
        "seed": seed,
        "seconds": round(time.perf_counter() - start, 1),
        "threads": torch.get_num_threads(),
        **verdict.facts(),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """A row a network; scores of all seeds."""
    lines = [
        "| network | planted class | found backdoored | named the class | score | by |",
        "|---|---|---|---|---|---|",
    ]
    for network in dict.fromkeys(row["network"] for row in rows):
        mine = [row for row in rows if row["network"] == network]
        planted = mine[0]["planted"]
        found = [row for row in mine if row["backdoored"]]
        named = sum(row["target"] == planted for row in found)
        scores = ", ".join(f"{row['score']:.1f}" for row in mine)
        by = ", ".join(sorted({f"{row['norm']:g} {row['unit']}" for row in found})) or "-"
        target = "none" if planted is None else planted
        lines.append(
            f"| {network} | {target} | {len(found)} of {len(mine)} | "
            f"{'-' if planted is None else f'{named} of {len(mine)}'} | {scores} | {by} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
