"""Data sets, who gets which images, and augmentation."""

from __future__ import annotations

import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from awm_defense.data import (
    Dataset,
    draw_defender,
    load_dataset,
    random_resized_crop_flip,
    random_shift_flip,
    stratified_split,
)

LABELS = torch.arange(60) % 4


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Data sets


def test_digits(digits: Dataset) -> None:
    images, labels = digits.train()
    assert images.shape == (901, 3, 32, 32)
    assert images.dtype == torch.float32
    assert [float(images.min()), float(images.max())] == [0, 1]
    assert labels.dtype == torch.int64
    assert len(digits.test()[0]) == 896
    assert digits.test()[1].bincount().tolist() == [89, 91, 88, 91, 90, 91, 90, 89, 87, 90]


def test_digits_are_the_same_each_time_and_no_test_image_is_a_training_image(
    digits: Dataset,
) -> None:
    again = load_dataset("digits")
    assert torch.equal(again.train_images, digits.train_images)
    train = {image.numpy().tobytes() for image in digits.train_images}
    assert not any(image.numpy().tobytes() in train for image in digits.test_images)


NOT_OFFICIAL = pytest.mark.filterwarnings("ignore:.*not the official file")


def write_cifar10(folder: Path, per_file: int = 3) -> np.ndarray:
    """Random images in the official layout; returns those of the first training file."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    first = np.empty((0, 3072), dtype=np.uint8)
    for name in [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]:
        pixels = rng.integers(0, 256, (per_file, 3072), dtype=np.uint8)
        batch = {b"data": pixels, b"labels": [9, 0, 4][:per_file]}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
        first = pixels if name == "data_batch_1" else first
    return first


@NOT_OFFICIAL
def test_cifar10_from_the_official_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = write_cifar10(tmp_path / "cifar-10-batches-py")
    monkeypatch.setenv("AWM_DATA_DIR", str(tmp_path))
    with pytest.warns(UserWarning, match="data_batch_1: not the official file"):
        data = load_dataset("cifar10")
    images, labels = data.train()
    assert images.shape == (15, 3, 32, 32)
    assert labels.tolist() == [9, 0, 4] * 5
    assert len(data.test()[0]) == 3
    assert data.classes[9] == "truck"
    # One row is all of red, then green, then blue.
    assert images[1, 2, 3, 4].item() == pytest.approx(first[1, 2 * 1024 + 3 * 32 + 4] / 255)


def test_cifar10_that_is_missing_says_what_to_get(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWM_DATA_DIR", raising=False)
    with pytest.raises(FileNotFoundError, match=r"AWM_DATA_DIR.*official page"):
        load_dataset("cifar10")
    write_cifar10(tmp_path / "cifar-10-batches-py")
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").unlink()
    with pytest.raises(FileNotFoundError, match=r"cifar-10-batches-py lacks data_batch_3"):
        load_dataset("cifar10", tmp_path)


@NOT_OFFICIAL
@pytest.mark.parametrize("dtype", ["u1", "<i4", ">i8"])
def test_cifar10_in_other_ways_that_numpy_pickles(tmp_path: Path, dtype: str) -> None:
    write_cifar10(tmp_path / "cifar-10-batches-py")
    pixels = np.asfortranarray(np.arange(3 * 3072).reshape(3, 3072).astype(np.uint8))
    batch = {b"data": pixels, b"labels": np.array([9, 0, 4], dtype=dtype)}
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(pickle.dumps(batch, protocol=2))
    data = load_dataset("cifar10", tmp_path)
    assert data.test_labels.tolist() == [9, 0, 4]
    assert np.array_equal(data.test_images.numpy().reshape(3, 3072), pixels)


class Touch:
    """Unpickled without care, this makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


@NOT_OFFICIAL
def test_cifar10_runs_no_code_of_a_file(tmp_path: Path) -> None:
    write_cifar10(tmp_path / "cifar-10-batches-py")
    hostile = pickle.dumps({b"data": Touch(tmp_path / "harm"), b"labels": []})
    (tmp_path / "cifar-10-batches-py" / "data_batch_2").write_bytes(hostile)
    with pytest.raises(ValueError, match=r"data_batch_2.*mkdir"):
        load_dataset("cifar10", tmp_path)
    assert not (tmp_path / "harm").exists()


