"""The `icefarm` command; `icefarm --help` lists what it does."""

from icefarm.cli import evaluate, history, local, reservations, show  # noqa: F401  (their commands)
from icefarm.cli.app import app

__all__ = ["app"]
