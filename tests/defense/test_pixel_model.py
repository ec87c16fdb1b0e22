"""A model with its normalisation, device and dtype: pixels in, logits out."""

import pytest
import torch
from torch import nn

from awm_defense import get_recipe, purify
from awm_defense.pixel_model import PixelModel

IMAGES = torch.rand(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))


def linear(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(75, 2)).to(dtype).train()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pixels_are_normalised_in_the_models_dtype(dtype: torch.dtype) -> None:
    model, mean, std = linear(dtype), [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
    found = PixelModel(model, IMAGES, mean=mean, std=std)(IMAGES)
    stats = (torch.tensor(values, dtype=dtype).view(1, 3, 1, 1) for values in (mean, std))
    mean_of, std_of = stats
    torch.testing.assert_close(found, model((IMAGES.to(dtype) - mean_of) / std_of))


def test_one_number_stands_for_all_channels() -> None:
    model = linear()
    one = PixelModel(model, IMAGES, mean=0.5, std=0.25)(IMAGES)
    assert torch.equal(one, PixelModel(model, IMAGES, mean=[0.5] * 3, std=[0.25] * 3)(IMAGES))


def test_a_copy_is_frozen_in_eval_mode_and_the_model_stays() -> None:
    model = linear()
    pixel_model = PixelModel(model, IMAGES)
    copied = pixel_model.copy(IMAGES)
    assert not copied.model.training and not any(p.requires_grad for p in copied.model.parameters())
    assert pixel_model.model is model and model.training
    assert all(p.requires_grad for p in model.parameters())
    assert torch.equal(copied(IMAGES), pixel_model(IMAGES))


@pytest.mark.parametrize("device", ["cuda:99", "gpu0"])
def test_a_missing_device_is_named(device: str) -> None:
    with pytest.raises(ValueError, match=f"device: can't use '{device}'"):
        purify(linear(), IMAGES, torch.tensor([0, 1, 0, 1]), device=device)


def test_settings_take_values_as_well_as_text() -> None:
    by_text = get_recipe("official").with_options({"tau": "200", "flip": "false", "beta": "none"})
    assert by_text == get_recipe("official").with_options({"tau": 200, "flip": False, "beta": None})
    assert by_text.tau == 200 and by_text.flip is False
