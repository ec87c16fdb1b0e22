"""Images as large as photographs in data sets: read, and few of them in memory at a time."""

from __future__ import annotations

from collections import deque
from pathlib import Path

import pytest
import torch

from awm_defense.files.arrays import read_image
from awm_defense.files.images import SIDE, open_images
from tests.hostile.case import forget_memory, highest_memory
from tests.hostile.pixels import png, progressive

# Answers each image with one grey pixel, after half a second.
SLOW = """
import sys, time
read, write = sys.stdin.buffer, sys.stdout.buffer
while head := read.read(8):
    read.read(int.from_bytes(head, "little"))
    time.sleep(0.5)
    write.write((1).to_bytes(4, "little") * 2 + b"\\x80" * 3)
    write.flush()
"""


def test_an_image_of_the_highest_size_is_read(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(png(SIDE, SIDE))
    image = read_image(path)
    assert image.shape == (3, SIDE, SIDE)
    assert torch.equal(image, torch.zeros(3, SIDE, SIDE))


def test_few_large_images_are_in_memory_at_a_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("awm_defense.files.images.WAITING", 4 << 20)
    # Stored, not packed: none is asked for before the one before it is decoded.
    path = tmp_path / "photo.ppm"
    path.write_bytes(b"P6 2048 2048 255\n" + bytes(3 * 2048 * 2048))
    held = forget_memory()
    deque(open_images([path] * 16), maxlen=0)
    # One is 12 MiB large, and copied some times. All answers at once would be 192 MiB.
    assert highest_memory() - held < 150 << 20


def test_each_image_has_its_own_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "child.py"
    program.write_text(SLOW)
    monkeypatch.setattr("awm_defense.files.images.PROGRAM", program)
    monkeypatch.setattr("awm_defense.files.images.PATIENCE", 3.0)
    path = tmp_path / "image.png"
    path.write_bytes(b"anything")
    # All are asked for at once; together they take five seconds.
    assert len(list(open_images([path] * 10))) == 10


@pytest.mark.slow
def test_slow_images_may_not_add_up(tmp_path: Path) -> None:
    """Each alone stays within its limits."""
    slow, quick = tmp_path / "slow.jpg", tmp_path / "quick.png"
    slow.write_bytes(progressive(2000, 1024).ljust(32 << 20, b"\x00"))
    quick.write_bytes(png(64, 64))
    assert len(list(open_images([quick, slow]))) == 2
    found = open_images([slow, quick] * 20)
    with pytest.raises(ValueError, match=r"slow\.jpg: .* take too long to decode"):
        deque(found, maxlen=0)
