"""What `default` is without each of its parts."""

from __future__ import annotations

from bench.results import Row
from bench.tables.markdown import mean, table
from bench.tables.study import Network, draws, in_group, values

PARTS = {
    "nothing (`default` as it is)": "default",
    "no grown triggers": "default+grown=0",
    "next to no Δ (τ 0.01)": "default+tau=0.01",
    "a larger Δ (τ 100 instead of 31)": "default+tau=100",
    "Δ leads away from the labels": "default+trigger_targets=labels",
    "no temperature": "default+temperature=1",
    "held to the labels, no temperature": "default+mask_targets=labels+temperature=1",
    "nine fixed copies instead of new images in every step": (
        "default+fresh_augmentation=false+copies=9+cutmix=0+jitter=0"
    ),
    "no patches of other images": "default+cutmix=0",
    "no changes of colour": "default+jitter=0",
    "crops from 8 % of the area, not 30 %": "default+crop_scale=0.08",
    "no mirroring": "default+flip=false",
    "the same learning rate in all epochs": "default+mask_lr_decay=1",
    "Adam instead of natural steps": "default+natural_step=none",
    "no second search": "default+search_again=false",
    "one epoch under triggers instead of two": "default+trigger_epochs=1",
    "all ten epochs under triggers": "default+trigger_epochs=none",
}


def ablation() -> str:
    """ACC / ASR / ACC on the target class, means over two draws."""
    on = in_group("published")
    head = ["changed", *(network.attack for network in on)]
    before = ["not purified", *(_triple(draws("ablation", network, "none")) for network in on)]
    changed = [
        [name, *(_without(network, method) for network in on)] for name, method in PARTS.items()
    ]
    return table(head, [before, *changed])


def _without(network: Network, method: str) -> str:
    return _triple(draws("ablation", network, method))


def _triple(rows: list[Row]) -> str:
    return " / ".join(mean(values(rows, metric)) for metric in ("acc", "asr", "target_acc"))
