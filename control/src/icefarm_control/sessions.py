"""Which sessions of clients are there, and which have ended.

The broker tells: a session's will, delayed by its grace, is its end. A session that the broker
knows nothing of at all, after a broker lost its memory for instance, gets some time to appear.
"""

import time

from icefarm_broker import Connected, Happening, Received
from icefarm_schemas import Presence
from icefarm_schemas.topics import SessionStateTopic

TIME_TO_APPEAR = 30.0
"""Seconds for which a reservation waits for a session that has no state."""

SessionKey = tuple[str, str]


class Sessions:
    """The presence of every session, by client and session."""

    def __init__(self) -> None:
        self._online: set[SessionKey] = set()
        self._missing_since: dict[SessionKey, float] = {}

    def observe(self, happening: Happening) -> SessionKey | None:
        """Take note of a session's state; return the session when it has just ended."""
        match happening:
            case Connected():
                self._online.clear()
            case Received(SessionStateTopic(client, session), message):
                key = (client, session)
                if message is not None and message.status is Presence.ONLINE:
                    self._online.add(key)
                    self._missing_since.pop(key, None)
                elif message is not None or key in self._online:
                    self._online.discard(key)
                    return key
                # Else it is control's own removal of the state that comes back.
        return None

    def is_online(self, key: SessionKey) -> bool:
        """Whether the session is there."""
        return key in self._online

    def overdue(self, needed: set[SessionKey]) -> list[SessionKey]:
        """Those of the needed sessions that have been missing for too long."""
        now = time.monotonic()
        missing = needed - self._online
        self._missing_since = {key: self._missing_since.get(key, now) for key in missing}
        return [key for key, since in self._missing_since.items() if now - since >= TIME_TO_APPEAR]
