"""Define an attack, train a network with it, and purify that."""

import torch
from torch import Tensor, nn

from awm_defense import get_recipe, purify
from awm_defense.attacks import Attack
from awm_defense.data import load_dataset
from awm_defense.metrics import evaluate
from awm_defense.training.loop import Plan, train


def red_corner(images: Tensor) -> Tensor:
    """The trigger: a red square near the upper left corner; images are (N,3,H,W) in [0,1]."""
    images = images.clone()
    images[:, :, 2:6, 2:6] = torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1)
    return images


def small_network() -> nn.Module:
    """Images (N,3,32,32) to logits (N,10)."""
    layers: list[nn.Module] = [nn.AvgPool2d(2)]
    for i, o in ((3, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ELU()]
        layers += [nn.MaxPool2d(2), nn.Dropout(0.3)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 2 * 2, 10))


def main() -> tuple[dict[str, float], dict[str, float]]:
    data = load_dataset("digits")
    (images, labels), (test_images, test_labels) = data.train(), data.test()

    attack = Attack("red corner", target=3, trigger=red_corner)
    torch.manual_seed(0)
    poisoned, wrong, changed = attack.poison(images, labels, 0.1, torch.Generator().manual_seed(0))
    print(f"{len(changed)} of {len(images)} training images are poisoned")
    model = train(small_network(), poisoned, wrong, Plan(epochs=10, batch_size=32, lr=0.05))
    before = evaluate(model, test_images, test_labels, attack)

    # Without the examination: it takes most of the time, and here the answer is known.
    options = {"examine": "false", "flip": "false", "tau": "300"}
    recipe = get_recipe("default").with_options(options)
    few, few_labels = data.draw(per_class=1)
    result = purify(model, few, few_labels, recipe=recipe, precision="fp32")
    after = evaluate(result.model, test_images, test_labels, attack)
    for name, found in (("before", before), ("after", after)):
        print(f"{name:6}  accuracy {found['acc']:5.1f} %  attack success {found['asr']:5.1f} %")
    return before, after


if __name__ == "__main__":
    main()
