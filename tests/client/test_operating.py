"""What operators do by the `icefarm` command: drain, restart, end, extend, forget, note, audit."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.local_farm import a_farm
from support.processes import Processes, free_boards, script
from support.screen import Screen
from support.waiting import until

import icefarm
from icefarm.cli.ending import ExitCode
from icefarm_broker.accounts import Account, Role, write_accounts
from icefarm_broker.mosquitto import Mosquitto, free_port


@pytest.fixture
def ann(farm: Processes, mosquitto: Mosquitto) -> Iterator[icefarm.Client]:
    """A user of the farm, for what she holds and sees."""
    with icefarm.Client(mosquitto.url, name="ann") as client:
        yield client


def lines(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def done(farm: Processes, *arguments: str) -> str:
    """What a command prints that succeeds."""
    ended = farm.run(*arguments)
    assert ended.returncode == ExitCode.OK, ended.stderr
    return ended.stdout


def refused(farm: Processes, code: ExitCode, *arguments: str) -> str:
    """What a command says that does not."""
    ended = farm.run(*arguments)
    assert ended.returncode == code, ended.stdout + ended.stderr
    assert ended.stdout == ""
    return ended.stderr


def status_of(client: icefarm.Client, agent: str = "bench") -> str:
    return {found.name: found.status for found in client.agents()}[agent]


def test_agents_are_drained_and_resumed(farm: Processes, ann: icefarm.Client) -> None:
    with ann.reserve(1) as held:
        would = done(farm, "agents", "drain", "bench", "--deadline", "900", "--dry-run")
        assert "bench would drain until 2" in would
        assert f"; used by {held.id} of ann" in would
        [dry] = lines(done(farm, "agents", "drain", "--all", "--dry-run", "--json"))
        assert (dry["agent"], dry["reservations"]) == ("bench", [held.id])
        assert status_of(ann) == "online"
        assert "bench drains until 2" in done(farm, "agents", "drain", "bench", "--yes")
        until(lambda: status_of(ann) == "draining")
        assert "draining" in done(farm, "agents")
        assert done(farm, "agents", "resume", "--all", "--dry-run") == (
            "bench would take reservations again\n"
        )
        assert status_of(ann) == "draining"
        assert done(farm, "agents", "resume", "bench") == "bench takes reservations again\n"
        until(lambda: status_of(ann) == "online")
        nothing = farm.run("agents", "resume", "--all")
        assert (nothing.returncode, nothing.stdout) == (ExitCode.OK, "")
        assert "There is nothing to do." in nothing.stderr
        assert held.boards[0].status == "ready"


def test_agents_that_will_not_come_back_are_forgotten(farm: Processes, ann: icefarm.Client) -> None:
    assert "is there" in refused(farm, ExitCode.NOT_AVAILABLE, "agents", "forget", "bench", "--yes")
    farm.kill("agent-bench")
    until(lambda: status_of(ann) == "offline" and free_boards(ann) == 0)
    would = done(farm, "agents", "forget", "bench", "--dry-run")
    assert would == "bench would be forgotten, with its boards\n"
    assert status_of(ann) == "offline"
    assert done(farm, "agents", "forget", "bench", "--yes") == (
        "bench is forgotten, with its boards\n"
    )
    until(lambda: ann.agents() == [] and ann.boards() == [])


def test_agents_are_restarted_one_after_the_other(tmp_path: Path) -> None:
    port = free_port()
    farm = Processes(f"mqtt://127.0.0.1:{port}", "", tmp_path)
    with (
        a_farm(tmp_path, port, "--boards", "2", "--agents", "2"),
        icefarm.Client(f"mqtt://127.0.0.1:{port}", name="ann") as ann,
        ann.reserve(boards=["bench-1-1"]) as held,
    ):
        before = {agent.name: agent.boot_id for agent in ann.agents()}
        would = done(farm, "agents", "restart", "--all", "--rolling", "--dry-run").splitlines()
        assert would[0].startswith("bench-1 would restart by 2")
        assert would[0].endswith(f" at the latest; used by {held.id} of ann")
        assert would[1] == "bench-2 would restart at once; nobody uses it"
        assert {agent.name: agent.boot_id for agent in ann.agents()} == before
        rolled = farm.run("agents", "restart", "--all", "--rolling", "--deadline=0.5", "--yes")
        assert rolled.returncode == ExitCode.OK, rolled.stderr
        assert rolled.stderr.splitlines() == ["bench-1 is back", "bench-2 is back"]
        assert [line.split()[:2] for line in rolled.stdout.splitlines()] == [
            ["bench-1", "restarts"],
            ["bench-2", "restarts"],
        ]

        def now() -> dict[str, str | None]:
            return {agent.name: agent.boot_id for agent in ann.agents()}

        # The command may have heard of it before.
        until(lambda: not set(now().values()) & {None, *before.values()})
        assert now().keys() == before.keys()
        until(lambda: held.boards[0].status == "ready")
        [state] = ann.reservations()
        assert state.reservation == held.id


def test_boards_are_started_anew_forgotten_and_noted(farm: Processes, ann: icefarm.Client) -> None:
    with ann.reserve(boards=["bench-2"]) as held:
        assert done(farm, "boards", "restart", "bench-2", "bench/bench-3", "--dry-run") == (
            f"bench/bench-2 would be started anew; used by {held.id} of ann\n"
            "bench/bench-3 would be started anew; nobody uses it\n"
        )
        assert done(farm, "boards", "forget", "bench-3", "--dry-run") == (
            "bench/bench-3 would be forgotten; nobody uses it\n"
        )
        noted = ("boards", "note", "bench-3", "--text", "its [USB] cable is loose")
        assert "bench/bench-3 would be noted: its [USB] cable" in done(farm, *noted, "--dry-run")
        assert [board.note for board in ann.boards()] == [None] * 4
        assert done(farm, *noted) == "bench/bench-3 is noted: its [USB] cable is loose\n"
        until(lambda: ann.boards()[2].note == "its [USB] cable is loose")
        [concerned] = lines(done(farm, "boards", "restart", "bench-2", "--yes", "--json"))
        assert concerned == {"agent": "bench", "device": "bench-2", "reservation": held.id}
        assert "is started anew" in done(farm, "boards", "restart", "bench-1", "--yes")
        # Forgetting takes the note with it.
        assert done(farm, "boards", "forget", "bench-3", "-y") == (
            "bench/bench-3 is forgotten; nobody uses it\n"
        )
        until(lambda: [b.status for b in ann.boards() if b.name == "bench-3"] == ["available"])
        until(lambda: [board.note for board in ann.boards()] == [None] * 4)
        # Between being forgotten and being found again, control does not know it.
        unnoted = ("boards", "note", "bench-3", "--text", "")
        until(lambda: farm.run(*unnoted).stdout == "bench/bench-3 has no note\n")
        until(lambda: held.boards[0].status == "ready")
    farm.kill("agent-bench")
    until(lambda: {board.status for board in ann.boards()} == {"away"})
    until(lambda: free_boards(ann) == 0)
    away = refused(farm, ExitCode.NOT_AVAILABLE, "boards", "restart", "bench-1", "--yes")
    assert "is away, so it cannot be started anew; `icefarm agents` shows" in away


def test_reservations_of_others_are_extended_and_ended(
    farm: Processes, ann: icefarm.Client, mosquitto: Mosquitto
) -> None:
    def mine() -> dict[str, list[str]]:
        return {s.reservation: [d.device for d in s.devices] for s in ann.reservations()}

    two = ann.reserve(boards=["bench-1", "bench-2"])
    one = ann.reserve(boards=["bench-3"])
    with icefarm.Client(mosquitto.url, name="bob") as bob:
        his = bob.reserve(boards=["bench-4"])
        extended = ("reservations", "extend", "--client", "ann", "--duration", "9000")
        would = done(farm, *extended, "--dry-run").splitlines()
        assert {line.split(" would end ")[0] for line in would} == {
            f"{two.id} of ann",
            f"{one.id} of ann",
        }
        before = one.expires_at
        assert f"{one.id} of ann now ends 2" in done(farm, *extended)
        until(lambda: (one.expires_at - before).total_seconds() > 5000)
        [longer] = lines(done(farm, "reservations", "extend", "--reservation", his.id, "--json"))
        assert (longer["reservation"], longer["client"]) == (his.id, "bob")

        part = ("reservations", "end", "--board", "bench/bench-2")
        assert done(farm, *part, "--dry-run") == f"{two.id} of ann would keep: bench-1\n"
        assert mine() == {two.id: ["bench-1", "bench-2"], one.id: ["bench-3"]}
        assert done(farm, *part, "--yes") == f"{two.id} of ann keeps: bench-1\n"
        whole = ("reservations", "end", "--reservation", one.id)
        assert done(farm, *whole, "--dry-run") == f"{one.id} of ann would be ended: bench-3\n"
        assert done(farm, *whole, "--yes") == f"{one.id} of ann is ended: bench-3\n"
        until(lambda: mine() == {two.id: ["bench-1"]})
        ended = lines(done(farm, "reservations", "end", "--all", "--yes", "--json"))
        assert {state["reservation"]: state["reason"] for state in ended} == {
            two.id: "operator",
            his.id: "operator",
        }
    over = refused(farm, ExitCode.FAILED, *whole, "--yes")
    assert "is over: operator; `icefarm history` shows what happened" in over
    never = refused(farm, ExitCode.FAILED, "reservations", "end", "--reservation=x", "--yes")
    assert "`icefarm reservations --everybody` lists them" in never
    for wrong in ((), ("--all", "--client", "ann"), ("--reservation", "x", "--board", "bench-1")):
        said = refused(farm, ExitCode.USAGE, "reservations", "extend", *wrong)
        assert "by one of --reservation, --board, --client and --all" in said


def test_who_sits_at_a_terminal_is_asked(farm: Processes, ann: icefarm.Client) -> None:
    held = ann.reserve(boards=["bench-1"])
    command = [script("icefarm"), "reservations", "end", "--client", "ann"]

    def answer(keys: bytes) -> tuple[int, str]:
        """Without any, Ctrl-C."""
        with Screen(command, farm.environment, 24, 100) as shown:
            until(lambda: "End? [y/N] " in shown.output)
            assert f"{held.id} of ann would be ended: bench-1" in shown.output
            assert held.boards[0].status == "ready"
            if keys:
                shown.press(keys)
            else:
                shown.process.send_signal(signal.SIGINT)
            code = shown.process.wait(30)
        # All of it has been read only now.
        return code, shown.output

    for keys in (b"n\n", b"\n", b"\x04"):
        code, said = answer(keys)
        assert (code, said.endswith("Nothing is done.\r\n")) == (ExitCode.FAILED, True)
    code, said = answer(b"")
    assert code == ExitCode.INTERRUPTED
    assert "Traceback" not in said
    assert [state.reservation for state in ann.reservations()] == [held.id]
    code, said = answer(b"y\n")
    assert code == ExitCode.OK
    assert f"{held.id} of ann is ended: bench-1" in said
    until(lambda: ann.reservations() == [])


def test_where_nobody_can_be_asked_nothing_is_done(tmp_path: Path) -> None:
    nowhere = Processes(f"mqtt://127.0.0.1:{free_port()}", "", tmp_path)
    for command in (
        "agents drain bench",
        "agents restart bench",
        "agents restart --all --rolling",
        "boards restart bench-1",
        "boards forget bench-1",
        "reservations end --all",
    ):
        said = refused(nowhere, ExitCode.USAGE, *command.split())
        assert "give --yes to do it, or --dry-run to see what would be done" in said, command


def test_names_that_are_not_known_are_told_with_those_that_may_be_meant(farm: Processes) -> None:
    for arguments in (("agents", "drain"), ("agents", "restart", "--rolling")):
        said = refused(farm, ExitCode.FAILED, *arguments, "bnch", "--yes")
        assert "no agent 'bnch'; `icefarm agents` lists them; is it bench?" in said
    assert "is it" not in refused(farm, ExitCode.FAILED, "agents", "resume", "quite-another")
    said = refused(farm, ExitCode.FAILED, "boards", "note", "bench/bnch-4", "--text", "x")
    assert "no board 'bench/bnch-4'" in said
    assert "is it bench-4" in said
    for words in (("drain",), ("resume",), ("restart", "bench", "--all")):
        said = refused(farm, ExitCode.USAGE, "agents", *words, *["--yes"] * (words[0] != "resume"))
        assert "say which: names of agents, or --all" in said


def test_what_is_typed_before_the_name_of_a_command_counts(
    farm: Processes, mosquitto: Mosquitto
) -> None:
    elsewhere = f"mqtt://127.0.0.1:{free_port()}"
    said = refused(farm, ExitCode.UNREACHABLE, "agents", "--farm", elsewhere, "resume", "--all")
    assert elsewhere in said
    both = ("boards", "-f", elsewhere, "--json", "note", "bench-1", "--text=x", "-f", mosquitto.url)
    assert lines(done(farm, *both)) == [{"agent": "bench", "device": "bench-1"}]
    [entry] = lines(done(farm, "audit", "--json"))
    assert entry["about"] == {"devices": ["bench-1"], "text": "x"}
    said = refused(farm, ExitCode.USAGE, "reservations", "--everybody", "extend", "--all")
    assert "--everybody is nothing for 'icefarm reservations extend'" in said
    unknown = farm.run("agents", "drian", "bench")
    assert unknown.returncode == ExitCode.USAGE
    assert "Did you mean 'drain'" in unknown.stderr


def test_what_operators_did_is_shown(farm: Processes) -> None:
    assert done(farm, "audit") == "No operator has done anything there.\n"
    done(farm, "boards", "note", "bench-1", "--text", "works", "--name", "olga")
    done(farm, "agents", "drain", "--all", "--dry-run", "--deadline", "60", "--name", "olga")
    refused(farm, ExitCode.FAILED, "agents", "resume", "nosuch", "--name", "otto")
    note, drain, resume = lines(done(farm, "audit", "--json"))
    assert (note["who"], note["operation"], note["outcome"]) == ("olga", "note", "bench/bench-1")
    assert (drain["dry_run"], drain["about"]) == (True, {"all": True, "deadline": 60})
    assert (resume["who"], resume["error"]) == ("otto", "no_such_agent")
    shown = done(farm, "audit", "--since", "1h").splitlines()
    assert shown[0].split() == ["when", "who", "what", "about", "outcome"]
    assert [line.split("  ")[1:3] for line in shown[1:]] == [
        ["olga", "note"],
        ["olga", "drain (dry run)"],
        ["otto", "resume"],
    ]
    assert "bench-1; text works" in shown[1]
    assert "all; deadline 60" in shown[2]
    assert "refused: the farm has no agent 'nosuch'" in shown[3]
    assert len(done(farm, "audit", "--limit", "1").splitlines()) == 2


@pytest.fixture
def kept_apart(tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker with accounts, whose passwords are their names, and nobody else there."""
    roles = {"ann": Role.CLIENT, "screen": Role.OBSERVER, "olga": Role.OPERATOR}
    accounts = [Account(name, name, role) for name, role in roles.items()]
    with Mosquitto(tmp_path / "broker", free_port(), write_accounts(accounts, tmp_path)) as broker:
        yield broker


