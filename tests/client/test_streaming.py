"""Consoles and commands, through losses, with an agent of the test's own."""

import asyncio
import random
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from support.processes import Processes
from support.proxy import Proxy
from support.recorder import Recorder
from support.stream_agent import StreamAgent
from support.waiting import until_async

import icefarm
from icefarm_broker.mosquitto import Mosquitto
from icefarm_schemas import DeviceStatus, Error, ErrorCode
from icefarm_schemas.topics import CloseTopic, FlashTopic, OpenTopic

MEGABYTE = random.Random(4).randbytes(1_000_000)


@asynccontextmanager
async def held(
    url: str, behaviour: str = "serial", boards: tuple[str, ...] = ("a",)
) -> AsyncIterator[icefarm.AsyncReservation]:
    async with (
        icefarm.AsyncClient(url, name="ann", grace=20) as client,
        client.reserve(boards=boards, behaviour=behaviour) as reservation,
    ):
        yield reservation


async def exchange(console: icefarm.AsyncConsole, data: bytes) -> bytes:
    """Write data and read as much."""
    writing = asyncio.create_task(console.write(data))
    came = b""
    while len(came) < len(data):
        came += await console.read(timeout=30)
    await writing
    return came


async def read_on(console: icefarm.AsyncConsole) -> None:
    """Until an error."""
    async with asyncio.timeout(30):
        while True:
            await console.read()


async def read_through_losses(console: icefarm.AsyncConsole) -> None:
    """Until another error than a loss."""
    while True:
        try:
            await read_on(console)
        except icefarm.StreamLostError:
            continue


async def test_a_megabyte_comes_back_exactly(agent: StreamAgent, mosquitto: Mosquitto) -> None:
    async with held(mosquitto.url) as reservation, reservation.console() as console:
        assert console.board == "a"
        assert await exchange(console, MEGABYTE) == MEGABYTE
        with pytest.raises(icefarm.TimedOutError, match=r"said nothing within 0\.05 s"):
            await console.read(timeout=0.05)
        assert await exchange(console, b"still there") == b"still there"


