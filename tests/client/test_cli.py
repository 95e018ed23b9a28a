"""The `icefarm` command against a farm of virtual boards, as people and scripts type it."""

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from support.processes import Processes, script
from support.recorder import Recorder
from support.waiting import until
from typer.testing import CliRunner

from icefarm.cli import app
from icefarm.cli.ending import ExitCode
from icefarm_broker.mosquitto import Mosquitto, free_port
from icefarm_schemas.topics import EventsTopic


def lines(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def test_boards_and_agents_are_listed(farm: Processes) -> None:
    shown = farm.run("boards").stdout
    assert "4 of 4 available" in shown
    assert "virtual pico-ice" in shown
    boards = lines(farm.run("boards", "--json").stdout)
    assert [board["name"] for board in boards] == [f"bench-{n}" for n in (1, 2, 3, 4)]
    assert {board["status"] for board in boards} == {"available"}
    [agent] = lines(farm.run("agents", "--json").stdout)
    assert (agent["name"], agent["online"], agent["boards"]) == ("bench", True, 4)
    assert "online" in farm.run("agents").stdout


def test_a_reservation_outlives_the_command_until_it_is_released(farm: Processes) -> None:
    made = farm.run("reserve", "--count", "2", "--duration", "100", "--json")
    assert made.returncode == ExitCode.OK, made.stderr
    [state] = lines(made.stdout)
    boards = lines(farm.run("boards", "--json").stdout)
    held = [board["name"] for board in boards if board["reservation"] == state["reservation"]]
    assert held == [device["device"] for device in state["devices"]]
    [extended] = lines(
        farm.run("extend", state["reservation"], "--duration", "5000", "--json").stdout
    )
    assert extended["expires_at"] > state["expires_at"]
    released = farm.run("release", state["reservation"])
    assert f"{state['reservation']} is released: bench-1, bench-2" in released.stdout
    again = farm.run("release", state["reservation"])
    assert again.returncode == ExitCode.FAILED
    assert "is over: released; `icefarm reserve` makes another one" in again.stderr


def test_boards_change_and_are_given_back_one_by_one(farm: Processes) -> None:
    [state] = lines(farm.run("reserve", "-n", "3", "--json").stdout)
    changed = farm.run("change", state["reservation"], "--behaviour", "variance", "--json")
    [now] = lines(changed.stdout)
    assert {device["behaviour"] for device in now["devices"]} == {"variance"}
    kept = farm.run("release", "--board", "bench-2")
    assert f"{state['reservation']} keeps: bench-1, bench-3" in kept.stdout
    [longer] = lines(farm.run("extend", "--all", "--duration", "5000", "--json").stdout)
    assert longer["expires_at"] > now["expires_at"]
    assert "bench-1, bench-3" in farm.run("release", "--all").stdout
    nothing = farm.run("release")
    assert nothing.returncode == ExitCode.USAGE
    assert "say what: ids of reservations, or --board, or --all" in nothing.stderr


def test_history_and_usage_are_shown(farm: Processes) -> None:
    [state] = lines(farm.run("reserve", "--board", "bench-3", "--name", "ann", "--json").stdout)
    farm.run("release", state["reservation"], "--name", "ann")
    steps = lines(farm.run("history", "--json").stdout)
    assert [(step["what"], step.get("why")) for step in steps] == [
        ("active", None),
        ("ended", "released"),
    ]
    shown = farm.run("history", "--client", "ann", "--since", "1h").stdout
    assert "ended: released" in shown
    assert "bench-3" in shown
    assert "Nothing has happened" in farm.run("history", "--board", "bench-1").stdout
    used = farm.run("usage", "--since", "7d").stdout
    assert "ann" in used
    assert "bench-3 (bench)" in used
    [usage] = lines(farm.run("usage", "--json").stdout)
    assert [client["name"] for client in usage["clients"]] == ["ann"]
    wrong = farm.run("history", "--since", "yesterday")
    assert wrong.returncode == ExitCode.USAGE
    assert "'yesterday' is no time; write 2026-11-01T08:00, 90m, 12h or 7d" in wrong.stderr


def test_bitstreams_are_evaluated(farm: Processes, circuits: Path, tmp_path: Path) -> None:
    files = [str(circuits / name) for name in ("pulse_1khz.bin", "silent.bin")]
    shown = farm.run("evaluate", *files, "--count", "2")
    assert shown.returncode == ExitCode.OK, shown.stderr
    assert "1,000 pulses" in shown.stdout
    assert "0 pulses" in shown.stdout
    # The boards of the command before are given away again in a moment.
    again = ("evaluate", "--wait", "60", "--json")
    results = lines(farm.run(*again, *files, "-n", "2", "--every-board").stdout)
    assert sorted((r["index"], r["pulses"]) for r in results) == [(0, 1000)] * 2 + [(1, 0)] * 2
    broken = tmp_path / "broken.bin"
    broken.write_bytes(b"no bitstream")
    some = farm.run(*again, files[0], str(broken))
    assert some.returncode == ExitCode.SOME_FAILED
    assert "1 of 2 evaluations failed" in some.stderr
    [failed] = [result for result in lines(some.stdout) if "error" in result]
    assert failed["error"]["code"] == "invalid_bitstream"


def test_the_variance_of_a_waveform(farm: Processes, circuits: Path) -> None:
    done = farm.run(
        "evaluate",
        str(circuits / "pulse_20khz.bin"),
        "--behaviour",
        "variance",
        "--argument",
        "waveform=true",
        "--json",
    )
    [result] = lines(done.stdout)
    assert len(result["waveform"]) == 500
    assert result["variance"] > 0


def test_a_bitstream_published_by_mosquitto_pub_alone_is_evaluated(
    farm: Processes, circuits: Path, mosquitto: Mosquitto, recorder: Recorder
) -> None:
    [state] = lines(farm.run("reserve", "--name", "ann", "--json").stdout)
    with subprocess.Popen(
        f"mosquitto_sub -p {mosquitto.port} -V 5 -q 1 -C 1 -W 30 "
        "-t icefarm/v1/clients/ann/shell/events".split(),
        stdout=subprocess.PIPE,
    ) as listening:
        # Published again until it is heard: only this test cannot know when the subscription is.
        number = 0

        def heard() -> bool:
            nonlocal number
            number += 1
            topic = f"reservations/{state['reservation']}/commands/ann/shell/evaluate/{number}"
            subprocess.run(
                f"mosquitto_pub -p {mosquitto.port} -V 5 -q 1 -t icefarm/v1/{topic} "
                f"-f {circuits / 'pulse_5khz.bin'}".split(),
                check=True,
            )
            until(lambda: len(recorder.of(EventsTopic)) >= number)
            return listening.poll() is not None

        until(heard)
        output, _ = listening.communicate()
    [event] = lines(output.decode())
    assert event["measurement"] == {"pulses": 5000}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("reserve", "-n", "9"), ExitCode.NOT_AVAILABLE, "not enough boards"),
        (("reserve", "--board", "nosuch"), ExitCode.FAILED, "no board 'nosuch'"),
        (("reserve", "--board", "a/b"), ExitCode.USAGE, "slash"),
        (("reserve", "--argument", "novalue"), ExitCode.USAGE, "written key=value"),
        (("release", "x"), ExitCode.FAILED, "there is no reservation 'x'"),
        (("evaluate", "/no/such/file"), ExitCode.USAGE, "does not exist"),
        (("boards", "--farm", "http://x"), ExitCode.USAGE, "begins with mqtt://"),
        (("boards", "--farm", "mqtt://127.0.0.1:{free}"), ExitCode.UNREACHABLE, "no broker"),
        (("dance",), ExitCode.USAGE, "No such command"),
    ],
)
def test_what_goes_wrong_is_one_line_and_an_exit_code(
    farm: Processes, arguments: tuple[str, ...], code: ExitCode, words: str
) -> None:
    done = farm.run(*(argument.format(free=free_port()) for argument in arguments))
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_without_control_the_command_says_so(processes: Processes) -> None:
    done = processes.run("reserve")
    assert done.returncode == ExitCode.UNREACHABLE
    assert "control process is not running" in done.stderr


