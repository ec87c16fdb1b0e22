"""Checkpoints: weights that no network should get, mutated files, and all the other kinds."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from tests.hostile import archives, code_in_pickles, greedy, headers, tensors
from tests.hostile import pickling as p
from tests.hostile.case import Case, case, network, written


def weight_cases() -> Iterator[Case]:
    """Weights that can be read, and that no network should get."""

    def state(change: dict[str, Tensor]) -> dict[str, Tensor]:
        return {**network().state_dict(), **change}

    def first(number: float) -> Tensor:
        value = network().state_dict()["0.weight"].clone()
        value[0, 0, 0, 0] = number
        return value

    shape = (4, 3, 3, 3)
    changes: dict[str, tuple[dict[str, Tensor], str]] = {
        "NaN": ({"0.weight": first(float("nan"))}, "NaN or infinite values: 0.weight"),
        "inf": ({"0.weight": first(float("inf"))}, "NaN or infinite values: 0.weight"),
        "negative variance": ({"1.running_var": -torch.ones(4)}, "negative: 1.running_var"),
        "variances of 16 bits": ({"1.running_var": torch.ones(4, dtype=torch.uint16)}, "uint16"),
        "negative variances of 8 bits": (
            {"1.running_var": torch.full((4,), -1.0).to(torch.float8_e4m3fn)},
            "negative: 1.running_var",
        ),
        "NaN variance": ({"1.running_var": torch.ones(4) * float("nan")}, "values: 1.running_var"),
        "infinite mean": ({"1.running_mean": torch.ones(4) / 0}, "values: 1.running_mean"),
        "whole numbers": ({"0.weight": torch.ones(shape, dtype=torch.int64)}, "got int64"),
        "bytes": ({"0.weight": torch.ones(shape, dtype=torch.uint8)}, "got uint8"),
        "truths": ({"0.weight": torch.ones(shape, dtype=torch.bool)}, "got bool"),
        "complex numbers": ({"0.weight": torch.ones(shape, dtype=torch.complex64)}, "complex64"),
        "a true counter": ({"1.num_batches_tracked": torch.tensor(True)}, "got bool"),
        "three classes": (
            {"3.weight": torch.ones(3, 4), "3.bias": torch.ones(3)},
            r"expected \(10, 4\), got \(3, 4\)",
        ),
        "a tensor more": ({"extra\x1b[2J": torch.ones(1)}, r"unknown: extra\\x1b\[2J"),
        "a shape of petabytes": (
            {"3.weight": torch.ones(1).expand(1 << 40, 4)},
            "is more than the whole file holds",
        ),
    }
    for name, (change, says) in changes.items():

        def as_zip(path: Path, change: dict[str, Tensor] = change) -> None:
            torch.save(state(change), path)

        yield case(f"{name}, zip", "network", as_zip, says)
        if "petabytes" not in name:
            content = save(state(change))
            yield case(f"{name}, safetensors", "network", written(content), says)


def good_files() -> dict[str, bytes]:
    """A network in each format, the same bytes each time."""
    tensors = network().state_dict()
    places, storages = {}, {}
    for key, (name, value) in enumerate(tensors.items()):
        dtype = "LongStorage" if value.dtype == torch.int64 else "FloatStorage"
        where = p.storage(str(key), dtype, value.numel())
        shape, stride = tuple(value.shape), value.stride()
        places[name] = (p.value(name), p.tensor(where, shape=shape, stride=stride))
        storages[str(key)] = value.numpy().tobytes()
    body = p.entries(places.values())
    lengths = [value.numel().to_bytes(8, "little") for value in tensors.values()]
    numbers = b"".join(map(bytes.__add__, lengths, storages.values()))
    return {
        "zip": p.archive(p.program(body), storages),
        "legacy": p.legacy(body, tuple(storages), numbers),
        "safetensors": save(tensors),
    }


def mutated_cases(each: int = 30) -> Iterator[Case]:
    """Good files with some bytes changed; a change may also do no harm."""
    for kind, good in good_files().items():
        for seed in range(each):
            make = written(mutate(good, seed))
            yield case(f"mutated {kind} {seed}", "network", make, None)


def mutate(content: bytes, seed: int) -> bytes:
    """The bytes with some changed, most of them near the start, or with some left out."""
    rng = random.Random(seed)
    changed = bytearray(content)
    for _ in range(rng.choice((1, 2, 8, 32))):
        span = len(changed) if rng.random() < 0.4 else min(len(changed), 200)
        changed[rng.randrange(span)] = rng.choice((0, 1, 127, 255, rng.randrange(256)))
    if rng.random() < 0.2:
        del changed[rng.randrange(len(changed)) :]
    return bytes(changed)


def cases() -> list[Case]:
    """All of them."""
    groups = (
        code_in_pickles.code_cases,
        greedy.greedy_cases,
        tensors.tensor_cases,
        archives.archive_cases,
        headers.safetensors_cases,
        weight_cases,
        mutated_cases,
    )
    return [case for group in groups for case in group()]
