"""Who gets which images: training and test parts, and the few that a defender has."""

import torch
from torch import Tensor

from awm_defense.settings import check_seed, check_value


def stratified_split(labels: Tensor, *, test_share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Split so that every class gives the same share to the test part.

    Args:
        labels: (N,) int64.
        test_share: share of each class for the test part, between 0 and 1; rounded down.
        seed: the same seed gives the same split.

    Returns:
        (train, test): sorted int64 indices into `labels`, together each of 0..N-1 once.
    """
    _check_labels(labels)
    test_share = check_value("test_share", float, test_share, 0)
    if not 0 < test_share < 1:
        raise ValueError(f"test_share: expected a number between 0 and 1, got {test_share}")
    generator = torch.Generator().manual_seed(check_seed(seed))
    test = torch.zeros(len(labels), dtype=torch.bool)
    for members in _shuffled_classes(labels, generator):
        test[members[: int(test_share * len(members))]] = True
    return (~test).nonzero().flatten(), test.nonzero().flatten()


def draw_defender(
    images: Tensor,
    labels: Tensor,
    *,
    per_class: int | None = None,
    n: int | None = None,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw the few clean images that a defender has. Pass training data, never test data.

    Args:
        images: (N,...) to draw from.
        labels: (N,) int64.
        per_class: this many of each class that occurs in `labels`; or
        n: this many in all, each image as likely as any other. Exactly one of the two.
        seed: the same seed gives the same draw.

    Returns:
        (images, labels, indices): the drawn ones, grouped by class with `per_class`, and their
        int64 indices into what was passed.

    Raises:
        ValueError: when both or neither amount is given, or there are too few images.
    """
    _check_labels(labels)
    if not isinstance(images, Tensor) or images.dim() == 0:
        raise TypeError(f"images: expected a tensor (n, ...), got {type(images).__name__}")
    if len(images) != len(labels):
        raise ValueError(f"labels: expected {len(images)}, one per image, got {len(labels)}")
    if per_class is not None:
        per_class = check_value("per_class", int, per_class, 1)
    if n is not None:
        n = check_value("n", int, n, 1)
    if (per_class is None) == (n is None):
        raise ValueError(f"per_class, n: expected one of them, got per_class={per_class} and n={n}")
    generator = torch.Generator().manual_seed(check_seed(seed))
    if per_class is not None:
        indices = _draw_per_class(labels, per_class, generator)
    else:
        assert n is not None
        if not 1 <= n <= len(images):
            raise ValueError(f"n: expected 1 to {len(images)} images, got {n}")
        indices = torch.randperm(len(images), generator=generator)[:n]
    return images[indices], labels[indices], indices


def _check_labels(labels: Tensor) -> None:
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels: expected a tensor (n,), got {type(labels).__name__}")
    if labels.dim() != 1 or labels.layout != torch.strided or labels.is_meta:
        raise ValueError(f"labels: expected a dense tensor (n,), got {tuple(labels.shape)}")


def _draw_per_class(labels: Tensor, per_class: int, generator: torch.Generator) -> Tensor:
    classes = _shuffled_classes(labels, generator)
    fewest = min((len(members) for members in classes), default=0)
    if not 1 <= per_class <= fewest:
        raise ValueError(
            f"per_class: expected 1 to {fewest}, the size of the smallest class, got {per_class}"
        )
    return torch.cat([members[:per_class] for members in classes])


def _shuffled_classes(labels: Tensor, generator: torch.Generator) -> list[Tensor]:
    """The indices of each class in random order, one tensor a class."""
    order = torch.randperm(len(labels), generator=generator)
    shuffled = labels.cpu()[order]
    _, counts = shuffled.unique(return_counts=True)
    return list(order[shuffled.argsort(stable=True)].split(counts.tolist()))
