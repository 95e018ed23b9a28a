"""The kernel's side of giving a device away: the driver `usbip-host`, by way of sysfs.

A device is given away in two steps. `bind` takes it from its driver, so that its ttys disappear
here; `hand_over` gives the kernel one end of a socket, over which it then speaks USB/IP.

What the kernel's driver (drivers/usb/usbip/stub_main.c and stub_dev.c) does with the table behind
`match_busid`, seen on Linux 6.1:

* The table has 16 places, so a machine can give away 16 devices at a time.
* `del` removes nothing. On an entry of a bound device it even makes every later `bind` of that port
  fail, so it is never written here. What removes an entry is `rebind`.
* `rebind` uses the device that the driver had last at that port, without looking whether it still
  exists. So it is written only while that device is held by an open descriptor of its own.
* An entry whose device is gone therefore cannot be removed. It does no harm: a device that comes to
  that port later gets its usual driver, and is bound and released like any other.
"""

import errno
import os
import re
import shutil
import socket
import subprocess
import threading
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from enum import IntEnum
from functools import partial
from pathlib import Path

from icefarm_agent.board import BoardError
from icefarm_agent.usb.threads import in_thread

BUSID = re.compile(r"\d+-\d+(\.\d+)*")
"""A place on the bus: bus number, then the ports of each hub on the way."""

DRIVER = "usbip-host"
USUAL_DRIVER = "usb"
"""The kernel's driver of whole devices; the interfaces' drivers (cdc_acm ...) come with it."""

_DRIVERS = Path("/sys/bus/usb/drivers")
_DEVICES = Path("/sys/bus/usb/devices")
_TABLE = _DRIVERS / DRIVER / "match_busid"

_locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
"""One per port: what a cancelled call still does there must not mix with what is done next."""


class Status(IntEnum):
    """What the kernel says of a bound device (`usbip_status`; enum usbip_device_status)."""

    AVAILABLE = 1
    USED = 2
    ERROR = 3


def load_module() -> None:
    """See to it that the kernel can give devices away.

    Raises:
        BoardError: the module is not loaded, and cannot be.
    """
    if _TABLE.exists():
        return
    # Where systemd did not do it at boot, by deploy/modules-load.d.
    modprobe = shutil.which("modprobe", path="/usr/sbin:/sbin:/usr/bin:/bin")
    said = (
        "there is no modprobe"
        if modprobe is None
        else subprocess.run(
            [modprobe, "usbip-host"], capture_output=True, text=True, check=False
        ).stderr.strip()
    )
    if not _TABLE.exists():
        raise BoardError(
            "the kernel's module usbip-host is not loaded, so boards cannot be given away over "
            f"USB/IP, and it cannot be loaded now: {said}; install the kernel's modules, run "
            "`modprobe usbip-host`, or start the agent as root"
        )


async def bind(busid: str) -> None:
    """Take the device at a port from its driver and give it to usbip-host; again is no harm.

    Cancelled, it goes on in the background; `unbind` waits for that and then undoes it.

    Raises:
        BoardError: there is no device, the module is not loaded, or the kernel refuses.
    """
    await in_thread(partial(_locked, _bind, _checked(busid)))


async def unbind(busid: str) -> None:
    """Give the device at a port back to its usual driver, whatever state it is in.

    Also one that is in use: its connection ends. Nothing is to be done when the device is gone.

    Raises:
        BoardError: the kernel refuses, so the board cannot be used here.
    """
    await in_thread(partial(_locked, _unbind, _checked(busid)))


async def hand_over(busid: str, sock: socket.socket) -> None:
    """Let the kernel speak USB/IP on a connected stream socket; it keeps a reference of its own.

    The caller may close `sock` afterwards; closing or shutting down the other end frees the device.

    Raises:
        BoardError: the device is not bound, or is in use already.
    """
    # A descriptor of the thread's own: the caller may close his while the thread is on its way.
    copy = sock.dup()
    await in_thread(partial(_locked, partial(_hand_over, copy), _checked(busid)))


async def drop(busid: str) -> None:
    """End the connection of a device that is in use; it stays bound.

    The kernel does it soon afterwards: `status` is then AVAILABLE again, after 0.3 s as measured,
    or ERROR if the device did not survive the reset. Nothing is to be done if it is not in use.

    Raises:
        BoardError: the kernel refuses.
    """
    await in_thread(partial(_locked, _drop, _checked(busid)))


def status(busid: str) -> Status | None:
    """What the kernel says of the device at a port; None when it is not bound to usbip-host."""
    try:
        return Status(int((_DEVICES / _checked(busid) / "usbip_status").read_text()))
    except OSError:
        return None


