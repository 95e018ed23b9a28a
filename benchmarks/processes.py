"""The processes of a benchmark: each is started here, spoken to in lines of JSON, and ended by pid.

A process of this package is told what to do on its standard input and answers on its standard
output; what it writes to standard error is kept in a log file, and shown when it fails.
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATIENCE = 60.0
"""Seconds; only a benchmark that fails waits for so long."""
_LONGEST_LINE = 2**26
"""Bytes: the latencies of one run."""
_ROOT = Path(__file__).parents[1]
_ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
"""An installed part need not compile itself at each start; this one need not either."""


class ProcessFailedError(RuntimeError):
    """A process of a benchmark ended, or does not answer; the text has its last words."""


@dataclass(frozen=True)
class Profiling:
    """Where the profiles of Python processes go; `directory` is None when none are made."""

    directory: Path | None = None

    def python(self, name: str, *arguments: str) -> list[str]:
        """The command that runs this environment's Python, under cProfile if asked for."""
        if self.directory is None:
            return [sys.executable, *arguments]
        file = self.directory / f"{name}.pstats"
        return [sys.executable, "-m", "cProfile", "-o", str(file), *arguments]

    def script(self, name: str, script: str, *arguments: str) -> list[str]:
        """The command that runs a console script of this environment."""
        return self.python(name, str(Path(sys.executable).parent / script), *arguments)


@dataclass(frozen=True)
class Running:
    """A process that runs; `log` holds what it wrote to standard error."""

    name: str
    process: asyncio.subprocess.Process
    log: Path

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    async def tell(self, message: Any) -> None:
        """Write a line of JSON to its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
        await self.process.stdin.drain()

    async def hear(self, timeout: float = PATIENCE) -> Any:
        """The next line of JSON from its standard output.

        Raises:
            ProcessFailedError: it has ended, or says nothing for `timeout` seconds.
        """
        line = await self.read_line(timeout)
        try:
            return json.loads(line)
        except json.JSONDecodeError as error:
            raise ProcessFailedError(f"{self.name} said {line!r}") from error

    async def read_line(self, timeout: float = PATIENCE) -> str:
        """The next line from its standard output.

        Raises:
            ProcessFailedError: it has ended, or says nothing for `timeout` seconds.
        """
        assert self.process.stdout is not None
        try:
            async with asyncio.timeout(timeout):
                line = await self.process.stdout.readline()
        except TimeoutError:
            raise ProcessFailedError(
                f"{self.name} said nothing for {timeout:g} s; its log: {self.last_words()}"
            ) from None
        if not line:
            raise ProcessFailedError(f"{self.name} has ended; its log: {self.last_words()}")
        return line.decode().rstrip("\n")

    async def finish(self) -> None:
        """Close its standard input, and return when it has ended by itself."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        async with asyncio.timeout(PATIENCE):
            await self.process.wait()

    def last_words(self) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:]) or "(empty)"

    async def end(self) -> None:
        """Terminate it; kill it when that does not end it."""
        if self.process.returncode is not None:
            return
        self.process.terminate()
        try:
            async with asyncio.timeout(15):
                await self.process.wait()
        except TimeoutError:
            self.process.kill()
            await self.process.wait()


def _log_file(directory: Path, name: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    return directory / f"{name}.log"


@asynccontextmanager
async def running(
    name: str,
    command: list[str],
    log_directory: Path,
    *,
    spoken_to: bool = True,
    cwd: Path = _ROOT,
) -> AsyncIterator[Running]:
    """Run a command as long as the block; one that is not spoken to has its output in its log.

    Raises:
        ProcessFailedError: it had ended by itself, and not with success, before the block did.
    """
    log = _log_file(log_directory, name)
    with log.open("ab") as errors:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE if spoken_to else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE if spoken_to else errors,
            stderr=errors,
            limit=_LONGEST_LINE,
            cwd=cwd,
            env=_ENVIRONMENT,
            # Ctrl-C in a terminal goes to the whole group; who started a process ends it.
            start_new_session=True,
        )
    started = Running(name, process, log)
    try:
        yield started
        if process.returncode:
            raise ProcessFailedError(f"{name} has failed; its log: {started.last_words()}")
    finally:
        await started.end()
