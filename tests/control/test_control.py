"""The control process over a real broker, with a connection of ours in the place of an agent."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable
from functools import partial

import psycopg
import pytest
import pytest_asyncio
from support.processes import Processes
from support.recorder import Recorder
from support.waiting import until, until_async

import icefarm
from icefarm_broker import (
    BrokerAddress,
    Connection,
    PresenceMessages,
    RequestTimedOutError,
)
from icefarm_broker.mosquitto import Mosquitto
from icefarm_schemas import (
    AgentState,
    AgentStatus,
    Assignment,
    Availability,
    ControlState,
    Count,
    DeviceFailed,
    DeviceState,
    DeviceStatus,
    EndReason,
    ErrorCode,
    ExtendRequest,
    FailureReason,
    Operation,
    Presence,
    Reply,
    ReservationEnded,
    ReservationState,
    ReserveRequest,
    SessionState,
    utc_now,
)
from icefarm_schemas.topics import (
    AgentCommandTopic,
    AgentStateTopic,
    AgentWishTopic,
    AssignmentTopic,
    AvailabilityTopic,
    ControlProcessTopic,
    ControlStateTopic,
    DeviceStateTopic,
    EventsTopic,
    OperatorTopic,
    RepliesTopic,
    RequestTopic,
    ReservationStateTopic,
    SessionStateTopic,
)

ONLINE = AgentState(status=AgentStatus.ONLINE)


def a_device(status: DeviceStatus = DeviceStatus.AVAILABLE) -> DeviceState:
    return DeviceState(status=status, product="p", behaviours=("pulsecount",), since=utc_now())


@pytest_asyncio.fixture
async def agent(
    control: Processes, mosquitto: Mosquitto, recorder: Recorder
) -> AsyncIterator[Connection]:
    """Reports as an agent does; it has the devices a and b, which control knows."""
    connection = Connection(
        BrokerAddress.parse(mosquitto.url),
        "agent-pi",
        PresenceMessages(AgentStateTopic("pi"), ONLINE, AgentState(status=AgentStatus.OFFLINE)),
        # While a test waits by `until`, nothing is said here.
        keepalive=120,
    )
    async with connection:
        for name in ("a", "b"):
            await connection.publish(DeviceStateTopic("pi", name), a_device())
        until(lambda: _availability(recorder) == 2)
        yield connection


@pytest.fixture
def control(processes: Processes, recorder: Recorder) -> Processes:
    """Control, when it is there."""
    processes.control()
    until(lambda: is_served(recorder))
    return processes


def _availability(recorder: Recorder) -> int | None:
    told = recorder.of(AvailabilityTopic)
    return told[-1].message.devices.available if told else None


def control_processes(recorder: Recorder) -> set[str]:
    """The control processes that say so; each has subscribed to requests before."""
    states = {r.topic: r.message for r in recorder.of(ControlProcessTopic)}
    return {topic.process for topic, state in states.items() if state is not None}  # type: ignore[attr-defined]


def is_served(recorder: Recorder) -> bool:
    """Whether somebody leads, and knows the boards, and somebody answers requests.

    Of one process, these are two connections: either may be there first.
    """
    leads = _control_states(recorder)[-1:] == [Presence.ONLINE]
    return leads and bool(control_processes(recorder))


def is_away(recorder: Recorder) -> bool:
    """Whether the broker has told the end of the only control process, on both connections."""
    is_offline = _control_states(recorder)[-1:] == [Presence.OFFLINE]
    return is_offline and not control_processes(recorder)


def _control_states(recorder: Recorder) -> list[Presence]:
    return [
        recorded.message.status
        for recorded in recorder.of(ControlStateTopic)
        if isinstance(recorded.message, ControlState)
    ]


def assigned(recorder: Recorder, device: str) -> Assignment | None:
    """What the device is assigned to now."""
    recorded = recorder.of(AssignmentTopic, device=device)
    return recorded[-1].message if recorded else None


def the_end(recorder: Recorder) -> tuple[str, ReservationEnded]:
    """The one reservation that has ended, as its holder was told, and the holder's session."""

    def ended() -> list[tuple[str, ReservationEnded]]:
        return [
            (r.topic.session, r.message)
            for r in recorder.of(EventsTopic)
            if isinstance(r.topic, EventsTopic) and isinstance(r.message, ReservationEnded)
        ]

    until(ended)
    [told] = ended()
    return told


