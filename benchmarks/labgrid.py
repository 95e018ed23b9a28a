"""labgrid, which shares boards too: installed beside us, and put under the same load.

One coordinator and one exporter, as it is deployed, with as many places as boards, each of which
matches one resource that needs no hardware.
"""

import asyncio
import hashlib
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.load import Load, put_load
from benchmarks.processes import ProcessFailedError, Running, running
from icefarm_broker.mosquitto import free_port

_ROOT = Path(__file__).parents[1]
_ENVIRONMENT = _ROOT / ".venv-labgrid"
_LOCK = Path(__file__).parent / "labgrid.lock"
_EXPORTER = "exporter"


async def install() -> Path:
    """The folder of labgrid's programs, installed as labgrid.lock pins it, if it is not yet.

    Raises:
        ProcessFailedError: uv is missing, or could not install it.
    """
    stamp = _ENVIRONMENT / "installed"
    wanted = hashlib.sha256(_LOCK.read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text() != wanted:
        # Where the Makefile finds or puts it.
        found = shutil.which("uv") or shutil.which(_ROOT / ".venv-tools" / "bin" / "uv")
        if found is None:
            raise ProcessFailedError("uv is not installed; `make install` brings it")
        python = str(_ENVIRONMENT / "bin" / "python")
        await _run(found, "venv", "--quiet", "--clear", "--python", ">=3.11", str(_ENVIRONMENT))
        await _run(found, "pip", "sync", "--quiet", "--python", python, str(_LOCK))
        stamp.write_text(wanted)
    return _ENVIRONMENT / "bin"


async def _run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await process.communicate()
    if process.returncode:
        raise ProcessFailedError(f"{' '.join(command)}: {said.decode(errors='replace')}")


@dataclass(frozen=True)
class Labgrid:
    """A coordinator with places, and its exporter."""

    python: str
    address: str
    coordinator: Running
    exporter: Running

    async def load(self, mode: str, clients: int, logs: Path) -> Load:
        """Put load on it; `mode` is `client` or `calls` (see labgrid_load.py)."""

        def command(share: int, first: int) -> list[str]:
            program = [self.python, "-m", "benchmarks.labgrid_load"]
            return [*program, self.address, mode, str(share), str(first)]

        pids = {"coordinator": self.coordinator.pid, "exporter": self.exporter.pid}
        return await put_load(clients, command, pids, logs)


@asynccontextmanager
async def running_labgrid(directory: Path, places: int) -> AsyncIterator[Labgrid]:
    """labgrid with so many places, as long as the block."""
    programs = await install()
    address = f"127.0.0.1:{free_port()}"
    resources = _write_resources(directory, places)
    python = str(programs / "python")
    async with AsyncExitStack() as stack:
        coordinator = await stack.enter_async_context(
            running(
                "coordinator",
                [str(programs / "labgrid-coordinator"), "--listen", address],
                directory,
                spoken_to=False,
                # It keeps its places in the folder it is started in.
                cwd=directory,
            )
        )
        await _until_answers(coordinator, address)
        exporter = await stack.enter_async_context(
            running(
                "exporter",
                [
                    str(programs / "labgrid-exporter"),
                    *("--coordinator", address, "--name", _EXPORTER, str(resources)),
                ],
                directory,
                spoken_to=False,
                cwd=directory,
            )
        )
        command = [python, "-m", "benchmarks.labgrid_load", address, "prepare", str(places)]
        async with running("prepare", [*command, _EXPORTER], directory, spoken_to=False) as prepare:
            await prepare.process.wait()
        yield Labgrid(python, address, coordinator, exporter)


def _write_resources(directory: Path, count: int) -> Path:
    """The exporter's configuration: each resource in a group of its own."""
    directory.mkdir(parents=True)
    file = directory / "resources.yaml"
    resource = "  NetworkService:\n    address: 127.0.0.1\n    username: root\n"
    file.write_text("".join(f"board-{number}:\n{resource}" for number in range(count)))
    return file


async def _until_answers(coordinator: Running, address: str) -> None:
    host, _, port = address.rpartition(":")
    while True:
        try:
            _, writer = await asyncio.open_connection(host, int(port))
        except OSError:
            if coordinator.process.returncode is not None:
                raise ProcessFailedError(
                    f"labgrid's coordinator has ended: {coordinator.last_words()}"
                ) from None
            await asyncio.sleep(0.05)
            continue
        writer.close()
        await writer.wait_closed()
        return
