"""`icefarm evaluate`: measure bitstreams and show each result as it comes."""

import sys
from collections.abc import AsyncIterator
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from icefarm.cli.app import FarmOptions, Json, command, out, print_json
from icefarm.cli.completing import complete_reservation
from icefarm.cli.ending import ExitCode
from icefarm.cli.held import reserve, run, say
from icefarm.cli.progress import bar
from icefarm.cli.reservations import Arguments, Behaviour, Wait, parse_arguments
from icefarm.cli.tables import Cell, Column, Table, print_table
from icefarm.results import Result


@command
def evaluate(
    options: FarmOptions,
    bitstreams: Annotated[
        list[Path], typer.Argument(help="Bitstream files.", exists=True, dir_okay=False)
    ],
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many boards.")] = 1,
    reservation: Annotated[
        str | None,
        typer.Option(
            help="Use the boards of this one instead of reserving some.",
            autocompletion=complete_reservation,
        ),
    ] = None,
    behaviour: Behaviour = "pulsecount",
    argument: Arguments = None,
    every_board: Annotated[
        bool, typer.Option("--every-board", help="Each bitstream on each board, not on any one.")
    ] = False,
    wait: Wait = None,
    as_json: Json = False,
) -> None:
    """Measure bitstreams on boards that are reserved for it, or on --reservation's.

    Ends with exit code 5 when some could not be measured.

    Example: icefarm evaluate generation-7/*.bin --count 4
    """
    arguments = parse_arguments(argument or [])
    failed = total = 0

    async def measure() -> None:
        nonlocal failed, total
        async with options.open_async() as farm:
            held = (
                await farm.find_reservation(reservation, take_over=False)
                if reservation is not None
                else await reserve(
                    farm,
                    count,
                    behaviour=behaviour,
                    arguments=arguments,
                    wait=wait,
                )
            )
            total = len(bitstreams) * (len(held.boards) if every_board else 1)
            # Boards that were reserved before are not this command's to give back.
            async with held if reservation is None else nullcontext():
                results = held.evaluate(bitstreams, on_every_board=every_board)
                async for result in show_results(results, total, as_json):
                    failed += result.error is not None

    run(measure())
    if failed:
        say(f"{failed} of {total} evaluations failed")
        sys.exit(ExitCode.SOME_FAILED)


async def show_results(
    results: AsyncIterator[Result], total: int, as_json: bool
) -> AsyncIterator[Result]:
    """Pass results on, each as a line of JSON, or behind a progress bar and then in a table."""
    if as_json:
        async for result in results:
            print_json(as_dictionary(result))
            yield result
        return
    seen = []
    with bar("Evaluating", total) as show:
        async for result in results:
            seen.append(result)
            show(len(seen))
            yield result
    print_table(out, results_table(sorted(seen, key=lambda r: (r.index, r.board))))


def as_dictionary(result: Result) -> dict[str, Any]:
    """A result as JSON has it: what is absent is left out, an error is its code and message."""
    values = {key: value for key, value in vars(result).items() if value is not None}
    if result.error is not None:
        values["error"] = {"code": result.error.code, "message": str(result.error)}
    return values


def results_table(results: list[Result]) -> Table:
    """Results as people want to see them."""
    table = Table(
        Column("bitstream"),
        Column("board", whole=True),
        Column("result"),
        Column("seconds", whole=True, right=True),
    )
    for result in results:
        if result.error is not None:
            value = Cell(str(result.error), "red")
        elif result.pulses is not None:
            value = Cell(f"{result.pulses:,} pulses")
        else:
            value = Cell(f"variance {result.variance:.3f}")
        table.add(result.bitstream, result.board, value, f"{result.seconds:.2f}")
    return table
