"""Random crops, shifts and flips of a whole batch at once, on any device."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# A crop is drawn up to this often until it fits into the image; then the largest central one
# is taken. As torchvision's RandomResizedCrop does.
ATTEMPTS = 10
# What the authors of AWM make of images where there is at most one a class: so many copies, each a
# crop of at least that share of the area.
ONE_SHOT_COPIES, ONE_SHOT_SCALE = 9, 0.08


def random_resized_crop_flip(
    images: Tensor,
    generator: torch.Generator,
    *,
    scale: tuple[float, float] | None = (0.2, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    flip: bool = True,
) -> Tensor:
    """Crop a random part of each image, resize it to the full size, and mirror half of them.

    Every image gets its own crop, as with torchvision's RandomResizedCrop (bilinear) followed by
    RandomHorizontalFlip.

    Args:
        images: (N,C,H,W), floating point, on any device.
        generator: a CPU generator; one in the same state gives the same crops on every device.
        scale: smallest and largest share of the image's area in the crop; None for no crop.
        ratio: smallest and largest width / height of the crop, drawn log-uniformly.
        flip: whether to mirror images left to right, each with probability 1/2.

    Returns:
        A tensor like `images`; `images` itself when nothing is asked for.

    Raises:
        ValueError: for other images, or a range that is none.
    """
    if images.ndim != 4 or not images.is_floating_point():
        raise ValueError(
            "images: expected floating point (N,C,H,W), "
            f"got {images.dtype} of shape {tuple(images.shape)}"
        )
    out = images
    if scale is not None:
        out = crop(out, draw_crops(images.shape, generator, scale=scale, ratio=ratio))
    if flip:
        out = mirror(out, draw_mirrored(len(images), generator))
    return out


def with_copies(
    images: Tensor,
    labels: Tensor,
    generator: torch.Generator,
    *,
    copies: int = ONE_SHOT_COPIES,
    scale: float = ONE_SHOT_SCALE,
    flip: bool = True,
) -> tuple[Tensor, Tensor]:
    """Images and labels (N,), with fixed augmented copies of each behind them.

    `scale` is the smallest share of the area that a crop keeps; see `random_resized_crop_flip`.
    """
    made = [
        random_resized_crop_flip(images, generator, scale=(scale, 1.0), flip=flip)
        for _ in range(copies)
    ]
    return torch.cat([images, *made]), labels.repeat(copies + 1)


def random_shift_flip(
    images: Tensor, generator: torch.Generator, *, padding: int, flip: bool
) -> Tensor:
    """Shift each image at random (black enters at the border), and mirror half of them.

    The usual training augmentation: zero padding, a random crop of the old size, a random flip.

    Args:
        images: (N,C,H,W), of any dtype, on any device.
        generator: a CPU generator; one in the same state gives the same result on every device.
        padding: the longest shift along each axis, in pixels.
        flip: whether to mirror images left to right, each with probability 1/2.

    Returns:
        A tensor like `images`; `images` itself when nothing is asked for.
    """
    n, _, height, width = images.shape
    out = images
    if padding:
        place = torch.randint(2 * padding + 1, (2, n), generator=generator).to(images.device)
        # A view with every crop of the padded images, of which one each is copied.
        crops = F.pad(images, [padding] * 4).unfold(2, height, 1).unfold(3, width, 1)
        out = crops[torch.arange(n, device=images.device), :, place[0], place[1]]
    if flip:
        out = mirror(out, draw_mirrored(n, generator))
    return out


def mirror(images: Tensor, mirrored: Tensor) -> Tensor:
    """`images` (N,C,H,W), mirrored left to right where `mirrored`, bool (N,), says so."""
    return torch.where(mirrored[:, None, None, None].to(images.device), images.flip(3), images)


def draw_mirrored(n: int, generator: torch.Generator) -> Tensor:
    """Whether to mirror each of `n` images: bool (n,), on the CPU."""
    return torch.rand(n, generator=generator) < 0.5


def crop(images: Tensor, crops: Tensor) -> Tensor:
    """Each image's crop, resized (bilinear) to the size of the image.

    Args:
        images: (N,C,H,W), floating point.
        crops: (4,N), floating point: top, left, height, width, in whole pixels.

    Returns:
        A tensor like `images`.
    """
    n, _, height, width = images.shape
    # Positions rounded to a half type would be off by whole pixels.
    dtype = torch.promote_types(images.dtype, torch.float32)
    top, left, crop_height, crop_width = crops.to(images.device, dtype)
    # grid_sample counts from -1 to 1 between the outer edges of the image.
    y = (2 * _sample_positions(top, crop_height, height) + 1) / height - 1
    x = (2 * _sample_positions(left, crop_width, width) + 1) / width - 1
    grid = torch.stack(
        (x[:, None, :].expand(n, height, width), y[:, :, None].expand(n, height, width)), dim=-1
    )
    out = F.grid_sample(images.to(dtype), grid, padding_mode="border", align_corners=False)
    return out.to(images.dtype)


def _sample_positions(start: Tensor, length: Tensor, size: int) -> Tensor:
    """Where (in pixels, (N,size)) to read along one axis so that each crop fills the image.

    Positions stay between the crop's outermost pixels, so no pixel outside the crop shows.
    """
    steps = (torch.arange(size, dtype=start.dtype, device=start.device) + 0.5) / size
    positions = start[:, None] + steps * length[:, None] - 0.5
    return positions.clamp(start[:, None], (start + length - 1)[:, None])


def draw_crops(
    shape: torch.Size,
    generator: torch.Generator,
    *,
    scale: tuple[float, float] = (0.2, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Tensor:
    """One random crop per image of a batch of `shape` (N,C,H,W); arguments as above.

    Returns:
        float32 (4,N) on the CPU: top, left, height and width, whole numbers of pixels.

    Raises:
        ValueError: for a range that is none.
    """
    if not 0 < scale[0] <= scale[1] <= 1:
        raise ValueError(f"scale: expected 0 < smallest <= largest <= 1, got {scale}")
    if not 0 < ratio[0] <= ratio[1]:
        raise ValueError(f"ratio: expected 0 < smallest <= largest, got {ratio}")
    n, _, height, width = shape
    low, high = math.log(ratio[0]), math.log(ratio[1])
    draws = torch.rand(2, n, ATTEMPTS, generator=generator)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * draws[0])
    aspect = torch.exp(low + (high - low) * draws[1])
    widths, heights = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
    # The largest central crop stands last, where it is found if nothing before it fits.
    widest, tallest = min(width, round(height * ratio[1])), min(height, round(width / ratio[0]))
    widths = torch.cat((widths, torch.full((n, 1), float(widest))), dim=1)
    heights = torch.cat((heights, torch.full((n, 1), float(tallest))), dim=1)
    fits = (widths >= 1) & (widths <= width) & (heights >= 1) & (heights <= height)
    # argmax gives the first of equal values.
    first = fits.int().argmax(1, keepdim=True)
    crop_width, crop_height = widths.gather(1, first)[:, 0], heights.gather(1, first)[:, 0]
    place = torch.rand(2, n, generator=generator)
    top = (place[0] * (height - crop_height + 1)).floor()
    left = (place[1] * (width - crop_width + 1)).floor()
    central = first[:, 0] == ATTEMPTS
    top = torch.where(central, ((height - crop_height) / 2).floor(), top)
    left = torch.where(central, ((width - crop_width) / 2).floor(), left)
    return torch.stack((top, left, crop_height, crop_width))
