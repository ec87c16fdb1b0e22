"""`awm demo`: plant a backdoor, erase it, and show both, on data that is always there."""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from awm_defense.attacks import make_attack
from awm_defense.awm.recipe import Recipe
from awm_defense.commands import options
from awm_defense.commands.output import WEIGHTS, check_report_folder, say_where
from awm_defense.commands.purify import check_begun, weights
from awm_defense.data import load_dataset
from awm_defense.files.checkpoint import as_safetensors
from awm_defense.files.folder import output_folder
from awm_defense.files.text import escape
from awm_defense.files.uninterrupted import uninterrupted
from awm_defense.metrics import evaluate
from awm_defense.models import build_model
from awm_defense.purification import purify
from awm_defense.report.write import PAGE, WRITTEN, write_report
from awm_defense.training.loop import Plan, train

BACKDOORED = "backdoored.safetensors"
ARCH = "small_vgg"
DATASET = "digits"
TARGET = 8
POISON_RATE = 0.1
PLAN = Plan(epochs=20, batch_size=32, lr=0.05, weight_decay=5e-4)
RECIPE: str | Recipe = "default"


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `awm demo` to the command line."""
    parser = commands.add_parser("demo", help="plant a backdoor and erase it, no download needed")
    parser.add_argument(
        "--out",
        type=options.path,
        default=Path("awm-demo"),
        metavar="DIR",
        help="report folder (awm-demo)",
    )
    parser.add_argument("--seed", type=options.seed, default=0, metavar="S")
    options.add_run_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train a backdoored network on the digits, purify it from one image a class, report."""
    device = options.get_device(args.device)
    check_report_folder(args.out, (BACKDOORED, *WEIGHTS, *WRITTEN))
    with output_folder(args.out):
        return _run(args, device)


def _run(args: argparse.Namespace, device: torch.device) -> int:
    data = load_dataset(DATASET)
    train_images, train_labels = data.train()
    test_images, test_labels = data.test()
    attack = make_attack("badnets", TARGET)

    torch.manual_seed(args.seed)  # for the initial weights; what follows has seeds of its own
    options.say(
        f"1/3 training a backdoored {ARCH} on {len(train_images)} {DATASET} (target {TARGET})"
    )
    generator = torch.Generator().manual_seed(args.seed)
    poisoned_images, poisoned_labels, _ = attack.poison(
        train_images, train_labels, POISON_RATE, generator
    )
    model = train(
        build_model(ARCH, len(data.classes)),
        poisoned_images,
        poisoned_labels,
        replace(PLAN, seed=args.seed),
        device=device,
        progress=True,
    )
    before = evaluate(model, test_images, test_labels, attack, device=device)

    images, labels = data.draw(per_class=1, seed=args.seed)
    options.say(f"2/3 purifying it with {len(images)} clean images, one a class")
    result = purify(
        model, images, labels, recipe=RECIPE, seed=args.seed, device=device, progress=True
    )
    check_begun(result)
    told = len(result.notes)
    if result.verdict is not None:
        options.say(f"verdict: {result.verdict}")
    after = evaluate(result.model, test_images, test_labels, attack, device=device)

    options.say("3/3 writing the report")
    # A picture that the trigger changes the answer of: not one of the target class.
    clean = test_images[test_labels != TARGET][0]
    with uninterrupted():  # a second Ctrl-C must not lose what the first one left
        written = write_report(
            args.out,
            result=result,
            title=f"Demo: a {attack.name} backdoor in a {ARCH} on {DATASET}",
            before=before,
            after=after,
            extra={
                "arch": ARCH,
                "dataset": DATASET,
                "attack": attack.name,
                "target": TARGET,
                **options.run_facts(args, device, len(images)),
            },
            triggered_image=attack.apply(clean[None])[0],
            clean_image=clean,
            weights={BACKDOORED: as_safetensors(model), **weights(result)},
        )
    for note in result.notes[told:]:
        options.say(f"note: {note}")
    say_where(args.out, written)
    print(f"{'':8}{'accuracy (ACC)':>16}{'attack success (ASR)':>22}")
    for name, found in (("before", before), ("after", after)):
        print(f"{name:8}{found['acc']:>14.1f} %{found['asr']:>20.1f} %")
    done = "interrupted after" if result.interrupted else "purified in"
    print(f"{done} {result.seconds:.1f} s; report: {escape(str(written / PAGE))}")
    if result.interrupted:
        raise KeyboardInterrupt
    return 0
