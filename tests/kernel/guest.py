"""Inside an emulated machine: carries out what the tests' process asks for, until that goes away.

It is started by path with the standard library alone, so that it is there soon. Both ends send
frames: the lengths of a header and of a body, then a header in JSON and a body of raw bytes. Each
request has an id and is carried out in a thread of its own.
"""

import contextlib
import glob
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
import tty
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Protocol

PORT_NAME = "icefarm"
"""Of the virtio-serial port."""
LOGS = Path("/run/icefarm")
"""Where the output of background processes is, as NAME.log."""
_LENGTHS = struct.Struct(">II")
_LOOK = 0.05
"""Seconds between two looks at a forked process."""
_DEATH = 20.0
"""Seconds within which a process is gone after SIGKILL, unless the kernel holds it."""

Header = dict[str, Any]


class Stream(Protocol):
    """Bytes in and out, unbuffered; also a socket's."""

    def read(self, size: int, /) -> bytes | None: ...

    def write(self, data: Any, /) -> int | None: ...


def write_frame(stream: Stream, header: Header, body: bytes = b"") -> None:
    """Send a header and a body."""
    text = json.dumps(header).encode()
    data = memoryview(_LENGTHS.pack(len(text), len(body)) + text + body)
    while data:
        data = data[stream.write(data) :]


def read_frame(stream: Stream) -> tuple[Header, bytes]:
    """Receive a header and a body.

    Raises:
        EOFError: the other end has gone.
    """
    head, body = _LENGTHS.unpack(_exactly(stream, _LENGTHS.size))
    return json.loads(_exactly(stream, head)), _exactly(stream, body)


