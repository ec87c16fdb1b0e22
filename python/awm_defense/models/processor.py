"""How networks of Hugging Face want their images: what preprocessor_config.json says."""

from pathlib import Path
from typing import Any

from awm_defense.files import schema
from awm_defense.files.json_file import read_json
from awm_defense.files.manifest import check
from awm_defense.files.text import shown
from awm_defense.inputs.preparation import FILTERS, Preparation

PROCESSOR = "preprocessor_config.json"
# What Pillow calls its filters, which is what a processor has.
FILTER_NAMES = {number.value: name for name, number in FILTERS.items()}
# Processors, without the ends of their names. Where `size` is one number, these fit both sides to
# it; the next ones the shorter side.
SQUARE = ("ViT", "DeiT", "Beit", "Pvt", "EfficientNet")
SHORTEST = ("Bit", "CLIP", "MobileNetV1", "MobileNetV2", "MobileViT", "ConvNext")
ENDS = ("Pil", "Fast", "ImageProcessor", "FeatureExtractor")
# From so many pixels on, ConvNext fits both sides.
LARGE = 384
# What is done to no image here.
OTHER_WORK = ("do_flip_channel_order", "do_pad", "do_grayscale", "rescale_offset")
INSTEAD = "move the file away, and give --size, --crop, --mean and --std"

SIDE = schema.whole(1, 10_000)
SIDES = schema.record(
    {"height": SIDE, "width": SIDE, "shortest_edge": schema.optional(SIDE)}, closed=True
)
SIZE = schema.optional(
    lambda name, value: (SIDES if isinstance(value, dict) else SIDE)(name, value)
)
STATS = schema.optional(schema.listing(schema.number(0, 255)))
TRUTH = schema.optional(schema.truth)
NAME = schema.optional(schema.text())
FIELDS = {
    "image_processor_type": NAME,
    "feature_extractor_type": NAME,
    "size": SIZE,
    "crop_size": SIZE,
    "do_resize": schema.truth,
    "do_center_crop": TRUTH,
    "do_normalize": TRUTH,
    "do_rescale": TRUTH,
    "rescale_factor": schema.number(1e-4, 1),
    "include_top": TRUTH,
    "image_mean": STATS,
    "image_std": STATS,
    "resample": schema.whole(0, 5),
    "crop_pct": schema.optional(schema.number(0.1, 1)),
    **dict.fromkeys(OTHER_WORK, TRUTH),
}


def prepare(folder: str) -> Preparation:
    """How preprocessor_config.json in a folder wants images, if it is there.

    Raises:
        ValueError: it is broken, or wants what is not done here; the message names the entry.
    """
    path = Path(folder) / PROCESSOR
    if not path.is_file():
        return Preparation()
    found = read_json(path)
    made: list[Preparation] = []

    def take(name: str, value: Any) -> None:
        schema.record(FIELDS)(name, value)
        made.append(_preparation(value))

    check(path, take, found)
    return made[0]


def _preparation(found: dict[str, Any]) -> Preparation:
    kind = _kind(found)
    for name in OTHER_WORK:
        # What is not said, MobileViT does.
        if found.get(name, kind == "MobileViT" and name == "do_flip_channel_order"):
            raise ValueError(
                f"{name}: expected false, got true; move the file away, and give code that does it "
                "by --model"
            )
    mean, std = _statistics(found, kind)
    size, crop, squash = _geometry(found, kind)
    return Preparation(
        size=size,
        crop=crop,
        squash=squash,
        filter=FILTER_NAMES.get(found.get("resample", -1), "bilinear"),
        mean=mean,
        std=std,
    )


def _kind(found: dict[str, Any]) -> str:
    """Which processor it is; "" where it is not said."""
    name = kind = found.get("image_processor_type") or found.get("feature_extractor_type") or ""
    for end in ENDS:
        kind = kind.removesuffix(end)
    if name and kind not in (*SQUARE, *SHORTEST):
        known = ", ".join((*SQUARE, *SHORTEST))
        raise ValueError(
            f"image_processor_type: expected one of {known}, got {shown(name)}; {INSTEAD}"
        )
    return str(kind)


def _statistics(found: dict[str, Any], kind: str) -> tuple[list[float] | None, list[float] | None]:
    """mean and std for pixels in [0,1], where a processor's are for those that it has rescaled."""
    factor = found.get("rescale_factor", 1 / 255) if found.get("do_rescale", True) else 1.0
    scale = 255 * factor
    if abs(scale - 1) < 1e-6:  # as 0.00392156862745098 is meant
        scale = 1.0
    mean, std = found.get("image_mean"), found.get("image_std")
    normalised = found.get("do_normalize", True) and kind != "MobileViT"
    known = mean is not None or std is not None or kind or found.get("do_normalize")
    if not (normalised and known):
        return (None, None) if scale == 1 else ([0.0], [1 / scale])
    if mean is None or std is None:
        raise ValueError(f"image_mean, image_std: expected both, got {mean} and {std}")
    if kind == "EfficientNet" and found.get("include_top", True):
        std = [value * value for value in std]  # it divides twice
    return [value / scale for value in mean], [value / scale for value in std]


def _geometry(found: dict[str, Any], kind: str) -> tuple[tuple[int, int] | None, float, bool]:
    """What `Preparation` calls size, crop and squash."""
    # ConvNext crops by a share of its own, which others don't have.
    by_share = kind == "ConvNext" or (not kind and found.get("crop_pct") is not None)
    cropped = found.get("do_center_crop", kind in SHORTEST) and not by_share
    if not found.get("do_resize", True) or found.get("size") is None:
        if cropped or (kind and found.get("do_resize", True)):
            raise ValueError("size: expected one to resize to, got none")
        return None, 1.0, True
    size, shortest = _sides("size", found["size"], square=kind not in SHORTEST)
    if by_share:
        if size[0] >= LARGE:
            return size, 1.0, True
        return size, float(found.get("crop_pct") or 224 / 256), False
    if not cropped:
        return size, 1.0, not shortest
    crop, _ = _sides("crop_size", found.get("crop_size"), square=True)
    share = crop[0] / size[0]
    if share > 1 or share != crop[1] / size[1]:
        raise ValueError(
            f"crop_size: expected a part of the size {size[0]}x{size[1]} in its shape, got "
            f"{crop[0]}x{crop[1]}"
        )
    return crop, share, not shortest


def _sides(name: str, value: Any, *, square: bool) -> tuple[tuple[int, int], bool]:
    """(h, w), and whether it is the shorter side that has to fit."""
    if isinstance(value, int):
        return (value, value), not square
    sides = value or {}
    edge, height, width = (sides.get(key) for key in ("shortest_edge", "height", "width"))
    if edge is not None and height is None and width is None:
        return (edge, edge), True
    if edge is None and height is not None and width is not None:
        return (height, width), False
    raise ValueError(f"{name}: expected height and width, or shortest_edge, got {shown(value)}")
