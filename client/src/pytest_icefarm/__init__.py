"""The pytest plugin: boards of a farm as fixtures.

Every pytest run of an environment in which icefarm is installed imports this file, so it is a
package of its own that imports nothing of icefarm before a test uses a board.
"""

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

import pytest

from pytest_icefarm.settings import Settings, add_options, settings_of

if TYPE_CHECKING:
    import icefarm
    from pytest_icefarm.lending import Lender

_MARKER = (
    "board(behaviour='pulsecount', count=1, boards=None, product=None, labels=None, "
    "arguments=None, scope='test'): what the fixtures board and boards get from the farm. All are "
    "optional and mean what they mean in icefarm.Client.reserve; scope is 'test' (a reservation "
    "for this test alone) or 'session' (one for all tests of this process with the same wishes)."
)

_held = pytest.StashKey["icefarm.Reservation"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options and settings."""
    add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Check the settings, and let `--strict-markers` know the marker."""
    config.addinivalue_line("markers", _MARKER)
    config.stash[settings_of] = Settings.find(config)


@pytest.fixture(scope="session")
def icefarm_client(pytestconfig: pytest.Config) -> "Iterator[icefarm.Client]":
    """The connection to the farm that this process's tests share."""
    from pytest_icefarm.lending import connect

    with connect(pytestconfig.stash[settings_of]) as client:
        yield client


@pytest.fixture(scope="session")
def _icefarm_lender(
    pytestconfig: pytest.Config, icefarm_client: "icefarm.Client"
) -> "Iterator[Lender]":
    from pytest_icefarm.lending import Lender

    with Lender(icefarm_client, pytestconfig.stash[settings_of]) as lender:
        yield lender


@pytest.fixture
def boards(request: pytest.FixtureRequest) -> "Iterator[icefarm.Reservation]":
    """The reservation that the test's marker `board` describes: its boards, `evaluate` and more."""
    from pytest_icefarm.wishes import Wishes

    wishes, scope = Wishes.of(request.node.get_closest_marker("board"))
    # Only now, so that a mistake is one whether or not there is a farm.
    lender: Lender = request.getfixturevalue("_icefarm_lender")
    with lender.lend(wishes, scope) as reservation:
        request.node.stash[_held] = reservation
        for held in reservation:
            request.node.user_properties.append(("board", held.name))
        yield reservation


@pytest.fixture
def board(boards: "icefarm.Reservation") -> "icefarm.HeldBoard":
    """The board that the test's marker `board` describes; of several, the first."""
    return boards.boards[0]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Say of a test that failed which boards it had."""
    report = yield
    if report.failed and _held in item.stash:
        report.sections.append(("boards of this test", _describe(item.stash[_held])))
    return report


def _describe(reservation: "icefarm.Reservation") -> str:
    named = [f"{held.name} of agent {held.agent}" for held in reservation]
    lost = [f"lost: {error}" for error in reservation.failures.values()]
    return "\n".join([f"reservation {reservation.id}", *named, *lost])
