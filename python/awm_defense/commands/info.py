"""`awm info`: what this installation can do."""

import argparse

import awm_kernels
from awm_defense.commands import options
from awm_defense.registry import ATTACKS, BASELINES, DATASETS, MODELS, RECIPES


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `awm info` to the command line."""
    parser = commands.add_parser("info", help="list attacks, models, data sets, recipes, backends")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.set_defaults(run=run)


def collect() -> dict[str, object]:
    """What there is, by kind; for each backend whether it works, why not, and how to get it."""
    return {
        "version": awm_kernels.__version__,
        "attacks": sorted(ATTACKS),
        "models": sorted(MODELS),
        "datasets": sorted(DATASETS),
        "rivals": list(BASELINES),
        "recipes": list(RECIPES),
        "ops": list(awm_kernels.OPS),
        "backends": {name: status._asdict() for name, status in awm_kernels.backends().items()},
    }


def run(args: argparse.Namespace) -> int:
    """Print what there is."""
    found = collect()
    if args.json:
        options.print_json(found)
        return 0
    for name, value in found.items():
        if isinstance(value, list):
            print(f"{name:9} {', '.join(value)}")
        elif isinstance(value, str):
            print(f"{name:9} {value}")
    print("backends")
    for name, status in awm_kernels.backends().items():
        print(f"  {name:9} {'works' if status.available else 'missing: ' + status.why}")
        if not status.available:
            print(f"  {'':9} to get it: {status.how}")
    return 0
