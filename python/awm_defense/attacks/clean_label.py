"""Label-consistent backdoor, CLB (Turner, Tsipras & Madry, arXiv:1912.02771).

Images of the target class are perturbed until they are hard to learn, and get a trigger in all four
corners; no label changes. The perturbation is the paper's projected gradient descent under an
L-infinity bound; the network that it fools here is trained in the usual way, the paper's
adversarially.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from awm_defense.attacks.attack import Attack, change, draw
from awm_defense.attacks.definition import Definition

EPSILON = 16 / 255
STEPS = 20
STEP_SIZE = 2.5 * EPSILON / STEPS
BATCH = 250
CORNER = torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 1.0]])


def corner_patches(images: Tensor) -> Tensor:
    """A black and white 3x3 pattern in each of the four corners, mirrored on the left."""
    out = images.clone()
    right = CORNER.to(images)
    left = right.flip(1)
    out[:, :, :3, :3] = out[:, :, -3:, :3] = left
    out[:, :, :3, -3:] = out[:, :, -3:, -3:] = right
    return out


def harden(model: nn.Module, images: Tensor, label: int, generator: torch.Generator) -> Tensor:
    """Images (N,3,H,W) in [0,1] that `model` no longer takes for class `label`.

    Each value stays within EPSILON of the original and within [0,1].
    """
    model.eval()
    device = next(model.parameters()).device
    made = []
    for original in images.split(BATCH):
        start = torch.rand(original.shape, generator=generator) * 2 - 1
        original = original.to(device)
        truth = torch.full((len(original),), label, device=device)
        low, high = (original - EPSILON).clamp_min(0), (original + EPSILON).clamp_max(1)
        batch = (original + EPSILON * start.to(device)).clamp(low, high)
        for _ in range(STEPS):
            batch.requires_grad_()
            loss = F.cross_entropy(model(batch), truth, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, batch)
            batch = (batch.detach() + STEP_SIZE * gradient.sign()).clamp(low, high)
        made.append(batch.to(images.device))
    return torch.cat(made) if made else images


@dataclass(frozen=True)
class CleanLabelAttack(Attack):
    """Poisons images of the target class and leaves all labels as they are.

    Attributes:
        model: the clean network that perturbations must fool; only `poison` needs it.
    """

    model: nn.Module | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.target is None:
            raise ValueError("target: clean_label needs one, it has no all-to-all form")

    def draw_poisoned(self, labels: Tensor, rate: float, generator: torch.Generator) -> Tensor:
        """Indices (int64, sorted) of images of the target class; else as in `Attack`."""
        candidates = (labels.cpu() == self.targets(labels.cpu())).nonzero().flatten()
        return draw(candidates, "of the target class", rate, len(labels), generator)

    def poison(
        self, images: Tensor, labels: Tensor, rate: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Perturb a share of the images and put the trigger on them; see `Attack.poison`."""
        if self.model is None:
            raise ValueError("model: clean_label poisons with the help of a clean network")
        assert self.target is not None
        model, target = self.model, self.target
        poisoned = self.draw_poisoned(labels, rate, generator)
        images = images.clone()
        change(
            images,
            poisoned,
            lambda batch: self.apply(harden(model, batch, target, generator)),
        )
        return images, labels.clone(), poisoned


DEFINITION = Definition(
    source="Turner et al., Label-Consistent Backdoor Attacks, arXiv:1912.02771, adversarial "
    "examples and four-corner trigger",
    poison_rate=0.05,
    craft=lambda images, model, generator: corner_patches,
    needs_model=True,
    all_to_all=False,
    attack=CleanLabelAttack,
)
