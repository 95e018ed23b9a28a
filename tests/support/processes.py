"""The parts of a farm as processes, started through their console scripts as deployed."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import icefarm
from support.waiting import until


def script(name: str) -> str:
    """The path of a console script of this installation."""
    return str(Path(sys.executable).parent / name)


def wait_for_boards(url: str, count: int) -> None:
    """Return when a farm is served and has so many boards, all available, and control knows it."""
    with icefarm.Client(url, name="watcher") as client:
        until(lambda: are_available(client, count))


def are_available(client: icefarm.Client, count: int, others: int = 0) -> bool:
    """Whether a farm is served, and so many boards are available, and `others` not, to control too.

    What agents report comes to clients and to control each in its own time.
    """
    found = [board.status == "available" for board in client.boards()]
    return (
        client.is_served()
        and (found.count(True), found.count(False)) == (count, others)
        and free_boards(client) == count
        and client.availability().devices.total == count + others
    )


def free_boards(client: icefarm.Client) -> int | None:
    """How many boards control would give away; None before it has told."""
    try:
        return client.availability().devices.available
    except icefarm.ControlOfflineError:
        return None


class Processes:
    """Starts parts against one broker and one database, and ends them with the test."""

    def __init__(self, broker_url: str, database_url: str, directory: Path) -> None:
        self._broker, self._database, self._directory = broker_url, database_url, directory
        self._all: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        """Start any program; its output goes to a file that a failing test shows."""
        with (self._directory / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment
            )
        self._all[name] = process
        return process

    @property
    def environment(self) -> dict[str, str]:
        """In which client tools find the farm."""
        return {**os.environ, "ICEFARM_BROKER": self._broker, "COLUMNS": "200", "NO_COLOR": "1"}

    def control(self, name: str = "control", *, web: bool | str = False) -> subprocess.Popen[bytes]:
        """Start control; several share the work, so each needs a name for its log.

        `web` may be where the dashboard is to be; else it is at a free port.
        """
        place = ("--web", web if isinstance(web, str) else "127.0.0.1:0") if web else ("--no-web",)
        return self.start(name, script("icefarm-control"), "--database", self._database, *place)

    def dashboard(self, name: str = "control") -> str:
        """The URL of the dashboard that control says it serves, without a slash at its end."""
        pattern = re.compile(r"the dashboard is at (\S+)/\n")
        found: list[str] = until(lambda: pattern.findall(self.output(name)))
        return found[-1]

    def agent(
        self,
        name: str = "bench",
        boards: int = 2,
        speed: float = 20,
        labels: tuple[str, ...] = (),
        options: tuple[str, ...] = (),
    ) -> subprocess.Popen[bytes]:
        """Start an agent with virtual boards."""
        return self.start(
            f"agent-{name}",
            script("icefarm-agent"),
            "--name",
            name,
            "--virtual-boards",
            str(boards),
            "--virtual-speed",
            str(speed),
            *(f"--label={label}" for label in labels),
            *options,
        )

    def serve(self, boards: int) -> None:
        """Start control and an agent with so many fast boards; return when all are available."""
        self.control()
        self.agent("bench", boards=boards)
        wait_for_boards(self._broker, boards)

    def run(self, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run the `icefarm` command to its end."""
        return subprocess.run(
            [script("icefarm"), *arguments],
            capture_output=True,
            text=True,
            timeout=timeout,
            env=self.environment,
            check=False,
        )

    def pid(self, name: str) -> int:
        """Of one that runs."""
        return self._all[name].pid

    def kill(self, name: str) -> None:
        """SIGKILL."""
        process = self._all.pop(name)
        process.kill()
        process.wait()

    def wait(self, name: str) -> int:
        """The exit code of one that ends by itself."""
        return self._all.pop(name).wait(30)

    def interrupt(self, name: str) -> int:
        """Ctrl-C, again and again until it has ended; return the exit code."""
        process = self._all.pop(name)
        deadline = time.monotonic() + 30
        while process.poll() is None:
            assert time.monotonic() < deadline, f"{name} did not stop"
            process.send_signal(signal.SIGINT)
            time.sleep(0.001)
        return process.returncode

    def stop(self) -> None:
        """End all that still run, agents before what they talk to."""
        for process in self._all.values():
            process.terminate()
        for name, process in self._all.items():
            try:
                # A client that has something to give back waits for control to return.
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise AssertionError(f"{name} did not stop on SIGTERM") from None

    def output(self, name: str) -> str:
        """What a program has printed so far, in whole lines."""
        text = (self._directory / f"{name}.log").read_text(errors="replace")
        return text[: text.rfind("\n") + 1]

    def logs(self) -> str:
        """All output so far."""
        return "\n".join(
            f"--- {path.stem}\n{path.read_text(errors='replace')[-6000:]}"
            for path in sorted(self._directory.glob("*.log"))
        )
