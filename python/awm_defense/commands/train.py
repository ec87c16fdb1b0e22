"""`awm train`: make a backdoored network, or its benign twin, from clean data."""

import argparse

from awm_defense.attacks import ATTACKS, make_attack
from awm_defense.attacks.stored import read_trigger_mask
from awm_defense.commands import options
from awm_defense.commands.output import check_inputs
from awm_defense.data import load_dataset
from awm_defense.files.arrays import read_image
from awm_defense.files.text import escape
from awm_defense.models import MODELS
from awm_defense.report.write import REPORT
from awm_defense.training.backdoor import NO_ATTACK, WRITTEN, Order, make_network
from awm_defense.training.loop import Plan
from awm_defense.working.compute import Compute

PRECISIONS = {"fp32": Compute(bf16=False), "bf16": Compute(bf16=True), "auto": None}


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `awm train` to the command line."""
    parser = commands.add_parser(
        "train",
        help="make a backdoored network from clean data",
        description="Train a network on poisoned data. Writes model.safetensors, the trigger and "
        "manifest.json. The same command goes on where a run was ended.",
    )
    parser.add_argument(
        "--attack",
        required=True,
        choices=[*sorted(ATTACKS), NO_ATTACK],
        help="none: a benign network",
    )
    goal = parser.add_mutually_exclusive_group()
    goal.add_argument(
        "--target", type=options.class_number, default=0, metavar="T", help="target class (0)"
    )
    goal.add_argument(
        "--all-to-all", action="store_true", help="send each class to the next one instead"
    )
    parser.add_argument("--arch", required=True, choices=sorted(MODELS), help="the architecture")
    options.add_data_options(parser)
    parser.add_argument(
        "--out", required=True, type=options.path, metavar="DIR", help="folder to write to"
    )
    parser.add_argument(
        "--clean-model",
        type=options.path,
        metavar="CHECKPOINT",
        help="clean network of the same architecture, for attacks that are optimised against one "
        "(default: that of --init, or train one first)",
    )
    parser.add_argument(
        "--init",
        type=options.path,
        metavar="CHECKPOINT",
        help="start from this network of the same architecture, to plant a backdoor by fine-tuning",
    )
    parser.add_argument(
        "--trigger-image",
        type=options.path,
        metavar="PNG",
        help="use this trigger instead of making one (the attacks whose triggers are images)",
    )
    parser.add_argument(
        "--trigger-mask",
        type=options.path,
        metavar="NPY",
        help="array (H,W) or (3,H,W) in [0,1], with it, for l0_inv",
    )
    parser.add_argument(
        "--poison-rate",
        type=options.share,
        metavar="R",
        help="share of all images (the attack's own)",
    )
    parser.add_argument(
        "--images",
        type=options.positive_int,
        metavar="N",
        help="training images to use (default: all)",
    )
    defaults = Plan()
    for name, kind, what in (
        ("epochs", options.positive_int, "passes over the images"),
        ("batch_size", options.positive_int, "images a step"),
        ("lr", options.not_negative, "the highest learning rate, in the middle of the training"),
        ("weight_decay", options.not_negative, "as SGD takes it"),
        ("label_smoothing", options.share, "share of the label that goes to all classes"),
        ("seed", options.seed, "of all that is random"),
    ):
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=kind,
            default=getattr(defaults, name),
            metavar="R" if isinstance(getattr(defaults, name), float) else "N",
            help=f"{what} (default: %(default)s)",
        )
    parser.add_argument(
        "--augment",
        action="store_true",
        help="random shifts and flips, where they suit the data: triggers are learnt less well",
    )
    parser.add_argument(
        "--precision",
        choices=list(PRECISIONS),
        default="auto",
        help="auto measures at the start which is fastest, and records it",
    )
    options.add_run_options(parser)
    parser.add_argument("--json", action="store_true", help="the manifest on standard output")
    parser.set_defaults(run=run)


def check_out(args: argparse.Namespace) -> None:
    """Raise ValueError where --out holds what would be overwritten."""
    if (args.out / REPORT).exists():
        raise ValueError(f"--out: {args.out} holds a purified network that would be overwritten")
    given = (args.init, args.clean_model, args.trigger_image, args.trigger_mask)
    check_inputs((path for path in given if path is not None), args.out, WRITTEN)


def run(args: argparse.Namespace) -> int:
    """Make the network and print its accuracy and attack success rate."""
    device = options.get_device(args.device)
    check_out(args)
    options.check_data_dir(args, f"--dataset {args.dataset}")
    with options.warnings_said():
        data = load_dataset(args.dataset, args.data_dir)
    if not 0 <= args.target < len(data.classes):
        raise ValueError(
            f"--target: expected a class from 0 to {len(data.classes) - 1}, got {args.target}"
        )
    if args.attack == NO_ATTACK and args.poison_rate is not None:
        raise ValueError("--poison-rate: expected with an attack, got --attack none")
    needing = sorted(name for name, attack in ATTACKS.items() if attack.needs_model)
    if args.clean_model is not None and (args.attack not in needing or args.trigger_image):
        raise ValueError(
            f"--clean-model: expected with an attack that is made with one ({', '.join(needing)}) "
            f"and without --trigger-image, got --attack {args.attack}"
        )
    plan = Plan(
        epochs=args.epochs,
        batch_size=args.batch_size,
        lr=args.lr,
        weight_decay=args.weight_decay,
        label_smoothing=args.label_smoothing,
        crop_padding=data.crop_padding if args.augment else 0,
        flip=data.flip and args.augment,
        seed=args.seed,
    )
    order = Order(
        args.arch,
        args.attack,
        None if args.all_to_all else args.target,
        args.poison_rate,
        plan,
        args.init,
        args.images,
    )
    attack = None
    if args.trigger_image is not None:
        attack = make_attack(
            args.attack,
            order.target,
            num_classes=len(data.classes),
            trigger_image=read_image(args.trigger_image),
            trigger_mask=args.trigger_mask and read_trigger_mask(args.trigger_mask),
        )
    elif args.trigger_mask is not None:
        raise ValueError("--trigger-image: expected together with --trigger-mask")
    try:
        manifest = make_network(
            args.out,
            data,
            order,
            attack=attack,
            clean_model=args.clean_model,
            compute=PRECISIONS[args.precision],
            device=device,
            progress=True,
        )
    except KeyboardInterrupt:
        options.say("the same command goes on after the last whole epoch")
        raise
    if args.json:
        options.print_json(manifest)
    else:
        asr = f", ASR {manifest['asr']:.2f} %" if "asr" in manifest else ""
        print(f"ACC {manifest['acc']:.2f} %{asr}: {escape(str(args.out))}")
    return 0
