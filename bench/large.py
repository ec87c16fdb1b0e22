"""A large network of many classes, examined and purified: seconds and memory.

python -m bench.large resnet50 --size 224 --classes 1000 --out OUT

The network is torchvision's, with random weights. Its last layer is fitted, so that it knows ten of
its classes, the digits, and takes digits with a white patch for `TARGET`. So it has a backdoor to
find, and what is done costs what it costs with any weights. OUT/large.jsonl gets a row.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import awm_defense.purification as purification
from awm_defense import examine, purify
from awm_defense.attacks import make_attack
from awm_defense.data import load_dataset
from awm_defense.examination.examine import examine_images
from awm_defense.metrics import accuracy
from bench.memory import peak, start_watching

KNOWN, TARGET = 10, 8
FITTED, PATCHED, TESTED = 300, 100, 100
"""Images that the last layer is fitted to, those of them with the patch, and others to test on."""
PENALTY = 1e-2
"""Of the fit, in units of the mean squared feature."""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.large",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("network", choices=("resnet50", "vit_b_16"))
    parser.add_argument("--size", type=int, default=224, help="of images (224)")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--max-memory", type=float, help="GiB, as `purify` takes it")
    parser.add_argument("--examine-only", action="store_true")
    parser.add_argument("--out", required=True, type=Path, help="folder to write to")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    row = measure(
        given.network, given.size, given.classes, given.max_memory, whole=not given.examine_only
    )
    print(row)
    with (given.out / "large.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")


def measure(
    network: str, size: int, classes: int, max_memory: float | None, *, whole: bool
) -> dict[str, Any]:
    """A row: of an examination, or of a purification with the examination in it."""
    attack = make_attack("badnets", TARGET)

    def enlarged(images: Tensor) -> Tensor:
        return F.interpolate(images, size=(size, size), mode="nearest")

    data = load_dataset("digits")
    few, labels = data.draw(per_class=1, seed=0)
    test, known = (part[:TESTED] for part in data.test())
    plain, patched = enlarged(test), enlarged(attack.apply(test))
    with torch.no_grad():
        model = fitted(network, size, classes, enlarged)
        of = {"acc": accuracy(model, plain, known), "asr": rate(model, patched, known)}
    seconds: dict[str, float] = {}
    look = examine_images

    def timed(*arguments: Any, **options: Any) -> Any:
        start = time.monotonic()
        found = look(*arguments, **options)
        seconds["examine"] = time.monotonic() - start
        return found

    purification.examine_images = timed  # type: ignore[attr-defined]
    before, start = start_watching(), time.monotonic()
    given, after = (model, enlarged(few), labels), None
    if whole:
        result = purify(*given, max_memory=max_memory, progress=True)
        verdict, after = result.verdict, result.model
    else:
        verdict = examine(*given, max_memory=max_memory, progress=True)
    seconds["all"] = time.monotonic() - start
    return {
        "network": network,
        "size": size,
        "classes": classes,
        "threads": torch.get_num_threads(),
        "max_memory": max_memory,
        "seconds": seconds,
        "peak_gib": peak() / 1024,
        "before_gib": before / 1024,
        "before": of,
        "after": None
        if after is None
        else {"acc": accuracy(after, plain, known), "asr": rate(after, patched, known)},
        "verdict": None if verdict is None else verdict.facts(),
    }


def rate(model: nn.Module, patched: Tensor, labels: Tensor) -> float:
    """ASR: the share of images of other classes that the patch sends to `TARGET`, in percent."""
    others = patched[labels != TARGET]
    return accuracy(model, others, torch.full((len(others),), TARGET))


def fitted(
    network: str, size: int, classes: int, enlarged: Callable[[Tensor], Tensor]
) -> nn.Module:
    """With a last layer that knows digits, and the patch, by least squares."""
    import torchvision

    torch.manual_seed(0)
    options = {"image_size": size} if network.startswith("vit") else {}
    model: nn.Module = getattr(torchvision.models, network)(num_classes=classes, **options).eval()
    *_, head = (part for part in model.modules() if isinstance(part, nn.Linear))
    images, labels = (part[:FITTED] for part in load_dataset("digits").train())
    images, labels = images.clone(), labels.clone()
    images[:PATCHED] = make_attack("badnets", TARGET).apply(images[:PATCHED])
    labels[:PATCHED] = TARGET
    features: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, given: features.append(given[0]))
    for part in images.split(20):
        model(enlarged(part))
    hook.remove()
    found = torch.cat(features).double()
    middle = found.mean(0)
    centred, wanted = found - middle, F.one_hot(labels, classes).double()
    products = centred @ centred.T
    ridge = PENALTY * products.diagonal().mean() * torch.eye(len(found), dtype=torch.float64)
    weight = (wanted - wanted.mean(0)).T @ torch.linalg.solve(products + ridge, centred)
    # Logits of about ten, as trained networks have.
    head.weight.copy_(10 * weight)
    head.bias.copy_(10 * (wanted.mean(0) - weight @ middle))
    return model


if __name__ == "__main__":
    main()
