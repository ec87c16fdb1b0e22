"""`python -m tests.watched.awm WORDS`: the command `awm`, which also knows a tiny network."""

from __future__ import annotations

import sys
from dataclasses import replace

from awm_defense import get_recipe
from awm_defense.commands import demo
from awm_defense.commands.main import main
from tests.soak import kills

if __name__ == "__main__":
    demo.ARCH, demo.PLAN = "tiny", replace(demo.PLAN, epochs=1)
    demo.RECIPE = get_recipe("default").with_options(kills.QUICK)
    sys.exit(main())
