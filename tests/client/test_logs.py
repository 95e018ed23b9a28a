"""`icefarm logs`: agents' lines as they come, and what becomes of it when the broker is away."""

import json
import signal
import subprocess
from typing import Any

from support.processes import Processes, script
from support.recorder import Recorder
from support.waiting import until

import icefarm
from icefarm.cli.ending import ExitCode
from icefarm_broker.mosquitto import Mosquitto
from icefarm_schemas import CONTENT_TYPE, LogLevel, LogLine, utc_now
from icefarm_schemas.topic import Topic
from icefarm_schemas.topics import AgentStateTopic, LogTopic, SessionStateTopic


def follow(farm: Processes, name: str, *options: str) -> None:
    """Start it, and return when it is there."""
    farm.start(name, script("icefarm"), "logs", *options)
    until(lambda: "Following the logs of" in farm.output(name))


def told(farm: Processes, name: str) -> list[dict[str, Any]]:
    """The lines of JSON so far."""
    return [json.loads(line) for line in farm.output(name).splitlines() if line.startswith("{")]


def test_lines_name_their_agent_and_what_they_are_about(
    farm: Processes, mosquitto: Mosquitto
) -> None:
    farm.agent("second", boards=1)
    with icefarm.Client(mosquitto.url, name="olga") as olga:
        until(lambda: [b.status for b in olga.boards()] == ["available"] * 5)
        follow(farm, "all")
        follow(farm, "second", "second")
        follow(farm, "board", "--board", "bench-2", "--json")
        held = olga.reserve(boards=["bench-1", "bench-2"])
        follow(farm, "reservation", "--json", "--reservation", held.id)
        follow(farm, "warnings", "--level", "warning", "--json")
        olga.operator.restart_boards("bench-1", "bench-2")
        olga.operator.drain("second")
        anew = "an operator has bench-2 started anew"
        for name in ("all", "board", "reservation"):
            until(lambda name=name: anew in farm.output(name))  # type: ignore[misc]
        until(lambda: "second: an operator drains this agent" in farm.output("all"))
        until(lambda: "second: an operator drains this agent" in farm.output("second"))
        [line] = [line for line in farm.output("all").splitlines() if anew in line]
        assert line.split(maxsplit=2)[2] == f"info    bench/bench-2 ({held.id}): {anew}"
        assert "bench/" not in farm.output("second")
        assert {line["device"] for line in told(farm, "board")} == {"bench-2"}
        assert told(farm, "board")[-1]["agent"] == "bench"
        until(lambda: len({line["device"] for line in told(farm, "reservation")}) == 2)
        assert {line["reservation"] for line in told(farm, "reservation")} == {held.id}
        publish(mosquitto, "loud", LogLevel.WARNING, "it hangs:\n  \x1b[2Jat once\n")
        until(lambda: "at once" in farm.output("all"))
        # The boards that were started anew may have more to say at the same time.
        loud = [line for line in farm.output("all").splitlines() if " loud: " in line]
        lines = [line.split(maxsplit=2)[2] for line in loud]
        assert lines == ["warning loud: it hangs:", "warning loud:    [2Jat once"]
        # The others came before it.
        until(lambda: told(farm, "warnings"))
        assert [line["agent"] for line in told(farm, "warnings")] == ["loud"]


def publish(mosquitto: Mosquitto, agent: str, level: LogLevel, text: str) -> None:
    """A line as an agent would publish it."""
    line = LogLine(at=utc_now(), level=level, logger="test", text=text)
    subprocess.run(
        [
            *("mosquitto_pub", "-p", str(mosquitto.port), "-V", "5"),
            *("-D", "publish", "content-type", CONTENT_TYPE),
            *("-t", LogTopic(agent).build(), "-m", line.encode().decode()),
        ],
        check=True,
    )


def test_it_goes_on_when_the_broker_was_away(
    farm: Processes, mosquitto: Mosquitto, recorder: Recorder
) -> None:
    follow(farm, "logs")
    with icefarm.Client(mosquitto.url, name="olga") as olga:
        olga.operator.drain("bench", deadline=500)
        until(lambda: "for at most 500 s" in farm.output("logs"))
        mosquitto.stop()
        until(lambda: "The broker is away: " in farm.output("logs"))
        assert "is back" not in farm.output("logs")
        heard = len(recorder.of(AgentStateTopic))
        mosquitto.start()
        until(lambda: "The broker is back" in farm.output("logs"))
        until(lambda: olga.is_connected() and [a.status for a in olga.agents()] == ["draining"])
        # The recorder is back too, so that it hears how the others leave.
        until(lambda: len(recorder.of(AgentStateTopic)) > heard)
        olga.operator.resume("bench")
        until(lambda: "bench: an operator lets this agent go on" in farm.output("logs"))
    assert farm.output("logs").count("Following") == 1
    assert farm.output("logs").count("is away") == 1
    assert farm.interrupt("logs") == ExitCode.OK
    assert "Traceback" not in farm.output("logs")

    def last() -> dict[Topic, Any]:
        return {recorded.topic: recorded.message for recorded in recorder.of(SessionStateTopic)}

    until(lambda: set(last().values()) == {None}, "nothing of them stays at the broker")
    assert len(last()) == 3, "the watcher that waited for the boards, this command and olga"


def test_sigterm_ends_it(farm: Processes) -> None:
    process = farm.start("logs", script("icefarm"), "logs")
    until(lambda: "Following the logs of all agents; Ctrl-C ends it." in farm.output("logs"))
    process.send_signal(signal.SIGTERM)
    assert farm.wait("logs") == ExitCode.OK


def test_names_that_the_farm_does_not_have_are_told(farm: Processes) -> None:
    follow(farm, "logs", "bnch", "bench", "--board", "bench-9")
    assert "The farm has no agent bnch now; it has: bench" in farm.output("logs")
    assert "The farm has no board bench-9 now; `icefarm boards` lists" in farm.output("logs")
    follow(farm, "known", "--board", "bench-1")
    assert "The farm has no" not in farm.output("known")
    for wrong in (("a/b",), ("--board", "#")):
        refused = farm.run("logs", *wrong)
        assert refused.returncode == ExitCode.USAGE
        assert "which has a meaning in topics" in refused.stderr