def write_gtsrb(root: Path) -> None:
    """Three training and two test images of 40x30 pixels: red, with a green sign in each."""
    sign = (5, 3, 25, 21)
    image = Image.new("RGB", (40, 30), (255, 0, 0))
    image.paste((0, 255, 0), sign)
    header = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\n"
    region = ";".join(str(side) for side in sign)
    for label, count in {0: 1, 42: 2}.items():
        folder = root / "GTSRB" / "Final_Training" / "Images" / f"{label:05d}"
        folder.mkdir(parents=True)
        names = [f"00000_{number:05d}.ppm" for number in range(count)]
        for name in names:
            image.save(folder / name)
        lines = [f"{name};40;30;{region};{label}\n" for name in names]
        (folder / f"GT-{label:05d}.csv").write_text(header + "".join(lines))
    folder = root / "GTSRB" / "Final_Test" / "Images"
    folder.mkdir(parents=True)
    for name in ("00000.ppm", "00001.ppm"):
        image.save(folder / name)
    lines = [f"0000{number};40;30;{region};{label}\n" for number, label in enumerate((7, 3))]
    text = header + "".join(lines).replace(";40", ".ppm;40")
    (root / "GTSRB" / "GT-final_test.csv").write_text(text)


def test_gtsrb_crops_the_sign(tmp_path: Path) -> None:
    write_gtsrb(tmp_path)
    with pytest.warns(UserWarning, match="39209 training and 12630 test images, got 3 and 2"):
        data = load_dataset("gtsrb", tmp_path)
    images, labels = data.train()
    assert images.shape == (3, 3, 32, 32)
    assert labels.tolist() == [0, 42, 42]
    assert data.test()[1].tolist() == [7, 3]
    assert len(data.classes) == 43
    # Nothing but the sign is left.
    for part in (images, data.test()[0]):
        assert (part == torch.tensor([0.0, 1, 0])[:, None, None]).all()
    assert not data.flip


def test_gtsrb_labels_of_the_test_part_may_lie_beside_it(tmp_path: Path) -> None:
    write_gtsrb(tmp_path)
    (tmp_path / "GTSRB" / "GT-final_test.csv").rename(tmp_path / "GT-final_test.csv")
    with pytest.warns(UserWarning, match="got 3 and 2"):
        assert load_dataset("gtsrb", tmp_path).test()[1].tolist() == [7, 3]


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("Final_Training/Images/00000/GT-00000.csv", r"lacks .*GT-\*.csv.*benchmark.ini.rub.de"),
        ("GT-final_test.csv", r"lacks GT-final_test.csv.*benchmark.ini.rub.de"),
        ("Final_Test/Images/00001.ppm", r"00001.ppm: no such file.*benchmark.ini.rub.de"),
    ],
)
@pytest.mark.filterwarnings("ignore:gtsrb")
def test_gtsrb_that_is_missing_says_what_to_get(tmp_path: Path, missing: str, message: str) -> None:
    write_gtsrb(tmp_path)
    (tmp_path / "GTSRB" / missing).unlink()
    if missing.endswith("00000.csv"):
        (tmp_path / "GTSRB/Final_Training/Images/00042/GT-00042.csv").unlink()
    with pytest.raises(FileNotFoundError, match=message):
        load_dataset("gtsrb", tmp_path)


def test_gtsrb_without_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWM_DATA_DIR", raising=False)
    with pytest.raises(FileNotFoundError, match="AWM_DATA_DIR"):
        load_dataset("gtsrb")


@pytest.mark.parametrize(
    ("old", "new"), [(";42\n", ";43\n"), ("ClassId", "Class"), (";25;", ";x;")]
)
@pytest.mark.filterwarnings("ignore:gtsrb")
def test_gtsrb_with_wrong_lines(tmp_path: Path, old: str, new: str) -> None:
    write_gtsrb(tmp_path)
    path = tmp_path / "GTSRB/Final_Training/Images/00042/GT-00042.csv"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ValueError, match=r"GT-00042.csv: expected"):
        load_dataset("gtsrb", tmp_path)


@pytest.mark.filterwarnings("ignore:gtsrb")
def test_gtsrb_of_many_large_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_gtsrb(tmp_path)
    monkeypatch.setattr("awm_defense.data.gtsrb.MOST_PIXELS", 3 * 40 * 30)
    load_dataset("gtsrb", tmp_path)
    monkeypatch.setattr("awm_defense.data.gtsrb.MOST_PIXELS", 3 * 40 * 30 - 1)
    with pytest.raises(ValueError, match=r"00042/00000_00001.ppm: expected at most 3599 pixels"):
        load_dataset("gtsrb", tmp_path)


