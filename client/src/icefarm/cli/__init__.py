"""The `icefarm` command; `icefarm --help` lists what it does."""

from icefarm.cli import (  # noqa: F401  (their commands)
    attach,
    audit,
    console,
    doctor,
    draining,
    evaluate,
    farms,
    firmware,
    history,
    local,
    logs,
    mending,
    overruling,
    reservations,
    show,
    watch,
)
from icefarm.cli.app import app

__all__ = ["app"]
