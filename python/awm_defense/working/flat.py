"""The masked weights of a network as views into flat buffers."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from awm_defense.networks.masked import key_of
from awm_kernels import mask_step_, masked_weight


def mean_inputs(weights: Iterable[Tensor]) -> float:
    """How many inputs an output of these weights' layers has, on the mean of all weights."""
    rows = [(weight.numel(), _rows(weight)[1]) for weight in weights]
    return sum(count * inputs for count, inputs in rows) / sum(count for count, _ in rows)


def in_convolutions(weights: Iterable[Tensor]) -> float:
    """Which share of these weights is that of convolutions."""
    sizes = [(weight.numel(), weight.dim() > 2) for weight in weights]
    return sum(count for count, inside in sizes if inside) / sum(count for count, _ in sizes)


class FlatMasks:
    """θ, m, W = s · m ⊙ θ, dW and Adam's moments of all masked weights, each one flat buffer.

    The network's weights are views of W and their gradients views of dW, so one `mask_step_` call
    updates the whole network, and writes the next step's weights where its layers read them.

    Args:
        model: the network to work in; its masked weights are replaced.
        names: of the parameters to mask.
        scales: factor per output channel of a weight, (out,), where a BatchNorm was folded.
        channels_last: memory layout of 4-d weights.
        moments: how many of Adam's moments to keep: 2, 1 (momentum) or 0.
        dtype: of W and dW; θ, m and the moments keep the model's.
    """

    def __init__(
        self,
        model: nn.Module,
        names: list[str],
        scales: dict[str, Tensor],
        *,
        channels_last: bool,
        moments: int,
        dtype: torch.dtype,
    ) -> None:
        replaced = [model.get_parameter(name) for name in names]
        weights = [weight.detach() for weight in replaced]
        self.names = names
        self.formats = [
            torch.channels_last if channels_last and w.dim() == 4 else torch.contiguous_format
            for w in weights
        ]
        self.shapes = [w.shape for w in weights]
        first = weights[0]
        self.theta = torch.empty(
            sum(w.numel() for w in weights), dtype=first.dtype, device=first.device
        )
        self.mask = torch.ones_like(self.theta)
        rows = torch.cat([torch.full(*_rows(w)) for w in weights])
        self.row_ptr = nn.functional.pad(rows.cumsum(0), (1, 0)).to(first.device)
        self.scale = torch.ones(len(rows), dtype=first.dtype, device=first.device)
        self.weight = torch.empty_like(self.theta, dtype=dtype)
        self.grad = torch.zeros_like(self.weight)
        self.exp_avg = torch.zeros_like(self.theta) if moments >= 1 else None
        self.exp_avg_sq = torch.zeros_like(self.theta) if moments >= 2 else None
        self.factors: Tensor | None = None
        self.step = torch.zeros((), dtype=torch.int64, device=first.device)
        self.stats = torch.zeros(2, dtype=torch.float64, device=first.device)
        self.load(weights, scales)
        self.parameters = [nn.Parameter(view) for view in self.views(self.weight)]
        views = {id(old): new for old, new in zip(replaced, self.parameters, strict=True)}
        for module in model.modules():
            for name, value in module._parameters.items():
                if id(value) in views:
                    module._parameters[name] = views[id(value)]

    def load(self, weights: Iterable[Tensor], scales: Mapping[str, Tensor]) -> None:
        """Start afresh with these weights and scales: all masks 1, no moments."""
        for view, weight in zip(self.views(self.theta), weights, strict=True):
            view.copy_(weight)
        rows = self.scale.split([_rows(view)[0][0] for view in self.views(self.theta)])
        for name, part in zip(self.names, rows, strict=True):
            part.copy_(scales[name]) if name in scales else part.fill_(1)
        self.grad.zero_()
        self.forget()
        self.restore(torch.ones_like(self.mask))

    def forget(self) -> None:
        """Start the optimiser afresh."""
        for state in (self.exp_avg, self.exp_avg_sq, self.step):
            if state is not None:
                state.zero_()

    def views(self, flat: Tensor) -> list[Tensor]:
        """`flat`, (n,), cut into one view per layer, in the layer's shape and memory format."""
        made, start = [], 0
        for shape, layout in zip(self.shapes, self.formats, strict=True):
            piece = flat[start : start + shape.numel()]
            if layout == torch.channels_last:
                out, inside, height, width = shape
                made.append(piece.view(out, height, width, inside).permute(0, 3, 1, 2))
            else:
                made.append(piece.view(shape))
            start += shape.numel()
        return made

    def require_grad(self, wanted: bool) -> None:
        """Whether backward passes write weight gradients (into `grad`)."""
        for parameter, view in zip(self.parameters, self.views(self.grad), strict=True):
            parameter.requires_grad_(wanted)
            parameter.grad = view if wanted else None

    def update(self, lr: Tensor, l1: float, *, weighed: bool = False) -> Tensor:
        """One `mask_step_` from `grad`, which is zeroed; returns (‖m‖₁, non-finite count).

        With `weighed` the gradient is multiplied by what `weigh` was given, and the step is one of
        SGD with momentum.
        """
        if weighed:
            assert self.factors is not None
            self.grad.mul_(self.factors)
        stats = mask_step_(
            self.mask,
            self.grad,
            self.theta,
            self.step,
            lr=lr,
            exp_avg=self.exp_avg,
            exp_avg_sq=None if weighed else self.exp_avg_sq,
            l1=l1,
            scale=self.scale,
            row_ptr=self.row_ptr,
            weight_out=self.weight,
            stats=self.stats,
        )
        self.grad.zero_()
        return stats

    def mask_grad(self) -> Tensor:
        """The masks' gradient, dW ⊙ θ · s, in θ's dtype, (n,)."""
        gradient: Tensor = masked_weight(
            self.theta, self.grad.to(self.theta), self.scale, row_ptr=self.row_ptr
        )
        return gradient

    def weigh(self, factors: Tensor) -> None:
        """Multiply gradients by `factors`, (n,), in weighed updates from now on."""
        if self.factors is None:
            self.factors = factors
        else:
            # A captured update reads it where it is.
            self.factors.copy_(factors)

    def restore(self, mask: Tensor) -> None:
        """Go back to an earlier mask, (n,)."""
        self.mask.copy_(mask)
        self.weight.copy_(masked_weight(self.theta, mask, self.scale, row_ptr=self.row_ptr))

    @contextmanager
    def unmasked(self) -> Iterator[None]:
        """Meanwhile the network is as it came."""
        mask = self.mask.clone()
        self.restore(torch.ones_like(mask))
        try:
            yield
        finally:
            self.restore(mask)

    def masks(self) -> dict[str, Tensor]:
        """A contiguous copy of each weight's mask, by `key_of` its name."""
        views = self.views(self.mask)
        copies = [view.clone(memory_format=torch.contiguous_format) for view in views]
        return dict(zip(map(key_of, self.names), copies, strict=True))


def _rows(weight: Tensor) -> tuple[tuple[int], int]:
    """How many outputs a weight has, as a shape, and how many inputs each of them."""
    if weight.dim() == 0:
        return (1,), 1
    return (weight.shape[0],), weight[0].numel()
