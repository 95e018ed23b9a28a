"""The emulated machines and their virtual boards are as the other tests take them to be."""

import hashlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from support.waiting import until

from kernel import picos
from kernel.boards import Board, Boards
from kernel.firmwares import BITSTREAM_BYTES, FIRMWARES, expected_pulses, pattern
from kernel.machine import HOST, GuestError, Machine, MachineError
from kernel.uf2 import firmware_image, uf2

pytestmark = pytest.mark.timeout(240)  # Machines boot in some of it.


@pytest.fixture(autouse=True)
def no_agent(lab_machine: Machine, lab_boards: Boards) -> None:
    """What is plugged in here is the tests' alone."""
    if lab_machine.is_on and "agent" in lab_machine.programs():
        lab_machine.forget("agent")
        lab_boards.kept = None
        lab_boards.remove_all()


def properties(machine: Machine, device: str) -> dict[str, str]:
    """What udev says of it."""
    said = machine.run("udevadm", "info", "--query=property", device).stdout
    return dict(line.split("=", 1) for line in said.splitlines())


def flash(machine: Machine, board: Board, firmware: str) -> None:
    """Call the bootloader and write blocks to its disk, in sectors of nobody's."""
    machine.touch(board.wait_for_tty())
    write_blocks(machine, board.wait_for_disk(), firmware)
    board.wait_until_flashed()


def write_blocks(machine: Machine, disk: str, firmware: str) -> None:
    """Without a file system; the board may be gone before the last sync."""
    machine.write("/run/new.uf2", uf2(firmware_image(firmware)))
    options = ("bs=64K", "seek=1M", "oflag=seek_bytes", "conv=notrunc,fsync")
    machine.run("dd", "if=/run/new.uf2", f"of={disk}", *options, check=False)


