"""Making a backdoored network from clean data: craft a trigger, poison, train, measure, record."""

import os
import platform
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

import awm_kernels
from awm_defense.attacks import ATTACKS, Attack, craft_attack, with_model
from awm_defense.attacks.stored import FIELD, IMAGE, MASK, describe_attack, read_attack
from awm_defense.data import Dataset, as_float, draw_defender
from awm_defense.files.atomic import as_json, write_bytes
from awm_defense.files.checkpoint import as_safetensors, checksum, load_into, load_state_dict
from awm_defense.files.folder import output_folder
from awm_defense.files.manifest import NAME, read_manifest, write_manifest
from awm_defense.files.text import escape
from awm_defense.files.together import (
    FILES,
    UNFINISHED,
    check_replaceable,
    cut_off,
    unfinished,
    write_together,
)
from awm_defense.metrics import accuracy, evaluate
from awm_defense.models import build_model
from awm_defense.training.loop import SEEDS_APART, Plan, train
from awm_defense.working.compute import Compute, fastest

MODEL, TRAINING, CLEAN = "model.safetensors", "training.pt", "clean"
WRITTEN = (MODEL, TRAINING, NAME, IMAGE, MASK, FIELD)
"""The names of all files that may be written."""
ENTRIES = ("arch", "dataset", "attack")
"""That every manifest has."""
NO_ATTACK = "none"
# Images that a trigger is crafted on, that an epoch is measured on, and that speed is measured on.
CRAFT_IMAGES = 128
EPOCH_IMAGES = 2000
SPEED_IMAGES = 64


@dataclass(frozen=True)
class Order:
    """What network to make.

    Attributes:
        arch: a key of `MODELS`.
        attack: a key of `ATTACKS`, or "none" for a benign network.
        target: the class that triggers lead to; None for all-to-all. Unused without an attack.
        poison_rate: share of all training images; None for the attack's own.
        plan: how to train; its augmentation should suit the data.
        init: checkpoint of the same architecture to start from; None for random weights.
        images: how many training images are used, drawn at random; None for all.
    """

    arch: str
    attack: str
    target: int | None
    poison_rate: float | None
    plan: Plan
    init: Path | None = None
    images: int | None = None


def make_network(
    folder: Path,
    data: Dataset,
    order: Order,
    *,
    attack: Attack | None = None,
    clean_model: Path | None = None,
    compute: Compute | None = None,
    device: torch.device,
    progress: bool = False,
) -> dict[str, Any]:
    """Train a network and write it, its trigger and its manifest; go on where a kill left off.

    Args:
        folder: written to; what is there of the same order is continued, or returned when done.
        data: the data set.
        order: what to make.
        attack: the one ordered, where it has its trigger already; by default one is crafted.
        clean_model: checkpoint of the same architecture without a backdoor, for attacks that need
            one; by default `order.init`, and without that it is trained first, in `folder`/clean.
        compute: arithmetic and layout; by default the fastest.
        device: where to train.
        progress: show bars and say what goes on.

    Returns:
        The manifest.

    Raises:
        ValueError: when the folder holds something made to another order, another run is writing
            to it, the attack has no all-to-all form, there are fewer images than ordered or to be
            poisoned, no test image is outside the target class, or `order.init` doesn't fit.
        OSError: when the folder or a file in it can't be written.
    """
    initial = None if order.init is None else load_state_dict(order.init)
    manifest = _describe(data, order)
    if order.images is not None:
        drawn = draw_defender(
            data.train_images, data.train_labels, n=order.images, seed=order.plan.seed
        )
        data = replace(data, train_images=drawn[0], train_labels=drawn[1])
    if len(data.test_labels) == 0:
        raise ValueError(f"{data.name}: expected at least one test image, got none")
    if order.attack != NO_ATTACK:
        _check_poisoning(data, order, attack, manifest["poison_rate"])
    with output_folder(folder):
        return _make(
            folder, data, order, manifest, initial, attack, clean_model, compute, device, progress
        )


