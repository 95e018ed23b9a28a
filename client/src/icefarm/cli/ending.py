"""How a command ends: exit codes, and whatever goes wrong as one line that says what to do."""

import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from icefarm.errors import (
    BoardLostError,
    ControlOfflineError,
    FarmError,
    FarmPermissionError,
    FarmUnreachableError,
    InternalFarmError,
    InvalidRequestError,
    MeasurementFailedError,
    NoSuchBehaviourError,
    NoSuchBoardError,
    NoSuchReservationError,
    NotAvailableError,
    NotHolderError,
    NotSupportedError,
    ReservationEndedError,
    StreamLostError,
    TimedOutError,
)
from icefarm_broker.service import log_as


class ExitCode(IntEnum):
    """How a command ended; docs/reference/cli.md lists them."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_AVAILABLE = 3
    UNREACHABLE = 4
    SOME_FAILED = 5
    INTERRUPTED = 130
    TERMINATED = 143
    """By SIGTERM, which a client turns into the end of its blocks (`icefarm.termination`)."""


_NEXT: dict[type[FarmError], str] = {
    FarmUnreachableError: "`icefarm doctor` looks for the cause",
    FarmPermissionError: "`icefarm doctor` shows what the broker allows, `icefarm login` keeps a "
    "password",
    ControlOfflineError: "`icefarm doctor` shows what else is missing",
    TimedOutError: "try again; `icefarm doctor` shows which part does not answer",
    NotAvailableError: "--wait queues for them, `icefarm watch` shows who holds what",
    NoSuchBoardError: "`icefarm boards` lists them",
    NoSuchBehaviourError: "`icefarm boards --json` lists what each board offers",
    NoSuchReservationError: "`icefarm reservations` lists yours",
    NotHolderError: "`icefarm reservations --everybody` shows whose it is",
    ReservationEndedError: "`icefarm reserve` makes another one, `icefarm history` shows what "
    "happened",
    BoardLostError: "`icefarm boards` shows what it does now; try another one",
    MeasurementFailedError: "try again; `icefarm boards` shows what the board does now",
    NotSupportedError: "`icefarm change` lets the board do something else",
    StreamLostError: "try again; the board is still held if it was before",
    InternalFarmError: "tell whoever keeps the farm: the log of its control process says more",
}
"""What to do about an error whose own words do not name a command."""

err = Console(stderr=True)


def show_error(error: FarmError) -> None:
    """One line that says what happened and what to do next."""
    text = str(error)
    following = _NEXT.get(type(error))
    if following is not None and "`" not in text:
        text += f" {following}" if text.endswith("?") else f"; {following}"
    err.print(f"[red]Error:[/red] {escape(text)}", soft_wrap=True, highlight=False)


def fail(error: FarmError) -> NoReturn:
    """Say what happened and exit."""
    show_error(error)
    match error:
        case NotAvailableError():
            sys.exit(ExitCode.NOT_AVAILABLE)
        case (
            FarmUnreachableError() | FarmPermissionError() | ControlOfflineError() | TimedOutError()
        ):
            sys.exit(ExitCode.UNREACHABLE)
        case InvalidRequestError():
            sys.exit(ExitCode.USAGE)
        case _:
            sys.exit(ExitCode.FAILED)


@contextmanager
def ending(*, debug: bool) -> Iterator[None]:
    """Around a command: whatever ends it becomes an exit code, and a line where it went wrong.

    With `debug`, a traceback comes before the line, and all that is logged is shown.
    """
    if debug:
        log_as("icefarm", debug=True)
    else:
        # What is lost and found again is told by the command, where that matters.
        logging.basicConfig(level=logging.ERROR, format="icefarm: %(message)s")
    try:
        yield
    except FarmError as error:
        if debug:
            traceback.print_exc()
        fail(error)
    except KeyboardInterrupt:
        err.print("interrupted")
        sys.exit(ExitCode.INTERRUPTED)
    except (typer.Exit, typer.Abort, BrokenPipeError):
        raise  # Typer knows them.
    except Exception as error:
        if debug:
            raise
        err.print(
            f"[red]Error:[/red] this is a defect of icefarm: {escape(repr(error))}; run it again "
            "with --debug and report what it shows",
            soft_wrap=True,
            highlight=False,
        )
        sys.exit(ExitCode.FAILED)
