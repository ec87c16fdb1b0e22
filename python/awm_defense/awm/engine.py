"""Epochs of Adversarial Weight Masking on a working copy of a network."""

import dataclasses

import torch
from torch import Tensor

from awm_defense.awm.batches import Batches
from awm_defense.awm.buffers import Buffers
from awm_defense.awm.capture import capturing
from awm_defense.awm.mask_phase import MaskPhase
from awm_defense.awm.phase import Work
from awm_defense.awm.recipe import Recipe
from awm_defense.awm.schedule import Epoch, Under, plan
from awm_defense.awm.trigger_phase import TriggerPhase
from awm_defense.examination.growth import Growth
from awm_defense.examination.search import Search, pick_images
from awm_defense.examination.verdict import Verdict
from awm_defense.networks.masked import find_weights
from awm_defense.pixel_model import PixelModel, check_labels
from awm_defense.triggers import family_of
from awm_defense.working.flat import in_convolutions, mean_inputs
from awm_defense.working.network import WorkingNetwork
from awm_defense.working.precision import Precision


class Engine:
    """Runs epochs of a recipe (AWM paper, Algorithm 1).

    The host waits for the device between epochs: for the history, and for whether the backdoor is
    back. In a step it never does.

    Args:
        network: the working copy of the model.
        data: the images, and the draws of batches from them.
        recipe: resolved, without a None.
        captured: whether steps are captured as CUDA graphs, on a CUDA device.
    """

    def __init__(
        self, network: WorkingNetwork, data: Batches, recipe: Recipe, *, captured: bool
    ) -> None:
        self.network, self.data, self.recipe = network, data, recipe
        self.buffers = Buffers(data)
        capture = capturing(data.images.device, enabled=captured)
        self.work = Work(network, data, recipe, self.buffers, capture)
        self.trigger_phase = TriggerPhase(self.work)
        self.under_delta = MaskPhase(self.work)
        # For each family of triggers that verdicts named, those grown and the phases under them.
        self.growths: dict[str, Growth] = {}
        self.under_grown: dict[tuple[str, Under], MaskPhase] = {}
        self.verdict: Verdict | None = None
        self.last: Epoch | None = None
        self.sum: Tensor | None = None
        self.summed = 0

    def follow(self, verdict: Verdict | None, *, progress: bool = False) -> None:
        """Grow the verdict's trigger, for the epochs from now on; None: they are all under Δ."""
        self.verdict = verdict if self.recipe.grown else None
        self.sum, self.summed = None, 0
        if self.verdict is None:
            return
        unit, data = self.verdict.unit, self.data
        if unit not in self.growths:
            few = pick_images(data.labels)
            given = family_of(unit, data.images), data.images[few], data.labels[few]
            growth = Growth(*given, self.recipe.grown, data.generator)
            self.growths[unit] = growth
            for under in (Under.BOTH, Under.GROWN, Under.NOTHING):
                natural = under is Under.BOTH and self.recipe.natural_step is not None
                phase = MaskPhase(self.work, under=under, natural=natural, growth=growth)
                self.under_grown[unit, under] = phase
        self.growth.start(self.verdict, self.network.logits, progress=progress)

    @property
    def growth(self) -> Growth:
        """The triggers grown from the verdict that is followed."""
        assert self.verdict is not None
        return self.growths[self.verdict.unit]

    def plan(self, number: int) -> Epoch:
        """What the epoch of that number, from 0, will do."""
        before = self.last if self.last is not None and self.last.number == number - 1 else None
        most = self.recipe.trigger_epochs
        alive = (
            self.verdict is not None
            and before is not None
            and most is not None
            and number >= most
            and self.growth.alive(self.verdict.target, self.network.logits)
        )
        growing = self.verdict is not None
        return plan(self.recipe, number, growing=growing, alive=alive, before=before)

    def mask_phase(self, epoch: Epoch) -> MaskPhase:
        """The mask phase of an epoch."""
        if self.verdict is None:
            return self.under_delta
        return self.under_grown[self.verdict.unit, epoch.under]

    def epoch(self, number: int) -> dict[str, float]:
        """One outer iteration; returns its history entry, and `bad`: non-finite mask gradients."""
        self.last = epoch = self.plan(number)
        mask_phase = self.mask_phase(epoch)
        self.buffers.bad.zero_()
        weights = epoch.weights(self.recipe)
        self.buffers.weights.copy_(torch.tensor(weights, dtype=torch.float64))
        if epoch.forgets:
            self.network.flat.forget()
        if Under.DELTA in epoch.under:
            self.trigger_phase.run()
        if epoch.searches_again:
            self._search_again(epoch)
        if epoch.weighs:
            mask_phase.weigh()
        mask_phase.run(epoch.rate)
        if epoch.averaged(self.recipe):
            self._average(epoch)
        return self._history(epoch)

    def _average(self, epoch: Epoch) -> None:
        """Count this epoch's masks in; after the last one the network gets the mean of all."""
        flat = self.network.flat
        # Not all of them: on a large network each takes as much memory as its weights.
        self.sum = flat.mask.clone() if self.sum is None else self.sum.add_(flat.mask)
        self.summed += 1
        if epoch.number == self.recipe.epochs - 1:
            flat.restore(self.sum.div_(self.summed))
            self.sum = None

    def _search_again(self, epoch: Epoch) -> None:
        """Grow triggers anew, from what still leads to the verdict's class, or from noise."""
        assert self.verdict is not None
        growth, again, logits = self.growth, self.verdict, self.network.logits
        condensed = epoch.held or self.verdict.radii is not None
        if not condensed:
            search = Search(logits, growth.images, growth.labels, growth.generator)
            found = search.one_class(self.verdict.target, growth.family)
            again = dataclasses.replace(self.verdict, trigger=found, second=None)
        if epoch.back:
            with self.network.flat.unmasked():
                growth.hold(self.verdict, logits)
        # What grew first must not come back meanwhile.
        growth.start(again, logits, keep=len(growth.grown) // 2, condensed=condensed)

    def _history(self, epoch: Epoch) -> dict[str, float]:
        buffers, flat = self.buffers, self.network.flat
        clean, perturbed, grown = buffers.mask_losses.double().mean(dim=0)
        values = {"clean_loss": clean}
        if Under.DELTA in epoch.under:
            values["trigger_loss"] = buffers.trigger_losses.double().mean()
            values["trigger_norm"] = buffers.delta.double().abs().sum()
            values["perturbed_loss"] = perturbed
        if Under.GROWN in epoch.under:
            values["grown_loss"] = grown
        values["mask_mean"] = flat.stats[0] / flat.mask.numel()
        values["bad"] = buffers.bad
        numbers = torch.stack(list(values.values())).tolist()
        return {"epoch": float(epoch.number), **dict(zip(values, numbers, strict=True))}


def make_engine(
    work: PixelModel,
    images: Tensor,
    labels: Tensor,
    recipe: Recipe,
    *,
    precision: str | Precision = "auto",
    captured: bool = True,
    seed: int = 0,
    notes: list[str] | None = None,
) -> Engine:
    """An engine for one network; arguments are those of `purify`.

    `work` is a copy of the network, which stays as it is; images and labels are on its device.
    `notes` receives what does not go as usual.
    """
    classes = len(labels.unique())
    recipe = recipe.resolve(len(images), classes, images[0].numel())
    weights = find_weights(work.model, recipe.layers)
    if not weights:
        raise ValueError(
            f"model: expected weights to mask (layers={recipe.layers!r}), got none; "
            f"layers='all' masks every matrix, patterns any parameter"
        )
    recipe = recipe.for_layers(mean_inputs(weights.values()), in_convolutions(weights.values()))
    data = Batches(images, labels, recipe, len(images) <= classes, seed)
    network = WorkingNetwork(
        work,
        images,
        batch=2 * data.batch,  # of a mask step under Δ alone
        layers=recipe.layers,
        moments=2 if recipe.mask_optimizer == "adam" else 0,
        keeps_original="original" in (recipe.trigger_targets, recipe.mask_targets),
        precision=precision,
        notes=[] if notes is None else notes,
    )
    check_labels(labels, network.classes)
    return Engine(network, data, recipe, captured=captured)
