"""How many inputs are tried: the same few each time; many with `--hypothesis-profile=soak`."""

from hypothesis import HealthCheck, Phase, settings

COMMON = settings(
    # The first call of an op or a network takes longer than all that follow.
    deadline=None,
    # Of a failure, the input and how to have it again are printed; nothing is kept on disk.
    database=None,
    print_blob=True,
    # Without the last phase, which explains a failure: it traces every line.
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)
settings.register_profile("ci", COMMON, derandomize=True, max_examples=50)
settings.register_profile("soak", COMMON, max_examples=2000)
settings.load_profile("ci")
