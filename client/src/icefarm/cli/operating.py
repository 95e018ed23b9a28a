"""What the operators' commands share: who may, the dry run, the question, and what is told."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Generic, TypeVar

import typer
from rich.markup import escape

from icefarm.cli.app import FarmOptions, out, print_json
from icefarm.cli.ending import ExitCode, err
from icefarm.cli.held import say
from icefarm.client import Client
from icefarm.errors import (
    FarmError,
    FarmPermissionError,
    InvalidRequestError,
    NoSuchAgentError,
    NoSuchBoardError,
    NoSuchReservationError,
    NotAvailableError,
    ReservationEndedError,
)
from icefarm_broker import NotAuthorisedError
from icefarm_schemas import ConcernedAgent, ConcernedDevice, ReservationState

DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show what would be done, and change nothing.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")]

_NEXT: dict[type[FarmError], str] = {
    NotAvailableError: "`icefarm agents` shows which of them are there",
    NoSuchReservationError: "`icefarm reservations --everybody` lists them",
    ReservationEndedError: "`icefarm history` shows what happened",
}
"""What an operator does next, where that is something else than for a holder."""

Concerned = TypeVar("Concerned", ReservationState, ConcernedAgent, ConcernedDevice)


@dataclass(frozen=True)
class Manner:
    """How something is to be done; `yes` is also for what disturbs nobody."""

    dry_run: bool
    as_json: bool
    yes: bool = True


@dataclass(frozen=True)
class Deed(Generic[Concerned]):
    """Something that an operator does.

    Attributes:
        act: does it, or only says what it would be about, and returns what it is about.
        describe: one of these in words, as it is done, or as it would be.
        question: what is asked before, of people.
    """

    act: Callable[[Client, bool], Sequence[Concerned]]
    describe: Callable[[Client, Concerned, bool], str]
    question: str = ""

    def do(self, options: FarmOptions, manner: Manner) -> None:
        """Do it, after a look at what it is about where somebody is to be asked."""
        check_askable(manner)
        with operating(options) as farm:
            if manner.dry_run:
                self.tell(farm, self.act(farm, True), manner)
            elif manner.yes or self.is_wanted(farm):
                self.tell(farm, self.act(farm, False), manner)

    def is_wanted(self, farm: Client) -> bool:
        """Show what it is about, and ask whether to do it; there may be nothing to do.

        Raises:
            SystemExit: the answer is no.
        """
        found = self.act(farm, True)
        for one in found:
            say(self.describe(farm, one, True))
        if not found:
            say("There is nothing to do.")
            return False
        err.print(f"{self.question} [y/N] ", end="", markup=False, highlight=False)
        if sys.stdin.readline().strip().lower() in ("y", "yes"):
            return True
        say("Nothing is done.")
        sys.exit(ExitCode.FAILED)

    def tell(self, farm: Client, done: Sequence[Concerned], manner: Manner) -> None:
        """A line for each thing that is done, or would be."""
        for one in done:
            if manner.as_json:
                print_json(one.model_dump(mode="json", exclude_none=True))
            else:
                text = self.describe(farm, one, manner.dry_run)
                out.print(escape(text), soft_wrap=True, highlight=False)
        if not done:
            say("There is nothing to do.")


def check_askable(manner: Manner) -> None:
    """Raise InvalidRequestError where somebody is to be asked, and nobody can be."""
    if manner.yes or manner.dry_run or (sys.stdin.isatty() and err.is_terminal):
        return
    raise InvalidRequestError(
        "this is asked about first, and here is no terminal to ask at: give --yes to do it, or "
        "--dry-run to see what would be done"
    )


@contextmanager
def operating(options: FarmOptions) -> Iterator[Client]:
    """A client for what only operators may do; its errors say what an operator can do next."""
    try:
        with options.open() as farm:
            try:
                yield farm
            except (NoSuchAgentError, NoSuchBoardError) as error:
                raise _with_similar(farm, error) from error
    except FarmPermissionError as error:
        if isinstance(error.__cause__, NotAuthorisedError):
            raise for_operators(options) from error
        raise
    except tuple(_NEXT) as error:
        raise type(error)(f"{error}; {_NEXT[type(error)]}", error.details) from error


def for_operators(options: FarmOptions) -> FarmPermissionError:
    """What somebody is told whose account is of another role."""
    return FarmPermissionError(
        f"this is for operators, and {options.open().name} is none; ask whoever keeps the farm for "
        "an account with the role `operator`"
    )


def _with_similar(farm: Client, error: NoSuchAgentError | NoSuchBoardError) -> FarmError:
    """The error, with names that may be meant."""
    if isinstance(error, NoSuchAgentError):
        unknown = str(error.details.get("agent"))
        known = [agent.name for agent in farm.agents()]
    else:
        unknown = str(error.details.get("device")).rpartition("/")[2]
        known = [board.name for board in farm.boards()]
    similar = get_close_matches(unknown, known)
    if not similar:
        return error
    return type(error)(f"{error}; is it {' or '.join(similar)}?", error.details)


def users_of(farm: Client, reservations: Sequence[str]) -> str:
    """Who uses something by these reservations, in words."""
    if not reservations:
        return "nobody uses it"
    clients = {state.reservation: state.client for state in farm.reservations(everybody=True)}
    return "used by " + ", ".join(
        f"{name} of {clients[name]}" if name in clients else name for name in reservations
    )