async def ask(
    connection: Connection,
    recorder: Recorder,
    operation: str,
    payload: bytes,
    correlation: bytes = b"1",
    *,
    session: str = "s",
    answers: int = 1,
    kind: type[RequestTopic | OperatorTopic] = RequestTopic,
) -> Reply:
    """Send a raw request and return the newest of the expected number of replies."""
    await connection.publish(kind("ann", session, operation), payload, correlation=correlation)
    until(lambda: len(recorder.of(RepliesTopic, session=session)) == answers)
    reply = recorder.of(RepliesTopic, session=session)[-1].message
    assert isinstance(reply, Reply)
    return reply


def the_one(reply: Reply) -> ReservationState:
    """The reservation in a reply that has one."""
    assert reply.reservations is not None, reply.error
    [state] = reply.reservations
    return state


async def test_a_reservation_becomes_assignments_and_ends_with_them(
    control: Processes, agent: Connection, recorder: Recorder
) -> None:
    reply = await ask(
        agent,
        recorder,
        "reserve",
        b'{"behaviour":"pulsecount","count":2,"on_session_end":"keep","arguments":{"x":1}}',
    )
    held = the_one(reply)
    for name in ("a", "b"):
        until(partial(assigned, recorder, name))
        assignment = assigned(recorder, name)
        assert assignment is not None
        assert assignment.reservation == held.reservation
        assert assignment.arguments == {"x": 1}
        assert assignment.expires_at == held.expires_at
    longer = await ask(
        agent,
        recorder,
        "extend",
        json.dumps({"reservations": [held.reservation], "duration": 9000}).encode(),
        b"2",
        answers=2,
    )
    expires_at = the_one(longer).expires_at

    def extended() -> bool:
        now = assigned(recorder, "a")
        return now is not None and now.expires_at == expires_at

    until(extended)
    payload = json.dumps({"reservations": [held.reservation]}).encode()
    await ask(agent, recorder, "release", payload, b"3", answers=3)
    until(lambda: assigned(recorder, "a") is None and assigned(recorder, "b") is None)
    until(lambda: [r.message for r in recorder.of(ReservationStateTopic)][-1:] == [None])
    states = recorder.of(ReservationStateTopic, reservation=held.reservation)
    assert [r.message and r.message.status for r in states] == ["active", "active", None]
    assert all(r.retain for r in states)
    # Who asked for the end has the reply, and nobody else is told.
    assert not recorder.of(EventsTopic)


@pytest.mark.parametrize(
    ("operation", "payload", "words"),
    [
        ("reserve", b"{broken", "Invalid JSON"),
        ("reserve", b'{"behaviour":"pulsecount","count":1,"countt":2}', "countt: Extra"),
        ("reserve", b'{"behaviour":"pulsecount","count":1,"duration":-1}', "duration: Input"),
        ("reserve", b'{"behaviour":"pulsecount","devices":["a/b"]}', "slash"),
        ("release", b'{"reservations":["#"]}', "number sign"),
        ("steal", b"{}", "no operation 'steal'; there are reserve, extend, release"),
        ("reserve", b"x" * 1_000_000, "Invalid JSON"),
    ],
)
async def test_a_request_that_makes_no_sense_is_answered_with_what_is_wrong(
    control: Processes,
    agent: Connection,
    recorder: Recorder,
    operation: str,
    payload: bytes,
    words: str,
) -> None:
    recorder.expect_fault("requests/")
    reply = await ask(agent, recorder, operation, payload)
    assert reply.error is not None
    assert reply.error.code is ErrorCode.INVALID_REQUEST
    assert words in reply.error.message
    good = b'{"behaviour":"pulsecount","count":1,"on_session_end":"keep"}'
    the_one(await ask(agent, recorder, "reserve", good, b"2", answers=2))


