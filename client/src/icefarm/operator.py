"""The operator's tools for synchronous programs: the same names, without `await`."""

from collections.abc import Callable, Coroutine, Sequence
from datetime import datetime
from typing import Any, Protocol, TypeVar

from icefarm.async_operator import AsyncOperator
from icefarm.boards import BoardName
from icefarm_schemas import (
    DEFAULT_DRAIN_DEADLINE,
    DEFAULT_DURATION,
    AuditEntry,
    ConcernedAgent,
    ConcernedDevice,
    ReservationState,
)

_Result = TypeVar("_Result")


class Call(Protocol):
    """Runs a coroutine in the client's loop, and returns its result."""

    def __call__(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Run it to its end."""


class Operator:
    """Made by `Client.operator`. See `AsyncOperator` for arguments and errors."""

    def __init__(self, find: Callable[[], AsyncOperator], call: Call) -> None:
        self._find, self._call = find, call

    def check(self) -> None:
        """Do nothing, if the account is an operator's."""
        return self._call(self._find().check())

    def end(
        self,
        *reservations: str,
        boards: Sequence[BoardName] | None = None,
        client: str | None = None,
        everything: bool = False,
        dry_run: bool = False,
    ) -> list[ReservationState]:
        """End reservations: some, a client's, or everybody's; or take boards out of theirs."""
        return self._call(
            self._find().end(
                *reservations, boards=boards, client=client, everything=everything, dry_run=dry_run
            )
        )

    def extend(
        self,
        *reservations: str,
        boards: Sequence[BoardName] | None = None,
        client: str | None = None,
        everything: bool = False,
        duration: float = DEFAULT_DURATION,
        dry_run: bool = False,
    ) -> list[ReservationState]:
        """Let leases end `duration` seconds from now, chosen as by `end`."""
        return self._call(
            self._find().extend(
                *reservations,
                boards=boards,
                client=client,
                everything=everything,
                duration=duration,
                dry_run=dry_run,
            )
        )

    def drain(
        self,
        *agents: str,
        everything: bool = False,
        deadline: float = DEFAULT_DRAIN_DEADLINE,
        dry_run: bool = False,
    ) -> list[ConcernedAgent]:
        """Give the boards of agents to nobody any more, until they are resumed."""
        return self._call(
            self._find().drain(*agents, everything=everything, deadline=deadline, dry_run=dry_run)
        )

    def resume(
        self, *agents: str, everything: bool = False, dry_run: bool = False
    ) -> list[ConcernedAgent]:
        """Let agents go on that are drained, or that are to be restarted and have not been yet."""
        return self._call(self._find().resume(*agents, everything=everything, dry_run=dry_run))

    def restart(
        self,
        *agents: str,
        everything: bool = False,
        deadline: float = DEFAULT_DRAIN_DEADLINE,
        dry_run: bool = False,
    ) -> list[ConcernedAgent]:
        """Drain agents, and let their processes end when nobody holds their boards any more."""
        return self._call(
            self._find().restart(*agents, everything=everything, deadline=deadline, dry_run=dry_run)
        )

    def restart_boards(self, *boards: BoardName, dry_run: bool = False) -> list[ConcernedDevice]:
        """Start boards anew where they are, whoever holds them."""
        return self._call(self._find().restart_boards(*boards, dry_run=dry_run))

    def forget(self, *boards: BoardName, dry_run: bool = False) -> list[ConcernedDevice]:
        """Remove boards, and let their agents look for them anew."""
        return self._call(self._find().forget(*boards, dry_run=dry_run))

    def forget_agents(self, *agents: str, dry_run: bool = False) -> list[ConcernedAgent]:
        """Remove agents that are not there, with their boards; one that comes back is new."""
        return self._call(self._find().forget_agents(*agents, dry_run=dry_run))

    def note(self, *boards: BoardName, text: str, dry_run: bool = False) -> list[ConcernedDevice]:
        """Write something about boards for all to see (`Board.note`); an empty text removes it."""
        return self._call(self._find().note(*boards, text=text, dry_run=dry_run))

    def audit(
        self, *, since: datetime | None = None, before: int | None = None, limit: int = 100
    ) -> list[AuditEntry]:
        """What operators asked for, newest first; `before` is a number of one of them."""
        return self._call(self._find().audit(since=since, before=before, limit=limit))
