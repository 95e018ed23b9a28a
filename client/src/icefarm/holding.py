"""What this process knows of a reservation that it uses, and who here hears of it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from icefarm.boards import BoardKey, BoardName, name_of
from icefarm.errors import (
    BoardLostError,
    InvalidRequestError,
    NotHolderError,
    ReservationEndedError,
)
from icefarm.followed import HolderEvent
from icefarm.leasing import Lease
from icefarm.session import Session
from icefarm_schemas import (
    CommandFinished,
    CommandRefused,
    DeviceFailed,
    EvaluationFinished,
    HeldDevice,
    ReservationExpiring,
    ReservationState,
    StreamClosed,
    StreamOpened,
)

Streaming = StreamOpened | StreamClosed
Hearer = Callable[[CommandFinished | CommandRefused | StreamOpened | StreamClosed], None]


class Run(Protocol):
    """An evaluation that is under way."""

    def take(self, event: EvaluationFinished | CommandRefused) -> None:
        """A result has come, or a refusal, for this run or another."""

    def send_again(self, agent: str) -> None:
        """What an agent was sent, or its results, may have been lost."""


class Holding:
    """A reservation, as control told it last, and what is under way with its boards.

    Attributes:
        id: of the reservation.
        failures: why boards were taken out of it.
        runs: the evaluations that are under way; they share the boards.
    """

    def __init__(self, session: Session, state: ReservationState, lease: Lease | None) -> None:
        self.session, self.view = session, session.view
        self.id = state.reservation
        self.failures: dict[BoardKey, DeviceFailed] = {}
        self.runs: list[Run] = []
        self._first_state, self._lease = state, lease
        self._ever = dict.fromkeys(map(key_of, state.devices))
        # The boards of which a loss has not been told to the caller.
        self._expected = set(self._ever)
        self._hearers: dict[str, Hearer] = {}

    @property
    def state(self) -> ReservationState:
        """As control told it last."""
        return self.view.reservations.get(self.id, self._first_state)

    def boards(self) -> list[BoardKey]:
        """The boards that are in it now."""
        return [key_of(device) for device in self.state.devices]

    def find(self, board: BoardName | None, *, even_lost: bool = False) -> BoardKey:
        """The agent and name of a board, or of the only one.

        Raises:
            InvalidRequestError: no board is named, and there are several.
            NotHolderError: it is not in the reservation; or never was, with `even_lost`.
        """
        held = self.boards()
        if board is None:
            if len(held) != 1:
                names = ", ".join(name for _, name in held)
                raise InvalidRequestError(
                    f"the reservation {self.id} has several boards; say which of {names}"
                )
            return held[0]
        for key in self._ever if even_lost else held:
            if key[1] == name_of(board):
                return key
        raise NotHolderError(f"the board {name_of(board)!r} is not in the reservation {self.id}")

    def is_ready(self, key: BoardKey) -> bool:
        """Whether a board serves the reservation."""
        return self.view.is_ready(*key, self.id)

    def all_ready(self) -> bool:
        """Whether all boards do what they should.

        Raises:
            BoardLostError: one of them was lost, which is told once.
            ReservationEndedError: the reservation is over.
        """
        lost = self._expected - {*self.boards()} | self._expected & self.failures.keys()
        self._expected -= lost
        if lost:
            raise self.loss_of(min(lost))
        self.check()
        return all(
            self.view.is_ready(*key_of(d), self.id, d.generation) for d in self.state.devices
        )

    def give_back(self, key: BoardKey) -> None:
        """That it is in the reservation no more will be no loss."""
        self._expected.discard(key)

    def status_of(self, key: BoardKey) -> str:
        """What a board does, in a word or more."""
        states = {(board.agent, board.name): board for board in self.view.list_boards()}
        board = states.get(key)
        if board is None:
            return "gone"
        return f"{board.status}: {board.detail}" if board.detail else board.status

    def check(self) -> None:
        """Raise ReservationEndedError when the reservation is over."""
        if self.id in self.view.ended:
            reason = self.view.ended[self.id]
            why = reason.replace("_", " ") if reason else "while this client was away"
            raise ReservationEndedError(f"the reservation {self.id} is over: {why}")

    def check_board(self, key: BoardKey) -> None:
        """Raise when a board is not in it any more, or the reservation is over."""
        self.check()
        if key not in self.boards():
            raise self.loss_of(key)

    def loss_of(self, key: BoardKey) -> BoardLostError:
        """Why a board is not in the reservation any more."""
        failure = self.failures.get(key)
        if failure is None:
            why = "is not in the reservation any more"
        elif failure.detail is not None:
            why = f"is {failure.reason.replace('_', ' ')}: {failure.detail}"
        else:
            why = f"is lost: {failure.reason.replace('_', ' ')}"
        return BoardLostError(f"the board {key[1]!r} {why}")

    @contextmanager
    def hearing(self, name: str, hear: Hearer) -> Iterator[None]:
        """Let `hear` have the events of a command or stream."""
        self._hearers[name] = hear
        try:
            yield
        finally:
            del self._hearers[name]

    def take(self, event: HolderEvent) -> None:
        """An event of this reservation has come."""
        match event:
            case ReservationExpiring():
                if self._lease is not None:
                    self._lease.warn()
            case DeviceFailed():
                key = (event.agent, event.device)
                self.failures[key] = event
                left = tuple(device for device in self.state.devices if key_of(device) != key)
                self.view.put(self.state.model_copy(update={"devices": left}))
            case EvaluationFinished():
                self._tell_runs(event)
            case _:
                name = event.stream if isinstance(event, Streaming) else event.id
                if name in self._hearers:
                    self._hearers[name](event)
                elif isinstance(event, CommandRefused):
                    self._tell_runs(event)

    def _tell_runs(self, event: EvaluationFinished | CommandRefused) -> None:
        for run in self.runs:
            run.take(event)

    def send_again(self, agent: str) -> None:
        """Commands to an agent, or its results, may have been lost."""
        for run in self.runs:
            run.send_again(agent)


def key_of(device: HeldDevice) -> BoardKey:
    """The agent and name of a board."""
    return device.agent, device.device
