"""The pytest plugin: suites of its users, run by pytest as they would run them, on a real farm."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from textwrap import dedent
from xml.etree import ElementTree

import pytest
from support.databases import new_database
from support.processes import Processes
from support.recorder import Recorder
from support.waiting import until

import icefarm
from icefarm_broker.mosquitto import Mosquitto, free_port
from icefarm_schemas import EndReason

SUITES = Path(__file__).parent / "suites"
GUIDE = Path(__file__).parents[2] / "docs" / "how-to" / "pytest.md"
SOON = 30.0
"""Seconds; much less than a process that is gone keeps its boards."""


class Suite:
    """A folder with a user's tests."""

    def __init__(self, directory: Path, farm: str) -> None:
        self.directory = directory
        self.journal = directory / "journal"
        mine = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        self.environment = {**mine, "ICEFARM_BROKER": farm, "JOURNAL": str(self.journal)}
        self.set()

    def set(self, **settings: str) -> None:
        usual = {"addopts": "--strict-markers -p no:asyncio", "filterwarnings": "error"}
        lines = [f"{name} = {value}" for name, value in {**usual, **settings}.items()]
        (self.directory / "pytest.ini").write_text("\n".join(["[pytest]", *lines]))

    def write(self, text: str) -> None:
        head = "import os, signal, time\nimport pytest, icefarm\nfrom pathlib import Path\n"
        head += "CIRCUIT = Path(icefarm.__file__).parent / 'circuits/pulse_1khz.bin'\n"
        head += "def note(text):\n"
        head += "    with open(os.environ['JOURNAL'], 'a') as journal: print(text, file=journal)\n"
        (self.directory / "test_suite.py").write_text(head + dedent(text))

    def notes(self) -> list[str]:
        return self.journal.read_text().splitlines() if self.journal.exists() else []

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Run it, in a process group of its own, as a terminal does."""
        return subprocess.Popen(
            [sys.executable, "-m", "pytest", "-rA", *arguments],
            cwd=self.directory,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str) -> tuple[int, str]:
        """Its status and what it printed."""
        with self.start(*arguments) as process:
            try:
                output, _ = process.communicate(timeout=100)
            finally:
                process.kill()
        print(output)
        return process.returncode, output


@pytest.fixture(scope="module")
def farm(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a farm of two boards for all of these tests, each of which leaves it as it was."""
    directory = tmp_path_factory.mktemp("farm")
    with (
        Mosquitto(directory / "broker", free_port()) as mosquitto,
        new_database(postgres) as database,
    ):
        recorder = Recorder(mosquitto.url)
        processes = Processes(mosquitto.url, database, directory)
        processes.control()
        processes.agent("bench", boards=2)
        yield mosquitto.url
        processes.stop()
        recorder.stop()


@pytest.fixture
def suite(tmp_path: Path, farm: str) -> Suite:
    return Suite(tmp_path, farm)


@pytest.fixture
def watcher(farm: str) -> Iterator[icefarm.Client]:
    """Somebody else in the farm; what the test's suite reserves is free again soon."""
    with icefarm.Client(farm, name="watcher") as client:
        until(lambda: client.is_served() and len(client.boards()) == 2)
        until_all_free(client)
        client.wait_until_available(2, timeout=30)
        yield client
        until_all_free(client)


def until_all_free(client: icefarm.Client) -> None:
    until(
        lambda: {board.status for board in client.boards()} == {"available"},
        "all boards are free",
        timeout=SOON,
    )


def ends(client: icefarm.Client, reservations: list[str]) -> list[str | None]:
    """Why reservations of a suite ended."""
    return [client.history(reservation=one)[0].why for one in reservations]


@pytest.fixture
def nowhere() -> str:
    """The address of a farm that there is not."""
    return f"mqtt://127.0.0.1:{free_port()}"


def test_each_test_is_alone_on_its_board(suite: Suite, watcher: icefarm.Client) -> None:
    shutil.copy(SUITES / "eight_tests.py", suite.directory / "test_suite.py")
    status, output = suite.run("-n", "4")
    assert status == 0
    assert "8 passed" in output
    times: dict[str, list[tuple[float, float]]] = {"bench-1": [], "bench-2": []}
    workers = set()
    for board, start, end, worker in map(json.loads, suite.notes()):
        times[board].append((start, end))
        workers.add(worker)
    assert sum(map(len, times.values())) == 8
    assert len(workers) == 4
    for board, intervals in times.items():
        assert intervals, f"{board} was never used"
        for (_, end), (start, _) in pairwise(sorted(intervals)):
            assert end < start, f"two tests had {board} at a time"