def _exactly(stream: Stream, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = stream.read(size - len(data))
        if not part:
            raise EOFError
        data += part
    return bytes(data)


def listen(place: str) -> socket.socket:
    """A socket at a path, which is there only when it answers: that is what the tests wait for."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(f"{place}.new")
    server.listen()
    os.rename(f"{place}.new", place)
    return server


class Process(Protocol):
    """As of `subprocess.Popen`."""

    pid: int
    returncode: int | None

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None, /) -> int: ...

    def send_signal(self, number: int, /) -> None: ...


class Forked:
    """A script that a warm interpreter runs; see `warm.py`."""

    def __init__(
        self, place: str, argv: list[str], env: dict[str, str], out: IO[bytes], err: IO[bytes]
    ) -> None:
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(place)
        socket.send_fds(self._connection, [b"\0"], [out.fileno(), err.fileno()])
        self._stream = self._connection.makefile("rwb", buffering=0)
        write_frame(self._stream, {"argv": argv, "env": env})
        self.pid: int = read_frame(self._stream)[0]["pid"]
        self.returncode: int | None = None
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        """The exit status, when there is one."""
        with self._lock:
            if self.returncode is None and select.select([self._connection], [], [], 0)[0]:
                self.returncode = read_frame(self._stream)[0]["code"]
                self._stream.close()
                self._connection.close()
            return self.returncode

    def wait(self, timeout: float | None = None, /) -> int:
        """Return the exit status when there is one."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            time.sleep(_LOOK)
        return code

    def send_signal(self, number: int, /) -> None:
        """Send it unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)


class Guest:
    """Carries requests out; each method named `do_...` is one kind of request."""

    def __init__(self) -> None:
        self._processes: dict[str, Process] = {}
        self._warm: dict[str, subprocess.Popen[bytes]] = {}
        self._warming = threading.Lock()

    def answer(self, request: Header, body: bytes) -> tuple[Header, bytes]:
        """An error is an answer too."""
        method: Callable[..., tuple[Header, bytes]] = getattr(self, f"do_{request.pop('do')}")
        try:
            return method(body, **request)
        except (OSError, EOFError, ValueError, RuntimeError, subprocess.SubprocessError) as error:
            return {"error": f"{type(error).__name__}: {error}"}, b""

    def do_hello(self, _: bytes) -> tuple[Header, bytes]:
        return {"uptime": float(Path("/proc/uptime").read_text().split()[0])}, b""

    def do_run(
        self, _: bytes, argv: list[str], env: dict[str, str], timeout: float, warm: str | None
    ) -> tuple[Header, bytes]:
        """The body is standard output and, from `split` on, standard error."""
        # Files, since a pipe would be held open by whatever the program leaves behind.
        with tempfile.TemporaryFile(dir=LOGS) as out, tempfile.TemporaryFile(dir=LOGS) as err:
            process = self._start(argv, env, out, err, warm)
            header: Header = {}
            try:
                process.wait(timeout)
            except subprocess.TimeoutExpired:
                header["late"] = True
                header["stuck"] = self._kill(process)
            texts = [_content(file.fileno()) for file in (out, err)]
        return header | {"code": process.returncode, "split": len(texts[0])}, b"".join(texts)

    def do_start(
        self, _: bytes, name: str, argv: list[str], env: dict[str, str], warm: str | None
    ) -> tuple[Header, bytes]:
        if name in self._processes and self._processes[name].poll() is None:
            raise ValueError(f"{name} runs already")
        with open(LOGS / f"{name}.log", "ab") as log:
            self._processes[name] = self._start(argv, env, log, log, warm)
        return {"pid": self._processes[name].pid}, b""

    def do_signal(self, _: bytes, name: str, number: int) -> tuple[Header, bytes]:
        self._of(name).send_signal(number)
        return {}, b""

    def do_kill(self, _: bytes, name: str) -> tuple[Header, bytes]:
        """All of its process group."""
        if stuck := self._kill(self._of(name)):
            raise RuntimeError(f"{name} survives SIGKILL, held by the kernel: {stuck}")
        return {}, b""

    def do_wait(self, _: bytes, name: str, timeout: float) -> tuple[Header, bytes]:
        try:
            return {"code": self._of(name).wait(timeout)}, b""
        except subprocess.TimeoutExpired:
            return {"late": True}, b""

    def do_pid(self, _: bytes, name: str) -> tuple[Header, bytes]:
        return {"pid": self._of(name).pid}, b""

    def do_programs(self, _: bytes) -> tuple[Header, bytes]:
        return {"programs": {n: p.poll() is None for n, p in self._processes.items()}}, b""

    def do_forget(self, _: bytes, name: str) -> tuple[Header, bytes]:
        """The body is what it has said."""
        self.do_kill(b"", name)
        del self._processes[name]
        log = LOGS / f"{name}.log"
        said = log.read_bytes()
        log.unlink()
        return {}, said

    def do_read(self, _: bytes, path: str) -> tuple[Header, bytes]:
        return {}, Path(path).read_bytes()

    def do_write(self, body: bytes, path: str) -> tuple[Header, bytes]:
        # One write(2) and no truncation: a file of sysfs takes its value at once, or refuses it.
        flags = os.O_WRONLY | (0 if os.path.exists(path) else os.O_CREAT)
        fd = os.open(path, flags | (0 if path.startswith("/sys/") else os.O_TRUNC), 0o644)
        try:
            written = os.write(fd, body)
            while written < len(body):
                written += os.write(fd, body[written:])
        finally:
            os.close(fd)
        return {}, b""

    def do_glob(self, _: bytes, pattern: str) -> tuple[Header, bytes]:
        return {"paths": sorted(glob.glob(pattern))}, b""

    def do_talk(self, body: bytes, path: str, until: str, timeout: float) -> tuple[Header, bytes]:
        """Send the body to a tty and read until a text comes; it counts when that is late."""
        deadline, heard = time.monotonic() + timeout, bytearray()
        fd = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        try:
            tty.setraw(fd)
            unsent = memoryview(body)
            while until.encode() not in heard or unsent:
                left = deadline - time.monotonic()
                if left < 0:
                    return {"late": True}, bytes(heard)
                readable, writable, _ = select.select([fd], [fd] if unsent else [], [], left)
                if writable:
                    unsent = unsent[os.write(fd, unsent) :]
                if readable:
                    part = os.read(fd, 65536)
                    if not part:
                        raise EOFError(f"{path} was hung up after {bytes(heard[-200:])!r}")
                    heard += part
            return {}, bytes(heard)
        finally:
            os.close(fd)

    def do_touch(self, _: bytes, path: str) -> tuple[Header, bytes]:
        """Set a tty to 1200 baud."""
        fd = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        try:
            settings = termios.tcgetattr(fd)
            settings[4] = settings[5] = termios.B1200
            termios.tcsetattr(fd, termios.TCSANOW, settings)
        finally:
            os.close(fd)
        return {}, b""

    def do_ask(self, body: bytes, path: str) -> tuple[Header, bytes]:
        """One frame to a Unix socket, one back."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(path)
            with connection.makefile("rwb", buffering=0) as stream:
                write_frame(stream, {}, body)
                return {}, read_frame(stream)[1]

    def _start(
        self,
        argv: list[str],
        env: dict[str, str],
        out: IO[bytes],
        err: IO[bytes],
        warm: str | None,
    ) -> Process:
        if warm is None:
            return _start(argv, env, out, err)
        place = f"/run/icefarm/{warm}.socket"
        with self._warming:
            if warm not in self._warm:
                program = str(Path(__file__).with_name("warm.py"))
                path = {"PYTHONPATH": str(Path(__file__).parents[1])}
                with open(LOGS / f"{warm}.warm", "ab") as log:
                    self._warm[warm] = _start(
                        [sys.executable, program, place, warm], env | path, log, log
                    )
            while not os.path.exists(place):
                if self._warm[warm].poll() is not None:
                    raise RuntimeError((LOGS / f"{warm}.warm").read_text())
                time.sleep(_LOOK)
        return Forked(place, argv, env, out, err)

    def _of(self, name: str) -> Process:
        if name not in self._processes:
            raise ValueError(f"nothing was started as {name}, only {list(self._processes)}")
        return self._processes[name]

    def _kill(self, process: Process) -> str:
        """SIGKILL to its group; where it stays, the kernel's stack that holds it."""
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            try:
                process.wait(_DEATH)
            except subprocess.TimeoutExpired:
                stack = Path(f"/proc/{process.pid}/stack").read_text()
                return " < ".join(line.split()[-1] for line in stack.splitlines()) or "?"
        return ""


def _content(fd: int) -> bytes:
    # Not moving the position, at which what the program left behind may still write.
    return os.pread(fd, os.fstat(fd).st_size, 0)


def _start(
    argv: list[str], env: dict[str, str], out: IO[bytes], err: IO[bytes]
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=err,
        env={**os.environ, **env},
        start_new_session=True,
    )


def _port() -> str:
    for port in Path("/sys/class/virtio-ports").iterdir():
        if (port / "name").read_text().strip() == PORT_NAME:
            return f"/dev/{port.name}"
    raise FileNotFoundError(f"no virtio-serial port {PORT_NAME}")


def main() -> None:
    """Serve until the other end is closed."""
    LOGS.mkdir()
    guest, sending = Guest(), threading.Lock()
    with open(_port(), "r+b", buffering=0) as stream:

        def serve(request: Header, body: bytes) -> None:
            number = request.pop("id")
            header, body = guest.answer(request, body)
            with sending:
                write_frame(stream, {"id": number, **header}, body)

        with contextlib.suppress(EOFError):
            while True:
                threading.Thread(target=serve, args=read_frame(stream), daemon=True).start()
    # Without waiting for threads whose process will not end.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
