"""SHA-256 of what the library computes, to see that a change of the code changes no result.

    python tests/fingerprints.py record FILE    # before the change
    python tests/fingerprints.py check FILE     # after it: says what differs, exit code 1 if any

Float32 on one thread. Bits depend on the processor and on torch, so a record holds on its machine
alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import awm_kernels
from awm_defense import BASELINES, RECIPES, examine, get_settings, purify, synthesize
from awm_defense.attacks import make_attack
from awm_defense.commands.demo import PLAN, POISON_RATE, RECIPE
from awm_defense.data import load_dataset
from awm_defense.models import build_model
from awm_defense.training.loop import train

SEEDS = (0, 1)
TARGET = 8
# Fewer steps than the authors', of which each does the same.
SHORTER = {"anp": {"steps": "40"}, "anp-swm": {"steps": "40"}}
DTYPES = (torch.float32, torch.bfloat16, torch.float64)


def digest(values: Any) -> str:
    """Of tensors (dtype, shape and bits), numbers, text, and lists and dicts of these."""
    found = hashlib.sha256()
    _update(found, values)
    return found.hexdigest()


def _update(found: Any, values: Any) -> None:
    if isinstance(values, Tensor):
        flat = values.detach().cpu().contiguous()
        found.update(f"{flat.dtype}{tuple(flat.shape)}".encode())
        found.update(flat.reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(values, Mapping):
        for key in sorted(values):
            found.update(str(key).encode())
            _update(found, values[key])
    elif isinstance(values, list | tuple):
        for value in values:
            _update(found, value)
    else:
        found.update(repr(values).encode())


def ops() -> Iterator[tuple[str, Any]]:
    """Each op's results and gradients, by backend and dtype."""
    for backend in ("reference", "cpu"):
        for dtype in DTYPES:
            for name, run in OPS.items():
                generator = torch.Generator().manual_seed(0)

                def draw(
                    *shape: int,
                    wide: bool = False,
                    dtype: torch.dtype = dtype,
                    generator: torch.Generator = generator,
                ) -> Tensor:
                    drawn = torch.randn(*shape, generator=generator, dtype=torch.float64)
                    return drawn.to(torch.promote_types(dtype, torch.float32) if wide else dtype)

                yield f"op {name} {backend} {str(dtype)[6:]}", run(draw, backend)


Draw = Callable[..., Tensor]


def _conv(draw: Draw, backend: str) -> list[Tensor]:
    x, theta = draw(3, 4, 9, 7), draw(6, 2, 3, 3)
    mask, scale, bias = draw(6, 2, 3, 3).sigmoid(), draw(6), draw(6)
    leaves = [t.requires_grad_() for t in (x, theta, mask, scale, bias)]
    y = awm_kernels.masked_conv2d(x, theta, mask, bias, 2, 1, 1, 2, scale=scale, backend=backend)
    return [y, *torch.autograd.grad(y.square().sum(), leaves)]


def _linear(draw: Draw, backend: str) -> list[Tensor]:
    x, theta, mask, bias = draw(5, 7), draw(6, 7), draw(6, 7).sigmoid(), draw(6)
    leaves = [t.requires_grad_() for t in (x, theta, mask, bias)]
    y = awm_kernels.masked_linear(x, theta, mask, bias, backend=backend)
    return [y, *torch.autograd.grad(y.square().sum(), leaves)]


def _weight(draw: Draw, backend: str) -> list[Tensor]:
    theta, mask, scale = draw(6, 5, 3), draw(6, 5, 3).sigmoid(), draw(6)
    leaves = [t.requires_grad_() for t in (theta, mask, scale)]
    w = awm_kernels.masked_weight(theta, mask, scale, backend=backend)
    rows = torch.tensor([0, 30, 50, 90])
    flat = awm_kernels.masked_weight(
        theta.detach().view(-1), mask.detach().view(-1), scale.detach()[:3], row_ptr=rows,
        backend=backend,
    )  # fmt: skip
    return [w, flat, *torch.autograd.grad(w.square().sum(), leaves)]


def _mask_step(draw: Draw, backend: str) -> list[Tensor]:
    made = []
    for moments in (0, 1, 2):
        mask, grad, theta = draw(1001).sigmoid(), draw(1001), draw(1001)
        first = torch.zeros_like(draw(1001, wide=True)) if moments else None
        second = torch.zeros_like(draw(1001, wide=True)) if moments == 2 else None
        out, step = torch.zeros_like(theta), torch.zeros((), dtype=torch.int64)
        for _ in range(3):
            stats = awm_kernels.mask_step_(
                mask, grad, theta, step, lr=0.1, exp_avg=first, exp_avg_sq=second, l1=1e-3,
                proximal=moments == 1, grad_clip=2.0, grad_norm_clip=20.0, weight_out=out,
                backend=backend,
            )  # fmt: skip
        made += [t for t in (mask, first, second, out, stats, step) if t is not None]
    return made