async def test_no_message_ends_control(
    control: Processes, agent: Connection, recorder: Recorder, mosquitto: Mosquitto
) -> None:
    """What anybody may publish, retained too, so that it would come back at each start."""
    recorder.expect_fault("clients/eve/")
    recorder.expect_fault("agents/zed/")
    recorder.expect_fault("requests/eve/")
    late = b'{"status":"online","since":"9999-12-31T23:59:59-12:00"}'
    await agent.publish(SessionStateTopic("eve", "s1"), late)
    nul = b'{"status":"ready","product":"\\u0000","behaviours":[],"since":"2026-01-01T00:00:00Z"}'
    await agent.publish(DeviceStateTopic("zed", "d"), nul)
    many = b"{" + b",".join(b'"k%d":1' % n for n in range(200_000)) + b"}"
    await agent.publish(RequestTopic("eve", "s1", "reserve"), many, correlation=b"c" * 10_000)
    control.kill("control")
    until(lambda: is_away(recorder))
    control.control()
    until(lambda: is_served(recorder))
    request = b'{"behaviour":"pulsecount","count":1,"on_session_end":"keep"}'
    reply = await ask(agent, recorder, "reserve", request, b"c" * 10_000)
    again = await ask(agent, recorder, "reserve", request, b"c" * 10_000, answers=2)
    assert again == reply
    # A client reads the same states.
    async with icefarm.AsyncClient(mosquitto.url, name="ann") as client:
        assert {board.name for board in await client.boards()} == {"a", "b"}


async def test_a_repeated_request_gets_the_same_answer_and_no_second_board(
    control: Processes, agent: Connection, recorder: Recorder
) -> None:
    request = b'{"behaviour":"pulsecount","count":1,"on_session_end":"keep"}'
    first = await ask(agent, recorder, "reserve", request, b"same")
    control.kill("control")
    until(lambda: is_away(recorder))
    control.control()
    until(lambda: is_served(recorder))
    second = await ask(agent, recorder, "reserve", request, b"same", answers=2)
    assert second == first
    other = await ask(agent, recorder, "reserve", request, b"other", answers=3)
    assert the_one(other).reservation != the_one(first).reservation
    refused = await ask(agent, recorder, "reserve", request, b"third", answers=4)
    assert refused.error is not None
    assert refused.error.code is ErrorCode.NOT_AVAILABLE


async def test_a_reply_goes_to_the_session_that_asked_and_nowhere_else(
    control: Processes, agent: Connection, recorder: Recorder
) -> None:
    await agent.publish(
        RequestTopic("ann", "s", "release"),
        b'{"reservations":["r"]}',
        response_topic=RepliesTopic("bob", "s"),
        correlation=b"1",
    )
    until(lambda: recorder.of(RepliesTopic))
    [recorded] = recorder.of(RepliesTopic)
    assert recorded.topic == RepliesTopic("ann", "s")
    assert isinstance(recorded.message, Reply)
    assert recorded.message.error is not None
    assert recorded.message.error.code is ErrorCode.INVALID_REQUEST


async def test_a_lease_ends_by_itself(
    control: Processes, agent: Connection, recorder: Recorder
) -> None:
    request = b'{"behaviour":"pulsecount","count":1,"on_session_end":"keep"}'
    held = the_one(await ask(agent, recorder, "reserve", request))
    # A lease that is over before the leader looks is never told as an assignment.
    until(lambda: assigned(recorder, "a"))
    payload = json.dumps({"reservations": [held.reservation], "duration": 0.5}).encode()
    reply = await ask(agent, recorder, "extend", payload, b"2", answers=2)
    until(lambda: assigned(recorder, "a") is None)
    assert the_end(recorder)[1].reason == "expired"
    expires_at = the_one(reply).expires_at
    assert expires_at is not None
    assert utc_now() >= expires_at


