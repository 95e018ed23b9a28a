"""What a machine boots: Debian's kernel, and an initrd that makes this machine's root its own."""

import functools
import lzma
import os
import platform
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

_MODULES = (
    *("virtio_pci", "virtio_net", "virtio_rng", "virtio_console"),
    *("9pnet_virtio", "9p", "overlay"),
)

_UDEVD = Path("/lib/systemd/systemd-udevd")

_INIT = """#!/bin/busybox sh
export PATH=/bin
busybox mount -t proc p /proc; busybox mount -t sysfs s /sys; busybox mount -t devtmpfs d /dev
for module in $(busybox cat /modules); do busybox insmod /m/$module; done
. /machine
busybox hostname $NAME
busybox ip link set lo up
busybox ip address add 10.0.2.15/24 dev eth0
busybox ip link set eth0 up
busybox ip route add default via 10.0.2.2
busybox mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=512000 root /lower \\
  || busybox poweroff -f
busybox mount -t tmpfs t /over; busybox mkdir /over/upper /over/work
busybox mount -t overlay -o lowerdir=/lower,upperdir=/over/upper,workdir=/over/work o /new
busybox mount -t proc p /new/proc; busybox mount -t sysfs s /new/sys
busybox mount --move /dev /new/dev; busybox mount -t tmpfs r /new/run
busybox mkdir -p /new/dev/shm /new/dev/pts
busybox mount -t tmpfs s /new/dev/shm; busybox mount -t devpts p /new/dev/pts
busybox mount -t cgroup2 c /new/sys/fs/cgroup
busybox cp /bin/busybox /job /new/run/
exec busybox switch_root /new /run/busybox sh /run/job
"""

# Process 1 is the shell, which buries whatever becomes an orphan. Without the guest's program
# nobody can be told anything, so the machine ends with it.
_JOB = """
%(environment)s
(%(udevd)s --daemon && udevadm trigger --action=add && udevadm settle; echo >/run/udev.ready) &
%(program)s
/run/busybox poweroff -f
"""


class CannotBootError(RuntimeError):
    """This machine lacks what emulated ones need; the text says what and where it is from."""


def check_programs() -> None:
    """See whether machines can be booted here.

    Raises:
        CannotBootError: a program or a kernel is missing.
    """
    packages = {
        "qemu-system-x86_64": "qemu-system-x86",
        "busybox": "busybox-static",
        "modprobe": "kmod",
        str(_UDEVD): "udev",
        "udevadm": "udev",
        "ip": "iproute2",
    }
    if platform.machine() != "x86_64":
        raise CannotBootError(
            f"machines are emulated for x86_64, and this one is {platform.machine()}"
        )
    missing = {package for name, package in packages.items() if find(name) is None}
    if missing:
        raise CannotBootError(f"no {', '.join(sorted(missing))}; on Debian: make kernel-programs")
    newest_kernel()


def find(program: str) -> str | None:
    """The path of a program, looking also where only root's PATH leads."""
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _found(program: str) -> str:
    path = find(program)
    if path is None:
        raise CannotBootError(f"{program} is not installed; on Debian: make kernel-programs")
    return path


def newest_kernel() -> Path:
    """The bzImage in /boot with the highest version whose modules are here and that can be read.

    Raises:
        CannotBootError: there is none.
    """
    kernels = [
        path
        for path in Path("/boot").glob("vmlinuz-*")
        if os.access(path, os.R_OK) and Path("/lib/modules", _release(path)).is_dir()
    ]
    if not kernels:
        raise CannotBootError(
            "no kernel with modules in /boot; on Debian: apt-get install linux-image-amd64"
        )
    return max(kernels, key=lambda path: [int(number) for number in re.findall(r"\d+", path.name)])


def _release(kernel: Path) -> str:
    return kernel.name.removeprefix("vmlinuz-")


@functools.cache
def unpacked_kernel() -> Path:
    """The ELF file inside the newest kernel, unpacked once for all runs.

    QEMU starts it through PVH; unpacking it in the emulated machine would cost 2.4 s at each boot.
    Where it is not packed with xz it is returned as it is.
    """
    kernel = newest_kernel()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "icefarm-tests"
    cache.mkdir(parents=True, exist_ok=True)
    target = cache / f"{kernel.name.replace('vmlinuz', 'vmlinux')}-{kernel.stat().st_mtime_ns}"
    if not target.exists():
        packed = kernel.read_bytes()
        start = packed.find(b"\xfd7zXZ\x00")
        if start < 0:
            return kernel
        # The bzImage goes on after the archive's end, which the decompressor leaves aside.
        elf = lzma.LZMADecompressor().decompress(packed[start:])
        if not elf.startswith(b"\x7fELF"):
            return kernel
        with tempfile.NamedTemporaryFile(dir=cache, delete=False) as file:
            file.write(elf)
        os.replace(file.name, target)
    return target


@functools.cache
def _modules() -> dict[str, bytes]:
    """File names and contents, in the order in which they are loaded."""
    release = _release(newest_kernel())
    files: dict[str, bytes] = {}
    for module in _MODULES:
        shown = subprocess.run(
            [_found("modprobe"), "-S", release, "--show-depends", module],
            capture_output=True,
            text=True,
            check=True,
        )
        for kind, path, *_ in (line.split() for line in shown.stdout.splitlines()):
            if kind == "insmod":
                files.setdefault(Path(path).name, Path(path).read_bytes())
    return files


def initrd(name: str, program: str) -> bytes:
    """An initrd for a machine of this name that runs a shell command line with / as its root."""
    environment = f"export HOME=/root PATH='{os.environ['PATH']}:/usr/sbin:/sbin' LANG=C.UTF-8"
    job = _JOB % {"environment": environment, "udevd": _UDEVD, "program": program}
    modules = _modules()
    folders = dict.fromkeys(("bin", "dev", "proc", "sys", "lower", "over", "new", "m"), b"")
    files = {
        "bin/busybox": Path(_found("busybox")).read_bytes(),
        "machine": f"NAME={name}\n".encode(),
        "modules": "\n".join(modules).encode(),
        "job": job.encode(),
        "init": _INIT.encode(),
        **{f"m/{module}": data for module, data in modules.items()},
    }
    return b"".join(
        _cpio_entry(number, path, 0o40755 if path in folders else 0o100755, data)
        for number, (path, data) in enumerate({**folders, **files}.items(), 1)
    ) + _cpio_entry(0, "TRAILER!!!", 0, b"")


def _cpio_entry(number: int, path: str, mode: int, data: bytes) -> bytes:
    """In the format newc (cpio(5)): 13 fields of 8 hexadecimal digits, each part padded to 4."""
    name = path.encode() + b"\0"
    fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0)
    head = b"070701" + b"".join(b"%08x" % field for field in fields) + name
    return head + b"\0" * (-len(head) % 4) + data + b"\0" * (-len(data) % 4)
