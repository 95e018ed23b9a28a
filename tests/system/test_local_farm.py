"""`icefarm up` and `icefarm demo`: a whole farm by one command, and nothing left of it."""

import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx
import psutil
from support.local_farm import a_farm
from support.processes import script
from support.waiting import until

import icefarm
from icefarm_broker.mosquitto import free_port


def processes_on(text: str) -> list[str]:
    """Processes with this text, such as a directory, in their command line."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = " ".join(process.info["cmdline"] or [])
        if text in command:
            found.append(command)
    return found


def test_up_runs_a_farm_until_two_quick_interrupts(tmp_path: Path) -> None:
    port = free_port()
    with a_farm(tmp_path, port, "--boards", "3", "--agents", "2") as up:
        assert f"mosquitto_sub -p {port} -V 5 -v -t" in (tmp_path / "up.txt").read_text()
        with icefarm.Client(f"mqtt://127.0.0.1:{port}") as client:
            boards = [board.name for board in client.boards()]
            assert boards == ["bench-1-1", "bench-1-2", "bench-2-1"]
        assert len(processes_on(str(tmp_path))) > 3
        up.send_signal(signal.SIGINT)
        up.send_signal(signal.SIGINT)
        assert up.wait(60) == 0
    assert processes_on(str(tmp_path)) == []
    assert processes_on(f"mqtt://127.0.0.1:{port}") == []
    assert "nothing is left running" in (tmp_path / "up.txt").read_text()


def dashboard_of(output: Path) -> str:
    """The address that a farm has said, where its dashboard is served."""
    [url] = re.findall(r"^Dashboard: (http://127\.0\.0\.1:\d+)$", output.read_text(), re.MULTILINE)
    assert "iCEFARM" in httpx.get(f"{url}/login").text
    return str(url)


@contextmanager
def usual_port_taken() -> Iterator[None]:
    """So that no farm of another test, which starts at the same time, is given that one, too."""
    try:
        taken = socket.create_server(("127.0.0.1", 8080))
    except OSError:
        yield  # Somebody has it.
    else:
        with taken:
            yield


def test_each_farm_has_a_dashboard_of_its_own(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for directory in (one, other):
        directory.mkdir()
    with (
        usual_port_taken(),
        a_farm(one, free_port(), "--boards", "1"),
        a_farm(other, free_port(), "--boards", "1"),
    ):
        found = [dashboard_of(directory / "up.txt") for directory in (one, other)]
        assert found[0] != found[1]
        for directory in (one, other):
            log = (directory / "logs" / "control.log").read_text()
            assert "the dashboard is at" in log
            assert "WARNING" not in log


def test_what_is_reserved_survives_the_end_of_a_farm(tmp_path: Path) -> None:
    port = free_port()
    url = f"mqtt://127.0.0.1:{port}"
    with a_farm(tmp_path, port, "--boards", "2"), icefarm.Client(url, name="ann") as client:
        held = client.reserve(1, keep=True)
    with a_farm_again(tmp_path, port), icefarm.Client(url, name="ann") as client:
        until(lambda: "ready" in [board.status for board in client.boards()])
        assert [*map(str, client.find_reservation(held.id))] == [*map(str, held)]


def _told_of(output: Path, deaths: int) -> bool:
    return output.read_text().count("ended (SIGKILL)") == deaths


@contextmanager
def a_farm_again(directory: Path, port: int) -> Iterator[None]:
    with a_farm(directory, port, "--boards", "2"):
        yield


def test_a_part_that_dies_is_started_again(tmp_path: Path) -> None:
    port = free_port()
    with a_farm(tmp_path, port, "--boards", "1"):
        url = f"mqtt://127.0.0.1:{port}"
        for number, part in enumerate(
            ("icefarm-control", "icefarm-agent", "mosquitto.conf", "icefarm-database"), 1
        ):
            [victim] = [
                process
                for process in psutil.process_iter(["cmdline"])
                if any(part in word for word in process.info["cmdline"] or [])
                and any(word in " ".join(process.info["cmdline"]) for word in (url, str(tmp_path)))
                and "up" not in process.info["cmdline"]
            ]
            os.kill(victim.pid, signal.SIGKILL)
            until(partial(_told_of, tmp_path / "up.txt", number))

            def serves() -> bool:
                try:
                    with icefarm.Client(url) as client, client.reserve(1):
                        return True
                except icefarm.FarmError:
                    return False

            until(serves)
    until(lambda: processes_on(str(tmp_path)) == [])


def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    port = free_port()
    with a_farm(tmp_path, port, "--boards", "1"):
        second = subprocess.run(
            [script("icefarm"), "up", "--port", str(port)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert second.returncode == 1
    assert "is taken" in second.stderr
    assert "choose another with --port" in second.stderr.replace("\n", " ")


def test_demo_measures_what_its_circuits_were_made_for() -> None:
    done = subprocess.run(
        [script("icefarm"), "demo", "--speed", "10"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "COLUMNS": "120"},
    )
    assert done.returncode == 0, done.stderr
    assert "20 measurements on 4 boards; each is what its circuit makes" in done.stdout
    assert "nothing is left running" in done.stderr
