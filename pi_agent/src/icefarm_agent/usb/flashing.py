"""Writing a firmware through a board's bootloader.

A board reboots into its bootloader when its tty is opened at 1200 baud (a convention of Arduino's
that the Pico SDK follows). The bootloader shows a disk; UF2 blocks that are written to it go to
flash, and a second after the last one the board starts what it was given.

The blocks are written to the disk itself, without a file system: the boot ROMs of RP2040 and RP2350
ignore the number of the sector that is written and look only at the block in it (`vd_write_block`
in pico-bootrom: `__unused uint32_t lba`). So nothing is mounted, and nothing is left mounted when
the board drops off the bus.
"""

import asyncio
import errno
import fcntl
import logging
import mmap
import os
import termios
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from weakref import WeakKeyDictionary

from icefarm_agent.board import BoardError, FirmwareError
from icefarm_agent.usb.configuration import Product
from icefarm_agent.usb.device import Disk, UsbDevice
from icefarm_agent.usb.port import UsbPort
from icefarm_agent.usb.threads import in_thread
from icefarm_agent.usb.uf2 import Uf2

log = logging.getLogger(__name__)

APPEAR_TIMEOUT = 10.0
"""Seconds for a board that was just plugged in or restarted to show a tty."""
TOUCH_TIMEOUT = 10.0
"""Seconds for opening and closing the tty at 1200 baud."""
BOOTLOADER_TIMEOUT = 10.0
"""Seconds from there until the bootloader is on the bus; 0.5 to 1 on a Pi."""
DISK_TIMEOUT = 15.0
"""Seconds until its disk is there: usb_storage waits 1 s unless told otherwise."""
WRITE_TIMEOUT = 120.0
"""Seconds for writing; a full 2 MB of flash takes about 30."""
LEAVE_TIMEOUT = 10.0
"""Seconds from the last block until the bootloader is off the bus; 1 on a Pi."""
RETURN_TIMEOUT = 15.0
"""Seconds from there until the firmware is on the bus."""

_TOUCH_BAUD, _OTHER_BAUD = termios.B1200, termios.B115200
_WRITE_AT = 1 << 20
"""Well behind the FAT and the files that the disk seems to have."""
_CHUNK = 32 << 10
_GONE = {errno.EIO, errno.ENODEV, errno.ENXIO, errno.ENOMEDIUM, errno.ESHUTDOWN}
_writing: WeakKeyDictionary[UsbPort, "asyncio.Task[None]"] = WeakKeyDictionary()
"""The last firmware that was written at each port, for the next flash to wait for its end."""
_BY_HAND = "hold its BOOTSEL button and plug it in again"


async def flash(port: UsbPort, product: Product, image: Uf2, *, console: bool = True) -> None:
    """Write a firmware to the board at a port, and return when the board runs it.

    It may be running another firmware or be in its bootloader. What fails is tried once more, from
    the beginning, if the board is still there. It can be cancelled at any moment; what is being
    written then is written to its end in the background, and the next flash waits for that.

    Args:
        console: it is back when it shows a tty; else when it is on the bus at all.

    Raises:
        FirmwareError: the firmware is for another chip. The board may be in its bootloader then.
        BoardError: the board did not do what it should; the text says at which step.
    """
    try:
        await _flash(port, product, image, console)
    except FirmwareError:
        raise
    except BoardError as first:
        if port.device is None:
            raise
        log.warning("flashing at %s is tried again: %s", port.busid, first)
        try:
            await _flash(port, product, image, console)
        except FirmwareError:
            raise
        except BoardError as second:
            if str(first) == str(second):
                raise
            raise BoardError(f"{second} (and at the attempt before: {first})") from second


async def _flash(port: UsbPort, product: Product, image: Uf2, console: bool) -> None:
    def bootloader(device: UsbDevice | None) -> UsbDevice | None:
        return device if device is not None and device.ids in product.bootloaders else None

    def bootloader_or_tty(device: UsbDevice | None) -> UsbDevice | None:
        return bootloader(device) or (device if device is not None and device.ttys else None)

    def disk(device: UsbDevice | None) -> Disk | None:
        if device is None:
            raise BoardError("it went off the bus while it was in its bootloader")
        disks = device.disks if bootloader(device) else ()
        return next((disk for disk in disks if _is_bootloaders(disk, product)), None)

    def back(device: UsbDevice | None) -> bool:
        if device is None or bootloader(device) or device.driver != "usb":
            return False
        return device.console is not None if console else True

    if unfinished := _writing.get(port):
        await asyncio.wait([unfinished])
    start = await port.until(
        bootloader_or_tty,
        APPEAR_TIMEOUT,
        f"the board shows no serial port by which to reboot it into its bootloader: {_BY_HAND}",
    )
    if not bootloader(start):
        tty = start.console or start.ttys[0].path
        await _in_time(partial(_touch, tty), TOUCH_TIMEOUT, f"opening {tty} at 1200 baud")
    loader = await port.until(
        bootloader,
        BOOTLOADER_TIMEOUT,
        "its bootloader did not appear after its serial port was opened at 1200 baud, so its "
        f"firmware does not listen to that: {_BY_HAND}",
    )
    if accepted := product.families(loader.ids):
        image.check_chip(accepted)
    target = await port.until(
        disk,
        DISK_TIMEOUT,
        "it is in its bootloader, but the bootloader's disk did not appear (is there a driver: "
        "`modprobe usb-storage`? does udevd run?)",
    )
    # A task of its own, which is not cancelled with this one: a bootloader that got half of one
    # firmware and then another that is as long takes blocks of both.
    writing = asyncio.create_task(_write_and_leave(port, loader, target, image))
    writing.add_done_callback(lambda task: task.cancelled() or task.exception())
    _writing[port] = writing
    await asyncio.shield(writing)
    await port.until(
        back,
        RETURN_TIMEOUT,
        "the firmware was written, but the board did not come back with "
        + ("a serial port" if console else "anything on the USB")
        + f" (does this firmware have one?): else {_BY_HAND}",
    )


