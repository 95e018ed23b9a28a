"""Waiting for a condition instead of sleeping long enough."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE = 30.0
"""Seconds; only a test that fails waits for so long."""


def until(condition: Callable[[], T], what: str = "", timeout: float = PATIENCE) -> T:
    """Return the condition's first true value."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {timeout:g} s: {what or condition}"
        time.sleep(0.02)
    return value


async def until_async(
    condition: Callable[[], Awaitable[T]], what: str = "", timeout: float = PATIENCE
) -> T:
    """Return the condition's first true value."""
    deadline = time.monotonic() + timeout
    while not (value := await condition()):
        assert time.monotonic() < deadline, f"not within {timeout:g} s: {what or condition}"
        await asyncio.sleep(0.02)
    return value
