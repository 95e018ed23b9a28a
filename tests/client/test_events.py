"""Handlers of events: each class of event comes, typed, to those who asked for it."""

import asyncio
import threading

import pytest
from support.processes import Processes
from support.waiting import until, until_async

import icefarm
from icefarm_broker.mosquitto import Mosquitto
from icefarm_schemas import EndReason


async def test_each_event_reaches_its_handlers(farm: Processes, mosquitto: Mosquitto) -> None:
    seen: list[icefarm.FarmEvent] = []

    def of(kind: type[icefarm.FarmEvent]) -> list[icefarm.FarmEvent]:
        return [event for event in seen if isinstance(event, kind)]

    async def came(kind: type[icefarm.FarmEvent], count: int = 1) -> None:
        async def is_there() -> bool:
            return len(of(kind)) >= count

        await until_async(is_there, kind.__name__)

    client = icefarm.AsyncClient(mosquitto.url, name="ann")
    client.on(icefarm.BoardReady, seen.append)
    client.on(icefarm.BoardFailed, seen.append)
    client.on(icefarm.BoardUnbound, seen.append)
    client.on(icefarm.AgentStopping, seen.append)
    client.on(icefarm.ReservationExpiring, seen.append)
    client.on(icefarm.ReservationEnded, seen.append)

    @client.on(icefarm.BoardsAvailable)
    async def boards_available(event: icefarm.BoardsAvailable) -> None:
        await asyncio.sleep(0)
        seen.append(event)

    async with client, icefarm.AsyncClient(mosquitto.url, name="bob") as bob:
        farm.agent("second", boards=1)
        await client.wait_until_available(5, timeout=30)
        await came(icefarm.BoardsAvailable)
        short = await client.reserve(1, auto_extend=False)
        held = await client.reserve(boards=["second-1"], board_grace=0)
        await came(icefarm.BoardReady, 2)
        [one, other] = of(icefarm.BoardReady)
        assert one == icefarm.BoardReady(short.id, short.boards[0].name, "bench", "pulsecount")
        assert other == icefarm.BoardReady(held.id, "second-1", "second", "pulsecount")
        # Its last fifth is for the warning, which control leaves out where it is too late for one.
        await short.extend(12)
        await came(icefarm.ReservationEnded)
        [expiring], [ended] = of(icefarm.ReservationExpiring), of(icefarm.ReservationEnded)
        assert isinstance(expiring, icefarm.ReservationExpiring)
        assert expiring.reservation == short.id
        assert ended == icefarm.ReservationEnded(short.id, EndReason.EXPIRED)
        await asyncio.to_thread(farm.interrupt, "agent-second")
        await came(icefarm.BoardFailed)
        assert of(icefarm.AgentStopping) == [
            icefarm.AgentStopping(held.id, "second", ("second-1",), None)
        ]
        [failed] = of(icefarm.BoardFailed)
        assert isinstance(failed, icefarm.BoardFailed)
        assert (failed.board, failed.agent) == ("second-1", "second")
        await came(icefarm.BoardUnbound)
        # That of the reservation whose only board has failed, too.
        await came(icefarm.ReservationEnded, 2)
        # Also when another process of the same user gives it back.
        seen.clear()
        again = await client.reserve(1)
        async with icefarm.AsyncClient(mosquitto.url, name="ann") as her_other:
            await her_other.release(again.id)
        await came(icefarm.ReservationEnded)
        assert of(icefarm.ReservationEnded) == [
            icefarm.ReservationEnded(again.id, EndReason.RELEASED)
        ]
        client.off(boards_available)
        seen.clear()
        # What somebody else gives back is available too, but nobody listens any more.
        await (await bob.reserve(1)).release()
        await client.wait_until_available(4, timeout=30)
        assert of(icefarm.BoardsAvailable) == []


def test_handlers_of_the_synchronous_client_may_use_it(
    farm: Processes, mosquitto: Mosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    threads, ready = set[str](), list[str]()
    with icefarm.Client(mosquitto.url, name="ann") as client:

        @client.on(icefarm.BoardReady)
        def fails(event: icefarm.BoardReady) -> None:
            raise ValueError("a defect of the caller's")

        def look(event: icefarm.BoardReady) -> None:
            threads.add(threading.current_thread().name)
            ready.extend(b.name for b in client.boards() if b.reservation == event.reservation)

        client.on(icefarm.BoardReady, look)
        with client.reserve(1) as held:
            until(lambda: ready == [held.boards[0].name])
        client.off(look)
        client.off(fails)
        with pytest.raises(icefarm.InvalidRequestError, match="handles no event"):
            client.off(look)
    assert all(name.startswith("icefarm handlers") for name in threads)
    [record] = [r for r in caplog.records if "failed with BoardReady" in r.message]
    assert "a defect of the caller's" in (record.exc_text or "")


def test_what_cannot_be_a_handler_is_refused(mosquitto: Mosquitto) -> None:
    client = icefarm.Client(mosquitto.url)
    with pytest.raises(icefarm.InvalidRequestError, match="'evaluation' is no event; those of"):
        client.on("evaluation", print)  # type: ignore[call-overload]
    with pytest.raises(icefarm.InvalidRequestError, match="cannot be called with an event alone"):
        client.on(icefarm.BoardReady, lambda: None)  # type: ignore[arg-type, misc]
