"""What the shell offers when Tab is pressed."""

import os
import subprocess
import time
from pathlib import Path

import pytest
from support.processes import Processes, script
from support.waiting import until

import icefarm
from icefarm_broker.mosquitto import Mosquitto, free_port


def offered(*words: str, **variables: str) -> list[str]:
    """As bash asks for it, after its last word."""
    done = subprocess.run(
        [script("icefarm")],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={
            **os.environ,
            "_ICEFARM_COMPLETE": "complete_bash",
            "COMP_WORDS": " ".join(["icefarm", *words]),
            "COMP_CWORD": str(len(words)),
            **variables,
        },
    )
    assert done.stderr == ""
    return done.stdout.split()


def offered_of(farm: str, *words: str) -> list[str]:
    """What a farm has to offer: nothing, each time that it is not quick enough with its answer."""
    return until(lambda: offered(*words, ICEFARM_BROKER=farm))


def test_values_are_asked_of_the_farm(farm: Processes, mosquitto: Mosquitto) -> None:
    url = mosquitto.url
    assert until(lambda: offered("reserve", "--farm", url, "--board", "bench-")) == [
        "bench-1",
        "bench-2",
        "bench-3",
        "bench-4",
    ]
    assert offered_of(url, "reserve", "--behaviour", "p") == ["pulsecount"]
    with (
        icefarm.Client(url) as mine,
        icefarm.Client(url, name="bob") as bob,
        mine.reserve() as held,
        bob.reserve(),
    ):
        assert offered_of(url, "release", "") == [held.id]
        assert offered_of(url, "flash", "--reservation", "") == [held.id]
        everybodys = sorted(state.reservation for state in bob.reservations(everybody=True))
        assert len(everybodys) == 2
        assert offered_of(url, "reservations", "end", "--reservation", "") == everybodys
        assert offered_of(url, "reservations", "end", "--client", "b") == ["bob"]


def test_operators_are_offered_commands_and_names(farm: Processes, mosquitto: Mosquitto) -> None:
    url = mosquitto.url
    assert offered("agents", "") == ["drain", "resume", "restart", "forget"]
    assert offered("boards", "n") == ["note"]
    assert offered_of(url, "agents", "drain", "") == ["bench"]
    assert offered_of(url, "logs", "b") == ["bench"]
    # The farm may be named before the command's name, and counts more than the variable.
    elsewhere = f"mqtt://127.0.0.1:{free_port()}"
    before = ("boards", "--farm", url, "restart", "bench-4")
    assert offered_of(elsewhere, *before) == ["bench-4"]


def test_farms_are_those_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('[farms.lab]\nbroker = "mqtt://a"\n[farms.home]\nbroker = "mqtt://b"\n')
    assert offered("boards", "--farm", "", ICEFARM_CONFIG=str(file)) == ["lab", "home"]
    assert offered("login", "l", ICEFARM_CONFIG=str(file)) == ["lab"]
    file.write_text("no TOML")
    assert offered("boards", "--farm", "", ICEFARM_CONFIG=str(file)) == []
    assert offered("reserve", "--farm", "lab", "--board", "", ICEFARM_CONFIG=str(file)) == []


@pytest.mark.parametrize("host", ["127.0.0.1", "farm.invalid", "10.255.255.1"])
def test_a_farm_that_does_not_answer_holds_up_nobody(host: str) -> None:
    farm = f"mqtt://{host}:{free_port()}"

    def is_quick() -> bool:
        began = time.monotonic()
        assert offered("reserve", "--board", "", ICEFARM_BROKER=farm) == []
        # A second of asking, and the rest is the start of Python.
        return time.monotonic() - began < 5

    # On a machine that is busy just now, that start may take longer.
    until(is_quick)
