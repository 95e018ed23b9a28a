"""When an agent drains, and when its process ends for that."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from support.waiting import until_async

from icefarm_agent.draining import DrainedError, Draining
from icefarm_broker.service import EXIT_RESTART
from icefarm_schemas import AgentWish, utc_now


class Life:
    """An agent as far as its draining sees it."""

    def __init__(self) -> None:
        self.is_idle = False
        self.told = 0
        self.draining = Draining("b1", lambda: self.is_idle, self._tell)

    def _tell(self) -> None:
        self.told += 1

    def free(self) -> None:
        self.is_idle = True
        self.draining.look()


@asynccontextmanager
async def living() -> AsyncIterator[tuple[Life, asyncio.Task[None]]]:
    life = Life()
    task = asyncio.create_task(life.draining.run())
    try:
        yield life, task
    finally:
        task.cancel()
        await asyncio.wait([task])


def a_wish(seconds: float = 60, restart: str | None = None, age: float = 0) -> AgentWish:
    asked_at = utc_now() - timedelta(seconds=age)
    return AgentWish(
        asked_at=asked_at, drains_until=asked_at + timedelta(seconds=seconds), restart=restart
    )


async def code_of(task: asyncio.Task[None]) -> int:
    async with asyncio.timeout(10):
        with pytest.raises(DrainedError) as ended:
            await task
    return ended.value.code


async def test_an_operator_drains_until_he_resumes_and_the_process_stays() -> None:
    async with living() as (life, task):
        life.draining.follow(a_wish(0.1), retained=False)
        life.free()
        assert life.draining.now is not None
        await asyncio.wait([task], timeout=1.5)
        assert not task.done()
        life.draining.follow(None, retained=False)
        assert life.draining.now is None
        assert life.told == 2


async def test_the_same_wish_again_does_not_begin_anew() -> None:
    async with living() as (life, _):
        wish = a_wish()
        life.draining.follow(wish, retained=False)
        first = life.draining.now
        life.draining.follow(wish, retained=True)
        assert life.draining.now is first


async def test_a_restart_waits_for_holders_and_ends_for_the_supervisor() -> None:
    async with living() as (life, task):
        life.draining.follow(a_wish(restart="b1"), retained=False)
        await asyncio.wait([task], timeout=1.5)
        assert not task.done()
        life.free()
        assert await code_of(task) == EXIT_RESTART


async def test_the_restart_of_another_process_is_none_of_this_one() -> None:
    async with living() as (life, _):
        life.draining.follow(a_wish(restart="b0"), retained=True)
        assert life.draining.now is None
        assert life.told == 0


async def test_a_restart_that_is_called_off_ends_nothing() -> None:
    async with living() as (life, task):
        life.draining.follow(a_wish(restart="b1"), retained=False)
        life.draining.follow(None, retained=False)
        life.free()
        await asyncio.wait([task], timeout=1.5)
        assert not task.done()


async def test_a_signal_ends_it_whatever_an_operator_wants() -> None:
    async with living() as (life, task):
        life.draining.follow(a_wish(), retained=False)
        life.draining.end_after(60)
        life.draining.follow(None, retained=False)
        life.free()
        assert await code_of(task) == 0


async def test_the_deadline_ends_it_whoever_holds_a_board() -> None:
    async with living() as (life, task):
        life.draining.end_after(0.05)
        assert await code_of(task) == 0


@pytest.mark.parametrize(("age", "retained"), [(7200, False), (-7200, False), (-7200, True)])
async def test_a_deadline_counts_by_what_it_lasts_where_the_clock_is_wrong(
    age: float, retained: bool
) -> None:
    async with living() as (life, task):
        life.draining.follow(a_wish(60, restart="b1", age=age), retained=retained)
        drain = life.draining.now
        assert drain is not None

        async def in_a_minute() -> bool:
            return 50 < (drain.until - utc_now()).total_seconds() <= 60

        await until_async(in_a_minute, timeout=1)
        assert not task.done()
