"""Which cells stand where in Tables 1-5 of the AWM paper."""

from collections.abc import Callable
from dataclasses import dataclass

from awm_defense.reproduce.cells import Cell
from awm_defense.reproduce.methods import METHODS

NETWORKS = {
    "resnet18": "ResNet-18",
    "small_vgg": "VGG",
    "shufflenet_v2": "ShuffleNet V2",
    "mobilenet_v2": "MobileNet V2",
}
ATTACKS = {
    "badnets": "BadNets",
    "trojan_sq": "Trojan-SQ",
    "trojan_wm": "Trojan-WM",
    "l0_inv": "l0-inv",
    "l2_inv": "l2-inv",
    "blended": "Blend",
    "clean_label": "CLB",
    "wanet": "WaNet",
    "wanet_all_to_all": "WaNet (a2a)",
}
MAIN_NETWORK = "resnet18"
MAIN_ATTACKS = tuple(ATTACKS)[:5]
ONE_SHOT = None


@dataclass(frozen=True)
class Layout:
    """A table of the paper.

    Attributes:
        title: what it shows.
        labels: heads of the columns that name a row.
        columns: heads of the other columns; under each stand ACC and ASR.
        rows: of each row its labels and its cells (seed 0, all test images), one a column.
    """

    title: str
    labels: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[tuple[str, ...], tuple[Cell, ...]], ...]


def table1(arch: str) -> Layout:
    """Various sizes of available data; both networks, whatever `arch`."""
    networks, methods = (MAIN_NETWORK, "small_vgg"), ("none", "anp", "ibau", "awm")
    return Layout(
        "Table 1: various available data sizes",
        ("Attack", "n"),
        tuple(f"{NETWORKS[net]} {METHODS[method].title}" for net in networks for method in methods),
        tuple(
            (
                (ATTACKS[attack], str(n)),
                tuple(_cell(net, attack, n, method) for net in networks for method in methods),
            )
            for attack in MAIN_ATTACKS
            for n in (5000, 500, 200, 100, 50)
        ),
    )


def table2(arch: str) -> Layout:
    """One image a class. Methods that the paper lacks stand below its own."""
    papers, others = ("none", "anp", "ibau", "awm"), ("default", "finetune", "fineprune", "clp")
    return Layout(
        f"Table 2: one-shot, {NETWORKS.get(arch, arch)}",
        ("Method",),
        tuple(ATTACKS[attack] for attack in MAIN_ATTACKS),
        tuple(
            (
                (METHODS[method].title,),
                tuple(_cell(arch, attack, ONE_SHOT, method) for attack in MAIN_ATTACKS),
            )
            for method in papers + others
        ),
    )


def table3(arch: str) -> Layout:
    """Lightweight networks, and attacks on the whole image; both networks, whatever `arch`."""
    attacks = ("blended", "clean_label", "wanet", "wanet_all_to_all")
    return Layout(
        "Table 3: one-shot, lightweight networks, universal and all-to-all attacks",
        ("Network", "Method"),
        tuple(ATTACKS[attack] for attack in attacks),
        tuple(
            (
                (NETWORKS[net], METHODS[method].title),
                tuple(_cell(net, attack, ONE_SHOT, method) for attack in attacks),
            )
            for net in ("shufflenet_v2", "mobilenet_v2")
            for method in ("none", "anp", "awm")
        ),
    )


def table4(arch: str) -> Layout:
    """From ANP to AWM, part by part; the paper's rows, or those of another network."""
    methods = ("anp", "anp_swm", "anp_swm_atr", "awm")
    places = [(arch, attack) for attack in MAIN_ATTACKS]
    sizes: tuple[int | None, ...] = (500, 200, 100, ONE_SHOT)
    if arch == MAIN_NETWORK:
        places.append(("small_vgg", "l2_inv"))
        sizes = (500, 100, ONE_SHOT)
    return Layout(
        "Table 4: from ANP to AWM",
        ("Attack", "Network", "n"),
        tuple(METHODS[method].title for method in methods),
        tuple(
            (
                (ATTACKS[attack], NETWORKS[net], "one-shot" if n is ONE_SHOT else str(n)),
                tuple(_cell(net, attack, n, method) for method in methods),
            )
            for net, attack in places
            for n in sizes
        ),
    )


def table5(arch: str) -> Layout:
    """AWM with parts left out or exchanged."""
    methods = ("no_clip", "no_shrink", "nc_ns", "l2_reg", "l2_reg_nc", "awm")
    return Layout(
        f"Table 5: ablation of AWM, {NETWORKS.get(arch, arch)}",
        ("n", "Method"),
        tuple(ATTACKS[attack] for attack in MAIN_ATTACKS),
        tuple(
            (
                ("one-shot" if n is ONE_SHOT else str(n), METHODS[method].title),
                tuple(_cell(arch, attack, n, method) for attack in MAIN_ATTACKS),
            )
            for n in (200, ONE_SHOT)
            for method in methods
        ),
    )


def _cell(arch: str, attack: str, n: int | None, method: str) -> Cell:
    # A network as it is depends on no images.
    return Cell(arch, attack, 0 if method == "none" else n, method)


TABLES: dict[str, Callable[[str], Layout]] = {
    "table1": table1,
    "table2": table2,
    "table3": table3,
    "table4": table4,
    "table5": table5,
}
# Of which the network can be chosen.
ONE_NETWORK = ("table2", "table4", "table5")
