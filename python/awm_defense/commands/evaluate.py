"""`awm evaluate`: how well a network classifies, and how often a known trigger fools it."""

import argparse
from typing import Any

import torch
from torch import Tensor, nn

from awm_defense.attacks import ATTACKS, Attack, make_attack
from awm_defense.attacks.badnets import square_place
from awm_defense.attacks.stored import (
    read_attack,
    read_trigger_field,
    read_trigger_mask,
)
from awm_defense.commands import networks, options, pictures, records
from awm_defense.data import DATASETS
from awm_defense.files import schema
from awm_defense.files.arrays import read_image
from awm_defense.files.backdoorbench import ATTACK, Record, read_record
from awm_defense.files.door import MIB
from awm_defense.files.manifest import NAME, Manifest, check, read_manifest
from awm_defense.inputs.folder import open_triggered
from awm_defense.inputs.images import UNKNOWN
from awm_defense.inputs.take import doubts
from awm_defense.metrics import accuracy, defense_effectiveness, evaluate, evaluate_triggered
from awm_defense.models.named import check_name
from awm_defense.purification import purify

MEANING = {
    "acc": "test images classified right",
    "asr": "triggered images sent to the target (target class left out)",
    "asr_all": "the same, target class included",
    "ra": "triggered images still classified right (target class left out)",
    "target_acc": "test images of the target class classified right",
    "before_acc": "acc before the defense",
    "before_asr": "asr before the defense",
    "der": "rating of the defense: 50 where nothing changed, 100 at best",
}
WAKES = 10.0
"""Points of ASR that fine-tuning brings back from which on a backdoor is said to wake up."""
# What is of no use without --attack.
OF_A_TRIGGER = ("trigger_image", "trigger_mask", "trigger_field", "trigger_mode")
OF_AN_ATTACK = ("target", *OF_A_TRIGGER, "all_to_all")


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `awm evaluate` to the command line."""
    parser = commands.add_parser(
        "evaluate",
        help="measure accuracy and attack success",
        description="What a manifest says (that of `awm train`, beside MODEL or by --manifest) "
        "need not be given; an option that is given counts more. Without an attack, accuracy alone "
        "is measured.",
    )
    networks.add_model_options(parser, "MODEL")
    pictures.add_picture_options(parser, required=False)
    parser.add_argument(
        "--manifest", type=options.path, metavar="FILE", help="of the attacked network"
    )
    parser.add_argument("--attack", choices=sorted(ATTACKS))
    goal = parser.add_mutually_exclusive_group()
    goal.add_argument("--target", type=options.class_number, metavar="T", help="the target class")
    goal.add_argument(
        "--all-to-all", action="store_true", help="each class is sent to the next one"
    )
    parser.add_argument(
        "--trigger-image",
        type=options.path,
        metavar="PNG",
        help="the trigger, for attacks that need one; l0_inv takes a picture of your own",
    )
    parser.add_argument(
        "--trigger-mask",
        type=options.path,
        metavar="NPY",
        help="array (H,W) or (3,H,W) in [0,1], for mode replace",
    )
    parser.add_argument(
        "--trigger-field", type=options.path, metavar="NPY", help="array (H,W,2), the warp of wanet"
    )
    parser.add_argument("--trigger-mode", choices=("add", "replace", "blend"))
    parser.add_argument(
        "--triggered-dir",
        type=options.path,
        metavar="DIR",
        help="instead of --attack: triggered images, in a folder for each class that they show, "
        "named by its number; as BackdoorBench's bd_test_dataset",
    )
    parser.add_argument(
        "--before",
        type=options.path,
        metavar="MODEL",
        help="the same network before the defense: also rate the defense (DER)",
    )
    parser.add_argument(
        "--limit", type=options.positive_int, metavar="N", help="only the first N test images"
    )
    parser.add_argument(
        "--retune",
        type=options.positive_int,
        metavar="N",
        help="also measure it after fine-tuning on N clean training images: a backdoor that only "
        "sleeps wakes up",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    options.add_run_options(parser)
    parser.set_defaults(run=run)


def find_manifest(args: argparse.Namespace) -> Manifest:
    """The manifest; empty when there is none."""
    path = args.manifest or args.checkpoint.parent / NAME
    if args.manifest is None and not path.is_file():
        return Manifest({}, path)
    return read_manifest(path)


def find_record(args: argparse.Namespace, manifest: Manifest) -> Record | None:
    """What BackdoorBench's file says, where nothing else says which network it is."""
    if args.arch or args.model or manifest or not args.checkpoint.is_file():
        return None
    record = read_record(args.checkpoint, limit=args.max_file_size * MIB)
    if record is None:
        return None
    records.fill_in(args, record)
    attack = record.folder / ATTACK
    if args.before is None and args.checkpoint.name != ATTACK and attack.is_file():
        args.before = attack
    return record


