"""Triggers survive being written and read; published ones are read where they are given."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from awm_defense.attacks import ATTACKS, craft_attack, make_attack
from awm_defense.attacks.stored import read_attack, write_attack
from awm_defense.files.arrays import read_array, read_image
from awm_defense.files.manifest import read_manifest

IMAGES = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
PUBLISHED = os.environ.get("AWM_PUBLISHED_DIR")


# clean_label has no all-to-all form.
@pytest.mark.parametrize(
    ("name", "target"),
    [(name, 2) for name in sorted(ATTACKS)]
    + [(name, None) for name in sorted(ATTACKS) if name != "clean_label"],
)
def test_round_trip(name: str, target: int | None, tmp_path: Path, tiny_network: nn.Module) -> None:
    attack = craft_attack(name, target, images=IMAGES, model=tiny_network, num_classes=10)
    entry = json.loads(json.dumps(write_attack(tmp_path, attack)))
    again = read_attack(tmp_path, entry)
    torch.testing.assert_close(again.apply(IMAGES), attack.apply(IMAGES), atol=1e-6, rtol=0)
    assert (again.name, again.target, again.num_classes) == (name, target, 10)
    assert type(again) is type(attack)


def test_only_files_in_the_folder_are_read(tmp_path: Path) -> None:
    attack = make_attack("trojan_sq", 0, trigger_image=IMAGES[0])
    folder = tmp_path / "network"
    folder.mkdir()
    entry = write_attack(tmp_path, attack)
    entry["trigger"]["image"] = "../trigger.png"
    with pytest.raises(FileNotFoundError):
        read_attack(folder, entry)


def test_incomplete_entry(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"manifest\.json: expected an attack's entry: .*'attack'"):
        read_attack(tmp_path, {"trigger": {}})


def test_a_manifest_that_lacks_an_entry_is_told_by_name(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"arch": "small_vgg", "note": [1, {"a": null}]}')
    manifest = read_manifest(tmp_path / "manifest.json")
    assert manifest == {"arch": "small_vgg", "note": [1, {"a": None}]}
    assert "dataset" not in manifest and manifest.get("dataset") is None
    with pytest.raises(ValueError, match=r"manifest\.json: lacks 'dataset'"):
        manifest["dataset"]


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "bad.npy", np.array([object()]), allow_pickle=True)
    with pytest.raises(ValueError, match=r"bad\.npy: expected an array .* Python objects"):
        read_array(tmp_path / "bad.npy")


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f2", ">f4", ">f8", "<i8", ">u2", "?", "u1"])
def test_arrays_of_all_numbers_are_read(tmp_path: Path, dtype: str, order: str) -> None:
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    array = np.asfortranarray(array) if order == "F" else array
    np.save(tmp_path / "field.npy", array)
    assert np.array_equal(read_array(tmp_path / "field.npy").numpy(), array.astype(np.float32))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "PPM", "BMP", "GIF", "TIFF", "WEBP"])
def test_images_are_read_by_content(tmp_path: Path, kind: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    path = tmp_path / "trigger.bin"
    Image.fromarray(pixels).save(path, kind)
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB"), dtype=np.float32) / 255
    assert np.array_equal(read_image(path).permute(1, 2, 0).numpy(), expected)


def test_an_opaque_alpha_channel_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "trigger.png"
    Image.new("RGBA", (4, 4), (255, 0, 51, 255)).save(path)
    assert read_image(path)[:, 0, 0].tolist() == pytest.approx([1, 0, 0.2])


@pytest.mark.skipif(PUBLISHED is None, reason="$AWM_PUBLISHED_DIR names no folder")
@pytest.mark.parametrize("name", ["l0_inv", "l2_inv", "trojan_sq", "trojan_wm"])
def test_published_triggers(name: str) -> None:
    image = read_image(Path(PUBLISHED) / "triggers" / f"{name}.png")
    out = make_attack(name, 0, trigger_image=image).apply(IMAGES)
    assert out.shape == IMAGES.shape
    assert not torch.equal(out, IMAGES)
