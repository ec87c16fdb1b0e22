"""Any value in any field of a recipe, a rival or a training plan: it works, or it is named."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from awm_defense.purification import purify
from awm_defense.settings import Settings
from awm_defense.training.loop import Plan, train
from tests.properties.networks import DEFENSES, images, network
from tests.properties.values import anything, made, numbers, refusal

# Counts of steps, and sizes: more of them would only take longer.
LONG = 8
texts = st.one_of(
    st.text(),
    numbers.map(lambda value: str(value) if abs(value) < 1e30 or value != value else "9" * 300_000),
    st.sampled_from(
        ["none", "true", "False", "1e400", "-1", "0", "1_000", "٣", " 2 ", "adam", "all"]
    ),
)


def _changed(settings: Any, data: st.DataObject) -> tuple[Any, str]:
    """The settings with one field of any value, and what is wrong with it."""
    names = [field.name for field in dataclasses.fields(settings)]
    name = data.draw(st.sampled_from(names))
    value = made(data.draw(anything))
    return refusal(lambda: dataclasses.replace(settings, **{name: value}), set(names))


def _affordable(settings: Any) -> bool:
    counts = (v for v in vars(settings).values() if isinstance(v, int))
    return all(count <= LONG for count in counts)


@pytest.mark.parametrize("name", DEFENSES)
@given(data=st.data())
def test_a_defense_runs_with_any_settings_it_takes(name: str, data: st.DataObject) -> None:
    settings, refused = _changed(DEFENSES[name], data)
    if refused or not _affordable(settings):
        return
    fields = {"recipe", *(field.name for field in dataclasses.fields(settings))}
    result, _ = refusal(lambda: purify(network(), *images(), recipe=settings), fields)
    if result is not None:
        finite = [v for p in result.model.state_dict().values() for v in [p.isfinite().all()]]
        assert all(finite)


@pytest.mark.parametrize("name", DEFENSES)
@given(key=st.text(), data=st.data())
def test_options_are_read_from_any_text(name: str, key: str, data: st.DataObject) -> None:
    settings = DEFENSES[name]
    names = [field.name for field in dataclasses.fields(settings) if field.name != "name"]
    key = data.draw(st.one_of(st.sampled_from(names), st.just(key)))
    text = data.draw(texts)
    found, refused = refusal(lambda: settings.with_options({key: text}), {*names, "recipe"})
    assert isinstance(found, Settings) or refused


@given(data=st.data())
def test_a_network_is_trained_by_any_plan_that_there_is(data: st.DataObject) -> None:
    plan, refused = _changed(Plan(epochs=1, batch_size=4), data)
    if refused or not _affordable(dataclasses.replace(plan, seed=0)):
        return
    names = {field.name for field in dataclasses.fields(plan)}
    trained, _ = refusal(lambda: train(network(), *images(), plan), names)
    if trained is not None:
        assert all(torch.isfinite(value).all() for value in trained.parameters())
