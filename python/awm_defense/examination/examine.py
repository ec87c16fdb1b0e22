"""Whether a network looks backdoored."""

import dataclasses

import torch
from torch import Tensor, nn

from awm_defense.examination.margins import largest_margins
from awm_defense.examination.search import BATCH, Search, pick_images
from awm_defense.examination.verdict import Verdict, confirm, judge
from awm_defense.pixel_model import PixelModel, Stat
from awm_defense.triggers import Sparse
from awm_defense.working.chunks import images_at_once, in_chunks
from awm_defense.working.compute import Compute
from awm_defense.working.memory import keep_freed_memory


@keep_freed_memory()
def examine(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    mean: Stat = None,
    std: Stat = None,
    device: str | torch.device | None = None,
    seed: int = 0,
    max_memory: float | None = None,
    progress: bool = False,
) -> Verdict:
    """Whether a network looks backdoored, and toward which class.

    For every class universal triggers that lead there are sought (Wang et al., Neural Cleanse,
    IEEE S&P 2019), sparse and faint ones that are added to images and smooth warps of them, and
    grown as far as they go. A planted class is then reached far more strongly than any honest one:
    its trigger is what the network was taught to answer to. One that falls short of that by little
    must also be the class with the largest margin over all images, and stand out in that.

    Of more than fifty classes ten are searched: the five that are the easiest to reach by a quick
    screen of all, and five others to compare with (`Verdict.screening`).

    Args:
        model: the network, images (n, c, h, w) to logits (n, classes); left untouched.
        images: clean images, (n, c, h, w), floating point in [0, 1]; ten are taken, of as many
            classes as there are.
        labels: their classes, int64, (n,).
        mean, std: for a model fed (pixel − mean) / std: a number, or one a channel.
        device: where to work; default: where the model is.
        seed: of the first, small warps, of noise, and of the classes to compare with.
        max_memory: GiB to stay within, by fewer images at a time; default: 6 on a CPU, and what a
            GPU has. The network's weights must leave half of it free.
        progress: show a progress bar.

    Returns:
        A `Verdict`; `str` makes a sentence of it.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.
    """
    pixel_model = PixelModel(model, images, mean=mean, std=std, device=device)
    given = pixel_model.take(images, labels)
    at_once = images_at_once(pixel_model, given[0], max_memory)
    return examine_images(pixel_model, *given, at_once=at_once, seed=seed, progress=progress)


def examine_images(
    pixel_model: PixelModel,
    images: Tensor,
    labels: Tensor,
    *,
    at_once: int,
    seed: int,
    progress: bool,
) -> Verdict:
    """`examine` of what is checked and on its device, at most so many images at once."""
    work = pixel_model.copy()
    # In float32: bfloat16 takes half the time, but moved scores by up to 0.4 in a trial, a good
    # part of what lies between benign and backdoored.
    compute = Compute()
    compute.prepare(work.model, work.device)

    def forward(batch: Tensor) -> Tensor:
        normalised = work.normalise(batch)
        found: Tensor = work.model(normalised.contiguous(memory_format=compute.memory_format))
        return found

    def logits(batch: Tensor) -> Tensor:
        return in_chunks(forward, batch, at_once)

    batch = min(BATCH, at_once)
    generator = torch.Generator().manual_seed(seed)
    chosen = pick_images(labels)
    images, labels = images[chosen], labels[chosen]
    search = Search(logits, images, labels, generator, batch)
    reaches = search.every_class(progress=progress)
    verdict = judge(reaches)
    if verdict.narrow:
        over_all = largest_margins(
            logits, images, verdict.searched, generator, batch=batch, progress=progress
        )
        return confirm(reaches, over_all.cpu())
    sparse = Sparse(images)
    if verdict.backdoored and verdict.unit == sparse.unit and verdict.norm > sparse.bounds[-1]:
        return dataclasses.replace(verdict, second=search.second(verdict, reaches))
    return verdict