def test_unknown_data_set() -> None:
    with pytest.raises(ValueError, match=r"cifar10, digits, gtsrb, got 'cifar'"):
        load_dataset("cifar")


# Splits


def test_stratified_split_takes_the_same_share_of_each_class() -> None:
    train, test = stratified_split(LABELS, test_share=1 / 3, seed=0)
    assert LABELS[test].bincount().tolist() == [5, 5, 5, 5]
    assert torch.cat((train, test)).sort().values.tolist() == list(range(60))
    assert torch.equal(stratified_split(LABELS, test_share=1 / 3, seed=0)[1], test)
    assert not torch.equal(stratified_split(LABELS, test_share=1 / 3, seed=1)[1], test)


@pytest.mark.parametrize("amount", [{"per_class": 3}, {"n": 12}])
def test_draw_is_by_seed_without_repeats(amount: dict[str, int]) -> None:
    data = torch.arange(60.0)
    images, labels, indices = draw_defender(data, LABELS, **amount, seed=1)
    assert torch.equal(images, data[indices])
    assert torch.equal(labels, LABELS[indices])
    assert len(set(indices.tolist())) == 12
    assert torch.equal(draw_defender(data, LABELS, **amount, seed=1)[2], indices)
    assert not torch.equal(draw_defender(data, LABELS, **amount, seed=2)[2], indices)


def test_draw_per_class_gives_each_class_as_many() -> None:
    _, labels, _ = draw_defender(torch.zeros(60), LABELS, per_class=2)
    assert labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_defender_never_gets_a_test_image(digits: Dataset) -> None:
    test = {image.numpy().tobytes() for image in digits.test()[0]}
    for seed in range(5):
        images, _, _ = draw_defender(*digits.train(), per_class=20, seed=seed)
        assert not any(image.numpy().tobytes() in test for image in images)


def test_data_set_draws_as_float(digits: Dataset) -> None:
    bytes_ = (255 * digits.train_images).round().to(torch.uint8)
    data = replace(digits, train_images=bytes_)
    images, labels = data.draw(per_class=2, seed=3)
    drawn, expected, _ = draw_defender(bytes_, digits.train_labels, per_class=2, seed=3)
    assert torch.equal(images, drawn / 255)
    assert torch.equal(labels, expected)


