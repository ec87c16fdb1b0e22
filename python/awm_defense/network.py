"""The copy of a network that purification works in."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from awm_defense.flat import FlatMasks, maskable
from awm_defense.fold import fold_batchnorm, scale_weights
from awm_defense.recipes import Recipe

# Relative change of the logits by which folding may differ from the network as it was.
FOLD_TOLERANCE = 1e-3


class WorkingNetwork:
    """The working copy: pixel-space images in, logits out; folded and channels_last if it can."""

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        sample: Tensor,
        mean: Tensor | None,
        std: Tensor | None,
        notes: list[str],
    ) -> None:
        self.mean, self.std = mean, std
        self.channels_last = True
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        with torch.no_grad():
            expected = self._first_forward(sample, notes)
            self.module, scales = self._fold(sample, expected, notes)
        # A folded network without its scale is not the original: keep one that is.
        self.original = copy.deepcopy(self.module)
        scale_weights(self.original, scales)
        moments = 2 if recipe.mask_optimizer == "adam" else 0
        self.flat = FlatMasks(
            self.module,
            list(maskable(self.module, recipe.layers)),
            self._carried(scales, recipe),
            channels_last=self.channels_last,
            moments=moments,
        )
        if self.channels_last:
            self.original.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _first_forward(self, sample: Tensor, notes: list[str]) -> Tensor:
        try:
            logits = self.forward(self.module, self.layout(sample))
        except RuntimeError:
            self.channels_last = False
            logits = self.forward(self.module, self.layout(sample))
            notes.append("the model does not take channels_last input; contiguous is used")
        if logits.dim() != 2:
            raise ValueError(f"model: expected logits (n, classes), got {tuple(logits.shape)}")
        return logits

    def _fold(
        self, sample: Tensor, expected: Tensor, notes: list[str]
    ) -> tuple[nn.Module, dict[str, Tensor]]:
        try:
            folded, scales = fold_batchnorm(self.module)
        except Exception as error:  # torch.fx raises whatever the model's own code raises
            notes.append(f"BatchNorm is not folded: torch.fx can't trace the model ({error})")
            return self.module, {}
        check = copy.deepcopy(folded)
        scale_weights(check, scales)
        error_size = (self.forward(check, self.layout(sample)) - expected).abs().max()
        if not error_size <= FOLD_TOLERANCE * expected.abs().max().clamp(min=1):
            notes.append(f"BatchNorm is not folded: logits would change by {error_size:.2g}")
            return self.module, {}
        return folded, scales

    def _carried(self, scales: dict[str, Tensor], recipe: Recipe) -> dict[str, Tensor]:
        """Scales that masks carry; those of layers without a mask go into the weight."""
        masked = maskable(self.module, recipe.layers)
        rest = {name: scale for name, scale in scales.items() if name not in masked}
        scale_weights(self.module, rest)
        return {name: scale for name, scale in scales.items() if name in masked}

    def layout(self, images: Tensor) -> Tensor:
        """`images` in the memory format the network runs in."""
        if self.channels_last:
            return images.contiguous(memory_format=torch.channels_last)
        return images.contiguous()

    def forward(self, module: nn.Module, images: Tensor) -> Tensor:
        if self.mean is not None and self.std is not None:
            images = (images - self.mean) / self.std
        logits: Tensor = module(images)
        return logits

    def __call__(self, images: Tensor) -> Tensor:
        return self.forward(self.module, images)
