"""The `icefarm-broker` command."""

import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from icefarm_broker.accounts import Account, Role, write_accounts
from icefarm_broker.mosquitto import Mosquitto, ProgramMissingError
from icefarm_schemas.topic import DEFAULT_ROOT

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Mosquitto for a farm: run one here, or write the accounts of one.",
)


def _fail(error: Exception) -> NoReturn:
    print(f"Error: {error}", file=sys.stderr)
    sys.exit(1)


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
        _fail(error)
    # No process stands between it and whoever starts, stops or kills it.
    os.execv(command[0], command)


@app.command()
def accounts(
    file: Annotated[
        typer.FileText, typer.Argument(help="A line for each: role, name, password. - is stdin.")
    ],
    directory: Annotated[Path, typer.Option(help="Where `passwords` and `access` are written.")],
    root: Annotated[str, typer.Option(help="Of the farm's topics.")] = DEFAULT_ROOT,
) -> None:
    """Write Mosquitto's password file and access list.

    The roles are control, agent, client, operator (a client who may also deal with everybody's
    boards) and observer. The name of an agent's or client's account is its name in topics.
    """
    found = []
    for number, line in enumerate(file, 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            role, name, password = line.split()
            found.append(Account(name, password, Role(role)))
        except ValueError as error:
            _fail(ValueError(f"line {number} is not `role name password`: {error}"))
    try:
        passwords, access = write_accounts(found, directory, root)
    except (OSError, ProgramMissingError, ValueError) as error:
        _fail(error)
    print(f"password_file {passwords}\nacl_file {access}")
