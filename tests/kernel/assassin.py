"""Sends the agent a signal in the middle of something: python assassin.py EVENT BUSID PID SIGNAL

It looks at the kernel all the time, so that the process is dead some milliseconds after the event:

    bind     the port is in usbip-host's table, of which the device is not bound yet
    attach   the kernel has the agent's socket
    flash    the bootloader's disk has been opened for writing, or was written to: on a busy machine
             that may be over before this looks, but the board is not back for another second
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _writes_to_a_disk(pid: int) -> bool:
    try:
        for entry in os.scandir(f"/proc/{pid}/fd"):
            if os.readlink(entry.path).startswith("/dev/sd"):
                return True
    except OSError:
        return False
    return False


def _was_written_to(busid: str) -> bool:
    # The fifth field of a disk's stat(5) is how many writes it has completed.
    disks = Path(f"/sys/bus/usb/devices/{busid}/{busid}:1.0").glob("host*/target*/*/block/*/stat")
    return any(_read(str(path)).split()[4:5] not in ([], ["0"]) for path in disks)


def condition(event: str, busid: str, pid: int) -> Callable[[], bool]:
    """What is waited for."""
    if event == "bind":
        return lambda: busid in _read("/sys/bus/usb/drivers/usbip-host/match_busid").split()
    if event == "attach":
        return lambda: _read(f"/sys/bus/usb/devices/{busid}/usbip_status").strip() == "2"
    if event == "flash":
        return lambda: _writes_to_a_disk(pid) or _was_written_to(busid)
    raise SystemExit(f"no such event: {event}")


def main() -> None:
    """Wait, and kill."""
    event, busid, pid, number = sys.argv[1:]
    victim = int(pid)
    happened = condition(event, busid, victim)
    print("waits", flush=True)
    deadline = time.monotonic() + 60
    while not happened():
        if time.monotonic() > deadline:
            raise SystemExit(f"{event} did not happen in a minute")
        time.sleep(0.0005)
    os.kill(victim, int(number))
    link = f"/sys/bus/usb/devices/{busid}/driver"
    driver = os.path.basename(os.readlink(link)) if os.path.islink(link) else "none"
    print(f"killed in the middle of {event}; the device's driver is {driver}", flush=True)


if __name__ == "__main__":
    main()
