"""The library against a farm of virtual boards, with real bitstreams."""

import asyncio
from pathlib import Path

import pytest
from support.processes import Processes
from support.recorder import Recorder
from support.waiting import until, until_async

import icefarm
from icefarm.holding import Holding
from icefarm.leasing import Lease
from icefarm_broker.mosquitto import Mosquitto, free_port
from icefarm_schemas import AgentStatus, ReservationState
from icefarm_schemas.topics import EventsTopic


def test_errors_say_what_to_do(farm: Processes, mosquitto: Mosquitto) -> None:
    with icefarm.Client(mosquitto.url, name="ann") as client:
        with pytest.raises(icefarm.NotAvailableError, match="9 asked for, 4 of 4 free") as caught:
            client.reserve(9)
        assert caught.value.details == {"asked": 9, "free": 4, "total": 4, "queued": 0}
        with pytest.raises(icefarm.NoSuchBoardError, match="`icefarm boards` lists them"):
            client.reserve(boards=["nosuch"])
        with pytest.raises(
            icefarm.NoSuchBehaviourError, match="offer: pulsecount, serial, variance"
        ):
            client.reserve(1, behaviour="dance")
        with pytest.raises(icefarm.InvalidRequestError, match="slash"):
            client.reserve(boards=["a/b"])
        with pytest.raises(icefarm.InvalidRequestError, match=r"count: .* greater"):
            client.reserve(0)
        with pytest.raises(icefarm.LimitExceededError, match="86400"):
            client.reserve(1, duration=1e7)
        with pytest.raises(icefarm.BoardLostError, match="takes no arguments; it was given x"):
            client.reserve(1, arguments={"x": 1})
        with pytest.raises(icefarm.NoSuchReservationError, match="there is no reservation 'x'"):
            client.find_reservation("x")
        held = client.reserve(1)
        with icefarm.Client(mosquitto.url, name="bob") as bob:
            with pytest.raises(icefarm.NotHolderError, match="held by somebody else, not by 'bob'"):
                bob.release(held.id)
            with pytest.raises(icefarm.NotHolderError, match="held by somebody else, not by 'bob'"):
                bob.find_reservation(held.id)
        with pytest.raises(icefarm.InvalidRequestError, match="cannot read /no/such: No such file"):
            list(held.evaluate(["/no/such"]))
        held.release()
        held.release()
        with pytest.raises(icefarm.ReservationEndedError, match="is over: released"):
            held.extend()


def test_what_boards_do_is_changed_while_they_are_held(
    farm: Processes, mosquitto: Mosquitto, circuits: Path
) -> None:
    with icefarm.Client(mosquitto.url, name="ann") as client, client.reserve(2) as held:
        one, other = held
        one.change("variance")
        assert (one.behaviour, other.behaviour) == ("variance", "pulsecount")
        assert held.behaviour == "pulsecount"
        results = held.evaluate([circuits / "pulse_1khz.bin"], on_every_board=True)
        by_board = {result.board: result for result in results}
        assert by_board[one.name].variance is not None
        assert by_board[other.name].pulses == 1000
        held.change("variance", arguments={"waveform": True})
        assert held.behaviour == "variance"
        results = held.evaluate([circuits / "silent.bin"], on_every_board=True)
        assert {result.waveform for result in results} == {(0,) * 500}
        with pytest.raises(icefarm.NoSuchBehaviourError, match="does not offer 'dance' but"):
            held.change("dance")
        # Also when only the arguments change, it is waited for.
        with pytest.raises(icefarm.BoardLostError, match="takes only the argument waveform"):
            held.change("variance", boards=[one], arguments={"x": 1})
        assert held.boards == (other,)


def test_boards_are_given_back_one_after_the_other(
    farm: Processes, mosquitto: Mosquitto, circuits: Path
) -> None:
    with icefarm.Client(mosquitto.url, name="ann") as client:
        first, second = client.reserve(2), client.reserve(1)
        gone, kept = first.boards
        gone.release()
        assert first.boards == (kept,)
        assert [r.pulses for r in first.evaluate([circuits / "pulse_1khz.bin"])] == [1000]
        longer = client.extend(everything=True, duration=7200)
        assert {state.reservation for state in longer} == {first.id, second.id}
        [state] = client.extend(boards=[kept], duration=9000)
        assert state.reservation == first.id
        with pytest.raises(icefarm.NotHolderError, match=f"'{gone}' is in no reservation of 'ann'"):
            client.release(boards=[gone, kept])
        # So that what it waits for afterwards is not what was there before the reservations.
        until(lambda: client.availability().devices.available == 2)
        assert len(client.release(everything=True)) == 2
        assert client.release(everything=True) == []
        client.wait_until_available(4, timeout=30)
        with pytest.raises(icefarm.TimedOutError, match="4 boards with 'pulsecount' are free"):
            client.wait_until_available(5, timeout=0.1)
        assert client.availability().behaviours["variance"].total == 4
        what = [(step.what, step.devices) for step in client.history(reservation=first.id)]
        assert what == [
            ("ended", (kept.name,)),
            ("extended", ()),
            ("extended", ()),
            ("returned", (gone.name,)),
            ("active", (gone.name, kept.name)),
        ]
        assert [used.name for used in client.usage().clients] == ["ann"]


