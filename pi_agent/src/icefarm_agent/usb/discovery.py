"""Finds boards as they are plugged in and drops them when they are unplugged."""

import asyncio
import logging
import re
from collections.abc import Callable

import pyudev

from icefarm_agent.usb import usbip_host
from icefarm_agent.usb.board import UsbBoard
from icefarm_agent.usb.configuration import Configuration, ConfigurationError
from icefarm_agent.usb.device import present, read_device
from icefarm_agent.usb.roster import Roster

log = logging.getLogger(__name__)

_SUBSYSTEMS = ("usb", "tty", "block")
_PLACE = re.compile(rf"(?:^|/)({usbip_host.BUSID.pattern})(?=/|$)")


class Discovery:
    """The boards that are plugged in, by what udev says.

    Its events are taken only as a hint of where to look; see `Roster` for the rules.

    Args:
        found: called with each new board, when it can be used or is seen to be broken.
        lost: called when one of those is gone.

    Raises:
        ConfigurationError: this machine has no libudev.
    """

    def __init__(
        self,
        configuration: Configuration,
        found: Callable[[UsbBoard], None],
        lost: Callable[[UsbBoard], None],
    ) -> None:
        self._configuration = configuration
        self._found = found
        self._lost = lost
        try:
            self._context = pyudev.Context()
        except ImportError as error:
            raise ConfigurationError(
                "libudev is not installed, by which boards are found: install it (Debian's "
                "libudev1), or offer virtual boards only (--virtual-boards)"
            ) from error
        self._roster: Roster | None = None

    async def run(self) -> None:
        """Watch until cancelled.

        Raises:
            OSError: udev cannot be listened to.
        """
        monitor = pyudev.Monitor.from_netlink(self._context, source="udev")
        for subsystem in _SUBSYSTEMS:
            monitor.filter_by(subsystem)
        # Before the first look, so that nothing is missed between the two.
        monitor.start()
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as tasks:
            self._roster = roster = Roster(
                self._configuration,
                lambda busid: read_device(self._context, busid),
                self._found,
                self._lost,
                tasks,
            )
            loop.add_reader(monitor.fileno(), self._read_events, monitor, roster)
            try:
                self._look_everywhere(roster)
                await asyncio.Event().wait()
            finally:
                loop.remove_reader(monitor.fileno())
                roster.close()

    def remember(self, place: str, name: str, product: str) -> None:
        """See `Roster.remember`."""
        if self._roster is not None:
            self._roster.remember(place, name, product)

    def forget(self, name: str) -> bool:
        """See `Roster.forget`."""
        return self._roster is not None and self._roster.forget(name)

    def _read_events(self, monitor: pyudev.Monitor, roster: Roster) -> None:
        places = set()
        try:
            while (event := monitor.poll(timeout=0)) is not None:
                # The last place in its path: those before it are of the hubs on the way.
                if on_the_way := _PLACE.findall(event.device_path):
                    places.add(on_the_way[-1][0])
        except OSError as error:
            # The socket's buffer was full, so that events are missing.
            log.warning("looking at all USB ports, since events of udev were lost: %s", error)
            self._look_everywhere(roster)
            return
        for place in sorted(places):
            roster.look(place)

    def _look_everywhere(self, roster: Roster) -> None:
        for place in sorted({*present(self._context), *roster.places}):
            roster.look(place)
