"""A private Mosquitto on this machine, from the same mosquitto.conf that is deployed."""

import getpass
import os
import shutil
import socket
import subprocess
import time
from importlib import resources
from pathlib import Path
from types import TracebackType
from typing import Self

# Debian keeps the broker where only root's PATH leads.
_SYSTEM_FOLDERS = "/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin"


class ProgramMissingError(RuntimeError):
    """A program of Mosquitto's is not installed."""


class MosquittoFailedError(RuntimeError):
    """Mosquitto ended at its start; the text has what it said."""


def find_program(name: str) -> str:
    """The path of one of Mosquitto's programs.

    Raises:
        ProgramMissingError: it is not installed.
    """
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":" + _SYSTEM_FOLDERS)
    if found is None:
        raise ProgramMissingError(
            f"{name} is not installed; on Debian: apt-get install mosquitto mosquitto-clients"
        )
    return found


def free_port() -> int:
    """A port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Mosquitto:
    """A broker that lives as long as the `with` block, or between `start` and `stop`.

    Args:
        directory: for its configuration, log and retained messages; survives a restart.
        port: on `bind`, where everybody who reaches it may connect without a login.
        accounts: a password file and an access list; nobody may then connect without a login.
        bind: an address of this machine; the default is reached from this machine only.
    """

    def __init__(
        self,
        directory: Path,
        port: int,
        accounts: tuple[Path, Path] | None = None,
        bind: str = "127.0.0.1",
    ) -> None:
        self.directory, self.port, self._accounts, self._bind = directory, port, accounts, bind
        self.log_file = directory / "mosquitto.log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """How to connect."""
        return f"mqtt://{self._bind}:{self.port}"

    def configuration(self) -> str:
        """mosquitto.conf and, after it, what depends on this place."""
        place = [
            f"listener {self.port} {self._bind}",
            f"persistence_location {self.directory}/",
            f"log_dest file {self.log_file}",
            # Started by root, it would become the user mosquitto, who may not write here.
            f"user {getpass.getuser()}",
        ]
        if self._accounts is None:
            place.append("allow_anonymous true")
        else:
            passwords, access = self._accounts
            place += ["allow_anonymous false", f"password_file {passwords}", f"acl_file {access}"]
        deployed = resources.files("icefarm_broker").joinpath("mosquitto.conf").read_text()
        return deployed + "\n" + "\n".join(place) + "\n"

    def command(self) -> list[str]:
        """Write the configuration and return the program and its arguments.

        Raises:
            ProgramMissingError: Mosquitto is not installed.
        """
        program = find_program("mosquitto")
        self.directory.mkdir(parents=True, exist_ok=True)
        configuration = self.directory / "mosquitto.conf"
        configuration.write_text(self.configuration())
        return [program, "-c", str(configuration)]

    def start(self, timeout: float = 10) -> None:
        """Start and return when it answers.

        Raises:
            ProgramMissingError: it is not installed.
            MosquittoFailedError: it ended, for example because the port is taken.
        """
        said = self.directory / "mosquitto.out"
        command = self.command()
        with said.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # Ctrl-C in a terminal goes to the whole group; its parent decides when it stops.
                start_new_session=True,
            )
        deadline = time.monotonic() + timeout
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                log = self.log_file.read_text() if self.log_file.exists() else ""
                words = (said.read_text() + log).strip().splitlines()[-3:]
                raise MosquittoFailedError(
                    f"Mosquitto did not start on port {self.port}: {' / '.join(words)}"
                )
            time.sleep(0.01)

    def _answers(self) -> bool:
        # The port alone may be another broker's, so it must be ours that is alive and listening.
        if self.process is None or self.process.poll() is not None:
            return False
        try:
            with socket.create_connection((self._bind, self.port), timeout=1):
                return "running" in self.log_file.read_text()
        except OSError:
            return False

    def stop(self) -> None:
        """Stop it; it writes what it retains to its directory first."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def kill(self) -> None:
        """End it as a power cut would: what it has not written to its directory is lost."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
