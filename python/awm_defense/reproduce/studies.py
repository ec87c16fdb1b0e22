"""What is done with a network in one cell, and what is measured then."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from awm_defense.attacks import Attack
from awm_defense.baselines.anp import Anp, prune, with_worst_noise
from awm_defense.baselines.run import make_task
from awm_defense.data import Dataset, as_float
from awm_defense.metrics import accuracy, evaluate
from awm_defense.pixel_model import PixelModel
from awm_defense.purification import purify
from awm_defense.result import PurifyResult
from awm_defense.settings import Settings

# Pruning thresholds of Figure 1 (b).
THRESHOLDS = tuple(tenth / 10 for tenth in range(10))
# Together with channels_last what the small VGG is measured fastest with on a CPU.
BATCH = 200


@dataclass(frozen=True, eq=False)
class Trial:
    """What a study works on; `model` is on `device`, the other fields are those of a cell."""

    model: nn.Module
    attack: Attack | None
    data: Dataset
    recipe: Settings | None
    n: int | None
    seed: int
    limit: int | None
    device: torch.device
    precision: str = "auto"

    def defender(self) -> tuple[Tensor, Tensor]:
        """The images (n,3,H,W) in [0,1] and labels that the defender has."""
        per_class = 1 if self.n is None else None
        images, labels = self.data.draw(per_class=per_class, n=self.n, seed=self.seed)
        return images.to(self.device), labels.to(self.device)

    def test(self) -> tuple[Tensor, Tensor]:
        """The test images, as float, and labels."""
        images, labels = self.data.test_images[: self.limit], self.data.test_labels[: self.limit]
        return as_float(images).contiguous(memory_format=torch.channels_last), labels

    def measure(self, model: nn.Module) -> dict[str, float]:
        """`evaluate` on the test images; accuracy alone of a network without a backdoor."""
        options: dict[str, Any] = {"batch_size": BATCH, "device": self.device}
        if self.attack is None:
            found = {"acc": accuracy(model, *self.test(), **options)}
        else:
            found = evaluate(model, *self.test(), self.attack, **options)
        return {name: round(value, 4) for name, value in found.items()}

    def purify(self) -> PurifyResult:
        """What the recipe makes of the network."""
        assert self.recipe is not None
        options: dict[str, Any] = {"precision": self.precision, "seed": self.seed}
        result = purify(self.model, *self.defender(), recipe=self.recipe, **options)
        if result.interrupted:
            raise KeyboardInterrupt
        return result


def origin(trial: Trial) -> dict[str, Any]:
    """The network as it is."""
    return {"metrics": trial.measure(trial.model)}


def purified(trial: Trial) -> dict[str, Any]:
    """The network that a recipe purified."""
    result = trial.purify()
    return {"metrics": trial.measure(result.model), **_facts(result)}


def perturbed(trial: Trial) -> dict[str, Any]:
    """How predictions spread over the classes when ANP has perturbed the neurons (Figure 1)."""
    assert isinstance(trial.recipe, Anp)
    options: dict[str, Any] = {"precision": trial.precision, "seed": trial.seed}
    images, labels = trial.defender()
    pixel_model = PixelModel(trial.model, images).copy(images)
    task, _ = make_task(pixel_model, *pixel_model.take(images, labels), trial.recipe, **options)
    model = with_worst_noise(task, trial.recipe)
    classes = len(trial.data.classes)
    counts = torch.zeros(classes, dtype=torch.int64)
    model.eval()
    with torch.inference_mode():
        for batch in trial.test()[0].split(BATCH):
            predicted = model(batch.to(trial.device)).argmax(1).cpu()
            counts += predicted.bincount(minlength=classes)
    return {"shares": (100 * counts / counts.sum()).tolist(), "recipe": asdict(trial.recipe)}


def thresholds(trial: Trial) -> dict[str, Any]:
    """ANP's result under other pruning thresholds (Figure 1 (b))."""
    result = trial.purify()
    curve = [
        {"threshold": threshold, **trial.measure(prune(trial.model, result.masks, threshold))}
        for threshold in THRESHOLDS
    ]
    return {"curve": curve, **_facts(result)}


def _facts(result: PurifyResult) -> dict[str, Any]:
    return {
        "seconds": round(result.seconds, 3),
        "peak_memory_mb": round(result.peak_memory_mb, 1),
        "recipe": asdict(result.recipe),
        "precision": result.precision.describe(),
        "notes": list(result.notes),
        "verdict": None if result.verdict is None else result.verdict.facts(),
    }


STUDIES: dict[str, Callable[[Trial], dict[str, Any]]] = {
    "origin": origin,
    "purified": purified,
    "perturbed": perturbed,
    "thresholds": thresholds,
}