async def test_lines_are_iterated_over(agent: StreamAgent, mosquitto: Mosquitto) -> None:
    async def speak(far: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(far, b"one\ntwo\nunfin")
        await loop.sock_recv(far, 1)
        await loop.sock_sendall(far, b"ished\n")
        await loop.sock_recv(far, 1)

    agent.speak = speak
    async with held(mosquitto.url) as reservation, reservation.console() as console:
        seen = []
        async for line in console:
            seen.append(line)
            if len(seen) == 2:
                await console.write(b"!")
            if len(seen) == 3:
                break
    assert seen == [b"one\n", b"two\n", b"unfinished\n"]


async def test_what_is_written_last_arrives(agent: StreamAgent, mosquitto: Mosquitto) -> None:
    came = bytearray()

    async def collect(far: socket.socket) -> None:
        while data := await asyncio.get_running_loop().sock_recv(far, 65536):
            came.extend(data)

    agent.speak = collect
    async with held(mosquitto.url) as reservation:
        async with reservation.console() as console:
            await console.write(MEGABYTE[:200_000])

        async def arrived() -> bool:
            return len(came) == 200_000

        await until_async(arrived)
    assert bytes(came) == MEGABYTE[:200_000]


async def test_the_end_of_a_stream_is_told_once_and_the_next_is_opened(
    agent: StreamAgent, mosquitto: Mosquitto, recorder: Recorder
) -> None:
    async with held(mosquitto.url) as reservation, reservation.console() as console:
        assert await exchange(console, b"before") == b"before"
        await agent.close_stream("a")
        with pytest.raises(icefarm.StreamLostError, match="the board 'a' ended the stream"):
            await console.read(timeout=30)
        assert await exchange(console, b"after") == b"after"
        error = Error(code=ErrorCode.STREAM_LOST, message="frame 7 came instead of 5")
        await agent.close_stream("a", error)
        with pytest.raises(icefarm.StreamLostError, match="frame 7 came instead of 5"):
            await console.readline(timeout=30)
        assert await exchange(console, b"again") == b"again"
        assert agent.opened["a"] == 3

    async def is_recorded() -> bool:
        return bool(recorder.of(CloseTopic))

    await until_async(is_recorded)
    # Only the last was ended from here.
    closed = [r.topic.stream for r in recorder.of(CloseTopic) if isinstance(r.topic, CloseTopic)]
    opened = [r.topic.stream for r in recorder.of(OpenTopic) if isinstance(r.topic, OpenTopic)]
    assert closed == opened[-1:]


async def test_what_came_before_a_loss_can_be_read_after_it(
    agent: StreamAgent, mosquitto: Mosquitto
) -> None:
    async def speak(far: socket.socket) -> None:
        await asyncio.get_running_loop().sock_sendall(far, b"last words")

    agent.speak = speak
    async with held(mosquitto.url) as reservation, reservation.console() as console:

        async def lost() -> bool:
            return agent.opened["a"] > 1

        await until_async(lost)
        assert await console.readline(timeout=30) == b"last words"
        with pytest.raises(icefarm.StreamLostError):
            await console.readline(timeout=30)


async def test_a_board_that_is_not_ready_is_waited_for(
    agent: StreamAgent, mosquitto: Mosquitto
) -> None:
    async with held(mosquitto.url) as reservation, reservation.console() as console:
        await agent.report("a", DeviceStatus.STARTING)
        with pytest.raises(icefarm.StreamLostError, match="the board 'a' is starting"):
            await console.read(timeout=30)
        with pytest.raises(icefarm.TimedOutError):
            await console.read(timeout=0.3)
        await agent.report("a", DeviceStatus.READY)
        assert await exchange(console, b"back") == b"back"


async def test_the_restart_of_an_agent_ends_its_streams_and_they_come_back(
    agent: StreamAgent, mosquitto: Mosquitto
) -> None:
    async with held(mosquitto.url) as reservation, reservation.console() as console:
        assert await exchange(console, b"before") == b"before"
        await agent.die()
        with pytest.raises(icefarm.StreamLostError, match="the board 'a' is away"):
            await console.read(timeout=30)
        async with StreamAgent(mosquitto.url, boards=("a", "b")) as second:
            assert await exchange(console, b"after") == b"after"
            assert second.opened["a"] == 1


async def test_a_lost_network_ends_the_stream_at_once_and_it_comes_back(
    agent: StreamAgent, mosquitto: Mosquitto
) -> None:
    proxy = Proxy(mosquitto.port)
    async with held(await proxy.start()) as reservation, reservation.console() as console:
        for _ in range(3):
            assert await exchange(console, MEGABYTE[:300_000]) == MEGABYTE[:300_000]
            sending = asyncio.create_task(console.write(MEGABYTE))
            await console.read(timeout=30)
            proxy.cut()
            with pytest.raises(icefarm.StreamLostError):
                await read_on(console)
            # Who writes at that moment is told too.
            await asyncio.gather(sending, return_exceptions=True)
    await proxy.stop()


async def test_the_brokers_restart_is_survived(agent: StreamAgent, mosquitto: Mosquitto) -> None:
    async with held(mosquitto.url) as reservation, reservation.console() as console:
        assert await exchange(console, b"before") == b"before"
        mosquitto.stop()
        with pytest.raises(icefarm.StreamLostError, match=r"broker was lost|is away"):
            await console.read(timeout=30)
        mosquitto.start()
        assert await exchange(console, b"after") == b"after"


async def test_who_opens_a_board_elsewhere_has_it(agent: StreamAgent, mosquitto: Mosquitto) -> None:
    async with held(mosquitto.url) as reservation, reservation.console() as console:
        async with icefarm.AsyncClient(mosquitto.url, name="ann") as other:
            same = await other.find_reservation(reservation.id, take_over=False)
            async with same.console("a") as taken:
                # Or the two would take it from each other for ever.
                with pytest.raises(icefarm.StreamLostError, match="another process of yours"):
                    await console.read(timeout=30)
                assert await exchange(taken, b"mine") == b"mine"
                with pytest.raises(icefarm.StreamLostError, match="another process of yours"):
                    await console.write(b"x")
            assert agent.opened["a"] == 2
        # The other session has ended, and the reservation is still this one's.
        async with reservation.console() as console:
            assert await exchange(console, b"back") == b"back"


async def test_streams_that_cannot_be_say_what_to_do(
    agent: StreamAgent, mosquitto: Mosquitto
) -> None:
    async with held(mosquitto.url, "pulsecount", ("a", "b")) as reservation:
        with pytest.raises(icefarm.InvalidRequestError, match="say which of a, b"):
            reservation.console()
        with pytest.raises(icefarm.NotHolderError):
            reservation.console("c")
        with pytest.raises(icefarm.NotSupportedError, match="pulsecount has no streams"):
            async with reservation.console("a"):
                pass
        await reservation.change("usbip", boards=["a"])
        with pytest.raises(icefarm.NotSupportedError, match="change its behaviour to 'serial'"):
            async with reservation.console("a"):
                pass
        await agent.report("b", DeviceStatus.STARTING)

        async def is_starting() -> bool:
            return reservation.board("b").status == "starting"

        await until_async(is_starting)
        with pytest.raises(icefarm.TimedOutError, match=r"after 0\.2 s: the board is starting"):
            async with reservation.console("b", timeout=0.2):
                pass


async def test_the_end_of_the_reservation_ends_the_console(
    agent: StreamAgent, mosquitto: Mosquitto
) -> None:
    async with icefarm.AsyncClient(mosquitto.url, name="ann") as client:
        reservation = await client.reserve(boards=["a"], behaviour="serial")
        async with reservation.console() as console:
            await reservation.release()
            for _ in range(2):
                with pytest.raises(icefarm.ReservationEndedError, match="is over"):
                    await read_through_losses(console)


async def test_firmware_goes_to_boards_and_each_answers(
    agent: StreamAgent, mosquitto: Mosquitto, tmp_path: Path
) -> None:
    uf2 = tmp_path / "mine.uf2"
    uf2.write_bytes(MEGABYTE)
    async with held(mosquitto.url, boards=("a", "b")) as reservation:
        await reservation.flash(uf2)
        assert sorted(agent.commands) == [("flash", "a", MEGABYTE), ("flash", "b", MEGABYTE)]
        agent.commands.clear()
        await reservation.flash(b"x", boards=["b"])
        await reservation.reset(boards=["a"])
        await reservation.reset()
        assert agent.commands[:2] == [("flash", "b", b"x"), ("reset", "a", b"")]
        assert sorted(agent.commands[2:]) == [("reset", "a", b""), ("reset", "b", b"")]
        bad = Error(code=ErrorCode.INVALID_FIRMWARE, message="no UF2 block at its start")
        agent.errors = {"a": bad}
        with pytest.raises(icefarm.InvalidFirmwareError, match=r"^no UF2 block at its start$"):
            await reservation.flash(uf2)
        agent.errors["b"] = Error(code=ErrorCode.DEVICE_LOST, message="it did not come back")
        with pytest.raises(icefarm.FarmError) as caught:
            await reservation.flash(uf2)
        assert str(caught.value) == "a: no UF2 block at its start; b: it did not come back"
        assert caught.value.details["boards"]["b"] == {
            "code": "device_lost",
            "message": "it did not come back",
        }
        with pytest.raises(icefarm.InvalidRequestError, match=r"cannot read /no/such\.uf2"):
            await reservation.flash("/no/such.uf2")
        with pytest.raises(icefarm.LimitExceededError, match="too many for one message"):
            await reservation.flash(bytes(5_000_000))
        with pytest.raises(icefarm.NotHolderError):
            await reservation.reset(boards=["c"])


async def test_a_command_that_is_not_answered_names_the_boards(
    agent: StreamAgent, mosquitto: Mosquitto, recorder: Recorder
) -> None:
    agent.deaf = {"b"}
    async with held(mosquitto.url, boards=("a", "b")) as reservation:
        with pytest.raises(icefarm.TimedOutError, match=r"'b' did not answer 'reset' within 1 s"):
            await reservation.reset(timeout=1)
        agent.deaf = {"a", "b"}
        flashing = asyncio.create_task(reservation.flash(b"x"))

        async def sent() -> bool:
            return bool(recorder.of(FlashTopic))

        await until_async(sent)
        topic = recorder.of(FlashTopic)[0].topic
        assert isinstance(topic, FlashTopic)
        refusal = Error(code=ErrorCode.NOT_SUPPORTED, message="not this kind of board")
        await agent.refuse(topic, refusal)
        with pytest.raises(icefarm.NotSupportedError, match=r"^a: not this kind of board; b: not"):
            await flashing


async def test_an_agent_that_started_anew_is_told_again(
    agent: StreamAgent, mosquitto: Mosquitto
) -> None:
    agent.deaf = {"a"}
    async with held(mosquitto.url) as reservation:
        flashing = asyncio.create_task(reservation.flash(b"x"))

        async def told() -> bool:
            return bool(agent.commands)

        await until_async(told)
        await agent.die()
        async with StreamAgent(mosquitto.url, boards=("a", "b")) as second:
            async with asyncio.timeout(30):
                await flashing
            assert second.commands == [("flash", "a", b"x")]


async def test_a_console_outlives_a_flash(agent: StreamAgent, mosquitto: Mosquitto) -> None:
    async with held(mosquitto.url) as reservation, reservation.console() as console:
        assert await exchange(console, b"before") == b"before"
        await reservation.flash(b"x")
        with pytest.raises(icefarm.StreamLostError):
            await console.read(timeout=30)
        assert await exchange(console, b"after") == b"after"


async def test_reservations_are_listed(agent: StreamAgent, mosquitto: Mosquitto) -> None:
    async with (
        held(mosquitto.url) as first,
        icefarm.AsyncClient(mosquitto.url, name="ann") as other,
        icefarm.AsyncClient(mosquitto.url, name="bob") as bob,
    ):
        second = await other.reserve(boards=["b"], behaviour="serial")
        assert [s.reservation for s in await other.reservations()] == [first.id, second.id]
        await second.release()
        assert [s.reservation for s in await other.reservations()] == [first.id]
        assert await bob.reservations() == []
        with pytest.raises(icefarm.NotHolderError, match="by somebody else, not by 'bob'"):
            await bob.find_reservation(first.id, take_over=False)
        with pytest.raises(icefarm.ReservationEndedError, match="is over: released"):
            await other.find_reservation(second.id, take_over=False)
        with pytest.raises(icefarm.InvalidRequestError, match="slash"):
            await bob.find_reservation("a/b", take_over=False)


def test_the_synchronous_console(
    processes: Processes, mosquitto: Mosquitto, tmp_path: Path
) -> None:
    processes.control()

    async def serve(stop: asyncio.Event) -> None:
        async with StreamAgent(mosquitto.url):
            await stop.wait()

    import threading

    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(serve(stop),))
    thread.start()
    try:
        with icefarm.Client(mosquitto.url, name="ann") as client:
            client.wait_until_available(1, behaviour="serial", timeout=30)
            with client.reserve(behaviour="serial") as held, held.console() as console:
                console.write(b"hello\nworld\n")
                assert console.readline(timeout=30) == b"hello\n"
                assert next(iter(console)) == b"world\n"
                held.reset()
                with pytest.raises(icefarm.StreamLostError):
                    console.read(timeout=30)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


async def test_a_change_in_the_moment_in_which_it_is_waited_for_is_seen(
    agent: StreamAgent, mosquitto: Mosquitto
) -> None:
    async with (
        icefarm.AsyncClient(mosquitto.url, name="ann") as client,
        client.reserve(boards=["a"], behaviour="serial") as reservation,
        reservation.console() as console,
    ):
        assert mosquitto.process is not None
        # Nothing else is to change.
        mosquitto.process.send_signal(signal.SIGSTOP)
        try:
            while True:
                version = client._view.version
                await asyncio.sleep(0.1)
                if client._view.version == version:
                    break
            waiting = asyncio.ensure_future(console._stream.changed())
            # So far that it waits, and no further.
            await asyncio.sleep(0)
            client._view.tell()
            async with asyncio.timeout(8):
                await waiting
        finally:
            mosquitto.process.send_signal(signal.SIGCONT)
