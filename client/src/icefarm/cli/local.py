"""`icefarm up` and `icefarm demo`: a whole farm on this machine."""

import asyncio
import json
import sys
import tempfile
from collections.abc import Callable, Coroutine
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from icefarm.async_client import AsyncClient
from icefarm.cli.app import Json, command, out, print_json
from icefarm.cli.ending import ExitCode, err
from icefarm.cli.evaluate import as_dictionary
from icefarm.cli.progress import bar
from icefarm.cli.tables import Cell, Column, Table, print_table
from icefarm.farm import Farm, FarmFailedError
from icefarm.results import Result
from icefarm_broker.mosquitto import free_port
from icefarm_broker.service import run_service

Boards = Annotated[int, typer.Option(min=1, max=1000, help="Virtual boards.")]
Agents = Annotated[int, typer.Option(min=1, max=100, help="Agents that share the boards.")]
Speed = Annotated[
    float, typer.Option(min=0.01, help="How many times faster than real boards they are.")
]
Work = Callable[[Farm], Coroutine[Any, Any, None]]

_TOLERANCE = 0.001


def _say(text: str) -> None:
    err.print(escape(text), soft_wrap=True)


def _run(
    directory: Path | None,
    port: int,
    boards: int,
    agents: int,
    speed: float,
    work: Work,
    *,
    with_dashboard: bool = False,
) -> int:
    """Start a farm, do `work` with it, and end everything that was started."""

    async def main(place: Path) -> None:
        farm = Farm(
            place,
            port,
            boards=boards,
            agents=agents,
            speed=speed,
            with_dashboard=with_dashboard,
            say=_say,
        )
        try:
            _say(f"Starting a farm with {boards} virtual boards in {place} ...")
            await farm.start()
            await work(farm)
        finally:
            _say("Stopping the farm ...")
            await farm.stop()
            _say("The farm has ended; nothing is left running.")

    try:
        if directory is not None:
            place = directory.resolve()
            return run_service(lambda: main(place))
        with tempfile.TemporaryDirectory(prefix="icefarm-") as temporary:
            return run_service(lambda: main(Path(temporary)))
    except (FarmFailedError, OSError) as error:
        err.print(f"[red]Error:[/red] {escape(str(error))}", soft_wrap=True)
        return ExitCode.FAILED


@command
def up(
    boards: Boards = 4,
    agents: Agents = 1,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Of the broker.")] = 1883,
    directory: Annotated[
        Path | None, typer.Option(help="Keeps the farm's state; else it is forgotten at the end.")
    ] = None,
    speed: Speed = 1.0,
) -> None:
    """Run a whole farm of virtual boards on this machine, until Ctrl-C.

    Example: icefarm up --boards 8 --agents 2
    """

    async def serve(farm: Farm) -> None:
        url = "" if farm.port == 1883 else f"export ICEFARM_BROKER={farm.url}\n"
        out.print(
            f"[green]The farm is ready[/green] at {farm.url}; Ctrl-C ends it. "
            f"Logs are in {farm.directory / 'logs'}.\nDashboard: {farm.dashboard}\n"
            f"In another terminal:\n\n"
            f"{url}icefarm boards\n"
            f"mosquitto_sub -p {farm.port} -V 5 -v -t 'icefarm/v1/#'",
            soft_wrap=True,
            highlight=False,
        )
        while True:
            farm.check()
            await asyncio.sleep(0.5)

    sys.exit(_run(directory, port, boards, agents, speed, serve, with_dashboard=True))


@command
def demo(boards: Boards = 4, agents: Agents = 2, speed: Speed = 1.0, as_json: Json = False) -> None:
    """Start a farm, measure real bitstreams on every board, compare, and end it.

    Example: icefarm demo --boards 8
    """
    wrong = 0

    async def experiment(farm: Farm) -> None:
        nonlocal wrong
        folder = Path(str(resources.files("icefarm").joinpath("circuits")))
        circuits = json.loads((folder / "circuits.json").read_text())
        expected = {str(folder / circuit["file"]): circuit for circuit in circuits}
        results: list[Result] = []
        async with (
            AsyncClient(farm.url, name="demo") as client,
            client.reserve(boards) as reservation,
        ):
            with bar(f"Measuring {len(expected)} circuits", len(expected) * boards) as show:
                async for result in reservation.evaluate(expected, on_every_board=True):
                    results.append(result)
                    show(len(results))
        table = Table(
            Column("circuit"),
            Column("board", whole=True),
            Column("expected", whole=True, right=True),
            Column("measured", right=True),
            Column("deviation", spare=1, right=True),
        )
        for result in sorted(results, key=lambda r: (r.index, r.board)):
            circuit = expected[result.bitstream]
            right = _is_right(result, circuit["pulses"])
            wrong += not right
            if as_json:
                told = {"circuit": circuit["name"], "expected": circuit["pulses"]}
                print_json(told | as_dictionary(result))
            table.add(*(Cell(text, "" if right else "red") for text in _row(result, circuit)))
        if as_json:
            return
        print_table(out, table)
        out.print(
            f"{len(results)} measurements on {boards} boards; "
            + (f"[red]{wrong} are wrong[/red]" if wrong else "each is what its circuit makes")
        )

    code = _run(None, free_port(), boards, agents, speed, experiment)
    sys.exit(ExitCode.FAILED if wrong else code)


def _is_right(result: Result, expected: int) -> bool:
    if result.pulses is None:
        return False
    return abs(result.pulses - expected) <= _TOLERANCE * expected


def _row(result: Result, circuit: dict[str, Any]) -> list[str]:
    if result.pulses is None:
        measured, deviation = str(result.error), ""
    else:
        measured = f"{result.pulses:,}"
        difference = result.pulses - circuit["pulses"]
        deviation = f"{difference / circuit['pulses']:.3%}" if circuit["pulses"] else "none"
    return [circuit["name"], result.board, f"{circuit['pulses']:,}", measured, deviation]
