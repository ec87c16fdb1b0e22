"""The copy of a network that purification works in."""

import copy

import torch
from torch import Tensor, nn

from awm_defense.networks.masked import find_weights
from awm_defense.pixel_model import PixelModel
from awm_defense.working.activations import fuse_activations
from awm_defense.working.compute import use_layout
from awm_defense.working.flat import FlatMasks
from awm_defense.working.fold import NORMS, fold_batchnorm, scale_weights
from awm_defense.working.mixed_conv import use_passes
from awm_defense.working.precision import Precision, asked_precision, measure

# Change of the logits, relative to the largest, by which folding and bfloat16 may differ from the
# network as it was.
FOLD_TOLERANCE = 1e-3
HALF_TOLERANCE = 0.05


class WorkingNetwork:
    """The working copy: pixel-space images in, logits out; folded and channels_last if it can.

    Args:
        pixel_model: a copy of the network to work from; it stays as it is.
        sample: images that the copy is tried on, (n, c, h, w), in the model's dtype.
        batch: images of a mask step, for which the precision is measured.
        layers: which weights get masks, as `find_weights` takes it.
        moments: of the mask optimiser, as `FlatMasks` takes it.
        keeps_original: whether a copy without masks is kept, to compare with.
        precision: as `purify` takes it.
        notes: what does not go as usual is appended.

    Attributes:
        original: that copy, or None.
        flat: the masks.
        classes: how many logits there are.
    """

    def __init__(
        self,
        pixel_model: PixelModel,
        sample: Tensor,
        *,
        batch: int,
        layers: str,
        moments: int,
        keeps_original: bool,
        precision: str | Precision,
        notes: list[str],
    ) -> None:
        self.normalise, self.read = pixel_model.normalise, pixel_model.read
        self.portions = pixel_model.portions
        self.sample, self.channels_last = sample[:batch], pixel_model.channels_last
        self.batch = batch
        self.names = list(find_weights(pixel_model.model, layers))
        self.dtype = sample.dtype
        self.folds = True
        self.module, scales = self._prepared(pixel_model.model, notes)
        # Those that the forward pass in eval mode does not use have no part in this.
        used = dict(self.module.named_parameters())
        self.names = [name for name in self.names if name in used]
        if not self.names:
            raise ValueError(f"model: expected weights to mask (layers={layers!r}), got none")
        if self.channels_last:
            use_layout(self.module, torch.channels_last)
        self.precision = self._precision(precision, scales, notes)
        self.original = self._scaled(self.module, scales) if keeps_original else None
        self.flat = FlatMasks(
            self.module,
            self.names,
            scales,
            channels_last=self.channels_last,
            moments=moments,
            dtype=self.precision.dtype,
        )
        self.dtype = self.precision.dtype
        for module in (self.module, self.original):
            if module is not None:
                module.to(self.dtype)
                use_passes(module, self.precision.passes)

    def load(self, model: nn.Module, notes: list[str]) -> None:
        """Work on another model of the same architecture from now on, in the same buffers."""
        running, folds = self.dtype, self.folds
        self.dtype = self.sample.dtype
        try:
            module, scales = self._prepared(model, notes)
            if self.folds != folds:
                raise ValueError(
                    "models: one can't be prepared as the first was: "
                    + "; ".join(notes or ["torch.fx traces only one of them"])
                )
        finally:
            self.dtype, self.folds = running, folds
        pairs = [(self.module, module)]
        if self.original is not None:
            pairs.append((self.original, self._scaled(module, scales)))
        for target, source in pairs:
            values = source.state_dict()
            shapes = {key: value.shape for key, value in values.items()}
            expected = {key: value.shape for key, value in target.state_dict().items()}
            if shapes != expected:
                differ = sorted({key for key, _ in shapes.items() ^ expected.items()})
                raise ValueError(
                    "models: expected networks of one architecture, got others at "
                    + ", ".join(differ[:5])
                )
            for key, value in target.state_dict().items():
                if target is self.original or key not in self.names:
                    value.copy_(values[key])
        weights = dict(module.named_parameters())
        self.flat.load([weights[name] for name in self.names], scales)

    def _prepared(self, model: nn.Module, notes: list[str]) -> tuple[nn.Module, dict[str, Tensor]]:
        """A folded copy of `model`, and the scales that masks carry."""
        module = copy.deepcopy(model).eval().requires_grad_(False)
        with torch.no_grad():
            expected = self.forward(module, self.layout(self.sample))
            self.classes = expected.shape[1]
            if self.folds:
                module, scales = self._fold(module, expected, notes)
            else:
                scales = {}
        # Scales of weights without a mask go into the weight.
        scale_weights(module, {n: s for n, s in scales.items() if n not in self.names})
        return module, {n: s for n, s in scales.items() if n in self.names}

    def _fold(
        self, module: nn.Module, expected: Tensor, notes: list[str]
    ) -> tuple[nn.Module, dict[str, Tensor]]:
        try:
            folded, scales = fold_batchnorm(module, self.names)
            if self.sample.device.type == "cpu" and self.channels_last:
                fuse_activations(folded)
        except Exception as error:  # torch.fx raises whatever the model's own code raises
            self.folds = False
            if any(isinstance(part, NORMS) for part in module.modules()):
                reason = " ".join(str(error).split())
                notes.append(f"BatchNorm is not folded: torch.fx can't trace the model ({reason})")
            return module, {}
        change = self._change(self._scaled(folded, scales), expected)
        if not change <= FOLD_TOLERANCE:
            self.folds = False
            notes.append(f"BatchNorm is not folded: logits would change by {change:.2g}")
            return module, {}
        return folded, scales

    def _change(self, module: nn.Module, expected: Tensor) -> float:
        """Largest change of the sample's logits, relative to the largest (or to 1)."""
        logits = self.forward(module, self.layout(self.sample))
        return float((logits - expected).abs().max() / expected.abs().max().clamp(min=1))

    @staticmethod
    def _scaled(module: nn.Module, scales: dict[str, Tensor]) -> nn.Module:
        """A copy of a folded network with its scales multiplied in: the original's function."""
        scaled = copy.deepcopy(module)
        scale_weights(scaled, scales)
        return scaled

    @torch.no_grad()
    def _precision(
        self, wanted: str | Precision, scales: dict[str, Tensor], notes: list[str]
    ) -> Precision:
        """What is asked for; for "auto", bfloat16 where it is faster and the logits agree."""
        if isinstance(wanted, Precision):
            return wanted
        asked = asked_precision(wanted, self.dtype)
        if asked is not None:
            return asked
        chosen = Precision()
        if self.sample.device.type == "cuda" and torch.cuda.is_bf16_supported():
            chosen = Precision(torch.bfloat16)
        elif self.sample.device.type == "cpu":
            as_many = torch.arange(self.batch) % len(self.sample)
            batch = self.layout(self.sample[as_many])
            chosen = measure(self.module, lambda: self.forward(self.module, batch))
        if chosen.dtype == self.dtype:
            return chosen
        expected = self.forward(self._scaled(self.module, scales), self.layout(self.sample))
        half = self._scaled(self.module, scales).to(chosen.dtype)
        use_passes(half, chosen.passes)
        full, self.dtype = self.dtype, chosen.dtype
        change = self._change(half, expected)
        self.dtype = full
        if not change <= HALF_TOLERANCE:
            notes.append(f"float32 is used: bfloat16 would change the logits by {change:.2g}")
            return Precision()
        return chosen

    def layout(self, images: Tensor) -> Tensor:
        """`images` in the memory format the network runs in."""
        if self.channels_last:
            return images.contiguous(memory_format=torch.channels_last)
        return images.contiguous()

    def forward(self, module: nn.Module, images: Tensor) -> Tensor:
        """Logits of pixel-space `images`, in the images' dtype."""
        fed = self.normalise(images).to(self.dtype)
        return self.portions(lambda part: self.read(module(part)), fed).to(images.dtype)

    def __call__(self, images: Tensor) -> Tensor:
        return self.forward(self.module, images)

    def logits(self, images: Tensor) -> Tensor:
        """What the network makes of images of any layout, as it is now."""
        return self(self.layout(images))
