"""An agent's metrics, of a farm that works and that is disturbed."""

import os
import signal
from pathlib import Path

import pytest
from support.metrics import get, samples
from support.processes import Processes, script, wait_for_boards
from support.waiting import until

import icefarm
from icefarm_broker.mosquitto import Mosquitto, free_port


@pytest.fixture
def agent(processes: Processes, mosquitto: Mosquitto) -> str:
    """Where the metrics are of an agent with two boards that control knows."""
    port = free_port()
    processes.control()
    processes.start(
        "agent",
        script("icefarm-agent"),
        *("--name", "bench", "--virtual-boards", "2", "--virtual-speed", "20"),
        *("--metrics", f"127.0.0.1:{port}"),
    )
    wait_for_boards(mosquitto.url, 2)
    # Metrics are served beside the rest of its work.
    until(lambda: "metrics are at" in processes.output("agent"))
    return f"http://127.0.0.1:{port}"


def test_what_boards_do_is_counted(
    agent: str, processes: Processes, mosquitto: Mosquitto, circuits: Path, tmp_path: Path
) -> None:
    before = samples(agent)
    assert before['icefarm_agent_boards{status="available"}'] == 2
    assert before["icefarm_agent_broker_connected"] == 1
    (tmp_path / "short.bin").write_bytes(b"no bitstream")
    with icefarm.Client(mosquitto.url) as client:
        with client.reserve(2, wait=30) as held:
            assert samples(agent)['icefarm_agent_boards{status="ready"}'] == 2
            bitstreams = [circuits / "pulse_1khz.bin"] * 4 + [tmp_path / "short.bin"]
            assert len(list(held.evaluate(bitstreams))) == 5
        with client.reserve(behaviour="serial", wait=30) as held, held.console() as console:
            console.write(b"hello\n")
            console.readline(timeout=10)
            down = 'icefarm_agent_stream_bytes_total{direction="down"}'
            running = until(lambda: samples(agent)[down], "bytes of a stream that runs")
            up = 'icefarm_agent_stream_bytes_total{direction="up"}'
            until(lambda: samples(agent)[up], "what was written")

        def sent() -> bool:
            return samples(agent)['icefarm_agent_boards{status="available"}'] == 2

        until(sent)
    after = samples(agent)
    kind = 'behaviour="pulsecount"'
    assert after[f'icefarm_agent_evaluations_total{{{kind},result="measured"}}'] == 4
    assert after[f'icefarm_agent_evaluations_total{{{kind},result="invalid_bitstream"}}'] == 1
    assert after[f"icefarm_agent_evaluation_seconds_count{{{kind}}}"] == 4
    assert after[f"icefarm_agent_evaluation_seconds_sum{{{kind}}}"] > 0.1
    flashes = 'icefarm_agent_flashes_total{result="written"}'
    assert after[flashes] >= before[flashes] + 4
    assert after[down] >= running
    assert after[up] == len(b"hello\n")


def test_a_lost_broker_is_seen_and_counted(agent: str, mosquitto: Mosquitto) -> None:
    mosquitto.stop()
    until(lambda: samples(agent)["icefarm_agent_broker_connected"] == 0)
    assert samples(agent)["icefarm_agent_broker_reconnects_total"] == 0
    assert get(agent + "/healthz") == (200, "ok\n"), "the agent itself works"
    mosquitto.start()
    until(lambda: samples(agent)["icefarm_agent_broker_connected"] == 1)
    assert samples(agent)["icefarm_agent_broker_reconnects_total"] == 1


def test_what_does_not_work_does_not_say_that_it_does(agent: str, processes: Processes) -> None:
    assert get(agent + "/nothing")[0] == 404
    pid = processes.pid("agent")
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(OSError, match="timed out"):
            get(agent + "/healthz", timeout=1)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert get(agent + "/healthz")[0] == 200


def test_a_place_that_is_none_is_refused(processes: Processes) -> None:
    refused = processes.start(
        "agent", script("icefarm-agent"), *("--virtual-boards", "1", "--metrics", "9100")
    )
    assert refused.wait(30) == 2
    assert "'9100' is not a host and a port" in processes.output("agent")
