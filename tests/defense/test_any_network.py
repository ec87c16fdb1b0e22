"""Networks of every family that people download: masked, purified, examined, and given back."""

import copy

import pytest
import torch
from torch import Tensor

from awm_defense import examine, get_recipe, purify
from awm_defense.awm.engine import make_engine
from awm_defense.networks.back import with_masks
from awm_defense.networks.logits import Reading
from awm_defense.networks.masked import share
from awm_defense.pixel_model import PixelModel
from tests.defense.zoo import CLASSES, ZOO, images, make

QUICK = get_recipe("default").with_options(
    {"examine": False, "epochs": 1, "batch_size": 6, "layers": "all"}
)


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_a_family_is_purified(name: str) -> None:
    model, (x, y) = make(name), images()
    before = copy.deepcopy(model.state_dict())
    result = purify(model, x, y, recipe=QUICK, precision="fp32")
    assert equal(model.state_dict(), before), "the given model was changed"
    assert type(result.model) is type(model) and result.model.training
    make(name).load_state_dict(result.model.state_dict())
    assert all(((mask >= 0) & (mask <= 1)).all() for mask in result.masks.values())
    assert all((mask < 1).any() for mask in result.masks.values())
    assert share(result.coverage) >= 0.9
    assert not any("masks lie on" in note for note in result.notes)


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_masks_act_in_the_working_network_as_in_the_result(name: str) -> None:
    # A layer that tracing has inlined would read its own weight still.
    model, (x, y) = make(name).eval(), images()
    work = PixelModel(model, x).copy(x)
    network = make_engine(work, *work.take(x, y), QUICK, precision="fp32").network
    generator = torch.Generator().manual_seed(1)
    network.flat.restore(torch.rand(len(network.flat.mask), generator=generator))
    with torch.no_grad():
        found = network.logits(x)
        expected = Reading()(with_masks(model, network.flat.masks())(x))
        unmasked = Reading()(model(x))
    scale = expected.abs().max().clamp(min=1)
    assert (found - expected).abs().max() <= 1e-4 * scale
    assert (found - unmasked).abs().max() > 1e-3 * unmasked.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_a_family_is_examined(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for steps in ("search.CONDENSING", "search.STEPS"):
        monkeypatch.setattr(f"awm_defense.examination.{steps}", 2)
    model, (x, y) = make(name), images()
    before = copy.deepcopy(model.state_dict())
    verdict = examine(model, x, y)
    assert equal(model.state_dict(), before)
    assert len(verdict.margins) == CLASSES
