"""Fixtures: `lab` with virtual boards, `desk` that imports them, and a farm between the two.

The machines, the farm and the agent stay on for the whole run, since each takes its time to start;
what a test starts and plugs in ends with the test. Mosquitto, Postgres and control run outside, as
they are; only who needs a kernel is emulated.
"""

from collections.abc import Iterator

import psycopg
import pytest
from support.processes import Processes
from support.recorder import Recorder

import icefarm
from icefarm_broker.mosquitto import Mosquitto, free_port
from icefarm_schemas import DeviceStatus
from kernel.boards import Board, Boards
from kernel.desk import Desk
from kernel.initrd import CannotBootError, check_programs
from kernel.machine import Machine
from kernel.scenario import TIMES, Farm, Lab


@pytest.fixture(scope="session", autouse=True)
def emulator() -> None:
    """Skip where no machine can be booted."""
    try:
        check_programs()
    except CannotBootError as error:
        pytest.skip(f"cannot emulate machines: {error}")


@pytest.fixture(scope="session")
def lab_machine(emulator: None) -> Iterator[Machine]:
    """Not booted yet."""
    machine = Machine("lab")
    yield machine
    machine.close()


@pytest.fixture(scope="session")
def lab_boards(lab_machine: Machine) -> Boards:
    """Not loaded yet."""
    return Boards(lab_machine)


@pytest.fixture
def lab(lab_machine: Machine, lab_boards: Boards) -> Iterator[Machine]:
    """The machine that boards are plugged into."""
    if not lab_machine.is_on:
        lab_machine.boot()
        lab_boards.load()
    heard = len(lab_machine.log("agent")) if "agent" in lab_machine.programs() else 0
    yield from _cleaned(lab_machine, keep=("picos", "agent"))
    if "agent" in lab_machine.programs():
        print(f"--- lab: agent\n{lab_machine.log('agent')[heard:]}")


@pytest.fixture
def boards(lab: Machine, lab_boards: Boards) -> Iterator[Boards]:
    """Boards for the lab, without any yet."""
    yield lab_boards
    if lab.is_on:
        lab_boards.remove_all()


@pytest.fixture(scope="session")
def desk_machine(emulator: None) -> Iterator[Machine]:
    """Not booted yet."""
    machine = Machine("desk", cpus=1, modules=["vhci-hcd"])
    yield machine
    machine.close()


@pytest.fixture
def desk(desk_machine: Machine) -> Iterator[Machine]:
    """The machine of somebody who uses boards; a test may cut its power and boot it again."""
    if not desk_machine.is_on:
        desk_machine.boot()
    yield from _cleaned(desk_machine, keep=())


def _cleaned(machine: Machine, keep: tuple[str, ...]) -> Iterator[Machine]:
    """Afterwards its cable is in, and nothing runs there that a test has started."""
    yield machine
    if not machine.is_on:
        return
    machine.set_link(True)
    for name in machine.programs():
        if name not in keep:
            print(f"--- {machine.name}: {name}\n{machine.forget(name)[-6000:]}")


@pytest.fixture(scope="session")
def mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    """One broker for all kernel tests."""
    with Mosquitto(tmp_path_factory.mktemp("broker"), free_port()) as broker:
        yield broker


@pytest.fixture(scope="session")
def recorder(mosquitto: Mosquitto) -> Iterator[Recorder]:
    """Every message of all kernel tests, checked against the contract at their end."""
    recorder = Recorder(mosquitto.url)
    yield recorder
    recorder.stop()


@pytest.fixture(scope="session")
def database(postgres: str) -> str:
    """One for all kernel tests."""
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("CREATE DATABASE kernel")
    return postgres.replace("/postgres?", "/kernel?")


@pytest.fixture(scope="session")
def processes(
    mosquitto: Mosquitto, database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Processes]:
    """What runs outside of the machines."""
    processes = Processes(mosquitto.url, database, tmp_path_factory.mktemp("logs"))
    yield processes
    processes.stop()


@pytest.fixture(scope="session")
def farm(processes: Processes, mosquitto: Mosquitto, database: str) -> Farm:
    """With control started, and without an agent yet."""
    processes.control()
    return Farm(processes, mosquitto.port, database)


@pytest.fixture
def lab_without_agent(lab: Machine, farm: Farm, recorder: Recorder) -> Lab:
    """The lab with all that its agent needs; the test starts it."""
    if "agent" in lab.programs():
        lab.forget("agent")
    configured = Lab(lab, farm, recorder)
    configured.configure()
    return configured


@pytest.fixture
def agent(lab: Machine, lab_boards: Boards, farm: Farm, recorder: Recorder) -> Lab:
    """The lab with its agent."""
    one = Lab(lab, farm, recorder)
    if not lab.running("agent"):
        one.configure()
        # What a former agent said of itself and of the board is still there.
        agents, kept = one.appearances(), lab_boards.kept
        reports = one.reports(kept.serial) if kept is not None else 0
        one.start_agent()
        one.wait_until_online(agents)
        if kept is not None and kept.state.mode != "off":
            one.wait_for(kept.serial, DeviceStatus.AVAILABLE, reports)
    return one


@pytest.fixture
def user(desk: Machine, farm: Farm) -> Desk:
    return Desk(desk, farm)


@pytest.fixture
def board(agent: Lab, boards: Boards) -> Board:
    """One that is available."""
    if boards.kept is None:
        boards.kept = boards.plug()
    elif boards.kept.state.mode == "off":
        boards.kept.plug()
    agent.wait_until_free(boards.kept.serial)
    return boards.kept


@pytest.fixture
def kept(board: Board, mosquitto: Mosquitto) -> Iterator[icefarm.Reservation]:
    """A reservation that outlives its holders."""
    with icefarm.Client(mosquitto.url, name="ann") as client:
        reservation = client.reserve(boards=[board.serial], behaviour="usbip", keep=True)
        yield reservation
        client.release(everything=True)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show how long each scenario took to bring its board back to service."""
    if TIMES:
        terminalreporter.section("from the event to `available`, seconds in an emulated machine")
        for name, seconds in sorted(TIMES, key=lambda time: time[1]):
            terminalreporter.write_line(f"{seconds:6.2f}  {name}")