def matched() -> set[str]:
    """The ports in usbip-host's table: those of bound devices, and what earlier ones left there."""
    try:
        return set(_TABLE.read_text().split())
    except FileNotFoundError:
        return set()


def driver_of(busid: str) -> str | None:
    """The driver that has the device at a port now; None where there is none, or no device."""
    try:
        return os.readlink(_DEVICES / busid / "driver").rpartition("/")[2]
    except OSError:
        return None


def _checked(busid: str) -> str:
    if not BUSID.fullmatch(busid):
        raise ValueError(f"{busid!r} is no place on a USB; one looks like 1-1.2")
    return busid


def _locked(step: Callable[[str], None], busid: str) -> None:
    with _locks[busid]:
        step(busid)


def _bind(busid: str) -> None:
    load_module()
    if driver_of(busid) == DRIVER:
        return
    if not (_DEVICES / busid).exists():
        raise BoardError(f"there is no device at the USB port {busid}")
    try:
        _write(_TABLE, f"add {busid}")
    except OSError as error:
        if error.errno == errno.ENOMEM:
            raise BoardError(
                "usbip-host has no place left for another device: its table takes 16 ports "
                f"({', '.join(sorted(matched()))})"
            ) from error
        raise BoardError(f"usbip-host does not take the port {busid}: {error}") from error
    try:
        _leave_driver(busid, USUAL_DRIVER)
        _write(_DRIVERS / DRIVER / "bind", busid)
    except OSError as error:
        # Rather as it was than without any driver.
        with suppress(OSError):
            _write(_DRIVERS / USUAL_DRIVER / "bind", busid)
        raise BoardError(
            f"the kernel does not give the device at {busid} to usbip-host: {error}; "
            "`dmesg` may say why, and `modprobe -r usbip-host && modprobe usbip-host` clears its "
            "table"
        ) from error


def _unbind(busid: str) -> None:
    if not (_DEVICES / busid).exists():
        return
    try:
        if driver_of(busid) != DRIVER and busid in matched():
            _take_back(busid)
        if driver_of(busid) == DRIVER:
            _release(busid)
        if driver_of(busid) is None:
            _write(_DRIVERS / USUAL_DRIVER / "bind", busid)
    except OSError as error:
        if not (_DEVICES / busid).exists() or driver_of(busid) == USUAL_DRIVER:
            return
        raise BoardError(
            f"the kernel does not take the device at {busid} back from usbip-host: {error}; "
            "unplug it and plug it in again"
        ) from error


def _take_back(busid: str) -> None:
    """Bind what was left half-way to usbip-host, which then can remove its entry."""
    _leave_driver(busid, USUAL_DRIVER)
    # Refused, the entry is of no use to the driver either, and only takes a place in its table.
    with suppress(OSError):
        _write(_DRIVERS / DRIVER / "bind", busid)


def _release(busid: str) -> None:
    held = _hold(busid)
    try:
        _leave_driver(busid, DRIVER)
        # It frees the entry and lets the usual driver in.
        _write(_DRIVERS / DRIVER / "rebind", busid)
    finally:
        os.close(held)


def _hold(busid: str) -> int:
    """A descriptor that keeps the kernel's record of the device, whether it is plugged in or not.

    Raises:
        OSError: it is gone.
    """
    device = _DEVICES / busid
    bus, number = (int((device / name).read_text()) for name in ("busnum", "devnum"))
    return os.open(f"/dev/bus/usb/{bus:03}/{number:03}", os.O_RDONLY)


def _leave_driver(busid: str, driver: str) -> None:
    if driver_of(busid) != driver:
        return
    try:
        _write(_DRIVERS / driver / "unbind", busid)
    except OSError as error:
        # It left by itself in between.
        if error.errno != errno.ENODEV:
            raise


def _hand_over(sock: socket.socket, busid: str) -> None:
    with sock:
        try:
            _write(_DEVICES / busid / "usbip_sockfd", f"{sock.fileno()}\n")
        except OSError as error:
            now = status(busid)
            raise BoardError(
                f"the kernel does not give the device at {busid} away: "
                + (
                    "it is not bound to usbip-host"
                    if now is None
                    else f"its status is {now.name.lower()} ({error.strerror})"
                )
            ) from error


def _drop(busid: str) -> None:
    try:
        _write(_DEVICES / busid / "usbip_sockfd", "-1\n")
    except OSError as error:
        if status(busid) is Status.USED:
            raise BoardError(
                f"the kernel does not end the connection of the device at {busid}: {error}"
            ) from error


def _write(path: Path, text: str) -> None:
    """One write(2), as sysfs wants it."""
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
