"""Scripts for the older `icefarm` package, on a farm of this one."""

import asyncio
import json
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import pytest
from support.local_farm import a_farm
from support.processes import Processes
from support.stream_agent import StreamAgent
from support.waiting import until

import icefarm
from icefarm.legacy import (
    AbstractEventHandler,
    DefaultBaseEventHandler,
    Event,
    EventServer,
    PulseCountClient,
    PulseCountEvaluation,
    Result,
    VarMaxClient,
    VarMaxEvaluation,
    batch,
    register,
)
from icefarm.legacy import EvaluationFailed as Failed
from icefarm.legacy.address import farm_of
from icefarm_broker.mosquitto import Mosquitto, free_port
from icefarm_schemas import DeviceStatus

OLD_IMPORT = "from icefarm.client.drivers import PulseCountClient\n"
NEW_IMPORT = "from icefarm.legacy import PulseCountClient\n"

EXPERIMENT = f"""
import atexit
import json
import logging
import sys

{OLD_IMPORT}
logging.basicConfig(level=logging.INFO)
logger = logging.getLogger("experiment")

client = PulseCountClient("http://localhost:8080", "an old experiment", logger, log_events=True)
atexit.register(client.stop)

if client.available() < 2:
    logger.info("waiting for boards")
serials = client.reserve(2, wait_for_available=True, available_timeout=60)
if not serials or len(serials) != 2:
    raise Exception("not the boards that were wanted")
assert serials == client.getSerials()
assert client.extendAll() == serials

circuits = sys.argv[1:]
for serial, path, pulses in client.evaluateBitstreams(circuits):
    print(json.dumps([serial, path, int(pulses)]))

assert not client.reboot([serials[0]])
for result in client.evaluateBitstreams(circuits, serials=[serials[0]]):
    print(json.dumps([result.serial, result.evaluation.filepath, int(result.value)]))

client.end([serials[0]])
assert client.getSerials() == [serials[1]]
client.endAll()
assert not client.getSerials()
print("done")
"""

GUIDE = Path(__file__).parents[2] / "docs" / "how-to" / "migration.md"

ENDLESS = f"""
import itertools
import logging
import sys

{OLD_IMPORT}
client = PulseCountClient("http://localhost:8080", "endless", logging.getLogger())
client.reserve(4)
while True:
    for serial, path, pulses in client.evaluateBitstreams(sys.argv[1:]):
        print(serial, pulses, flush=True)
"""

Client = TypeVar("Client", PulseCountClient, VarMaxClient)


def changed(script: str) -> str:
    """The script with the one line changed that has to be."""
    assert script.count(OLD_IMPORT) == 1
    return script.replace(OLD_IMPORT, NEW_IMPORT)


def pulses(circuits: Path) -> dict[str, int]:
    """What each circuit was made for, by path."""
    listed = json.loads((circuits / "circuits.json").read_text())
    return {str(circuits / circuit["file"]): circuit["pulses"] for circuit in listed}


@contextmanager
def connected(kind: type[Client], url: str, **options: bool) -> Iterator[Client]:
    """A client as a script makes it, which stops it at the end."""
    with pytest.warns(DeprecationWarning, match=r"migration\.md") as warned:
        client = kind(url, "an old script", logging.getLogger("old"), **options)
    assert len(warned) == 1
    assert warned[0].filename == __file__
    try:
        yield client
    finally:
        client.stop()


@pytest.fixture
def watcher(mosquitto: Mosquitto) -> Iterator[icefarm.Client]:
    """Sees the farm from outside."""
    with icefarm.Client(mosquitto.url, name="watcher") as client:
        yield client


def all_available(client: icefarm.Client) -> bool:
    return all(board.status == "available" for board in client.boards())