def _ball(name: str) -> Callable[[Draw, str], list[Tensor]]:
    def run(draw: Draw, backend: str) -> list[Tensor]:
        op = getattr(awm_kernels, name)
        rows = op(draw(3, 700), 20.0, batched=True, backend=backend)
        return [rows, op(draw(3, 32, 32), 100.0, backend=backend)]

    return run


def _perturb(draw: Draw, backend: str) -> list[Tensor]:
    x = draw(4, 3, 8, 8).sigmoid().to(memory_format=torch.channels_last).requires_grad_()
    delta = draw(3, 8, 8).requires_grad_()
    y = awm_kernels.perturb(x, delta, backend=backend)
    return [y, *torch.autograd.grad(y.square().sum(), (x, delta))]


def _trigger_step(draw: Draw, backend: str) -> list[Tensor]:
    made = []
    for project in (False, True):
        made.append(
            awm_kernels.trigger_step_(
                draw(3, 16, 16),
                draw(3, 16, 16),
                lr=0.5,
                radius=9.0,
                project=project,
                backend=backend,
            )
        )
    return [*made, awm_kernels.trigger_step_(draw(3, 8), draw(3, 8), lr=1.5, backend=backend)]


def _pooled_elu(draw: Draw, backend: str) -> list[Tensor]:
    made = []
    for window, alpha in ((2, 1.0), (1, 1.0), (2, 0.0)):
        x = draw(3, 20, 9, 8).to(memory_format=torch.channels_last).requires_grad_()
        y = awm_kernels.pooled_elu(x, window, alpha=alpha, backend=backend)
        made += [y, *torch.autograd.grad(y.square().sum(), x)]
    return made


OPS: dict[str, Callable[[Draw, str], list[Tensor]]] = {
    "masked_conv": _conv,
    "masked_linear": _linear,
    "masked_weight": _weight,
    "mask_step_": _mask_step,
    "l1_rescale_": _ball("l1_rescale_"),
    "l1_project_": _ball("l1_project_"),
    "perturb": _perturb,
    "trigger_step_": _trigger_step,
    "pooled_elu": _pooled_elu,
}


def defenses() -> Iterator[tuple[str, Any]]:
    """Masks of each recipe and rival on a backdoored network for digits, and verdicts."""
    data = load_dataset("digits")
    images, labels = data.train()
    attack = make_attack("badnets", TARGET)
    generator = torch.Generator().manual_seed(0)
    poisoned, wanted, _ = attack.poison(images, labels, POISON_RATE, generator)
    torch.manual_seed(0)
    model = train(build_model("small_vgg", len(data.classes)), poisoned, wanted, PLAN)
    yield "network", model.state_dict()
    for seed in SEEDS:
        few = data.draw(per_class=1, seed=seed)
        verdict = examine(model, *few, seed=seed)
        yield f"verdict {seed}", [verdict.facts(), verdict.trigger]
        for name in (*RECIPES, *BASELINES):
            settings = get_settings(name).for_images(flip=False)
            settings = settings.with_options(SHORTER.get(name, {}))
            yield f"{name} {seed}", _purified(model, few, settings, seed)
        yield f"demo {seed}", _purified(model, few, RECIPE, seed)
    many = data.draw(n=60, seed=0)
    for name in ("paper", "official"):
        settings = get_settings(name).with_options({"epochs": "2"})
        yield f"{name} many", _purified(model, many, settings, 0)
    made = synthesize(model, (3, 32, 32), classes=10, per_class=1, flip=False)
    yield "synthesize", made


def _purified(model: nn.Module, few: tuple[Tensor, Tensor], settings: Any, seed: int) -> Any:
    result = purify(model, *few, recipe=settings, precision="fp32", seed=seed)
    return [result.masks, result.model.state_dict(), result.history]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("do", choices=("record", "check"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--only", default="", help="those whose name starts with this")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = {}
    for part in (ops, defenses):
        if part is defenses and args.only.startswith("op"):
            continue
        for name, values in part():
            found[name] = digest(values)
            print(f"{found[name][:16]}  {name}", flush=True)
    if args.do == "record":
        args.file.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        return 0
    expected = json.loads(args.file.read_text(encoding="utf-8"))
    names = [n for n in expected if n.startswith(args.only)]
    wrong = [name for name in names if found.get(name) != expected[name]]
    print(f"{len(names) - len(wrong)} of {len(names)} as recorded")
    for name in wrong:
        print(f"differs: {name}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