def known_architecture(name: str, value: Any) -> None:
    """A check of an entry, as in `schema`: whether `--arch` takes it."""
    try:
        check_name(value)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


NAMES = {"arch": known_architecture, "dataset": schema.text(*DATASETS)}
"""What a manifest may say in the place of these options."""


def fill_in(args: argparse.Namespace, manifest: Manifest) -> None:
    """Take from the manifest which network and data these are, where no option says it."""
    # For errors of what it says of the attack.
    args.manifest = manifest.path if manifest and args.attack is None else None
    for name, other in (("arch", "model"), ("dataset", "images")):
        if getattr(args, name) is None and getattr(args, other) is None:
            if name not in manifest:
                raise ValueError(f"--{name} or --{other}: expected, as no manifest says it")
            check(manifest.path, schema.record({name: NAMES[name]}), manifest)
            setattr(args, name, manifest[name])
            setattr(args, f"{name}_from", manifest.path)
    if args.num_classes is None:
        args.num_classes = manifest.get("num_classes")


def get_attack(args: argparse.Namespace, manifest: Manifest) -> Attack | None:
    """The attack that the options name, or else the manifest, if one does."""
    if args.triggered_dir is not None:
        for name in OF_A_TRIGGER:
            if getattr(args, name) is not None:
                raise ValueError(
                    f"--{name.replace('_', '-')}: expected without --triggered-dir, whose images "
                    "have a trigger"
                )
        return None
    if args.attack is None:
        for name in OF_AN_ATTACK:
            value = getattr(args, name)
            if value is not None and value is not False:  # class 0 is a value
                raise ValueError(f"--attack: expected together with --{name.replace('_', '-')}")
        if "trigger" not in manifest:
            return None
        # An option counts more than what the manifest says of the network.
        about = Manifest({**manifest, "num_classes": args.num_classes}, manifest.path)
        return read_attack(manifest.path.parent, about)
    if args.target is None and not args.all_to_all:
        raise ValueError("--target: expected a class, or --all-to-all")
    if args.target is not None and not 0 <= args.target < args.num_classes:
        raise ValueError(
            f"--target: expected a class from 0 to {args.num_classes - 1}, got {args.target}"
        )
    return make_attack(
        args.attack,
        args.target,
        num_classes=args.num_classes,
        trigger_image=args.trigger_image and read_image(args.trigger_image),
        trigger_mask=args.trigger_mask and read_trigger_mask(args.trigger_mask),
        trigger_field=args.trigger_field and read_trigger_field(args.trigger_field),
        mode=args.trigger_mode,
    )


def get_targets(
    args: argparse.Namespace, record: Record | None, originals: Tensor, known: int
) -> Tensor:
    """The classes that images of these classes are sent to, by the options or else by the file."""
    if int(originals.max()) >= known:
        raise ValueError(
            f"--triggered-dir: {args.triggered_dir} has images of class {int(originals.max())}, "
            f"the network knows {known}"
        )
    if args.all_to_all:
        return (originals + 1) % known
    if args.target is not None:
        if not 0 <= args.target < known:
            raise ValueError(f"--target: expected a class from 0 to {known - 1}, got {args.target}")
        return torch.full_like(originals, args.target)
    targets = record.targets if record is not None else {}
    if not set(originals.tolist()) <= targets.keys():
        raise ValueError(
            "--target: expected a class, or --all-to-all, as no file says where triggered images "
            "are sent"
        )
    return torch.tensor([targets[original] for original in originals.tolist()])


def check_labelled(args: argparse.Namespace, labels: Tensor) -> None:
    """Raise ValueError where images to measure with lack a class."""
    without = int((labels == UNKNOWN).sum())
    if without:
        raise ValueError(
            f"--images: {args.images}: expected the class of each image to measure, got none for "
            f"{without} of {len(labels)}"
        )


