"""Images and labels of many kinds, each of which gives what a tensor gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from awm_defense import examine, get_recipe, purify, purify_many
from awm_defense.inputs.images import UNKNOWN, read_images
from awm_defense.inputs.take import PREDICTED, UNNORMALISED, doubts, take
from awm_defense.metrics import accuracy
from awm_defense.pixel_model import PixelModel

BYTES = torch.randint(0, 256, (6, 3, 8, 10), generator=torch.Generator().manual_seed(0)).byte()
FLOATS = BYTES.float() / 255
LABELS = torch.tensor([0, 1, 2, 3, 0, 1])
LAST = BYTES.permute(0, 2, 3, 1).contiguous()
PICTURES = [Image.fromarray(image.numpy()) for image in LAST]
ROWS = [(image, int(label)) for image, label in zip(FLOATS, LABELS, strict=True)]


class Named(Dataset[dict[str, Any]]):
    """Rows as those of Hugging Face."""

    def __init__(self, image: str, label: str) -> None:
        self.names = image, label

    def __len__(self) -> int:
        return len(PICTURES)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image, label = self.names
        return {image: PICTURES[index], label: int(LABELS[index])}


class Stream(IterableDataset[tuple[Tensor, int]]):
    """Without a length."""

    def __iter__(self) -> Any:
        return iter(ROWS)


@pytest.mark.parametrize(
    "images",
    [
        FLOATS,
        FLOATS.numpy(),
        BYTES,
        BYTES.numpy(),
        LAST,
        LAST.numpy(),
        LAST.numpy()[..., ::-1].copy()[..., ::-1],
        FLOATS.numpy().astype(">f4"),
        FLOATS.permute(0, 2, 3, 1),
        PICTURES,
        tuple(LAST.numpy()),
        list(FLOATS),
        [picture.convert("RGBA") for picture in PICTURES],
        torch.cat([LAST, LAST[..., :1]], dim=3),
    ],
)
def test_images_of_every_kind(images: Any) -> None:
    given = read_images(images, LABELS)
    assert given.images.dtype == torch.float32
    torch.testing.assert_close(given.images, FLOATS, rtol=0, atol=1e-7)
    assert torch.equal(given.labels, LABELS)


@pytest.mark.parametrize(
    "collection",
    [
        ROWS,
        TensorDataset(FLOATS, LABELS),
        DataLoader(TensorDataset(FLOATS, LABELS), batch_size=4),
        DataLoader(TensorDataset(BYTES, LABELS), batch_size=4),
        Named("image", "label"),
        Named("img", "labels"),
        Named("img", "fine_label"),
        [{"pixel_values": image, "label": label} for image, label in ROWS],
        Stream(),
        iter(ROWS),
    ],
)
def test_collections_bring_their_labels(collection: Any) -> None:
    given = read_images(collection)
    torch.testing.assert_close(given.images, FLOATS, rtol=0, atol=1e-7)
    assert torch.equal(given.labels, LABELS) and not given.unlabelled


def test_what_could_be_something_else_is_left_as_it_is() -> None:
    for shape in ((2, 3, 8, 3), (2, 1, 9, 3), (2, 16, 3, 3), (2, 2, 8, 3)):
        assert read_images(torch.zeros(shape)).images.shape == shape


def test_grey_images() -> None:
    given = read_images(BYTES[:, 0].numpy(), LABELS)
    assert torch.equal(given.images, FLOATS[:, :1])
    grey = [picture.convert("L") for picture in PICTURES]
    assert read_images(grey).images.shape == (6, 1, 8, 10)


def test_of_a_large_data_set_images_spread_over_it_are_taken() -> None:
    data = TensorDataset(torch.zeros(50, 3, 2, 2), torch.arange(50))
    assert read_images(data, most=5).labels.tolist() == [0, 12, 24, 36, 49]
    assert read_images(DataLoader(data, batch_size=4), most=5).labels.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "labels",
    [
        LABELS.int(),
        LABELS.float(),
        LABELS.tolist(),
        LABELS.numpy(),
        LABELS.numpy()[::-1].copy()[::-1],
        *(LABELS.numpy().astype(kind) for kind in ("u1", "u2", "u4", "u8", ">u2", "f8")),
        tuple(np.int32(label) for label in LABELS),
    ],
)
def test_labels_of_every_kind(labels: Any) -> None:
    found = read_images(FLOATS, labels).labels
    assert torch.equal(found, LABELS) and found.dtype == torch.int64


@pytest.mark.parametrize("labels", [None, [None] * 6, torch.full((6,), -1)])
def test_no_labels(labels: Any) -> None:
    given = read_images(FLOATS, labels)
    assert given.unlabelled and (given.labels == UNKNOWN).all()


@pytest.mark.parametrize(
    ("images", "labels", "error", "message"),
    [
        (FLOATS[0], None, ValueError, r"images: expected shape \(n ≥ 1, c, h, w\)"),
        ([], None, ValueError, "images: expected at least one"),
        (TensorDataset(FLOATS[:0]), None, ValueError, "images: expected at least one"),
        ("photos", None, TypeError, "images: expected a tensor.*got str"),
        ({"image": FLOATS}, None, TypeError, "images: expected a tensor.*got dict"),
        (7, None, TypeError, "images: expected a tensor.*got int"),
        (["a.jpg"], None, TypeError, "images: expected tensors, arrays or PIL images, got str"),
        ([{"x": 1}], None, ValueError, "images: expected rows with one of image.*got x"),
        (BYTES.long(), None, TypeError, "images: expected floating point .*got torch.int64"),
        (np.array(["a"]), None, TypeError, "images: expected numbers"),
        (
            [PICTURES[0], PICTURES[1].resize((5, 5))],
            None,
            ValueError,
            r"images: expected all of one size, got \(3, 8, 10\) and \(3, 5, 5\); resize them",
        ),
        (FLOATS, [0, 1], ValueError, r"labels: expected shape \(6,\), got \(2,\)"),
        (FLOATS, nn.functional.one_hot(LABELS), ValueError, r"labels: expected shape \(6,\)"),
        (FLOATS, ["cat"] * 6, TypeError, "labels: expected whole numbers"),
        (FLOATS, LABELS + 0.5, TypeError, "labels: expected whole numbers"),
        (FLOATS, LABELS > 0, TypeError, "labels: expected whole numbers, got torch.bool"),
        (FLOATS, LABELS.to("meta"), TypeError, "labels: expected a tensor that holds numbers"),
        (FLOATS, LABELS.to_sparse(), TypeError, "labels: expected a dense tensor"),
        (FLOATS, np.full(6, 2**64 - 1, np.uint64), ValueError, "labels: .* 2⁶³ or more"),
        (FLOATS.to("meta"), LABELS, TypeError, "images: expected a tensor that holds numbers"),
        (FLOATS.to_sparse(), LABELS, TypeError, "images: expected a dense tensor"),
        (FLOATS.to(torch.float8_e5m2), LABELS, TypeError, "got torch.float8_e5m2"),
        (FLOATS, LABELS - 2, ValueError, "labels: expected classes from 0, or −1"),
    ],
)
def test_wrong_arguments_are_named(
    images: Any, labels: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        read_images(images, labels)


class Brightest(nn.Module):
    """Names the channel that is brightest, in eval mode alone."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        with torch.no_grad():
            self.conv.weight.zero_()
            self.conv.bias.zero_()
            self.conv.weight[:3, :, 0, 0] = torch.eye(3)

    def forward(self, images: Tensor) -> Tensor:
        # Twice: of these images the plain means would pass for probabilities.
        logits: Tensor = 2 * self.conv(images).mean((2, 3))
        return -logits if self.training else logits


