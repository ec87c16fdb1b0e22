"""The network that a command works on: which it is, its weights, how it wants its images."""

import argparse
import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from torch import nn

from awm_defense.commands import options
from awm_defense.commands.errors import of_memory
from awm_defense.files.checkpoint import LIMIT, Misfit, Weights, load_into, load_state_dict
from awm_defense.files.door import MIB, TooLargeError
from awm_defense.inputs.preparation import Preparation
from awm_defense.models import MODELS
from awm_defense.models.named import (
    FORMS,
    build_named,
    build_to_fit,
    check_name,
    nearest,
    prepare_named,
    rename_for,
)
from awm_defense.models.own_code import FORM, build_own
from awm_defense.pixel_model import TAKES, PixelModel


def architecture(text: str) -> str:
    """An argparse type: the name of an architecture."""
    try:
        return check_name(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_model_options(
    parser: argparse.ArgumentParser,
    metavar: str,
    *,
    nargs: str | None = None,
) -> None:
    """The checkpoint (or several); what builds its network, unless a file may tell."""
    parser.add_argument(
        "checkpoint",
        metavar=metavar,
        nargs=nargs,
        type=options.path,
        help="safetensors file, or .pt/.pth with a state dict at the top or under net, model, "
        "state_dict and the like, or a folder of BackdoorBench with its attack_result.pt; nothing "
        "in it is ever executed",
    )
    parser.add_argument(
        "--max-file-size",
        type=options.positive_int,
        default=LIMIT // MIB,
        metavar="MIB",
        help=f"refuse a larger checkpoint (default: {LIMIT // MIB})",
    )
    network = parser.add_mutually_exclusive_group()
    network.add_argument(
        "--arch",
        type=architecture,
        metavar="NAME",
        help=f"the architecture: {', '.join(sorted(MODELS))}; or {FORMS} (a folder with "
        "config.json), from packages that are installed apart. Files of BackdoorBench say it",
    )
    network.add_argument(
        "--model",
        metavar="CODE",
        help=f"{FORM}: your own function or class that makes the network. It is executed: give "
        "only code that you trust",
    )
    parser.add_argument(
        "--num-classes",
        type=options.class_count,
        metavar="N",
        help="how many (default: as the checkpoint says)",
    )
    for name, kind in (("mean", options.mean), ("std", options.finite)):
        parser.add_argument(
            f"--{name}",
            type=kind,
            nargs="+",
            metavar="V",
            help=f"{name} per channel (or one for all) of the normalisation that the network "
            "expects on images in [0,1] (default: what timm, torchvision or the folder says, or "
            "none)",
        )


def load_network(args: argparse.Namespace, checkpoint: Path) -> nn.Module:
    """The network that the options name with the weights of `checkpoint`, in eval mode."""
    if checkpoint.is_dir():
        raise ValueError(
            f"{checkpoint}: expected the file of the weights, such as model.safetensors, got a "
            "folder"
        )
    try:
        return _load_network(args, checkpoint)
    except Exception as error:
        if not of_memory(error):
            raise
        raise ValueError(
            f"{checkpoint}: expected enough memory to read it, got too little"
        ) from error


def load_first(args: argparse.Namespace, *, alike: bool) -> nn.Module:
    """The network of the first checkpoint, once all were read: none fails after work on others.

    Args:
        alike: whether all must have parameters and buffers of one kind.

    Raises:
        ValueError: naming the checkpoint that can't be read, or is not as the first.
    """
    first, *others = args.checkpoint
    network = load_network(args, first)
    expected = _shapes(network)
    for checkpoint in others:
        differ = expected ^ _shapes(load_network(args, checkpoint))
        if alike and differ:
            names = ", ".join(sorted({name for name, _ in differ})[:5])
            raise ValueError(
                f"{checkpoint}: expected the names and shapes of {first}, as several are purified "
                f"alike, got others at {names}"
            )
    return network


def _shapes(network: nn.Module) -> set[tuple[str, torch.Size]]:
    return {(name, value.shape) for name, value in network.state_dict().items()}


def _load_network(args: argparse.Namespace, checkpoint: Path) -> nn.Module:
    try:
        state = load_state_dict(checkpoint, limit=args.max_file_size * MIB)
    except TooLargeError as error:
        raise ValueError(f"{error}; --max-file-size sets the limit") from error

    def build(num_classes: int | None) -> nn.Module:
        if args.model is not None:
            return build_own(args.model, num_classes)
        grey = bool(getattr(args, "grey", None))
        return build_named(args.arch, num_classes, grey=grey, weights=state)

    def load(classes: int | None) -> nn.Module:
        model = build_to_fit(build, state) if classes is None else build(classes)
        named = state if args.arch is None else rename_for(args.arch, model, state)
        load_into(model, Weights(named, checkpoint))
        return model

    try:
        model = load(args.num_classes)
    except Misfit as error:
        found = None
        if args.num_classes is not None:
            with suppress(ValueError, IndexError, TypeError):
                found = len(list(load(None).parameters())[-1])
        if found is not None:
            raise ValueError(
                f"{checkpoint}: the checkpoint has {found} classes, --num-classes says "
                f"{args.num_classes}; leave out --num-classes"
            ) from error
        name = nearest(state)
        if name in (None, args.arch):
            raise
        raise ValueError(f"{error}; they look like those of --arch {name}") from error
    return model.eval()


@contextmanager
def of_checkpoint(checkpoint: Path) -> Iterator[None]:
    """Have an error of the network name its file, too."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if not str(error).startswith("model: "):
            raise
        hint = "; --size sets theirs" if TAKES in str(error) else ""
        raise ValueError(f"{checkpoint}: {error}{hint}") from error


@torch.no_grad()
def count_classes(args: argparse.Namespace, model: nn.Module, size: Sequence[int]) -> int:
    """How many classes a network knows, by what it says of an image of that size (c, h, w)."""
    mean, std = get_normalisation(args)
    image = torch.zeros(1, *size)
    shown = PixelModel(model, image, mean=mean, std=std)
    return shown.settle(image.to(shown.device)).shape[1]


def get_preparation(args: argparse.Namespace) -> Preparation:
    """How the network wants its images: by the options, or else as its package says."""
    found = Preparation() if args.arch is None else prepare_named(args.arch)
    changes: dict[str, object] = {}
    for name in ("grey", "crop"):
        if getattr(args, name, None) is not None:
            changes[name] = getattr(args, name)
    if getattr(args, "size", None) is not None:
        changes["size"] = _both("--size", args.size)
    if changes.get("grey") and found.mean is not None and found.std is not None:
        # One channel in the place of three.
        changes |= {"mean": [sum(found.mean) / 3], "std": [sum(found.std) / 3]}
    if (args.mean is None) != (args.std is None):
        raise ValueError("--mean and --std: give both or neither")
    if args.mean is not None:
        changes |= {"mean": _per_channel("--mean", args.mean)}
        changes |= {"std": _per_channel("--std", args.std)}
    return dataclasses.replace(found, **changes)  # type: ignore[arg-type]


def get_normalisation(
    args: argparse.Namespace,
) -> tuple[Sequence[float] | None, Sequence[float] | None]:
    """(mean, std), one value a channel or for all, or (None, None)."""
    found = get_preparation(args)
    return found.mean, found.std


def _both(option: str, sides: list[int]) -> tuple[int, int]:
    if len(sides) > 2:
        raise ValueError(f"{option}: expected one number, or height and width, got {len(sides)}")
    return sides[0], sides[-1]


def _per_channel(option: str, values: list[float]) -> list[float]:
    if len(values) in (1, 3):
        return values
    raise ValueError(f"{option}: expected one value or three (R G B), got {len(values)}")
