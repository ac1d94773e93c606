"""``python -m astra_sim``: run Chakra traces with ASTRA-Sim's flags."""

import sys

from astra_sim.cli import main

sys.exit(main())
