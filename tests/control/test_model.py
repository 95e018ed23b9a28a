"""Allocation, compared with a simple reference through any history that hypothesis thinks of."""

import asyncio
import dataclasses
from typing import Any

import psycopg
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from icefarm_control.database import Database
from icefarm_control.refusals import RefusedError
from icefarm_schemas import DeviceStatus, Operation, ReleaseRequest

from .conftest import a_device, ask_about, live, report, reserve

DEVICES = {"a": "attic", "b": "attic", "c": "cellar", "d": "cellar", "e": "cellar"}
"""Each with the site that it is labelled with."""
PRIORITIES = st.integers(-1, 1)
WAITS = st.sampled_from([None, 60.0])


@dataclasses.dataclass
class Wanted:
    """A reservation as the reference knows it."""

    number: int
    count: int
    priority: int
    devices: frozenset[str] | None = None
    site: str | None = None
    held: frozenset[str] = frozenset()

    def fits(self, device: str) -> bool:
        return (self.devices is None or device in self.devices) and self.site in (
            None,
            DEVICES[device],
        )


class Reference:
    """The rule in words: in order, each takes what it wants of what nobody before it could use."""

    def __init__(self) -> None:
        self.queue: list[Wanted] = []
        self.active: list[Wanted] = []
        self.broken: set[str] = set()

    def serve(self) -> None:
        taken = {device for wanted in self.active for device in wanted.held}
        free = [device for device in DEVICES if device not in taken | self.broken]
        for wanted in sorted(self.queue, key=lambda w: (-w.priority, w.number)):
            fitting = [device for device in free if wanted.fits(device)]
            if len(fitting) >= wanted.count:
                wanted.held = frozenset(fitting[: wanted.count])
                self.active.append(wanted)
                self.queue.remove(wanted)
                free = [device for device in free if device not in wanted.held]
            else:
                free = [device for device in free if device not in fitting]

    def ask(self, wanted: Wanted, waits: bool) -> bool:
        """Whether a request is granted or queued, and not refused."""
        self.queue.append(wanted)
        self.serve()
        possible = sum(wanted.fits(device) for device in DEVICES) >= wanted.count
        if wanted in self.queue and not (waits and possible):
            self.queue.remove(wanted)
            return False
        return True

    def take_away(self, device: str) -> None:
        """A device leaves its reservation, which ends with the last of them."""
        for wanted in list(self.active):
            wanted.held -= {device}
            if not wanted.held:
                self.active.remove(wanted)

    def end(self, wanted: Wanted) -> None:
        self.queue = [other for other in self.queue if other is not wanted]
        self.active = [other for other in self.active if other is not wanted]


class Allocation(RuleBasedStateMachine):
    """The database's functions and the reference, step by step."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("TRUNCATE device, allocation, answer, transition, reservation")
        self._loop = asyncio.Runner()
        self._database = Database(self.url)
        self._run(self._database.open())
        for name, site in DEVICES.items():
            self._run(report(self._database, name, state=a_device(labels={"site": site})))
        self._reference = Reference()
        self._ids: dict[int, str] = {}
        self._asked = 0

    def teardown(self) -> None:
        self._run(self._database.close())
        self._loop.close()

    def _run(self, work: Any) -> Any:
        return self._loop.run(work)

    def _reserve(self, wanted: Wanted, wait: float | None, **fields: Any) -> None:
        granted = self._reference.ask(wanted, wait is not None)
        try:
            state = self._run(
                reserve(self._database, wait=wait, priority=wanted.priority, **fields)
            )
        except RefusedError:
            assert not granted
        else:
            assert granted
            self._ids[wanted.number] = state.reservation

    def _next(self) -> int:
        self._asked += 1
        return self._asked

    @rule(
        count=st.integers(1, 4),
        site=st.sampled_from([None, "attic", "cellar"]),
        priority=PRIORITIES,
        wait=WAITS,
    )
    def reserve_any(self, count: int, site: str | None, priority: int, wait: float | None) -> None:
        wanted = Wanted(self._next(), count, priority, site=site)
        self._reserve(wanted, wait, count=count, labels={"site": site} if site else {})

    @rule(
        devices=st.frozensets(st.sampled_from(list(DEVICES)), min_size=1),
        priority=PRIORITIES,
        wait=WAITS,
    )
    def reserve_these(self, devices: frozenset[str], priority: int, wait: float | None) -> None:
        wanted = Wanted(self._next(), len(devices), priority, devices)
        self._reserve(wanted, wait, devices=tuple(sorted(devices)))

    @rule(pick=st.integers(0, 50))
    def release(self, pick: int) -> None:
        alive = self._reference.queue + self._reference.active
        if alive:
            wanted = alive[pick % len(alive)]
            self._reference.end(wanted)
            self._reference.serve()
            request = ReleaseRequest(reservations=(self._ids[wanted.number],))
            self._run(ask_about(self._database, Operation.RELEASE, request))

    @rule(device=st.sampled_from(list(DEVICES)))
    def give_back(self, device: str) -> None:
        held = {name for wanted in self._reference.active for name in wanted.held}
        if device in held:
            self._reference.take_away(device)
            self._reference.serve()
            request = ReleaseRequest(devices=(device,))
            self._run(ask_about(self._database, Operation.RELEASE, request))

    @rule(device=st.sampled_from(list(DEVICES)))
    def breaks(self, device: str) -> None:
        self._reference.broken.add(device)
        self._reference.take_away(device)
        self._reference.serve()
        self._report(device, DeviceStatus.BROKEN)
        self._run(self._database.call("SELECT look_at_time()"))

    @rule(device=st.sampled_from(list(DEVICES)))
    def is_mended(self, device: str) -> None:
        self._reference.broken.discard(device)
        self._reference.serve()
        self._report(device, DeviceStatus.AVAILABLE)

    def _report(self, device: str, status: DeviceStatus) -> None:
        state = a_device(status, labels={"site": DEVICES[device]})
        self._run(report(self._database, device, state=state))

    @invariant()
    def both_agree(self) -> None:
        self._run(self._database.call("SELECT serve_queue()"))
        actual = {
            state.reservation: frozenset(device.device for device in state.devices)
            for state in self._run(live(self._database))
        }
        expected = self._reference.queue + self._reference.active
        assert actual == {self._ids[wanted.number]: wanted.held for wanted in expected}
        [row] = self._run(
            self._database.call(
                "SELECT count(*) AS wrong FROM device d "
                "FULL JOIN (SELECT * FROM allocation WHERE ended_at IS NULL) a "
                "ON a.agent = d.agent AND a.device = d.name "
                "WHERE a.reservation IS DISTINCT FROM d.reservation"
            )
        )
        assert row["wrong"] == 0


@pytest.mark.timeout(300)
def test_any_history_is_that_of_the_reference(
    empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Allocation, "url", empty_database)
    # Else each refusal would take the tenth of a second that a report may be on its way.
    monkeypatch.setattr("icefarm_control.asked._ON_ITS_WAY", 0)
    run_state_machine_as_test(
        Allocation, settings=settings(max_examples=40, stateful_step_count=25, deadline=None)
    )
