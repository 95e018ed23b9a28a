"""Boards on a real kernel: found, flashed, used, broken, put right."""

import random
import signal
from functools import partial

import pytest
from support.waiting import until

import icefarm
from icefarm_broker.mosquitto import Mosquitto
from icefarm_schemas import AgentStatus, DeviceStatus
from icefarm_schemas.topics import AgentStateTopic
from kernel import picos
from kernel.boards import Boards
from kernel.firmwares import BITSTREAM_BYTES, expected_pulses
from kernel.scenario import Lab
from kernel.uf2 import firmware_image, uf2

pytestmark = pytest.mark.timeout(240)  # Machines boot in some of it.

S = DeviceStatus
HOST_DRIVER = "/sys/bus/usb/drivers/usbip-host"


def test_a_board_comes_and_goes(agent: Lab, boards: Boards) -> None:
    with agent.timed("a board is plugged in", board_name := "E6614C311B0000A1"):
        board = boards.plug("silent", serial=board_name, model="pico-ice")
    state = agent.state_of(board.serial)
    assert state is not None
    assert state.product == "pico-ice"
    assert state.labels == {"room": "cellar"}
    assert set(state.behaviours) == {"pulsecount", "serial", "usbip"}
    assert board.state.firmware == "default"
    board.unplug()
    agent.wait_until_gone(board.serial)
    with agent.timed("and again", board.serial):
        board.plug()


def test_a_board_measures(agent: Lab, boards: Boards, mosquitto: Mosquitto) -> None:
    board = boards.plug()
    agent.wait_until_free(board.serial)
    bitstreams = [random.Random(seed).randbytes(BITSTREAM_BYTES) for seed in range(4)]
    with (
        icefarm.Client(mosquitto.url, name="ann") as client,
        client.reserve(boards=[board.serial]) as reservation,
    ):
        results = sorted(reservation.evaluate(bitstreams), key=lambda result: result.index)
        assert [result.pulses for result in results] == [expected_pulses(b) for b in bitstreams]
        ended = agent.timed("a reservation is released", board.serial)
        ended.__enter__()
    ended.__exit__(None, None, None)
    assert board.state.firmware == "default"


def test_a_board_that_hangs_in_a_transfer_holds_up_nobody(
    agent: Lab, boards: Boards, mosquitto: Mosquitto
) -> None:
    board = boards.plug()
    agent.wait_until_free(board.serial)
    bitstream = random.Random(5).randbytes(BITSTREAM_BYTES)
    with (
        icefarm.Client(mosquitto.url, name="ann") as client,
        client.reserve(boards=[board.serial]) as reservation,
    ):
        told = len(agent.recorder.of(AgentStateTopic, agent="lab"))
        agent.machine.signal("picos", signal.SIGSTOP)
        results = reservation.evaluate([bitstream, bitstream])
        try:
            failed = next(results)
        finally:
            agent.machine.signal("picos", signal.SIGCONT)
        assert isinstance(failed.error, icefarm.MeasurementFailedError)
        # It was restarted, and does the next.
        assert next(results).pulses == expected_pulses(bitstream)
        # Meanwhile, its agent was there all the time.
        said = agent.recorder.of(AgentStateTopic, agent="lab")[told:]
        assert all(one.message.status is AgentStatus.ONLINE for one in said)


def test_a_board_that_is_found_in_its_bootloader_is_taken_in(agent: Lab, boards: Boards) -> None:
    board = boards.plug("silent", bootloader=True)
    with agent.timed("a board comes as a bootloader", board.serial):
        pass
    # Once, although nobody knew which one it was.
    assert (board.state.firmware, board.state.flashed) == ("default", 1)


def test_a_board_that_cannot_be_flashed_is_broken_with_a_reason(agent: Lab, boards: Boards) -> None:
    faults = {
        picos.NO_BOOTLOADER: "hold its BOOTSEL button",
        picos.NO_DISK: "disk did not appear",
        picos.NO_RETURN: "did not come back",
    }
    plugged = {}
    for fault in faults:
        plugged[fault] = board = boards.add()
        board.misbehave(fault)
        board.plug()
    for fault, board in plugged.items():
        state = until(partial(agent.ever, board.serial, S.BROKEN), f"broken by {fault}", 90)
        assert state is not None
        assert faults[fault] in (state.detail or "")
        board.unplug()
        board.misbehave()
        with agent.timed(f"a board is plugged in again, which had {fault}", board.serial):
            board.plug()


