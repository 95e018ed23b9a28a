"""A whole farm on this machine: every part as a process of its own, through its console script."""

import asyncio
import ctypes
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from icefarm.async_client import AsyncClient
from icefarm.errors import ControlOfflineError
from icefarm_broker.mosquitto import free_port
from icefarm_broker.service import EXIT_RESTART

_STOP_TIMEOUT = 15.0
_START_TIMEOUT = 60.0
_PAUSE = 1.0
_MOST_RESTARTS = 5
"""Within a minute; a part that ends more often will not be helped by another start."""

_DASHBOARD_PORT = 8080
_PR_SET_PDEATHSIG = 1


class FarmFailedError(RuntimeError):
    """A part of the farm does not start or does not stay; the text has its last words."""


def _end_with_parent() -> None:
    # Linux only: however this process ends, its parts do not stay behind.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@dataclass
class Part:
    """One process of the farm, started again when it ends by itself."""

    name: str
    command: list[str]
    log: Path
    say: Callable[[str], None]
    process: asyncio.subprocess.Process | None = None
    _keeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start it, and keep it running."""
        script = Path(sys.executable).parent / self.command[0]
        program = str(script) if script.exists() else shutil.which(self.command[0])
        if program is None:
            raise FarmFailedError(
                f"{self.command[0]} is not installed; `icefarm up` needs the parts "
                "icefarm-broker, icefarm-control and icefarm-agent beside the client"
            )
        self._program = program
        await self._spawn()
        self._keeper = asyncio.create_task(self._keep(), name=f"keeper of {self.name}")

    async def _spawn(self) -> None:
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                self._program,
                *self.command[1:],
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C in a terminal goes to the whole group; the farm ends its parts in order.
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )

    async def _keep(self) -> None:
        ends: list[float] = []
        while True:
            assert self.process is not None
            code = await self.process.wait()
            if code == EXIT_RESTART:
                self.say(f"{self.name} was asked to restart")
                await self._spawn()
                continue
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            ends = [t for t in ends if time.monotonic() - t < 60] + [time.monotonic()]
            if len(ends) > _MOST_RESTARTS:
                raise FarmFailedError(f"{self.name} keeps ending ({how}): {self.last_words()}")
            self.say(f"{self.name} ended ({how}); starting it again")
            await asyncio.sleep(_PAUSE)
            await self._spawn()

    def check(self) -> None:
        """Raise FarmFailedError when it has been given up."""
        if self._keeper is not None and self._keeper.done() and not self._keeper.cancelled():
            self._keeper.result()

    async def stop(self) -> None:
        """End it; by force when it does not end by itself."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self.process is None or self.process.returncode is not None:
            return
        self.process.terminate()
        try:
            async with asyncio.timeout(_STOP_TIMEOUT):
                await self.process.wait()
        except TimeoutError:
            self.say(f"{self.name} does not stop; ending it by force")
            self.process.kill()
            await self.process.wait()

    def last_words(self) -> str:
        """The end of its log."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return " / ".join(lines[-3:]) or f"nothing in {self.log}"


class Farm:
    """A broker, a database, control and agents with virtual boards.

    Args:
        directory: for their states and logs; a later farm on it goes on where this one ended.
        port: of the broker, on 127.0.0.1.
        boards: how many virtual boards, spread over the agents.
        speed: how many times faster than real boards they are.
        with_dashboard: whether control serves it, on 127.0.0.1.
        say: called with what is worth telling.

    `dashboard` is its address, once the farm has been started.
    """

    def __init__(
        self,
        directory: Path,
        port: int,
        *,
        boards: int,
        agents: int,
        speed: float,
        with_dashboard: bool,
        say: Callable[[str], None],
    ) -> None:
        self.directory = directory
        self.port = port
        self.url = f"mqtt://127.0.0.1:{port}"
        self.dashboard = ""
        self._boards, self._with_dashboard = boards, with_dashboard
        logs = directory / "logs"
        logs.mkdir(parents=True, exist_ok=True)

        def part(name: str, *command: str) -> Part:
            return Part(name, list(command), logs / f"{name}.log", say)

        url_file = directory / "database-url"
        self.broker = part(
            "broker",
            "icefarm-broker",
            "run",
            "--port",
            str(port),
            "--directory",
            str(directory / "broker"),
        )
        self.database = part(
            "database",
            "icefarm-database",
            "--directory",
            str(directory / "postgres"),
            "--url-file",
            str(url_file),
        )
        self.control = part("control", "icefarm-control", "--broker", self.url)
        shares = [boards // agents + (n < boards % agents) for n in range(agents)]
        self.agents = [
            part(
                f"agent-{number}",
                "icefarm-agent",
                "--broker",
                self.url,
                "--name",
                f"bench-{number}",
                "--virtual-boards",
                str(share),
                "--virtual-speed",
                str(speed),
            )
            for number, share in enumerate(shares, 1)
        ]
        self._url_file = url_file

    @property
    def parts(self) -> list[Part]:
        """In the order in which they start."""
        return [self.broker, self.database, self.control, *self.agents]

    async def start(self) -> None:
        """Start everything and return when all boards are available.

        Raises:
            FarmFailedError: a part does not start.
        """
        if any(character.isspace() for character in str(self.directory)):
            raise FarmFailedError(
                f"the directory {self.directory} has white space in its path, which the embedded "
                "Postgres does not take; choose another with --directory"
            )
        if await _answers(self.port):
            raise FarmFailedError(
                f"port {self.port} of this machine is taken, perhaps by a Mosquitto that is "
                f"installed as a service; choose another with --port"
            )
        self._url_file.unlink(missing_ok=True)
        try:
            async with asyncio.timeout(_START_TIMEOUT):
                await asyncio.gather(self.broker.start(), self.database.start())
                while not (self._url_file.exists() and await _answers(self.port)):
                    self.check()
                    await asyncio.sleep(0.05)
                self.control.command += ["--database", self._url_file.read_text(), *self._web()]
                for part in (self.control, *self.agents):
                    await part.start()
                await self._until_available()
        except TimeoutError:
            raise FarmFailedError(
                f"the farm did not start within {_START_TIMEOUT:g} s; "
                + "; ".join(f"{part.name}: {part.last_words()}" for part in self.parts)
            ) from None

    def _web(self) -> list[str]:
        if not self._with_dashboard:
            return ["--no-web"]
        place = f"127.0.0.1:{_free_dashboard_port()}"
        self.dashboard = f"http://{place}"
        return ["--web", place]

    async def _until_available(self) -> None:
        async with AsyncClient(self.url, name="icefarm-up") as client:
            while not await self._is_available(client):
                self.check()
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.5):
                        await client.changed()

    async def _is_available(self, client: AsyncClient) -> bool:
        boards = await client.boards()
        free = sum(board.status == "available" for board in boards)
        # Of an earlier farm in this directory, some may be held.
        held = sum(board.status == "ready" for board in boards)
        if not await client.is_served() or free + held < self._boards:
            return False
        try:
            # Agents tell of their boards a moment before control can give them away.
            return (await client.availability()).devices.available >= free
        except ControlOfflineError:
            return False  # It has not counted them yet.

    def check(self) -> None:
        """Raise FarmFailedError when a part has been given up."""
        for part in self.parts:
            part.check()

    async def stop(self) -> None:
        """End everything that was started, those first that need the others."""
        await asyncio.gather(*(agent.stop() for agent in self.agents))
        await self.control.stop()
        await asyncio.gather(self.database.stop(), self.broker.stop())
        self._stop_orphaned_postgres()

    def _stop_orphaned_postgres(self) -> None:
        """Postgres outlives an icefarm-database that was killed and not yet started again."""
        if self.database.process is None:
            return  # What runs on this directory is another farm's.
        try:
            # Its first line is the server's pid (PostgreSQL manual, "Database File Layout").
            pid = int((self.directory / "postgres" / "postmaster.pid").read_text().split()[0])
            os.kill(pid, signal.SIGINT)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            return


def _free_dashboard_port() -> int:
    """The usual one; another where that is taken, as by another farm."""
    try:
        socket.create_server(("127.0.0.1", _DASHBOARD_PORT)).close()
    except OSError:
        return free_port()
    return _DASHBOARD_PORT


async def _answers(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True
