"""`icefarm evaluate`: measure bitstreams and show each result as it comes."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from icefarm.cli.app import Broker, ExitCode, Json, Name, app, err, open_farm, out, print_json
from icefarm.cli.reservations import Arguments, Duration, Wait, parse_arguments
from icefarm.results import Result
from icefarm_schemas import DEFAULT_DURATION


@app.command()
def evaluate(
    bitstreams: Annotated[
        list[Path], typer.Argument(help="Bitstream files.", exists=True, dir_okay=False)
    ],
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many boards.")] = 1,
    reservation: Annotated[
        str | None, typer.Option(help="Use the boards of this one instead of reserving some.")
    ] = None,
    behaviour: Annotated[str, typer.Option(help="pulsecount or variance.")] = "pulsecount",
    argument: Arguments = None,
    every_board: Annotated[
        bool, typer.Option("--every-board", help="Each bitstream on each board, not on any one.")
    ] = False,
    duration: Duration = DEFAULT_DURATION,
    wait: Wait = None,
    broker: Broker = None,
    name: Name = None,
    as_json: Json = False,
) -> None:
    """Measure bitstreams on boards that are reserved for it, or on --reservation's.

    Ends with exit code 5 when some could not be measured.

    Example: icefarm evaluate generation-7/*.bin --count 4
    """
    arguments = parse_arguments(argument or [])
    with open_farm(broker, name) as farm:
        held = (
            farm.find_reservation(reservation)
            if reservation is not None
            else farm.reserve(
                count, behaviour=behaviour, arguments=arguments, duration=duration, wait=wait
            )
        )
        total = len(bitstreams) * (len(held.boards) if every_board else 1)
        # Boards that were reserved before are not this command's to give back.
        with held if reservation is None else nullcontext():
            results = held.evaluate(bitstreams, on_every_board=every_board)
            failed = sum(
                result.error is not None for result in show_results(results, total, as_json)
            )
    if failed:
        err.print(f"{failed} of {total} evaluations failed")
        sys.exit(ExitCode.SOME_FAILED)


def show_results(results: Iterable[Result], total: int, as_json: bool) -> Iterator[Result]:
    """Pass results on, each as a line of JSON, or behind a progress bar and then in a table."""
    if as_json:
        for result in results:
            print_json(as_dictionary(result))
            yield result
        return
    seen = []
    columns = (
        TextColumn("evaluating"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        bar = progress.add_task("", total=total)
        for result in results:
            progress.advance(bar)
            seen.append(result)
            yield result
    out.print(results_table(sorted(seen, key=lambda result: (result.index, result.board))))


def as_dictionary(result: Result) -> dict[str, Any]:
    """A result as JSON has it: what is absent is left out, an error is its code and message."""
    values = {key: value for key, value in vars(result).items() if value is not None}
    if result.error is not None:
        values["error"] = {"code": result.error.code, "message": str(result.error)}
    return values


def results_table(results: list[Result]) -> Table:
    """Results as people want to see them."""
    table = Table("bitstream", "board", "result", "seconds")
    for result in results:
        if result.error is not None:
            value = Text(str(result.error), style="red")
        elif result.pulses is not None:
            value = Text(f"{result.pulses:,} pulses")
        else:
            value = Text(f"variance {result.variance:.3f}")
        table.add_row(Text(result.bitstream), Text(result.board), value, f"{result.seconds:.2f}")
    return table
