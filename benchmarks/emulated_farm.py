"""A machine that holds all that a stream's bytes pass: boards, agent, broker and client.

What a stream does not need, control and its database, runs outside and reaches the broker through
a port of this machine.
"""

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from kernel.boards import Boards
from kernel.machine import Machine
from kernel.uf2 import firmware_image, uf2
from support.waiting import until

from benchmarks.attaching_client import READY
from benchmarks.processes import ProcessFailedError, Profiling
from icefarm_broker.mosquitto import Mosquitto, find_program

PROCESSES = ("agent", "mosquitto", "client")
"""That carry a stream's bytes."""

_FIRMWARES = ("echo", "blast")
_ROOT = Path(__file__).parents[1]
_ENVIRONMENT = {"PYTHONPATH": str(_ROOT)}
_CONFIGURATION = "/etc/icefarm/agent.toml"
_VHCI = "/sys/devices/platform/vhci_hcd.0/usb*/*-*"
_PATIENCE = 120.0
"""Seconds; only a benchmark that fails waits for so long."""


class MosquittoInside(Mosquitto):
    """Runs in an emulated machine, at a port that is the same inside and outside."""

    def __init__(self, machine: Machine, directory: Path, port: int) -> None:
        # What comes from outside does not come by the loopback interface.
        super().__init__(directory, port, bind="0.0.0.0")
        self._machine = machine
        self.pid = 0

    @property
    def url(self) -> str:
        """How to connect, inside and outside."""
        return f"mqtt://127.0.0.1:{self.port}"

    def start(self, timeout: float = 10) -> None:
        """Start it, and return when it answers."""
        configuration = f"{self.directory}/mosquitto.conf"
        self._machine.run("mkdir", "-p", str(self.directory))
        self._machine.write(configuration, self.configuration().encode())
        program = find_program("mosquitto")
        self.pid = self._machine.start("mosquitto", program, "-c", configuration)
        log = str(self.log_file)
        until(
            lambda: self._machine.glob(log) and b"running" in self._machine.read(log),
            "Mosquitto",
            timeout,
        )
        self._machine.forward(self.port)

    def stop(self) -> None:
        """End it; where the machine is off, it has ended."""
        if self._machine.is_on:
            self._machine.kill("mosquitto")


@dataclass(frozen=True)
class Measured:
    """What one measurement through a tty gave.

    Attributes:
        seconds: of each repetition.
        cpu: seconds that each of the processes had a core meanwhile.
    """

    seconds: list[float]
    cpu: dict[str, float]


class EmulatedFarm:
    """Boards with each firmware, twice: plugged in through the farm, and by the system's own usbip.

    The agent has the ones, and is told to leave the others alone; apart from their serial numbers
    they do not differ.
    """

    def __init__(
        self, machine: Machine, boards: Boards, broker: MosquittoInside, profiling: Profiling
    ) -> None:
        self._machine, self._url, self._profiling = machine, broker.url, profiling
        # The agent knows boards by its default firmware before their holder writes his own.
        self._of_farm = {name: boards.plug() for name in _FIRMWARES}
        self._of_usbip = {name: boards.plug(name) for name in _FIRMWARES}
        self._pids = {"mosquitto": broker.pid}
        self._ttys: dict[str, str] = {}

    def start(self) -> None:
        """Plug everything in."""
        for board in (*self._of_farm.values(), *self._of_usbip.values()):
            board.wait_for_tty()
        self._machine.run("modprobe", "--all", "usbip-host", "vhci-hcd")
        self._attach_by_usbip()
        self._start_agent()
        self._start_client()
        self._ttys = self._find_ttys()

    def _attach_by_usbip(self) -> None:
        self._machine.run("usbipd", "--daemon", "--ipv4")
        for board in self._of_usbip.values():
            self._machine.run("usbip", "bind", "--busid", board.busid)
            self._machine.run("usbip", "attach", "--remote", "127.0.0.1", "--busid", board.busid)

    def _start_agent(self) -> None:
        ignored = "".join(
            f'[[board]]\nserial = "{board.serial}"\nignore = true\n'
            for board in self._of_usbip.values()
        )
        self._machine.run("mkdir", "-p", "/etc/icefarm")
        self._machine.write("/etc/icefarm/default.uf2", uf2(firmware_image("default")))
        self._machine.write(
            _CONFIGURATION, f'[firmware]\ndefault = "default.uf2"\n{ignored}'.encode()
        )
        self._start(
            "agent",
            self._profiling.script(
                *("agent", "icefarm-agent", "--name", self._machine.name),
                *("--config", _CONFIGURATION, "--broker", self._url),
            ),
        )

    def _start_client(self) -> None:
        boards = [f"{board.serial}={name}" for name, board in self._of_farm.items()]
        command = ("-m", "benchmarks.attaching_client", self._url, *boards)
        self._start("client", self._profiling.python("client", *command))
        log = partial(self._machine.log, "client")
        try:
            until(
                lambda: READY in log() or not self._machine.running("client"),
                "the client's boards",
                _PATIENCE,
            )
        except AssertionError as error:
            raise ProcessFailedError(f"{error}; its log: {log()}") from None
        if not self._machine.running("client"):
            raise ProcessFailedError(f"the client has ended; its log: {log()}")

    def _start(self, name: str, command: list[str]) -> None:
        self._pids[name] = self._machine.start(name, *command, env=_ENVIRONMENT)

    def _find_ttys(self) -> dict[str, str]:
        """By serial number, of all boards that were attached."""
        self._machine.run("udevadm", "settle")
        ttys = [Path(path) for path in self._machine.glob(f"{_VHCI}/*:1.0/tty/ttyACM*")]
        return {
            self._machine.read(str(tty.parents[2] / "serial")).decode().strip(): f"/dev/{tty.name}"
            for tty in ttys
        }

    def measure(self, what: str, amount: int, *, by_farm: bool) -> Measured:
        """Run the meter once; see `tty_meter` for its arguments."""
        boards = self._of_farm if by_farm else self._of_usbip
        tty = self._ttys[boards["echo" if what == "echo" else "blast"].serial]
        before = self._cpu()
        told = self._machine.run(
            *(sys.executable, "-m", "benchmarks.tty_meter", what, tty, str(amount)),
            env=_ENVIRONMENT,
            timeout=_PATIENCE,
        ).stdout
        after = self._cpu()
        return Measured(json.loads(told), {name: after[name] - before[name] for name in after})

    def _cpu(self) -> dict[str, float]:
        """Seconds that each process has had a core; the first field of schedstat has ns."""
        return {
            name: int(self._machine.read(f"/proc/{pid}/schedstat").split()[0]) / 1e9
            for name, pid in self._pids.items()
        }

    def keep_profiles(self) -> None:
        """Where profiles are made, end the processes, which then write them, and copy these."""
        if (directory := self._profiling.directory) is None:
            return
        # The agent first: with the client's end, it would begin to flash boards.
        for name in ("agent", "client"):
            self._machine.signal(name, signal.SIGTERM)
            self._machine.wait(name, _PATIENCE)
            file = directory / f"{name}.pstats"
            file.write_bytes(self._machine.read(str(file)))


@contextmanager
def emulated_machine(*, high_speed: bool) -> Iterator[tuple[Machine, Boards]]:
    """A machine that is on as long as the block, with two cores and ports for boards."""
    machine = Machine("bench", cpus=2)
    try:
        machine.boot()
        boards = Boards(machine)
        boards.load(high_speed=high_speed)
        yield machine, boards
    finally:
        machine.close()
