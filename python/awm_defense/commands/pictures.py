"""The images that a command works with: of a data set by its name, or whatever lies at a path."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from awm_defense.commands import networks, options
from awm_defense.data import DATASETS, Dataset, load_dataset
from awm_defense.inputs.folder import Arrays, Source, draw, open_source
from awm_defense.inputs.images import UNKNOWN
from awm_defense.inputs.preparation import Preparation
from awm_defense.inputs.take import predict
from awm_defense.pixel_model import PixelModel

MOST_SIDE = 4096
POOL = 200
"""Images without labels of which the network is asked; one of each class that it names is taken."""


class Drawn(NamedTuple):
    """A few images."""

    images: Tensor
    """Float32 (n, c, h, w) in [0, 1]."""
    labels: Tensor
    """Int64 (n,), `UNKNOWN` where no class is given."""
    files: Sequence[str]
    """That they come from; of data sets and arrays none."""
    classes: int | None = None
    """How many they are of, by their labels or by what the network says; None if none is known."""


@dataclass(frozen=True, eq=False)
class Pictures:
    """A data set, or the images at a path, for what a command does with them.

    Attributes:
        name: what they are called.
        flip: whether a mirrored image still shows its class.
        labelled: whether it is known what they show.
    """

    dataset: Dataset | None
    source: Source | None
    preparation: Preparation
    name: str

    @property
    def flip(self) -> bool:
        return self.dataset is None or self.dataset.flip

    @property
    def labelled(self) -> bool:
        return self.source is None or not bool((self.source.labels == UNKNOWN).all())

    @property
    def classes(self) -> int:
        """How many the images are of; at a path those up to the highest label."""
        if self.dataset is not None:
            return len(self.dataset.classes)
        assert self.source is not None
        return int(self.source.labels.max()) + 1

    def check_known(self, checkpoint: Path, known: int) -> None:
        """Raise ValueError where the network of a checkpoint knows fewer classes than these."""
        labels = torch.empty(0) if self.source is None else self.source.labels
        if known + 1 == self.classes and not bool((labels == 0).any()) and len(labels):
            raise ValueError(
                f"{self.name}: expected classes from 0 to {known - 1}, as {checkpoint} has; "
                "numbers begin at 0, these at 1"
            )
        if known < self.classes:
            raise ValueError(
                f"{checkpoint}: expected a network of at least {self.classes} classes, as "
                f"{self.name} has, got one of {known}"
            )

    def draw(
        self,
        network: nn.Module,
        *,
        per_class: int | None = None,
        n: int | None = None,
        seed: int = 0,
        device: torch.device | None = None,
    ) -> Drawn:
        """A defender's few images, of those with a label; where none has one, by what the network
        says of them."""
        if self.dataset is not None:
            images, labels = self.dataset.draw(per_class=per_class, n=n, seed=seed)
            return Drawn(images, labels, [], len(labels.unique()))
        assert self.source is not None
        labels = self.source.labels
        if self.labelled:
            known = (labels != UNKNOWN).nonzero().flatten()
            chosen = known[draw(labels[known], per_class=per_class, n=n, seed=seed)]
            return self._drawn(chosen, self.source.read(chosen), labels[chosen])
        chosen = draw(labels, n=n or min(len(labels), POOL), seed=seed)
        images = self.source.read(chosen)
        said = None
        if n is None:
            shown = PixelModel(
                network,
                images,
                mean=self.preparation.mean,
                std=self.preparation.std,
                device=device,
            )
            with torch.no_grad():
                shown.settle(images[:2].to(shown.device))
            said = predict(shown, images).argmax(1)
            few = draw(said, per_class=per_class, seed=seed)
            chosen, images, said = chosen[few], images[few], said[few]
        return self._drawn(chosen, images, said)

    def _drawn(self, chosen: Tensor, images: Tensor, kinds: Tensor | None) -> Drawn:
        assert self.source is not None
        classes = None if kinds is None else len(kinds.unique())
        return Drawn(images, self.source.labels[chosen], self.source.names(chosen), classes)

    def test(self, limit: int | None) -> tuple[Tensor, Tensor]:
        """Images to measure with, and their classes; at most `limit`."""
        if self.dataset is not None:
            images, labels = self.dataset.test()
            return images[:limit], labels[:limit]
        assert self.source is not None
        labels = self.source.labels
        count = len(labels) if limit is None else min(limit, len(labels))
        chosen = draw(labels, n=count) if count < len(labels) else torch.arange(count)
        return self.source.read(chosen), labels[chosen]


def check_classes(drawn: Drawn, known: int, *, of_each: bool) -> None:
    """Say how many of the classes that a network knows have no image.

    Raises:
        ValueError: only one has some, though images of each were drawn.
    """
    if drawn.classes is None:
        return
    if of_each and drawn.classes == 1:
        raise ValueError("images: expected some of at least two classes, got those of one alone")
    if drawn.classes < known:
        options.say(
            f"note: {known - drawn.classes} of the {known} classes that the network knows have no "
            "image"
        )


def add_picture_options(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Where images come from, and how they are made fit for the network."""
    given = parser.add_mutually_exclusive_group(required=required)
    given.add_argument("--dataset", choices=sorted(DATASETS), help="one that this project reads")
    given.add_argument(
        "--images",
        type=options.path,
        metavar="PATH",
        help="instead: a folder with a folder a class, in the order of their names; a folder of "
        "images, with a CSV file of the lines file,label or without labels; an .npz or .npy file",
    )
    options.add_data_dir(parser)
    parser.add_argument(
        "--size",
        type=side,
        nargs="+",
        metavar="N",
        help="resize images to NxN, or to height and width (default: as the network wants them)",
    )
    parser.add_argument(
        "--crop",
        type=options.crop,
        metavar="SHARE",
        help="of the shorter side that is kept, from the middle (default: as the network wants it)",
    )
    colours = parser.add_mutually_exclusive_group()
    colours.add_argument("--grey", action="store_true", default=None, help="images of one channel")
    colours.add_argument(
        "--rgb", dest="grey", action="store_false", help="images of three (default)"
    )


