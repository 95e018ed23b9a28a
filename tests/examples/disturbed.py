"""A farm in one network and its user in another, so that the user alone can be cut off.

`lab` is where the broker, control and the agent with its boards are; `desk` is where the client is.
"""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from faults.network import Namespaces
from faults.parts import Part
from support.processes import script, wait_for_boards
from support.waiting import until

from icefarm_broker.mosquitto import Mosquitto, free_port

LAB, DESK = "lab", "desk"


class DisturbedFarm:
    """What runs in the two networks, and what is done to it.

    Args:
        directory: for logs, and for `disturbances`, the file in which each is told.
        boards: virtual ones, `speed` times as fast as real ones.
    """

    def __init__(
        self, directory: Path, network: Namespaces, database_url: str, boards: int, speed: float
    ) -> None:
        self._directory, self._network, self._boards = directory, network, boards
        self.disturbances = directory / "disturbances.jsonl"
        self._mosquitto = Mosquitto(directory / "broker", free_port(), bind=network.address(LAB))
        self._variables = {"ICEFARM_BROKER": self._mosquitto.url, "PYTHONUNBUFFERED": "1"}
        self._broker = self._part("broker", *self._mosquitto.command())
        self._control = self._part(
            "control", *(script("icefarm-control"), "--database", database_url, "--no-web")
        )
        self._agent = self._part(
            "agent",
            *(script("icefarm-agent"), "--name", "lab"),
            *("--virtual-boards", str(boards), "--virtual-speed", str(speed)),
        )

    def _part(self, name: str, *command: str) -> Part:
        in_the_lab = [*self._network.inside(LAB), *command]
        return Part(name, lambda: in_the_lab, self._directory / f"{name}.log", self._variables)

    def start(self) -> None:
        """Return when all boards are available."""
        self._broker.start()
        log = self._mosquitto.log_file
        until(lambda: log.exists() and "running" in log.read_text(), "the broker")
        self._control.start()
        self._agent.start()
        # A thread of the client's is where the thread that starts it is.
        with ThreadPoolExecutor(1, initializer=self._network.enter) as pool:
            pool.submit(wait_for_boards, self._mosquitto.url, self._boards).result()

    def stop(self) -> None:
        """End all of it in order."""
        for part in (self._agent, self._control, self._broker):
            part.terminate()
            fault = part.wait_stopped()
            assert fault is None, fault

    def start_at_the_desk(self, *command: str) -> subprocess.Popen[bytes]:
        """Start a program of the user's; its words go to `desk.log`."""
        with self.desk_log.open("wb") as log:
            return subprocess.Popen(
                [*self._network.inside(DESK), *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self._variables},
            )

    @property
    def desk_log(self) -> Path:
        """What the user's program has said."""
        return self._directory / "desk.log"

    def restart_broker(self, noticed: Callable[[], bool]) -> None:
        """End it as a power cut would, and start it again when that was noticed."""
        with self._told("broker killed and started again"):
            self._broker.kill()
            assert self._broker.wait_stopped() == "broker stopped with exit code -9"
            until(noticed, "the loss of the broker is noticed")
            self._broker.start()

    def cut_off(self, seconds: float, meanwhile: Callable[[], None]) -> None:
        """Let nothing pass between desk and lab for so long; neither has anything but silence."""
        with self._told(f"no network for {seconds:g} s"):
            mend = self._network.cut(DESK, silently=True)
            over = time.monotonic() + seconds
            while time.monotonic() < over:
                meanwhile()
                time.sleep(0.1)
        # What comes now comes after it.
        mend()

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        began = time.time()
        yield
        line = {"what": what, "began": began, "ended": time.time()}
        with self.disturbances.open("a") as file:
            file.write(json.dumps(line) + "\n")
