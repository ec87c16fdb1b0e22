"""`awm purify`: erase a backdoor from a checkpoint with a few clean images."""

import argparse
import shlex
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from awm_defense.awm.recipe import Recipe
from awm_defense.commands import networks, options, pictures, records
from awm_defense.commands.output import (
    WEIGHTS,
    check_inputs,
    check_report_folder,
    is_inside,
    say_where,
)
from awm_defense.files.backdoorbench import DEFENSE, TRIGGERED, Record, defense_result
from awm_defense.files.checkpoint import as_safetensors
from awm_defense.files.folder import output_folder
from awm_defense.files.manifest import NAME
from awm_defense.files.text import escape
from awm_defense.files.uninterrupted import uninterrupted
from awm_defense.inputs.images import UNKNOWN
from awm_defense.inputs.take import predict
from awm_defense.pixel_model import PixelModel
from awm_defense.purification import purify_many
from awm_defense.registry import BASELINES, RECIPES, get_settings
from awm_defense.report.page import NEXT, say_right
from awm_defense.report.write import PAGE, WRITTEN, write_report
from awm_defense.result import PurifyResult
from awm_defense.settings import Settings
from awm_defense.synthesis import synthesize
from awm_defense.working.precision import PRECISIONS

# Of an image in every data set there is.
SIDES = (32, 32)


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `awm purify` to the command line."""
    parser = commands.add_parser("purify", help="erase the backdoor of a checkpoint")
    networks.add_model_options(parser, "CHECKPOINT", nargs="+")
    pictures.add_picture_options(parser, required=False)
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument(
        "--per-class",
        type=options.natural,
        metavar="K",
        help="clean images per class (default: 1); 0: without any, from images made of the network",
    )
    amount.add_argument(
        "--n", type=options.positive_int, metavar="N", help="clean images in all, instead"
    )
    parser.add_argument(
        "--recipe",
        choices=[*RECIPES, *BASELINES],
        default="default",
        help=f"of AWM: {', '.join(RECIPES)}; to compare with: {', '.join(BASELINES)} "
        "(default: default)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change one hyper-parameter of the recipe; repeatable",
    )
    parser.add_argument("--seed", type=options.seed, default=0, metavar="S")
    options.add_run_options(parser)
    options.add_memory_option(parser)
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="auto",
        help="auto: bfloat16 where it is faster and agrees with float32 (default)",
    )
    parser.add_argument(
        "--out",
        type=options.path,
        metavar="DIR",
        help="folder to write to; of several checkpoints, each gets a folder in it (default: the "
        "folder defense/awm of BackdoorBench's record)",
    )
    parser.set_defaults(run=run)


def make_recipe(name: str, settings: Sequence[str], *, flip: bool, synthetic: bool) -> Settings:
    """The recipe called `name` with settings such as "tau=100" applied.

    `flip` and `synthetic` are those of `Settings.for_images`.
    """
    changes = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not (key and equals and value):
            raise ValueError(f"--set: expected KEY=VALUE, got {setting!r}")
        changes[key.strip()] = value.strip()
    chosen = get_settings(name).for_images(flip=flip, synthetic=synthetic)
    return chosen.with_options(changes)


def output_folders(
    out: Path | None, checkpoints: Sequence[Path], found: Sequence[Record]
) -> list[Path]:
    """`out` for one checkpoint, a folder in it named after each for several; or those of records.

    Args:
        out: what the option says.
        checkpoints: all of them.
        found: BackdoorBench's records of all, or none.
    """
    if out is None and not found:
        raise ValueError("--out: expected a folder to write to")
    if out is None:
        folders = [record.folder / "defense" / "awm" for record in found]
    elif len(checkpoints) == 1:
        folders = [out]
    elif found:
        folders = [out / record.folder.resolve().name for record in found]
    else:
        folders = [out / _folder_name(checkpoint) for checkpoint in checkpoints]
    if len(set(folders)) < len(folders):
        raise ValueError(
            "CHECKPOINT: expected files of different names, one folder is made of each"
        )
    names = (*WEIGHTS, DEFENSE, *WRITTEN)
    for folder in folders:
        check_inputs(checkpoints, folder, names)
        check_report_folder(folder, names)
    return folders


def _folder_name(checkpoint: Path) -> str:
    """A file's name without its ending, but not "." or "..", which would be no folder in `out`."""
    return checkpoint.stem if checkpoint.stem.strip(".") else checkpoint.name