def test_the_guide(suite: Suite, watcher: icefarm.Client) -> None:
    shutil.copytree(Path(icefarm.__file__).parent / "circuits", suite.directory / "circuits")
    blocks = GUIDE.read_text().split("```python\n")[1:]
    assert blocks
    for number, block in enumerate(blocks):
        (suite.directory / f"test_{number}.py").write_text(block.split("```")[0])
    suite.set(
        addopts="-p no:xdist", asyncio_mode="auto", asyncio_default_fixture_loop_scope="function"
    )
    status, output = suite.run()
    assert status == 0
    assert " failed" not in output


def test_boards_as_wished_and_reported(suite: Suite, watcher: icefarm.Client) -> None:
    suite.write(
        """
        pytestmark = pytest.mark.board(behaviour="variance", arguments={"waveform": True})

        def test_module(board):
            assert len(board.measure(CIRCUIT).waveform) == 500

        @pytest.mark.board(count=2)
        class TestTwo:
            def test_class(self, board, boards, icefarm_client):
                assert [b.status for b in icefarm_client.boards()] == ["ready"] * 2
                assert boards.boards[0] is board
                assert board.behaviour == "pulsecount"
                assert [r.pulses for r in boards.evaluate([CIRCUIT] * 3)] == [1000] * 3

            @pytest.mark.board(boards=["bench-2"], product="virtual pico-ice")
            def test_function(self, board):
                assert str(board) == "bench-2"
                assert False, "as it should"

        def test_nothing():
            pass
        """
    )
    status, output = suite.run("-p", "no:xdist", "--junitxml", "junit.xml")
    assert status == 1
    assert "3 passed" in output
    failed = output.split("TestTwo.test_function ___")[1]
    assert "boards of this test" in failed
    assert "bench-2 of agent bench" in failed
    assert output.count("boards of this test") == 1
    tree = ElementTree.parse(suite.directory / "junit.xml")
    had = {
        case.get("name"): [
            p.get("value") for p in case.iter("property") if p.get("name") == "board"
        ]
        for case in tree.iter("testcase")
    }
    assert len(had.pop("test_module")) == 1
    assert had == {
        "test_class": ["bench-1", "bench-2"],
        "test_function": ["bench-2"],
        "test_nothing": [],
    }


def test_tests_of_a_session_share_boards(suite: Suite, watcher: icefarm.Client) -> None:
    suite.set(icefarm_scope="session")
    suite.write(
        """
        def test_changes(boards):
            note(boards.id)
            boards.change("variance")

        def test_finds_it_changed_back(boards, board):
            note(boards.id)
            assert board.measure(CIRCUIT).pulses == 1000

        @pytest.mark.board(scope="test")
        def test_alone(boards):
            note(boards.id)
            assert len(boards) == 1

        def test_gives_its_board_away(boards, board):
            note(boards.id)
            board.release()

        def test_gets_another(boards, board):
            note(boards.id)
            assert board.measure(CIRCUIT).pulses == 1000

        @pytest.mark.board(count=2)
        def test_needs_what_the_session_keeps(boards):
            note(boards.id)

        @pytest.mark.board(count=2)
        def test_shares_that(boards):
            note(boards.id)
        """
    )
    status, _ = suite.run("-p", "no:xdist")
    assert status == 0
    first, second, alone, third, fourth, both, again = suite.notes()
    assert first == second == third
    assert both == again
    assert len({first, alone, fourth, both}) == 4


def test_after_a_lost_board_there_is_another(suite: Suite, watcher: icefarm.Client) -> None:
    suite.set(icefarm_scope="session")
    suite.write(
        """
        pytestmark = pytest.mark.board(count=2)

        def test_loses_a_board(board, boards):
            note(boards.id)
            with pytest.raises(icefarm.BoardLostError):
                board.change("variance", arguments={"there": "is none"})
            assert len(boards) == 2, "as it should"

        def test_has_two(boards):
            note(boards.id)
            assert len(boards) == 2
        """
    )
    status, output = suite.run("-p", "no:xdist")
    assert status == 1
    assert "1 failed, 1 passed" in output
    assert re.search("lost: the board 'bench-.' is broken: .* not there", output)
    first, second = suite.notes()
    assert first != second


