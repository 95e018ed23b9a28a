"""What control counts, for Prometheus.

What is told of the whole farm (`icefarm_reservations...`, `icefarm_boards`, ...) comes from the
process that leads, and from no other: sums over all processes are right. What a process does itself
is `icefarm_control_...`.
"""

import time
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from icefarm_broker import Connection
from icefarm_schemas import (
    AgentStatus,
    DeviceStatus,
    EndReason,
    Operation,
    Reply,
    ReservationState,
    What,
)
from icefarm_schemas.operators import OPERATIONS
from icefarm_schemas.requests import REQUESTS as REQUESTS_OF_CLIENTS

REGISTRY = CollectorRegistry()
"""All that is served."""

_FAST = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
_SLOW = (0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300)
_LONG = (0.1, 1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 24 * 3600)

ENDED = Counter(
    "icefarm_reservations_ended",
    "Reservations that have ended, by reason.",
    ["reason"],
    registry=REGISTRY,
)
QUEUE_SECONDS = Histogram(
    "icefarm_queue_seconds",
    "How long reservations that got boards had waited for them; 0 for those served at once.",
    buckets=(0, *_LONG),
    registry=REGISTRY,
)
ALLOCATION_SECONDS = Histogram(
    "icefarm_allocation_seconds",
    "From when a reservation is given a board until its agent says that it is ready.",
    buckets=_SLOW,
    registry=REGISTRY,
)
REQUESTS = Counter(
    "icefarm_control_requests",
    "Requests of clients, by operation; the result is done, expired, or an error's code.",
    ["operation", "result"],
    registry=REGISTRY,
)
REQUEST_SECONDS = Histogram(
    "icefarm_control_request_seconds",
    "From when a request of a client comes to control until it is answered.",
    ["operation"],
    buckets=_FAST,
    registry=REGISTRY,
)
OPERATOR_REQUESTS = Counter(
    "icefarm_control_operator_requests",
    "Requests of operators, also from the dashboard; the result is done, or an error's code.",
    ["operation", "result"],
    registry=REGISTRY,
)
LEADS = Gauge(
    "icefarm_control_leads", "1 in the control process that leads, 0 in others.", registry=REGISTRY
)
DATABASE_SECONDS = Histogram(
    "icefarm_control_database_seconds",
    "How long the database takes to answer a small question, asked every second.",
    buckets=_FAST,
    registry=REGISTRY,
)
BROKER_SECONDS = Histogram(
    "icefarm_control_broker_seconds",
    "How long the broker takes to answer a packet, sent every second.",
    buckets=_FAST,
    registry=REGISTRY,
)
PlatformCollector(registry=REGISTRY)
ProcessCollector(registry=REGISTRY)

for _reason in EndReason:
    ENDED.labels(_reason)
for _operation in Operation:
    REQUESTS.labels(_operation, "done")


def count_request(operation: str, reply: bytes | None, came_at: float) -> None:
    """Take note of what came of a request; `came_at` is by time.monotonic().

    Without a reply, it is not wanted any more.
    """
    known = operation if operation in REQUESTS_OF_CLIENTS else "unknown"
    REQUESTS.labels(known, "expired" if reply is None else _result_of(reply)).inc()
    REQUEST_SECONDS.labels(known).observe(time.monotonic() - came_at)


def count_operation(operation: str, reply: Reply) -> None:
    """Take note of what came of an operator's request."""
    known = operation if operation in OPERATIONS else "unknown"
    result = "done" if reply.error is None else reply.error.code
    OPERATOR_REQUESTS.labels(known, result).inc()


def _result_of(reply: bytes) -> str:
    # An error is a reply's only field. Others may be long, and are not read again for this.
    if not reply.startswith(b'{"error":'):
        return "done"
    error = Reply.model_validate_json(reply).error
    return "done" if error is None else error.code


