"""What the older package's clients share, on a connection of `icefarm.Client`."""

import asyncio
import atexit
import secrets
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar, Literal

from icefarm.client import Client
from icefarm.commanding import READY_TIMEOUT
from icefarm.errors import FarmError, NotHolderError
from icefarm.events import (
    BoardFailed,
    BoardReady,
    BoardsAvailable,
    ReservationEnded,
    ReservationExpiring,
)
from icefarm.legacy.address import farm_of
from icefarm.legacy.evaluating import Measured, Part, evaluate
from icefarm.legacy.evaluations import (
    Evaluation,
    EvaluationFailed,
    Path,
    Result,
)
from icefarm.legacy.handlers import (
    AbstractEventHandler,
    EventServer,
    Logger,
    LoggerEventHandler,
)
from icefarm.reservation import Reservation
from icefarm_schemas.requests import MAX_WAIT

Serials = list[str] | Literal[False]
"""Names of boards, or False where the farm refused; why is logged as an error."""


class LegacyClient:
    """What both clients do."""

    _kind: ClassVar[str]
    _evaluation: ClassVar[type[Evaluation]]

    def __init__(self, url: str, client_name: str, logger: Logger, log_events: bool) -> None:
        warnings.warn(
            "icefarm.legacy keeps scripts for the older icefarm package running; "
            "docs/how-to/migration.md says what to write instead",
            DeprecationWarning,
            stacklevel=3,
        )
        self.url = url
        """As the script gave it."""
        self.logger = logger
        """As the script gave it."""
        self.server = EventServer()
        """For the constructors of handlers."""
        self._held: dict[str, Reservation] = {}
        self._farm = Client(farm_of(url), name=client_name)
        self.name = self._farm.name
        """Who this client is in the farm."""
        if log_events:
            self.addEventHandler(LoggerEventHandler(self.server, logger))
        self._listen()
        self._farm.__enter__()
        self._is_open = True
        atexit.register(self.stop)
        logger.info(
            "using the farm at %s as %r, for %s", self._farm._client._address, self.name, url
        )

    def _listen(self) -> None:
        """Make the older events of those that the farm tells."""
        farm, tell = self._farm, self.server.tell

        @farm.on(BoardsAvailable)
        def tell_available(event: BoardsAvailable) -> None:
            tell("meta", "devices_available", amount=event.available)

        @farm.on(BoardReady)
        def tell_initialized(event: BoardReady) -> None:
            tell(event.board, "initialized")

        @farm.on(BoardFailed)
        def tell_failure(event: BoardFailed) -> None:
            self._drop([event.board], "failure")

        @farm.on(ReservationExpiring)
        def tell_expiring(event: ReservationExpiring) -> None:
            for serial in self._serials_of(event.reservation):
                tell(serial, "reservation ending soon")

        @farm.on(ReservationEnded)
        def tell_end(event: ReservationEnded) -> None:
            self._drop(self._serials_of(event.reservation), "reservation end")

    def addEventHandler(self, eh: AbstractEventHandler) -> None:
        """Tell a handler of all events from now on, in a thread of the client's."""
        self.server.addEventHandler(eh)

    def getSerials(self) -> list[str]:
        """The names of the boards that are held."""
        return list(self._held)

    def removeSerial(self, serial: str) -> bool:
        """Use a board no more, though it stays reserved; False when it was not in use."""
        return self._held.pop(serial, None) is not None

    def available(self) -> int | Literal[False]:
        """How many boards are free for this client's kind; False when nobody knows."""
        try:
            counts = self._farm.availability().behaviours
        except FarmError as error:
            return self._refused("cannot tell how many boards are free", error)
        return counts[self._kind].available if self._kind in counts else 0

    def availableDevices(self) -> Serials:
        """The names of the boards that are free for this client's kind."""
        try:
            boards = self._farm.boards()
        except FarmError as error:
            return self._refused("cannot tell which boards are free", error)
        return [b.name for b in boards if b.status == "available" and self._kind in b.behaviours]

    def extend(self, serials: Iterable[str]) -> Serials:
        """Let leases end in an hour, and return the boards of them.

        Not needed, since the client extends its leases by itself. Boards that were reserved
        together have one lease.
        """
        return self._on_each(serials, "extend", lambda reservation, _: reservation.extend())

    def extendAll(self) -> Serials:
        """Let all leases of this client end in an hour, and return the boards."""
        return self.extend(self.getSerials())

    def end(self, serials: Iterable[str]) -> Serials:
        """Give boards back, and return them; those that are not held are left out."""
        ended = self._on_each(serials, "give back", _release)
        self._drop(ended or [], "reservation end")
        return ended

    def endAll(self) -> Serials:
        """Give back all boards of this client, but none of another with the same name."""
        return self.end(self.getSerials())

    def reboot(self, serials: Iterable[str], timeout: float | None = None) -> set[str]:
        """Start boards anew and wait for them; return those that failed or are not held.

        Args:
            serials: the boards' names.
            timeout: seconds for all of them; two minutes unless given.
        """
        wanted = set(serials)
        held = {serial: r for serial, r in self._held.items() if serial in wanted}
        for serial in sorted(wanted - held.keys()):
            self.logger.error("cannot reboot %s, which is not held", serial)

        async def reset() -> list[BaseException | None]:
            resetting = (
                reservation._reservation.reset([serial], timeout=timeout or READY_TIMEOUT)
                for serial, reservation in held.items()
            )
            return await asyncio.gather(*resetting, return_exceptions=True)

        failed = wanted - held.keys()
        for serial, error in zip(held, self._farm._call(reset()), strict=True):
            if isinstance(error, FarmError):
                self.logger.error("cannot reboot %s: %s", serial, error)
                failed.add(serial)
            elif error is not None:
                raise error
        return failed

    def stop(self) -> None:
        """Give everything back and disconnect; a second time it does nothing.

        It is called when the program ends, also by Ctrl-C and SIGTERM.
        """
        if not self._is_open:
            return
        self._is_open = False
        atexit.unregister(self.stop)
        self.server.exit()
        self._held.clear()
        self._farm.__exit__(None, None, None)

    def evaluateEvaluations(
        self,
        evaluations: Iterable[Evaluation],
        result_timeout: float = 30,
        batch_size: int = 5,
        target_batches: int = 2,
    ) -> Iterator[Result]:
        """Measure evaluations, each on its boards, and yield the results as they come.

        What a board cannot measure, or a board that is lost or not held, yields
        `EvaluationFailed`; the result's `error`, which is also logged, says why.

        Args:
            evaluations: bitstreams with their boards.
            result_timeout: without effect: a board that hangs is noticed and restarted by the farm.
            batch_size: without effect: each board always has the next bitstream at hand.
            target_batches: without effect, like it.

        Raises:
            InvalidRequestError: a file cannot be read.
            FarmUnreachableError: the connection was lost and did not come back.
        """
        for measured in self._measure(list(evaluations)):
            yield Result(measured.serial, measured.evaluation, measured.value, measured.error)

    def evaluateBitstreams(
        self, bitstreams: Iterable[Path], serials: Iterable[str] | None = None
    ) -> Iterator[Result]:
        """Measure each bitstream on each of the boards, all that are held unless named.

        Yields the board, the path as it was given, and the value; see `evaluateEvaluations`.

        Raises:
            ValueError: no board is named, and none is held.
        """
        on = frozenset(serials or self.getSerials())
        evaluations = [self._evaluation(on, bitstream) for bitstream in bitstreams]
        for measured in self._measure(evaluations):
            yield Result(
                measured.serial,
                measured.evaluation,
                measured.value,
                measured.error,
                as_path=True,
            )

    def _reserve(
        self,
        what: int | Sequence[str],
        kind: str,
        arguments: dict[str, Any] | None = None,
        wait: float | None = None,
    ) -> list[str]:
        """Reserve so many boards, or exactly those, and return their names."""
        reservation = self._farm.reserve(
            what if isinstance(what, int) else None,
            boards=None if isinstance(what, int) else what,
            behaviour=kind,
            arguments=arguments,
            wait=wait,
        )
        serials = [board.name for board in reservation.boards]
        self._held |= dict.fromkeys(serials, reservation)
        return serials

    def _measure(self, evaluations: Sequence[Evaluation]) -> Iterator[Measured]:
        batch_id = secrets.token_hex(4)
        work: dict[Reservation, list[tuple[Evaluation, list[str]]]] = defaultdict(list)
        for evaluation in evaluations:
            for reservation, serials in self._by_reservation(sorted(evaluation.serials)).items():
                work[reservation].append((evaluation, serials))
        for evaluation in evaluations:
            for serial in sorted(evaluation.serials - self._held.keys()):
                error = NotHolderError(f"the board {serial!r} is not held by this client")
                yield self._logged(Measured(serial, evaluation, EvaluationFailed, error))
        results = evaluate([Part(r._reservation, pairs) for r, pairs in work.items()])

        async def following() -> Measured | None:
            return await anext(results, None)

        try:
            while (measured := self._farm._call(following())) is not None:
                if measured.error is None:
                    told = [(measured.evaluation.id, measured.value)]
                    self.server.tell(measured.serial, "results", batch_id=batch_id, results=told)
                yield self._logged(measured)
        finally:
            # One that was left half-way may be collected after the client has stopped.
            if self._is_open:
                self._farm._call(results.aclose())

    def _logged(self, measured: Measured) -> Measured:
        if measured.error is not None:
            path, serial = measured.evaluation.filepath, measured.serial
            self.logger.error("no value for %s on %s: %s", path, serial, measured.error)
        return measured

    def _by_reservation(self, serials: Iterable[str]) -> dict[Reservation, list[str]]:
        """Those that are held, by reservation."""
        found: dict[Reservation, list[str]] = defaultdict(list)
        held = self.getSerials()
        for serial in serials:
            if serial in held:
                found[self._held[serial]].append(serial)
        return found

    def _serials_of(self, reservation: str) -> list[str]:
        return [serial for serial, held in self._held.items() if held.id == reservation]

    def _drop(self, serials: Iterable[str], event: str) -> None:
        for serial in serials:
            if self._held.pop(serial, None) is not None:
                self.server.tell(serial, event)

    def _on_each(
        self, serials: Iterable[str], verb: str, work: Callable[[Reservation, list[str]], None]
    ) -> Serials:
        """Do something with the reservations of boards, and return the boards where it was done."""
        done, refused = [], False
        for reservation, mine in self._by_reservation(serials).items():
            try:
                work(reservation, mine)
                done += mine
            except FarmError as error:
                refused = True
                self._refused(f"cannot {verb} {', '.join(mine)}", error)
        return False if refused and not done else done

    def _refused(self, what: str, error: FarmError) -> Literal[False]:
        self.logger.error("%s: %s", what, error)
        return False


def seconds_to_queue(wait_for_available: bool, available_timeout: float | None) -> float | None:
    """For `wait`; the older package waited for ever where no time was given."""
    return min(available_timeout or MAX_WAIT, MAX_WAIT) if wait_for_available else None


def _release(reservation: Reservation, serials: list[str]) -> None:
    if {board.name for board in reservation.boards} <= set(serials):
        reservation.release()
    else:
        reservation.release(serials)