@pytest.mark.parametrize(
    ("amount", "message"),
    [
        ({}, "per_class=None and n=None"),
        ({"per_class": 1, "n": 1}, "per_class=1 and n=1"),
        ({"per_class": 16}, "1 to 15.* got 16"),
        ({"per_class": 0}, "got 0"),
        ({"n": 61}, "1 to 60 images, got 61"),
    ],
)
def test_draw_of_wrong_amounts(amount: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_defender(torch.zeros(60), LABELS, **amount)


def test_draw_needs_a_label_per_image() -> None:
    with pytest.raises(ValueError, match="expected 59, one per image, got 60"):
        draw_defender(torch.zeros(59), LABELS, n=1)


# Augmentation


def fits_a_crop(image: torch.Tensor, out: torch.Tensor) -> bool:
    """Whether `out` is what F.interpolate makes of any crop of `image`."""
    height, width = image.shape[1:]
    for h in range(1, height + 1):
        for w in range(1, width + 1):
            for top in range(height - h + 1):
                for left in range(width - w + 1):
                    crop = image[None, :, top : top + h, left : left + w]
                    resized = F.interpolate(crop, size=(height, width), mode="bilinear")[0]
                    if torch.allclose(resized, out, atol=1e-5):
                        return True
    return False


def test_each_image_is_a_resized_crop() -> None:
    images = torch.rand(6, 2, 5, 7, generator=generator())
    out = random_resized_crop_flip(images, generator(), scale=(0.2, 0.9), flip=False)
    assert all(fits_a_crop(image, made) for image, made in zip(images, out, strict=True))
    assert not any(torch.allclose(image, made) for image, made in zip(images, out, strict=True))


def test_crops_have_the_areas_and_shapes_asked_for() -> None:
    # Where a pixel's value is its row or column, a crop's first and last value give its size.
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    images = torch.stack((rows, columns)).expand(2000, 2, 32, 32)
    out = random_resized_crop_flip(images, generator(), scale=(0.25, 0.5), flip=False)
    height = out[:, 0, -1, 0] - out[:, 0, 0, 0] + 1
    width = out[:, 1, 0, -1] - out[:, 1, 0, 0] + 1
    area, log_ratio = height * width / 1024, torch.log(width / height)
    # Sides are rounded to whole pixels.
    assert 0.23 < area.min() < 0.26
    assert 0.49 < area.max() < 0.53
    assert area.mean() == pytest.approx(0.375, abs=0.01)
    assert log_ratio.abs().max() < torch.log(torch.tensor(4 / 3)) + 0.07
    assert log_ratio.mean() == pytest.approx(0, abs=0.01)


def test_takes_the_central_crop_when_none_fits() -> None:
    images = torch.rand(2, 1, 4, 40, generator=generator())
    out = random_resized_crop_flip(images, generator(), scale=(1, 1), flip=False)
    crop = images[..., 17:22]
    torch.testing.assert_close(out, F.interpolate(crop, size=(4, 40), mode="bilinear"))


def test_flip_alone_mirrors_about_half_exactly() -> None:
    images = torch.rand(200, 1, 3, 4, generator=generator())
    out = random_resized_crop_flip(images, generator(), scale=None)
    same = (out == images).all((1, 2, 3))
    mirrored = (out == images.flip(3)).all((1, 2, 3))
    assert (same ^ mirrored).all()
    assert 70 < mirrored.sum() < 130


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_augmentation_is_by_generator_and_keeps_the_dtype(dtype: torch.dtype) -> None:
    images = torch.rand(8, 3, 32, 32, generator=generator())
    out = random_resized_crop_flip(images.to(dtype), generator(1))
    assert out.dtype == dtype
    tolerance = 1e-2 if dtype == torch.bfloat16 else 1e-5
    same = random_resized_crop_flip(images, generator(1))
    torch.testing.assert_close(out.float(), same, atol=tolerance, rtol=0)
    assert not torch.allclose(same, random_resized_crop_flip(images, generator(2)))


def test_augmentation_of_nothing() -> None:
    images = torch.rand(2, 3, 8, 8)
    assert random_resized_crop_flip(images, generator(), scale=None, flip=False) is images
    assert random_resized_crop_flip(images[:0], generator()).shape == (0, 3, 8, 8)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.gpu
def test_augmentation_is_the_same_on_a_gpu() -> None:
    images = torch.rand(8, 3, 32, 32)
    out = random_resized_crop_flip(images.cuda(), generator())
    torch.testing.assert_close(out.cpu(), random_resized_crop_flip(images, generator()))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_shifts_cover_all_distances_and_fill_with_black(dtype: torch.dtype) -> None:
    image = torch.arange(1, 31).view(1, 1, 5, 6).to(dtype)
    out = random_shift_flip(image.expand(500, 1, 5, 6), generator(), padding=1, flip=False)
    assert out.dtype == dtype
    padded = F.pad(image, [1] * 4)
    crops = [padded[0, :, top : top + 5, left : left + 6] for top in range(3) for left in range(3)]
    counts = [int((out == crop).flatten(1).all(1).sum()) for crop in crops]
    assert sum(counts) == 500
    assert min(counts) > 30


def test_shift_is_by_generator_and_flips_half() -> None:
    images = torch.rand(200, 1, 3, 4, generator=generator())
    out = random_shift_flip(images, generator(1), padding=2, flip=True)
    assert torch.equal(random_shift_flip(images, generator(1), padding=2, flip=True), out)
    assert not torch.equal(random_shift_flip(images, generator(2), padding=2, flip=True), out)
    flipped = random_shift_flip(images, generator(), padding=0, flip=True)
    mirrored = (flipped == images.flip(3)).all((1, 2, 3))
    assert ((flipped == images).all((1, 2, 3)) ^ mirrored).all()
    assert 70 < mirrored.sum() < 130
    assert random_shift_flip(images, generator(), padding=0, flip=False) is images


def test_augmentation_with_wrong_arguments() -> None:
    images = torch.rand(2, 3, 8, 8)
    with pytest.raises(ValueError, match=r"images: .* torch.uint8 of shape \(2, 3, 8, 8\)"):
        random_resized_crop_flip(images.byte(), generator())
    with pytest.raises(ValueError, match=r"scale: .* got \(0.5, 1.5\)"):
        random_resized_crop_flip(images, generator(), scale=(0.5, 1.5))
    with pytest.raises(ValueError, match=r"ratio: .* got \(2, 1\)"):
        random_resized_crop_flip(images, generator(), ratio=(2, 1))
