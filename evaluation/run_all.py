"""``bash run_all.sh``: every figure, one after the other; exit code 1 if a scenario has failed."""

from __future__ import annotations

from evaluation.figure import main
from evaluation.figures import FIGURES

if __name__ == "__main__":
    raise SystemExit(main(FIGURES))
