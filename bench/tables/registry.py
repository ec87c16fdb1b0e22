"""The tables that a document can have, by name."""

from __future__ import annotations

from collections.abc import Callable

from bench.tables import (
    digits,
    erasing,
    paper,
    parts,
    single,
    speed,
    speed_goals,
    training,
    verdicts,
)

TABLES: dict[str, Callable[[], str]] = {
    # What `default` reaches: one row a kind of network; goals met and missed; recipes side by
    # side; its draws in detail; with 500 images, with none; what wakes up again.
    "expect": erasing.expect,
    "goals": erasing.goals,
    "erasing": erasing.erasing,
    "draws": erasing.details,
    "more-images": erasing.more_images,
    "no-images": single.no_images,
    "retuned": single.retuned,
    # `default` on digits, on networks of other kinds.
    "digits": digits.digits,
    # What the examination says, by kind of network and network by network.
    "verdicts": verdicts.by_kind,
    "verdict-list": verdicts.by_network,
    # What `default` is without each of its parts.
    "ablation": parts.ablation,
    # The paper's tables: by number of images, one image a class, where each method erases, AWM's
    # parts; rivals beyond the paper; other people's figures and programs.
    "rivals": paper.rivals,
    "rivals-one-shot": paper.one_shot,
    "agreement": paper.agreement,
    "awm-parts": paper.awm_parts,
    "fine-tuning": paper.fine_tuning,
    "clp": paper.clp,
    "anp-thresholds": paper.anp_thresholds,
    "elsewhere": paper.elsewhere,
    "authors-code": single.authors,
    # Time: kernels against others, goals, losses, where it goes, how it grows.
    "speed": speed.speed,
    "speed-goals": speed_goals.speed_goals,
    "losses": speed_goals.losses,
    "former-default": speed.former_default,
    "profile": speed.profile,
    "profile-details": speed.profile_details,
    "calls": speed.calls,
    "growth": speed.growth,
    # Networks trained here.
    "training": training.training,
}
