"""Any argument of the defense's functions: a result, or a refusal that names the argument."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from awm_defense import synthesis
from awm_defense.attacks import ATTACKS, make_attack
from awm_defense.data import draw_defender, stratified_split
from awm_defense.examination.examine import examine
from awm_defense.metrics import accuracy, evaluate
from awm_defense.purification import purify
from awm_defense.registry import get_settings
from awm_defense.synthesis import synthesize
from tests.properties.networks import CLASSES, DEFENSES, SIZE, images, network
from tests.properties.values import anything, made, numbers, refusal, tensors

pictures, labels = images()
names = st.one_of(
    st.text(), st.sampled_from([*DEFENSES, *ATTACKS, "fp32", "cpu", "cuda", "cpu:7", "meta"])
)
stats = st.one_of(
    st.lists(numbers, max_size=4), st.floats(0.1, 1), tensors((3,)), tensors((1, 3)), tensors(())
)
shapes = st.one_of(st.just((CLASSES, *SIZE)), st.lists(st.integers(0, 7), max_size=5).map(tuple))
whole = st.integers(-2, 7)


@st.composite
def _image_tensors(draw: st.DrawFn) -> Any:
    return draw(tensors(draw(shapes)))


@st.composite
def _label_tensors(draw: st.DrawFn) -> torch.Tensor:
    values = draw(st.lists(st.integers(-1, CLASSES), min_size=0, max_size=CLASSES + 1))
    return torch.tensor(values, dtype=draw(st.sampled_from([torch.int64, torch.int32])))


class _Odd(nn.Module):
    """A network with a fault."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.inside, self.fault = network(), fault

    def __repr__(self) -> str:
        return self.fault

    def forward(self, x: torch.Tensor) -> Any:
        logits = self.inside(x)
        return {
            "tuple": lambda: (logits, logits),
            "none": lambda: None,
            "three dimensions": lambda: logits[:, None],
            "nan": lambda: logits * torch.nan,
            "one class": lambda: logits[:, :1],
            "no class": lambda: logits[:, :0],
            "integers": lambda: logits.argmax(1),
            "one image": lambda: logits[:1],
        }[self.fault]()


def _half() -> nn.Module:
    return network().half()


models = st.one_of(
    st.sampled_from(
        [
            "tuple",
            "none",
            "three dimensions",
            "nan",
            "one class",
            "no class",
            "integers",
            "one image",
        ]
    ).map(_Odd),
    st.sampled_from([nn.Identity(), nn.Flatten(), nn.ReLU(), nn.Conv2d(3, 5, 1), nn.Linear(6, 5)]),
    st.just(network().half()),
    st.just(network().double()),
)
PIXELS: dict[str, st.SearchStrategy[Any]] = {
    "model": models,
    "images": _image_tensors(),
    "labels": _label_tensors(),
    "mean": stats,
    "std": stats,
    "device": names,
}
CALLS: dict[str, tuple[Callable[..., Any], dict[str, Any], dict[str, st.SearchStrategy[Any]]]] = {
    "purify": (
        purify,
        {"images": pictures, "labels": labels, "recipe": DEFENSES["default"]},
        PIXELS | {"recipe": names, "precision": names, "seed": numbers},
    ),
    "purify by a rival": (
        purify,
        {"images": pictures, "labels": labels, "recipe": DEFENSES["finetune"]},
        PIXELS | {"precision": names, "seed": numbers},
    ),
    "examine": (examine, {"images": pictures, "labels": labels}, PIXELS | {"seed": numbers}),
    "synthesize": (
        synthesize,
        {"size": SIZE, "classes": CLASSES, "per_class": 1},
        {k: PIXELS[k] for k in ("model", "mean", "std", "device")}
        | {"size": shapes, "classes": whole, "per_class": whole, "seed": numbers},
    ),
    "evaluate": (
        evaluate,
        {"images": pictures, "labels": labels, "attack": make_attack("badnets", 1)},
        PIXELS | {"batch_size": numbers},
    ),
    "accuracy": (
        accuracy,
        {"images": pictures, "labels": labels},
        PIXELS | {"batch_size": numbers},
    ),
    "draw_defender": (
        draw_defender,
        {"images": pictures, "labels": labels, "per_class": 1},
        {"images": _image_tensors(), "labels": _label_tensors(), "seed": numbers}
        | {"per_class": numbers, "n": numbers},
    ),
    "stratified_split": (
        stratified_split,
        {"labels": labels, "test_share": 0.5, "seed": 0},
        {"labels": _label_tensors(), "test_share": numbers, "seed": numbers},
    ),
    "make_attack": (
        make_attack,
        {"name": "trojan_sq", "target": 1, "trigger_image": torch.ones(3, 4, 4)},
        {"name": names, "target": numbers, "num_classes": numbers, "mode": names}
        | {"trigger_image": tensors((3, 4, 4)), "opacity": numbers}
        | {"trigger_mask": tensors((3, 4, 4)), "trigger_field": tensors((4, 4, 2))},
    ),
    "get_settings": (get_settings, {"name": "default"}, {"name": names}),
}


@pytest.mark.parametrize("name", CALLS)
@given(data=st.data())
def test_an_argument_is_taken_or_named(
    name: str, data: st.DataObject, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, arguments, kinds = CALLS[name]
    monkeypatch.setattr(synthesis, "STEPS", 1)
    given = dict(arguments)
    if "model" in kinds:
        given |= {"model": network(), "mean": 0.5, "std": 0.5}
    for key in data.draw(st.lists(st.sampled_from(sorted(kinds)), min_size=1, max_size=2)):
        given[key] = made(data.draw(st.one_of(kinds[key], anything)))
    # Names come first, and what they are called in.
    refusal(lambda: call(**given), {*given, *kinds, "recipe"})
