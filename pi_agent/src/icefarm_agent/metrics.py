"""What an agent counts, for Prometheus; `--metrics` serves it."""

from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    make_asgi_app,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from icefarm_agent.board import BoardError
from icefarm_broker import Connection, Stream
from icefarm_schemas import DeviceStatus, EvaluationFinished

REGISTRY = CollectorRegistry()
"""All that is served."""

BOARDS = Gauge(
    "icefarm_agent_boards", "Boards of this agent, by status.", ["status"], registry=REGISTRY
)
REPAIRS = Counter(
    "icefarm_agent_repairs",
    "How often a board was not as it should be, and was put right.",
    registry=REGISTRY,
)
EVALUATIONS = Counter(
    "icefarm_agent_evaluations",
    "Results of bitstreams, by behaviour; the result is measured, or an error's code.",
    ["behaviour", "result"],
    registry=REGISTRY,
)
EVALUATION_SECONDS = Histogram(
    "icefarm_agent_evaluation_seconds",
    "How long a bitstream took that was measured, from its turn to its result.",
    ["behaviour"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 1.5, 2, 3, 5, 10, 30, 60),
    registry=REGISTRY,
)
FLASHES = Counter(
    "icefarm_agent_flashes",
    "Firmware that was written to boards; the result is written, failed or interrupted.",
    ["result"],
    registry=REGISTRY,
)
PlatformCollector(registry=REGISTRY)
ProcessCollector(registry=REGISTRY)

for _status in DeviceStatus:
    BOARDS.labels(_status)
for _result in ("written", "failed", "interrupted"):
    FLASHES.labels(_result)


def count_evaluation(finished: EvaluationFinished) -> None:
    """Take note of a result that is sent for the first time."""
    result = "measured" if finished.error is None else finished.error.code
    EVALUATIONS.labels(finished.behaviour, result).inc()
    if finished.error is None:
        EVALUATION_SECONDS.labels(finished.behaviour).observe(finished.seconds)


@contextmanager
def counted_flash() -> Iterator[None]:
    """Around the writing of a firmware."""
    result = "interrupted"
    try:
        yield
        result = "written"
    except BoardError:
        result = "failed"
        raise
    finally:
        FLASHES.labels(result).inc()


class StreamBytes(Collector):
    """The bytes of all streams: those that are over, and those that run."""

    def __init__(self) -> None:
        self._running: set[Stream] = set()
        self._sent = self._received = 0

    @contextmanager
    def of(self, stream: Stream) -> Iterator[None]:
        """Count a stream while the block runs; they are counted by the stream itself."""
        self._running.add(stream)
        try:
            yield
        finally:
            self._running.discard(stream)
            self._sent += stream.sent
            self._received += stream.received

    def collect(self) -> Iterable[Metric]:
        """One metric for both directions."""
        family = CounterMetricFamily(
            "icefarm_agent_stream_bytes",
            "Bytes of consoles and USB/IP: up is towards the boards, down towards their holders.",
            labels=["direction"],
        )
        running = list(self._running)
        family.add_metric(["up"], self._received + sum(stream.received for stream in running))
        family.add_metric(["down"], self._sent + sum(stream.sent for stream in running))
        yield family


STREAM_BYTES = StreamBytes()
REGISTRY.register(STREAM_BYTES)


class Broker(Collector):
    """How the agent's connection to the broker is; there is none before it `watches` one."""

    def __init__(self) -> None:
        self._connection: Connection | None = None

    def watch(self, connection: Connection) -> None:
        """Tell of this one from now on."""
        self._connection = connection

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection, as far as the agent knows."""
        return self._connection is not None and self._connection.is_connected

    def collect(self) -> Iterable[Metric]:
        """Whether it is there, and how often it had to be made again."""
        there = self.is_connected
        yield GaugeMetricFamily(
            "icefarm_agent_broker_connected",
            "1 while there is a connection to the broker, as far as the agent knows.",
            value=there,
        )
        yield CounterMetricFamily(
            "icefarm_agent_broker_reconnects",
            "How often the connection to the broker was lost and made again.",
            value=0 if self._connection is None else self._connection.losses - (not there),
        )


BROKER = Broker()
REGISTRY.register(BROKER)


def in_words() -> str:
    """For whoever looks at one agent."""
    [family] = BOARDS.collect()
    counts = [f"{int(s.value)} {s.labels['status']}" for s in family.samples if s.value]
    return (
        f"boards: {', '.join(counts) or 'none'}; "
        f"{'connected to the broker' if BROKER.is_connected else 'no connection to the broker'}"
    )


_metrics = make_asgi_app(REGISTRY)


async def app(
    scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
) -> None:
    """The ASGI application that serves /metrics, and /healthz: that the event loop works."""
    if scope["type"] == "http" and scope["path"] == "/metrics":
        await _metrics(scope, receive, send)
        return
    is_health = scope["type"] == "http" and scope["path"] == "/healthz"
    status, text = (200, b"ok\n") if is_health else (404, b"there are /metrics and /healthz\n")
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text})