OF_OPERATORS = (
    "agents drain bench --yes",
    "audit",
    "logs",
    "agents resume --all",
    "agents restart --all --yes",
    "agents restart --all --rolling --yes",
    "boards restart bench-1 --yes",
    "boards forget bench-1 --yes",
    "boards note bench-1 --text x",
    "reservations end --all --yes",
    "reservations extend --all",
)


@pytest.mark.parametrize(
    ("name", "commands"), [("ann", OF_OPERATORS), ("screen", OF_OPERATORS[:3])]
)
def test_only_operators_may(
    kept_apart: Mosquitto, tmp_path: Path, name: str, commands: tuple[str, ...]
) -> None:
    farm = Processes(kept_apart.url.replace("//", f"//{name}:{name}@"), "", tmp_path)
    for command in commands:
        said = refused(farm, ExitCode.UNREACHABLE, *command.split())
        assert f"this is for operators, and {name} is none" in said, command
        assert "an account with the role `operator`" in said


def test_a_wrong_password_is_another_matter(kept_apart: Mosquitto, tmp_path: Path) -> None:
    farm = Processes(kept_apart.url.replace("//", "//olga:wrong@"), "", tmp_path)
    for command in ("agents resume --all", "logs"):
        said = refused(farm, ExitCode.UNREACHABLE, *command.split())
        assert "this is for operators" not in said
        assert "`icefarm login` keeps a password" in said
