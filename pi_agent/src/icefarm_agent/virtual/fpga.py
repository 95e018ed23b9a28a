"""A virtual FPGA: send it a bitstream, get what the measured pin does.

    simulator = Simulator()
    waveform = await simulator.waveform(Path("pulse_1khz.bin").read_bytes())
    waveform.pulses()                # 1000
    waveform.samples(500, 0.0001)    # what an ADC would read

The clock is 48 MHz on package pin 35 and the output is package pin 27, as on the pico-ice boards.
Time is counted from the end of configuration, when all flip-flops are 0.
"""

import asyncio
import hashlib

from icefarm_agent.virtual.cache import Cache, Outcome
from icefarm_agent.virtual.errors import BitstreamError, ToolsMissing
from icefarm_agent.virtual.image import IMAGE_SIZE, check_image
from icefarm_agent.virtual.pool import WorkerPool
from icefarm_agent.virtual.waveform import Waveform

__all__ = ["IMAGE_SIZE", "BitstreamError", "Simulator", "ToolsMissing", "Waveform"]

TIME_LIMIT = 30.0
"""Seconds that one simulation may take."""


class Simulator:
    """Turns bitstreams into waveforms, in `workers` processes that it starts when needed.

    Outcomes, errors included, are remembered by the bitstream's SHA-256, up to a bound. Belongs to
    the event loop that first uses it.
    """

    def __init__(self, workers: int = 1, time_limit: float = TIME_LIMIT) -> None:
        self._pool = WorkerPool(workers, time_limit)
        self._cache = Cache()
        self._running: dict[str, asyncio.Task[Outcome]] = {}
        self._closed = False
        self.simulations = 0
        """How many bitstreams have been simulated rather than remembered."""

    @property
    def worker_pids(self) -> list[int]:
        """The process ids of the running workers."""
        return self._pool.pids

    async def waveform(self, bitstream: bytes) -> Waveform:
        """What the measured pin does when the FPGA is configured with `bitstream`.

        Requests for the same bitstream share one simulation, which goes on if the caller that
        began it is cancelled. Raises BitstreamError if the bitstream is damaged, for another
        device, not digital, or takes longer than the time limit; ToolsMissing if Project IceStorm
        is not installed; RuntimeError if the simulator is closed.
        """
        if self._closed:
            raise RuntimeError("the simulator is closed")
        check_image(bitstream)
        digest = hashlib.sha256(bitstream).hexdigest()
        outcome = self._cache.get(digest)
        if outcome is None:
            outcome = await self._share(digest, bitstream)
        if isinstance(outcome, str):
            raise BitstreamError(outcome)
        return outcome

    async def _share(self, digest: str, bitstream: bytes) -> Outcome:
        task = self._running.get(digest)
        if task is None:
            task = asyncio.create_task(self._simulate(digest, bytes(bitstream)))
            self._running[digest] = task
            task.add_done_callback(lambda done: self._finished(digest, done))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            # Either the caller was cancelled, or close() ended the simulation under it.
            if self._closed and task.done():
                raise RuntimeError("the simulator was closed during the simulation") from None
            raise

    def _finished(self, digest: str, task: asyncio.Task[Outcome]) -> None:
        del self._running[digest]
        if not task.cancelled():
            task.exception()  # seen, so that asyncio does not complain if every caller has gone

    async def _simulate(self, digest: str, bitstream: bytes) -> Outcome:
        self.simulations += 1
        reply = await self._pool.ask(bitstream)
        if "missing" in reply:
            raise ToolsMissing(reply["missing"])
        error: str | None = reply.get("error")
        outcome = error or Waveform.from_json(reply["waveform"])
        self._cache.put(digest, outcome)
        return outcome

    async def close(self) -> None:
        """End the simulations that are running, and the workers. May be called twice."""
        self._closed = True
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._pool.close()
