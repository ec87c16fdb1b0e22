"""Prune a network with the kernels alone: learn masks on its weights under an L1 penalty."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

from awm_kernels import mask_step_, masked_conv2d

TRAIN = 1400  # of 1797 digits; the others are for testing


def main() -> tuple[float, float, float]:
    pixels, targets = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).float().view(-1, 1, 8, 8) / 16
    labels = torch.from_numpy(targets)
    torch.manual_seed(0)
    first, second = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
    head = [nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * 4 * 4, 10)]
    network = nn.Sequential(first, nn.ReLU(), second, *head)

    def accuracy() -> float:
        return 100 * float((network(images[TRAIN:]).argmax(1) == labels[TRAIN:]).float().mean())

    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(10):
        for batch in torch.randperm(TRAIN).split(64):
            optimizer.zero_grad()
            cross_entropy(network(images[batch]), labels[batch]).backward()
            optimizer.step()
    dense = accuracy()

    # θ stays as trained. The convolutions hold m ⊙ θ, which each step writes anew.
    convs = [first, second]
    thetas = [conv.weight.detach().clone() for conv in convs]
    masks = [torch.ones_like(theta) for theta in thetas]
    moments = [(torch.zeros_like(theta), torch.zeros_like(theta)) for theta in thetas]
    steps = [torch.zeros((), dtype=torch.int64) for _ in convs]
    for _ in range(15):
        for batch in torch.randperm(TRAIN).split(64):
            loss = cross_entropy(network(images[batch]), labels[batch])
            grads = torch.autograd.grad(loss, [conv.weight for conv in convs])
            parts = zip(convs, grads, thetas, masks, moments, steps, strict=True)
            for conv, grad, theta, mask, (mean, square), step in parts:
                weight = conv.weight.detach()  # shares the layer's memory
                adam = {"lr": 0.02, "l1": 1e-4, "exp_avg": mean, "exp_avg_sq": square}
                mask_step_(mask, grad, theta, step, weight_out=weight, **adam)
    sparse = accuracy()
    zeros = 100 * float(torch.cat([mask.flatten() for mask in masks]).eq(0).float().mean())

    # The op that takes weight and mask apart gives the same.
    same = masked_conv2d(images[TRAIN:], thetas[0], masks[0], first.bias, padding=1)
    torch.testing.assert_close(same, first(images[TRAIN:]))
    print(f"accuracy {dense:.1f} -> {sparse:.1f} %, {zeros:.0f} % of the masks are 0")
    return dense, sparse, zeros


if __name__ == "__main__":
    main()
