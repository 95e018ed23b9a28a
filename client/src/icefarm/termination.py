"""SIGTERM, and the end of a terminal, end a program as Ctrl-C does: `with` blocks are left."""

import asyncio
import signal
import threading
from types import FrameType

_SIGNALS = [
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)
]  # Windows has no SIGHUP.
_STATUS = 128
"""Plus the signal's number: what a shell reports of a program that a signal ended."""


def unhandled() -> list[signal.Signals]:
    """Those that would kill the program at once; what it handles, or ignores, is its own affair."""
    if threading.current_thread() is not threading.main_thread():
        return []  # Python lets only this one handle signals.
    return [number for number in _SIGNALS if signal.getsignal(number) is signal.SIG_DFL]


class Termination:
    """From `begin` to `end`, these signals raise SystemExit in the main thread.

    A second one kills the program at once.
    """

    def begin(self) -> None:
        """Handle what the program does not."""
        self._handled = unhandled()
        for number in self._handled:
            signal.signal(number, self._exit)

    def end(self) -> None:
        """Undo that."""
        for number in self._handled:
            if signal.getsignal(number) == self._exit:
                signal.signal(number, signal.SIG_DFL)

    def _exit(self, number: int, frame: FrameType | None) -> None:
        self.end()
        raise SystemExit(_STATUS + number)


class AsyncTermination:
    """From `begin` to `end`, these signals cancel the task in which `begin` was called."""

    def begin(self) -> None:
        """Handle what the program does not."""
        self._number: int | None = None
        self._task = asyncio.current_task()
        self._loop = asyncio.get_running_loop()
        self._handled = unhandled()
        for number in self._handled:
            try:
                self._loop.add_signal_handler(number, self._cancel, number)
            except NotImplementedError:
                # On Windows, where nothing sends such a signal.
                self._handled = []

    def end(self) -> None:
        """Undo that; to be called last, when all is given back.

        Raises:
            SystemExit: one of them has come.
        """
        for number in self._handled:
            self._loop.remove_signal_handler(number)
        if self._number is not None:
            raise SystemExit(_STATUS + self._number)

    def _cancel(self, number: int) -> None:
        self._number = number
        for handled in self._handled:
            self._loop.remove_signal_handler(handled)
        self._handled = []
        if self._task is not None:
            self._task.cancel(f"signal {number}")
