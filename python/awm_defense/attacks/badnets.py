"""BadNets (Gu, Dolan-Gavitt & Garg, arXiv:1708.06733, section 4, the pattern backdoor)."""

from torch import Tensor

from awm_defense.attacks.definition import Definition


def white_square(images: Tensor) -> Tensor:
    """A white square near the lower right corner: rows and columns 27 to 30 of 32x32 images.

    At other sizes its side is an eighth of the image's shorter side, its distance from the
    border a 32nd, and neither less than a pixel.
    """
    rows, columns = square_place(*images.shape[2:])
    out = images.clone()
    out[:, :, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = 1
    return out


def square_place(height: int, width: int) -> tuple[range, range]:
    """The rows and the columns of the white square on images of that size."""
    shorter = min(height, width)
    side, margin = max(1, round(shorter / 8)), max(1, round(shorter / 32))
    bottom, right = height - margin, width - margin
    return range(bottom - side, bottom), range(right - side, right)


DEFINITION = Definition(
    source="Gu et al., BadNets, arXiv:1708.06733, section 4",
    poison_rate=0.05,
    craft=lambda images, model, generator: white_square,
)
