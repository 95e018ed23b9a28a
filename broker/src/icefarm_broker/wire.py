"""Every message that a connection sends and receives, in the log at the level DEBUG."""

import logging

_LOGGED = 2000
"""Characters of a payload that are worth logging."""

_log = logging.getLogger("icefarm.wire")


def is_logged() -> bool:
    """Whether anybody wants to read it."""
    return _log.isEnabledFor(logging.DEBUG)


def log(direction: str, topic: str, payload: bytes) -> None:
    """Log a message, if anybody wants to read it."""
    if is_logged():
        try:
            text = payload.decode()
        except UnicodeDecodeError:
            text = f"{len(payload):,} bytes"
        cut = text if len(text) <= _LOGGED else f"{text[:_LOGGED]} ... ({len(payload):,} bytes)"
        _log.debug("%s %s %s", direction, topic, cut)
