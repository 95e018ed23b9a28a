"""What scenarios share: a lab whose agent has firmware for its boards, seen as the farm sees it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from subprocess import CompletedProcess

from support.processes import Processes, script
from support.recorder import Recorder
from support.waiting import until

from icefarm_schemas import DeviceState, DeviceStatus
from icefarm_schemas.topics import DeviceStateTopic
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
        machine.start("agent", agent, "--name", machine.name, *options, env=self.environment)

    def run(
        self, machine: Machine, *arguments: str, timeout: float = 60, check: bool = True
    ) -> CompletedProcess[str]:
        """Run the `icefarm` command to its end."""
        return machine.run(
            script("icefarm"), *arguments, env=self.environment, timeout=timeout, check=check
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
        self.farm.start_agent(self.machine, "--config", CONFIGURATION)

    def kill_agent(self) -> None:
        """SIGKILL."""
        self.machine.kill("agent")
        self.machine.wait("agent")

    def state_of(self, device: str) -> DeviceState | None:
        """The latest that the agent has reported; None when that was removed."""
        told = self.recorder.of(DeviceStateTopic, agent=self.machine.name, device=device)
        state: DeviceState | None = told[-1].message if told else None
        return state

    def reports(self, device: str) -> int:
        """How many states have been reported so far."""
        return len(self.recorder.of(DeviceStateTopic, agent=self.machine.name, device=device))

    def wait_for(self, device: str, status: DeviceStatus, since: int = 0) -> DeviceState:
        """Until a device reports a status, in a report after the first `since`."""

        def reached() -> DeviceState | None:
            told = self.recorder.of(DeviceStateTopic, agent=self.machine.name, device=device)
            state: DeviceState | None = told[-1].message if len(told) > since else None
            return state if state is not None and state.status is status else None

        state = until(reached, f"{device} {status}; it is {self.state_of(device)}", timeout=60)
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
    def timed(self, name: str, device: str) -> Iterator[None]:
        """Measure from the block's beginning until the device is available again after it."""
        since, started = self.reports(device), time.monotonic()
        yield
        self.wait_for(device, DeviceStatus.AVAILABLE, since)
        TIMES.append((name, time.monotonic() - started))

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