async def _write_and_leave(port: UsbPort, loader: UsbDevice, disk: Disk, image: Uf2) -> None:
    write = partial(_write, loader, disk.path, image.data)
    await _in_time(write, WRITE_TIMEOUT, "writing the firmware")
    # Until it has left, it would take another firmware and start this one all the same.
    await port.until(
        lambda device: device is None or device.devnum != loader.devnum,
        LEAVE_TIMEOUT,
        "its bootloader took the whole firmware, but does not start it",
    )


def _is_bootloaders(disk: Disk, product: Product) -> bool:
    # The label can be changed on an RP2350, so a FAT file system on this device will do.
    return disk.label in product.disk_labels or disk.filesystem == "vfat"


async def _in_time(call: "partial[None]", timeout: float, what: str) -> None:
    try:
        async with asyncio.timeout(timeout):
            await in_thread(call)
    except TimeoutError:
        raise BoardError(
            f"{what} took longer than {timeout:g} s; unplug the board and plug it in again"
        ) from None


def _touch(tty: str) -> None:
    """Open a tty at 1200 baud and close it."""
    try:
        fd = os.open(tty, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError as error:
        raise BoardError(
            f"cannot open its serial port {tty} to reboot it: {error.strerror}"
        ) from error
    try:
        # Another speed first: the driver tells the device only about a change, and an attempt
        # before may have left it at 1200.
        for speed in (_OTHER_BAUD, _TOUCH_BAUD):
            attributes = termios.tcgetattr(fd)
            attributes[4] = attributes[5] = speed
            termios.tcsetattr(fd, termios.TCSANOW, attributes)
    except termios.error as error:
        # It may be gone already, as it should; whether it is, is seen on the bus.
        if error.args[0] not in _GONE:
            raise BoardError(f"cannot set {tty} to 1200 baud: {error}") from error
    finally:
        with suppress(OSError):
            os.close(fd)


def _write(loader: UsbDevice, disk: str, data: bytes) -> None:
    """Write UF2 blocks to a disk, in their order and past the page cache.

    When the last one has arrived, errors are success: the board is starting what it was given.
    """
    try:
        # O_DIRECT, so that each write returns when the board has taken it.
        fd = os.open(disk, os.O_WRONLY | os.O_DIRECT)
    except OSError as error:
        raise BoardError(f"cannot open its bootloader's disk {disk}: {error.strerror}") from error
    try:
        _check_disk(fd, loader)
        with closing(mmap.mmap(-1, len(data))) as aligned:
            aligned.write(data)
            # So that udev does not read the disk meanwhile (systemd: Locking Block Device Access).
            fcntl.flock(fd, fcntl.LOCK_EX)
            _write_all(fd, aligned)
        with suppress(OSError):
            os.fsync(fd)
    finally:
        with suppress(OSError):
            os.close(fd)


def _check_disk(fd: int, loader: UsbDevice) -> None:
    """See that what was opened is the bootloader's: another disk may have got its name by now."""
    number = os.fstat(fd).st_rdev
    try:
        opened = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}").resolve(strict=True)
        devnum = int((Path(loader.syspath) / "devnum").read_text())
    except OSError as error:
        raise BoardError(f"its bootloader went away: {error.strerror}") from error
    if not opened.is_relative_to(loader.syspath) or devnum != loader.devnum:
        raise BoardError("its bootloader went away, and something else has its disk's name")


def _write_all(fd: int, data: mmap.mmap) -> None:
    at = 0
    with memoryview(data) as view:
        while at < len(view):
            with view[at : at + _CHUNK] as chunk:
                last = at + len(chunk) == len(view)
                try:
                    at += os.pwrite(fd, chunk, _WRITE_AT + at)
                except OSError as error:
                    if last and error.errno in _GONE:
                        return
                    raise BoardError(
                        f"writing the firmware stopped after {at:,} of {len(view):,} bytes: "
                        f"{error.strerror}"
                    ) from error
