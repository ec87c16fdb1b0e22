"""The copy of a network that purification works in."""

import copy

import torch
from torch import Tensor, nn

from awm_defense.pixel_model import PixelModel
from awm_defense.working.activations import fuse_activations
from awm_defense.working.chunks import ALL, in_chunks
from awm_defense.working.flat import FlatMasks, Layers, maskable
from awm_defense.working.fold import fold_batchnorm, scale_weights
from awm_defense.working.mixed_conv import use_passes
from awm_defense.working.precision import Precision, asked_precision, measure

# Change of the logits, relative to the largest, by which folding and bfloat16 may differ from the
# network as it was.
FOLD_TOLERANCE = 1e-3
HALF_TOLERANCE = 0.05


class WorkingNetwork:
    """The working copy: pixel-space images in, logits out; folded and channels_last if it can.

    Args:
        pixel_model: the network, on the device to work on; it stays as it is.
        sample: images of the size of a mask step's batch, (2b, c, h, w), in the model's dtype.
        layers: which of them get masks, as `maskable` takes it.
        moments: of the mask optimiser, as `FlatMasks` takes it.
        keeps_original: whether a copy without masks is kept, to compare with.
        precision: as `purify` takes it.
        notes: what does not go as usual is appended.
        at_once: images that may go through it at a time.

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
        layers: Layers,
        moments: int,
        keeps_original: bool,
        precision: str | Precision,
        notes: list[str],
        at_once: int = ALL,
    ) -> None:
        self.at_once = at_once
        self.normalise, self.sample, self.layers = pixel_model.normalise, sample, layers
        self.channels_last = True
        self.dtype = sample.dtype
        self.folds = True
        self.module, scales = self._prepared(pixel_model.model, notes)
        if self.channels_last:
            self.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.precision = self._precision(precision, scales, notes)
        self.original = self._scaled(self.module, scales) if keeps_original else None
        self.flat = FlatMasks(
            self.module,
            list(maskable(self.module, layers)),
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
                raise ValueError(f"models: one can't be prepared as the first was: {notes[-1]}")
        finally:
            self.dtype, self.folds = running, folds
        masked = {f"{name}.weight" for name in self.flat.layers}
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
                if target is self.original or key not in masked:
                    value.copy_(values[key])
        weights = dict(module.named_parameters())
        self.flat.load([weights[f"{name}.weight"] for name in self.flat.layers], scales)

    def _prepared(self, model: nn.Module, notes: list[str]) -> tuple[nn.Module, dict[str, Tensor]]:
        """A folded copy of `model`, and the scales that masks carry."""
        module = copy.deepcopy(model).eval().requires_grad_(False)
        with torch.no_grad():
            expected = self._first_forward(module, notes)
            if self.folds:
                module, scales = self._fold(module, expected, notes)
            else:
                scales = {}
        masked = maskable(module, self.layers)
        # Scales of layers without a mask go into the weight.
        scale_weights(module, {n: s for n, s in scales.items() if n not in masked})
        return module, {n: s for n, s in scales.items() if n in masked}

    def _first_forward(self, module: nn.Module, notes: list[str]) -> Tensor:
        try:
            logits = self.forward(module, self.layout(self.sample))
        except RuntimeError:
            if not self.channels_last:
                raise
            self.channels_last = False
            logits = self.forward(module, self.layout(self.sample))
            notes.append("the model does not take channels_last input; contiguous is used")
        if logits.dim() != 2:
            raise ValueError(f"model: expected logits (n, classes), got {tuple(logits.shape)}")
        self.classes = logits.shape[1]
        return logits

    def _fold(
        self, module: nn.Module, expected: Tensor, notes: list[str]
    ) -> tuple[nn.Module, dict[str, Tensor]]:
        try:
            folded, scales = fold_batchnorm(module)
            if self.sample.device.type == "cpu" and self.channels_last:
                fuse_activations(folded)
        except Exception as error:  # torch.fx raises whatever the model's own code raises
            self.folds = False
            notes.append(f"BatchNorm is not folded: torch.fx can't trace the model ({error})")
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
            chosen = measure(
                self.module, lambda: self.forward(self.module, self.layout(self.sample))
            )
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
        return in_chunks(lambda part: self._forward(module, part), images, self.at_once)

    def _forward(self, module: nn.Module, images: Tensor) -> Tensor:
        logits: Tensor = module(self.normalise(images).to(self.dtype))
        if not isinstance(logits, Tensor):
            raise TypeError(f"model: expected logits, a tensor, got {type(logits).__name__}")
        return logits.to(images.dtype)

    def __call__(self, images: Tensor) -> Tensor:
        return self.forward(self.module, images)

    def logits(self, images: Tensor) -> Tensor:
        """What the network makes of images of any layout, as it is now."""
        return self(self.layout(images))
