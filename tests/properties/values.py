"""Inputs of any kind, and what may come of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

FLOATS = (torch.float32, torch.bfloat16, torch.float64, torch.float16)

numbers = st.one_of(
    st.sampled_from([0, 1, -1, 2, 0.0, -0.0, 0.5, 1.0, -0.5, 1e-30, 1e30, math.inf, -math.inf]),
    st.sampled_from([math.nan, True, False, 2**31, 2**63, -(2**63), 2**64, 10**400, -(10**400)]),
    st.floats(),
    st.integers(),
)
# Of a kind that is wrong almost everywhere.
strange = st.sampled_from(
    [
        None,
        "",
        "0",
        "NaN",
        "x" * 50,
        b"1",
        [],
        [1],
        [0.5, "a"],
        (),
        (1, 2),
        {},
        1j,
        object(),
        Tensor,
    ]
)
seeds = st.integers(0, 2**32)


@dataclass(frozen=True)
class Made:
    """How to make a tensor: anew at each call, for an op may change what it gets."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    values: str
    layout: str
    seed: int

    def __call__(self) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        made = torch.randn(self.shape, generator=generator, dtype=torch.float64)
        if self.values == "special":
            odd = torch.tensor([math.nan, math.inf, -math.inf, -0.0], dtype=made.dtype)
            which = torch.randint(len(odd), self.shape, generator=generator)
            made = torch.where(torch.rand(self.shape, generator=generator) < 0.3, odd[which], made)
        elif self.values == "positive":
            made = made.abs()
        else:
            made *= {"usual": 1.0, "zero": 0.0, "large": 1e10, "tiny": 1e-40}[self.values]
        made = made.to(self.dtype)
        if self.layout == "sparse":
            return made.to_sparse()
        if self.layout == "meta":
            return made.to("meta")
        if self.layout == "channels_last" and made.dim() == 4:
            return made.contiguous(memory_format=torch.channels_last)
        if self.layout == "transposed" and made.dim() > 1:
            return made.transpose(0, -1).contiguous().transpose(0, -1)
        if self.layout == "strided" and made.dim() > 0:
            wide = made.new_zeros(*made.shape[:-1], made.shape[-1], 2)
            wide[..., 0] = made
            return wide[..., 0]
        return made


kinds = st.sampled_from(["usual", "usual", "zero", "large", "tiny", "special"])


def tensors(
    shape: tuple[int, ...],
    dtypes: st.SearchStrategy[torch.dtype] | None = None,
    values: st.SearchStrategy[str] = kinds,
) -> st.SearchStrategy[Made]:
    """Dense tensors of a shape, with strides and values of all kinds."""
    return st.builds(
        Made,
        st.just(shape),
        st.sampled_from(FLOATS) if dtypes is None else dtypes,
        values,
        st.sampled_from(["plain", "channels_last", "transposed", "strided"]),
        seeds,
    )


sizes = st.integers(0, 5)
wrong_tensors = st.builds(
    Made,
    st.lists(sizes, max_size=5).map(tuple),
    st.sampled_from([*FLOATS, torch.int64, torch.bool, torch.uint8, torch.complex64]),
    st.just("usual"),
    st.sampled_from(["plain", "strided", "sparse", "meta"]),
    seeds,
)
anything = st.one_of(numbers, strange, wrong_tensors)


def made(value: Any) -> Any:
    """A tensor of its own, where it is one or how to make one; anything else as it is."""
    if isinstance(value, Tensor):
        return value.clone()
    return value() if isinstance(value, Made) else value


def refusal(call: Callable[[], Any], names: set[str]) -> tuple[Any, str]:
    """What a call returns and ""; or None, and what it says is wrong.

    That is one line, which starts with the name of an argument.
    """
    try:
        return call(), ""
    except (TypeError, ValueError, RuntimeError) as error:
        line = str(error)
        assert "\n" not in line, line
        named = line.partition(":")[0].partition(" ")[0].strip(",")
        assert named in names, f"{type(error).__name__}: {line}"
        return None, line
