"""What scenarios share: a lab whose agent has firmware for its boards, seen as the farm sees it."""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from subprocess import CompletedProcess

import psycopg
from support.processes import Processes, script
from support.recorder import Recorder
from support.waiting import until

from icefarm_schemas import AgentStatus, DeviceState, DeviceStatus, Presence
from icefarm_schemas.topics import AgentStateTopic, ControlStateTopic, DeviceStateTopic
from kernel import assassin
from kernel.machine import HOST, Machine
from kernel.uf2 import firmware_image, uf2

CONFIGURATION = "/etc/icefarm/agent.toml"
_TOML = b"""
[labels]
room = "cellar"

[firmware]
default = "default.uf2"
pulsecount = "pulsecount.uf2"
"""

TIMES: list[tuple[str, float]] = []
"""Seconds from an event to `available`, of each scenario; shown at the end of the run."""


@dataclass(frozen=True)
class Farm:
    """Mosquitto, Postgres and control, and how machines take part."""

    processes: Processes
    port: int
    database: str

    @property
    def url(self) -> str:
        """The broker's, for machines."""
        return f"mqtt://{HOST}:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """In which a machine's programs find the farm."""
        return {"ICEFARM_BROKER": self.url, "COLUMNS": "200", "NO_COLOR": "1"}

    def start_agent(self, machine: Machine, *options: str) -> None:
        """Start an agent as the program `agent`, named like its machine."""
        agent = script("icefarm-agent")
        machine.start(
            "agent",
            *(agent, "--name", machine.name, *options),
            env=self.environment,
            warm="icefarm_agent.command",
        )

    def run(
        self, machine: Machine, *arguments: str, timeout: float = 120, check: bool = True
    ) -> CompletedProcess[str]:
        """Run the `icefarm` command to its end."""
        return machine.run(
            script("icefarm"),
            *arguments,
            env=self.environment,
            timeout=timeout,
            check=check,
            warm="icefarm.cli",
        )


@dataclass
class Lab:
    """The machine with the boards and its agent."""

    machine: Machine
    farm: Farm
    recorder: Recorder

    def configure(self) -> None:
        """Give the agent its configuration and firmware files."""
        self.machine.run("mkdir", "-p", "/etc/icefarm")
        self.machine.write(CONFIGURATION, _TOML)
        for name in ("default", "pulsecount"):
            self.machine.write(f"/etc/icefarm/{name}.uf2", uf2(firmware_image(name)))

    def start_agent(self) -> None:
        """As its service does, also after it was killed."""
        if "agent" in self.machine.programs():
            print(f"--- a former agent\n{self.machine.forget('agent')}")
        self.farm.start_agent(self.machine, "--config", CONFIGURATION)

    def appearances(self) -> int:
        """How often an agent has told of itself so far."""
        return len(self.recorder.of(AgentStateTopic, agent=self.machine.name))

    def wait_until_online(self, since: int) -> None:
        """Until the agent takes part in the farm, as told after `since`, and control is there."""

        def online() -> bool:
            told = self.recorder.of(AgentStateTopic, agent=self.machine.name)[since:]
            return bool(told) and told[-1].message.status is AgentStatus.ONLINE

        def served() -> bool:
            told = self.recorder.of(ControlStateTopic)
            return bool(told) and told[-1].message.status is Presence.ONLINE

        until(online, "the agent online", timeout=120)
        until(served, "control online", timeout=120)

    def kill_agent(self) -> None:
        """SIGKILL."""
        self.machine.kill("agent")
        self.machine.wait("agent")

    def wait_until_free(self, device: str) -> None:
        """Until a device is available for the next test, also as control knows it."""

        def free() -> bool:
            state = self.state_of(device)
            return state is not None and state.status is DeviceStatus.AVAILABLE

        until(free, f"{device} free; it is {self.state_of(device)}", timeout=120)
        with psycopg.connect(self.farm.database, autocommit=True) as connection:
            query = "SELECT name FROM device WHERE name = %s AND is_free(device)"
            until(
                lambda: connection.execute(query, (device,)).fetchone(), f"{device} free to control"
            )

    def state_of(self, device: str) -> DeviceState | None:
        """The latest that the agent has reported; None when that was removed."""
        told = self.recorder.of(DeviceStateTopic, agent=self.machine.name, device=device)
        state: DeviceState | None = told[-1].message if told else None
        return state

    def repairs(self, device: str) -> int:
        """How often the agent has put a device right."""
        state = self.state_of(device)
        return state.repairs if state is not None else 0

    def reports(self, device: str) -> int:
        """How many states have been reported so far."""
        return len(self.recorder.of(DeviceStateTopic, agent=self.machine.name, device=device))

    def wait_for(self, device: str, status: DeviceStatus, since: int = 0) -> DeviceState:
        """Until a device reports a status, in a report after the first `since`."""

        def reached() -> DeviceState | None:
            # Of a device that is assigned, some are there for a moment only.
            told = self.recorder.of(DeviceStateTopic, agent=self.machine.name, device=device)
            states = [one.message for one in told[since:] if one.message is not None]
            return next((state for state in states if state.status is status), None)

        state = until(reached, f"{device} {status}; it is {self.state_of(device)}", timeout=120)
        assert state is not None
        return state

    def ever(self, device: str, status: DeviceStatus) -> DeviceState | None:
        """The last time that a device reported a status, though it may be gone by now."""
        told = self.recorder.of(DeviceStateTopic, agent=self.machine.name, device=device)
        states = [t.message for t in told if t.message is not None and t.message.status is status]
        return states[-1] if states else None

    def wait_until_gone(self, device: str) -> None:
        """Until the agent has removed a device."""
        until(lambda: self.state_of(device) is None, f"{device} gone")

    @contextmanager
    def timed(
        self, name: str, device: str, status: DeviceStatus = DeviceStatus.AVAILABLE
    ) -> Iterator[None]:
        """Measure from the block's beginning until the device is available again after it.

        One whose holder has it still is ready for him instead: its being available is no longer
        than the agent takes for its next step.
        """
        since, started = self.reports(device), time.monotonic()
        yield
        self.wait_for(device, status, since)
        TIMES.append((name, time.monotonic() - started))

    @contextmanager
    def killed_when(
        self, event: str, busid: str, number: signal.Signals = signal.SIGKILL
    ) -> Iterator[None]:
        """Signal the agent in the moment of an event (see `assassin.py`) that the block causes."""
        arguments = (event, busid, str(self.machine.pid("agent")), str(number.value))
        self.machine.start("assassin", sys.executable, "-S", assassin.__file__, *arguments)
        until(lambda: "waits" in self.machine.log("assassin"), "the assassin")
        yield
        assert self.machine.wait("assassin", timeout=60) == 0, self.machine.log("assassin")
        print(self.machine.forget("assassin"))

    def usbip_status(self, busid: str) -> str:
        """1: free, 2: in use, 3: error; empty where it is not bound to usbip-host."""
        path = f"/sys/bus/usb/devices/{busid}/usbip_status"
        return self.machine.run("cat", path, check=False).stdout.strip()

    def driver(self, busid: str) -> str:
        """That the kernel has for a device now."""
        return self.machine.run(
            "sh", "-c", f"basename $(readlink /sys/bus/usb/devices/{busid}/driver)", check=False
        ).stdout.strip()

    def exported(self) -> str:
        """What usbip-host has in its table."""
        return self.machine.run(
            "sh", "-c", "cat /sys/bus/usb/drivers/usbip-host/match_busid 2>/dev/null", check=False
        ).stdout.strip()
