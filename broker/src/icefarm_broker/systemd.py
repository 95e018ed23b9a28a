"""Telling systemd how a service is (sd_notify(3)): it works, what it does, that it stops.

Where no systemd listens, nothing is told. The watchdog is fed by a task of the event loop that does
the service's work: when that loop hangs, systemd ends the process and starts it again.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Callable

_MOST_PAUSE = 5.0
"""Seconds between two looks at the status."""

log = logging.getLogger(__name__)


class Systemd:
    """The service manager that started this process; not that of any process started from here."""

    def __init__(self) -> None:
        self._address = os.environ.pop("NOTIFY_SOCKET", None)
        length = os.environ.pop("WATCHDOG_USEC", None)
        # Of a watchdog that is meant for another process, this one knows nothing.
        mine = os.environ.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self._watchdog = int(length) / 1e6 if length is not None and mine else None
        self._status = ""

    @property
    def is_there(self) -> bool:
        """Whether somebody wants to know."""
        return self._address is not None

    def tell(self, *facts: str) -> None:
        """Send assignments such as READY=1, now or never: nothing waits for systemd."""
        if self._address is None:
            return
        # A name that begins with @ is in Linux's abstract namespace.
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            try:
                sender.sendto("\n".join(facts).encode(), address)
            except OSError as error:
                log.warning("systemd does not hear %s: %s", " ".join(facts), error)

    async def keep_informed(self, status: Callable[[], str]) -> None:
        """Say that the service is ready, and from then on how it is, for ever."""
        self.tell("READY=1")
        # Twice within the time that systemd waits, as sd_watchdog_enabled(3) recommends.
        pause = _MOST_PAUSE if self._watchdog is None else min(self._watchdog / 2, _MOST_PAUSE)
        while self.is_there:
            now = status()
            facts = [] if now == self._status else [f"STATUS={now}"]
            self._status = now
            if self._watchdog is not None:
                facts.append("WATCHDOG=1")
            if facts:
                self.tell(*facts)
            await asyncio.sleep(pause)
