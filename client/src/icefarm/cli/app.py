"""What all commands share: the application, and the options that each of them has."""

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.console import Console

from icefarm.async_client import AsyncClient
from icefarm.cli.completing import complete_farm
from icefarm.cli.ending import ending
from icefarm.cli.typed import is_typed, typed_above
from icefarm.client import Client
from icefarm.errors import InvalidRequestError
from icefarm_broker import URL_VARIABLE

app = typer.Typer(
    help="Reserve and use the FPGA boards of an iCEFARM.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["--help", "-h"]},
)
out = Console()

_COMMON = "Common options"

Json = Annotated[bool, typer.Option("--json", help="Lines of JSON for programs.")]
_Farm = Annotated[
    str | None,
    typer.Option(
        "--farm",
        "-f",
        envvar=URL_VARIABLE,
        help="A farm of the configuration file, or mqtt://user:password@host:port.",
        metavar="FARM",
        autocompletion=complete_farm,
        rich_help_panel=_COMMON,
    ),
]
_Name = Annotated[
    str | None,
    typer.Option(
        "--name", help="Who you are, where the broker asks for no login.", rich_help_panel=_COMMON
    ),
]
_Debug = Annotated[
    bool,
    typer.Option(
        "--debug",
        envvar="ICEFARM_DEBUG",
        help="Show each message, and the traceback of what goes wrong.",
        rich_help_panel=_COMMON,
    ),
]


@dataclass(frozen=True)
class FarmOptions:
    """Which farm a command is for, and who asks."""

    farm: str | None
    name: str | None
    debug: bool

    def open(self) -> Client:
        """A client, to be used by `with`."""
        return Client(self.farm, name=self.name, debug=self.debug)

    def open_async(self) -> AsyncClient:
        """A client, to be used by `async with`."""
        return AsyncClient(self.farm, name=self.name, debug=self.debug)


Function = Callable[..., None]


def command(function: Function) -> Function:
    """Make a function a command of the application.

    In the place of a parameter that is `FarmOptions`, it has --farm and --name; each has --debug.
    However it ends, that becomes an exit code and at most a line (`ending`).
    """
    app.command()(_with_common(function))
    return function


class Group:
    """A command that has further ones below it; by itself, it does what its function does.

    What is given before the name of one of them counts for that one.
    """

    def __init__(self, function: Function) -> None:
        self._below = typer.Typer(
            rich_markup_mode="rich", invoke_without_command=True, subcommand_metavar="[COMMAND ...]"
        )
        self._below.callback()(_with_common(function))
        app.add_typer(self._below, name=function.__name__)

    def command(self, name: str) -> Callable[[Function], Function]:
        """Make a function a command below this one, as `command` does."""

        def add(function: Function) -> Function:
            self._below.command(name)(_with_common(function))
            return function

        return add


def _with_common(function: Function) -> Function:
    """The function as typer is to see it: with the common options, and ended by `ending`."""
    signature = inspect.signature(function, eval_str=True)
    own = [p for p in signature.parameters.values() if p.annotation is not FarmOptions]
    place = next((n for n, p in signature.parameters.items() if p.annotation is FarmOptions), None)
    common: list[tuple[str, Any, Any]] = [("debug", _Debug, False)]
    if place is not None:
        common = [("farm", _Farm, None), ("name", _Name, None), *common]
    parameters = [
        inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context),
        *(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own),
        *(
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
            )
            for name, annotation, default in common
        ),
    ]

    def run(**values: Any) -> None:
        context = values.pop("context")
        if context.invoked_subcommand is not None:
            return
        given = typed_above(context)
        debug = given.pop("debug", False) or values.pop("debug")
        with ending(debug=debug):
            _take(given, context, values)
            if place is not None:
                values[place] = FarmOptions(values.pop("farm"), values.pop("name"), debug)
            function(**values)

    run.__name__, run.__doc__, run.__module__ = (
        function.__name__,
        function.__doc__,
        function.__module__,
    )
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    # Typer reads a command's options from these.
    run.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=parameters, return_annotation=None
    )
    return run


def _take(given: dict[str, Any], context: typer.Context, values: dict[str, Any]) -> None:
    """Let what was typed before the name of this command count, but for what is there twice."""
    for name, value in given.items():
        if name not in values:
            raise InvalidRequestError(
                f"--{name} is nothing for {context.command_path!r}; leave it out"
            )
        if not is_typed(context, name):
            values[name] = value


def print_json(value: Any) -> None:
    """One line of JSON on standard output."""
    print(json.dumps(value, default=str, ensure_ascii=False), flush=True)
