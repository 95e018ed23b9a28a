"""Warm worker processes: started when first needed, replaced when they crash or take too long."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from icefarm_agent.virtual.errors import BitstreamError

_ATTEMPTS = 3
"""A worker may be killed by somebody else, for example for memory; a bitstream that ends three of
them is itself the reason."""


class _WorkerDied(Exception):
    """The process ended in the middle of a question."""


class _Worker:
    """One process of `worker`; answers one question at a time."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid

    @staticmethod
    async def start() -> "_Worker":
        # The child must find this package however the parent did: installed, or by a path.
        package_root = str(Path(__file__).parents[2])
        paths = [package_root, *filter(None, [os.environ.get("PYTHONPATH")])]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "icefarm_agent.virtual.worker",
            str(os.getpid()),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
        return _Worker(process)

    async def ask(self, image: bytes) -> dict[str, Any]:
        requests, replies = self._process.stdin, self._process.stdout
        if requests is None or replies is None:
            raise _WorkerDied
        try:
            requests.write(len(image).to_bytes(4, "big") + image)
            await requests.drain()
            size = int.from_bytes(await replies.readexactly(4), "big")
            reply: dict[str, Any] = json.loads(await replies.readexactly(size))
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise _WorkerDied from error
        return reply

    async def end(self) -> None:
        """Kill the process and wait until it is gone."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.communicate()


class WorkerPool:
    """At most so many workers; questions wait for a free one."""

    def __init__(self, workers: int, time_limit: float) -> None:
        if workers < 1:
            raise ValueError(f"a simulator needs at least one worker, not {workers}")
        self._time_limit = time_limit
        self._free = asyncio.Semaphore(workers)
        self._idle: list[_Worker] = []
        self._alive: set[_Worker] = set()

    @property
    def pids(self) -> list[int]:
        """The process ids of the workers that are running."""
        return sorted(worker.pid for worker in self._alive)

    async def ask(self, image: bytes) -> dict[str, Any]:
        """A worker's reply to an image.

        Raises BitstreamError after the time limit, or if the image ends one worker after another.
        """
        async with self._free:
            for _ in range(_ATTEMPTS):
                try:
                    return await self._ask_once(image)
                except _WorkerDied:
                    continue
        raise BitstreamError(
            f"the circuit cannot be simulated: {_ATTEMPTS} simulator processes ended "
            f"unexpectedly while working on it"
        )

    async def _ask_once(self, image: bytes) -> dict[str, Any]:
        worker = self._idle.pop() if self._idle else None
        if worker is None:
            worker = await _Worker.start()
            self._alive.add(worker)
        try:
            async with asyncio.timeout(self._time_limit):
                reply = await worker.ask(image)
        except TimeoutError:
            await self._end(worker)
            raise BitstreamError(
                f"the circuit could not be simulated within the time limit of "
                f"{self._time_limit:g} s"
            ) from None
        except BaseException:
            # Died, or the question was cancelled and its answer must not meet the next one.
            await self._end(worker)
            raise
        self._idle.append(worker)
        return reply

    async def _end(self, worker: _Worker) -> None:
        self._alive.discard(worker)
        await worker.end()

    async def close(self) -> None:
        """End all workers; nobody may be asking any more."""
        self._idle.clear()
        await asyncio.gather(*(self._end(worker) for worker in list(self._alive)))