def test_without_a_farm(suite: Suite, nowhere: str) -> None:
    suite.environment["ICEFARM_BROKER"] = nowhere
    suite.write(
        """
        def test_board(board): pass
        def test_boards(boards): pass
        def test_nothing(): pass
        """
    )
    status, output = suite.run("--icefarm-missing", "skip")
    assert status == 0
    assert "1 passed, 2 skipped" in output
    assert nowhere.removeprefix("mqtt://") in output
    assert "say where it is with --icefarm-farm" in output
    status, output = suite.run("-n", "2")
    assert status == 1
    assert "1 passed, 2 errors" in output
    assert "--icefarm-missing=skip skips such tests" in output
    assert "Traceback" not in output
    assert "lending.py" not in output


def test_without_a_board_in_time(suite: Suite, watcher: icefarm.Client) -> None:
    suite.write("def test_board(board): pass")
    suite.set(icefarm_missing="skip", icefarm_wait="1")
    with watcher.reserve(2):
        status, output = suite.run()
        assert status == 0
        assert "1 skipped" in output
        assert "1 of the farm's boards for 'pulsecount'" in output
        assert "queue for longer than 1 s" in output
        status, output = suite.run("--icefarm-missing=fail", "--icefarm-wait=0")
        assert status == 1
        assert "1 error" in output
        assert "--icefarm-wait" in output
        with suite.start("--icefarm-wait", "60") as waiting:
            until(lambda: watcher.availability().queued == 1)
            watcher.release(everything=True)
            assert "1 passed" in waiting.communicate(timeout=30)[0]
    suite.write("@pytest.mark.board(behaviour='telepathy')\ndef test_board(board): pass")
    status, output = suite.run()
    assert "1 skipped" in output
    assert "telepathy" in output


def test_farms_are_chosen(suite: Suite, watcher: icefarm.Client, farm: str, nowhere: str) -> None:
    suite.environment["ICEFARM_BROKER"] = nowhere
    suite.write("def test_board(board): pass")
    suite.set(icefarm_farm=farm)
    assert suite.run()[0] == 0
    assert suite.run("--icefarm-farm", nowhere)[0] == 1
    suite.set(icefarm_farm=nowhere)
    assert suite.run("--icefarm-farm", farm, "-n", "1")[0] == 0


def test_markers_are_checked_without_a_farm(suite: Suite, nowhere: str) -> None:
    suite.environment["ICEFARM_BROKER"] = nowhere
    wrong = {
        "2": "it takes no positional arguments; write count=2",
        "conut=2": "there is no argument 'conut'; there are behaviour, count,",
        "count=0": "count: Input should be greater than or equal to 1",
        "count='some'": "count: Input should be a valid integer",
        "count=1, boards=['a']": "give either count or boards",
        "boards='bench-1'": "boards='bench-1': write a list of names",
        "behaviour='a/b'": "behaviour: the name 'a/b' holds a slash",
        "labels=['x']": "labels: Input should be a valid dictionary",
        "scope='module'": "scope='module': write 'test' or 'session'",
    }
    suite.write(
        "".join(
            f"@pytest.mark.board({arguments})\ndef test_{number}(board): pass\n"
            for number, arguments in enumerate(wrong)
        )
    )
    status, output = suite.run("--icefarm-missing", "skip")
    assert status == 1
    assert f"{len(wrong)} errors" in output
    for message in wrong.values():
        assert f"@pytest.mark.board cannot be understood: {message}" in output


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("icefarm_wait", "long", "icefarm_wait: 'long' is no number of seconds"),
        ("icefarm_wait", "-1", "icefarm_wait: '-1' is no number of seconds"),
        ("icefarm_missing", "ignore", "icefarm_missing = ignore: write fail or skip"),
        ("icefarm_scope", "module", "icefarm_scope = module: write test or session"),
    ],
)
def test_settings_are_checked(suite: Suite, name: str, value: str, message: str) -> None:
    suite.set(**{name: value})
    suite.write("def test_board(board): pass")
    status, output = suite.run("--collect-only")
    assert status == pytest.ExitCode.USAGE_ERROR
    assert message in output


