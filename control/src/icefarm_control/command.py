"""The `icefarm-control` command."""

import asyncio
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from icefarm_broker import URL_VARIABLE, BrokerAddress
from icefarm_broker.http import host_and_port
from icefarm_broker.logs import LogFormat, log_as_service
from icefarm_broker.service import run_service
from icefarm_control.control import run_control
from icefarm_control.embedded import embedded_database
from icefarm_control.health import Health

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def run(
    broker: Annotated[
        str | None,
        typer.Option(envvar=URL_VARIABLE, help="mqtt://user:password@host:port"),
    ] = None,
    database: Annotated[
        str | None,
        typer.Option(
            envvar="ICEFARM_DATABASE",
            help="postgresql://user:password@host/name; without it, one is run here.",
        ),
    ] = None,
    directory: Annotated[
        Path, typer.Option(help="Where the database that is run here keeps its data.")
    ] = Path("icefarm-data"),
    web: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT",
            help="Where the dashboard, the REST API, and how control is, are served.",
        ),
    ] = "127.0.0.1:8080",
    no_web: Annotated[bool, typer.Option("--no-web", help="Serve nothing there.")] = False,
    log_format: Annotated[
        LogFormat | None,
        typer.Option(help="Else JSON where systemd's journal reads it, and text elsewhere."),
    ] = None,
) -> None:
    """Decide who holds which board, until stopped."""
    log_as_service("control", form=log_format)
    try:
        address = BrokerAddress.find(broker)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--broker") from error
    try:
        place = None if no_web else host_and_port(web)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--web") from error
    health = Health()

    async def control_and_database() -> None:
        with embedded_database(directory.resolve() / "postgres") as embedded:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(embedded.keep_running())
                tasks.create_task(run_control(embedded.url, address, health, place))

    alone = partial(run_control, database, address, health, place) if database is not None else None
    sys.exit(run_service(alone or control_and_database, status=health.in_words))