async def test_the_end_of_a_session_ends_its_reservations_and_leaves_nothing(
    control: Processes, agent: Connection, recorder: Recorder
) -> None:
    for session in ("gone", "there"):
        state = SessionState(status=Presence.ONLINE, grace=1, since=utc_now())
        await agent.publish(SessionStateTopic("ann", session), state)
        await ask(
            agent,
            recorder,
            "reserve",
            b'{"behaviour":"pulsecount","count":1}',
            session=session,
        )
        offline = SessionState(status=Presence.OFFLINE)
    # What ends before the leader has looked is never told as an assignment.
    until(lambda: assigned(recorder, "a") and assigned(recorder, "b"))
    await agent.publish(SessionStateTopic("ann", "gone"), offline)
    until(lambda: assigned(recorder, "a") is None)
    until(
        lambda: [r.message for r in recorder.of(SessionStateTopic, session="gone")][-1:] == [None]
    )
    session, ended = the_end(recorder)
    assert (session, ended.reason) == ("gone", "session_gone")
    assert assigned(recorder, "b") is not None


async def test_control_repairs_what_changed_while_it_was_away(
    control: Processes, agent: Connection, recorder: Recorder, mosquitto: Mosquitto
) -> None:
    request = b'{"behaviour":"pulsecount","devices":["a"],"on_session_end":"keep"}'
    reply = await ask(agent, recorder, "reserve", request)
    until(lambda: assigned(recorder, "a"))
    control.kill("control")
    until(lambda: _control_states(recorder)[-1] is Presence.OFFLINE)
    # Somebody has tampered with what control owns, and a board has been unplugged.
    stray = assigned(recorder, "a")
    assert stray is not None
    await agent.publish(AssignmentTopic("pi", "b"), stray)
    await agent.publish(AssignmentTopic("pi", "a"), b"")
    await agent.publish(DeviceStateTopic("pi", "b"), b"")
    until(lambda: assigned(recorder, "b") == stray and assigned(recorder, "a") is None)
    control.control()
    until(lambda: assigned(recorder, "b") is None and assigned(recorder, "a") == stray)
    # Only then it knows which boards there are.
    until(lambda: _control_states(recorder)[-1] is Presence.ONLINE)
    async with icefarm.AsyncClient(mosquitto.url, name="ann") as client:
        with pytest.raises(icefarm.NotAvailableError, match="the board 'b' is gone"):
            await client.reserve(boards=["b"])

        async def counted() -> bool:
            # It is counted a moment after control is online.
            return (await client.availability()).devices.total == 1

        # It may be the broker that has forgotten it, so it can be waited for.
        await until_async(counted)
        await client.release(the_one(reply).reservation)


async def test_a_device_that_serves_what_is_over_is_told_so(
    control: Processes, agent: Connection, recorder: Recorder
) -> None:
    """As an agent does that was away when the assignment was removed."""
    ghost = a_device(DeviceStatus.READY).model_copy(update={"reservation": "ghost"})
    await agent.publish(DeviceStateTopic("pi", "a"), ghost)
    until(lambda: recorder.of(AssignmentTopic, device="a"))
    assert assigned(recorder, "a") is None
    request = b'{"behaviour":"pulsecount","devices":["b"],"on_session_end":"keep"}'
    reply = await ask(agent, recorder, "reserve", request)
    # Else the first telling and the repeated one may be one message.
    until(lambda: assigned(recorder, "b"))
    await agent.publish(DeviceStateTopic("pi", "b"), ghost)
    until(lambda: len(recorder.of(AssignmentTopic, device="b")) == 2)
    told = assigned(recorder, "b")
    assert told is not None
    assert told.reservation == the_one(reply).reservation


async def test_who_waits_is_served_when_boards_are_free(
    control: Processes, agent: Connection, recorder: Recorder, database_url: str
) -> None:
    first = await ask(
        agent, recorder, "reserve", b'{"behaviour":"pulsecount","count":2,"on_session_end":"keep"}'
    )
    waiting = []
    for number, correlation in enumerate((b"2", b"3"), 2):
        queued = await ask(
            agent,
            recorder,
            "reserve",
            b'{"behaviour":"pulsecount","count":1,"on_session_end":"keep","wait":60}',
            correlation,
            answers=number,
        )
        assert (the_one(queued).status, the_one(queued).position) == ("queued", number - 1)
        waiting.append(the_one(queued).reservation)
    release = json.dumps({"reservations": [the_one(first).reservation]}).encode()
    for name in ("a", "b"):
        await agent.publish(DeviceStateTopic("pi", name), a_device(DeviceStatus.READY))
    until(lambda: known_statuses(database_url) == {"ready"})
    await ask(agent, recorder, "release", release, b"4", answers=4)
    # The boards say that they are clean, one after the other.
    await agent.publish(DeviceStateTopic("pi", "b"), a_device())
    until(lambda: _state_of(recorder, waiting[1]).position == 1)
    until(lambda: _state_of(recorder, waiting[0]).status == "active")
    until(lambda: assigned(recorder, "b"))
    await agent.publish(DeviceStateTopic("pi", "a"), a_device())
    until(lambda: _state_of(recorder, waiting[1]).status == "active")
    until(lambda: assigned(recorder, "a"))


