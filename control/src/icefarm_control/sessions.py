"""Which sessions of clients are there, and which have ended.

The broker tells: a session's will, delayed by its grace, is its end. Two things make it less
simple. A broker that is shut down publishes all wills at once, however long their delay, and then
cuts control off as well; so a will is believed only when control stays connected, and one that was
retained, or comes after a reconnection, only when clients have had the time to reconnect too. And a
session of which the broker knows nothing at all, after it lost its memory for instance, gets some
time to appear.
"""

import time

from icefarm_broker import Connected, Disconnected, Happening, Received
from icefarm_schemas import Presence
from icefarm_schemas.topics import SessionStateTopic

CONFIRMED_AFTER = 0.5
"""Seconds from a will to its being believed."""
SETTLED_AFTER = 10.0
"""Seconds after control's reconnection, twice the longest pause between a client's attempts."""
TIME_TO_APPEAR = 15.0
"""Seconds for which a reservation waits for a session that has no state."""

SessionKey = tuple[str, str]
"""Client and session."""


class Sessions:
    """The presence of every session."""

    def __init__(self) -> None:
        self._online: set[SessionKey] = set()
        self._ends_at: dict[SessionKey, float] = {}
        self._connected_before = False
        self._settled_at = 0.0

    def observe(self, happening: Happening) -> bool:
        """Take note of a session's state; True when a session may have to be ended soon."""
        match happening:
            case Connected():
                self._online.clear()
                if self._connected_before:
                    self._settled_at = time.monotonic() + SETTLED_AFTER
                self._connected_before = True
            case Disconnected():
                self._ends_at.clear()
            case Received(SessionStateTopic(client, session), message, delivery):
                key = (client, session)
                if message is not None and message.status is Presence.ONLINE:
                    self._online.add(key)
                    self._ends_at.pop(key, None)
                elif message is not None:
                    self._online.discard(key)
                    delay = SETTLED_AFTER if delivery.retain else self.seconds_to_belief()
                    self._ends_at[key] = time.monotonic() + delay
                    return True
                elif key in self._online:
                    # The client itself said goodbye.
                    self._online.discard(key)
                    self._ends_at[key] = time.monotonic()
                    return True
        return False

    def expect(self, needed: set[SessionKey]) -> None:
        """Give the sessions that reservations depend on, but that are not there, time to appear."""
        for key in needed - self._online - self._ends_at.keys():
            self._ends_at[key] = time.monotonic() + TIME_TO_APPEAR

    def take_ended(self) -> list[SessionKey]:
        """The sessions that have ended by now; each is told once."""
        now = time.monotonic()
        ended = [key for key, at in self._ends_at.items() if at <= now]
        for key in ended:
            del self._ends_at[key]
        return ended

    def is_online(self, key: SessionKey) -> bool:
        """Whether a session is there, perhaps again."""
        return key in self._online

    def seconds_to_belief(self) -> float:
        """How long from now a will that comes now, or an absence, is believed."""
        return max(CONFIRMED_AFTER, self._settled_at - time.monotonic())

    def seconds_to_next_end(self) -> float | None:
        """How long until a session may have ended, if one is on its way out."""
        if not self._ends_at:
            return None
        return max(min(self._ends_at.values()) - time.monotonic(), 0)
