"""What a suite, or whoever runs it, decides: which farm, how long to queue, what if in vain."""

import argparse
import math
from dataclasses import dataclass
from typing import Self

import pytest

MISSING = ("fail", "skip")
SCOPES = ("test", "session")
_WAIT = 300.0


@dataclass(frozen=True)
class Settings:
    """The options of the command line; else the settings of the ini file; else the defaults.

    Attributes:
        farm: where it is; None for where `icefarm.Client` finds it.
        wait: seconds to queue for boards.
        missing: what becomes of a test for which there is no farm, or no board in time.
        scope: how long a reservation lasts whose marker does not say it.
        is_worker: whether this process is one of several that share the tests.
    """

    farm: str | None
    wait: float
    missing: str
    scope: str
    is_worker: bool

    @classmethod
    def find(cls, config: pytest.Config) -> Self:
        """Those of a run.

        Raises:
            pytest.UsageError: one of them makes no sense.
        """
        return cls(
            farm=config.getoption("icefarm_farm") or config.getini("icefarm_farm") or None,
            wait=_wait(config),
            missing=config.getoption("icefarm_missing")
            or _one_of(config, "icefarm_missing", MISSING),
            scope=_one_of(config, "icefarm_scope", SCOPES),
            is_worker=hasattr(config, "workerinput"),
        )


settings_of = pytest.StashKey[Settings]()
"""Where they are kept."""


def add_options(parser: pytest.Parser) -> None:
    """Declare them."""
    group = parser.getgroup("icefarm", "boards of an iCEFARM")
    group.addoption(
        "--icefarm-farm",
        metavar="FARM",
        help="mqtt://user:password@host:port, or the name of a farm in icefarm's configuration "
        "file; else ICEFARM_BROKER, else the farm on this machine",
    )
    group.addoption(
        "--icefarm-wait",
        type=_seconds,
        metavar="SECONDS",
        help="how long a test queues for its boards; 0 for not at all (default: 300)",
    )
    group.addoption(
        "--icefarm-missing",
        choices=MISSING,
        help="what becomes of a test when there is no farm, or no board in time (default: fail)",
    )
    parser.addini("icefarm_farm", "as --icefarm-farm", default="")
    parser.addini("icefarm_wait", "as --icefarm-wait", default=str(_WAIT))
    parser.addini("icefarm_missing", "as --icefarm-missing", default=MISSING[0])
    parser.addini(
        "icefarm_scope",
        "how long boards are held: for a test (the default), or for the session, which tests with "
        "the same wishes then share; the marker's scope= overrides it",
        default=SCOPES[0],
    )


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return seconds


def _wait(config: pytest.Config) -> float:
    given: float | None = config.getoption("icefarm_wait")
    if given is not None:
        return given
    try:
        return _seconds(config.getini("icefarm_wait"))
    except argparse.ArgumentTypeError as error:
        raise pytest.UsageError(f"icefarm_wait: {error}") from None


def _one_of(config: pytest.Config, name: str, choices: tuple[str, ...]) -> str:
    text: str = config.getini(name)
    if text not in choices:
        raise pytest.UsageError(f"{name} = {text}: write {' or '.join(choices)}")
    return text
