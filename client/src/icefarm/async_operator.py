"""What an operator does with everybody's boards."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from icefarm.boards import BoardName
from icefarm.requests import make
from icefarm.session import Session
from icefarm_schemas import (
    DEFAULT_DRAIN_DEADLINE,
    DEFAULT_DURATION,
    AuditEntry,
    AuditRequest,
    ConcernedAgent,
    ConcernedDevice,
    DrainRequest,
    EndRequest,
    ExtendLeasesRequest,
    ForgetAgentsRequest,
    ForgetRequest,
    Message,
    NoteRequest,
    OperatorOperation,
    ProbeRequest,
    ReservationState,
    RestartDevicesRequest,
    RestartRequest,
    ResumeRequest,
)


class AsyncOperator:
    """Made by `AsyncClient.operator`; the broker refuses what an account may not do.

    Boards are named as elsewhere, or as "agent/board" where several agents know one of a name.
    With `dry_run` nothing is done, and what is returned is what it would be. All that is done, and
    all that is refused, is recorded with the operator's name.

    Raises (each method):
        FarmPermissionError: the account is no operator's.
        ControlOfflineError: nobody answers requests.
        InvalidRequestError: what is asked for makes no sense.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    async def check(self) -> None:
        """Do nothing, if the account is an operator's."""
        await self._session.ask(OperatorOperation.PROBE, ProbeRequest())

    async def end(
        self,
        *reservations: str,
        boards: Sequence[BoardName] | None = None,
        client: str | None = None,
        everything: bool = False,
        dry_run: bool = False,
    ) -> list[ReservationState]:
        """End reservations: some, a client's, or everybody's; or take boards out of theirs.

        A reservation that loses some of its boards goes on with the others.

        Raises:
            NoSuchReservationError, ReservationEndedError: one never was, or is over; or one of the
                boards is in none. Then nothing is ended.
            NoSuchBoardError: the farm has no such board.
        """
        chosen = _reservations(reservations, boards, client, everything, dry_run)
        return await self._of_reservations(OperatorOperation.END, make(EndRequest, **chosen))

    async def extend(
        self,
        *reservations: str,
        boards: Sequence[BoardName] | None = None,
        client: str | None = None,
        everything: bool = False,
        duration: float = DEFAULT_DURATION,
        dry_run: bool = False,
    ) -> list[ReservationState]:
        """Let leases end `duration` seconds from now, chosen as by `end`.

        Raises:
            NoSuchReservationError, ReservationEndedError, NoSuchBoardError: as by `end`.
            LimitExceededError: they would be too long.
        """
        chosen = _reservations(reservations, boards, client, everything, dry_run)
        request = make(ExtendLeasesRequest, **chosen, duration=duration)
        return await self._of_reservations(OperatorOperation.EXTEND, request)

    async def drain(
        self,
        *agents: str,
        everything: bool = False,
        deadline: float = DEFAULT_DRAIN_DEADLINE,
        dry_run: bool = False,
    ) -> list[ConcernedAgent]:
        """Give the boards of agents to nobody any more, until they are resumed.

        Their holders are told, and lose them after `deadline` seconds.

        Raises:
            NoSuchAgentError: the farm has no such agent.
        """
        chosen = _agents(agents, everything, dry_run)
        request = make(DrainRequest, **chosen, deadline=deadline)
        return await self._of_agents(OperatorOperation.DRAIN, request)

    async def resume(
        self, *agents: str, everything: bool = False, dry_run: bool = False
    ) -> list[ConcernedAgent]:
        """Let agents go on that are drained, or that are to be restarted and have not been yet.

        Raises:
            NoSuchAgentError: the farm has no such agent.
        """
        request = make(ResumeRequest, **_agents(agents, everything, dry_run))
        return await self._of_agents(OperatorOperation.RESUME, request)

    async def restart(
        self,
        *agents: str,
        everything: bool = False,
        deadline: float = DEFAULT_DRAIN_DEADLINE,
        dry_run: bool = False,
    ) -> list[ConcernedAgent]:
        """Drain agents, and let their processes end when nobody holds their boards any more.

        Or after `deadline` seconds. What supervises them starts them again. Who holds a board then
        goes on with it, if its agent is back within the reservation's `board_grace`.

        Raises:
            NoSuchAgentError: the farm has no such agent.
            NotAvailableError: it is not there.
        """
        chosen = _agents(agents, everything, dry_run)
        request = make(RestartRequest, **chosen, deadline=deadline)
        return await self._of_agents(OperatorOperation.RESTART, request)

    async def restart_boards(
        self, *boards: BoardName, dry_run: bool = False
    ) -> list[ConcernedDevice]:
        """Start boards anew where they are, whoever holds them.

        Raises:
            NoSuchBoardError: the farm has no such board.
            NotAvailableError: it is away.
        """
        request = make(RestartDevicesRequest, devices=_boards(boards), dry_run=dry_run)
        return await self._of_devices(OperatorOperation.RESTART_DEVICES, request)

    async def forget(self, *boards: BoardName, dry_run: bool = False) -> list[ConcernedDevice]:
        """Remove boards, and let their agents look for them anew.

        Raises:
            NoSuchBoardError: the farm has no such board.
        """
        request = make(ForgetRequest, devices=_boards(boards), dry_run=dry_run)
        return await self._of_devices(OperatorOperation.FORGET, request)

    async def forget_agents(self, *agents: str, dry_run: bool = False) -> list[ConcernedAgent]:
        """Remove agents that are not there, with their boards; one that comes back is new.

        Raises:
            NoSuchAgentError: the farm has no such agent.
            NotAvailableError: it is there, or somebody holds a board of it.
        """
        request = make(ForgetAgentsRequest, agents=agents, dry_run=dry_run)
        return await self._of_agents(OperatorOperation.FORGET_AGENTS, request)

    async def note(
        self, *boards: BoardName, text: str, dry_run: bool = False
    ) -> list[ConcernedDevice]:
        """Write something about boards for all to see (`Board.note`); an empty text removes it.

        Raises:
            NoSuchBoardError: the farm has no such board.
        """
        request = make(NoteRequest, devices=_boards(boards), text=text, dry_run=dry_run)
        return await self._of_devices(OperatorOperation.NOTE, request)

    async def audit(
        self, *, since: datetime | None = None, before: int | None = None, limit: int = 100
    ) -> list[AuditEntry]:
        """What operators asked for, newest first; `before` is a number of one of them."""
        request = make(AuditRequest, since=since, before=before, limit=limit)
        return list((await self._session.ask(OperatorOperation.AUDIT, request)).audit or ())

    async def _of_reservations(
        self, operation: OperatorOperation, request: Message
    ) -> list[ReservationState]:
        return list((await self._session.ask(operation, request)).reservations or ())

    async def _of_agents(
        self, operation: OperatorOperation, request: Message
    ) -> list[ConcernedAgent]:
        return list((await self._session.ask(operation, request)).agents or ())

    async def _of_devices(
        self, operation: OperatorOperation, request: Message
    ) -> list[ConcernedDevice]:
        return list((await self._session.ask(operation, request)).devices or ())


def _reservations(
    reservations: Sequence[str],
    boards: Sequence[BoardName] | None,
    client: str | None,
    everything: bool,
    dry_run: bool,
) -> dict[str, Any]:
    return {
        "reservations": tuple(reservations) or None,
        "devices": None if boards is None else _boards(boards),
        "client": client,
        "all": everything,
        "dry_run": dry_run,
    }


def _agents(agents: Sequence[str], everything: bool, dry_run: bool) -> dict[str, Any]:
    return {"agents": tuple(agents) or None, "all": everything, "dry_run": dry_run}


def _boards(boards: Sequence[BoardName]) -> tuple[str, ...]:
    """Their names; an object says also which agent has it."""
    return tuple(
        board
        if isinstance(board, str)
        else f"{agent}/{board.name}"
        if (agent := getattr(board, "agent", None))
        else board.name
        for board in boards
    )
