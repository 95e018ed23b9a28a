"""A farm whose broker keeps users apart: a holder's console is nobody else's."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.processes import Processes, free_boards, script, wait_for_boards
from support.waiting import until

import icefarm
from icefarm_broker import BrokerAddress, Connection, PresenceMessages
from icefarm_broker.accounts import Account, Role, write_accounts
from icefarm_broker.mosquitto import Mosquitto, free_port
from icefarm_schemas import EndReason, Frame, Presence, SessionState, stream_tag
from icefarm_schemas.topics import SessionStateTopic, StreamUpTopic


@pytest.fixture
def running(tmp_path: Path, database_url: str) -> Iterator[tuple[Mosquitto, Processes]]:
    """Everybody's password is the name."""
    roles = {
        "control": Role.CONTROL,
        "bench": Role.AGENT,
        "ann": Role.CLIENT,
        "bob": Role.CLIENT,
        "olga": Role.OPERATOR,
    }
    accounts = [Account(name, name, role) for name, role in roles.items()]
    with Mosquitto(tmp_path / "broker", free_port(), write_accounts(accounts, tmp_path)) as broker:
        processes = Processes(url_of(broker, "control"), database_url, tmp_path)
        processes.control()
        processes.start(
            "agent",
            script("icefarm-agent"),
            *("--name", "bench", "--virtual-boards", "1", "--virtual-speed", "20"),
            *("--broker", url_of(broker, "bench")),
        )
        yield broker, processes
        processes.stop()
        print(processes.logs())


@pytest.fixture
def farm(running: tuple[Mosquitto, Processes]) -> Mosquitto:
    """The broker of a farm with accounts."""
    return running[0]


def url_of(broker: Mosquitto, name: str) -> str:
    """Of the broker, with somebody's login."""
    return broker.url.replace("//", f"//{name}:{name}@")


async def test_a_console_is_its_holders_alone(farm: Mosquitto) -> None:
    wait_for_boards(url_of(farm, "ann"), 1)
    with icefarm.Client(url_of(farm, "ann")) as ann, icefarm.Client(url_of(farm, "bob")) as bob:
        held = ann.reserve(behaviour="serial")
        with pytest.raises(icefarm.NotHolderError):
            bob.find_reservation(held.id)
        with held.console() as console:
            console.readline(timeout=10)
            await intrude(url_of(farm, "bob"), held, ann.session)
            # A frame of somebody else's would have ended it.
            lines = [console.readline(timeout=10) for _ in range(5)]
            assert lines[1:] == [b"default firmware\n"] * 4


def test_only_an_operator_deals_with_the_boards_of_others(
    running: tuple[Mosquitto, Processes],
) -> None:
    farm, processes = running
    ended: list[icefarm.ReservationEnded] = []
    wait_for_boards(url_of(farm, "ann"), 1)
    with icefarm.Client(url_of(farm, "ann")) as ann, icefarm.Client(url_of(farm, "olga")) as olga:
        ann.on(icefarm.ReservationEnded, ended.append)
        held = ann.reserve(1)
        for act in (ann.operator.check, lambda: ann.operator.end(everything=True)):
            with pytest.raises(icefarm.FarmPermissionError, match="does not allow"):
                act()
        olga.operator.check()
        [state] = olga.operator.extend(client="ann", duration=5000)
        assert state.reservation == held.id
        olga.operator.end(boards=held.boards, dry_run=True)
        # Agents take commands and wishes from control alone, notes are for all to see.
        olga.operator.note("bench-1", text="works")
        until(lambda: [board.note for board in ann.boards()] == ["works"])
        olga.operator.drain("bench")
        until(lambda: [agent.status for agent in ann.agents()] == ["draining"])
        olga.operator.restart_boards("bench-1")
        olga.operator.end(held.id)
        until(lambda: ended)
        assert ended[0].reason is EndReason.OPERATOR
        with pytest.raises(icefarm.ReservationEndedError, match="is over: operator"):
            held.extend()
        recorded = [(entry.who, entry.operation, entry.dry_run) for entry in olga.operator.audit()]
        assert recorded == [
            ("olga", "end", False),
            ("olga", "restart_devices", False),
            ("olga", "drain", False),
            ("olga", "note", False),
            ("olga", "end", True),
            ("olga", "extend", False),
        ]
        # What an agent has left at the broker is control's to remove, when an operator says so.
        olga.operator.resume("bench")
        until(lambda: free_boards(ann) == 1)
        processes.kill("agent")
        # Control hears of it from the same will, but perhaps a moment after the client.
        until(lambda: free_boards(ann) == 0)
        until(lambda: [each.status for each in ann.agents()] == ["offline"])
        olga.operator.forget_agents("bench")
        until(lambda: not ann.agents() and not ann.boards())


async def intrude(url: str, held: icefarm.Reservation, session: str) -> None:
    """Send bytes on the topic of another user's stream; the broker says nothing, and drops them."""
    presence = SessionState(status=Presence.ONLINE)
    connection = Connection(
        BrokerAddress.parse(url),
        "client-bob-intruder",
        PresenceMessages(SessionStateTopic("bob", "intruder"), presence, b""),
    )
    async with connection:
        topic = StreamUpTopic(held.id, held.boards[0].name, "ann", session).build()
        connection.send(topic, Frame(stream_tag("00c0ffee"), 0, 0, b"reboot\n").pack())
        connection.send(topic, b"no frame at all")
