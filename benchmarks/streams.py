"""A board's serial port over the farm, beside the same over the system's own usbip and TCP.

Both ways lead through the same kernel's usbip-host and vhci-hcd in one emulated machine, which also
holds the broker, the agent and the client; so they differ in what carries the bytes between the
two: two Python processes and Mosquitto, or one TCP connection of the kernel's own. They are
measured in turns. Each transfer is checked byte by byte.
"""

import asyncio
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from kernel.initrd import check_programs

from benchmarks.emulated_farm import (
    PROCESSES,
    EmulatedFarm,
    Measured,
    MosquittoInside,
    emulated_machine,
)
from benchmarks.farm import Place, running_control, running_servers
from benchmarks.report import Figure, Target
from icefarm_agent.behaviours.measuring import BITSTREAM_BYTES

_SPEEDS = {"full": False, "high": True}
"""Of the boards' USB: a Pico has full speed; high speed shows what the ways can do."""
_TURNS = 7
_ECHOES = 200
_BYTES = 4 * BITSTREAM_BYTES
_MOST_ECHO = 4.0
_LEAST_THROUGHPUT = 0.5


@dataclass(frozen=True)
class Quantity:
    """What is measured: with which of the meter's measurements, and what a figure says of it."""

    key: str
    name: str
    unit: str
    meter: str
    amount: int
    of: Callable[[Measured], float]
    target: Target | None = None
    """Of the farm's divided by usbip's."""


def _p50_ms(measured: Measured) -> float:
    return 1e3 * statistics.median(measured.seconds)


def _p99_ms(measured: Measured) -> float:
    return 1e3 * statistics.quantiles(measured.seconds, n=100)[98]


def _kilobytes_a_second(measured: Measured) -> float:
    return _BYTES / 1e3 / measured.seconds[0]


_THROUGHPUT = Target("at least", _LEAST_THROUGHPUT)
_QUANTITIES = (
    Quantity(
        *("echo_p50_ms", "echo of 64 bytes, p50", "ms", "echo", _ECHOES, _p50_ms),
        Target("at most", _MOST_ECHO),
    ),
    Quantity("echo_p99_ms", "echo of 64 bytes, p99", "ms", "echo", _ECHOES, _p99_ms),
    Quantity(
        *("to_board_kb_s", "to the board", "kB/s", "sink", _BYTES, _kilobytes_a_second),
        _THROUGHPUT,
    ),
    Quantity(
        *("from_board_kb_s", "from the board", "kB/s", "blast", _BYTES, _kilobytes_a_second),
        _THROUGHPUT,
    ),
)
_Turn = dict[tuple[str, bool], Measured]
"""By the meter's measurement, and whether it was by the farm."""


async def measure(place: Place) -> list[Figure]:
    """Echo and throughput of both ways and their ratios, with boards of full and of high speed.

    Raises:
        CannotBootError: no machine can be emulated here.
    """
    check_programs()
    figures: list[Figure] = []
    for speed in _SPEEDS:
        turns = await _measured(place, speed)
        for quantity in _QUANTITIES:
            figures += _figures(speed, quantity, turns)
        figures += _cpu(speed, turns)
    return figures


async def _measured(place: Place, speed: str) -> list[_Turn]:
    with emulated_machine(high_speed=_SPEEDS[speed]) as (machine, boards):
        inside = partial(MosquittoInside, machine)
        async with (
            running_servers(place, f"streams-{speed}", inside) as farm,
            running_control(farm),
        ):
            assert isinstance(farm.broker, MosquittoInside)
            emulated = EmulatedFarm(machine, boards, farm.broker, place.profiling)
            # Control is watched meanwhile, by a connection in this event loop.
            return await asyncio.to_thread(_take_turns, emulated)


def _take_turns(emulated: EmulatedFarm) -> list[_Turn]:
    emulated.start()
    meters = {quantity.meter: quantity.amount for quantity in _QUANTITIES}
    turns = [
        {
            (meter, by_farm): emulated.measure(meter, amount, by_farm=by_farm)
            for meter, amount in meters.items()
            for by_farm in (True, False)
        }
        for _ in range(_TURNS)
    ]
    emulated.keep_profiles()
    return turns


def _figures(speed: str, quantity: Quantity, turns: list[_Turn]) -> list[Figure]:
    """The median of the turns with the lowest and the highest, and of the ratios in each turn."""
    by_way = {
        way: [quantity.of(turn[quantity.meter, by_farm]) for turn in turns]
        for way, by_farm in (("broker", True), ("usbip", False))
    }
    ratios = [ours / theirs for ours, theirs in zip(*by_way.values(), strict=True)]
    title = f"A tty of a board at {speed} speed: over the broker, and by usbip over TCP"
    row = f"{quantity.name}, {quantity.unit}"
    figures = []
    for way, values in (*by_way.items(), ("ratio", ratios)):
        for kind, of in (("median", statistics.median), ("lowest", min), ("highest", max)):
            is_main = kind == "median"
            figures.append(
                Figure(
                    f"{speed}_{quantity.key}_{way}" + ("" if is_main else f"_{kind}"),
                    f"{speed} speed, {quantity.name}, {way}" + ("" if is_main else f", {kind}"),
                    of(values),
                    "" if way == "ratio" else quantity.unit,
                    quantity.target if way == "ratio" and is_main else None,
                    table=title,
                    cell=(row if is_main else f"{row}, {kind}", way),
                )
            )
    return figures


def _cpu(speed: str, turns: list[_Turn]) -> list[Figure]:
    """What each process worked for an echo, and for a megabyte in each direction."""
    figures = []
    for meter, (what, amount) in {
        "echo": ("echo", _ECHOES),
        "sink": ("MB to the board", _BYTES / 1e6),
        "blast": ("MB from the board", _BYTES / 1e6),
    }.items():
        for process in PROCESSES:
            spent = statistics.median(turn[meter, True].cpu[process] for turn in turns)
            name = f"CPU of {process}, per {what}"
            figures.append(
                Figure(
                    f"{speed}_cpu_ms_{meter}_{process}",
                    f"{speed} speed, {name}",
                    1e3 * spent / amount,
                    "ms",
                    table=f"CPU time at {speed} speed, ms",
                    cell=(f"per {what}", process),
                )
            )
    return figures