def get_images(
    args: argparse.Namespace,
    given: pictures.Pictures | None,
    recipe: Settings,
    network: nn.Module,
    device: torch.device,
) -> pictures.Drawn:
    """The defender's clean images and their labels; without data, some made of the network."""
    if given is not None:
        per_class = None if args.n else (args.per_class or 1)
        drawn = given.draw(network, per_class=per_class, n=args.n, seed=args.seed, device=device)
        known = networks.count_classes(args, network, drawn.images.shape[1:])
        given.check_known(args.checkpoint[0], known)
        pictures.check_classes(drawn, known, of_each=args.n is None)
        return drawn
    wanted = networks.get_preparation(args)
    size = (wanted.channels, *(wanted.size or SIDES))
    images, labels = synthesize(
        network,
        size,
        classes=args.num_classes or networks.count_classes(args, network, size),
        mean=wanted.mean,
        std=wanted.std,
        device=device,
        flip=getattr(recipe, "flip", True),
        seed=args.seed,
        progress=True,
    )
    return pictures.Drawn(images, labels, [])


def run(args: argparse.Namespace) -> int:
    """Purify each checkpoint and write the network, the masks and the report."""
    args.checkpoint = [records.find_checkpoint(path) for path in args.checkpoint]
    found = records.read_records(args, args.checkpoint)
    if (args.dataset is None and args.images is None) != (args.per_class == 0):
        raise ValueError(
            "--dataset or --images: expected, except with --per-class 0, which reads no image"
        )
    if args.per_class == 0 and len(args.checkpoint) > 1:
        raise ValueError("CHECKPOINT: expected one with --per-class 0, images are made of each")
    if args.per_class == 0 and args.crop is not None:
        raise ValueError("--crop: expected with a folder of images, got --per-class 0")
    if args.per_class == 0:
        options.check_data_dir(args, "--per-class 0")
    device = options.get_device(args.device)
    mean, std = networks.get_normalisation(args)
    folders = output_folders(args.out, args.checkpoint, found)
    for folder in folders:
        if args.images is not None and is_inside(folder, args.images):
            raise ValueError(
                f"--out: {folder} is in the folder of the images, which stays as it is"
            )
    # What can't be read or written is found before the work; the first network is kept for now.
    network = networks.load_first(args, alike=True)
    given = None if args.per_class == 0 else pictures.open_pictures(args)
    recipe = make_recipe(
        args.recipe, args.set, flip=given is None or given.flip, synthetic=given is None
    )
    with ExitStack() as stack:
        for folder in folders:
            stack.enter_context(output_folder(folder))
        with networks.of_checkpoint(args.checkpoint[0]):
            images, labels, files, _ = get_images(args, given, recipe, network, device)
        del network
        origins: Sequence[Record | None] = found or [None] * len(folders)
        names = ", ".join(map(name_of, args.checkpoint, origins))
        kind = "clean" if given is not None else "synthetic"
        options.say(f"purifying {names} with {len(images)} {kind} images, recipe {recipe.name}")
        before: list[Tensor] = []

        def load() -> Iterator[nn.Module]:
            for checkpoint in args.checkpoint:
                network = networks.load_network(args, checkpoint).to(device)
                before.append(named_right(args, network, images, labels))
                yield network

        results = purify_many(
            load(),
            images,
            labels,
            recipe=recipe,
            mean=mean,
            std=std,
            device=device,
            precision=args.precision,
            seed=args.seed,
            max_memory=args.max_memory,
            progress=True,
        )
        places: list[Path] = []
        for index, (checkpoint, folder) in enumerate(zip(args.checkpoint, folders, strict=True)):
            record = origins[index]
            with networks.of_checkpoint(checkpoint):
                result = next(results)
            check_begun(result)
            told = len(result.notes)
            facts = options.run_facts(args, device, len(images))
            with uninterrupted():  # a second Ctrl-C must not lose what the first one left
                after = named_right(args, result.model, images, labels)
                right = None if given is None else compare(before[index], after, labels)
                written = write_report(
                    folder,
                    result=result,
                    title=f"Purified {name_of(checkpoint, record)}",
                    extra={
                        "checkpoint": checkpoint.name,
                        "arch": args.arch,
                        "model": args.model,
                        "dataset": args.dataset,
                        "images_from": args.images and str(args.images),
                        "images_made": None if given is None else str(given.preparation),
                        "image_files": files,
                        "right": right,
                        **facts,
                    },
                    clean_image=images[0],
                    weights=weights(result) | {DEFENSE: as_defense(record, result)},
                )
            say_where(folder, written)
            places.append(written)
            tell(written, result, told, right)
    command = evaluation(args, places[0], args.checkpoint[0], found)
    options.say(NEXT)
    options.say(f"what it cost and what is left of a known attack: {command}")
    return 0


