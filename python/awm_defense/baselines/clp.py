"""Channel Lipschitz pruning (Zheng et al., ECCV 2022, arXiv:2208.03111): it needs no data."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from awm_defense.baselines.baseline import Baseline, Erased, Task
from awm_defense.working.fold import channel_factors, conv_norm_pairs, trace


@dataclass(frozen=True)
class Clp(Baseline):
    """Channels whose Lipschitz bound stands out in their layer are cut off."""

    least: ClassVar[dict[str, float]] = {"u": 0}
    u: float = 3.0
    """How many standard deviations above a layer's mean a bound stands out."""

    @torch.no_grad()
    def erase(self, task: Task) -> Erased:
        """Prune in place."""
        try:
            pairs = conv_norm_pairs(trace(task.model))
        except Exception as error:  # torch.fx raises whatever the model's own code raises
            raise ValueError(f"model: expected one that torch.fx can trace: {error}") from error
        if not pairs:
            raise ValueError("model: expected convolutions followed by BatchNorm, got none")
        cut = total = 0
        masks = {}
        for conv_name, norm_name in pairs.items():
            conv: Any = task.model.get_submodule(conv_name)
            norm: Any = task.model.get_submodule(norm_name)
            scale, _ = channel_factors(norm)
            weight = conv.weight.double() * scale.view(-1, *[1] * (conv.weight.dim() - 1))
            # Each channel is a map from input channels to positions of the kernel.
            bounds = torch.linalg.matrix_norm(weight.flatten(2), ord=2)
            keep = bounds <= bounds.mean() + self.u * bounds.std()
            norm.weight.mul_(keep)
            norm.bias.mul_(keep)
            masks[norm_name] = keep.to(norm.weight)
            cut, total = cut + int((~keep).sum()), total + len(keep)
        task.notes.append(f"{cut} of {total} channels are cut")
        return Erased([], masks)
