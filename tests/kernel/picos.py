"""Virtual pico-ice boards inside an emulated machine, on the kernel's own USB stack.

What a board does is decided by the image that was flashed into it (`uf2.py`, `firmwares.py`).
Set to 1200 baud, its tty makes it reboot into the RP2040's bootloader: a disk that takes UF2 blocks
in any sector, and a serial number that all RP2040 share. A second after the last block it drops off
the bus, whatever the host still has to write, and runs the new image. Each time it is off the bus
for half a second.
"""

import contextlib
import hashlib
import json
import os
import select
import sys
import termios
import threading
import time
import tty
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernel.bootloader import Disk, format_disk
from kernel.firmwares import FIRMWARES, Firmware
from kernel.gadgets import DiskGadget, Identity, Port, SerialGadget, load_modules
from kernel.guest import listen, read_frame, write_frame
from kernel.uf2 import firmware_image, firmware_name

SOCKET = "/run/icefarm/picos.socket"
HIGH_SPEED = "high-speed"
PORTS = 8
"""As many consoles as the kernel's u_serial has."""

MODELS = {
    "Pico": (0x2E8A, 0x000A, "Raspberry Pi"),
    "pico-ice": (0x1209, 0xB1C0, "tinyVision.ai Inc."),
    "RP2350": (0x2E8A, 0x0009, "Raspberry Pi"),
}
"""Vendor, product and manufacturer of a board's own firmwares."""
BOOTLOADER = Identity(0x2E8A, 0x0003, "Raspberry Pi", "RP2 Boot", "E0C9125B0D9B")
FOREIGN = Identity(0xCAFE, 0x4001, "TinyUSB", "TinyUSB Device", "123456")

NO_BOOTLOADER = "no-bootloader"
"""Rebooting into the bootloader, it stays off the bus."""
NO_DISK = "no-disk"
"""The bootloader is on the bus, and has a drive without a medium."""
NO_RETURN = "no-return"
"""It stays off the bus when it was flashed."""
FLASH_LOST = "flash-lost"
"""It runs its former image when it was flashed, once."""
_FAULTS = {NO_BOOTLOADER, NO_DISK, NO_RETURN, FLASH_LOST}

_OFF_THE_BUS = 0.5
_LAST_BLOCK = 1.0
_POLL = 0.05
_REOPEN = 0.005
_STALE = 0.5
_FULL = 65_536
"""Bytes that wait to be sent, above which a board reads no more."""


@dataclass(frozen=True)
class BoardState:
    """What a board tells of itself."""

    port: int
    busid: str
    serial: str
    model: str
    mode: str
    """`app`, `boot` or `off`."""
    firmware: str | None
    """In its flash memory; None where there is no valid image."""
    image_size: int
    image_sha256: str
    flashed: int
    """How often all blocks of an image came."""
    terminal: bool
    """Whether its host has its tty open."""
    blocks: int
    """Of the flashing that is under way, or was the last."""