def known_statuses(database_url: str) -> set[str]:
    """What control knows of the devices, which may be a moment after they have said it."""
    with psycopg.connect(database_url) as connection:
        return {status for (status,) in connection.execute("SELECT status FROM device")}


def _state_of(recorder: Recorder, reservation: str) -> ReservationState:
    # The recorder may see it a moment later than whoever asked has his reply.
    state = until(lambda: recorder.of(ReservationStateTopic, reservation=reservation))[-1].message
    assert isinstance(state, ReservationState)
    return state


async def test_two_who_want_the_last_board(
    control: Processes, agent: Connection, recorder: Recorder, mosquitto: Mosquitto
) -> None:
    await agent.publish(DeviceStateTopic("pi", "b"), a_device(DeviceStatus.BROKEN))
    # Clients may see that before control knows it.
    until(lambda: _availability(recorder) == 1)
    async with (
        icefarm.AsyncClient(mosquitto.url, name="ann") as ann,
        icefarm.AsyncClient(mosquitto.url, name="bob") as bob,
    ):
        outcomes = await asyncio.gather(
            ann._request(Operation.RESERVE, ReserveRequest(behaviour="pulsecount", count=1)),
            bob._request(Operation.RESERVE, ReserveRequest(behaviour="pulsecount", count=1)),
            return_exceptions=True,
        )
    errors = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    assert len(errors) == 1
    assert isinstance(errors[0], icefarm.NotAvailableError)
    assert errors[0].details == {"asked": 1, "free": 0, "total": 2, "queued": 0}


async def test_what_is_available_is_told(
    control: Processes, agent: Connection, recorder: Recorder
) -> None:
    def available() -> Availability | None:
        told = recorder.of(AvailabilityTopic)
        return told[-1].message if told else None

    def counts(available: int, total: int, queued: int = 0) -> Availability:
        count = Count(available=available, total=total)
        return Availability(
            devices=count, behaviours={"pulsecount": count}, products={"p": count}, queued=queued
        )

    until(lambda: available() == counts(2, 2))
    request = b'{"behaviour":"pulsecount","count":1,"on_session_end":"keep"}'
    held = the_one(await ask(agent, recorder, "reserve", request))
    until(lambda: available() == counts(1, 2))
    two = b'{"behaviour":"pulsecount","count":2,"on_session_end":"keep","wait":60}'
    waits = the_one(await ask(agent, recorder, "reserve", two, b"2", answers=2))
    until(lambda: available() == counts(1, 2, queued=1))
    await agent.publish(DeviceStateTopic("pi", "b"), a_device(DeviceStatus.BROKEN))
    until(lambda: available() == counts(0, 2, queued=1))
    both = json.dumps({"reservations": [held.reservation, waits.reservation]}).encode()
    await ask(agent, recorder, "release", both, b"3", answers=3)
    until(lambda: available() == counts(1, 2))
    await agent.publish(DeviceStateTopic("pi", "b"), b"")
    until(lambda: available() == counts(1, 1))
    await agent.publish(AgentStateTopic("pi"), AgentState(status=AgentStatus.OFFLINE))
    until(lambda: available() == counts(0, 1))