def _make(
    folder: Path,
    data: Dataset,
    order: Order,
    manifest: dict[str, Any],
    initial: dict[str, Tensor] | None,
    attack: Attack | None,
    clean_model: Path | None,
    compute: Compute | None,
    device: torch.device,
    progress: bool,
) -> dict[str, Any]:
    """`make_network` in a folder that no other run writes to."""
    # Before the first epoch has ended there is nothing to lose: what is there is made anew.
    begun = (folder / NAME).exists() and ((folder / TRAINING).exists() or (folder / MODEL).exists())
    if begun:
        old = read_manifest(folder / NAME)
        asked = {} if compute is None else {"compute": asdict(compute)}
        _check_same(folder, old, manifest | asked)
        if attack is not None and "trigger" in old:
            _check_same_trigger(folder, old, attack, as_float(data.train_images[:1]))
        if "acc" in old:
            with torch.random.fork_rng([]):  # whether a network is there, not figures alone
                model = build_model(order.arch, len(data.classes))
            load_into(model, load_state_dict(folder / MODEL))
            if cut_off(folder, MODEL, [TRAINING]):  # a kill came before that
                (folder / TRAINING).unlink()
            (folder / UNFINISHED.format(MODEL)).unlink(missing_ok=True)
            if progress:
                tqdm.write(
                    f"{escape(str(folder))} holds the finished network; its figures are those of "
                    f"{NAME}, and `awm evaluate` measures anew",
                    sys.stderr,
                )
            return old
        manifest = old
        _check_no_other(folder)
    else:
        check_replaceable(folder, WRITTEN, sign=NAME, entries=ENTRIES)

    if order.attack != NO_ATTACK:
        clean = None
        if attack is None and ATTACKS[order.attack].needs_model:
            clean = _clean_network(
                folder, data, order, clean_model or order.init, compute, device, progress
            )
        if begun:
            attack = with_model(read_attack(folder, manifest), clean)
        else:
            attack = attack or _craft(data, order, clean, device)

    with torch.random.fork_rng([]):
        torch.manual_seed(order.plan.seed)
        model = build_model(order.arch, len(data.classes))
    if initial is not None:
        load_into(model, initial)
    if not begun:
        images = data.train()[0][:SPEED_IMAGES]
        arithmetic = asdict(compute or fastest(model, images, device))
        # What was crafted took its time.
        check_replaceable(folder, WRITTEN, sign=NAME, entries=ENTRIES)
        files: dict[str, bytes] = {}
        if attack is not None:
            entry, files = describe_attack(attack)
            manifest |= entry
        manifest[FILES] = sorted(files)
        manifest["compute"] = arithmetic
        # One of another network must not be taken for that of the trigger that is written now.
        triggers: dict[str, bytes | None] = {**dict.fromkeys((IMAGE, MASK, FIELD)), **files}
        write_together(folder, {**triggers, NAME: as_json(manifest)}, sign=NAME)

    start = time.perf_counter()
    _train(model, folder, data, order, manifest, attack, device, progress)
    manifest["seconds"] = round(time.perf_counter() - start, 1)  # of this process
    manifest |= _measure(model, *data.test(), attack, device)
    _check_no_other(folder)
    weights = as_safetensors(model)
    with unfinished(folder, MODEL, {MODEL: weights, TRAINING: None}):
        write_bytes(folder / MODEL, weights)
        # With its figures, which say that all is done; until then the same command goes on.
        write_manifest(folder, manifest)
        (folder / TRAINING).unlink(missing_ok=True)
    return manifest


def _check_no_other(folder: Path) -> None:
    """Raise ValueError where a file has the name of the network and this training did not write
    it: it may have come meanwhile."""
    if os.path.lexists(folder / MODEL) and not cut_off(folder, MODEL, [MODEL]):
        raise ValueError(
            f"out: {folder / MODEL} is not of this training, and would be overwritten; move it "
            "away, and the same command goes on"
        )


