"""How many inputs are tried: the same few in every run, or with `--hypothesis-profile=soak` many.

No deadline: the first call of an op or a network takes longer than all that follow.
"""

from hypothesis import HealthCheck, Phase, settings

COMMON = {
    "deadline": None,
    # Of a failure, the input and how to have it again are printed; nothing is kept on disk.
    "database": None,
    "print_blob": True,
    # Without the explaining of a failure, which traces every line.
    "phases": (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
    "suppress_health_check": list(HealthCheck),
}
settings.register_profile("ci", derandomize=True, max_examples=60, **COMMON)
settings.register_profile("soak", max_examples=5000, **COMMON)
settings.register_profile("explore", max_examples=int(__import__("os").environ.get("N","60")), **{**COMMON,"phases":(Phase.generate,)})
settings.load_profile("ci")