@pytest.mark.timeout(300)
def test_an_old_script_runs_with_one_changed_line(tmp_path: Path, circuits: Path) -> None:
    port = free_port()
    url = f"mqtt://127.0.0.1:{port}"
    expected = pulses(circuits)

    def run(name: str, script: str) -> subprocess.CompletedProcess[str]:
        path = tmp_path / name
        path.write_text(script)
        done = subprocess.run(
            [sys.executable, path, *expected],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "ICEFARM_BROKER": url},
        )
        assert done.returncode == 0, done.stderr
        return done

    before, after = re.findall(r"```python\n(import.*?)```", GUIDE.read_text(), re.DOTALL)
    with a_farm(tmp_path, port, "--boards", "3"):
        done = run("experiment.py", changed(EXPERIMENT))
        old, new = run("before.py", changed(before)), run("after.py", after)
        with icefarm.Client(url, name="watcher") as client:
            until(lambda: all_available(client))
    for said in (old.stdout, new.stdout):
        measured = [line.split()[1:] for line in said.splitlines()]
        assert sorted(measured) == sorted([path, str(n)] for path, n in [*expected.items()] * 2)
    *lines, last = done.stdout.splitlines()
    assert last == "done"
    results = [json.loads(line) for line in lines]
    everywhere, again = results[: 2 * len(expected)], results[2 * len(expected) :]
    serials = {serial for serial, _, _ in everywhere}
    assert len(serials) == 2
    wanted = [[s, path, count] for s in sorted(serials) for path, count in expected.items()]
    assert sorted(everywhere) == sorted(wanted)
    assert {path: count for _, path, count in again} == expected
    assert f"INFO:experiment:using the farm at {url}" in done.stderr
    assert done.stderr.count("DeprecationWarning") == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("ending", "status"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 143)]
)
def test_a_script_that_is_ended_gives_its_boards_back(
    farm: Processes,
    watcher: icefarm.Client,
    circuits: Path,
    tmp_path: Path,
    ending: signal.Signals,
    status: int,
) -> None:
    path = tmp_path / "endless.py"
    path.write_text(changed(ENDLESS))
    process = subprocess.Popen(
        [sys.executable, path, circuits / "pulse_1khz.bin"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=farm.environment,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline().endswith(" 1000\n")
        process.send_signal(ending)
        assert process.wait(20) == status
    # Far sooner than a client that is lost is given up.
    until(lambda: all_available(watcher), timeout=20)


def test_evaluations_name_their_boards(
    farm: Processes, mosquitto: Mosquitto, circuits: Path
) -> None:
    expected = pulses(circuits)
    with connected(PulseCountClient, mosquitto.url) as client:
        first, second = client.reserve(1), client.reserveSpecific(["bench-4"])
        assert client.getSerials() == first + second
        assert second == ["bench-4"]
        both = [PulseCountEvaluation(client.getSerials(), path) for path in expected]
        single = [PulseCountEvaluation("bench-4", path) for path in expected]
        results = list(
            client.evaluateEvaluations(
                [*both, *single], result_timeout=1, batch_size=2, target_batches=1
            )
        )
    assert len(results) == 3 * len(expected)
    wanted = {(s, e) for e in both for s in e.serials} | {("bench-4", e) for e in single}
    assert {(serial, evaluation) for serial, evaluation, _ in results} == wanted
    for _, evaluation, value in results:
        assert value == expected[str(evaluation.filepath)]


def test_variance_with_its_waveform(farm: Processes, mosquitto: Mosquitto, circuits: Path) -> None:
    fast = circuits / "pulse_20khz.bin"
    with connected(VarMaxClient, mosquitto.url, send_waveform=True) as client:
        [serial] = client.reserve(1)
        [result] = client.evaluateBitstreams([fast])
        [other] = client.reserve(1, send_waveform=False)
        [plain] = client.evaluateEvaluations([VarMaxEvaluation([other], fast)])
    assert (result.serial, result[1]) == (serial, fast)
    variance, waveform = result.value
    assert len(waveform) == 500
    assert set(waveform) == {0, 4095}
    steps = sum(abs(b - a) for a, b in pairwise(waveform))
    assert variance == steps / 500
    assert type(plain.value) is float
    assert plain.value > 0


def test_what_gives_no_value_says_so(
    farm: Processes, mosquitto: Mosquitto, circuits: Path, tmp_path: Path
) -> None:
    good, text = circuits / "pulse_1khz.bin", tmp_path / "circuit.asc"
    text.write_text(".comment not packed\n")
    with connected(PulseCountClient, mosquitto.url) as client:
        with pytest.raises(ValueError, match="names no board"):
            list(client.evaluateBitstreams([good]))
        [mine] = client.reserve(1)
        results = {
            (result.serial, result.evaluation.filepath): result
            for result in client.evaluateBitstreams([good, text], serials=[mine, "another"])
        }
        assert results[mine, good].value == 1000
        assert results[mine, good].error is None
        for serial, path, kind in (
            ("another", good, icefarm.NotHolderError),
            ("another", text, icefarm.NotHolderError),
            (mine, text, icefarm.InvalidBitstreamError),
        ):
            result = results[serial, path]
            assert result.value is Failed
            assert isinstance(result.error, kind)
            with pytest.raises(TypeError):
                float(result[2])
        with pytest.raises(icefarm.InvalidRequestError, match=r"absent\.bin") as caught:
            list(client.evaluateBitstreams([good, tmp_path / "absent.bin"]))
        assert isinstance(caught.value.__cause__, FileNotFoundError)
        # It can go on.
        assert [count for _, _, count in client.evaluateBitstreams([good])] == [1000]


def test_what_is_ended_meanwhile_fails_and_the_rest_goes_on(
    farm: Processes, mosquitto: Mosquitto, circuits: Path
) -> None:
    bitstream = circuits / "pulse_1khz.bin"
    with (
        connected(PulseCountClient, mosquitto.url) as client,
        icefarm.Client(mosquitto.url, name="an old script") as same,
    ):
        [first], [second] = client.reserve(1), client.reserve(1)
        results = client.evaluateBitstreams([bitstream] * 30)
        seen = [next(results)]
        [held] = [r for r in same.reservations() if r.devices[0].device == first]
        same.release(held.reservation)
        seen += results
        # Handlers of events have a thread of their own.
        until(lambda: client.getSerials() == [second])
        assert client.end([first, second]) == [second]
    assert [r.value for r in seen if r.serial == second] == [1000] * 30
    failed = [r for r in seen if r.serial == first and r.value is Failed]
    assert len([r for r in seen if r.serial == first]) == 30
    assert failed
    assert {type(r.error) for r in failed} <= {
        icefarm.ReservationEndedError,
        icefarm.BoardLostError,
    }


def test_boards_are_waited_for(
    farm: Processes, mosquitto: Mosquitto, watcher: icefarm.Client
) -> None:
    with (
        connected(PulseCountClient, mosquitto.url) as client,
        watcher.reserve(3) as taken,
    ):
        until(lambda: client.available() == 1)
        assert len(client.availableDevices() or ()) == 1
        with pytest.raises(icefarm.NotAvailableError):
            client.reserve(2)
        with pytest.raises(icefarm.NotAvailableError):
            client.reserve(2, wait_for_available=True, available_timeout=0.5)
        with pytest.raises(icefarm.NoSuchBoardError):
            client.reserveSpecific(["nowhere"])
        assert client.getSerials() == []
        taken.release()
        assert len(client.reserve(4, wait_for_available=True, available_timeout=None)) == 4


def test_boards_are_rebooted(farm: Processes, mosquitto: Mosquitto, circuits: Path) -> None:
    bitstream = circuits / "pulse_5khz.bin"
    with connected(PulseCountClient, mosquitto.url) as client:
        serials = client.reserve(2)
        assert client.reboot(serials) == set()
        assert client.reboot([serials[0], "another"], timeout=60) == {"another"}
        assert client.reboot([serials[1]], timeout=0.001) == {serials[1]}
        assert [r.value for r in client.evaluateBitstreams([bitstream])] == [5000] * 2


def test_stop_gives_everything_back(
    farm: Processes, mosquitto: Mosquitto, watcher: icefarm.Client, circuits: Path
) -> None:
    with connected(PulseCountClient, mosquitto.url) as client:
        client.reserve(2)
        left = client.evaluateBitstreams([circuits / "pulse_1khz.bin"] * 10)
        next(left)
        client.stop()
        assert client.getSerials() == client.endAll() == client.extendAll() == []
        until(lambda: all_available(watcher))
        client.stop()
        del left


def test_what_the_farm_refuses_is_logged_and_false(
    farm: Processes, mosquitto: Mosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    with connected(PulseCountClient, mosquitto.url) as client:
        serials = client.reserve(1)
        farm.kill("control")
        assert client.extendAll() is False
        assert client.getSerials() == serials
    assert "cannot extend bench-" in caplog.text
    assert "control process is not running" in caplog.text


def test_without_control_nothing_is_available(
    mosquitto: Mosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    with connected(PulseCountClient, mosquitto.url) as client:
        assert client.available() is False
        assert "cannot tell how many boards are free: the farm's control" in caplog.text
        with pytest.raises(icefarm.ControlOfflineError):
            client.reserve(1)


def test_a_farm_that_is_not_there_is_told_at_once() -> None:
    with (
        pytest.raises(icefarm.FarmUnreachableError, match=r"127\.0\.0\.1"),
        connected(PulseCountClient, f"mqtt://127.0.0.1:{free_port()}"),
    ):
        pytest.fail("connected to nothing")


def test_handlers_are_told_of_events(
    farm: Processes,
    mosquitto: Mosquitto,
    watcher: icefarm.Client,
    circuits: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    told: list[tuple[object, ...]] = []

    class Handler(DefaultBaseEventHandler):
        @register("initialized", "serial")
        def start(self, serial: str) -> None:
            told.append(("initialized", serial))

        # Its name alone says which event it is for, as the older package had it.
        def handleReservationEnd(self, serial: str) -> None:
            told.append(("end", serial))

        @register("results", "serial", "results")
        def take(self, serial: str, results: list[tuple[str, int]]) -> None:
            told.append(("results", serial, [value for _, value in results]))

        @register("devices_available", "amount")
        def count(self, amount: int) -> None:
            told.append(("available", amount))

        def exit(self) -> None:
            told.append(("exit",))

    with connected(PulseCountClient, mosquitto.url, log_events=True) as client:
        client.addEventHandler(Handler(client.server))
        [serial] = client.reserve(1)
        until(lambda: ("initialized", serial) in told)
        list(client.evaluateBitstreams([circuits / "pulse_1khz.bin"]))
        assert ("results", serial, [1000]) in told
        client.end([serial])
        assert ("end", serial) in told
        [second] = client.reserve(1)
        [held] = [b.reservation for b in watcher.boards() if b.name == second]
        assert held is not None
        with icefarm.Client(mosquitto.url, name="an old script") as same:
            same.release(held)
        until(lambda: ("end", second) in told)
        assert client.getSerials() == []
        until(lambda: ("available", 4) in told)
    assert told[-1] == ("exit",)
    assert "event results of" in caplog.text


async def test_handlers_are_told_of_a_board_that_fails(
    agent: StreamAgent, mosquitto: Mosquitto
) -> None:
    told: list[tuple[str, str]] = []

    class Handler(DefaultBaseEventHandler):
        def handleFailure(self, serial: str) -> None:
            told.append(("failure", serial))

        def handleReservationEnd(self, serial: str) -> None:
            told.append(("end", serial))

    def use() -> None:
        with connected(PulseCountClient, mosquitto.url) as client:
            client.addEventHandler(Handler(client.server))
            assert client.reserveSpecific(["a", "b"], kind="serial") == ["a", "b"]
            loop.call_soon_threadsafe(reserved.set)
            until(lambda: ("failure", "a") in told)
            assert client.getSerials() == ["b"]
            assert client.end(["a"]) == []
            assert client.end({"a", "b"}) == ["b"]
        assert told == [("failure", "a"), ("end", "b")]

    loop, reserved = asyncio.get_running_loop(), asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(asyncio.to_thread(use))
        await reserved.wait()
        await agent.report("a", DeviceStatus.BROKEN)


def test_a_handler_is_called_for_what_it_registered() -> None:
    server = EventServer()
    seen: list[object] = []

    class Base(AbstractEventHandler):
        @register("a", "x", "serial")
        @register("b", "y")
        def take(self, *facts: object) -> str:
            seen.append(facts)
            return "taken"

    class Child(Base):
        def take(self, *facts: object) -> str:
            seen.append("child")
            return super().take(*facts)

    handler = Child(server)
    assert handler.handleEvent(Event("s", "a", {"x": 1, "serial": "s"})) == "taken"
    assert handler.handleEvent(Event("s", "b", {"y": 2})) == "taken"
    assert handler.handleEvent(Event("s", "a", {"serial": "s"})) is False
    assert handler.handleEvent(Event("s", "c", {})) is False
    assert seen == ["child", (1, "s"), "child", (2,)]


def test_a_result_is_unpacked_or_read_by_name() -> None:
    evaluation = PulseCountEvaluation({"b", "a"}, "x.bin")
    assert tuple(Result("a", evaluation, 7)) == ("a", evaluation, 7)
    result = Result("a", evaluation, 7, as_path=True)
    assert tuple(result) == ("a", "x.bin", 7)
    assert (result.serial, result.evaluation, result.value) == ("a", evaluation, 7)
    assert str(result) == "x.bin on a: 7"
    assert batch(["a", "b", "c"], 2) == [["a", "c"], ["b"]]


def test_the_older_address_leads_to_the_farm(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "config.toml"
    monkeypatch.setenv("ICEFARM_CONFIG", str(file))
    file.write_text('[farms.lab]\nbroker = "mqtts://farm.example"\n')
    monkeypatch.delenv("ICEFARM_BROKER", raising=False)
    assert farm_of("http://lab.example:8080") == "mqtt://lab.example:1883"
    assert farm_of("http://localhost:8080/") == "mqtt://localhost:1883"
    assert farm_of("https://[::1]:8080") == "mqtt://[::1]:1883"
    assert farm_of("mqtts://ann@lab") == "mqtts://ann@lab"
    assert farm_of("lab") == "lab"
    file.write_text('default = "lab"\n[farms.lab]\nbroker = "mqtts://farm.example"\n')
    assert farm_of("http://lab.example:8080") is None
    file.write_text("")
    monkeypatch.setenv("ICEFARM_BROKER", "mqtt://elsewhere")
    assert farm_of("http://lab.example:8080") is None
    assert farm_of("mqtt://lab.example") == "mqtt://lab.example"