async def test_a_holder_is_told_which_board_he_has_lost(
    control: Processes, agent: Connection, recorder: Recorder
) -> None:
    request = b'{"behaviour":"pulsecount","count":2,"on_session_end":"keep"}'
    held = the_one(await ask(agent, recorder, "reserve", request))
    until(lambda: assigned(recorder, "a") and assigned(recorder, "b"))
    broken = a_device(DeviceStatus.BROKEN).model_copy(update={"detail": "smoke"})
    await agent.publish(DeviceStateTopic("pi", "a"), broken)
    until(lambda: assigned(recorder, "a") is None)
    [failed] = [r.message for r in recorder.of(EventsTopic, client="ann", session="s")]
    assert failed == DeviceFailed(
        reservation=held.reservation,
        agent="pi",
        device="a",
        reason=FailureReason.BROKEN,
        detail="smoke",
    )
    until(lambda: len(_state_of(recorder, held.reservation).devices) == 1)
    assert assigned(recorder, "b") is not None


async def test_several_control_processes_share_the_work_and_one_leads(
    control: Processes, agent: Connection, recorder: Recorder, mosquitto: Mosquitto
) -> None:
    second = control.control("second")
    until(lambda: "another control process leads" in control.output("second"))
    until(lambda: len(control_processes(recorder)) == 2)
    async with icefarm.AsyncClient(mosquitto.url, name="ann") as client:
        short = ReserveRequest(behaviour="pulsecount", count=1, duration=1)
        long = ReserveRequest(behaviour="pulsecount", count=1)
        [held] = await client._request(Operation.RESERVE, long)
        control.kill("control")
        # The leases end by the other one's timer, which answers meanwhile. While the first one
        # lived, none was about to end: it would have died with what it was about to tell.
        shorter = ExtendRequest(reservations=(held.reservation,), duration=1)
        await client._request(Operation.EXTEND, shorter)
        [other] = await client._request(Operation.RESERVE, short)
        until(lambda: len(told_ends(recorder)) == 2)
        assert told_ends(recorder) == {
            held.reservation: EndReason.EXPIRED,
            other.reservation: EndReason.EXPIRED,
        }
        until(lambda: len(control_processes(recorder)) == 1)
        # One that hangs takes requests and does not answer: they are asked again elsewhere.
        control.control()
        until(lambda: len(control_processes(recorder)) == 2)
        os.kill(second.pid, signal.SIGSTOP)
        try:
            for _ in range(4):
                [held] = await client._request(Operation.RESERVE, long)
                await client.release(held.reservation)
            # Twice: before it was killed, and since it was started again.
            until(lambda: control.output("control").count("this process leads") == 2)
        finally:
            os.kill(second.pid, signal.SIGCONT)
        until(lambda: "this process does not lead any more" in control.output("second"))
        until(lambda: _control_states(recorder)[-1] is Presence.ONLINE)


def told_ends(recorder: Recorder) -> dict[str, EndReason]:
    """Why reservations have ended, as their holders were told."""
    events = [r.message for r in recorder.of(EventsTopic)]
    return {e.reservation: e.reason for e in events if isinstance(e, ReservationEnded)}


async def test_nothing_is_reserved_for_who_has_stopped_waiting(
    control: Processes, agent: Connection, recorder: Recorder, database_url: str
) -> None:
    """The request waits in control while the database does not answer, and is dropped then."""
    request = b'{"behaviour":"pulsecount","count":1,"on_session_end":"keep"}'
    with psycopg.connect(database_url) as blocker:
        blocker.execute("LOCK TABLE answer IN ACCESS EXCLUSIVE MODE")
        # The first is under way already, the second one waits behind it.
        topic = RequestTopic("ann", "s", "reserve")
        await agent.publish(topic, request, correlation=b"1")
        await until_async(partial(is_blocked, database_url))
        await agent.publish(topic, request, correlation=b"2", expiry=1)
        # What came later is refused without the database, so the second one has come.
        too_long = b'{"behaviour":"pulsecount","count":1,"duration":1000000}'
        refused = await ask(agent, recorder, "reserve", too_long, session="other")
        assert refused.error is not None
        await asyncio.sleep(1.1)
    last = await ask(agent, recorder, "reserve", request, b"3", answers=2)
    assert the_one(last).reservation
    replies = recorder.of(RepliesTopic, session="s")
    assert [the_one(r.message).devices[0].device for r in replies] == ["a", "b"]