def test_a_firmware_that_was_not_taken_is_written_again(agent: Lab, boards: Boards) -> None:
    board = boards.add("silent")
    board.misbehave(picos.FLASH_LOST)
    board.plug()
    agent.wait_for(board.serial, S.AVAILABLE)
    assert board.state.flashed == 2


def test_what_somebody_else_has_bound_is_taken_back(agent: Lab, boards: Boards) -> None:
    board = boards.plug()
    agent.wait_for(board.serial, S.AVAILABLE)
    with agent.timed("somebody else binds a free board", board.serial):
        agent.machine.run("modprobe", "usbip-host")
        agent.machine.run("usbip", "bind", "-b", board.busid)
    state = agent.state_of(board.serial)
    assert state is not None
    assert state.repairs == 1
    assert agent.driver(board.busid) == "usb"


def test_a_free_board_that_is_rebooted_by_hand_is_put_right(agent: Lab, boards: Boards) -> None:
    board = boards.plug()
    agent.wait_for(board.serial, S.AVAILABLE)
    with agent.timed("somebody reboots a free board into its bootloader", board.serial):
        board.unplug()
        board.plug(bootloader=True)
    assert board.state.firmware == "default"


@pytest.mark.parametrize("steps", [1, 2, 3], ids=["matched", "without a driver", "bound"])
def test_what_a_killed_agent_has_left_half_way_is_taken_back(
    lab_without_agent: Lab, boards: Boards, steps: int
) -> None:
    lab = lab_without_agent
    board = boards.plug()
    board.wait_for_tty()
    lab.machine.run("modprobe", "usbip-host")
    binding = [
        (f"{HOST_DRIVER}/match_busid", f"add {board.busid}"),
        ("/sys/bus/usb/drivers/usb/unbind", board.busid),
        (f"{HOST_DRIVER}/bind", board.busid),
    ]
    for path, word in binding[:steps]:
        lab.machine.write(path, word.encode())
    with lab.timed(f"an agent starts after one was killed, {steps}/3 into binding", board.serial):
        lab.start_agent()
    assert lab.driver(board.busid) == "usb"
    assert lab.exported() == ""


def test_the_holder_flashes_a_firmware_of_his_own(
    agent: Lab, boards: Boards, mosquitto: Mosquitto
) -> None:
    board = boards.plug()
    agent.wait_until_free(board.serial)
    with (
        icefarm.Client(mosquitto.url, name="ann") as client,
        client.reserve(boards=[board.serial], behaviour="serial") as reservation,
    ):
        with pytest.raises(icefarm.InvalidFirmwareError, match="UF2"):
            reservation.flash(b"this is no firmware")
        reservation.flash(uf2(firmware_image("echo")))
        assert board.state.firmware == "echo"
        with reservation.console() as console:
            console.write(b"one two three\n")
            assert console.readline(timeout=10) == b"one two three\n"
        # With other names on the bus it is still this board, also for an agent that starts anew.
        reservation.flash(uf2(firmware_image("foreign")))
        assert board.state.firmware == "foreign"
        agent.kill_agent()
        with agent.timed("the agent is killed under a foreign firmware", board.serial, S.READY):
            agent.start_agent()
        assert board.state.firmware == "default"


def test_an_agent_that_is_stopped_while_it_flashes_ends_soon(agent: Lab, boards: Boards) -> None:
    board = boards.add("silent")
    with agent.killed_when("flash", board.busid, signal.SIGTERM):
        board.plug()
    assert agent.machine.wait("agent") == 0
    assert "Traceback" not in agent.machine.log("agent")
    with agent.timed("an agent starts that was stopped while it flashed", board.serial):
        agent.start_agent()
    assert board.state.firmware == "default"


def test_an_agent_that_is_interrupted_twice_leaves_nothing_bound(
    agent: Lab, boards: Boards, mosquitto: Mosquitto
) -> None:
    board = boards.plug()
    agent.wait_until_free(board.serial)
    with (
        icefarm.Client(mosquitto.url, name="ann") as client,
        client.reserve(boards=[board.serial], behaviour="usbip"),
    ):
        until(lambda: agent.driver(board.busid) == "usbip-host", "bound")
        agent.machine.signal("agent", 2)
        agent.machine.signal("agent", 2)
        assert agent.machine.wait("agent") == 0
        assert agent.driver(board.busid) == "usb"
        assert agent.exported() == ""
