"""A board of the lab as a USB device of the desk, and every way in which that can end."""

import random
from pathlib import Path

import pytest
from support.processes import script
from support.waiting import until

import icefarm
from icefarm_schemas import DeviceStatus
from kernel.boards import Board, Boards
from kernel.desk import Desk
from kernel.scenario import Lab
from kernel.uf2 import firmware_image, uf2

pytestmark = pytest.mark.timeout(240)  # Machines boot in some of it.

S = DeviceStatus
GRACE = 5
"""Seconds: its end is waited for; yet a desk that is busy for a moment must keep its board."""
EXAMPLE = Path(__file__).parents[2] / "examples" / "usb_attach.py"


def test_a_board_is_attached_used_and_detached(
    agent: Lab, user: Desk, board: Board, kept: icefarm.Reservation
) -> None:
    kept.flash(uf2(firmware_image("echo")))
    tty = user.attach(kept)
    until(lambda: (state := agent.state_of(board.serial)) and state.in_use, "seen to be in use")
    bitstream = random.Random(4).randbytes(104_090)
    assert user.machine.talk(tty, bitstream + b"--end--", "--end--") == bitstream + b"--end--"
    # The agent makes connections, and takes none.
    listening = agent.machine.run("ss", "-ltnH").stdout
    assert listening == ""
    print(agent.machine.run("ss", "-ltn").stdout, agent.machine.run("ss", "-tn").stdout)
    user.stop()
    user.wait_until_detached()
    until(lambda: agent.usbip_status(board.busid) == "1", "free for the next")
    with agent.timed("the holder detaches and releases", board.serial):
        kept.release()
    assert agent.exported() == ""


def test_the_example_reads_what_the_board_says(agent: Lab, user: Desk, board: Board) -> None:
    with agent.timed("a script has attached and released its board", board.serial):
        done = user.machine.run(
            str(EXAMPLE), env=user.farm.environment, timeout=120, check=False, warm="icefarm"
        )
    assert done.returncode == 0, done.stderr
    plugged_in, says, given_back = done.stdout.splitlines()
    assert plugged_in == f"{board.serial} of lab is /dev/ttyACM0 now"
    assert says.startswith("it says: default firmware")
    assert given_back == "it is given back"
    user.wait_until_detached()


def test_a_board_is_flashed_through_its_attachment(
    agent: Lab, user: Desk, board: Board, kept: icefarm.Reservation
) -> None:
    tty, repairs = user.attach(kept), agent.repairs(board.serial)
    said = user.said
    user.machine.touch(tty)

    def disk() -> str | None:
        lines = [line.split() for line in user.machine.log("holder").splitlines()[said:]]
        paths = [path for words in lines if words[0] == "attached" for path in words[1:]]
        return next((path for path in paths if path.startswith("/dev/sd")), None)

    bootloader = until(disk, "the bootloader's disk at the desk", timeout=60)
    said = user.said
    user.machine.write("/run/new.uf2", uf2(firmware_image("echo")))
    options = ("bs=64K", "seek=1M", "oflag=seek_bytes", "conv=notrunc,fsync")
    user.machine.run("dd", "if=/run/new.uf2", f"of={bootloader}", *options, check=False)
    tty = user.wait_for_tty(said)
    assert board.state.firmware == "echo"
    user.echo(tty, "it echoes now", answer="it echoes now\n")
    user.stop()
    # Nothing of that was a fault.
    assert agent.repairs(board.serial) == repairs


def test_a_reset_exports_the_board_again(
    agent: Lab, user: Desk, board: Board, kept: icefarm.Reservation
) -> None:
    tty = user.attach(kept)
    said = user.said
    kept.reset()
    user.echo(user.wait_for_tty(said), "after the reset")
    user.stop()
    assert tty


def test_a_program_that_has_the_tty_open_gets_an_error_when_the_stream_is_lost(
    agent: Lab, user: Desk, board: Board, kept: icefarm.Reservation
) -> None:
    tty = user.attach(kept)
    user.machine.start("reader", "sh", "-c", f"stty -F {tty} raw; cat {tty}; echo it ended")
    until(lambda: "default firmware" in user.machine.log("reader"), "the board's words")
    with agent.timed("a reservation is ended by another session while attached", board.serial):
        kept.release()
    assert user.machine.wait("reader") == 0
    assert "it ended" in user.machine.log("reader")
    user.wait_until_detached()


