"""A process that takes and gives back devices as fast as it can, beside others that do the same.

What it does in the database is what control does: `take` and `give_back` are all that knows how.
"""

import asyncio
import random
import secrets
from collections import deque
from dataclasses import dataclass
from multiprocessing.shared_memory import SharedMemory

from icefarm_control.asked import Asked, carry_out
from icefarm_control.database import Database
from icefarm_schemas import Message, Operation, ReleaseRequest, Reply, ReserveRequest

DEVICES = [f"board-{number:02}" for number in range(16)]
AGENT = "bench"
BEHAVIOUR = "pulsecount"
_MOST_HELD = 3
"""Reservations that one process has at a time, so that there are not enough devices for all."""


@dataclass(frozen=True)
class Taken:
    """A reservation and its devices."""

    reservation: str
    devices: tuple[str, ...]


async def take(database: Database, client: str, count: int) -> Taken | None:
    """Reserve devices; None where not enough are free."""
    request = ReserveRequest(behaviour=BEHAVIOUR, count=count)
    [payload] = await carry_out(database, [_asked(client, Operation.RESERVE, request)])
    if payload is None:
        return None
    [held] = Reply.model_validate_json(payload).reservations or ()
    return Taken(held.reservation, tuple(device.device for device in held.devices))


async def give_back(database: Database, client: str, taken: Taken) -> None:
    """Release a reservation."""
    request = ReleaseRequest(reservations=(taken.reservation,))
    [payload] = await carry_out(database, [_asked(client, Operation.RELEASE, request)])
    assert payload is not None, f"{taken} could not be released"


def _asked(client: str, operation: Operation, request: Message) -> Asked:
    return Asked(client, "session", secrets.token_bytes(8), operation, request)


class Marks:
    """Who believes to have which device: a byte for each device and process, seen by all.

    A process marks a device when it has got it and wipes its mark before it gives it back, so two
    marks on a device are two holders.
    """

    def __init__(self, memory: SharedMemory, processes: int, own: int) -> None:
        self._memory, self._processes, self._own = memory, processes, own

    def put(self, device: str, mark: int) -> None:
        """Mark a device, or wipe the mark."""
        buffer = self._memory.buf
        assert buffer is not None
        buffer[DEVICES.index(device) * self._processes + self._own] = mark

    def others(self, device: str) -> int:
        """How many others have marked it."""
        buffer = self._memory.buf
        assert buffer is not None
        begin = DEVICES.index(device) * self._processes
        return sum(
            buffer[begin + process] for process in range(self._processes) if process != self._own
        )


@dataclass
class Work:
    """What a process has done."""

    allocations: int = 0
    refused: int = 0
    double_holders: int = 0


def work(url: str, memory: str, processes: int, own: int, wanted: int) -> Work:
    """Take and give back until so many allocations have been made."""
    shared = SharedMemory(memory)
    try:
        return asyncio.run(_work(url, Marks(shared, processes, own), own, wanted))
    finally:
        shared.close()


async def _work(url: str, marks: Marks, own: int, wanted: int) -> Work:
    done, held, client = Work(), deque[Taken](), f"worker-{own}"
    choose = random.Random(own)
    farm = Database(url)
    await farm.open()
    try:
        while held or done.allocations < wanted:
            enough = done.allocations >= wanted
            taken = None if enough else await take(farm, client, choose.randint(1, 3))
            if taken is None:
                done.refused += not enough
            else:
                held.append(taken)
                done.allocations += len(taken.devices)
                for device in taken.devices:
                    marks.put(device, 1)
            while held and (taken is None or len(held) > _MOST_HELD):
                oldest = held.popleft()
                # Whoever has taken it meanwhile has marked it too.
                done.double_holders += sum(marks.others(device) for device in oldest.devices)
                for device in oldest.devices:
                    marks.put(device, 0)
                await give_back(farm, client, oldest)
    finally:
        await farm.close()
    return done
