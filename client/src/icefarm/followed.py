"""The reservations that a session follows: who hears of them, and what may have been missed."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Protocol

from icefarm.errors import (
    FarmError,
    NoSuchReservationError,
    ReservationEndedError,
    end_reason,
)
from icefarm.events import ReservationEnded
from icefarm.handlers import Handlers
from icefarm.view import View
from icefarm_schemas import (
    CommandFinished,
    CommandRefused,
    DeviceFailed,
    EvaluationFinished,
    Event,
    ReservationExpiring,
    ReservationState,
    StreamClosed,
    StreamOpened,
)

_ASK_AGAIN = 1.0
_SILENT = 2.0
"""Seconds without a word of a reservation that has been made, or is waited for."""

log = logging.getLogger(__name__)

HolderEvent = (
    EvaluationFinished
    | CommandFinished
    | CommandRefused
    | StreamOpened
    | StreamClosed
    | DeviceFailed
    | ReservationExpiring
)
"""What a reservation is told: answers to its commands, the loss of a board, the lease's end."""


class Follower(Protocol):
    """Who hears what happens to a reservation."""

    def take(self, event: HolderEvent) -> None:
        """An event of the reservation has come."""

    def send_again(self, agent: str) -> None:
        """Commands to an agent, or its results, may have been lost."""


class Followed:
    """The reservations that are followed; to be told what the session hears.

    Args:
        ask: asks control for a reservation's state, which the view then has.
        later: does something beside all else, until the session ends.
    """

    def __init__(
        self,
        view: View,
        handlers: Handlers,
        ask: Callable[[str], Coroutine[Any, Any, ReservationState]],
        later: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._view, self._handlers = view, handlers
        self._ask, self._later = ask, later
        self._followers: dict[str, Follower | None] = {}
        # Of these, nothing has been heard since they are followed.
        self._unheard: set[str] = set()
        # And of these, since the connection was made again.
        self._missed: set[str] = set()
        # Losses that were told of reservations before they are followed.
        self._early: defaultdict[str, list[DeviceFailed]] = defaultdict(list)

    def __contains__(self, reservation: str) -> bool:
        return reservation in self._followers

    def __iter__(self) -> Iterator[str]:
        return iter(self._followers)

    def add(self, reservation: str, follower: Follower | None = None) -> None:
        """Let `follower` hear of a reservation, and ask after it when that may be missed."""
        self._followers[reservation] = follower
        self._unheard.add(reservation)
        if follower is not None:
            for event in self._early.pop(reservation, ()):
                follower.take(event)

    def remove(self, reservation: str) -> None:
        """Undo `add`."""
        self._followers.pop(reservation, None)
        self._unheard.discard(reservation)

    def hear(self, reservation: str) -> None:
        """Its state has come."""
        self._unheard.discard(reservation)
        self._missed.discard(reservation)

    def take(self, event: Event) -> None:
        """Pass an event on to who follows its reservation."""
        follower = self._followers.get(event.reservation)
        match event:
            case _ if follower is not None and isinstance(event, HolderEvent):
                follower.take(event)
            case DeviceFailed():
                self._early[event.reservation].append(event)
            case EvaluationFinished() | CommandFinished() | CommandRefused():
                log.info("a result that nobody here waits for: %s", event)

    def send_again(self, agent: str) -> None:
        """An agent, or this session, has been away."""
        for follower in self._followers.values():
            if follower is not None:
                follower.send_again(agent)

    def begin(self) -> None:
        """The connection is there, and tells the state of each reservation that is not over."""
        self._missed = set(self._followers)

    def settle(self) -> None:
        """It has told all of them."""
        for reservation in self._missed:
            self.ask_after(reservation)
        self._missed = set()

    def ask_if_silent(self, reservation: str) -> None:
        """Ask after a reservation if its state does not come: it may have ended before."""

        async def ask() -> None:
            await asyncio.sleep(_SILENT)
            if reservation in self._unheard:
                await self._ask_until_known(reservation)

        self._later(ask())

    def ask_after(self, reservation: str) -> None:
        """What is not retained may be over, or the broker has forgotten it: control knows."""
        self._later(self._ask_until_known(reservation))

    async def _ask_until_known(self, reservation: str) -> None:
        while reservation in self._followers:
            try:
                await self._ask(reservation)
            except (ReservationEndedError, NoSuchReservationError) as error:
                if reservation not in self._view.ended:
                    self._handlers.put(ReservationEnded(reservation, end_reason(error)))
                self._view.end(reservation, end_reason(error))
            except FarmError as error:
                log.info("the state of %s is not known yet: %s", reservation, error)
                await asyncio.sleep(_ASK_AGAIN)
                continue
            return