async def test_a_release_that_failed_can_be_tried_again(
    farm: Processes, mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with icefarm.AsyncClient(mosquitto.url, name="ann") as client:
        held, other = await client.reserve(1), await client.reserve(1)
        with pytest.raises(icefarm.NotHolderError, match="is not in the reservation"):
            await held.release(other.boards)

        async def fail(*_: str) -> None:
            raise icefarm.ControlOfflineError("control is away")

        with monkeypatch.context() as patched:
            patched.setattr(client, "release", fail)
            with pytest.raises(icefarm.ControlOfflineError):
                await held.release()
        await held.release()
        await client.wait_until_available(3, timeout=30)
        await other.release()


async def test_who_stops_waiting_for_a_reservation_holds_nothing(
    farm: Processes, mosquitto: Mosquitto
) -> None:
    async with icefarm.AsyncClient(mosquitto.url, name="ann") as client:
        for milliseconds in (1, 2, 4, 8, 16, 60):
            reserving = asyncio.create_task(_reserve(client, 1))
            await asyncio.sleep(milliseconds / 1000)
            reserving.cancel()
            await asyncio.gather(reserving, return_exceptions=True)
        await client.wait_until_available(4, timeout=30)
        assert [*client._session.followed] == []


async def test_a_place_in_the_queue_that_is_gone_before_it_is_watched(
    farm: Processes, mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        icefarm.AsyncClient(mosquitto.url, name="bob") as holder,
        icefarm.AsyncClient(mosquitto.url, name="ann") as client,
        icefarm.AsyncClient(mosquitto.url, name="ann") as other,
    ):
        await holder.reserve(4)
        subscribe, released = client._session.subscribe, asyncio.Event()

        async def late(*filters: str) -> None:
            await released.wait()
            await subscribe(*filters)

        monkeypatch.setattr(client._session, "subscribe", late)
        waiting = asyncio.create_task(_reserve(client, 1))

        async def queued() -> bool:
            return (await other.availability()).queued == 1

        await until_async(queued)
        await other.release(everything=True)
        released.set()
        with pytest.raises(icefarm.ReservationEndedError, match="left the queue: released"):
            await waiting


async def test_why_a_board_was_lost_is_known_to_a_client_that_was_slow(
    farm: Processes, mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with icefarm.AsyncClient(mosquitto.url, name="ann") as client:
        hold = client._subscriptions.hold

        async def over() -> bool:
            return bool(client._view.ended)

        async def late(state: ReservationState, lease: Lease | None) -> Holding:
            await until_async(over)
            return await hold(state, lease)

        monkeypatch.setattr(client._subscriptions, "hold", late)
        with pytest.raises(icefarm.BoardLostError, match="takes no arguments; it was given x"):
            await client.reserve(1, arguments={"x": 1})


def test_boards_are_chosen_by_label_and_product(farm: Processes, mosquitto: Mosquitto) -> None:
    farm.agent("attic", boards=1, labels=("site=attic",))
    with icefarm.Client(mosquitto.url, name="ann") as client:
        client.wait_until_available(5, timeout=30)
        with client.reserve(labels={"site": "attic"}) as held:
            assert [b.name for b in held] == ["attic-1"]
            with pytest.raises(icefarm.NotAvailableError, match="site=attic: 1 asked for, 0 of 1"):
                client.reserve(labels={"site": "attic"})
        with pytest.raises(icefarm.NotAvailableError, match="of the product 'x': 1 asked for, 0"):
            client.reserve(product="x")


def test_the_holder_is_told_before_and_when_his_lease_ends(
    farm: Processes, mosquitto: Mosquitto, recorder: Recorder
) -> None:
    with icefarm.Client(mosquitto.url, name="ann") as client:
        held = client.reserve(1, auto_extend=False)
        # Its last fifth is for the warning, which control leaves out where it is too late for one.
        held.extend(12)
        until(lambda: told(recorder)[-1:] == ["reservation_ended"])
        with pytest.raises(icefarm.ReservationEndedError, match="is over: expired"):
            held.extend()
    order = [name for name in told(recorder) if name.startswith("reservation_")]
    assert order == ["reservation_expiring", "reservation_ended"]


def told(recorder: Recorder) -> list[str]:
    """The events so far, but for boards that are unbound, which is told by another party."""
    events = [r.message.event for r in recorder.of(EventsTopic)]
    return [event for event in events if event != "device_unbound"]


async def test_the_asynchronous_client_has_the_same_names(
    farm: Processes, mosquitto: Mosquitto, circuits: Path
) -> None:
    async with icefarm.AsyncClient(mosquitto.url, name="ann") as client:
        assert [agent.name for agent in await client.agents()] == ["bench"]
        async with client.reserve(boards=["bench-2"], duration=60) as reservation:
            before = reservation.expires_at
            await reservation.extend(600)
            assert (reservation.expires_at - before).total_seconds() > 500
            seen = [r async for r in reservation.evaluate([circuits / "silent.bin"])]
        assert [(r.pulses, r.board, r.agent) for r in seen] == [(0, "bench-2", "bench")]
        held = await client.reserve(1, keep=True)
    async with icefarm.AsyncClient(mosquitto.url, name="ann") as later:
        found = await later.find_reservation(held.id)
        assert [*map(str, found)] == [*map(str, held)]
        await found.release()

        async def free() -> bool:
            return all(board.status == "available" for board in await later.boards())

        await until_async(free)
    internal = {"port"}
    for ours, theirs in (
        (icefarm.Client, icefarm.AsyncClient),
        (icefarm.Reservation, icefarm.AsyncReservation),
        (icefarm.HeldBoard, icefarm.AsyncHeldBoard),
        (icefarm.Attachment, icefarm.AsyncAttachment),
        (icefarm.Console, icefarm.AsyncConsole),
        (icefarm.UsbServer, icefarm.AsyncUsbServer),
    ):
        missing = {name for name in dir(theirs) if not name.startswith("_")} - set(dir(ours))
        assert missing <= internal


async def test_waiting_for_boards(farm: Processes, mosquitto: Mosquitto) -> None:
    async with icefarm.AsyncClient(mosquitto.url, name="ann") as client:
        first = await client.reserve(4)
        waiting = asyncio.create_task(_reserve(client, 3))
        with pytest.raises(icefarm.NotAvailableError, match="for as long as was waited"):
            await client.reserve(1, wait=0.3)
        given_up = asyncio.create_task(_reserve(client, 4))
        await asyncio.sleep(0.2)
        given_up.cancel()
        await asyncio.gather(given_up, return_exceptions=True)
        assert not waiting.done()
        await first.release()
        second = await waiting
        assert len(second.boards) == 3
        # Who gave up is not in the way any more.
        async with client.reserve(1, wait=30) as third:
            assert not {*map(str, third)} & {*map(str, second)}


async def _reserve(client: icefarm.AsyncClient, count: int) -> icefarm.AsyncReservation:
    return await client.reserve(count, wait=60)


async def test_a_second_reservation_still_sees_its_agent(
    farm: Processes, mosquitto: Mosquitto
) -> None:
    async with icefarm.AsyncClient(mosquitto.url, name="ann") as client:
        first, second = await client.reserve(1), await client.reserve(1)
        await first.release()
        farm.kill("agent-bench")

        async def noticed() -> bool:
            state = client._view.agents.get("bench")
            return state is not None and state.status is AgentStatus.OFFLINE

        await until_async(noticed)
        await second.release()


async def test_many_things_at_once_on_one_client(
    farm: Processes, mosquitto: Mosquitto, circuits: Path
) -> None:
    async with icefarm.AsyncClient(mosquitto.url, name="ann") as client:

        async def measure() -> list[int | None]:
            async with client.reserve(1) as reservation:
                return [r.pulses async for r in reservation.evaluate([circuits / "silent.bin"])]

        done = await asyncio.gather(
            client.boards(), measure(), client.agents(), measure(), client.boards(), measure()
        )
    assert [done[1], done[3], done[5]] == [[0]] * 3


def test_a_farm_that_is_not_there_is_told_in_words() -> None:
    with (
        pytest.raises(icefarm.FarmUnreachableError, match="no broker answers at mqtt://127"),
        icefarm.Client(f"mqtt://127.0.0.1:{free_port()}"),
    ):
        pass
    with pytest.raises(icefarm.InvalidRequestError, match="begins with mqtt"):
        icefarm.Client("http://farm")
    with pytest.raises(icefarm.InvalidRequestError, match="slash"):
        icefarm.Client(name="a/b")


def test_a_client_that_is_not_open_says_so() -> None:
    with pytest.raises(RuntimeError, match="use it as `with"):
        icefarm.Client().boards()
