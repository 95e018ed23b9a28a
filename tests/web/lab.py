"""A lab with something of everything: for tests of all pages, and for pictures of them."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from anyio.from_thread import BlockingPortal, start_blocking_portal
from support.databases import new_database
from support.processes import Processes, are_available
from support.recorder import Recorder
from support.waiting import until

import icefarm
from icefarm_broker import BrokerAddress, Connection, PresenceMessages
from icefarm_broker.mosquitto import Mosquitto, free_port
from icefarm_schemas import (
    AgentState,
    AgentStatus,
    DeviceState,
    DeviceStatus,
    Operation,
    ReserveRequest,
    utc_now,
)
from icefarm_schemas.topics import AgentStateTopic, DeviceStateTopic

from .past import write_past

AGENTS = {"rack-1": 5, "rack-2": 4, "window": 3}
"""With how many virtual boards each."""
SHELF = "shelf"
"""An agent whose boards are only reported."""
BROKEN = f"{SHELF}-1"

Report = Callable[[str, DeviceStatus, str | None], None]
"""Say the status of a board, and why it is so."""


@dataclass(frozen=True)
class Lab:
    """Where it is, and what is to be seen there."""

    broker: Mosquitto
    processes: Processes
    url: str
    """Of the dashboard."""
    report: Report
    """Of the shelf's boards."""
    pages: dict[str, str]
    """The path of each page by its name."""


@contextmanager
def reported_agent(portal: BlockingPortal, url: str, name: str) -> Iterator[Report]:
    """An agent that is online, whose boards are what it is told to report."""
    connection = Connection(
        BrokerAddress.parse(url),
        f"agent-{name}",
        PresenceMessages(
            AgentStateTopic(name),
            AgentState(status=AgentStatus.ONLINE, boot_id="reported", behaviours=("pulsecount",)),
            AgentState(status=AgentStatus.OFFLINE),
        ),
    )

    def report(board: str, status: DeviceStatus, detail: str | None) -> None:
        state = DeviceState(
            status=status,
            product="pico-ice",
            behaviours=("pulsecount", "usbip"),
            labels={"room": "attic"},
            detail=detail,
            since=utc_now(),
        )
        portal.call(partial(connection.publish, DeviceStateTopic(name, board), state))

    with portal.wrap_async_context_manager(connection):
        yield report


@contextmanager
def a_lab(directory: Path, postgres: str) -> Iterator[Lab]:
    """The lab, when everything in it has happened; `postgres` is a server that runs."""
    logs = directory / "logs"
    logs.mkdir(parents=True)
    with ExitStack() as stack:
        broker = stack.enter_context(Mosquitto(directory / "broker", free_port()))
        recorder = Recorder(broker.url)
        stack.callback(recorder.stop)
        database = stack.enter_context(new_database(postgres))
        processes = Processes(broker.url, database, logs)
        stack.callback(lambda: print(processes.logs()))
        stack.callback(processes.stop)
        processes.control(web=True)
        for agent, boards in AGENTS.items():
            processes.agent(agent, boards=boards, labels=(f"rack={agent}",))
        portal = stack.enter_context(start_blocking_portal())
        report = stack.enter_context(reported_agent(portal, broker.url, SHELF))
        report(BROKEN, DeviceStatus.BROKEN, "its default firmware does not run: no answer in 20 s")
        report(f"{SHELF}-2", DeviceStatus.PREPARING, None)
        yield _use(stack, broker, processes, database, report)


def _use(
    stack: ExitStack, broker: Mosquitto, processes: Processes, database: str, report: Report
) -> Lab:
    """Let people hold boards, wait for some, and have held some; and an operator do his work."""

    def client(name: str) -> icefarm.Client:
        return stack.enter_context(icefarm.Client(broker.url, name=name))

    ann, ben, chen, olga = client("ann"), client("ben"), client("chen"), client("olga")
    virtual = sum(AGENTS.values())
    until(lambda: are_available(ann, virtual, others=2), timeout=60)
    write_past(database, {a: [f"{a}-{n + 1}" for n in range(AGENTS[a])] for a in AGENTS})
    ended = ben.reserve(boards=["rack-2-1"], duration=600)
    ended.release()
    held = ann.reserve(boards=["rack-1-1", "rack-1-2", "window-1"], duration=5400)
    ben.reserve(boards=["rack-2-2"], behaviour="serial", duration=1800)
    olga.operator.note("rack-1-4", text="Its LED is dead; it counts well.")
    olga.operator.note(BROKEN, text="Wants a new USB cable.")
    olga.operator.drain("window", deadline=3600)
    olga.operator.restart_boards("rack-1-2")
    queued = _ask_for(chen, count=9)
    _ask_for(ben, devices=("rack-1-1",))
    until(lambda: _count(ann, "ready") == 4)
    return Lab(
        broker,
        processes,
        processes.dashboard(),
        report,
        {
            "overview": "/",
            "boards": "/boards",
            "board": "/boards/rack-1/rack-1-2",
            "broken-board": f"/boards/{SHELF}/{BROKEN}",
            "agents": "/agents",
            "agent": "/agents/window",
            "reservations": "/reservations",
            "reservation": f"/reservations/{held.id}",
            "queued-reservation": f"/reservations/{queued}",
            "ended-reservation": f"/reservations/{ended.id}",
            "client": "/clients/ann",
            "history": "/history",
            "audit": "/audit",
            "confirmation": "/do/restart-boards?board=rack-1/rack-1-1&board=rack-2/rack-2-1",
        },
    )


def _ask_for(client: icefarm.Client, **wanted: Any) -> str:
    """Queue for boards without waiting for them; return the reservation."""
    request = ReserveRequest(behaviour="pulsecount", wait=7200, **wanted)
    [state] = client._call(client._client._request(Operation.RESERVE, request))
    assert state.status == "queued"
    return state.reservation


def _count(client: icefarm.Client, status: str) -> int:
    return [board.status for board in client.boards()].count(status)