def _describe(data: Dataset, order: Order) -> dict[str, Any]:
    """What is known of a network before anything is computed."""
    manifest: dict[str, Any] = {
        "arch": order.arch,
        "dataset": data.name,
        "num_classes": len(data.classes),
        "attack": order.attack,
        "poison_rate": 0.0,
        "seed": order.plan.seed,
        "plan": asdict(order.plan),
        "images": order.images,
        "init_sha256": None if order.init is None else checksum(order.init),
        "versions": {
            "awm": awm_kernels.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }
    if order.attack != NO_ATTACK:
        method = ATTACKS[order.attack]
        if order.target is None and not method.all_to_all:
            raise ValueError(f"target: {order.attack} needs one, it has no all-to-all form")
        manifest["source"] = method.source
        manifest["target"] = order.target
        manifest["poison_rate"] = (
            method.poison_rate if order.poison_rate is None else order.poison_rate
        )
    return manifest


def _check_poisoning(data: Dataset, order: Order, attack: Attack | None, rate: float) -> None:
    """Raise ValueError where so many images can't be poisoned, or not with the given trigger.

    Before a clean network is trained for the attack, which may take hours.
    """
    if attack is not None:
        attack.apply(as_float(data.train_images[:1]))
    else:  # its trigger is still to be made
        made = ATTACKS[order.attack].attack
        attack = made(order.attack, order.target, torch.clone, len(data.classes))
    attack.check_rate(data.train_labels, rate)
    # What is measured after each epoch; in vain where it fails.
    labels = data.test_labels[:EPOCH_IMAGES]
    if not (attack.targets(labels) != labels).any():
        raise ValueError(
            f"{data.name}: expected some of its first {len(labels)} test images outside the target "
            f"class {attack.target}, got none"
        )


def _check_same(folder: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    before, now = ({**given, **given.get("plan", {})} for given in (old, new))
    for key in now:
        if key not in ("plan", "versions") and before.get(key) != now[key]:
            raise ValueError(
                f"out: {folder} holds a network made with {key} {before.get(key)}, "
                f"not {now[key]}; choose another folder"
            )


def _check_same_trigger(folder: Path, old: dict[str, Any], attack: Attack, image: Tensor) -> None:
    """Raise ValueError where the trigger that is kept there isn't the one that is given."""
    kept = read_attack(folder, old)
    if not torch.allclose(kept.apply(image.clone()), attack.apply(image.clone()), atol=1e-6):
        raise ValueError(
            f"out: {folder} holds a network made with another trigger; choose another folder"
        )


def _clean_network(
    folder: Path,
    data: Dataset,
    order: Order,
    checkpoint: Path | None,
    compute: Compute | None,
    device: torch.device,
    progress: bool,
) -> nn.Module:
    """The network that the attack is crafted with, on the device."""
    if checkpoint is None:
        checkpoint = folder / CLEAN / MODEL
        if progress and not checkpoint.exists():
            tqdm.write(
                f"{order.attack}: training a clean network first, in "
                + escape(str(checkpoint.parent)),
                sys.stderr,
            )
        benign = replace(order, attack=NO_ATTACK, target=None, poison_rate=None)
        make_network(
            folder / CLEAN, data, benign, compute=compute, device=device, progress=progress
        )
    elif checkpoint.name == MODEL and (checkpoint.parent / NAME).exists():
        found = read_manifest(checkpoint.parent / NAME)["attack"]
        if found != NO_ATTACK:
            raise ValueError(
                f"clean_model: expected a network without a backdoor, {checkpoint} has {found}"
            )
    model = build_model(order.arch, len(data.classes))
    load_into(model, load_state_dict(checkpoint))
    return model.to(device).eval()


def _craft(data: Dataset, order: Order, clean: nn.Module | None, device: torch.device) -> Attack:
    seed = order.plan.seed
    some = min(CRAFT_IMAGES, len(data.train_images))
    images, _ = data.draw(n=some, seed=seed)
    return craft_attack(
        order.attack,
        order.target,
        images=images.to(device),
        model=clean,
        num_classes=len(data.classes),
        seed=seed,
    )


def _train(
    model: nn.Module,
    folder: Path,
    data: Dataset,
    order: Order,
    manifest: dict[str, Any],
    attack: Attack | None,
    device: torch.device,
    progress: bool,
) -> None:
    images, labels = data.train_images, data.train_labels
    redraw = None
    if attack is not None:

        def poison(draw: int) -> tuple[Tensor, Tensor]:
            generator = torch.Generator().manual_seed(order.plan.seed + SEEDS_APART * draw)
            clean = data.train_images, data.train_labels
            return attack.poison(*clean, manifest["poison_rate"], generator)[:2]

        if attack.redraws:
            redraw = poison
        else:
            images, labels = poison(0)
    few = as_float(data.test_images[:EPOCH_IMAGES]), data.test_labels[:EPOCH_IMAGES]

    def show(model: nn.Module) -> dict[str, float]:
        found = _measure(model, *few, attack, device)
        return {name: found[name] for name in ("acc", "asr") if name in found}

    train(
        model,
        images,
        labels,
        order.plan,
        compute=Compute(**manifest["compute"]),
        device=device,
        checkpoint=folder / TRAINING,
        measure=show,
        redraw=redraw,
        progress=progress,
    )


def _measure(
    model: nn.Module, images: Tensor, labels: Tensor, attack: Attack | None, device: torch.device
) -> dict[str, float]:
    """In percent; what `evaluate` returns, or the accuracy alone without an attack."""
    if attack is None:
        found = {"acc": accuracy(model, images, labels, device=device)}
    else:
        found = evaluate(model, images, labels, attack, device=device)
    return {name: round(value, 2) for name, value in found.items()}
