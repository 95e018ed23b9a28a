"""Names that stand in topics: of clients, agents, devices, sessions and reservations."""

import unicodedata
from functools import lru_cache
from typing import Annotated

from pydantic import AfterValidator

MAX_NAME_LENGTH = 64
"""Characters. A topic may have 65,535 bytes (MQTT 5, 4.7.3) and holds at most four names."""

_FORBIDDEN = {"/": "a slash", "+": "a plus sign", "#": "a number sign"}


@lru_cache(maxsize=10_000)  # The same few stand in each of many topics.
def check_name(name: str) -> str:
    """Return `name` when it may stand as one level of a topic.

    Raises:
        ValueError: it is empty or longer than 64 characters, holds a slash, a wildcard (`+`, `#`)
            or a control character, begins with `$` (MQTT 5, 4.7.2 reserves it for the broker), or
            begins or ends with white space.
    """
    if not name:
        raise ValueError("a name is empty; give it 1 to 64 characters")
    if len(name) > MAX_NAME_LENGTH:
        raise ValueError(f"the name {name[:16]!r}... has {len(name)} characters; 64 are allowed")
    for character in name:
        if character in _FORBIDDEN:
            raise ValueError(
                f"the name {name!r} holds {_FORBIDDEN[character]}, which has a meaning in topics"
            )
        # Cc are control characters, Cs lone surrogates (not UTF-8), Zl and Zp line separators.
        if unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"}:
            raise ValueError(f"the name {name!r} holds a control character")
        # Noncharacters: Mosquitto takes a topic with one for a malformed packet.
        if 0xFDD0 <= ord(character) <= 0xFDEF or ord(character) & 0xFFFE == 0xFFFE:
            raise ValueError(f"the name {name!r} holds a code point that is no character")
    if name.startswith("$"):
        raise ValueError(f"the name {name!r} begins with $, which the broker keeps for itself")
    if name != name.strip():
        raise ValueError(f"the name {name!r} begins or ends with white space")
    return name


Name = Annotated[str, AfterValidator(check_name)]
"""A string that `check_name` accepts, for use in messages."""
