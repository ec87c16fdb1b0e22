"""Images at a path: folders of each layout, arrays, and what is done to a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from awm_defense.files.arrays import read_arrays
from awm_defense.inputs.folder import Arrays, draw, open_source
from awm_defense.inputs.images import UNKNOWN
from awm_defense.inputs.preparation import Preparation
from awm_defense.inputs.walk import inside
from tests.hostile.case import forget_memory, highest_memory

AS_THEY_ARE = Preparation()


def paint(path: Path, colour: tuple[int, int, int] = (0, 0, 0), size: Any = (8, 6)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def names(source: Any) -> list[str]:
    found: list[str] = source.names(torch.arange(len(source.labels)))
    return found


def everything(source: Any) -> torch.Tensor:
    found: torch.Tensor = source.read(torch.arange(len(source.labels)))
    return found


@pytest.mark.parametrize(
    ("folders", "labels"),
    [
        (("cat", "dog", "bird"), {"bird": 0, "cat": 1, "dog": 2}),
        (("0", "10", "2"), {"0": 0, "2": 2, "10": 10}),
        (("00", "1", "3"), {"00": 0, "1": 1, "3": 3}),
    ],
)
def test_a_folder_a_class(tmp_path: Path, folders: tuple[str, ...], labels: dict[str, int]) -> None:
    for number, folder in enumerate(folders):
        paint(tmp_path / folder / "one.png", (10 * number, 0, 0))
        paint(tmp_path / folder / "deeper" / "two.JPEG", (10 * number, 0, 0))
        (tmp_path / folder / "readme.txt").write_text("no image")
        (tmp_path / folder / "._one.png").write_text("what macOS leaves")
    source = open_source(tmp_path, AS_THEY_ARE)
    found = {name: int(label) for name, label in zip(names(source), source.labels, strict=True)}
    expected = {f"{folder}/one.png": number for folder, number in labels.items()}
    expected |= {f"{folder}/deeper/two.JPEG": number for folder, number in labels.items()}
    assert found == expected
    images = everything(source)
    assert images.shape == (6, 3, 6, 8) and images.dtype == torch.float32
    for name, image in zip(names(source), images, strict=True):
        folder = name.partition("/")[0]
        assert image[0].mean() * 255 == pytest.approx(10 * folders.index(folder), abs=2)


def test_folders_without_images_change_no_number(tmp_path: Path) -> None:
    for number in range(12):
        paint(tmp_path / str(number) / "one.png")
        paint(tmp_path / str(number) / ".cache" / "one.png")  # hidden, as notebooks leave them
    (tmp_path / "__MACOSX" / "0").mkdir(parents=True)
    (tmp_path / "__MACOSX" / "0" / "._one.png").write_text("what macOS leaves")
    (tmp_path / ".git").mkdir()
    paint(tmp_path / ".git" / "one.png")
    source = open_source(tmp_path, AS_THEY_ARE)
    assert sorted(source.labels.tolist()) == list(range(12))
    found = zip(names(source), source.labels, strict=True)
    assert all(name == f"{int(label)}/one.png" for name, label in found)
    assert source.notes == ["folders without images are left out: __MACOSX"]


def test_a_folder_without_images_beside_images(tmp_path: Path) -> None:
    paint(tmp_path / "one.png")
    (tmp_path / "__MACOSX").mkdir()
    source = open_source(tmp_path, AS_THEY_ARE)
    assert names(source) == ["one.png"] and source.labels.tolist() == [UNKNOWN]
    paint(tmp_path / "cat" / "two.png")
    source = open_source(tmp_path, AS_THEY_ARE)
    assert names(source) == ["cat/two.png"]
    assert "1 images beside the folders are left out" in source.notes


@pytest.mark.parametrize(
    ("folders", "note"),
    [
        (("dog", "cat"), "classes are numbered in the order of their names: 0 cat, 1 dog"),
        (("1", "2", "10"), "classes have the numbers that they are called by, 3 from 1 to 10"),
    ],
)
def test_how_classes_are_numbered_is_said(
    tmp_path: Path, folders: tuple[str, ...], note: str
) -> None:
    for folder in folders:
        paint(tmp_path / folder / "one.png")
    assert open_source(tmp_path, AS_THEY_ARE).notes == [note]
    table = tmp_path / "table"
    table.mkdir()
    for folder in folders:
        paint(table / f"{folder}.png")
    lines = "".join(f"{folder}.png,{folder}\n" for folder in folders)
    (table / "labels.csv").write_text(lines)
    assert open_source(table, AS_THEY_ARE).notes == [note]


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("1", "01"), "expected a class a folder, got 01 and 1, which are one number"),
        (("0", "1", "cat"), "all numbers or all words, got 0 and cat"),
        (("0.5", "1"), r"expected classes from 0 to 99999, .* got 0\.5"),
        (("-2", "1"), "expected classes from 0 to 99999, .* got -2"),
        (("9" * 200, "1"), "expected classes from 0 to 99999, .* got 9999"),
    ],
)
def test_folders_of_no_clear_numbers_are_refused(
    tmp_path: Path, folders: tuple[str, ...], message: str
) -> None:
    for folder in folders:
        paint(tmp_path / "set" / folder / "one.png")
    with pytest.raises(ValueError, match=rf"set: .*{message}"):
        open_source(tmp_path / "set", AS_THEY_ARE)


def test_a_flat_folder_has_no_labels(tmp_path: Path) -> None:
    paint(tmp_path / "b.png")
    paint(tmp_path / "a.bmp")
    source = open_source(tmp_path, AS_THEY_ARE)
    assert names(source) == ["a.bmp", "b.png"]
    assert source.labels.tolist() == [UNKNOWN, UNKNOWN]


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("file,label\na.png,7\nsub/b.png,3\n", [7, 3]),
        ("\ufeffFile, Label\na.png,dog\nsub/b.png, cat\n", [1, 0]),
        ("a.png,1\n\nsub/b.png,0", [1, 0]),
        ("file_name,label\na.png,2\nsub/b.png,5\n", [2, 5]),
        ("a.png,10.0\nsub/b.png,2.0\n", [10, 2]),
        ("a.png,+10\nsub/b.png,+2\n", [10, 2]),
        ("a.png,10\nsub/b.png,\n", [10, UNKNOWN]),
        ("a.png,-1\nsub/b.png,2\n", [UNKNOWN, 2]),
        ("a.png,dog\nsub/b.png,\n", [0, UNKNOWN]),
        ("a.png,-1\nsub/b.png,\n", [UNKNOWN, UNKNOWN]),
    ],
)
def test_a_flat_folder_with_a_table(tmp_path: Path, text: str, labels: list[int]) -> None:
    paint(tmp_path / "a.png")
    paint(tmp_path / "sub" / "b.png")
    paint(tmp_path / "not-listed.png")
    (tmp_path / "labels.csv").write_text(text, encoding="utf-8")
    source = open_source(tmp_path, AS_THEY_ARE)
    assert names(source) == ["a.png", "sub/b.png"]
    assert source.labels.tolist() == labels
    assert everything(source).shape == (2, 3, 6, 8)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays(tmp_path: Path, save: Any) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 9, 9, 3), dtype=np.uint8)
    save(tmp_path / "all.npz", images=pixels, labels=np.arange(5, dtype=">i4")[:, None])
    source = open_source(tmp_path / "all.npz", AS_THEY_ARE)
    assert source.labels.tolist() == [0, 1, 2, 3, 4]
    expected = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    assert torch.equal(everything(source), expected)
    np.save(tmp_path / "grey.npy", pixels[..., 0])
    grey = open_source(tmp_path / "grey.npy", AS_THEY_ARE)
    assert torch.equal(everything(grey), expected[:, :1])
    assert (grey.labels == UNKNOWN).all()


@pytest.mark.parametrize("kind", ["u2", "u4", "u8", ">u4"])
def test_labels_in_a_file_without_a_sign(tmp_path: Path, kind: str) -> None:
    pixels = np.zeros((3, 3, 4, 4), np.uint8)
    np.savez(tmp_path / "all.npz", images=pixels, labels=np.arange(3).astype(kind))
    assert open_source(tmp_path / "all.npz", AS_THEY_ARE).labels.tolist() == [0, 1, 2]


def test_arrays_of_bytes_are_kept_as_such(tmp_path: Path) -> None:
    """As floating point they take four times the memory, and few are drawn."""
    np.savez(tmp_path / "all.npz", images=np.zeros((3, 4, 4, 3), np.uint8), labels=np.arange(3))
    source = open_source(tmp_path / "all.npz", AS_THEY_ARE)
    assert isinstance(source, Arrays) and source.images.dtype == torch.uint8
    assert source.read(torch.tensor([1])).dtype == torch.float32


def test_arrays_keep_their_type(tmp_path: Path) -> None:
    given = {"a": np.arange(3, dtype=np.uint8), "b": np.ones((2, 2), dtype=">f8", order="F")}
    np.savez(tmp_path / "two.npz", **given)
    found = read_arrays(tmp_path / "two.npz")
    assert {name: array.dtype for name, array in found.items()} == {
        "a": torch.uint8,
        "b": torch.float64,
    }
    assert found["b"].tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((2, 3, 4, 4)), "y": np.zeros((2, 3, 4, 4))}, "one array of images"),
        ({"y": np.zeros(3)}, r"one array of images .*got y \(3,\)"),
        ({"x": np.zeros((2, 3, 4, 4)), "y": np.zeros(3)}, r"labels: expected shape \(2,\)"),
        ({"x": np.zeros((2, 3, 4, 4), dtype=np.int64)}, "expected floating point"),
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, arrays: Any, message: str) -> None:
    np.savez(tmp_path / "all.npz", **arrays)
    with pytest.raises(ValueError, match=rf"all\.npz: .*{message}"):
        open_source(tmp_path / "all.npz", AS_THEY_ARE)


def test_other_paths_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere: no such file or folder"):
        open_source(tmp_path / "nowhere", AS_THEY_ARE)
    (tmp_path / "photo.jpg").write_text("")
    with pytest.raises(ValueError, match=r"photo\.jpg: expected a folder of images"):
        open_source(tmp_path / "photo.jpg", AS_THEY_ARE)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty: expected a folder of images .* got 0 images"):
        open_source(tmp_path / "empty", AS_THEY_ARE)


@pytest.mark.parametrize(
    ("files", "asked"),
    [
        (("dataset_info.json", "state.json", "data-00000-of-00001.arrow"), ""),
        (("dataset_dict.json", "train/state.json", "train/data-00000-of-00001.arrow"), ""),
        (("README.md", "data/train-00000-of-00001.parquet"), ""),
        (("train.parquet",), "train.parquet"),
    ],
    ids=["saved", "saved splits", "hub", "file"],
)
def test_data_sets_of_hugging_face_are_refused_with_a_way_out(
    tmp_path: Path, files: tuple[str, ...], asked: str
) -> None:
    for file in files:
        path = tmp_path / "set" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    with pytest.raises(ValueError, match=r"set.*: a data set .* a folder a class$"):
        open_source(tmp_path / "set" / asked, AS_THEY_ARE)
    # What else lies beside images is of no concern.
    paint(tmp_path / "set" / "0" / "a.png")
    assert names(open_source(tmp_path / "set", AS_THEY_ARE)) == ["0/a.png"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.png", "expected lines of file,label"),
        ("a.png,1,2", "expected lines of file,label"),
        ("../a.png,1", "files below the folder"),
        ("/etc/passwd,1", "files below the folder"),
        (",1", "expected lines of file,label"),
        ("file,label\n", "got 0 images"),
        (
            "a.png,1\nb.png,cat\n",
            r"labels\.csv: expected .* all numbers or all words, got 1 and cat",
        ),
        ("a.png,0.5\n", r"labels\.csv: expected classes from 0 to 99999, or -1 for none, got 0\.5"),
        ("a.png,100000\n", r"labels\.csv: expected classes from 0 to 99999"),
        ("image,class\na.png,cat\n", r"labels\.csv: expected lines of .* got image,class first"),
    ],
)
def test_other_tables_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "labels.csv").write_text(text)
    paint(tmp_path / "a.png")
    with pytest.raises(ValueError, match=message):
        open_source(tmp_path, AS_THEY_ARE)
    (tmp_path / "other.csv").write_text("")
    with pytest.raises(ValueError, match=r"one CSV file, got labels\.csv and other\.csv"):
        open_source(tmp_path, AS_THEY_ARE)


def test_pictures_of_several_sizes_are_made_alike_or_refused(tmp_path: Path) -> None:
    paint(tmp_path / "a.png", size=(8, 6))
    paint(tmp_path / "b.png", size=(20, 10))
    with pytest.raises(ValueError, match=r"b\.png: expected 8x6 pixels .* got 20x10; --size"):
        everything(open_source(tmp_path, AS_THEY_ARE))
    assert everything(open_source(tmp_path, Preparation(size=(4, 5)))).shape == (2, 3, 4, 5)


def test_only_as_much_as_memory_holds_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        paint(tmp_path / f"{name}.png")
    monkeypatch.setattr("awm_defense.inputs.folder.MOST_BYTES_UNSIZED", 2 * 4 * 3 * 8 * 6)
    source = open_source(tmp_path, AS_THEY_ARE)
    assert len(source.read(torch.tensor([0, 2]))) == 2
    with pytest.raises(ValueError, match="take fewer, or make them smaller with --size"):
        everything(source)


def test_a_photograph_of_many_pixels_is_read_smaller(tmp_path: Path) -> None:
    paint(tmp_path / "large.jpg", (200, 100, 50), size=(5000, 3000))
    paint(tmp_path / "large.png", (200, 100, 50), size=(2500, 1500))
    images = everything(open_source(tmp_path, Preparation(size=(16, 16))))
    expected = torch.tensor([200, 100, 50]) / 255
    torch.testing.assert_close(images.mean((0, 2, 3)), expected, atol=0.02, rtol=0)


@pytest.mark.parametrize("crop", [1.0, 0.4])
@pytest.mark.parametrize("size", [(33, 17), (50, 301)])
@pytest.mark.parametrize("kind", ["nearest", "bilinear", "lanczos"])
def test_the_middle_alone_gives_what_the_whole_gives(
    monkeypatch: pytest.MonkeyPatch, crop: float, size: tuple[int, int], kind: str
) -> None:
    # Not of noise: Pillow cuts values off between its two passes, and turns these around at will.
    noise = np.random.default_rng(0).integers(50, 200, (6, 9, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize((97, 61), Image.Resampling.BICUBIC)
    preparation = Preparation(size=size, crop=crop, filter=kind)
    whole = preparation.apply(picture).int()
    monkeypatch.setattr("awm_defense.inputs.preparation.MOST_RESIZED", 0)
    assert (preparation.apply(picture).int() - whole).abs().max() <= (2 if kind != "nearest" else 0)


@pytest.mark.parametrize(
    ("sides", "crop"), [((10_000, 1), 1.0), ((1, 10_000), 0.5), ((3, 3), 0.01)]
)
def test_a_picture_of_any_shape_takes_little_memory(sides: tuple[int, int], crop: float) -> None:
    """As a whole in its new size it could take gigabytes."""
    picture = Image.new("RGB", sides, (10, 20, 30))
    held = forget_memory()
    made = Preparation(size=(512, 512), crop=crop, filter="bicubic").apply(picture)
    assert made.shape == (3, 512, 512) and made.amin((1, 2)).tolist() == [10, 20, 30]
    assert highest_memory() - held < 64 << 20


@pytest.mark.parametrize(("ending", "turned"), [("jpg", False), ("png", False), ("tif", True)])
def test_how_the_camera_was_held_counts_as_pillow_has_it(
    ending: str, turned: bool, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[274] = 6  # turned by a quarter
    Image.new("RGB", (8, 6)).save(tmp_path / f"a.{ending}", exif=exif)
    found = everything(open_source(tmp_path, AS_THEY_ARE))
    assert found.shape == ((1, 3, 8, 6) if turned else (1, 3, 6, 8))


def test_the_middle_is_kept_in_the_right_shape() -> None:
    wide = np.zeros((40, 80, 3), dtype=np.uint8)
    wide[:, 20:60] = 255  # the square in the middle
    picture = Image.fromarray(wide)
    whole = Preparation(size=(20, 20)).apply(picture).float()
    assert whole.shape == (3, 20, 20) and whole[:, :, 1:-1].mean() > 250
    squashed = Preparation(size=(20, 20), squash=True).apply(picture).float()
    assert squashed.mean() == pytest.approx(127, abs=4)
    inner = np.zeros((40, 40, 3), dtype=np.uint8)
    inner[10:30, 10:30] = 255
    half = Preparation(size=(16, 16), crop=0.5).apply(Image.fromarray(inner)).float()
    assert half.mean() > 240
    grey = Preparation(size=(4, 6), grey=True).apply(picture)
    assert grey.shape == (1, 4, 6) and grey.dtype == torch.uint8


def test_a_preparation_says_what_it_does() -> None:
    assert str(AS_THEY_ARE) == "as they are"
    assert str(Preparation(size=(8, 9), squash=True, grey=True)) == "8x9, squashed, bilinear; grey"
    for crop in (0, 1e-6, 1e-300, 1.01, float("nan")):
        with pytest.raises(ValueError, match=r"crop: expected a share from 0\.01 to 1"):
            Preparation(size=(8, 8), crop=crop)
    normalised = Preparation(size=(8, 8), crop=0.875, mean=(0.5,), std=(0.25, 1.0, 2.0))
    expected = "8x8, the middle 0.875 kept, bilinear; mean 0.5; std 0.25 1 2"
    assert str(normalised) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [({"filter": "box"}, "filter: expected one of"), ({"crop": 0.0}, "crop: expected a share")],
)
def test_wrong_preparations(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Preparation(**options)


def test_a_draw_is_that_of_data_sets() -> None:
    labels = torch.tensor([0, 0, 1, 1, 2])
    assert sorted(labels[draw(labels, per_class=1, seed=3)].tolist()) == [0, 1, 2]
    assert len(set(draw(labels, n=4).tolist())) == 4
    with pytest.raises(ValueError, match="per_class: expected 1 to 1"):
        draw(labels, per_class=2)


def test_each_file_of_a_table_is_looked_at_when_its_turn_comes(tmp_path: Path) -> None:
    paths = iter([tmp_path / "one" / "0.png", tmp_path / "two" / "0.png"])
    assert next(inside(tmp_path, paths)) == tmp_path / "one" / "0.png"
    assert len(list(paths)) == 1


def test_only_arrays_that_are_called_so_are_labels(tmp_path: Path) -> None:
    pixels, path = np.full((3, 8, 8, 3), 9, np.uint8), tmp_path / "all.npz"
    for name in ("y", "Labels", "train_labels", "fine_label", "targets", "class", "y_test"):
        np.savez(path, images=pixels, **{name: np.arange(3), "weights": np.ones(3)})
        source = open_source(path, AS_THEY_ARE)
        assert source.labels.tolist() == [0, 1, 2]
        assert source.notes == ["arrays that are not called as labels are left out: weights"]
    np.savez(path, pixels, np.arange(3))
    assert open_source(path, AS_THEY_ARE).labels.tolist() == [0, 1, 2]
    for name in ("weights", "class_weights", "ids", "my"):
        np.savez(path, images=pixels, **{name: np.arange(3)})
        assert open_source(path, AS_THEY_ARE).labels.tolist() == [UNKNOWN] * 3


def test_labels_may_be_one_hot(tmp_path: Path) -> None:
    pixels, path = np.zeros((3, 8, 8, 3)), tmp_path / "all.npz"
    for kind in ("f4", "u1", "?"):
        np.savez(path, images=pixels, y_test=np.eye(5)[[4, 0, 2]].astype(kind))
        assert open_source(path, AS_THEY_ARE).labels.tolist() == [4, 0, 2]
    for wrong in (np.ones((3, 5)), np.eye(5)[[0, 1, 2]] * 0.9, np.zeros((3, 2))):
        np.savez(path, images=pixels, y_test=wrong)
        with pytest.raises(ValueError, match=r"all\.npz: labels: expected a class an image"):
            open_source(path, AS_THEY_ARE)


def test_a_note_says_where_bytes_are_all_nearly_black(tmp_path: Path) -> None:
    path = tmp_path / "all.npz"
    for highest, count in ((0, 1), (1, 1), (2, 0)):
        np.savez(path, images=np.full((3, 8, 8, 3), highest, np.uint8))
        notes = open_source(path, AS_THEY_ARE).notes
        assert [f"value in images is {highest} of 255" in note for note in notes] == [True] * count


def test_of_transparent_pixels_pictures_and_arrays_give_the_colours(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 6, 8, 4)).astype(np.uint8)
    np.save(tmp_path / "all.npy", pixels)
    (tmp_path / "photos").mkdir()
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / "photos" / f"{number}.png")
    found = [
        everything(open_source(tmp_path / name, AS_THEY_ARE)) for name in ("all.npy", "photos")
    ]
    assert found[0].shape == (2, 3, 6, 8) and torch.equal(*found)
