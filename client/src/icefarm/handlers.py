"""Handlers of events: registered by the class of the event, called one after the other."""

import asyncio
import inspect
import logging
from collections.abc import Callable
from typing import Any, TypeVar, get_args

from icefarm.errors import InvalidRequestError
from icefarm.events import FarmEvent

_EVENTS: tuple[type, ...] = get_args(FarmEvent)

E = TypeVar("E", bound=FarmEvent)
Handler = Callable[[E], object]
"""What it returns is ignored, unless it can be awaited."""

log = logging.getLogger(__name__)


def check_handler(event: type[Any], handler: Callable[[Any], object]) -> None:
    """Check what a caller wants to register.

    Raises:
        InvalidRequestError: there is no such event, or the handler does not take one.
    """
    if event not in _EVENTS:
        names = ", ".join(kind.__name__ for kind in _EVENTS)
        raise InvalidRequestError(f"{event!r} is no event; those of icefarm.events are {names}")
    try:
        inspect.signature(handler).bind(None)
    except TypeError as error:
        raise InvalidRequestError(
            f"{handler!r} cannot be called with an event alone: {error}"
        ) from error


class Handlers:
    """The handlers of a client, and the events that they have yet to see.

    They are called in turn, so a slow one delays those after it but nothing else. What one raises
    is logged with its traceback, and the others are called none the less.
    """

    def __init__(self) -> None:
        self._handlers: list[tuple[type[Any], Callable[[Any], object]]] = []
        self._events: asyncio.Queue[FarmEvent] = asyncio.Queue()

    def add(self, event: type[Any], handler: Callable[[Any], object]) -> None:
        """Call a handler with each event of a class from now on."""
        self._handlers.append((event, handler))

    def remove(self, handler: Callable[[Any], object]) -> None:
        """Call it no more.

        Raises:
            InvalidRequestError: it is no handler of any event.
        """
        left = [(event, other) for event, other in self._handlers if other != handler]
        if len(left) == len(self._handlers):
            raise InvalidRequestError(f"{handler!r} handles no event, so it cannot be removed")
        self._handlers = left

    def put(self, event: FarmEvent) -> None:
        """Something has happened."""
        if any(kind is type(event) for kind, _ in self._handlers):
            self._events.put_nowait(event)

    async def run(self) -> None:
        """Call them."""
        while True:
            event = await self._events.get()
            for kind, handler in list(self._handlers):
                if kind is type(event):
                    await self._call(handler, event)

    @staticmethod
    async def _call(handler: Callable[[Any], object], event: FarmEvent) -> None:
        try:
            answer = handler(event)
            if inspect.isawaitable(answer):
                await answer
        except Exception:
            # It is a caller's code, which may raise anything; the farm goes on.
            log.exception("the handler %r failed with %s", handler, event)
