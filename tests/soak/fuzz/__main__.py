"""`python -m tests.soak.fuzz`: look for files that a reader does not refuse as it should.

Everything is read in one process, also what the door gives to processes of their own, as that is a
hundred times as fast. What this finds is read again through the real door: a pickle that takes too
long, for instance, is ended there, and is no finding. Exits with 1 where one is left; the input is
kept, and `--replay` reads it again.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.soak.fuzz.reading import LONGEST, check, ignore_checksums, prepare, seeds

ROOT = Path(__file__).resolve().parents[3]
# Kinds of inputs that libFuzzer keeps; it also keeps slow ones that are no findings.
KINDS = ("crash-", "timeout-", "oom-", "leak-")
# Seconds for an input, whatever else the machine does: then it is judged at the door.
SLOW, HANGS = 30, 120


def replay(path: Path) -> None:
    """Read an input through the real door; raises what it should not."""
    ignore_checksums()
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name))
        check(path.read_bytes(), Path(name))


def harmless(path: Path) -> bool:
    """Whether the real door refuses an input as it should, in a process of its own."""
    command = [sys.executable, "-m", "tests.soak.fuzz", "--replay", str(path)]
    try:
        return subprocess.run(command, cwd=ROOT, timeout=HANGS).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def fuzz(seconds: float, seed: int, corpus: Path, kept: Path) -> bool:
    """Try inputs for so long, or until one is a finding; returns whether there was none."""
    deadline = time.monotonic() + seconds
    tried = judged = 0
    while (left := int(deadline - time.monotonic())) > 0:
        options = {
            "max_total_time": left,
            "seed": seed,
            "max_len": LONGEST,
            "timeout": SLOW,
            "rss_limit_mb": 4096,
            "report_slow_units": 1000,
            "print_final_stats": 1,
            "artifact_prefix": f"{kept}/",
        }
        command = [sys.executable, "-m", "tests.soak.fuzz.worker", str(corpus)]
        command += [f"-{name}={value}" for name, value in options.items()]
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                command,
                cwd=ROOT,
                env=os.environ | {"AWM_FUZZ_FOLDER": folder},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        output = done.stdout.decode("utf-8", "backslashreplace")
        counted = re.search(r"number_of_executed_units: (\d+)", output)
        tried += int(counted[1]) if counted else 0
        found = [path for path in kept.iterdir() if path.name.startswith(KINDS)]
        if done.returncode != 0 and not found and done.returncode != -signal.SIGALRM:
            sys.exit(f"the process that fuzzes ended with {done.returncode}:\n{output[-4000:]}")
        for path in found:
            if not harmless(path):
                print(f"found {path} with:\n{output[-4000:]}", file=sys.stderr)
                return False
            judged += 1
            # It may be one of those that the next process would begin with.
            (corpus / hashlib.sha1(path.read_bytes()).hexdigest()).unlink(missing_ok=True)
            path.unlink()
        seed += 1
    print(f"{tried} inputs tried, {judged} of them also through the door; nothing found")
    return tried > 0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=30, help="how long (30)")
    parser.add_argument("--seed", type=int, default=1, help="of the chance (1)")
    parser.add_argument("--kept", type=Path, default=Path("build/fuzz"), help="for findings")
    parser.add_argument("--replay", type=Path, help="read this input, and nothing else")
    args = parser.parse_args()
    if args.replay is not None:
        replay(args.replay)
        return 0
    if importlib.util.find_spec("atheris") is None:
        sys.exit("fuzzing needs atheris, for Python 3.11 to 3.13 on Linux: pip install atheris")
    args.kept.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryDirectory() as folder:
        for content in seeds(Path(folder)):
            (Path(name) / hashlib.sha1(content).hexdigest()).write_bytes(content)
        return 0 if fuzz(args.seconds, args.seed, Path(name), args.kept.resolve()) else 1


if __name__ == "__main__":
    sys.exit(main())