class Board:
    """One at a port, with its own mind."""

    def __init__(self, port: Port) -> None:
        self._port = port
        self._console = SerialGadget(f"console{port.number}")
        self._drive = DiskGadget(f"drive{port.number}")
        self._disk = Path(f"/run/icefarm/drive{port.number}")
        self._lock = threading.RLock()
        self._life = 0
        """Rises whenever the board leaves the bus or comes to it; what belongs to a life ends."""
        self._wake = os.eventfd(0, os.EFD_NONBLOCK)
        self.mode = "off"
        self.terminal = False
        self.renew("", "Pico", b"")
        threading.Thread(target=self._monitor, daemon=True).start()

    def renew(self, serial: str, model: str, image: bytes) -> None:
        """Become another board, which is not plugged in yet."""
        self.unplug()
        vendor, product, manufacturer = MODELS[model]
        self.identity = Identity(vendor, product, manufacturer, model, serial)
        self.image, self.flashed, self.blocks = image, 0, 0
        self.faults: set[str] = set()
        self.unplug_at_block: int | None = None

    @property
    def state(self) -> BoardState:
        """Of this moment."""
        return BoardState(
            port=self._port.number,
            busid=self._port.busid,
            serial=self.identity.serial,
            model=self.identity.model,
            mode=self.mode,
            firmware=firmware_name(self.image),
            image_size=len(self.image),
            image_sha256=hashlib.sha256(self.image).hexdigest(),
            flashed=self.flashed,
            terminal=self.terminal,
            blocks=self.blocks,
        )

    # On the bus and off it

    def plug(self, bootloader: bool) -> None:
        """Put the cable in, with the button pressed or not."""
        with self._lock:
            self.unplug()
            # Without a valid image the boot ROM goes no further.
            if bootloader or firmware_name(self.image) not in FIRMWARES:
                self._enter_bootloader()
            else:
                self._run_image()

    def unplug(self) -> None:
        """Pull the cable."""
        with self._lock:
            mode, self.mode = self.mode, "off"
            self._next_life()
            if mode == "app":
                self._console.disconnect()
            elif mode == "boot":
                self._drive.disconnect()

    def _reboot(self, life: int, *, bootloader: bool, stay_away: bool) -> None:
        with self._lock:
            if self._life != life:
                return
            self._note(f"reboots into {'the bootloader' if bootloader else 'its image'}")
            self.unplug()
            life = self._life
        time.sleep(_OFF_THE_BUS)
        with self._lock:
            if self._life == life and not stay_away:
                self.plug(bootloader)

    def _next_life(self) -> int:
        self._life += 1
        self.terminal = False
        os.eventfd_write(self._wake, 1)
        return self._life

    def _enter_bootloader(self) -> None:
        if NO_DISK in self.faults:
            self._drive.load(None)
        else:
            format_disk(self._disk)
            self._drive.load(self._disk)
        disk = Disk(self._disk)
        self.blocks = 0
        self.mode = "boot"
        if NO_DISK not in self.faults:
            self._in_background(self._take_image, disk, self._next_life())
        self._drive.connect(self._port, BOOTLOADER)

    def _run_image(self) -> None:
        name = firmware_name(self.image)
        assert name is not None
        self.mode = "app"
        # Opened before its host can send anything: u_serial would echo what it had kept.
        self._in_background(self._speak, FIRMWARES[name](), self._open(), self._next_life())
        self._console.connect(self._port, FOREIGN if name == "foreign" else self.identity)

    # As an application

    def _speak(self, firmware: Firmware, fd: int, life: int) -> None:
        owed = bytearray()
        answered = due = time.monotonic()
        listening = False
        while self._life == life:
            now = time.monotonic()
            if self.terminal != listening:
                listening = not listening
                if listening and now - answered > _STALE:
                    owed.clear()
                owed += firmware.opened() if listening else b""
            # However late this thread is, what has come was in time.
            has_come = bool(select.select([fd], [], [], 0)[0])
            if firmware.period is not None and now >= due and not has_come:
                due = now + firmware.period
                said = firmware.due()
                # Nobody reads it, or not fast enough: it is lost, as with pico-sdk's stdio.
                if listening and not owed:
                    owed += said
            readable, writable, _ = select.select(
                [self._wake] + ([fd] if len(owed) < _FULL else []),
                [fd] if owed and listening else [],
                [],
                1.0 if firmware.period is None else max(0.0, due - now),
            )
            if self._wake in readable:
                os.eventfd_read(self._wake)
            try:
                if writable:
                    with contextlib.suppress(BlockingIOError):
                        del owed[: os.write(fd, owed[:8192])]
                if fd in readable:
                    data = os.read(fd, 65536)
                    if not data:
                        raise EOFError
                    owed += firmware.received(data)
                    answered = time.monotonic()
            except (OSError, EOFError):
                # Each change of the configuration, such as a reset, hangs the tty up.
                os.close(fd)
                owed.clear()
                time.sleep(_REOPEN)
                fd = self._open()
        os.close(fd)

    def _open(self) -> int:
        while True:
            try:
                fd = os.open(self._console.tty, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
            except OSError:
                # It is being hung up, or udev has not made it yet.
                time.sleep(_REOPEN)
                continue
            try:
                tty.setraw(fd)
            except termios.error:
                os.close(fd)
                continue
            return fd

    def _monitor(self) -> None:
        """What the host sets on the tty, which u_serial keeps to itself.

        A line of usbmon's text (Documentation/usb/usbmon.rst): URB, time, S for submission, "Co"
        and the address, "s" and the setup packet in five words, a length, "=" and the data.
        """
        with self._port.monitor.open("rb", buffering=0) as monitor:
            while True:
                for line in monitor.read(8192).splitlines():
                    words = line.split()
                    if len(words) < 10 or words[2] != b"S" or words[4] != b"s":
                        continue
                    request = words[5] + words[6]
                    if request == b"2122":  # SET_CONTROL_LINE_STATE, of which DTR is bit 0
                        self._terminal_is(bool(int(words[7], 16) & 1))
                    elif request == b"0009":  # SET_CONFIGURATION
                        self._terminal_is(False)
                    elif request == b"2120" and words[12:13] == [b"b0040000"]:  # 1200 baud
                        self._touched()

    def _terminal_is(self, is_open: bool) -> None:
        self.terminal = is_open
        os.eventfd_write(self._wake, 1)

    def _touched(self) -> None:
        with self._lock:
            if self.mode == "app" and firmware_name(self.image) != "stuck":
                self._in_background(
                    lambda life: self._reboot(
                        life, bootloader=True, stay_away=NO_BOOTLOADER in self.faults
                    ),
                    self._life,
                )

    # As a bootloader

    def _take_image(self, disk: Disk, life: int) -> None:
        parts: dict[int, bytes] = {}
        total = 0
        while self._life == life:
            for block in disk.new_blocks():
                if block.total != total:
                    parts, total = {}, block.total
                parts[block.number] = block.payload
                self.blocks = len(parts)
                if self.unplug_at_block == len(parts):
                    self._note(f"is unplugged at block {len(parts)} of {total}")
                    # What is in its flash memory now is neither the old image nor the new one.
                    self.image, self.unplug_at_block = b"", None
                    self.unplug()
                    return
            if total and len(parts) == total:
                self._note(f"took {total} blocks")
                self.flashed += 1
                if FLASH_LOST in self.faults:
                    self.faults.remove(FLASH_LOST)
                else:
                    self.image = b"".join(parts[number] for number in range(total))
                time.sleep(_LAST_BLOCK)
                self._reboot(life, bootloader=False, stay_away=NO_RETURN in self.faults)
                return
            time.sleep(_POLL)

    def _in_background(self, work: Callable[..., None], *arguments: Any) -> None:
        threading.Thread(target=work, args=arguments, daemon=True).start()

    def _note(self, text: str) -> None:
        print(f"{time.monotonic():9.3f} {self._port.busid} {self.identity.serial} {text}")


class Picos:
    """All ports, and the commands to them; each method named `do_...` is one."""

    def __init__(self, *, high_speed: bool) -> None:
        load_modules(PORTS, high_speed=high_speed)
        self._boards: dict[int, Board] = {}

    def answer(self, command: dict[str, Any]) -> dict[str, Any]:
        """Carry a command out; an error is an answer too."""
        method = getattr(self, f"do_{command.pop('do')}")
        try:
            return {"result": method(**command)}
        except (OSError, KeyError, ValueError) as error:
            return {"error": f"{type(error).__name__}: {error}"}

    def do_add(self, port: int, serial: str, model: str, firmware: str) -> dict[str, Any]:
        """A board at a port, not plugged in."""
        if firmware not in FIRMWARES:
            raise ValueError(f"no firmware {firmware!r}, only {', '.join(FIRMWARES)}")
        if port not in self._boards:
            self._boards[port] = Board(Port(port))
        self._boards[port].renew(serial, model, firmware_image(firmware))
        return vars(self._boards[port].state)

    def do_plug(self, port: int, bootloader: bool) -> None:
        """Put its cable in."""
        self._boards[port].plug(bootloader)

    def do_unplug(self, port: int) -> None:
        """Pull its cable."""
        self._boards[port].unplug()

    def do_state(self, port: int) -> dict[str, Any]:
        """What it tells."""
        return vars(self._boards[port].state)

    def do_misbehave(self, port: int, faults: list[str], unplug_at_block: int | None) -> None:
        """From now on, instead of what it did wrong before."""
        if unknown := set(faults) - _FAULTS:
            raise ValueError(f"unknown faults: {unknown}")
        self._boards[port].faults = set(faults)
        self._boards[port].unplug_at_block = unplug_at_block


def main() -> None:
    """Serve for ever; with the argument `high-speed`, boards that are faster than a Pico."""
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    picos = Picos(high_speed=sys.argv[1:] == [HIGH_SPEED])
    with listen(SOCKET) as server:
        while True:
            connection, _ = server.accept()
            with connection, connection.makefile("rwb", buffering=0) as stream:
                _, body = read_frame(stream)
                answer = picos.answer(json.loads(body))
                write_frame(stream, {}, json.dumps(answer).encode())


if __name__ == "__main__":
    main()
