"""The `icefarm` command; `icefarm --help` lists what it does."""

from icefarm.cli import (  # noqa: F401  (their commands)
    attach,
    console,
    doctor,
    evaluate,
    farms,
    firmware,
    history,
    local,
    reservations,
    show,
    watch,
)
from icefarm.cli.app import app

__all__ = ["app"]
