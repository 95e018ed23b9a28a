"""The synchronous client: the same names as the asynchronous one, without `await`.

An event loop in a thread of its own keeps the connection alive while the caller computes.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar, overload

from icefarm.async_client import DEFAULT_GRACE, AsyncClient
from icefarm.async_reservation import AsyncReservation
from icefarm.boards import BoardName
from icefarm.handlers import E, check_handler
from icefarm.operator import Operator
from icefarm.reservation import Reservation
from icefarm.termination import Termination
from icefarm.view import Agent, Board
from icefarm_schemas import (
    DEFAULT_DEVICE_GRACE,
    DEFAULT_DURATION,
    Availability,
    ReservationState,
    Transition,
    Usage,
)

_Result = TypeVar("_Result")

_CANCELLING = 10.0
"""Seconds that work may take to end when it is cancelled."""


class _LoopThread:
    """An event loop that runs in a thread."""

    def __init__(self) -> None:
        # The one that watches sockets, as the MQTT library needs; on Windows it is not the default.
        self._loop = asyncio.SelectorEventLoop()
        # Not to keep a program from ending that forgot to close its client.
        self._thread = threading.Thread(target=self._loop.run_forever, name="icefarm", daemon=True)
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Run a coroutine and return its result; end it first when the caller is interrupted."""
        finished = threading.Event()
        running: list[asyncio.Task[Any]] = []

        async def run() -> _Result:
            task = asyncio.current_task()
            assert task is not None
            running.append(task)
            try:
                return await work
            finally:
                finished.set()

        def cancel(again: bool = True) -> None:
            if running:
                running[0].cancel()
            elif again:
                # A task that has just been made has yet to begin.
                self._loop.call_soon(cancel, False)
            else:
                work.close()
                finished.set()

        try:
            return asyncio.run_coroutine_threadsafe(run(), self._loop).result()
        except (KeyboardInterrupt, SystemExit):
            # A signal comes to this thread alone, at any moment, also before there is a future
            # to be cancelled. What is cleaned up next needs the work to be over.
            self._loop.call_soon_threadsafe(cancel)
            finished.wait(_CANCELLING)
            raise

    def close(self) -> None:
        """End the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Client:
    """A connection to a farm, made by `with`. See `AsyncClient` for arguments and errors."""

    def __init__(
        self,
        farm: str | None = None,
        *,
        name: str | None = None,
        grace: float = DEFAULT_GRACE,
        debug: bool | None = None,
    ) -> None:
        self._client = AsyncClient(farm, name=name, grace=grace, debug=debug)
        self._thread: _LoopThread | None = None
        self._termination = Termination()
        self._handlers: dict[Callable[[Any], object], list[Callable[[Any], object]]] = {}

    @property
    def name(self) -> str:
        """Who this client is in the farm."""
        return self._client.name

    @property
    def session(self) -> str:
        """The id of this process in the farm."""
        return self._client.session

    @property
    def operator(self) -> Operator:
        """What operators may do with everybody's boards."""
        return Operator(lambda: self._client.operator, self._call)

    def __enter__(self) -> Self:
        self._termination.begin()
        self._thread = _LoopThread()
        # Handlers may use the client, so they are not called in the thread of its loop.
        self._handlers_thread = ThreadPoolExecutor(1, thread_name_prefix="icefarm handlers")
        try:
            self._call(self._client.__aenter__())
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._call(self._client.__aexit__(kind, error, traceback))
        finally:
            self._end()

    def _end(self) -> None:
        assert self._thread is not None
        self._thread.close()
        self._thread = None
        self._handlers_thread.shutdown(wait=False, cancel_futures=True)
        self._termination.end()

    @property
    def _is_open(self) -> bool:
        return self._thread is not None

    def _call(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        if self._thread is None:
            work.close()
            raise RuntimeError("the client is not open; use it as `with icefarm.Client() as farm:`")
        return self._thread.call(work)

    @overload
    def on(self, event: type[E], handler: Callable[[E], object]) -> Callable[[E], object]: ...

    @overload
    def on(self, event: type[E]) -> Callable[[Callable[[E], object]], Callable[[E], object]]: ...

    def on(
        self, event: type[E], handler: Callable[[E], object] | None = None
    ) -> Callable[[E], object] | Callable[[Callable[[E], object]], Callable[[E], object]]:
        """Call a handler with each event of a class. See `AsyncClient.on`.

        Handlers run in a thread of their own, one after the other, and may use the client.
        """
        if handler is None:
            return partial(self.on, event)
        check_handler(event, handler)

        async def call(happened: E) -> None:
            await asyncio.get_running_loop().run_in_executor(
                self._handlers_thread, handler, happened
            )

        self._client.on(event, call)
        self._handlers.setdefault(handler, []).append(call)
        return handler

    def off(self, handler: Callable[[Any], object]) -> None:
        """Call a handler no more. See `AsyncClient.off`."""
        for call in self._handlers.pop(handler, [handler]):
            self._client.off(call)

    def boards(self) -> list[Board]:
        """All boards of the farm, by agent and name."""
        return self._call(self._client.boards())

    def agents(self) -> list[Agent]:
        """All agents of the farm, by name."""
        return self._call(self._client.agents())

    def is_served(self) -> bool:
        """Whether control is there to answer requests."""
        return self._call(self._client.is_served())

    def is_connected(self) -> bool:
        """Whether the broker is there; while it is not, all else is as it was before."""
        return self._call(self._client.is_connected())

    def changed(self) -> None:
        """Return when `boards`, `agents`, `is_served` or `is_connected` may tell something new."""
        self._call(self._client.changed())

    def reserve(
        self,
        count: int | None = None,
        *,
        behaviour: str = "pulsecount",
        boards: Sequence[BoardName] | None = None,
        product: str | None = None,
        labels: dict[str, str] | None = None,
        arguments: dict[str, Any] | None = None,
        duration: float = DEFAULT_DURATION,
        keep: bool = False,
        wait: float | None = None,
        priority: int = 0,
        board_grace: float = DEFAULT_DEVICE_GRACE,
        auto_extend: bool = True,
    ) -> Reservation:
        """Reserve boards and wait until they are ready. See `AsyncClient.reserve`."""

        async def reserve() -> AsyncReservation:
            return await self._client.reserve(
                count,
                behaviour=behaviour,
                boards=boards,
                product=product,
                labels=labels,
                arguments=arguments,
                duration=duration,
                keep=keep,
                wait=wait,
                priority=priority,
                board_grace=board_grace,
                auto_extend=auto_extend,
            )

        return Reservation(self, self._call(reserve()))

    def find_reservation(
        self, reservation: str, *, take_over: bool = True, auto_extend: bool = True
    ) -> Reservation:
        """One of your reservations, perhaps of another process. See `AsyncClient`."""
        found = self._client.find_reservation(
            reservation, take_over=take_over, auto_extend=auto_extend
        )
        return Reservation(self, self._call(found))

    def reservations(self, *, everybody: bool = False) -> list[ReservationState]:
        """Your reservations that are not over, or everybody's. See `AsyncClient.reservations`."""
        return self._call(self._client.reservations(everybody=everybody))

    def extend(
        self,
        *reservations: str,
        boards: Sequence[BoardName] | None = None,
        everything: bool = False,
        duration: float = DEFAULT_DURATION,
    ) -> list[ReservationState]:
        """Let leases end `duration` seconds from now. See `AsyncClient.extend`."""
        return self._call(
            self._client.extend(
                *reservations, boards=boards, everything=everything, duration=duration
            )
        )

    def release(
        self,
        *reservations: str,
        boards: Sequence[BoardName] | None = None,
        everything: bool = False,
    ) -> list[ReservationState]:
        """Give boards back. See `AsyncClient.release`."""
        return self._call(self._client.release(*reservations, boards=boards, everything=everything))

    def change(
        self,
        *reservations: str,
        behaviour: str,
        boards: Sequence[BoardName] | None = None,
        everything: bool = False,
        arguments: dict[str, Any] | None = None,
    ) -> list[ReservationState]:
        """Let boards do something else while they stay yours. See `AsyncClient.change`."""
        return self._call(
            self._client.change(
                *reservations,
                behaviour=behaviour,
                boards=boards,
                everything=everything,
                arguments=arguments,
            )
        )

    def availability(self) -> Availability:
        """How many boards are free, of how many, by behaviour and by product."""
        return self._call(self._client.availability())

    def wait_until_available(
        self, count: int = 1, *, behaviour: str = "pulsecount", timeout: float | None = None
    ) -> None:
        """Return when so many boards are free. See `AsyncClient.wait_until_available`."""
        self._call(self._client.wait_until_available(count, behaviour=behaviour, timeout=timeout))

    def history(
        self,
        *,
        client: str | None = None,
        board: str | None = None,
        reservation: str | None = None,
        since: datetime | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> list[Transition]:
        """What happened to reservations, newest first. See `AsyncClient.history`."""
        return self._call(
            self._client.history(
                client=client,
                board=board,
                reservation=reservation,
                since=since,
                before=before,
                limit=limit,
            )
        )

    def usage(self, *, since: datetime | None = None, until: datetime | None = None) -> Usage:
        """How long boards were held, by client and by board."""
        return self._call(self._client.usage(since=since, until=until))