def side(text: str) -> int:
    """An argparse type: pixels of a side."""
    return options.whole(text, 1, MOST_SIDE)


def check_taken_as_they_are(
    args: argparse.Namespace, what: str, shape: Sequence[int] | None = None
) -> None:
    """Raise ValueError where options ask for other images than are there.

    Args:
        what: the images are, for the error.
        shape: theirs, (c, h, w), which the options may say, too; None where they may say none.
    """
    found = None if shape is None else tuple(shape[1:])
    for option, other in (
        ("size", args.size is not None and networks.get_preparation(args).size != found),
        ("crop", args.crop is not None),
        ("grey", bool(args.grey) and (shape is None or shape[0] != 1)),
    ):
        if other:
            raise ValueError(
                f"--{option}: expected with a folder of images, got {what}, whose images stay as "
                "they are"
            )


def open_pictures(args: argparse.Namespace) -> Pictures:
    """The images that the options name."""
    preparation = networks.get_preparation(args)
    if args.images is None:
        options.check_data_dir(args, f"--dataset {args.dataset}")
        check_taken_as_they_are(args, f"the data set {args.dataset}")
        with options.warnings_said():
            return Pictures(
                load_dataset(args.dataset, args.data_dir), None, preparation, args.dataset
            )
    options.check_data_dir(args, "--images")
    source = open_source(args.images, preparation)
    if isinstance(source, Arrays):
        check_taken_as_they_are(args, f"the arrays {args.images}", source.images.shape[1:])
    classes = len(source.labels[source.labels != UNKNOWN].unique())
    labels = f"in {classes} classes" if classes else "without labels"
    options.say(f"images at {args.images}: {len(source.labels)} {labels}; {preparation}")
    if preparation.mean is None:
        options.say("no mean and std: pixels go in as they are, from 0 to 1")
    for note in source.notes:
        options.say(f"note: {note}")
    return Pictures(None, source, preparation, str(args.images))