def named_right(
    args: argparse.Namespace, network: nn.Module, images: Tensor, labels: Tensor
) -> Tensor:
    """Of which images (n, c, h, w) a network names the label, bool (n,), on the CPU."""
    mean, std = networks.get_normalisation(args)
    shown = PixelModel(network, images, mean=mean, std=std)
    with torch.no_grad():
        shown.settle(images[:2].to(shown.device))
    return predict(shown, images).argmax(1) == labels


def compare(before: Tensor, after: Tensor, labels: Tensor) -> dict[str, Any] | None:
    """How many images with a label were named right, and the classes that lost some; None where
    no label is known."""
    known = labels != UNKNOWN
    counts = {"of": known, "before": before & known, "after": after & known}
    lost = [
        label
        for label in labels[known].unique().tolist()
        if int(after[labels == label].sum()) < int(before[labels == label].sum())
    ]
    found = {name: int(which.sum()) for name, which in counts.items()}
    return {**found, "classes_that_lost": lost} if found["of"] else None


def check_begun(result: PurifyResult) -> None:
    """Raise KeyboardInterrupt where a purification was interrupted before it changed anything."""
    if result.interrupted and not result.history:
        options.say("interrupted in the first epoch: nothing is purified, so nothing is written")
        raise KeyboardInterrupt
    if result.interrupted:
        options.say("interrupted: what was reached is being written")


def weights(result: PurifyResult) -> dict[str, bytes | None]:
    """The files of a purified network and its masks, where it has some, by name."""
    model, masks = WEIGHTS
    return {
        model: as_safetensors(result.model),
        masks: as_safetensors(result.masks) if result.masks else None,
    }


def name_of(checkpoint: Path, record: Record | None) -> str:
    """What a network is called: all files of BackdoorBench have one name."""
    return checkpoint.name if record is None else record.folder.resolve().name


def as_defense(record: Record | None, result: PurifyResult) -> bytes | None:
    """The file that BackdoorBench reads, where the network came from one of its files."""
    return None if record is None else defense_result(record, result.model)


def tell(
    folder: Path, result: PurifyResult, told: int, right: dict[str, Any] | None = None
) -> None:
    """Say what was written, and notes but for the first, which are told; raise KeyboardInterrupt
    where it is what an interruption left."""
    if result.verdict is not None:
        print(f"verdict: {result.verdict}")
    for note in result.notes[told:]:
        options.say(f"note: {note}")
    done = "purified"
    if isinstance(result.recipe, Recipe) and not result.history:
        done = "left as it was,"
    elif result.interrupted:
        done = f"interrupted after {len(result.history)} epochs,"
    print(f"{done} in {result.seconds:.1f} s: {escape(str(folder / WEIGHTS[0]))}")
    if right is not None:
        print(say_right(right))
    print(f"report: {escape(str(folder / PAGE))}")
    if result.interrupted:
        raise KeyboardInterrupt


def evaluation(
    args: argparse.Namespace, folder: Path, checkpoint: Path, found: Sequence[Record] = ()
) -> str:
    """The command that measures a purified network; without data, NAME stands for some.

    A manifest beside the original `checkpoint` knows data and attack, and has its trigger. A record
    of BackdoorBench has triggered images.
    """
    manifest = checkpoint.parent / NAME
    # Those of a data set have one size.
    images = args.images or args.size or args.grey
    dataset = args.dataset or ("" if manifest.is_file() or images else "NAME")
    words = ["awm", "evaluate", str(folder / WEIGHTS[0])]
    words += ["--arch", args.arch] if args.arch else ["--model", args.model]
    words += ["--num-classes", str(args.num_classes)] if args.num_classes else []
    words += ["--dataset", dataset] if dataset else []
    words += ["--images", "TEST_IMAGES"] if images else []
    for option in ("mean", "std", "size"):
        values = getattr(args, option)
        words += [f"--{option}", *map(str, values)] if values else []
    words += ["--crop", str(args.crop)] if args.crop else []
    words += ["--grey"] if args.grey else []
    words += ["--data-dir", str(args.data_dir)] if args.data_dir else []
    if manifest.is_file():
        return shlex.join([*words, "--manifest", str(manifest)])
    if found:
        triggered = found[0].folder / TRIGGERED
        words += ["--before", str(checkpoint), "--triggered-dir", str(triggered)]
        target = set(found[0].targets.values())
        return shlex.join([*words, "--target", str(target.pop()) if len(target) == 1 else "T"])
    return f"{shlex.join(words)} --attack ATTACK --target T"
