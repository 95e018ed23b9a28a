"""Every kind of fault: each begins in its own way, and most have an end."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from support.waiting import until

from faults.farm import (
    AGENTS,
    BROKER,
    CLIENTS,
    CLOCKED,
    CONTROLS,
    DATABASE,
    JUMP,
    FaultFarm,
    faketime_library,
)
from faults.network import why_no_namespaces
from faults.parts import Part

End = Callable[[], None]
Begin = Callable[[FaultFarm, random.Random], End]


@dataclass(frozen=True)
class Kind:
    """One kind of fault. `begin` returns how to end it; one that does not last ends at once."""

    name: str
    begin: Begin
    lasts: bool
    why_not: str | None = None
    """Why it cannot be tried here."""


def _nothing() -> None:
    """What has been killed is started again by the supervisor."""


def _running(farm: FaultFarm, name: str) -> Part:
    """A part, once it has been started again after what came before."""
    part = farm.parts[name]
    until(lambda: part.pid is not None, f"{name} runs")
    return part


def _kill(*names: str) -> Begin:
    def begin(farm: FaultFarm, choose: random.Random) -> End:
        _running(farm, choose.choice(names)).kill()
        return _nothing

    return begin


def _kill_leader(farm: FaultFarm, choose: random.Random) -> End:
    _running(farm, farm.leader() or choose.choice(CONTROLS)).kill()
    return _nothing


def _kill_other_control(farm: FaultFarm, choose: random.Random) -> End:
    leader = farm.leader()
    _running(farm, choose.choice([name for name in CONTROLS if name != leader])).kill()
    return _nothing


def _restart_broker(farm: FaultFarm, choose: random.Random) -> End:
    _running(farm, BROKER).terminate()
    return _nothing


def _wipe_broker(farm: FaultFarm, choose: random.Random) -> End:
    memory = farm.mosquitto.directory / "mosquitto.db"
    _running(farm, BROKER).kill(before_restart=lambda: memory.unlink(missing_ok=True))
    return _nothing


def _cut(*names: str) -> Begin:
    def begin(farm: FaultFarm, choose: random.Random) -> End:
        return farm.network.cut(choose.choice(names), silently=choose.random() < 0.5)

    return begin


def _part(names: list[str], other: str) -> Begin:
    def begin(farm: FaultFarm, choose: random.Random) -> End:
        return farm.network.part(choose.choice(names), other)

    return begin


def _silence(*names: str) -> Begin:
    def begin(farm: FaultFarm, choose: random.Random) -> End:
        return _running(farm, choose.choice(names)).silence()

    return begin


def _jump(name: str) -> Begin:
    def begin(farm: FaultFarm, choose: random.Random) -> End:
        farm.set_clock(name, choose.choice([-JUMP, JUMP]))
        return lambda: farm.set_clock(name, 0)

    return begin


def all_kinds() -> list[Kind]:
    """Every kind, also those that cannot be tried here."""
    no_cuts = why_no_namespaces()
    no_clocks = None if faketime_library() else "libfaketime is not installed"
    return [
        Kind("kill control, the leader", _kill_leader, lasts=False),
        Kind("kill control, the other", _kill_other_control, lasts=False),
        Kind("kill agent", _kill(*AGENTS), lasts=False),
        Kind("kill client", _kill(*CLIENTS), lasts=False),
        Kind("kill broker", _kill(BROKER), lasts=False),
        Kind("kill database", _kill(DATABASE), lasts=False),
        Kind("restart broker", _restart_broker, lasts=False),
        Kind("kill broker and its memory", _wipe_broker, lasts=False),
        Kind("cut control", _cut(*CONTROLS), lasts=True, why_not=no_cuts),
        Kind("cut agent", _cut(*AGENTS), lasts=True, why_not=no_cuts),
        Kind("cut client", _cut(*CLIENTS), lasts=True, why_not=no_cuts),
        Kind("cut broker", _cut(BROKER), lasts=True, why_not=no_cuts),
        Kind("cut database", _cut(DATABASE), lasts=True, why_not=no_cuts),
        Kind("cut control - database", _part(CONTROLS, DATABASE), lasts=True, why_not=no_cuts),
        Kind("cut control - broker", _part(CONTROLS, BROKER), lasts=True, why_not=no_cuts),
        Kind("silence control", _silence(*CONTROLS), lasts=True),
        Kind("silence agent", _silence(*AGENTS), lasts=True),
        Kind("silence client", _silence(*CLIENTS), lasts=True),
        Kind("silence broker", _silence(BROKER), lasts=True),
        Kind("silence database", _silence(DATABASE), lasts=True),
        *(
            Kind(f"clock of {name} jumps", _jump(name), lasts=True, why_not=no_clocks)
            for name in CLOCKED
        ),
    ]
