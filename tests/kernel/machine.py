"""An emulated machine with Debian's kernel and this machine's files, driven from the tests."""

import contextlib
import ctypes
import itertools
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as LateError
from pathlib import Path

from kernel import guest
from kernel.guest import PORT_NAME, Header, read_frame, write_frame
from kernel.initrd import find, initrd, unpacked_kernel
from kernel.qmp import Qmp

HOST = "10.0.2.2"
"""Where this machine's 127.0.0.1 is for the emulated ones."""
_BOOT = 60.0
"""Seconds; 5 where nothing else runs."""
_GRACE = 30.0
"""Seconds by which an answer may be late before the machine counts as hung."""


class MachineError(RuntimeError):
    """The machine is off, has died or hangs; the text has the last lines of its console."""


class GuestError(RuntimeError):
    """The machine could not do what it was asked to; the text says why."""


class Machine:
    """Its files are this machine's at the time of booting; what it writes is lost with it.

    Args:
        name: also its host name.
        cpus: virtual ones, each a thread of the emulator.
        memory: as QEMU takes it; what it writes to files is in there too.
        modules: of the kernel, loaded at each boot.
    """

    def __init__(
        self, name: str, cpus: int = 2, memory: str = "768M", modules: Sequence[str] = ()
    ) -> None:
        self.name, self._cpus, self._memory, self._modules = name, cpus, memory, modules
        self._folder = Path(tempfile.mkdtemp(prefix=f"icefarm-{name}-"))
        self._console = self._folder / "console.log"
        self._emulator: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._waiting: dict[int, Future[tuple[Header, bytes]]] = {}
        self._left_behind: list[socket.socket] = []

    # Power and cable

    def boot(self) -> None:
        """Switch it on; return when it carries out commands and udev has seen all devices.

        Raises:
            MachineError: it died, or was not there within a minute.
        """
        if self.is_on:
            raise MachineError(f"{self.name} is on already")
        if self._emulator is not None:
            self._switch_off()  # It has died.
        # Started by path and without site-packages, the program is there soon.
        program = shlex.join([sys.executable, "-S", "-E", guest.__file__])
        (self._folder / "initrd").write_bytes(initrd(self.name, program))
        ours, theirs = socket.socketpair()
        control, controlled = socket.socketpair()
        with theirs, controlled, (self._folder / "qemu.log").open("ab") as log:
            self._emulator = subprocess.Popen(
                self._command(theirs.fileno(), controlled.fileno()),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(theirs.fileno(), controlled.fileno()),
                # Ctrl-C in a terminal goes to the whole group; its parent decides when it stops.
                start_new_session=True,
            )
        self._qmp = Qmp(control)
        self._stream = ours.makefile("rwb", buffering=0)
        ours.close()
        self._deaf = False
        self._reader = threading.Thread(target=self._read, args=(self._emulator,))
        self._reader.start()
        try:
            self._request({"do": "hello"}, timeout=_BOOT)
            self.run("sh", "-c", "until test -e /run/udev.ready; do sleep 0.1; done")
            if self._modules:
                self.run("modprobe", "--all", *self._modules)
        except BaseException:
            self._switch_off()
            raise

    def power_cut(self) -> None:
        """Off at once. Whoever it was connected to is not told, as when power is really lost.

        Only its end would close its connections, so they are kept open, and silent, until `close`.
        """
        emulator = self._running_emulator()
        # Frozen first, or it would go on talking on connections that are already counted as lost.
        emulator.send_signal(signal.SIGSTOP)
        self._left_behind += _connections(emulator.pid)
        self._switch_off()

    def set_link(self, up: bool) -> None:
        """Plug the network cable in, or pull it; connections stay, and packets are lost."""
        self._running_emulator()
        self._qmp.execute("set_link", name="net", up=up)

    def forward(self, port: int) -> None:
        """Make a TCP port of this machine's 127.0.0.1 lead to the same port of the emulated one.

        Raises:
            MachineError: the port is taken.
        """
        self._running_emulator()
        command = f"hostfwd_add host tcp:127.0.0.1:{port}-:{port}"
        # It has no command of its own in QMP; the monitor for people answers with its complaints.
        if refused := self._qmp.execute("human-monitor-command", **{"command-line": command}):
            raise MachineError(f"{self.name}: {refused.strip()}")

    def close(self) -> None:
        """Switch it off for good and remove its files."""
        if self._emulator is not None:
            self._switch_off()
        for connection in self._left_behind:
            connection.close()
        shutil.rmtree(self._folder)

    @property
    def is_on(self) -> bool:
        """Whether it was booted and has not died."""
        return self._emulator is not None and self._emulator.poll() is None

    # Programs

    def run(
        self,
        *argv: str,
        env: dict[str, str] | None = None,
        timeout: float = 60,
        check: bool = True,
        warm: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end; see `start` for `warm`.

        Raises:
            subprocess.CalledProcessError: it failed, and `check` is true.
            subprocess.TimeoutExpired: it did not end within `timeout` seconds and was killed.
            GuestError: it could not be started.
        """
        header, body = self._request(
            {"do": "run", "argv": argv, "env": env or {}, "timeout": timeout, "warm": warm},
            timeout=timeout,
        )
        out, err = (
            text.decode(errors="replace")
            for text in (body[: header["split"]], body[header["split"] :])
        )
        if header.get("late"):
            if header["stuck"]:
                err += f"\n(not even SIGKILL ends it; the kernel holds it in {header['stuck']})"
            raise subprocess.TimeoutExpired(argv, timeout, out, err)
        if check and header["code"]:
            print(f"{self.name}: {shlex.join(argv)} failed:\n{out}{err}")
            raise subprocess.CalledProcessError(header["code"], argv, out, err)
        return subprocess.CompletedProcess(argv, header["code"], out, err)

    def start(
        self, name: str, *argv: str, env: dict[str, str] | None = None, warm: str | None = None
    ) -> int:
        """Start a program in the background and return its process id; `log` has its output.

        A Python script that is mainly a module, `warm`, is there much sooner when it is run by an
        interpreter that has imported that already; the first one starts it.
        """
        header, _ = self._request(
            {"do": "start", "name": name, "argv": argv, "env": env or {}, "warm": warm}, timeout=60
        )
        return int(header["pid"])

    def signal(self, name: str, number: int) -> None:
        """Send a signal to a program that was started."""
        self._request({"do": "signal", "name": name, "number": int(number)})

    def kill(self, name: str) -> None:
        """SIGKILL a program that was started, and its children; return when it is gone."""
        self._request({"do": "kill", "name": name})

    def wait(self, name: str, timeout: float = 30) -> int:
        """Wait for the end of a program that was started; return its exit status.

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        header, _ = self._request({"do": "wait", "name": name, "timeout": timeout}, timeout=timeout)
        if header.get("late"):
            raise subprocess.TimeoutExpired(name, timeout)
        return int(header["code"])

    def pid(self, name: str) -> int:
        """The process id of a program that was started."""
        return int(self._request({"do": "pid", "name": name})[0]["pid"])

    def running(self, name: str) -> bool:
        """Whether a program that was started still runs."""
        return self.programs().get(name, False)

    def programs(self) -> dict[str, bool]:
        """The names of all that was started, and whether it still runs."""
        programs: dict[str, bool] = self._request({"do": "programs"})[0]["programs"]
        return programs

    def forget(self, name: str) -> str:
        """SIGKILL a program where it still runs; return its output and remove that."""
        return self._request({"do": "forget", "name": name})[1].decode(errors="replace")

    def log(self, name: str) -> str:
        """The output so far of what was started by this name."""
        return self.read(f"{guest.LOGS}/{name}.log").decode(errors="replace")

    # Files

    def read(self, path: str) -> bytes:
        """The content of a file. Raises GuestError where it cannot be read."""
        return self._request({"do": "read", "path": path})[1]

    def write(self, path: str, content: bytes) -> None:
        """Write a file, also one of sysfs. Raises GuestError where it is refused."""
        self._request({"do": "write", "path": path}, content)

    def glob(self, pattern: str) -> list[str]:
        """The paths that exist."""
        return [str(path) for path in self._request({"do": "glob", "pattern": pattern})[0]["paths"]]

    def talk(self, tty: str, said: bytes, until: str, timeout: float = 60) -> bytes:
        """Open a tty raw, send bytes, and return what came until a text was among it.

        Raises:
            AssertionError: the text did not come within `timeout` seconds.
            GuestError: the tty cannot be opened, or broke.
        """
        header, heard = self._request(
            {"do": "talk", "path": tty, "until": until, "timeout": timeout}, said, timeout
        )
        assert not header.get("late"), f"{tty} did not say {until!r} but {heard[-500:]!r}"
        return heard

    def touch(self, tty: str) -> None:
        """Set a tty to 1200 baud, which calls a board's bootloader."""
        self._request({"do": "touch", "path": tty})

    def ask(self, path: str, question: bytes) -> bytes:
        """Send one frame to a Unix socket of a program there, and return the answer's body."""
        return self._request({"do": "ask", "path": path}, question)[1]

    def console(self) -> str:
        """What the kernel and the emulator have said, at all boots so far."""
        return "".join(
            path.read_text(errors="replace")
            for path in (self._console, self._folder / "qemu.log")
            if path.exists()
        )

    # The emulator and the connection to the program inside

    def _command(self, port: int, control: int) -> list[str]:
        kernel = "console=ttyS0 quiet loglevel=4 panic=-1 nokaslr mitigations=off tsc=reliable"
        return [
            find("qemu-system-x86_64") or "qemu-system-x86_64",
            *("-name", self.name, "-machine", "q35", "-accel", "tcg", "-cpu", "max"),
            *("-smp", str(self._cpus), "-m", self._memory, "-nodefaults", "-display", "none"),
            "-no-reboot",
            *("-kernel", str(unpacked_kernel()), "-initrd", str(self._folder / "initrd")),
            *("-append", f"{kernel} random.trust_cpu=on net.ifnames=0"),
            *("-chardev", f"file,id=console,path={self._console},append=on"),
            *("-serial", "chardev:console"),
            *("-chardev", f"socket,id=control,fd={control}", "-mon", "control,mode=control"),
            *("-device", "virtio-serial-pci", "-chardev", f"socket,id=port,fd={port}"),
            *("-device", f"virtserialport,chardev=port,name={PORT_NAME}"),
            "-fsdev",
            "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap",
            *("-device", "virtio-9p-pci,fsdev=root,mount_tag=root"),
            *("-netdev", "user,id=host", "-device", "virtio-net-pci,id=net,netdev=host,romfile="),
            *("-device", "virtio-rng-pci"),
        ]

    def _request(
        self, header: Header, body: bytes = b"", timeout: float = 0
    ) -> tuple[Header, bytes]:
        """Ask the program inside, which may take `timeout` seconds."""
        self._running_emulator()
        answer: Future[tuple[Header, bytes]] = Future()
        with self._lock:
            if self._deaf:
                raise self._died()
            number = next(self._numbers)
            self._waiting[number] = answer
            try:
                write_frame(self._stream, {"id": number, **header}, body)
            except OSError:
                raise self._died() from None
        try:
            header, body = answer.result(timeout + _GRACE)
        except LateError:
            raise MachineError(f"{self.name} does not answer.{self._last_lines()}") from None
        if "error" in header:
            raise GuestError(f"{self.name}: {header['error']}")
        return header, body

    def _read(self, emulator: subprocess.Popen[bytes]) -> None:
        """Hand the answers out, until the machine is off."""
        with contextlib.suppress(EOFError, OSError):
            while True:
                header, body = read_frame(self._stream)
                self._waiting.pop(header.pop("id")).set_result((header, body))
        # Only the emulator's end closes the connection, and its last words come before that.
        emulator.wait()
        with self._lock:
            self._deaf = True
            waiting = list(self._waiting.values())
            self._waiting.clear()
        for answer in waiting:
            answer.set_exception(self._died())

    def _running_emulator(self) -> subprocess.Popen[bytes]:
        if self._emulator is None:
            raise MachineError(f"{self.name} is off")
        if self._emulator.poll() is not None:
            raise self._died()
        return self._emulator

    def _died(self) -> MachineError:
        return MachineError(f"{self.name} is dead, or was switched off.{self._last_lines()}")

    def _last_lines(self) -> str:
        return "\nIts console:\n" + "\n".join(self.console().splitlines()[-60:])

    def _switch_off(self) -> None:
        assert self._emulator is not None
        self._emulator.kill()
        self._emulator.wait()
        self._emulator = None
        self._reader.join()
        self._stream.close()
        self._qmp.close()


def _connections(pid: int) -> list[socket.socket]:
    """Duplicates of the TCP connections of a child process."""
    # pidfd_getfd(2) has the same number on all architectures.
    libc = ctypes.CDLL(None, use_errno=True)
    process = os.pidfd_open(pid)
    try:
        found = []
        for link in Path(f"/proc/{pid}/fd").iterdir():
            if not os.readlink(link).startswith("socket:"):
                continue
            fd = libc.syscall(438, process, int(link.name), 0)
            if fd < 0:
                raise OSError(ctypes.get_errno(), "cannot keep a machine's connections open")
            connection = socket.socket(fileno=fd)
            if connection.family == socket.AF_INET and connection.type == socket.SOCK_STREAM:
                found.append(connection)
            else:
                connection.close()
        return found
    finally:
        os.close(process)
