"""What is attached on this machine, so that another process can end it: a file for each board.

The process that attaches holds a lock on its files. Where nobody holds it, the process has been
killed. To end an attachment, its file is removed, and its process is sent SIGUSR1 to look.
"""

import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

from icefarm.errors import InvalidRequestError
from icefarm.usb.vhci import Port

_SUFFIX = ".attached"
_LOOK = 0.02


def _directories() -> list[Path]:
    """Where records may be: a terminal, sudo and a service do not agree on the first that is."""
    user = os.getuid()
    places = [Path("/run")] if user == 0 else []
    if "XDG_RUNTIME_DIR" in os.environ:
        places.insert(0, Path(os.environ["XDG_RUNTIME_DIR"]))
    places += [Path(f"/run/user/{user}")]
    found = [place / "icefarm" for place in places if os.access(place, os.W_OK)]
    return [*found, Path(tempfile.gettempdir()) / f"icefarm-{user}"]


def _is_locked(file: TextIO) -> bool:
    """Whether another process holds it; if not, this one does from now on."""
    import fcntl  # There is none on Windows, where the rest of the command works.

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


class Record:
    """That a board is attached, by a process of this machine."""

    def __init__(self, path: Path, file: TextIO) -> None:
        self.path, self._file = path, file
        self.pid, self.reservation, self.board = 0, "", ""
        self.port: Port | None = None

    def read(self) -> bool:
        """Take what is written in it; False when that is not whole."""
        self._file.seek(0)
        try:
            known = json.loads(self._file.read())
            self.pid, self.board = int(known["pid"]), str(known["board"])
            self.reservation = str(known["reservation"])
            self.port = Port(**known["port"]) if known["port"] else None
        except (ValueError, KeyError, TypeError):
            return False
        return True

    def write(self, port: Port | None) -> None:
        """Note the port where it is plugged in now."""
        self.port = port
        known = {
            "pid": self.pid,
            "board": self.board,
            "reservation": self.reservation,
            "port": None if port is None else asdict(port),
        }
        self._file.seek(0)
        self._file.truncate()
        self._file.write(json.dumps(known))
        self._file.flush()

    @property
    def is_wanted(self) -> bool:
        """Whether nobody has removed it."""
        return self.path.exists()

    @property
    def is_held(self) -> bool:
        """Whether the process that attached the board still runs and has it."""
        return _is_locked(self._file)

    def remove(self) -> None:
        """Ask its process to end the attachment; a signal makes it look.

        Raises:
            InvalidRequestError: it is another user's.
        """
        try:
            self.path.unlink(missing_ok=True)
        except PermissionError as error:
            raise InvalidRequestError(
                f"{self.board!r} was attached by another user; detach it as that one, "
                "perhaps with sudo"
            ) from error

    def wait_until_released(self, timeout: float) -> bool:
        """Whether its process has let go of it within so many seconds."""
        deadline = time.monotonic() + timeout
        while self.is_held:
            if time.monotonic() > deadline:
                return False
            time.sleep(_LOOK)
        return True


@contextmanager
def recorded(reservation: str, board: str) -> Iterator[Record]:
    """A record of a board that this process attaches.

    Raises:
        InvalidRequestError: another process has it attached.
    """
    directory = _directories()[0]
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    if directory.stat().st_uid != os.getuid():
        raise InvalidRequestError(f"{directory} is another user's, so nothing is recorded there")
    path = directory / f"{reservation}.{board}{_SUFFIX}"
    with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644), "r+") as file:
        record = Record(path, file)
        if record.is_held:
            record.read()
            raise InvalidRequestError(
                f"{board!r} is attached already, by the process {record.pid}; "
                f"end that with `icefarm detach {board}`"
            )
        record.pid, record.reservation, record.board = os.getpid(), reservation, board
        record.write(None)
        try:
            yield record
        finally:
            with suppress(FileNotFoundError):
                path.unlink()


def list_records() -> Iterator[Record]:
    """The records of this machine that this user may read, of killed processes too."""
    for directory in _directories():
        for path in sorted(directory.glob(f"*{_SUFFIX}")):
            try:
                # To lock a file over NFS, it must be open for writing; here reading is enough.
                file = path.open()
            except (FileNotFoundError, PermissionError):
                continue
            with file:
                record = Record(path, file)
                if record.read():
                    yield record
