"""What users give: arrays and folders of images, tables of labels, settings of networks."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.hostile.case import Case, Make, case, harm, written
from tests.hostile.checkpoints import mutate
from tests.hostile.pixels import EPS, Harm, described, npy, picture, png, progressive, saved


def npz(*members: tuple[str, bytes], packed: bool = False) -> bytes:
    """A zip archive of these files."""
    buffer = io.BytesIO()
    method = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def overlapping() -> bytes:
    """Two entries that share the numbers of one, so that they hold more than the file."""
    numbers = saved(np.zeros((1, 3, 600, 600), dtype=np.uint8))
    whole = npz(("a.npy", numbers))
    end = whole.rindex(b"PK\x05\x06")
    start = whole.rindex(b"PK\x01\x02")
    entry = whole[start:end]
    second = entry.replace(b"a.npy", b"b.npy")
    size = len(entry) + len(second)
    tail = whole[end : end + 8] + (2).to_bytes(2, "little") * 2
    tail += size.to_bytes(4, "little") + whole[end + 16 :]
    return whole[:start] + entry + second + tail


def array_cases() -> Iterator[Case]:
    """NPZ files of no images, of code, and of more than there is."""
    good = saved(np.zeros((2, 3, 8, 8), dtype=np.uint8))
    files: dict[str, tuple[bytes | Callable[[], bytes], str | None]] = {
        "nothing": (b"", "expected arrays of numbers"),
        "no members": (npz(), "expected one array of images"),
        "text": (npz(("x.npy", b"hello")), "begins with"),
        "a picture": (lambda: picture("PNG"), "begins with"),
        "a zip in a zip": (npz(("x.npy", npz(("y.npy", good)))), "a zip archive"),
        "NaN": (npz(("x.npy", saved(np.full((1, 3, 2, 2), np.nan)))), "NaN or infinite"),
        "too bright": (npz(("x.npy", saved(np.full((1, 3, 2, 2), 2**40)))), "floating point"),
        "text as labels": (
            npz(("x.npy", good), ("y.npy", saved(np.array(["a", "b"])))),
            "got one of <U1",
        ),
        "petabytes": (npz(("x.npy", npy(described(shape=(1 << 50,)), bytes(12)))), "takes 4503599"),
        "two of one name": (
            npz(("x.npy", good), ("x", good)),
            "two arrays called x",
        ),
        "a thousand": (npz(*((f"{n}.npy", good) for n in range(1000))), "at most 100 arrays"),
        "overlapping": (overlapping, "many times what the file holds"),
        "zeros that are packed": (
            lambda: npz(
                ("x.npy", npy(described(descr="|u1", shape=(600 << 20,))) + bytes(600 << 20)),
                packed=True,
            ),
            "many times what the file holds",
        ),
        "labels below zero": (
            npz(("x.npy", good), ("y.npy", saved(np.array([-7, 0])))),
            "labels: expected classes from 0",
        ),
        "labels by shares": (
            npz(("x.npy", good), ("labels.npy", saved(np.full((2, 4), 0.25)))),
            "labels: expected a class an image, or a row of zeros with a single one",
        ),
        "labels of 2^64 - 1": (
            npz(("x.npy", good), ("y.npy", saved(np.full(2, 2**64 - 1, np.uint64)))),
            "labels: expected numbers of classes",
        ),
        "labels of 10^9": (
            npz(("x.npy", good), ("y.npy", saved(np.full(2, 10**9)))),
            "classes from 0 to 99999",
        ),
        "images of zeros that are packed": (
            lambda: npz(
                (
                    "x.npy",
                    npy(described(descr="|u1", shape=(54_000, 3, 32, 32)), bytes(54_000 * 3072)),
                ),
                packed=True,
            ),
            None,
        ),
        "a name that writes to the terminal": (npz(("\x1b[2J.npy", b"hello")), "begins with"),
    }
    for name, (content, says) in files.items():
        yield case(name, "arrays", written(content), says)

    def objects(path: Path) -> None:
        array = np.array([Harm(harm(path))], dtype=object)
        path.write_bytes(npz(("x.npy", saved(array))))

    yield case("objects", "arrays", objects, "Python objects")
    yield case("a named pipe", "arrays", os.mkfifo, "got a named pipe")
    whole = npz(("images.npy", good), ("labels.npy", saved(np.arange(2))), packed=True)
    for seed in range(30):
        yield case(f"mutated {seed}", "arrays", written(mutate(whole, seed)), None)


def folder_cases() -> Iterator[Case]:
    """Files in a folder of photographs that are none."""
    files: dict[str, tuple[Make, str]] = {
        "EPS": (written(EPS), "got none of PNG"),
        "text": (written(b"hello"), "got none of PNG"),
        "a named pipe": (os.mkfifo, "got a named pipe"),
        "a folder": (Path.mkdir, "got a folder"),
        "endless zeros": (lambda path: path.symlink_to("/dev/zero"), "got a device"),
        "a link to nothing": (lambda path: path.symlink_to("nowhere"), "no such file"),
        "40000x10": (written(lambda: png(40_000, 10)), "at most 10000x10000"),
        "13000x13000": (written(lambda: png(13_000, 13_000, bits=1)), "at most 10000x10000"),
        "JPEG of 200,000 passes": (written(progressive), "scans, got 2000"),
        "65 MiB": (written(lambda: bytes(65 << 20)), "at most 64 MiB"),
    }
    for name, (make, says) in files.items():
        yield case(name, "folder", make, says)


def link_cases() -> Iterator[Case]:
    """Folders that are links out of the folder of images."""

    def link(path: Path, target: str = "/") -> None:
        (path.parent / "b").mkdir()
        (path.parent / "b" / "one.png").write_bytes(png(8, 8))
        path.symlink_to(target)

    def deeper(path: Path) -> None:
        path.symlink_to("/")

    def listed(path: Path) -> None:
        outside = path.parents[1] / "outside"
        outside.mkdir()
        (outside / "one.png").write_bytes(png(8, 8))
        link(path, str(outside))
        (path.parent / "labels.csv").write_text("a/one.png,0\nb/one.png,1\n")

    def pixels(path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        for number in range(30):
            path.with_name(f"{number}.png").write_bytes(png(2048, 2048))
        path.write_bytes(png(2048, 2048))

    yield case("31 images of 2048x2048, in all 160 kB", "photos", pixels, "take over 960 MiB")
    refused = "got a link to one; links to folders are not followed"
    yield case("a class is a link to /", "folder", link, refused, "photos/a")
    yield case("a link to / in a class", "folder", deeper, refused, "photos/a/deeper")
    yield case("a table names files behind a link", "folder", listed, refused, "photos/a")


def table_cases() -> Iterator[Case]:
    """Tables that lead elsewhere, or are none."""

    def beside(content: bytes) -> Make:
        def make(path: Path) -> None:
            path.write_bytes(content)
            (path.parent / "a.png").write_bytes(png(8, 8))

        return make

    texts: dict[str, tuple[bytes, str]] = {
        "a path upwards": (b"../../secret.png,1", "files below the folder"),
        "a path from the root": (b"/etc/passwd,1", "files below the folder"),
        "the folder itself": (b"a.png,0\n.,1", "files below the folder of the CSV file, got \\.,1"),
        "the folder itself, longer": (b"a.png,0\n.//.,1", "files below the folder"),
        "a null byte": (b"a\x00.png,1", "can't be opened|expected lines"),
        "the table itself": (b"labels.csv,1", "got none of PNG"),
        "a picture": (png(8, 8), "expected lines of file,label"),
        "a field of a megabyte": (b"a.png," + b"9" * (1 << 20), "expected lines of file,label"),
        "other columns": (b"a.png;1\n", "expected lines of file,label"),
        "no such file": (b"missing.png,1", "no such file"),
        "numbers and words": (b"a.png,1\nb.png,\x1b[2J\n", "all numbers or all words"),
        "a number of a thousand digits": (b"a.png," + b"9" * 1000, "classes from 0 to 99999"),
        "half a class": (b"a.png,0.5\n", "classes from 0 to 99999"),
        "another head": (b"image,class\na.png,1\n", "no such file"),
        "a name that writes to the terminal": (b"\x1b[2J.png,1", "no such file"),
    }
    for name, (content, says) in texts.items():
        yield case(name, "table", beside(content), says)
    many = b"a.png,0\n" + "".join(f"{n}.png,{n}\n" for n in range(200_000)).encode()
    yield case("200,000 classes", "table", beside(many), "classes from 0 to 99999")
    named = b"a.png,x\n" + "".join(f"{n}.png,x{n}\n" for n in range(200_000)).encode()
    yield case("200,000 named classes", "table", beside(named), "classes from 0 to 99999")
    empty = written(lambda: b",\n" * (30 << 20))
    yield case("30 million empty lines", "table", empty, "at most 1000000 lines")
    yield case(
        "a file in two classes",
        "table",
        beside(b"a.png,0\n./a.png,1\n"),
        "each file once, got ./a.png",
    )
    yield case("a named pipe", "table", os.mkfifo, "got a named pipe")


def setting_cases() -> Iterator[Case]:
    """JSON of networks and their images."""

    def as_json(content: Any) -> Make:
        return written(json.dumps(content).encode())

    processors: dict[str, tuple[Make, str]] = {
        "no JSON": (written(b"{"), "expected JSON"),
        "a list": (as_json([]), "expected a JSON object"),
        "size of 10^9": (as_json({"size": 10**9}), "size: expected a whole number"),
        "size of text": (as_json({"size": {"height": "8", "width": 8}}), "size.height: expected"),
        "size below zero": (as_json({"size": {"shortest_edge": -1}}), "shortest_edge: expected"),
        "mean of text": (as_json({"image_mean": "0.5"}), "image_mean: expected a list"),
        "NaN": (written(b'{"image_std": [NaN, 1, 1]}'), "expected finite numbers"),
        "a crop of a pixel": (
            as_json({"size": 4096, "crop_size": 1, "do_center_crop": True}),
            "crop: expected a share from 0.01",
        ),
        "no share": (as_json({"crop_pct": 0}), "crop_pct: expected a number"),
        "colours turned": (as_json({"do_flip_channel_order": True}), "expected false, got true"),
        "an unknown one": (as_json({"image_processor_type": "\x1b[2J"}), "expected one of ViT"),
        "nothing rescaled to": (as_json({"rescale_factor": 1e-300}), "rescale_factor: expected"),
        "a crop of more": (
            as_json({"size": 8, "do_center_crop": True, "crop_size": 9999}),
            "crop_size: expected a part",
        ),
        "deep": (written(b"[" * 100_000), "levels"),
    }
    for name, (make, says) in processors.items():
        yield case(name, "processor", make, says)
    configs: dict[str, tuple[Make, str]] = {
        "no JSON": (written(b"{"), "expected JSON"),
        "no type": (as_json({}), "lacks 'model_type'"),
        "a type of numbers": (as_json({"model_type": 3}), "model_type: expected text"),
        "a million layers": (
            as_json({"model_type": "vit", "num_hidden_layers": 10**6}),
            "num_hidden_layers: expected at most 1000",
        ),
        "depths of a million": (
            as_json({"model_type": "resnet", "depths": [1, 10**6]}),
            "depths: expected at most 1000",
        ),
        "10^8 classes": (
            as_json({"model_type": "vit", "num_labels": 10**8}),
            "num_labels: expected at most 100000",
        ),
        "200,000 named classes": (
            as_json({"model_type": "vit", "id2label": {str(n): "a" for n in range(200_000)}}),
            "id2label: expected at most 100000 values",
        ),
        "3000 stages": (
            as_json({"model_type": "resnet", "depths": [1] * 3000, "hidden_sizes": [8] * 3000}),
            "expected at most 1000 values",
        ),
        "10^9 heads": (
            as_json({"model_type": "vit", "num_attention_heads": 10**9}),
            "num_attention_heads: expected at most 1000000",
        ),
        "depth of 10^9": (
            as_json({"model_type": "efficientnet", "depth_coefficient": 1e9}),
            "depth_coefficient: expected at most 1000",
        ),
        "a named pipe": (os.mkfifo, "got a named pipe"),
    }

    def imported(content: Any) -> Make:
        """Also imports what takes seconds, and is not of the file."""

        def make(path: Path) -> None:
            as_json(content)(path)
            with contextlib.suppress(ImportError):  # no torchvision
                importlib.import_module("tests.torchvision_ops")
            transformers = importlib.import_module("transformers")
            for kind in ("ViT", "Swin", "ResNet", "EfficientNet", "CLIP"):
                getattr(transformers, f"{kind}ForImageClassification")

        return make

    def timm_wrapper(file: str) -> dict[str, Any]:
        arguments = {"checkpoint_path": file}
        return {"model_type": "timm_wrapper", "architecture": "resnet18", "model_args": arguments}

    if importlib.util.find_spec("transformers") is not None:
        code = {"AutoConfig": "evil.Evil", "AutoModelForImageClassification": "evil.Evil"}
        configs |= {
            "an unknown type": (imported({"model_type": "evil", "auto_map": code}), "no image"),
            "a language model": (imported({"model_type": "gpt2"}), "no image classifier"),
            "wide": (
                imported({"model_type": "vit", "hidden_size": 12 * 10**4}),
                "it has more than 8589934592 bytes of numbers",
            ),
            "7200 layers": (
                imported({"model_type": "resnet", "depths": [900] * 8, "hidden_sizes": [8] * 8}),
                "it has more than 5000 modules",
            ),
            "depth times depth": (
                imported(
                    {
                        "model_type": "efficientnet",
                        "depth_coefficient": 1000.0,
                        "num_block_repeats": [1000] * 7,
                    }
                ),
                "it has more than 5000 modules",
            ),
            "many patches": (
                imported({"model_type": "vit", "image_size": 20_000, "patch_size": 1}),
                "it has more than 8589934592 bytes of numbers",
            ),
            "a window of 1000": (
                imported({"model_type": "swin", "image_size": 4000, "window_size": 1000}),
                "it has more than 8589934592 bytes of numbers",
            ),
            "another package that loads files": (
                imported(timm_wrapper("net.pth")),
                "model_type: expected one whose network",
            ),
            "another package's folder": (
                imported({**timm_wrapper(""), "architecture": "local-dir:."}),
                "model_type: expected one whose network",
            ),
            **{
                f"{name}, which is no setting": (
                    imported({"model_type": "vit", name: "\x1b[2J"}),
                    f"expected no entry '{name}'",
                )
                for name in ("use_return_dict", "is_heterogeneous", "sub_configs", "to_dict")
            },
            "no setting of a part": (
                imported({"model_type": "clip", "vision_config": {"sub_configs": {}}}),
                "expected no entry 'sub_configs'",
            ),
            "sizes of text": (imported({"model_type": "vit", "hidden_size": "8"}), "no image"),
        }
    for name, (make, says) in configs.items():
        yield case(name, "config", make, says)


def cases() -> list[Case]:
    """All of them."""
    groups = (array_cases, folder_cases, link_cases, table_cases, setting_cases)
    return [case for group in groups for case in group()]
