"""What a control process does and logs that loses its database, and with it the lead."""

import asyncio
import contextlib
import logging
import os
import signal

import psycopg
import pytest
from support.processes import Processes
from support.waiting import until, until_async

from icefarm_broker import BrokerAddress
from icefarm_broker.mosquitto import Mosquitto
from icefarm_control.control import _lead
from icefarm_control.database import Database


class Gate:
    """A port through which a database is reached, or which ends each connection while `closed`."""

    def __init__(self, socket: str) -> None:
        self._socket = socket
        self.closed = False
        self.turned_away = 0

    async def let_in(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve whoever connects."""
        if self.closed:
            self.turned_away += 1
            writer.close()
            return
        inside, outside = await asyncio.open_unix_connection(self._socket)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_carry(reader, outside))
            tasks.create_task(_carry(inside, writer))


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


def take_the_lead_away(database_url: str) -> None:
    """End the connection that leads, as another process does that finds it silent."""
    with psycopg.connect(database_url, autocommit=True) as other:
        ended = other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks l JOIN pg_database d "
            "ON d.oid = l.database WHERE locktype = 'advisory' AND datname = current_database()"
        )
        assert ended.fetchall() == [(True,)]


async def test_a_lost_database_is_logged_once(
    database: Database,
    database_url: str,
    mosquitto: Mosquitto,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    about = psycopg.conninfo.conninfo_to_dict(database_url)
    gate = Gate(f"{about['host']}/.s.PGSQL.{about.get('port', 5432)}")

    def logged(text: str) -> int:
        return sum(text in record.getMessage() for record in caplog.records)

    server = await asyncio.start_server(gate.let_in, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    url = psycopg.conninfo.make_conninfo(database_url, host="127.0.0.1", port=port)
    leading = asyncio.create_task(_lead(database, url, BrokerAddress.parse(mosquitto.url)))

    async def leads_again() -> bool:
        return logged("this process leads") > logged("does not lead any more")

    async def is_turned_away() -> bool:
        return gate.turned_away >= 3

    await until_async(leads_again)
    for time in (1, 2):
        gate.closed, gate.turned_away = True, 0
        take_the_lead_away(database_url)
        await until_async(is_turned_away)
        assert logged("does not lead any more") == time
        gate.closed = False
        await until_async(leads_again)
    leading.cancel()
    await asyncio.wait([leading])
    server.close()


def test_one_that_is_stopped_while_it_loses_the_lead_stops(
    processes: Processes, database_url: str
) -> None:
    process = processes.control()
    until(lambda: "this process leads" in processes.output("control"))
    os.kill(process.pid, signal.SIGSTOP)
    take_the_lead_away(database_url)
    os.kill(process.pid, signal.SIGTERM)
    # It learns of both in the same moment.
    os.kill(process.pid, signal.SIGCONT)
    assert processes.wait("control") == 0
