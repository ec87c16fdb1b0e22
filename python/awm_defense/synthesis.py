"""Images made from a network alone, for a defender who has none."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from awm_defense.data.augment import draw_mirrored, mirror
from awm_defense.networks.logits import Pick
from awm_defense.pixel_model import PixelModel, Stat
from awm_defense.settings import check_seed, check_value
from awm_defense.working.modes import own_modes

STEPS = 300
LR = 0.1
STATISTICS = 0.3
"""Weight of the distance to BatchNorm's statistics. With 10 the published BadNets network took 14 %
of its images for the class they are meant for, with 1 it took 92 %."""
SMOOTH = 1e-3
"""Weight of the variation between neighbouring pixels."""
SHIFT = 2
"""Images are moved by up to so many pixels, so that none of theirs counts where it lies."""

# 8 GiB, of which gradient descent takes some more.
MOST_NUMBERS = 1 << 31


@own_modes()
def synthesize(
    model: nn.Module,
    size: tuple[int, int, int],
    *,
    classes: int,
    per_class: int | None = None,
    mean: Stat = None,
    std: Stat = None,
    device: str | torch.device | None = None,
    flip: bool = True,
    seed: int = 0,
    logits: Pick | None = None,
    progress: bool = False,
) -> tuple[Tensor, Tensor]:
    """Images that a network takes for its classes and that BatchNorm finds as usual.

    Gradient descent on the images (Yin et al., DeepInversion, CVPR 2020): cross-entropy of the
    class, distance of the activations' mean and variance to those that each BatchNorm keeps, and
    the variation between neighbouring pixels. Purify with a recipe made
    `for_images(flip=..., synthetic=True)`, as `awm purify --per-class 0` does.

    Args:
        model: the network, images (n,c,h,w) to logits (n,classes), with BatchNorm layers; left
            untouched.
        size: of an image, (c,h,w).
        classes: how many there are.
        per_class: images of each; by default as many as make fifty, and at least one.
        mean, std: for a model fed (pixel − mean) / std: a number, or one a channel.
        device: where to work; default: where the model is.
        flip: whether mirrored images still show their class.
        seed: of the noise that it starts from.
        logits: from what the model returns to logits; by default they are looked for, as `purify`
            does.
        progress: show a progress bar.

    Returns:
        Images (n,c,h,w) in [0,1] and their classes int64 (n,), on the CPU: all classes once, then
        again.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came; also where the
            model has no BatchNorm layer that keeps statistics.
    """
    classes = check_value("classes", int, classes, 1)
    if per_class is not None:
        per_class = check_value("per_class", int, per_class, 0)
    if not isinstance(size, Sequence) or len(size) != 3:
        raise TypeError(f"size: expected (c, h, w), got {type(size).__name__}")
    channels, height, width = (check_value("size", int, length, 1) for length in size)
    size = channels, height, width
    each = per_class or max(1, 50 // classes)
    count = classes * each * math.prod(size)
    if count > MOST_NUMBERS:
        raise ValueError(
            f"classes, per_class, size: expected at most {MOST_NUMBERS} numbers in all images, "
            f"got {count}"
        )
    labels = torch.arange(classes).repeat(each)
    generator = torch.Generator().manual_seed(check_seed(seed))
    noise = torch.randn(len(labels), *size, generator=generator)
    start = noise.sigmoid()
    given = PixelModel(model, start, mean=mean, std=std, device=device, logits=logits)
    pixel_model = given.copy(start)
    work = pixel_model.model
    norms = [
        m for m in work.modules() if isinstance(m, nn.BatchNorm2d) and m.running_mean is not None
    ]
    if not norms:
        raise ValueError("model: expected BatchNorm2d layers to make images from, got none")
    raw = (0.5 * noise.to(pixel_model.device, pixel_model.dtype)).requires_grad_()
    targets = labels.to(pixel_model.device)
    optimizer = torch.optim.Adam([raw], lr=LR)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    distances: list[Tensor] = []
    hooks = [norm.register_forward_pre_hook(_measure(distances)) for norm in norms]
    for _ in tqdm(range(STEPS), "synthesize", unit="step", disable=not progress):
        images = raw.sigmoid()
        distances.clear()
        found = pixel_model(_moved(images, generator, flip))
        if found.shape[1] < classes:
            raise ValueError(
                f"classes: expected at most the model's {found.shape[1]}, got {classes}"
            )
        loss = cross_entropy(found, targets) + STATISTICS * torch.stack(distances).sum()
        loss = loss + SMOOTH * _variation(images)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    for hook in hooks:
        hook.remove()
    return raw.detach().sigmoid().cpu(), labels


def _measure(distances: list[Tensor]) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    """A hook that adds how far a layer's input lies from the statistics that it keeps."""

    def hook(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm.running_mean, Tensor) and isinstance(norm.running_var, Tensor)
        variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3), correction=0)
        distances.append((mean - norm.running_mean).norm() + (variance - norm.running_var).norm())

    return hook


def _moved(images: Tensor, generator: Generator, flip: bool) -> Tensor:
    """All of them rolled alike, and half of them mirrored."""
    down, right = torch.randint(-SHIFT, SHIFT + 1, (2,), generator=generator).tolist()
    moved = images.roll((down, right), (2, 3))
    return mirror(moved, draw_mirrored(len(images), generator)) if flip else moved


def _variation(images: Tensor) -> Tensor:
    """Of neighbouring pixels, the L2 norm of all differences along each axis."""
    return images.diff(dim=2).norm() + images.diff(dim=3).norm()
