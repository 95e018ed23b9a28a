"""What control says of itself and its farm, and that this is true when something is wrong."""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from support.metrics import get, get_json, samples
from support.processes import Processes, script, wait_for_boards
from support.recorder import Recorder
from support.waiting import until

import icefarm
from icefarm_broker.mosquitto import Mosquitto
from icefarm_schemas.topics import RequestTopic

READY = {"ready": True, "leads": True, "broker": "ok", "database": "ok", "leader": "ok"}


@pytest.fixture
def control(processes: Processes) -> str:
    """Where one control process can be seen, which leads."""
    processes.control(web=True)
    return until_ready(processes.dashboard())


def until_ready(url: str) -> str:
    until(lambda: get_json(url + "/readyz") == (200, READY), f"{url} is ready")
    return url


def until_faulty(url: str, what: str, why: str) -> None:
    """Wait until that is the fault; what does not depend on it is well."""

    def is_faulty() -> bool:
        status, about = get_json(url + "/readyz")
        return status == 503 and why in about[what]

    until(is_faulty, f"{what}: {why}")
    _, about = get_json(url + "/readyz")
    assert not about["ready"]
    assert {about[name] for name in ("broker", "database") if name != what} == {"ok"}
    assert get(url + "/healthz") == (200, "ok\n"), "the process itself works"


@contextmanager
def silent(*pids: int) -> Iterator[None]:
    """Processes that hold their connections, and answer nothing."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def test_a_broker_that_is_gone_or_silent_is_told(control: str, mosquitto: Mosquitto) -> None:
    mosquitto.stop()
    until_faulty(control, "broker", "connection")
    mosquitto.start()
    until_ready(control)
    assert mosquitto.process is not None
    with silent(mosquitto.process.pid):
        until_faulty(control, "broker", "no answer for")
    until_ready(control)
    now = samples(control)
    assert now["icefarm_control_broker_losses_total"] >= 2
    assert now["icefarm_control_broker_seconds_count"] > 0
    # The broker may have ended those that it thought silent, when it was no more itself.
    for name in ("requests", "leader"):
        connected = f'icefarm_control_broker_connected{{connection="{name}"}}'
        until(lambda connected=connected: samples(control).get(connected) == 1, name)  # type: ignore[misc]


def test_a_database_that_is_gone_or_silent_is_told(mosquitto: Mosquitto, tmp_path: Path) -> None:
    # One of its own: the others' goes on.
    url_file = tmp_path / "url"
    database = Processes(mosquitto.url, "", tmp_path)
    command = (script("icefarm-database"), "--directory", str(tmp_path / "pg"))
    database.start("database", *command, "--url-file", str(url_file))
    until(url_file.exists, timeout=60)
    processes = Processes(mosquitto.url, url_file.read_text(), tmp_path)
    try:
        processes.control(web=True)
        control = until_ready(processes.dashboard())
        postgres = int((tmp_path / "pg" / "postmaster.pid").read_text().split()[0])
        family = [process.pid for process in psutil.Process(postgres).children()]
        with silent(postgres, *family):
            until_faulty(control, "database", "no answer for")
            # Nobody knows what they do now.
            until(lambda: "icefarm_boards" not in " ".join(samples(control)))
        until_ready(control)
        until(lambda: samples(control).get('icefarm_boards{status="available"}') == 0)
        # Ends Postgres too; control waits for it.
        os.kill(database.pid("database"), signal.SIGTERM)
        until_faulty(control, "database", "connection")
        assert get_json(control + "/readyz")[1]["leader"].startswith("not known")
        assert samples(control)["icefarm_control_database_seconds_count"] > 0
    finally:
        processes.stop()
        database.stop()
        print(processes.logs())


def test_somebody_has_to_lead(control: str, processes: Processes) -> None:
    processes.control("second", web=True)
    second = processes.dashboard("second")
    follows = {**READY, "leads": False}
    until(lambda: get_json(second + "/readyz") == (200, follows), "it is ready, and follows")
    now = samples(second)
    assert now["icefarm_control_leads"] == 0
    assert not any(name.startswith("icefarm_boards") for name in now), "the leader alone counts"
    with silent(processes.pid("control")):
        with pytest.raises(OSError, match="timed out"):
            get(control + "/healthz", timeout=1)
        until_ready(second)
    assert samples(second)["icefarm_control_leads"] == 1
    until(lambda: samples(control)["icefarm_control_leads"] == 0)


def test_a_port_that_is_taken_keeps_nobody_from_boards(
    processes: Processes, mosquitto: Mosquitto
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        processes.control(web=place)
        processes.agent("bench", boards=1)
        wait_for_boards(mosquitto.url, 1)
        with icefarm.Client(mosquitto.url) as client, client.reserve(1):
            [said] = until(
                lambda: [line for line in processes.output("control").splitlines() if place in line]
            )
            assert "Address already in use" in said
            assert "All else works. Choose another place by --web" in said
    assert processes.dashboard() == f"http://{place}"
    until_ready(f"http://{place}")
    assert processes.output("control").count("tried again") == 1


def test_what_happens_on_a_farm_is_counted(
    control: str, processes: Processes, mosquitto: Mosquitto, recorder: Recorder
) -> None:
    processes.agent("bench", boards=2)
    wait_for_boards(mosquitto.url, 2)
    with icefarm.Client(mosquitto.url) as client:
        with client.reserve(2, wait=30):
            until(lambda: samples(control).get('icefarm_boards{status="ready"}') == 2)
            assert samples(control)['icefarm_reservations{status="active"}'] == 1
            with pytest.raises(icefarm.NotAvailableError):
                client.reserve(1)
            with pytest.raises(icefarm.NotAvailableError):
                client.reserve(1, wait=1)
        with client.reserve(1, wait=30):
            until(lambda: samples(control).get('icefarm_reservations{status="active"}') == 1)
            # Who leads hears that the board is ready, but perhaps a moment after the client.
            until(lambda: samples(control)["icefarm_allocation_seconds_count"] == 3)
    until(lambda: samples(control).get('icefarm_boards{status="available"}') == 2)
    now = samples(control)
    assert now['icefarm_agents{status="online"}'] == 1
    assert now['icefarm_reservations_ended_total{reason="released"}'] == 2
    assert now['icefarm_reservations_ended_total{reason="not_served"}'] == 1
    assert now['icefarm_reservations_ended_total{reason="expired"}'] == 0
    # One that has no answer within two seconds comes again, and is one more.
    sent = len(recorder.of(RequestTopic, operation="reserve"))
    done = now['icefarm_control_requests_total{operation="reserve",result="done"}']
    refused = now['icefarm_control_requests_total{operation="reserve",result="not_available"}']
    assert done >= 3
    assert refused >= 1
    assert done + refused == sent
    assert now['icefarm_control_request_seconds_count{operation="reserve"}'] == sent
    assert now["icefarm_queue_seconds_count"] == 2
    assert now["icefarm_allocation_seconds_count"] == 3
    assert 0 < now["icefarm_allocation_seconds_sum"] < 60
    processes.kill("agent-bench")
    until(lambda: samples(control).get('icefarm_boards{status="away"}') == 2)