class Waits:
    """How long reservations wait for boards, and for these to be ready; as the leader sees it."""

    def __init__(self) -> None:
        self._queued: dict[str, datetime] = {}
        self._given: dict[tuple[str, str], tuple[str, float]] = {}

    def see_queued(self, state: ReservationState) -> None:
        """One that waits, perhaps since before this process led."""
        self._queued.setdefault(state.reservation, state.created_at)

    def see(self, happened: dict[str, Any]) -> None:
        """A transition, in the order in which they happen."""
        reservation = happened["reservation"]
        match What(happened["what"]):
            case What.QUEUED:
                self._queued[reservation] = happened["at"]
            case What.ACTIVE:
                since = self._queued.pop(reservation, happened["at"])
                QUEUE_SECONDS.observe((happened["at"] - since).total_seconds())
                for device in zip(happened["agents"], happened["devices"], strict=True):
                    self._given[device] = (reservation, time.monotonic())
            case What.ENDED:
                ENDED.labels(happened["why"]).inc()
                self._queued.pop(reservation, None)
                self._forget(happened)
            case What.RETURNED | What.DEVICE_LOST:
                self._forget(happened)

    def see_ready(self, agent: str, device: str, reservation: str) -> None:
        """A device is ready for its holder."""
        given = self._given.get((agent, device))
        if given is not None and given[0] == reservation:
            ALLOCATION_SECONDS.observe(time.monotonic() - given[1])
            del self._given[agent, device]

    def _forget(self, happened: dict[str, Any]) -> None:
        for device in zip(happened["agents"], happened["devices"], strict=True):
            if self._given.get(device, ("",))[0] == happened["reservation"]:
                del self._given[device]


class Broker(Collector):
    """The connections of this process to the broker, by what they are for."""

    def __init__(self) -> None:
        self.connections: dict[str, Connection] = {}
        self._lost_before = 0

    def watch(self, name: str, connection: Connection) -> None:
        """Tell of a connection, in the place of an earlier one of this name."""
        self.forget(name)
        self.connections[name] = connection

    def forget(self, name: str) -> None:
        """Tell of a connection no more, but of its losses."""
        connection = self.connections.pop(name, None)
        if connection is not None:
            self._lost_before += connection.losses

    def collect(self) -> Iterable[Metric]:
        """Whether they are there, and how often they had to be made again."""
        there = {name: one.is_connected for name, one in self.connections.items()}
        connected = GaugeMetricFamily(
            "icefarm_control_broker_connected",
            "1 while a connection to the broker is there, as far as control knows.",
            labels=["connection"],
        )
        for name, is_there in there.items():
            connected.add_metric([name], is_there)
        yield connected
        losses = self._lost_before + sum(one.losses for one in self.connections.values())
        yield CounterMetricFamily(
            "icefarm_control_broker_losses",
            "How often a connection to the broker was lost; it is made again each time.",
            value=losses,
        )


BROKER = Broker()
REGISTRY.register(BROKER)
LEADS.set_function(lambda: "leader" in BROKER.connections)


_OLD = 10.0
"""Seconds after which counts of the farm are told no more; there are new ones every five."""
_STATUSES = {
    "reservations": ("Reservations that are queued or active.", ["queued", "active"]),
    "boards": (
        "Boards by status; away where their agent is, whatever they were.",
        [*DeviceStatus, "gone", "away"],
    ),
    "agents": ("Agents by status.", list(AgentStatus)),
}


class Farm(Collector):
    """The counts of the whole farm, as the database had them last; none where not asked."""

    QUERY = """
        SELECT 'reservations' AS what, status AS name, count(*) AS number
        FROM reservation WHERE status <> 'ended' GROUP BY status
        UNION ALL
        SELECT 'boards', CASE WHEN online THEN status ELSE 'away' END, count(*)
        FROM device GROUP BY 2
        UNION ALL
        SELECT 'agents', status, count(*) FROM agent GROUP BY status
    """

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], int] | None = None
        self._taken_at = 0.0

    def take(self, rows: list[dict[str, Any]] | None) -> None:
        """What QUERY returned; None while another process leads, or the database is away."""
        self._counts = (
            None if rows is None else {(row["what"], row["name"]): row["number"] for row in rows}
        )
        self._taken_at = time.monotonic()

    def collect(self) -> Iterable[Metric]:
        """One metric for each kind of thing."""
        for what, (meaning, names) in _STATUSES.items():
            family = GaugeMetricFamily(f"icefarm_{what}", meaning, labels=["status"])
            if self._counts is not None and time.monotonic() - self._taken_at < _OLD:
                for name in names:
                    family.add_metric([name], self._counts.get((what, name), 0))
            yield family


FARM = Farm()
REGISTRY.register(FARM)
