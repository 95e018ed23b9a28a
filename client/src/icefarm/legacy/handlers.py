"""Event handlers as the older package had them, and who calls them."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

Logger = logging.Logger | logging.LoggerAdapter[Any]

_Method = TypeVar("_Method", bound=Callable[..., Any])


@dataclass
class Event:
    """Something that happened to a board."""

    serial: str
    """The board's name, or "meta" where no single one is concerned."""
    event: str
    """Its kind: `initialized`, `failure`, `reservation ending soon`, `reservation end`,
    `results` or `devices_available`."""
    contents: dict[str, Any]
    """Its facts by name; all have `event` and `serial`."""


def register(channel: str, *args: str) -> Callable[[_Method], _Method]:
    """Let a handler's method be called for a kind of event, with these of its contents."""

    def mark(method: _Method) -> _Method:
        vars(method).setdefault("icefarm_channels", {})[channel] = args
        return method

    return mark


class AbstractEventHandler:
    """Calls its methods that `register` marked, also as a subclass overrides them.

    An event that lacks one of the contents that a method wants is not given to it.
    """

    def __init__(self, event_server: "EventServer") -> None:
        self.event_server = event_server
        """Of the client that it was added to."""

    def exit(self) -> None:
        """Called when the client stops."""

    def handleEvent(self, event: Event) -> Any:
        """Call the method for this kind of event; False where there is none."""
        for cls in type(self).__mro__:
            for name, member in vars(cls).items():
                wanted = getattr(member, "icefarm_channels", {}).get(event.event)
                if wanted is not None:
                    if not event.contents.keys() >= set(wanted):
                        return False
                    return getattr(self, name)(*(event.contents[key] for key in wanted))
        return False


class DefaultBaseEventHandler(AbstractEventHandler):
    """To be overridden where the end or the failure of a board matters."""

    @register("reservation ending soon", "serial")
    def handleReservationEndingSoon(self, serial: str) -> None:
        """Called when a lease is nearly over; the client extends it by itself."""

    @register("reservation end", "serial")
    def handleReservationEnd(self, serial: str) -> None:
        """Called when a board is not held any more."""

    @register("failure", "serial")
    def handleFailure(self, serial: str) -> None:
        """Called when a board was lost."""


class LoggerEventHandler(AbstractEventHandler):
    """Logs every event."""

    def __init__(self, event_server: "EventServer", logger: Logger) -> None:
        super().__init__(event_server)
        self.logger = logger
        """Where it logs."""

    def handleEvent(self, event: Event) -> None:
        """Log it."""
        self.logger.info("event %s of %s: %s", event.event, event.serial, event.contents)


class EventServer:
    """Gives events to the handlers of a client, in the order in which they were added.

    It has the older package's name; there is no server, nor a port, on this side any more.
    """

    def __init__(self) -> None:
        self._handlers: list[AbstractEventHandler] = []

    def addEventHandler(self, eh: AbstractEventHandler) -> None:
        """Call this one too, from now on."""
        self._handlers.append(eh)

    def handleEvent(self, event: Event) -> None:
        """Give an event to all handlers."""
        for handler in list(self._handlers):
            handler.handleEvent(event)

    def tell(self, serial: str, event: str, **facts: Any) -> None:
        """Make an event and give it to all handlers."""
        contents = {**facts, "event": event, "serial": serial}
        self.handleEvent(Event(serial, event, contents))

    def exit(self) -> None:
        """Tell all handlers that it is over."""
        for handler in self._handlers:
            handler.exit()
        self._handlers.clear()
