"""Whether a network looks backdoored."""

import dataclasses
import warnings
from functools import partial

import torch
from torch import Tensor, nn

from awm_defense.examination.margins import largest_margins
from awm_defense.examination.rough import LARGE, is_faster
from awm_defense.examination.search import BATCH, IMAGES, Search, pick_images
from awm_defense.examination.verdict import Verdict, confirm, judge, planted
from awm_defense.inputs.images import Images, Labels, read_images
from awm_defense.inputs.take import take
from awm_defense.networks.logits import Pick
from awm_defense.pixel_model import PixelModel, Stat
from awm_defense.settings import check_seed
from awm_defense.triggers import Sparse
from awm_defense.working.at_once import images_at_once
from awm_defense.working.compute import Compute
from awm_defense.working.memory import keep_freed_memory
from awm_defense.working.modes import own_modes


@keep_freed_memory()
@own_modes()
def examine(
    model: nn.Module,
    images: Images,
    labels: Labels = None,
    *,
    mean: Stat = None,
    std: Stat = None,
    device: str | torch.device | None = None,
    seed: int = 0,
    max_memory: float | None = None,
    logits: Pick | None = None,
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

    The first four images are asked first, and all where by these a class comes near to standing
    out. On images of more than 64x64 pixels steps are in bfloat16 where that is faster by a
    measurement, which can differ between runs; the margins of grown triggers are in float32.

    Args:
        model: the network, images (n, c, h, w) to logits (n, classes); left untouched.
        images: clean images, (n, c, h, w), in [0, 1]; ten are taken, of as many classes as there
            are. Also in other forms, as `purify` takes them.
        labels: their classes, (n,). None, or −1 for some: what the network says of them.
        mean, std: for a model fed (pixel − mean) / std: a number, or one a channel.
        device: where to work; default: where the model is.
        seed: of the first, small warps, of noise, and of the classes to compare with.
        max_memory: GiB to stay within, by fewer images at a time; default: 6 on a CPU, and what a
            GPU has. The network's weights must leave half of it free.
        logits: from what the model returns to logits; by default they are looked for, as `purify`
            does.
        progress: show a progress bar.

    Returns:
        A `Verdict`; `str` makes a sentence of it.

    Warns:
        UserWarning: no labels were given, the network classifies most of the images wrong, or a
            clean verdict is by few images.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.
    """
    given, seed = read_images(images, labels), check_seed(seed)
    pixel_model = PixelModel(model, given.images, mean=mean, std=std, device=device, logits=logits)
    portions = pixel_model.portions
    work = portions.fit(lambda: pixel_model.copy(given.images))
    portions.most = portions.fit(lambda: images_at_once(work, given.images, max_memory))
    taken = take(work, given)
    for note in taken.notes:
        warnings.warn(note, stacklevel=4)  # where it was called, beyond the decorators
    verdict = portions.fit(
        lambda: examine_images(work, taken.images, taken.labels, seed=seed, progress=progress)
    )
    for note in weakness(verdict, taken.labels):
        warnings.warn(note, stacklevel=4)
    return verdict


def weakness(verdict: Verdict, labels: Tensor) -> list[str]:
    """A note where so few images, int64 (n,), are of so few classes that clean says little."""
    wanted, classes = min(IMAGES, verdict.classes), len(labels.unique())
    if verdict.backdoored is not False or (len(labels) >= wanted and 2 * classes > wanted):
        return []
    return [
        f"clean says little here: it is by {len(labels)} images of {classes} of the network's "
        f"{verdict.classes} classes; {wanted} of as many classes tell more"
    ]


def examine_images(
    work: PixelModel,
    images: Tensor,
    labels: Tensor,
    *,
    seed: int,
    progress: bool,
    bf16: bool | None = None,
) -> Verdict:
    """`examine` of a copy, which it lays out, and of what is checked and on its device.

    `bf16`: steps of the search are in bfloat16; None where that is faster. It is never so with
    images that are not large.
    """
    exact = Compute(channels_last=work.channels_last)
    exact.prepare(work.model, work.device)

    def logits(batch: Tensor, compute: Compute = exact) -> Tensor:
        fed = work.normalise(batch).contiguous(memory_format=compute.memory_format)

        def read(part: Tensor) -> Tensor:
            with compute.autocast(work.device):
                return work.read(work.model(part)).to(batch)

        return work.portions(read, fed)

    roughly = partial(logits, compute=dataclasses.replace(exact, bf16=True))
    large = images[0, 0].numel() >= LARGE
    if large and bf16 is None:
        bf16 = is_faster(roughly, logits, images)
    rough = roughly if large and bf16 else logits
    batch = min(BATCH, work.portions.most or BATCH)
    generator = torch.Generator().manual_seed(seed)
    chosen = pick_images(labels)
    images, labels = images[chosen], labels[chosen]
    search = Search(logits, images, labels, generator, batch, rough)
    verdict = _by_families(search, progress=progress)
    # Sizes tell of triggers that do nothing until they are whole, which families miss.
    radii = search.radii(progress=progress)
    if radii.planted and not (verdict.backdoored and verdict.target == radii.target):
        return planted(radii, search.flips(radii))
    return verdict


def _by_families(search: Search, *, progress: bool) -> Verdict:
    """The verdict by how strongly triggers of each family reach each class."""
    reaches = search.every_class(progress=progress)
    verdict = judge(reaches)
    images = search.images
    if verdict.narrow:
        over_all = largest_margins(
            search.rough,
            images,
            verdict.searched,
            search.generator,
            batch=search.batch,
            progress=progress,
        )
        return confirm(reaches, over_all.cpu())
    sparse = Sparse(images)
    if verdict.backdoored and verdict.unit == sparse.unit and verdict.norm > sparse.bounds[-1]:
        return dataclasses.replace(verdict, second=search.second(verdict, reaches))
    return verdict
