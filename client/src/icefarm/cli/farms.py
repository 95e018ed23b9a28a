"""`icefarm farms` and `login`: the farms of the configuration file, and passwords for them."""

import asyncio
import os
import sys
from dataclasses import replace
from typing import Annotated

import typer

from icefarm.cli.app import Json, command, out, print_json
from icefarm.cli.completing import complete_farm
from icefarm.cli.held import run, say
from icefarm.cli.tables import Cell, Column, Table, print_table
from icefarm.cli.visiting import visiting
from icefarm.configuration import (
    PASSWORD_VARIABLE,
    keyring_entry,
    locate,
    read_configuration,
    write_keyring,
)
from icefarm.errors import InvalidRequestError, TimedOutError, from_broker
from icefarm_broker import BrokerAddress, BrokerError

_TRYING = 10.0
"""Seconds for a login."""


@command
def farms(as_json: Json = False) -> None:
    """List the farms of the configuration file.

    Example: icefarm farms
    """
    configuration = read_configuration()
    table = Table(
        Column("farm", whole=True),
        Column("broker", whole=True),
        Column("user", spare=1),
        Column("", whole=True),
    )
    for name, address in configuration.farms.items():
        is_default = name == configuration.default
        broker = str(replace(address, user=None))
        if as_json:
            values = {"farm": name, "broker": broker, "user": address.user}
            print_json(values | {"default": is_default})
        table.add(name, broker, address.user or "", Cell("default" if is_default else "", "green"))
    if as_json:
        return
    if table.rows:
        print_table(out, table)
    else:
        print(f"There are no farms in {configuration.path}; write for example:\n")
        print('default = "lab"\n\n[farms.lab]\nbroker = "mqtts://farm.example.org"\nuser = "ada"')


@command
def login(
    farm: Annotated[
        str,
        typer.Argument(
            help="A farm of the configuration file, or mqtt://user@host:port.",
            autocompletion=complete_farm,
        ),
    ],
) -> None:
    """Ask for your password at a farm, try it, and keep it in this machine's keyring.

    In a pipe, the password is the first line of standard input.

    Example: icefarm login lab
    """
    address, _ = locate(farm)
    user, in_address = address.user, address.password
    if user is None:
        raise InvalidRequestError(
            f'{farm} has no user who could log in; write user = "..." in its part of the '
            "configuration file, or mqtt://user@host:port"
        )
    if sys.stdin.isatty():
        password = typer.prompt(f"Password of {address}", hide_input=True, err=True)
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    if not password:
        raise InvalidRequestError("an empty password is none; type it, or pipe it in")
    address = replace(address, password=password)
    run(_try(address, user))
    write_keyring(address)
    say(f"{user} may log in; the password is in the keyring for {keyring_entry(address)}")
    if in_address is not None:
        say("The address has a password too, which is the one that counts: take it out there")
    elif os.environ.get(PASSWORD_VARIABLE):
        say(f"The variable {PASSWORD_VARIABLE} is set, which is what counts: unset it")


async def _try(address: BrokerAddress, user: str) -> None:
    try:
        async with asyncio.timeout(_TRYING), visiting(address, user):
            return
    except BrokerError as error:
        raise from_broker(error) from error
    except TimeoutError:
        raise TimedOutError(f"the broker at {address} did not answer in {_TRYING:g} s") from None