def run(args: argparse.Namespace) -> int:
    """Print accuracy, and with an attack what it does, in percent; with --retune, twice."""
    args.checkpoint = records.find_checkpoint(args.checkpoint)
    if args.triggered_dir is not None and args.attack is not None:
        raise ValueError("--triggered-dir: expected without --attack, its images have a trigger")
    manifest = find_manifest(args)
    record = find_record(args, manifest)
    if "plan" in manifest and "acc" not in manifest and not args.checkpoint.exists():
        raise ValueError(
            f"{args.checkpoint}: its training has not ended; the same `awm train` command goes on"
        )
    fill_in(args, manifest)
    if args.retune and args.images:
        raise ValueError("--retune: expected --dataset, whose training images it takes")
    device = options.get_device(args.device)
    mean, std = networks.get_normalisation(args)
    attack = get_attack(args, manifest) if args.num_classes is not None else None
    model = networks.load_network(args, args.checkpoint).to(device)
    given = pictures.open_pictures(args)
    if not given.labelled:
        raise ValueError(
            f"--images: {args.images} has no labels to measure with; expected a folder a class, "
            "a CSV file or an array"
        )
    images, labels = given.test(args.limit)
    check_labelled(args, labels)
    with networks.of_checkpoint(args.checkpoint):
        known = networks.count_classes(args, model, images.shape[1:])
    where = args.dataset or args.images
    given.check_known(args.checkpoint, known)
    if known > given.classes:
        options.say(f"note: the network knows {known} classes, the images are of {given.classes}")
    if args.num_classes is None:
        args.num_classes = known
        attack = get_attack(args, manifest)
    options.say(f"evaluating {args.checkpoint.name} on {len(images)} test images of {where}")
    measuring: dict[str, Any] = {"mean": mean, "std": std, "device": device, "progress": True}
    others = None
    if args.before is not None and args.triggered_dir is None and attack is None and not record:
        raise ValueError("--before: expected together with an attack or --triggered-dir")
    if args.triggered_dir is not None:
        pixels, originals = open_triggered(args.triggered_dir, images.shape[1:], args.limit)
        others = pixels, originals, get_targets(args, record, originals, known)
        options.say(f"and on {len(pixels)} triggered images of {args.triggered_dir}")
    elif attack is None:
        options.say("no attack is named: accuracy alone")
    elif attack.name == "badnets":
        rows, columns = square_place(*images.shape[2:])
        options.say(
            f"trigger: a white square, rows {rows[0]} to {rows[-1]}, columns {columns[0]} to "
            f"{columns[-1]}, from 0"
        )

    earlier = None
    if args.before is not None and (others is not None or attack is not None):
        args.before = records.find_checkpoint(args.before)
        earlier = networks.load_network(args, args.before)
        with networks.of_checkpoint(args.before):
            same = networks.count_classes(args, earlier, images.shape[1:])
        if same != known:
            raise ValueError(
                f"{args.before}: expected a network of {known} classes, as {args.checkpoint} has, "
                f"got one of {same}"
            )

    def measure(network: nn.Module) -> dict[str, float]:
        with options.warnings_said():
            if others is not None:
                return evaluate_triggered(network, images, labels, *others, **measuring)
            if attack is None:
                return {"acc": accuracy(network, images, labels, **measuring)}
            return evaluate(network, images, labels, attack, **measuring)

    few = given.draw(model, n=args.retune, device=device) if args.retune else None
    with networks.of_checkpoint(args.checkpoint):
        found = measure(model)
    for note in doubts(round(found["acc"] / 100 * len(images)), len(images), known):
        options.say(f"note: {note}")
    compared: dict[str, float] = {}
    if earlier is not None:
        with networks.of_checkpoint(args.before):
            before = measure(earlier.to(device))
        compared = {f"before_{name}": before[name] for name in ("acc", "asr")}
        compared["der"] = defense_effectiveness(before, found)
    again: dict[str, float] = {}
    if few is not None:
        options.say(f"fine-tuning on {args.retune} clean images")
        tuned = purify(
            model, few.images, few.labels, recipe="finetune", mean=mean, std=std, progress=True
        ).model
        again = {f"retuned_{name}": value for name, value in measure(tuned).items()}
    if args.json:
        options.print_json(
            {name: round(value, 4) for name, value in (found | compared | again).items()}
        )
        return 0
    for name, value in (found | compared).items():
        print(f"{name:10} {value:6.2f} %   {MEANING.get(name, '')}".rstrip())
    if again:
        print(f"after fine-tuning on {args.retune} clean images:")
        for name in found:
            print(f"{name:10} {again[f'retuned_{name}']:6.2f} %")
    if "asr" in found and again:
        rise = again["retuned_asr"] - found["asr"]
        woke = "wakes up" if rise > WAKES else "does not wake up"
        print(f"the backdoor {woke}: ASR {rise:+.1f} points (up to {WAKES:+.0f} does not count)")
    return 0
