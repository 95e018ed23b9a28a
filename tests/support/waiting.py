"""Waiting for a condition instead of sleeping long enough."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE = 30.0
"""Seconds; only a test that fails waits for so long."""


def until(condition: Callable[[], T], what: str = "", timeout: float = PATIENCE) -> T:
    """Return the condition's first true value.

    What takes its time to look at is looked at less often: looking must not hold up what is waited
    for, above all in an emulated machine.
    """
    deadline = time.monotonic() + timeout
    while True:
        began = time.monotonic()
        if value := condition():
            return value
        now = time.monotonic()
        assert now < deadline, f"not within {timeout:g} s: {what or condition}"
        time.sleep(min(max(0.02, 4 * (now - began)), 0.25))


async def until_async(
    condition: Callable[[], Awaitable[T]], what: str = "", timeout: float = PATIENCE
) -> T:
    """Return the condition's first true value."""
    deadline = time.monotonic() + timeout
    while not (value := await condition()):
        assert time.monotonic() < deadline, f"not within {timeout:g} s: {what or condition}"
        await asyncio.sleep(0.02)
    return value
