"""Follows the farm while it runs: the database ten times a second, the wire, journals, memory."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

import psycopg

from faults.farm import AGENTS, BOARDS, BROKER, CONTROLS, FaultFarm
from faults.journals import Journals
from faults.ledger import Ledger, Truth
from faults.wire import Served, Wire
from icefarm_schemas import DeviceStatus, Presence
from icefarm_schemas.topic import Topic
from icefarm_schemas.topics import (
    AgentStateTopic,
    AssignmentTopic,
    AvailabilityTopic,
    ControlProcessTopic,
    ControlStateTopic,
    DeviceStateTopic,
    ReservationStateTopic,
    SessionStateTopic,
)

_EVERY = 0.1
_MEMORY_EVERY = 1.0
_WARM = 5.0
"""Seconds after which a process has all that it needs in its memory."""
MOST_GROWTH = 100 * 2**20


class Watch:
    """Looks on as long as its `with` block; `violations` has what must never be."""

    def __init__(self, farm: FaultFarm) -> None:
        self._farm = farm
        self.ledger = Ledger(farm.watched_database_url)
        self.journals = Journals(farm.journals)
        self.violations: dict[str, str] = {}
        """Each with when it was seen first."""
        self.double_holders: set[str] = set()
        self.looks = 0
        self.looks_without_database = 0
        self._memory: dict[tuple[str, int], list[tuple[float, int]]] = {}
        self._unproved: set[Served] = set()
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="watch")

    def __enter__(self) -> Self:
        self.wire = Wire(*self._broker)
        self._watching: Future[None] = self._pool.submit(self._watch)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        try:
            self._watching.result()
        finally:
            self._pool.shutdown()
            self.ledger.close()
            self.wire.stop()

    @property
    def _broker(self) -> tuple[str, int, Callable[[], None]]:
        network = self._farm.network
        return network.address(BROKER), self._farm.broker_port, network.enter

    def _watch(self) -> None:
        measured = 0.0
        while not self._stop.wait(_EVERY):
            self.journals.look()
            if time.monotonic() - measured > _MEMORY_EVERY:
                measured = time.monotonic()
                self._measure()
            self.looks += 1
            try:
                self._look_into_database()
            except psycopg.OperationalError:
                self.looks_without_database += 1

    def _look_into_database(self) -> None:
        for fault in self.ledger.double_holders():
            self.double_holders.add(fault)
            self._blame(fault)
        for fault in self.ledger.contradictions():
            self._blame(fault)
        # Whatever is on the wire has been committed before, so the database knows it.
        self._unproved |= self.wire.take_served()
        for reservation, agent, device in self.ledger.never_allocated(self._unproved):
            self._blame(f"{agent}/{device} served {reservation}, to which it never belonged")
        self._unproved.clear()

    def _blame(self, fault: str) -> None:
        self.violations.setdefault(fault, datetime.now(UTC).strftime("%H:%M:%S.%f"))

    def _measure(self) -> None:
        for part in self._farm.parts.values():
            measured = part.memory()
            if measured is not None:
                pid, size = measured
                self._memory.setdefault((part.name, pid), []).append((time.monotonic(), size))

    def growth(self) -> dict[str, int]:
        """By how many bytes the process of each part grew most, once it was warm."""
        most: dict[str, int] = {}
        # The thread that follows the farm may add to it meanwhile.
        for (name, _), samples in list(self._memory.items()):
            warm = [size for at, size in samples if at > samples[0][0] + _WARM]
            if warm:
                most[name] = max(most.get(name, 0), max(warm) - warm[0])
        return most

    def retained(self) -> dict[Topic, Any]:
        """What the broker retains now, asked for anew."""
        wire = Wire(*self._broker)
        try:
            return wire.retained()
        finally:
            wire.stop()


def disagreements(retained: dict[Topic, Any], truth: Truth) -> list[str]:
    """Where what is retained is not what the database says."""
    assigned = {
        (topic.agent, topic.device): state.reservation
        for topic, state in retained.items()
        if isinstance(topic, AssignmentTopic)
    }
    told = {
        topic.reservation: str(state.status)
        for topic, state in retained.items()
        if isinstance(topic, ReservationStateTopic)
    }
    faults = []
    if assigned != truth.allocations:
        faults.append(f"assignments {assigned}, but allocations {truth.allocations}")
    if told != truth.reservations:
        faults.append(f"reservation states {told}, but reservations {truth.reservations}")
    return faults


def unrest(retained: dict[Topic, Any], ledger: Ledger) -> list[str]:
    """What is not yet as in a farm that nobody uses: all boards free, nothing left of anybody."""
    truth = ledger.truth()
    faults = disagreements(retained, truth)
    faults += [f"{key} is still allocated to {held}" for key, held in truth.allocations.items()]
    faults += [
        f"the reservation {held} is still {status}" for held, status in truth.reservations.items()
    ]
    devices = ledger.devices()
    wanted = len(AGENTS) * BOARDS
    free = [device for device in devices if device[2:] == (DeviceStatus.AVAILABLE, True, None)]
    if len(free) != wanted or len(devices) != wanted:
        faults.append(f"not all {wanted} devices are free in the database: {devices}")
    available = 0
    for topic, state in retained.items():
        match topic:
            case DeviceStateTopic(agent, device):
                if state.status is DeviceStatus.AVAILABLE and state.reservation is None:
                    available += 1
                else:
                    faults.append(f"{agent}/{device} says {state}")
            case SessionStateTopic(client, session):
                faults.append(f"the session {client}/{session} has left its state: {state}")
            case AvailabilityTopic():
                counts = (state.devices.available, state.devices.total, state.queued)
                if counts != (wanted, wanted, 0):
                    faults.append(f"what is available is told as {state}")
    processes = [topic for topic in retained if isinstance(topic, ControlProcessTopic)]
    if len(processes) != len(CONTROLS):
        faults.append(f"not {len(CONTROLS)} control processes are told of, but {processes}")
    if available != wanted:
        faults.append(f"{available} of {wanted} devices say that they are available")
    present = [
        topic
        for topic, state in retained.items()
        if isinstance(topic, AgentStateTopic | ControlStateTopic)
        and state.status == Presence.ONLINE
    ]
    if len(present) != len(AGENTS) + 1:
        faults.append(f"not control and {len(AGENTS)} agents are online, but {present}")
    return faults
