"""The `icefarm-database` command."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from icefarm_broker.logs import LogFormat, log_as_service
from icefarm_broker.service import run_service
from icefarm_control.embedded import embedded_database

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def run(
    directory: Annotated[Path, typer.Option(help="Where the database keeps its data.")],
    url_file: Annotated[
        Path | None, typer.Option(help="Written when the database answers: how to connect.")
    ] = None,
    log_format: Annotated[
        LogFormat | None,
        typer.Option(help="Else JSON where systemd's journal reads it, and text elsewhere."),
    ] = None,
) -> None:
    """Run a Postgres for one farm on this machine, until stopped."""
    log_as_service("database", form=log_format)

    async def serve() -> None:
        with embedded_database(directory.resolve()) as database:
            if url_file is not None:
                # In one step, so that nobody reads half of it.
                written = url_file.with_suffix(".new")
                written.write_text(database.url)
                written.rename(url_file)
            await database.keep_running()

    sys.exit(run_service(serve))
