"""The commands of the desk's user, as they are typed."""

import json
import re
import time

import pytest
from support.processes import script
from support.waiting import until

import icefarm
from icefarm_schemas import DeviceStatus
from kernel.boards import Board
from kernel.desk import Desk
from kernel.scenario import Lab
from kernel.uf2 import firmware_image, uf2

pytestmark = pytest.mark.timeout(240)  # Machines boot in some of it.


def start(user: Desk, name: str, *arguments: str) -> None:
    """Start an `icefarm` command in the background."""
    environment = user.farm.environment
    command = (script("icefarm"), *arguments, "--name", "ann")
    user.machine.start(name, *command, env=environment, warm="icefarm.cli")


def test_attach_and_detach(agent: Lab, user: Desk, board: Board) -> None:
    # After a restart of its agent the board is being prepared.
    start(user, "attach", "attach", "--board", board.serial, "--wait", "60")
    line = f"{board.serial}: /dev/ttyACM"
    until(lambda: line in user.machine.log("attach"), "attached", timeout=120)
    tty = user.machine.log("attach").split(f"{board.serial}: ")[1].split()[0]
    user.echo(tty, "by a command")
    with agent.timed("`icefarm detach` of a board that was reserved for it", board.serial):
        ended = user.farm.run(user.machine, "detach", "--all")
    assert f"{board.serial} is detached" in ended.stderr
    assert user.machine.wait("attach") == 0
    user.wait_until_detached()


def test_the_doctor_finds_the_driver(agent: Lab, user: Desk) -> None:
    # An emulated machine's clock is off by up to a second after its boot, and drifts.
    user.machine.run("date", "--set", f"@{time.time():.3f}")
    done = user.farm.run(user.machine, "doctor", "--json")
    findings = {finding["check"]: finding for finding in map(json.loads, done.stdout.splitlines())}
    assert findings["usb"]["state"] == "ok"
    assert re.search(r"vhci-hcd is there, with \d+ of \d+ ports free", findings["usb"]["what"])
    assert {finding["state"] for finding in findings.values()} == {"ok", "skipped"}


def test_any_usbip_client_can_import_a_board(
    agent: Lab, user: Desk, board: Board, kept: icefarm.Reservation
) -> None:
    start(user, "serve", "attach", "--server", "--reservation", kept.id)
    until(lambda: "usbip attach" in user.machine.log("serve"), "the server", timeout=120)
    offered = user.machine.run("usbip", "list", "-r", "127.0.0.1").stdout
    assert "2e8a:000a" in offered
    [command] = [line for line in user.machine.log("serve").splitlines() if "usbip" in line]
    user.machine.run(*command.split(": ", 1)[1].split())
    until(lambda: "/dev/ttyACM0" in user.machine.glob("/dev/ttyACM*"), "the tty")
    user.echo("/dev/ttyACM0", "imported")
    user.machine.signal("serve", 15)
    assert user.machine.wait("serve") == 0
    user.wait_until_detached()


def test_console_and_reset(agent: Lab, user: Desk, board: Board, kept: icefarm.Reservation) -> None:
    kept.flash(uf2(firmware_image("echo")))
    user.machine.run(
        "sh",
        "-c",
        # Its input goes on until the answer is there: after that, it ends when the board is quiet.
        "{ echo hello board; until grep -q board /run/said; do sleep 0.1; done; } | "
        f"{script('icefarm')} console --name ann --reservation {kept.id} "
        "--log /run/console.log > /run/said",
        env=user.farm.environment,
        timeout=120,
    )
    said = user.machine.read("/run/said")
    assert said == b"hello board\n"
    assert user.machine.read("/run/console.log") == said
    flashed = board.state.flashed
    user.farm.run(user.machine, "reset", "--reservation", kept.id, "--name", "ann")
    # It runs the holder's firmware anew.
    assert (board.state.flashed, board.state.firmware) == (flashed + 1, "echo")


def test_what_is_taken_from_usbip_host_is_exported_again(
    agent: Lab, user: Desk, board: Board, kept: icefarm.Reservation
) -> None:
    repairs = agent.repairs(board.serial)
    agent.machine.run("usbip", "unbind", "-b", board.busid)
    until(lambda: agent.repairs(board.serial) > repairs, "put right")
    agent.wait_for(board.serial, DeviceStatus.READY, agent.reports(board.serial) - 1)
    until(lambda: agent.driver(board.busid) == "usbip-host", "exported")
    user.echo(user.attach(kept), "exported again")
    user.stop()
