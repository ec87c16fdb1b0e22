"""I-BAU, unlearning by implicit hypergradient (Zeng et al., ICLR 2022, arXiv:2110.03735)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from awm_defense.baselines.baseline import Baseline, Erased, Task


@dataclass(frozen=True)
class Ibau(Baseline):
    """Defaults are those of the authors' released code."""

    half: ClassVar[bool] = False  # second derivatives
    least: ClassVar[dict[str, float]] = {
        **dict.fromkeys(("batch_size", "fixed_point_steps"), 1),
        **dict.fromkeys(("rounds", "trigger_lr", "trigger_l2", "inner_lr", "share", "lr"), 0),
    }
    rounds: int = 5
    batch_size: int = 100
    trigger_lr: float = 10.0
    """Of the ascent that finds the universal perturbation, one step a batch."""
    trigger_l2: float = 0.001
    """Weight of its squared Euclidean norm."""
    inner_lr: float = 0.1
    """Step size of the map whose fixed point defines the implicit gradient."""
    fixed_point_steps: int = 5
    share: float = 0.01
    """Share of each batch that gets the perturbation while the network unlearns it; at least one
    image does (the authors' code rounds down, to none in batches under 100)."""
    optimizer: Literal["adam", "sgd"] = "adam"
    lr: float = 0.001

    # The only attention of PyTorch that has second derivatives.
    @sdpa_kernel(SDPBackend.MATH)
    def erase(self, task: Task) -> Erased:
        """Alternate between finding a perturbation and unlearning it."""
        model = task.model.requires_grad_(True)
        optimizers = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}
        optimizer = optimizers[self.optimizer](model.parameters(), lr=self.lr)
        images = task.images.split(self.batch_size)
        labels = task.labels.split(self.batch_size)
        trigger = torch.zeros_like(task.images[0])
        history = []
        bar = tqdm(range(self.rounds), "purify", unit="round", disable=not task.progress)
        for number in bar:
            trigger = torch.zeros_like(trigger)
            for batch in images:
                trigger = self._ascend(task, batch, trigger)
            losses = []
            for batch, truth in zip(images, labels, strict=True):
                try:
                    loss, grads = self._hypergradient(
                        task, trigger, (images[0], labels[0]), (batch, truth)
                    )
                except RuntimeError as error:
                    if "is not implemented" not in str(error):
                        raise
                    raise ValueError(
                        f"model: expected one with second derivatives for {self.name}: {error}"
                    ) from error
                for parameter, grad in zip(model.parameters(), grads, strict=True):
                    parameter.grad = grad
                optimizer.step()
                losses.append(loss)
            entry = {"trigger_norm": float(trigger.abs().sum()), "loss": sum(losses) / len(losses)}
            history.append({"epoch": float(number), **entry})
            bar.set_postfix(loss=f"{entry['loss']:.3f}")
        model.requires_grad_(False)
        return Erased(history, trigger=trigger)

    def _inner_loss(self, task: Task, images: Tensor, labels: Tensor, trigger: Tensor) -> Tensor:
        """What the perturbation minimises: it misleads and stays small."""
        loss = cross_entropy(task.logits(task.model, images + trigger), labels)
        return self.trigger_l2 * trigger.square().sum() - loss

    def _ascend(self, task: Task, images: Tensor, trigger: Tensor) -> Tensor:
        with torch.no_grad():
            labels = task.logits(task.model, images).argmax(1)
        trigger = trigger.detach().requires_grad_()
        (grad,) = torch.autograd.grad(self._inner_loss(task, images, labels, trigger), trigger)
        return trigger.detach() - self.trigger_lr * grad

    def _hypergradient(
        self,
        task: Task,
        trigger: Tensor,
        first: tuple[Tensor, Tensor],
        batch: tuple[Tensor, Tensor],
    ) -> tuple[float, list[Tensor]]:
        """The outer loss, and its gradient in the weights through the perturbation too.

        Of weights that the forward pass does not use, autograd has None in its place.

        With Φ(δ, θ) = δ − η ∇_δ inner(δ, θ), the perturbation is its fixed point, and the total
        gradient is ∂_θ outer + v ∂_θΦ, where v solves v = v ∂_δΦ + ∂_δ outer by iteration.
        """
        weights = list(task.model.parameters())
        trigger = trigger.detach().requires_grad_()
        images, labels = batch
        count = max(1, int(self.share * len(images)))
        chosen = torch.randperm(len(images), generator=task.generator)[:count]
        put_on = images.new_zeros(len(images), 1, 1, 1)
        put_on[chosen.to(images.device)] = 1
        outer = cross_entropy(task.logits(task.model, images + put_on * trigger), labels)
        by_trigger, *by_weights = torch.autograd.grad(outer, [trigger, *weights], allow_unused=True)
        (grad,) = torch.autograd.grad(
            self._inner_loss(task, *first, trigger), trigger, create_graph=True
        )
        mapped = trigger - self.inner_lr * grad
        v = by_trigger
        for _ in range(self.fixed_point_steps - 1):
            (back,) = torch.autograd.grad(mapped, trigger, v, retain_graph=True)
            v = back + by_trigger
        through = torch.autograd.grad(mapped, weights, v, allow_unused=True)
        total = [
            direct if via is None else direct + via
            for direct, via in zip(by_weights, through, strict=True)
        ]
        return float(outer.detach()), total
