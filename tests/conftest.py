"""Fixtures: a real Mosquitto and a real Postgres, started for the tests on free ports."""

import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from support.databases import new_database
from support.processes import Processes
from support.recorder import Recorder

from icefarm_broker.mosquitto import Mosquitto, free_port
from icefarm_control.embedded import embedded_database

# Run in the background of a script, this process ignores Ctrl-C, and so would all that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

# An example that is slow because the machine is busy is not a fault.
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files whose tests take longest, so that no worker has one of them at the end.

    They are those with a limit of their own; then come those with the most tests.
    """
    longest: Counter[Path] = Counter()
    for item in items:
        limit = item.get_closest_marker("timeout")
        longest[item.path] = max(longest[item.path], limit.args[0] if limit is not None else 0)
    tests = Counter(item.path for item in items)
    items.sort(key=lambda item: (longest[item.path], tests[item.path], item.path), reverse=True)


CIRCUITS = Path(__file__).parents[1] / "examples" / "circuits"


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a Postgres of this test run's own."""
    # A short path: the socket is in it, and may have 107 characters.
    directory = Path(tempfile.mkdtemp(prefix="icefarm-test-"))
    with embedded_database(directory / "postgres") as database:
        yield database.url
    shutil.rmtree(directory)


@pytest.fixture
def database_url(postgres: str) -> Iterator[str]:
    """A new, empty database."""
    with new_database(postgres) as url:
        yield url


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker that everybody on this machine may use, as `icefarm up` starts it."""
    with Mosquitto(tmp_path / "broker", free_port()) as broker:
        yield broker


@pytest.fixture
def recorder(mosquitto: Mosquitto) -> Iterator[Recorder]:
    """Every message on the wire, checked against the contract when the test ends."""
    recorder = Recorder(mosquitto.url)
    yield recorder
    recorder.stop()


@pytest.fixture
def processes(
    mosquitto: Mosquitto,
    recorder: Recorder,
    database_url: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> Iterator[Processes]:
    """Starts control and agents; all of the test's messages are recorded."""
    directory = tmp_path / "logs"
    directory.mkdir()
    processes = Processes(mosquitto.url, database_url, directory)
    yield processes
    try:
        processes.stop()
    finally:
        print(processes.logs())


@pytest.fixture
def circuits() -> Path:
    """The folder of example circuits."""
    return CIRCUITS