async def is_blocked(database_url: str) -> bool:
    """Whether a request waits for a lock in the database."""
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        cursor = await connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
            "AND query LIKE '%carry_out%'"
        )
        row = await cursor.fetchone()
        return row is not None and row[0] > 0


async def test_what_was_reserved_too_late_is_given_back(
    control: Processes, agent: Connection, recorder: Recorder, mosquitto: Mosquitto
) -> None:
    async with icefarm.AsyncClient(mosquitto.url, name="ann") as client:
        request = ReserveRequest(behaviour="pulsecount", count=1)
        os.kill(control.pid("control"), signal.SIGSTOP)
        try:
            with pytest.raises(RequestTimedOutError):
                await client._session._requester.request(Operation.RESERVE, request, timeout=0.5)
        finally:
            os.kill(control.pid("control"), signal.SIGCONT)

        async def what_happened() -> list[str]:
            return [step.what for step in reversed(await client.history())]

        await until_async(lambda: _is(what_happened(), ["active", "ended"]))


async def _is(actual: Awaitable[object], expected: object) -> bool:
    return await actual == expected


async def test_without_control_a_request_fails_at_once(mosquitto: Mosquitto) -> None:
    async with icefarm.AsyncClient(mosquitto.url, name="ann") as client:
        started = asyncio.get_running_loop().time()
        with pytest.raises(icefarm.ControlOfflineError, match="control process is not running"):
            await client.reserve(1)
        # Less than it would wait for one that comes back.
        assert asyncio.get_running_loop().time() - started < 20


async def test_a_stopped_control_says_that_it_is_offline(
    control: Processes, recorder: Recorder
) -> None:
    assert control.interrupt("control") == 0
    until(lambda: _control_states(recorder)[-1] is Presence.OFFLINE)


async def test_operators_are_answered_on_their_own_topics(
    control: Processes, agent: Connection, recorder: Recorder
) -> None:
    recorder.expect_fault("operators/")
    answers = 0

    async def operate(operation: str, payload: str, correlation: str) -> Reply:
        nonlocal answers
        answers += 1
        return await ask(
            agent,
            recorder,
            operation,
            payload.encode(),
            correlation.encode(),
            answers=answers,
            kind=OperatorTopic,
        )

    unknown = await operate("reboot", "{}", "1")
    assert unknown.error is not None
    assert "no operation of operators 'reboot'; there are end, extend, drain" in (
        unknown.error.message
    )
    both = await operate("end", '{"all":true,"client":"bob"}', "2")
    assert both.error is not None
    assert "give one of reservations, devices, client and all" in both.error.message
    assert (await operate("probe", "{}", "3")).reservations == ()
    drained = await operate("drain", '{"agents":["pi"],"deadline":60}', "4")
    assert await operate("drain", '{"agents":["pi"],"deadline":60}', "4") == drained
    [told] = until(lambda: recorder.of(AgentWishTopic))
    assert told.retain
    assert drained.agents is not None
    assert told.message.drains_until == drained.agents[0].drains_until
    too_long = await operate("extend", '{"all":true,"duration":1e9}', "5")
    assert too_long.error is not None
    audited = (await operate("audit", "{}", "6")).audit or ()
    assert [(entry.operation, entry.error) for entry in audited] == [
        ("extend", ErrorCode.LIMIT_EXCEEDED),
        ("drain", None),
    ]


async def test_commands_of_operators_come_to_their_agent_once(
    control: Processes, agent: Connection, recorder: Recorder
) -> None:
    payload = b'{"devices":["pi/a","b"]}'
    await ask(agent, recorder, "restart_devices", payload, kind=OperatorTopic)
    until(lambda: len(recorder.of(AgentCommandTopic)) == 2)
    await ask(agent, recorder, "forget", b'{"devices":["a"]}', b"2", answers=2, kind=OperatorTopic)
    until(lambda: len(recorder.of(AgentCommandTopic)) == 3)
    commands = [
        (r.topic.operation, r.message.device, r.retain)
        for r in recorder.of(AgentCommandTopic, agent="pi")
        if isinstance(r.topic, AgentCommandTopic)
    ]
    assert commands == [
        ("restart_device", "a", False),
        ("restart_device", "b", False),
        ("forget", "a", False),
    ]