def test_the_client_is_killed(agent: Lab, user: Desk, board: Board) -> None:
    user.attach(board, grace=GRACE)
    with agent.timed("the client is killed", board.serial):
        user.kill()
    user.wait_until_detached()


def test_the_clients_network_is_cut(agent: Lab, user: Desk, board: Board) -> None:
    user.attach(board, grace=GRACE)
    with agent.timed("the client's network is cut", board.serial):
        user.machine.set_link(False)


def test_the_clients_network_comes_back(
    agent: Lab, user: Desk, board: Board, kept: icefarm.Reservation
) -> None:
    user.attach(kept, grace=GRACE)
    said = user.said
    user.machine.set_link(False)
    user.wait_until_lost(said)
    user.wait_until_detached()
    user.machine.set_link(True)
    user.echo(user.wait_for_tty(said), "attached again")
    user.stop()


def test_the_clients_machine_loses_its_power(agent: Lab, user: Desk, board: Board) -> None:
    user.attach(board, grace=GRACE)
    with agent.timed("the client's machine loses its power", board.serial):
        user.machine.power_cut()


def test_the_clients_machine_reboots_and_goes_on(
    agent: Lab, user: Desk, board: Board, kept: icefarm.Reservation
) -> None:
    user.attach(kept)
    user.machine.power_cut()
    user.machine.boot()
    # Whatever the farm still believes of the former session, the same reservation is attached.
    user.echo(user.attach(kept), "after the reboot")
    user.stop()
    with agent.timed("the client's machine was rebooted, and released its board", board.serial):
        kept.release()


def test_the_agent_is_killed_while_it_binds(agent: Lab, board: Board) -> None:
    command = agent.farm.processes
    with agent.killed_when("bind", board.busid):
        reserve = command.start(
            "reserve",
            script("icefarm"),
            "reserve",
            *("--name", "ann", "--behaviour", "usbip", "--board", board.serial),
        )
    with agent.timed("the agent is killed in the middle of binding", board.serial, S.READY):
        agent.start_agent()
    # The one who reserved it waits for it, and gets it.
    assert reserve.wait(60) == 0, command.output("reserve")
    assert agent.driver(board.busid) == "usbip-host"
    reports = agent.reports(board.serial)
    command.run("release", "--name", "ann", "--all")
    agent.wait_for(board.serial, S.AVAILABLE, reports)
    assert agent.exported() == ""


def test_the_agent_is_killed_while_it_attaches(
    agent: Lab, user: Desk, board: Board, kept: icefarm.Reservation
) -> None:
    with agent.killed_when("attach", board.busid):
        user.start(kept)
    # It may have got as far as a tty before it was killed.
    until(lambda: not user.is_attached, "nothing of the killed agent's at the desk")
    with agent.timed("the agent is killed in the middle of attaching", board.serial, S.READY):
        agent.start_agent()
    user.echo(user.wait_for_tty(), "attached after all")
    user.stop()


def test_the_agent_is_killed_while_it_flashes(agent: Lab, boards: Boards) -> None:
    board = boards.add("silent")
    with agent.killed_when("flash", board.busid):
        board.plug()
    with agent.timed("the agent is killed in the middle of flashing", board.serial):
        agent.start_agent()
    assert board.state.firmware == "default"


def test_a_board_is_unplugged_while_it_is_attached(
    agent: Lab, user: Desk, board: Board, kept: icefarm.Reservation
) -> None:
    user.attach(kept)
    said = user.said
    board.unplug()
    agent.wait_until_gone(board.serial)
    user.wait_until_detached()
    # It comes back in time, so it is its holder's still.
    again = "a board is plugged in that was unplugged while attached"
    with agent.timed(again, board.serial, S.READY):
        board.plug()
    kept.wait_until_ready()
    user.echo(user.wait_for_tty(said), "plugged in again")
    user.stop()


def test_a_board_is_unplugged_while_it_is_flashed(agent: Lab, boards: Boards) -> None:
    board = boards.add(serial="E6614C311B0000F2")
    board.misbehave(unplug_at_block=20)
    board.plug()
    until(lambda: board.state.mode == "off" and board.state.blocks >= 20, "unplugged")
    agent.wait_until_gone(board.serial)
    with agent.timed("a board is plugged in that was unplugged while flashed", board.serial):
        board.plug()
    assert board.state.firmware == "default"