@pytest.fixture
def server() -> Iterator[socket.socket]:
    """Listens on this machine, whom emulated ones reach as HOST."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(20)
        yield server


def connect(machine: Machine, server: socket.socket, timeout: float) -> int:
    """Connect to the server and disconnect again; return the exit status."""
    place = (HOST, server.getsockname()[1])
    program = f"import socket; socket.create_connection({place}, {timeout})"
    return machine.run(sys.executable, "-S", "-c", program, check=False).returncode


def test_programs_run_and_their_output_comes(desk: Machine) -> None:
    ended = desk.run("sh", "-c", "echo out; echo err >&2; exit 3", check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, "out\n", "err\n")
    assert desk.run("hostname").stdout == "desk\n"
    assert desk.run(sys.executable, "-c", "import pydantic").stdout == ""
    with pytest.raises(subprocess.CalledProcessError):
        desk.run("false")
    with pytest.raises(subprocess.TimeoutExpired):
        desk.run("sleep", "60", timeout=0.2)
    with pytest.raises(GuestError, match="FileNotFoundError"):
        desk.run("no-such-program")


def test_programs_run_in_the_background(desk: Machine) -> None:
    desk.start("naps", "sh", "-c", "trap 'echo bye; exit 7' TERM; echo up; sleep 60 & wait")
    until(lambda: desk.log("naps") == "up\n")
    assert desk.running("naps")
    desk.signal("naps", 15)
    assert desk.wait("naps") == 7
    assert not desk.running("naps")
    assert desk.log("naps") == "up\nbye\n"
    desk.start("sleeper", "sleep", "60")
    desk.kill("sleeper")
    assert desk.wait("sleeper") == -9


def test_what_a_machine_writes_stays_in_it(desk: Machine) -> None:
    content = os.urandom(3_000_000)
    desk.write("/etc/new", content)
    assert desk.read("/etc/new") == content
    assert not os.path.exists("/etc/new")


def test_udev_knows_a_board(lab: Machine, boards: Boards) -> None:
    board = boards.plug(serial="E6614C311B7E0001", model="pico-ice")
    tty = board.wait_for_tty()
    known = properties(lab, tty)
    assert known["ID_SERIAL_SHORT"] == "E6614C311B7E0001"
    assert known["ID_MODEL"] == "pico-ice"
    assert known["ID_USB_INTERFACE_NUM"] == "00"
    assert b"default firmware" in lab.talk(tty, b"", "default firmware")
    assert b"default firmware: hello" in lab.talk(tty, b"hello\n", ": hello\r\n")


def test_udev_tells_programs_of_what_happens(lab: Machine, boards: Boards) -> None:
    # As the agent listens: to udev rather than to the kernel, so that properties are complete.
    watch = (
        "import pyudev; monitor = pyudev.Monitor.from_netlink(pyudev.Context(), 'udev');"
        "monitor.filter_by('tty'); monitor.start(); print('listens', flush=True);"
        "[print(d.action, d.get('ID_SERIAL_SHORT'), flush=True) for d in iter(monitor.poll, None)]"
    )
    lab.start("monitor", sys.executable, "-c", watch)
    until(lambda: "listens" in lab.log("monitor"))
    board = boards.plug()
    until(lambda: f"add {board.serial}" in lab.log("monitor"))
    board.unplug()
    until(lambda: f"remove {board.serial}" in lab.log("monitor"))


def test_a_board_is_flashed(lab: Machine, boards: Boards) -> None:
    board = boards.plug()
    lab.touch(board.wait_for_tty())
    disk = board.wait_for_disk()
    assert properties(lab, f"{disk}1")["ID_FS_LABEL"] == "RPI-RP2"
    assert properties(lab, disk)["ID_SERIAL_SHORT"] == picos.BOOTLOADER.serial
    assert board.state.mode == "boot"

    write_blocks(lab, disk, "echo")
    board.wait_until_flashed()
    tty = board.wait_for_tty()
    state = board.state
    assert (state.mode, state.firmware, state.flashed) == ("app", "echo", 1)
    assert state.image_sha256 == hashlib.sha256(firmware_image("echo")).hexdigest()
    every_byte = bytes(range(256))
    assert lab.talk(tty, every_byte + b"end", "end") == every_byte + b"end"


def test_a_file_that_is_copied_to_the_disk_flashes_too(lab: Machine, boards: Boards) -> None:
    board = boards.plug(bootloader=True)
    disk = board.wait_for_disk()
    lab.write("/run/new.uf2", uf2(firmware_image("silent", 100_000)))
    lab.run("mkdir", "-p", "/run/disk")
    lab.run("mount", f"{disk}1", "/run/disk")
    assert b"RP2" in lab.read("/run/disk/INFO_UF2.TXT")
    lab.run("sh", "-c", "cp /run/new.uf2 /run/disk; umount /run/disk", check=False)
    board.wait_until_flashed()
    board.wait_for_tty()
    assert (board.state.firmware, board.state.image_size) == ("silent", 100_096)


def test_a_board_measures_what_it_is_sent(lab: Machine, boards: Boards) -> None:
    tty = boards.plug("pulsecount").wait_for_tty()
    assert lab.talk(tty, b"", "\r\n") == b"Waiting for bitstream transfer\r\n"
    bitstream = os.urandom(BITSTREAM_BYTES)
    heard = lab.talk(tty, bitstream, f"pulses: {expected_pulses(bitstream)}\r\n")
    assert b"Flashing FPGA" in heard
    heard = lab.talk(tty, bitstream[:1000], "Watchdog timeout, 1000 bytes received of 104090\r\n")
    assert b"pulses" not in heard


def test_throughput_can_be_measured(lab: Machine, boards: Boards) -> None:
    tty = boards.plug("blast").wait_for_tty()
    assert lab.talk(tty, b"blast 200000\nsink 3\nabc", "sank 3, sum 294\r\n").startswith(
        pattern(200_000)
    )


def test_boards_misbehave_as_they_are_told(lab: Machine, boards: Boards) -> None:
    lost, stays_away, half, no_disk = (boards.plug() for _ in range(4))
    lost.misbehave(picos.FLASH_LOST)
    flash(lab, lost, "echo")
    stays_away.misbehave(picos.NO_RETURN)
    flash(lab, stays_away, "echo")
    half.misbehave(unplug_at_block=20)
    flash(lab, half, "echo")
    half.wait_until_gone()
    no_disk.misbehave(picos.NO_DISK)
    lab.touch(no_disk.wait_for_tty())

    lost.wait_for_tty()
    assert (lost.state.firmware, lost.state.flashed) == ("default", 1)
    assert (stays_away.state.mode, stays_away.state.firmware) == ("off", "echo")
    assert (half.state.mode, half.state.blocks, half.state.firmware) == ("off", 20, None)
    until(lambda: no_disk.state.mode == "boot")
    assert not lab.glob("/dev/disk/by-label/RPI-RP2")
    # It has nothing to run, so its boot ROM goes no further.
    half.plug()
    half.wait_for_disk()


def test_firmwares_show_themselves_as_they_are(lab: Machine, boards: Boards) -> None:
    for firmware in FIRMWARES:
        boards.plug(firmware)
    by_firmware = {state.firmware: state for state in boards.list()}
    assert set(by_firmware) == set(FIRMWARES)
    assert len({state.busid for state in boards.list()}) == len(FIRMWARES)

    foreign, stuck = (
        next(board for board in boards if board.state.firmware == firmware)
        for firmware in ("foreign", "stuck")
    )
    known = properties(lab, foreign.wait_for_tty())
    assert (known["ID_VENDOR_ID"], known["ID_MODEL_ID"]) == ("cafe", "4001")
    tty = stuck.wait_for_tty()
    lab.touch(tty)
    assert lab.talk(tty, b"still\n", ": still\r\n")
    assert stuck.state.mode == "app"


def test_what_nobody_reads_is_lost(lab: Machine, boards: Boards) -> None:
    board = boards.plug()
    tty = board.wait_for_tty()
    assert not board.state.terminal
    lab.talk(tty, b"one\n", ": one\r\n")
    until(lambda: not board.state.terminal)
    heard = lab.talk(tty, b"two\n", ": two\r\n")
    assert b"one" not in heard
    assert len(heard) < 200


def test_an_unplugged_board_vanishes(lab: Machine, boards: Boards) -> None:
    board = boards.plug()
    tty = board.wait_for_tty()
    board.unplug()
    board.wait_until_gone()
    until(lambda: not lab.glob(tty), "no tty any more")
    board.plug()
    assert properties(lab, board.wait_for_tty())["ID_SERIAL_SHORT"] == board.serial


def test_a_power_cut_tells_nobody(desk: Machine, server: socket.socket) -> None:
    place = (HOST, server.getsockname()[1])
    program = f"import socket, time; held = socket.create_connection({place}); time.sleep(60)"
    desk.start("connected", sys.executable, "-S", "-c", program)
    desk.write("/etc/new", b"lost")
    connection, _ = server.accept()
    with connection:
        desk.power_cut()
        assert not desk.is_on
        with pytest.raises(MachineError, match="off"):
            desk.run("true")
        connection.settimeout(1)
        with pytest.raises(TimeoutError):
            connection.recv(1)
    desk.boot()
    assert not desk.glob("/etc/new")
    assert not desk.running("connected")
    assert connect(desk, server, timeout=20) == 0


def test_a_pulled_cable_loses_packets(desk: Machine, server: socket.socket) -> None:
    assert connect(desk, server, timeout=20) == 0
    desk.set_link(False)
    assert connect(desk, server, timeout=1) != 0
    desk.set_link(True)
    assert connect(desk, server, timeout=20) == 0


def test_a_machine_that_dies_says_so(desk: Machine) -> None:
    # The last one here, which spares a boot.
    desk.write("/proc/sys/kernel/sysrq", b"1")
    with pytest.raises(MachineError, match="sysrq triggered crash"):
        desk.write("/proc/sysrq-trigger", b"c")
    assert not desk.is_on
