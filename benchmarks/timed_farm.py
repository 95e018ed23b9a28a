"""A whole farm whose boards take 50 ms for a bitstream, and one client that uses all of them."""

import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from benchmarks.farm import Farm, running_control
from benchmarks.processes import Running, running
from benchmarks.timed_boards import Work
from benchmarks.usage import CpuMeter


class EvaluationFailedError(RuntimeError):
    """A bitstream had no result, or another's."""


@dataclass(frozen=True)
class TimedFarm:
    """What runs; `agents` are processes, each with as many boards as the others."""

    farm: Farm
    boards: Running
    agents: tuple[Running, ...]
    control: dict[str, int]
    boards_each: int

    async def evaluate(
        self,
        count: int,
        *,
        on_every_board: bool = False,
        before: Callable[[], Awaitable[None]] | None = None,
    ) -> tuple[list[Work], CpuMeter]:
        """Let a client evaluate `count` bitstreams; return what each board did, and CPU seconds.

        `before` is called when the boards are reserved and ready, and nothing has been sent.

        Raises:
            EvaluationFailedError: not every bitstream had its result.
        """
        boards = len(self.agents) * self.boards_each
        profiling = self.farm.place.profiling
        command = profiling.python(
            f"{self.farm.name}-client",
            *("-m", "benchmarks.evaluating_client", self.farm.url, str(boards), str(count)),
            *(("every",) if on_every_board else ()),
        )
        async with running("client", command, self.farm.logs) as client:
            await client.hear()
            if before is not None:
                await before()
            meter = CpuMeter(
                {
                    "client": client.pid,
                    "timed boards": self.boards.pid,
                    **{agent.name: agent.pid for agent in self.agents},
                    **self.control,
                    **self.farm.server_pids,
                }
            )
            meter.start()
            await client.tell("begin")
            errors = await client.hear()
            meter.stop()
            if errors:
                raise EvaluationFailedError(f"{len(errors)} went wrong: {errors[:3]}")
            await self.boards.tell("what have they done?")
            works = [Work(**work) for work in (await self.boards.hear()).values()]
            await client.finish()
        return works, meter


@asynccontextmanager
async def running_timed_farm(
    farm: Farm, *, agents: int, boards_each: int
) -> AsyncIterator[TimedFarm]:
    """Control and so many agents, as long as the block."""
    profiling = farm.place.profiling
    socket = str(farm.place.directory / farm.name / "boards.socket")
    async with AsyncExitStack() as stack:
        control = await stack.enter_async_context(running_control(farm))
        command = [sys.executable, "-m", "benchmarks.timed_boards", socket]
        boards = await stack.enter_async_context(running("boards", command, farm.logs))
        await boards.hear()
        processes = []
        for number in range(agents):
            name = f"agent-{number}"
            command = profiling.python(
                f"{farm.name}-{name}",
                *("-m", "benchmarks.timed_agent", farm.url, name, str(boards_each), socket),
            )
            processes.append(
                await stack.enter_async_context(running(name, command, farm.logs, spoken_to=False))
            )
        yield TimedFarm(farm, boards, tuple(processes), control.pids, boards_each)
