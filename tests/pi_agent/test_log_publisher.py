"""An agent's log over the broker: bounded, never in the way, and no echo of itself."""

import asyncio
import logging
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest
from _pytest.logging import LogCaptureHandler
from structlog.contextvars import bound_contextvars
from support.processes import Processes, wait_for_boards
from support.proxy import Proxy
from support.recorder import Recorder
from support.waiting import until, until_async

from icefarm_agent import log_publisher
from icefarm_agent.log_publisher import LONGEST, MOST_WAITING, LogPublisher
from icefarm_broker import BrokerAddress, Connection, PresenceMessages
from icefarm_broker.mosquitto import Mosquitto
from icefarm_schemas import AgentState, LogLevel, LogLine, Presence
from icefarm_schemas.topics import AgentStateTopic, LogTopic

log = logging.getLogger("lab.boards")


@pytest.fixture(autouse=True)
def _levels() -> Iterator[None]:
    """As a service has them that logs everything."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.DEBUG)
    yield
    root.setLevel(before)


@asynccontextmanager
async def publishing(url: str) -> AsyncIterator[LogPublisher]:
    """What an agent does about its log, and nothing else of it."""
    online = AgentState(status=Presence.ONLINE)
    connection = Connection(
        BrokerAddress.parse(url),
        "agent-bench",
        PresenceMessages(AgentStateTopic("bench"), online, b""),
    )
    publisher = LogPublisher("bench", connection)
    with publisher.installed():
        async with connection:
            running = asyncio.create_task(publisher.run())
            yield publisher
            running.cancel()


@contextmanager
def uncaptured() -> Iterator[None]:
    """Where the tests run in several processes, what they log goes between them as Unicode."""
    root = logging.getLogger()
    captured = [handler for handler in root.handlers if isinstance(handler, LogCaptureHandler)]
    for handler in captured:
        root.removeHandler(handler)
    yield
    for handler in captured:
        root.addHandler(handler)


def lines(recorder: Recorder) -> list[LogLine]:
    """Of the loggers of this file, in the order in which they came."""
    messages = [recorded.message for recorded in recorder.of(LogTopic, agent="bench")]
    return [line for line in messages if line.logger == log.name]


async def wait_for(recorder: Recorder, text: str) -> LogLine:
    """The line that ends so."""

    async def found() -> list[LogLine]:
        return [line for line in lines(recorder) if line.text.endswith(text)]

    [line] = await until_async(found, text)
    return line


async def test_a_line_says_what_it_is_about(mosquitto: Mosquitto, recorder: Recorder) -> None:
    async with publishing(mosquitto.url):
        log.debug("not worth a message")
        log.info("%s is ready", "bench-1", extra={"device": "bench-1"})
        with bound_contextvars(device="bench-2", reservation="3f9a"):
            await asyncio.to_thread(log.warning, "it hangs")
        with uncaptured():
            try:
                raise RuntimeError("\0 and \ud800 and " + "x" * LONGEST)
            except RuntimeError:
                log.exception("a defect")
        log.error("the last one")
        await wait_for(recorder, "the last one")
    ready, hangs, defect, last = lines(recorder)
    assert (ready.level, ready.text, ready.device) == (LogLevel.INFO, "bench-1 is ready", "bench-1")
    assert (hangs.level, hangs.device, hangs.reservation) == (LogLevel.WARNING, "bench-2", "3f9a")
    assert len(defect.text) == LONGEST
    assert (last.device, last.reservation) == (None, None)


async def test_publishing_a_line_publishes_no_other(
    mosquitto: Mosquitto, recorder: Recorder
) -> None:
    async with publishing(mosquitto.url):
        # With every message logged, each line would otherwise be the cause of the next.
        logging.getLogger("icefarm.wire").debug("a line of that logger")
        for number in range(5):
            log.info("line %d", number)
        await wait_for(recorder, "line 4")
        log.info("and nothing came between")
        await wait_for(recorder, "and nothing came between")
    assert len(recorder.of(LogTopic)) == 6


async def test_lines_wait_for_the_broker_within_limits(
    mosquitto: Mosquitto, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_publisher, "_PAUSE", 0.001)
    network = Proxy(mosquitto.port)
    url = await network.start()
    async with publishing(url) as publisher:
        log.info("before")
        await wait_for(recorder, "before")
        await network.stop()

        connection = publisher._connection

        async def is_away() -> bool:
            return not connection.is_connected

        await until_async(is_away, "the loss")
        started = time.monotonic()
        for number in range(10 * MOST_WAITING):
            log.info("line %d", number)
        assert time.monotonic() - started < 20, "the agent does not wait"
        assert len(publisher._waiting) == MOST_WAITING
        connection.address = BrokerAddress.parse(mosquitto.url)
        last = f"line {10 * MOST_WAITING - 1}"
        await wait_for(recorder, last)
    told = [line for line in lines(recorder) if "left out" in line.text]
    assert told[0].text.startswith("(1,8"), told
    assert len(lines(recorder)) <= MOST_WAITING + 3


def test_an_agent_tells_until_its_end(
    processes: Processes, mosquitto: Mosquitto, recorder: Recorder
) -> None:
    processes.control()
    agent = processes.agent("bench", boards=1)
    wait_for_boards(mosquitto.url, 1)
    agent.send_signal(signal.SIGTERM)
    agent.wait(30)
    until(lambda: "SIGTERM: stopping" in [r.message.text for r in recorder.of(LogTopic)])
    assert {recorded.topic for recorded in recorder.of(LogTopic)} == {LogTopic("bench")}
    assert "icefarm-agent[bench]: SIGTERM: stopping" in processes.output("agent-bench")
