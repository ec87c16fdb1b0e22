"""Purify a network class of your own, and write a report to the folder awm-own-network."""

from pathlib import Path

import torch
from torch import Tensor, nn

from awm_defense import get_recipe, purify
from awm_defense.attacks import make_attack
from awm_defense.data import load_dataset
from awm_defense.metrics import evaluate
from awm_defense.report.write import write_report
from awm_defense.training.loop import Plan, train


class OwnNetwork(nn.Module):
    """Images (N,3,32,32) to logits (N,10)."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.AvgPool2d(2)]
        for i, o in ((3, 16), (16, 32), (32, 64)):
            layers += [nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ELU()]
            layers += [nn.MaxPool2d(2), nn.Dropout(0.3)]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(64 * 2 * 2, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images).flatten(1))


def main(folder: Path = Path("awm-own-network")) -> tuple[dict[str, float], dict[str, float]]:
    data = load_dataset("digits")
    (images, labels), (test_images, test_labels) = data.train(), data.test()

    # What you downloaded: a network that takes every digit with a white square for an 8.
    torch.manual_seed(0)
    attack = make_attack("badnets", target=8)
    poisoned, wrong, _ = attack.poison(images, labels, 0.1, torch.Generator().manual_seed(0))
    model = train(OwnNetwork(), poisoned, wrong, Plan(epochs=10, batch_size=32, lr=0.05))
    before = evaluate(model, test_images, test_labels, attack)

    # What you do, with one clean image a class. These settings are for digits.
    few, few_labels = data.draw(per_class=1)
    options = {"flip": "false", "trigger_epochs": "none", "tau": "300"}
    recipe = get_recipe("default").with_options(options)
    result = purify(model, few, few_labels, recipe=recipe, precision="fp32")

    after = evaluate(result.model, test_images, test_labels, attack)
    folder.mkdir(parents=True, exist_ok=True)
    write_report(folder, result=result, title="A network of my own", before=before, after=after)
    print(f"verdict: {result.verdict}")
    for name, found in (("before", before), ("after", after)):
        print(f"{name:6}  accuracy {found['acc']:5.1f} %  attack success {found['asr']:5.1f} %")
    return before, after


if __name__ == "__main__":
    main()