COLOURS = torch.eye(3)[[0, 1, 2, 0]].view(4, 3, 1, 1).expand(4, 3, 8, 8).contiguous()
SHOWN = torch.tensor([0, 1, 2, 0])


def test_the_network_says_what_images_without_labels_show() -> None:
    model = Brightest().train()
    taken = take(PixelModel(model, COLOURS).copy(COLOURS), read_images(COLOURS))
    assert torch.equal(taken.labels, SHOWN) and taken.notes == [PREDICTED, UNNORMALISED]
    assert model.training
    some = take(PixelModel(model, COLOURS).copy(COLOURS), read_images(COLOURS, [-1, 1, -1, 0]))
    assert torch.equal(some.labels, SHOWN) and some.notes == []


def test_a_network_that_takes_images_for_something_else_is_told_of() -> None:
    wrong = take(PixelModel(Brightest(), COLOURS).copy(COLOURS), read_images(COLOURS, [1, 2, 0, 0]))
    (note,) = wrong.notes
    assert "classifies 1 of the 4 given images right, guessing among 4 classes 1." in note
    assert "mean and std" in note
    assert doubts(2, 4, 4) == [] and doubts(1, 4, 4) and doubts(2, 4, 2)


def test_bytes_as_floats_are_told_to_be_divided() -> None:
    with pytest.raises(ValueError, match=r"images: .*divide by 255.*got 0 to 255"):
        purify(Brightest(), COLOURS * 255, SHOWN)
    with pytest.raises(ValueError, match="give mean and std"):
        purify(Brightest(), COLOURS * 2 - 1, SHOWN)


def test_purify_examine_and_accuracy_take_the_same() -> None:
    pictures = (COLOURS * 255).byte().permute(0, 2, 3, 1).numpy()
    recipe = get_recipe("official").with_options({"epochs": 1, "tau": 5})
    result = purify(Brightest(), pictures, recipe=recipe, precision="fp32")
    assert result.notes[0] == PREDICTED
    plain = purify(Brightest(), COLOURS, SHOWN, recipe=recipe, precision="fp32")
    assert torch.equal(result.model.conv.weight, plain.model.conv.weight)
    models = [Brightest(), Brightest()]
    several = purify_many(models, pictures, recipe=recipe, precision="fp32")
    assert [one.notes[0] for one in several] == [PREDICTED] * 2
    with pytest.warns(UserWarning, match="no labels were given"):
        unlabelled = examine(Brightest(), pictures)
    assert str(unlabelled) == str(examine(Brightest(), COLOURS, SHOWN))
    data = TensorDataset(COLOURS, SHOWN)
    assert accuracy(Brightest().eval(), data) == 100
    with pytest.raises(ValueError, match="labels: expected the true class"):
        accuracy(Brightest().eval(), COLOURS)