def test_watch_prints_each_change(farm: Processes) -> None:
    watching = farm.start("watch", script("icefarm"), "watch", "--json")

    def changes() -> list[dict[str, Any]]:
        return lines(farm.output("watch"))

    until(lambda: len(changes()) >= 4)
    farm.run("reserve", "--board", "bench-3")
    until(lambda: any(c.get("name") == "bench-3" and c["status"] == "ready" for c in changes()))
    watching.send_signal(signal.SIGINT)
    assert watching.wait(30) == ExitCode.INTERRUPTED


def test_an_interrupted_evaluation_gives_its_boards_back(
    farm: Processes, circuits: Path, recorder: Recorder
) -> None:
    files = [str(circuits / "pulse_1khz.bin")] * 500
    evaluating = farm.start("evaluate", script("icefarm"), "evaluate", *files, "-n", "2")
    until(lambda: len(recorder.of(EventsTopic)) >= 4)
    evaluating.send_signal(signal.SIGINT)
    assert evaluating.wait(30) == ExitCode.INTERRUPTED
    assert "Traceback" not in farm.logs()
    # Soon: it released them itself, and did not leave that to its grace.
    assert lines(farm.run("history", "--json").stdout)[-1]["why"] == "released"
    until(lambda: farm.run("boards", "--json").stdout.count('"available"') == 4)


def walk(command: Any, name: str = "icefarm") -> Iterator[tuple[str, Any]]:
    """Each command, with what is typed to run it."""
    if hasattr(command, "commands"):
        for word, below in command.commands.items():
            yield from walk(below, f"{name} {word}")
    else:
        yield name, command


COMMANDS = dict(walk(typer.main.get_command(app)))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str) -> None:
    done = CliRunner().invoke(app, [*command.split()[1:], "--help"], prog_name="icefarm")
    assert done.exit_code == ExitCode.OK
    assert f"Usage: {command}" in done.output
    assert f"Example: {command}" in done.output
    for parameter in COMMANDS[command].params:
        assert getattr(parameter, "help", None), parameter.name


def test_what_shows_something_has_json() -> None:
    without = {
        name
        for name, command in COMMANDS.items()
        if "--json" not in [option for p in command.params for option in p.opts]
    }
    # A console's output is the board's own; the others do something and say so to people.
    assert without == {"icefarm console", "icefarm detach", "icefarm login", "icefarm up"}