def test_who_uses_no_board_pays_nothing(suite: Suite, nowhere: str) -> None:
    suite.environment["ICEFARM_BROKER"] = nowhere
    (suite.directory / "test_suite.py").write_text(
        dedent(
            """
            import sys

            def test_nothing_is_imported():
                assert "pytest_icefarm" in sys.modules
                loaded = {name.partition(".")[0] for name in sys.modules}
                assert not loaded & {"icefarm", "icefarm_schemas", "pydantic", "asyncio"}
            """
        )
    )
    # Other plugins import what they like.
    suite.environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    assert suite.run("-p", "pytest_icefarm")[0] == 0
    del suite.environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"]
    suite.write("@pytest.mark.board(count=2)\ndef test_board(board): pass")
    assert suite.run("--collect-only")[0] == 0
    assert "board(behaviour='pulsecount', count=1" in suite.run("--markers")[1]
    status, output = suite.run("-p", "no:icefarm")
    assert status == pytest.ExitCode.INTERRUPTED
    assert "'board' not found in `markers`" in output


def test_own_fixtures_and_markers_of_a_suite_go_first(suite: Suite) -> None:
    suite.write(
        """
        @pytest.fixture
        def board(request):
            return request.node.get_closest_marker("board").args

        @pytest.mark.board("chess")
        def test_board(board):
            assert board == ("chess",)
        """
    )
    assert suite.run()[0] == 0


@pytest.mark.parametrize(
    ("number", "options", "held"),
    [
        (signal.SIGINT, [], 1),
        (signal.SIGTERM, [], 1),
        (signal.SIGINT, ["-n", "2"], 2),
        (signal.SIGTERM, ["-n", "2"], 2),
    ],
    ids=["Ctrl-C", "SIGTERM", "Ctrl-C with workers", "SIGTERM with workers"],
)
def test_an_interrupted_run_gives_boards_back(
    suite: Suite, watcher: icefarm.Client, number: int, options: list[str], held: int
) -> None:
    suite.write(
        """
        @pytest.mark.parametrize("n", range(6))
        def test_holds(boards, n):
            note(boards.id)
            time.sleep(60)
            note("not interrupted")
        """
    )
    with suite.start(*options) as process:
        until(lambda: len(suite.notes()) == held)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        output, _ = process.communicate(timeout=60)
    print(output)
    if options and number == signal.SIGTERM:
        # The process that deals out the tests uses no farm, and handles no signals.
        assert process.returncode == -signal.SIGTERM
    else:
        assert process.returncode == pytest.ExitCode.INTERRUPTED
    assert ends(watcher, suite.notes()) == [EndReason.RELEASED] * held


def test_an_interrupted_run_leaves_the_queue(suite: Suite, watcher: icefarm.Client) -> None:
    suite.write("def test_board(board): note('never')")
    with watcher.reserve(2), suite.start() as process:
        until(lambda: watcher.availability().queued == 1)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        assert process.returncode == pytest.ExitCode.INTERRUPTED
        until(lambda: watcher.availability().queued == 0, timeout=SOON)
    assert not suite.notes()


def test_the_first_failure_ends_a_run(suite: Suite, watcher: icefarm.Client) -> None:
    suite.set(icefarm_scope="session")
    suite.write(
        """
        def test_fails(boards):
            note(boards.id)
            assert False, "as it should"

        def test_next(boards):
            note(boards.id)
        """
    )
    status, output = suite.run("-x")
    assert status == 1
    assert "1 failed" in output
    assert ends(watcher, suite.notes()) == [EndReason.RELEASED]


def test_boards_of_a_killed_worker_come_back(suite: Suite, watcher: icefarm.Client) -> None:
    suite.write(
        """
        @pytest.mark.board(count=2)
        def test_dies(boards):
            note(boards.id)
            os.kill(os.getpid(), signal.SIGKILL)

        @pytest.mark.board(count=2)
        def test_lives(boards):
            note(boards.id)
            assert [r.pulses for r in boards.evaluate([CIRCUIT])] == [1000]
        """
    )
    status, output = suite.run("-n", "1")
    assert status == 1
    assert "1 failed, 1 passed" in output
    assert ends(watcher, suite.notes()) == [EndReason.SESSION_GONE, EndReason.RELEASED]
