"""What a purification gives back."""

import sys
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from awm_defense.examination.verdict import Verdict
from awm_defense.settings import Settings
from awm_defense.working.precision import Precision


@dataclass(repr=False)
class PurifyResult:
    """What `purify` returns."""

    model: nn.Module
    """A copy of the given model, same class, its weights replaced by m ⊙ θ."""
    masks: dict[str, Tensor]
    """m of each masked layer, by its name, in its weight's shape; in [0, 1]. Empty from defenses
    without masks."""
    trigger: Tensor | None
    """Δ of the last epoch that sought one, (c, h, w), in pixel space (values of images in [0, 1]);
    None from defenses that look for none. Where nothing was masked, zeros."""
    history: list[dict[str, float]]
    """One entry an epoch: epoch, clean_loss, trigger_loss, trigger_norm (L1, in the ball),
    perturbed_loss (under Δ), mask_mean (of all masks, at its end). Losses are cross-entropies at
    the recipe's temperature T, times T², means over the epoch's steps. Epochs that seek no Δ lack
    what is said of it; one under grown triggers has grown_loss, too."""
    seconds: float
    """Wall-clock time of the purification."""
    peak_memory_mb: float
    """CUDA: peak of memory allocated meanwhile. CPU: peak resident size of the process; NaN where
    the system does not tell (Windows)."""
    recipe: Settings
    """The recipe, with every value that was used."""
    precision: Precision
    """The dtypes that were used; give it to `purify` to repeat the run exactly."""
    notes: list[str] = field(default_factory=list)
    """What did not go as usual: fallbacks, non-finite values, an interruption."""
    verdict: Verdict | None = None
    """What the network looked like, from recipes that examine it (`Recipe.examine`). One that
    looked clean is returned as it was, with masks of ones and no history."""
    coverage: dict[str, tuple[int, int]] = field(default_factory=dict)
    """How many numbers carry a mask, and how many there are, by kind of parameter: "convolution",
    "linear", "attention", "normalisation", "embedding", "bias", "other". Empty from defenses
    without masks on weights."""
    interrupted: bool = False
    """Whether Ctrl-C ended it; the masks are those of the last whole epoch."""

    def __repr__(self) -> str:
        return (
            f"<PurifyResult: {type(self.model).__name__}, {self.recipe.name}, "
            f"{self.seconds:.1f} s, {len(self.masks)} masks, {len(self.notes)} notes>"
        )


def peak_memory_mb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:  # Windows has none
        return float("nan")
    # macOS counts bytes, Linux KiB.
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
