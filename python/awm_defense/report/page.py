"""The report as a page for people: one HTML file, pictures included."""

import base64
from collections.abc import Mapping
from html import escape as as_html
from typing import Any

from awm_defense.files.text import escape as printable
from awm_defense.result import PurifyResult

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --good: #16a34a; --bad: #dc2626; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(14rem, 1fr)); gap: 1rem; }
.card { border: 1px solid var(--line); border-radius: .6rem; padding: .8rem 1rem; }
.card b { display: block; font-size: 1.5rem; font-variant-numeric: tabular-nums; }
.card small, figcaption { opacity: .75; font-size: .85rem; }
.bar { height: .5rem; border-radius: .25rem; background: var(--soft); margin: .25rem 0; }
.bar i { display: block; height: 100%; border-radius: .25rem; }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem; } figure { margin: 0; }
.pictures img { width: 12rem; image-rendering: pixelated; border-radius: .4rem; }
img.wide { width: 100%; background: #fff; border-radius: .4rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
td { border-bottom: 1px solid var(--line); padding: .2rem 1.5rem .2rem 0; }
"""

MARGINS_MEAN = (
    "For every class searched, how far the smallest trigger found for it leads there once it is "
    "grown: the logit of the class above the largest other one, mean over images of other classes."
)
MASKS_MEAN = "How much of each weight is kept: 1 leaves it, 0 erases it. Counts are logarithmic."

SHOWN = 10
"""Classes that a sentence lists."""
LOSSES_MEAN = "Losses are cross-entropies. Against soft predictions these do not go to 0."
NEXT = (
    "Next: measure accuracy on test images of your own, for each class. What a purification costs "
    "is mostly accuracy on the attacker's class."
)


def page(
    result: PurifyResult,
    report: Mapping[str, Any],
    captions: Mapping[str, str],
    pictures: Mapping[str, bytes],
) -> str:
    """The whole page, pictures included, so that the one file can be passed on."""
    cards = [
        _card(f"{report['seconds']:.1f} s", "purification alone, without evaluation"),
        _card(f"{report['peak_memory_mb']:.0f} MB", "peak memory"),
    ]
    if "before" in report and "after" in report:
        shown = {
            "acc": ("accuracy (ACC)", "var(--good)"),
            "asr": ("attack success (ASR)", "var(--bad)"),
            "target_acc": ("accuracy on the target class", "var(--good)"),
        }
        measured = {key: shown[key] for key in shown if key in report["before"]}
        changes = [_change(label, key, report, bar) for key, (label, bar) in measured.items()]
        cards = [*changes, *cards]
    small = "".join(
        f"<figure>{_img(pictures[name], text)}<figcaption>{escape(text)}</figcaption></figure>"
        for name, text in captions.items()
    )
    margins = masks = history = ""
    if "margins.png" in pictures:
        picture = _img(pictures["margins.png"], "margin of each class", "wide")
        margins = f"<h2>Classes</h2><p>{MARGINS_MEAN}</p>{picture}"
    if "masks.png" in pictures:
        picture = _img(pictures["masks.png"], "histogram of mask values per layer", "wide")
        masks = f"<h2>Masks</h2><p>{MASKS_MEAN}</p>{picture}"
    if "history.png" in pictures:
        picture = _img(pictures["history.png"], "losses, trigger and masks over the epochs", "wide")
        history = f"<h2>History</h2><p>{LOSSES_MEAN}</p>{picture}"
    verdict = (
        ""
        if result.verdict is None
        else f"<p>The network before: {escape(str(result.verdict))}.</p>"
    )
    notes = "".join(f"<li>{escape(note)}</li>" for note in report["notes"])
    elsewhere = {
        "title",
        "before",
        "after",
        "recipe",
        "masks",
        "verdict",
        "notes",
        "history",
        "coverage",
        "files",
        "right",
    }
    facts = {
        key: value
        for key, value in report.items()
        if key not in elsewhere and value not in (None, {}, [])
    }
    right = f"<p>{escape(say_right(report['right']))}.</p>" if report.get("right") else ""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(report["title"])}</title><style>{STYLE}</style></head><body>
<h1>{escape(report["title"])}</h1>{verdict}
<div class="cards">{"".join(cards)}</div>
{right}<p>{escape(NEXT)}</p>
{f'<h2>Trigger</h2><div class="pictures">{small}</div>' if small else ""}
{margins}
{masks}
{history}
{f"<h2>Notes</h2><ul>{notes}</ul>" if notes else ""}
<h2>Recipe</h2>{_table(report["recipe"])}
<h2>Run</h2>{_table(facts)}
</body></html>
"""


def say_right(right: Mapping[str, Any]) -> str:
    """How many of the given images are named as labelled, before and after, as a sentence."""
    lost = ", ".join(map(str, right["classes_that_lost"][:SHOWN]))
    more = "" if len(right["classes_that_lost"]) <= SHOWN else " and others"
    return (
        f"of the {right['of']} given images with a label {right['before']} were classified right "
        f"before, {right['after']} after" + (f"; fewer of class {lost}{more}" if lost else "")
    )


def escape(text: str) -> str:
    """Text as HTML; what can't be printed, as in a hostile name, is written as escapes."""
    return as_html(printable(text))


def _card(value: str, label: str, bars: str = "") -> str:
    return f'<div class="card"><b>{escape(value)}</b>{bars}<small>{escape(label)}</small></div>'


def _change(label: str, key: str, report: Mapping[str, Any], colour: str) -> str:
    """A card with one metric before and after, each as number and bar."""
    values = [report[when][key] for when in ("before", "after")]
    bars = "".join(
        f'<div class="bar"><i style="width:{value:.1f}%;background:{colour}"></i></div>'
        for value in values
    )
    return _card(" → ".join(f"{value:.1f} %" for value in values), f"{label}, before → after", bars)


def _img(picture: bytes, text: str, css_class: str = "") -> str:
    data = base64.b64encode(picture).decode("ascii")
    return f'<img class="{css_class}" alt="{escape(text)}" src="data:image/png;base64,{data}">'


def _table(facts: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{escape(key)}</td><td>{escape(_text(value))}</td></tr>"
        for key, value in facts.items()
    )
    return f"<table>{rows}</table>"


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {item}" for key, item in value.items() if item not in (None, {}))
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)
