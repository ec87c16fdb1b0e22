"""`python -m tests.soak.kills`: commands that write, killed while they do.

Nothing half written may have its final name, a result with its sign of completeness must be whole
and of one run, and what is resumed must end with the same bits. Exits with 1 where something is not
so. OMP_NUM_THREADS=1 must be set: the work is done in forked processes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from awm_defense import get_recipe, models
from awm_defense.attacks import make_attack
from awm_defense.attacks.stored import write_attack
from awm_defense.commands import demo
from awm_defense.commands.main import main as awm
from awm_defense.data import load_dataset
from awm_defense.files.checkpoint import save_model
from awm_defense.files.manifest import write_manifest
from awm_defense.report.pictures import draw_history
from awm_defense.training import backdoor
from tests.defense.conftest import tiny_network
from tests.soak.faults import Ended, Work, interrupt_twice, kill_soon, run, terminate
from tests.soak.whole import check_whole, digest, report_of

# Also in the processes that `awm reproduce` starts, which read this module anew.
models.MODELS["tiny"] = lambda num_classes: tiny_network(int(torch.randint(1000, ())))
backdoor.EPOCH_IMAGES = 100
QUICK = {"epochs": "2", "inner_epochs": "1", "examine": "false"}
NETWORK = ["--arch", "tiny", "--num-classes", "10", "--dataset", "digits"]
ANSWERS = {"killed": {0, -signal.SIGKILL}, "interrupted": {0, 130}, "terminated": {0, 143}}


def command(*words: object) -> Work:
    """Runs `awm` with those words; returns its exit code."""
    return lambda: awm([str(word) for word in words])


class Trial:
    """Faults at one command, each at another moment; counts what they leave."""

    def __init__(self, folder: Path, generator: random.Random) -> None:
        self.folder, self.generator = folder, generator
        self.left: Counter[str] = Counter()
        self.kills = 0

    def reference(self, work: Work) -> Ended:
        ended = run(work)
        assert ended.code == 0, f"without a fault the exit code is {ended.code}"
        return ended

    def fault(self, work: Work, usual: Ended, number: int) -> Ended:
        """Every other time at a step of the writing, else at any moment, by one of three ways."""
        if number % 2 == 0:
            ended, kind = run(work, last=self.generator.randint(1, usual.points)), "killed"
        else:
            kinds = {"killed": kill_soon, "interrupted": interrupt_twice, "terminated": terminate}
            kind = list(kinds)[number // 2 % 3]
            ended = run(work, kinds[kind](self.generator, usual.seconds))
        # A signal may come before the command has begun, or after it has ended.
        allowed = ANSWERS[kind] | {-signal.SIGINT, -signal.SIGTERM, 1}
        assert ended.code in allowed, f"{kind}: exit code {ended.code}"
        self.kills += ended.code != 0
        self.left[kind] += 1
        return ended


class PurifyTrial(Trial):
    """Two networks purified in turn into one folder."""

    def run(self, count: int) -> None:
        out = self.folder / "out"
        settings = [word for item in QUICK.items() for word in ("--set", "=".join(item))]
        works, usual = {}, {}
        digests = {}
        for seed in range(2):
            path = self.folder / f"{seed}.safetensors"
            save_model(path, tiny_network(seed))
            options = [*NETWORK, "--recipe", "official", *settings, "--precision", "fp32"]
            works[seed] = command("purify", path, *options, "--out", out)
            usual[seed] = self.reference(works[seed])
            report = report_of(out)
            assert report is not None
            digests[path.name] = report["sha256"]["model.safetensors"]
        before = report_of(out)
        for number in range(count):
            seed = number % 2
            ended = self.fault(works[seed], usual[seed], number)
            check_whole(out)
            report = report_of(out)
            if report is None:
                self.left["no report"] += 1
            elif report == before:
                self.left["old result"] += 1
            else:
                assert report["checkpoint"] == f"{seed}.safetensors"
                self.left["new result"] += 1
                if ended.code in (0, -signal.SIGKILL):
                    model = report["sha256"]["model.safetensors"]
                    assert model == digests[report["checkpoint"]]
            before = report
        assert self.reference(works[0]).code == 0
        assert [path.name for path in out.iterdir() if path.name.startswith(".awm")] == []


class DemoTrial(Trial):
    """`awm demo` with a tiny network."""

    def run(self, count: int) -> None:
        demo.ARCH, demo.PLAN = "tiny", replace(demo.PLAN, epochs=1)
        demo.RECIPE = get_recipe("default").with_options(QUICK)
        out = self.folder / "demo"
        work = command("demo", "--out", out)
        usual = self.reference(work)
        for number in range(count):
            self.fault(work, usual, number)
            check_whole(out)
            self.left["no report" if report_of(out) is None else "a whole result"] += 1


class TrainTrial(Trial):
    """`awm train`, gone on with until it ends, again and again."""

    def run(self, count: int) -> None:
        words = ["train", "--arch", "tiny", "--dataset", "digits", "--attack", "badnets"]
        words += ["--target", "8", "--epochs", "2", "--images", "128", "--batch-size", "32"]
        words += ["--precision", "fp32", "--out"]
        expected = self.folder / "expected"
        usual = self.reference(command(*words, expected))
        number = round_ = 0
        while number < count:
            out = self.folder / f"round{round_}"
            round_ += 1
            for _ in range(3):
                self.fault(command(*words, out), usual, number)
                number += 1
                if out.exists():
                    check_whole(out)
                    self.check(out, expected)
            self.reference(command(*words, out))
            assert "acc" in self.check(out, expected)
            self.left["ended with the same bits"] += 1
            assert {path.name for path in out.iterdir()} == {p.name for p in expected.iterdir()}

    def check(self, out: Path, expected: Path) -> dict[str, Any]:
        path = out / "manifest.json"
        if not path.exists():
            return {}
        manifest, wanted = (json.loads(p.read_text()) for p in (path, expected / "manifest.json"))
        for name in ("trigger.png", "trigger_mask.npy"):
            if (expected / name).exists():
                assert digest(out / name) == digest(expected / name)
        if "acc" in manifest:
            assert digest(out / "model.safetensors") == digest(expected / "model.safetensors")
            assert {**manifest, "seconds": 0} == {**wanted, "seconds": 0}
        return manifest


class ReproduceTrial(Trial):
    """`awm reproduce`, in one process or several, gone on with until it ends."""

    workers = 1

    def run(self, count: int) -> None:
        folder = self.folder / "models" / "tiny" / "badnets"
        folder.mkdir(parents=True)
        save_model(folder / "model.safetensors", tiny_network(0))
        attack = write_attack(folder, make_attack("badnets", 8, num_classes=10))
        write_manifest(folder, {"dataset": "digits", "num_classes": 10, **attack})
        words = ["reproduce", "table2", "--arch", "tiny", "--models", self.folder / "models"]
        words += ["--cells", "badnets,none|clp|finetune", "--limit", "20", "--seeds", "2"]
        words += ["--precision", "fp32", "--workers", self.workers, "--out"]
        expected = self.folder / "expected"
        usual = self.reference(command(*words, expected))
        number = round_ = 0
        while number < count:
            out = self.folder / f"round{round_}"
            round_ += 1
            for _ in range(min(3, count - number)):
                self.fault(command(*words, out), usual, number)
                number += 1
                if out.exists():
                    check_whole(out)
                    assert (out / "table2.md").exists() or not (out / "table2.json").exists()
            self.reference(command(*words, out))
            assert self.found(out) == self.found(expected)
            self.left["ended with the same figures"] += 1

    def found(self, out: Path) -> dict[str, Any]:
        cells = {path.name: json.loads(path.read_text()) for path in (out / "cells").iterdir()}
        assert (out / "table2.md").exists() and (out / "table2.json").exists()
        return {name: (cell["metrics"], cell["recipe"]) for name, cell in cells.items()}


class WorkersTrial(ReproduceTrial):
    """The same in two processes; in every third fault one of them dies."""

    workers = 2

    def fault(self, work: Work, usual: Ended, number: int) -> Ended:
        if number % 3 != 2:
            return super().fault(work, usual, number)
        moment = self.generator.uniform(0.3, 1) * usual.seconds

        def kill_worker(process: int) -> None:
            time.sleep(moment)
            path = Path(f"/proc/{process}/task/{process}/children")
            children = path.read_text().split() if path.exists() else []
            for child in children[-1:]:
                os.kill(int(child), signal.SIGKILL)

        ended = run(work, kill_worker)
        assert ended.code in (0, 1), ended
        self.kills += 1
        self.left["a worker killed"] += 1
        return ended


TRIALS: dict[str, Callable[[Path, random.Random], Any]] = {
    "purify": PurifyTrial,
    "train": TrainTrial,
    "reproduce": ReproduceTrial,
    "demo": DemoTrial,
    "workers": WorkersTrial,
}
SHARES = {"purify": 0.4, "train": 0.25, "reproduce": 0.15, "demo": 0.12, "workers": 0.08}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=200, help="faults in all (200)")
    parser.add_argument("--seed", type=int, default=0, help="of their moments (0)")
    parser.add_argument(
        "--only", nargs="+", choices=list(TRIALS), default=list(TRIALS), help="these commands alone"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    load_dataset("digits")
    draw_history([{"epoch": 0.0, "clean_loss": 1.0}])  # imports what all processes need
    kills = 0
    shares = sum(SHARES[name] for name in args.only)
    for name in args.only:
        count = round(args.count * SHARES[name] / shares)
        if count == 0:
            continue
        with tempfile.TemporaryDirectory() as folder:
            trial = TRIALS[name](Path(folder), random.Random(f"{args.seed} {name}"))
            try:
                trial.run(count)
            except AssertionError as error:
                print(f"{name}: broken: {error}; {dict(trial.left)}", file=sys.stderr)
                raise
        kills += trial.kills
        left = ", ".join(f"{number} {what}" for what, number in trial.left.items())
        print(f"{name}: {count} faults, {trial.kills} ended it; {left}", flush=True)
    print(f"{kills} ended in all, nothing half written, nothing mixed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
