"""The debug switch: every message is logged, and checked strictly."""

import logging
import os

VARIABLE = "ICEFARM_DEBUG"


def is_debugging() -> bool:
    """Whether the environment asks for it."""
    return os.environ.get(VARIABLE, "") not in ("", "0")


def log_everything() -> None:
    """Let the loggers below `icefarm` speak, to standard error where nothing else is set up."""
    logger = logging.getLogger("icefarm")
    logger.setLevel(logging.DEBUG)
    if not logger.hasHandlers():
        logging.basicConfig(format="%(asctime)s %(name)s %(message)s")
