"""The `icefarm-broker` command."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from icefarm_broker.mosquitto import Mosquitto, ProgramMissingError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def run(
    directory: Annotated[Path, typer.Option(help="For retained messages, log, configuration.")],
    port: Annotated[int, typer.Option(min=1, max=65535, help="Of 127.0.0.1.")] = 1883,
) -> None:
    """Become a private Mosquitto that everybody on this machine may use.

    Its log is mosquitto.log in the directory.
    """
    try:
        command = Mosquitto(directory.resolve(), port).command()
    except ProgramMissingError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    # No process stands between it and whoever starts, stops or kills it.
    os.execv(command[0], command)
