"""What a bitstream for every board costs the network: to the broker once, and once to each agent.

The broker itself counts its bytes, those of packets and not of TCP; all that goes over it while the
bitstreams are evaluated is in there: results, acknowledgements, keepalives.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from benchmarks.farm import Farm, Place, running_servers
from benchmarks.plain_connection import connect
from benchmarks.report import Figure, Target
from benchmarks.timed_farm import running_timed_farm
from icefarm_agent.behaviours.measuring import BITSTREAM_BYTES
from icefarm_broker.mosquitto import Mosquitto
from icefarm_broker.packets import Delivery

_AGENTS = (1, 4)
_BOARDS_EACH = 4
_BITSTREAMS = 50
_MOST = 1.1
"""Times the bitstream's own bytes; the rest is small change: some 330 bytes for each result."""

_RECEIVED, _SENT = "$SYS/broker/bytes/received", "$SYS/broker/bytes/sent"
_UPTIME = "$SYS/broker/uptime"
"""Told at each interval, whereas the others are told only when they have changed."""


class CountingMosquitto(Mosquitto):
    """Tells each second what it has counted, instead of every ten."""

    def configuration(self) -> str:
        """As deployed, with that."""
        return super().configuration() + "sys_interval 1\n"


@dataclass
class Counters:
    """The broker's own, as it told them last."""

    _told: dict[str, int] = field(default_factory=dict)
    _intervals: int = 0
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def deliver(self, delivery: Delivery) -> None:
        """Take what the broker tells."""
        delivery.acknowledge()
        if delivery.topic == _UPTIME:
            self._intervals += 1
            self._news.set()
        else:
            self._told[delivery.topic] = int(delivery.payload)

    async def read(self) -> tuple[int, int]:
        """Bytes received and sent since the broker's start, not counted before this was called."""
        # What comes next may have been counted before; within an interval, the order is not told.
        last = self._intervals + 3
        while self._intervals < last:
            self._news.clear()
            await self._news.wait()
        return self._told[_RECEIVED], self._told[_SENT]


@asynccontextmanager
async def _counters(farm: Farm) -> AsyncIterator[Counters]:
    counters = Counters()
    client = await connect(farm.url, "counter", counters.deliver)
    await client.subscribe_to([_RECEIVED, _SENT, _UPTIME])
    yield counters
    await client.close()


async def measure(place: Place) -> list[Figure]:
    """Bytes per bitstream, and their ratio to those of the bitstream itself."""
    return [figure for agents in _AGENTS for figure in await _with(place, agents)]


async def _with(place: Place, agents: int) -> list[Figure]:
    before = (0, 0)
    async with (
        running_servers(place, f"traffic-{agents}", CountingMosquitto) as farm,
        _counters(farm) as counters,
        running_timed_farm(farm, agents=agents, boards_each=_BOARDS_EACH) as timed,
    ):

        async def read_before() -> None:
            nonlocal before
            before = await counters.read()

        await timed.evaluate(_BITSTREAMS, on_every_board=True, before=read_before)
        after = await counters.read()
    received, sent = (
        (later - earlier) / _BITSTREAMS for later, earlier in zip(after, before, strict=True)
    )
    by = f"{agents} agent{'s' * (agents > 1)} x {_BOARDS_EACH} boards"
    target = Target("at most", _MOST)
    return [
        Figure(f"received_{agents}", f"{by}: into the broker, a bitstream", received, "bytes"),
        Figure(f"sent_{agents}", f"{by}: out of the broker, a bitstream", sent, "bytes"),
        Figure(
            f"received_ratio_{agents}",
            f"{by}: in / one bitstream",
            received / BITSTREAM_BYTES,
            target=target,
        ),
        Figure(
            f"sent_ratio_{agents}",
            f"{by}: out / one bitstream per agent",
            sent / (agents * BITSTREAM_BYTES),
            target=target,
        ),
    ]
