"""Log messages on stderr, at the level that ``--log-level`` names."""

from __future__ import annotations

import logging

LEVELS = ("WARNING", "INFO", "DEBUG")
log = logging.getLogger("inference_serving")


def set_up_logging(level: str) -> None:
    """Send log messages of ``level`` and above to stderr."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=level)
    log.setLevel(level)
