"""`python -m awm_defense`: the same command as `awm`."""

import sys

from awm_defense.cli import main

sys.exit(main())
