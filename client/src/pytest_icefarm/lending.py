"""Reservations for tests: one for each, or one that tests with the same wishes share."""

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import TracebackType
from typing import NoReturn, Self

import pytest

import icefarm
from icefarm.termination import unhandled
from pytest_icefarm.settings import Settings
from pytest_icefarm.wishes import OVER, Wishes

_GRACE = 30.0
"""Seconds for which a process that is killed keeps its boards: its run is over, others wait."""

_NO_FARM = (icefarm.FarmUnreachableError, icefarm.ControlOfflineError)
_NO_BOARD = (
    icefarm.NotAvailableError,
    icefarm.NoSuchBoardError,
    icefarm.NoSuchBehaviourError,
)


@contextmanager
def connect(settings: Settings) -> Iterator[icefarm.Client]:
    """The connection to the farm, which the tests of this process share."""
    with ExitStack() as stack:
        stack.enter_context(_signals_end_the_run())
        try:
            client = stack.enter_context(icefarm.Client(settings.farm, grace=_GRACE))
        except _NO_FARM as error:
            _go_without(settings, _no_farm(error))
        except icefarm.FarmError as error:
            pytest.fail(f"The farm cannot be used: {error}", pytrace=False)
        yield client


@contextmanager
def _signals_end_the_run() -> Iterator[None]:
    """Let SIGTERM and the end of the terminal end the run as Ctrl-C does, so boards are given back.

    A client would have them raise SystemExit, which pytest takes for the failure of one test.
    """
    handled = unhandled()
    for number in handled:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number in handled:
            signal.signal(number, signal.SIG_DFL)


class Lender:
    """Reserves boards for tests, one test at a time."""

    def __init__(self, client: icefarm.Client, settings: Settings) -> None:
        self._client, self._settings = client, settings
        self._kept: list[tuple[Wishes, icefarm.Reservation]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._give_back_all()

    @contextmanager
    def lend(self, wishes: Wishes, scope: str | None) -> Iterator[icefarm.Reservation]:
        """Boards for one test, given back after it, or kept for others of the session."""
        is_kept = (scope or self._settings.scope) == "session"
        with self._told_plainly(wishes):
            reservation = self._keep(wishes) if is_kept else self._reserve(wishes)
        if is_kept:
            yield reservation
        else:
            with reservation:
                yield reservation

    @contextmanager
    def _told_plainly(self, wishes: Wishes) -> Iterator[None]:
        """What the farm says is for people, and not where in this library it was heard."""
        try:
            yield
        except _NO_FARM as error:
            _go_without(self._settings, _no_farm(error))
        except _NO_BOARD as error:
            _go_without(self._settings, self._no_board(wishes, error))
        except icefarm.FarmError as error:
            pytest.fail(f"No boards for this test, which wants {wishes}: {error}", pytrace=False)

    def _keep(self, wishes: Wishes) -> icefarm.Reservation:
        for kept in self._kept:
            if kept[0] == wishes:
                if wishes.restore(kept[1]):
                    return kept[1]
                # It has lost boards.
                self._kept.remove(kept)
                _give_back(kept[1])
                break
        reservation = self._reserve(wishes)
        self._kept.append((wishes, reservation))
        return reservation

    def _reserve(self, wishes: Wishes) -> icefarm.Reservation:
        if self._kept:
            with suppress(icefarm.NotAvailableError):
                return wishes.reserve(self._client, 0)
            # What this session keeps for other tests may be what this one would wait for.
            self._give_back_all()
        return wishes.reserve(self._client, self._settings.wait)

    def _no_board(self, wishes: Wishes, error: icefarm.FarmError) -> str:
        said = f"No boards for this test, which wants {wishes} ({error}): "
        if not isinstance(error, icefarm.NotAvailableError):
            return f"{said}`icefarm boards` shows what there is."
        said += (
            f"`icefarm boards` shows who has them, and --icefarm-wait, or icefarm_wait in the ini "
            f"file, lets tests queue for longer than {self._settings.wait:g} s."
        )
        if self._settings.is_worker and self._settings.scope == "session":
            said += (
                " With icefarm_scope = session each worker of pytest-xdist keeps its boards to "
                "the end: use no more workers than the farm has boards for, or the scope test."
            )
        return said

    def _give_back_all(self) -> None:
        while self._kept:
            _give_back(self._kept.pop()[1])


def _give_back(reservation: icefarm.Reservation) -> None:
    # One that is over needs it no more.
    with suppress(*OVER):
        reservation.release()


def _no_farm(error: icefarm.FarmError) -> str:
    return (
        f"No farm for this test ({error}): say where it is with --icefarm-farm, icefarm_farm in "
        "the ini file or the variable ICEFARM_BROKER; `icefarm up` starts one on this machine."
    )


def _go_without(settings: Settings, why: str) -> NoReturn:
    if settings.missing == "skip":
        pytest.skip(why)
    pytest.fail(f"{why} --icefarm-missing=skip skips such tests.", pytrace=False)
