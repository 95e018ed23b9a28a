"""Which fault comes when: drawn from a random seed before anything begins, to be repeatable."""

import heapq
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from faults.farm import FaultFarm
from faults.kinds import End, Kind

_MEAN_DISTANCE = 2.3
"""Seconds between the beginnings of faults, on the average."""
_AT_ONCE = 2


@dataclass(frozen=True)
class Fault:
    """One fault: `at` and `lasts` are seconds, `choice` seeds what it chooses when it begins."""

    at: float
    lasts: float
    kind: Kind
    choice: int


@dataclass(frozen=True)
class Injected:
    """A fault as it was, by time.monotonic()."""

    kind: str
    began: float
    ended: float


def draw(kinds: list[Kind], count: int, choose: random.Random) -> list[Fault]:
    """`count` faults, every kind as often as any other, at most two at a time."""
    faults: list[Fault] = []
    now, deck = 0.0, list[Kind]()
    for _ in range(count):
        if not deck:
            deck = choose.sample(kinds, len(kinds))
        now += choose.expovariate(1 / _MEAN_DISTANCE)
        lasting = sorted(fault.at + fault.lasts for fault in faults if fault.at + fault.lasts > now)
        if len(lasting) >= _AT_ONCE:
            now = lasting[-_AT_ONCE]
        kind = deck.pop()
        lasts = _how_long(choose) if kind.lasts else 0.0
        faults.append(Fault(now, lasts, kind, choose.getrandbits(32)))
    return faults


def _how_long(choose: random.Random) -> float:
    """Mostly short; some longer than the 15 s after which the broker misses a part."""
    shortest, longest = choose.choices([(0.5, 3), (3, 10), (10, 20)], weights=[75, 17, 8])[0]
    return choose.uniform(shortest, longest)


def inject(faults: list[Fault], farm: FaultFarm, say: Callable[[str], None]) -> list[Injected]:
    """Carry out a plan; all faults are over when this returns, also when it raises."""
    begun = time.monotonic()
    injected: list[Injected] = []
    to_end: list[tuple[float, int, End, Fault, float]] = []

    def end_until(moment: float) -> None:
        while to_end and to_end[0][0] <= moment:
            at, _, end, fault, began = heapq.heappop(to_end)
            _sleep_until(begun + at)
            end()
            injected.append(Injected(fault.kind.name, began, time.monotonic()))

    try:
        for number, fault in enumerate(faults):
            end_until(fault.at)
            _sleep_until(begun + fault.at)
            now = time.monotonic()
            say(f"{now - begun:6.1f} s  {number + 1:3}  {fault.kind.name}, {fault.lasts:.1f} s")
            end = fault.kind.begin(farm, random.Random(fault.choice))
            heapq.heappush(to_end, (fault.at + fault.lasts, number, end, fault, now))
        end_until(float("inf"))
    finally:
        for _, _, end, _, _ in to_end:
            end()
    return injected


def _sleep_until(moment: float) -> None:
    time.sleep(max(moment - time.monotonic(), 0))
