"""What all commands share: the application, its common options, errors and exit codes."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from icefarm.client import Client
from icefarm.errors import (
    ControlOfflineError,
    FarmError,
    FarmPermissionError,
    FarmUnreachableError,
    InvalidRequestError,
    NotAvailableError,
    TimedOutError,
)
from icefarm_broker import URL_VARIABLE


class ExitCode(IntEnum):
    """How a command ended; docs/reference/cli.md lists them."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_AVAILABLE = 3
    UNREACHABLE = 4
    SOME_FAILED = 5
    INTERRUPTED = 130


app = typer.Typer(
    help="Reserve and use the FPGA boards of an iCEFARM.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
out = Console()
err = Console(stderr=True)

Broker = Annotated[
    str | None,
    typer.Option(
        envvar=URL_VARIABLE, help="The farm: mqtt://user:password@host:port", metavar="URL"
    ),
]
Name = Annotated[str | None, typer.Option(help="Who you are, where the broker asks for no login.")]
Json = Annotated[bool, typer.Option("--json", help="Lines of JSON for programs.")]


def print_json(value: Any) -> None:
    """One line of JSON on standard output."""
    print(json.dumps(value, default=str, ensure_ascii=False), flush=True)


@contextmanager
def open_farm(broker: str | None, name: str | None) -> Iterator[Client]:
    """A client for one command; what goes wrong ends it with a line and an exit code."""
    try:
        with Client(broker, name=name) as farm:
            yield farm
    except FarmError as error:
        fail(error)
    except KeyboardInterrupt:
        err.print("interrupted")
        sys.exit(ExitCode.INTERRUPTED)


def show_error(error: FarmError) -> None:
    """One line that says what happened."""
    err.print(f"[red]Error:[/red] {escape(str(error))}", soft_wrap=True)


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
