"""`python -m awm_defense`: the same command as `awm`."""

import sys

from awm_defense.commands.main import main

sys.exit(main())
