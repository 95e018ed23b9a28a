"""Tables that fit, and fast."""

import io
import time

import pytest
from rich.cells import cell_len
from rich.console import Console

from icefarm.cli.show import boards_table
from icefarm.cli.tables import Cell, Column, Table, print_table
from icefarm.view import Board


def a_board(number: int) -> Board:
    return Board(
        name=f"bench-{number % 40}-{number}",
        agent=f"bench-{number % 40}",
        product="virtual pico-ice",
        status="broken",
        behaviours=("pulsecount",),
        labels={},
        behaviour="pulsecount",
        reservation=f"{number:010x}",
        detail="it does not come back\nas a tty",
        note=None,
    )


def printed(table: Table, width: int, *, terminal: bool = True, **environment: str) -> str:
    file = io.StringIO()
    console = Console(
        file=file,
        width=width,
        force_terminal=terminal,
        _environ={"TERM": "xterm-256color", **environment},
    )
    print_table(console, table)
    return file.getvalue()


@pytest.mark.parametrize("width", [50, 60, 80, 120, 300])
def test_a_table_fits_the_terminal(width: int) -> None:
    lines = printed(boards_table(map(a_board, range(50))), width, NO_COLOR="1").splitlines()
    hidden = lines.pop() if lines[-1].startswith("Not shown here: ") else None
    assert len(lines) == 51
    assert max(map(cell_len, lines)) <= width
    # Names and ids are whole; of the rest there is as much as fits.
    for number, line in enumerate(lines[1:]):
        board = a_board(number)
        assert board.name in line
        assert board.reservation is not None
        assert board.reservation in line
        assert "broken: it" in line
    said = {
        50: "Not shown here: agent, product; --json has them.",
        60: "Not shown here: product; --json has them.",
    }
    assert hidden == said.get(width)
    assert ("broken: it does not come back as a tty" in lines[1]) == (width >= 120)


def test_ten_thousand_rows_take_no_time() -> None:
    table = boards_table(map(a_board, range(10_000)))
    began = time.process_time()
    assert printed(table, 80).count("\n") > 10_000
    assert time.process_time() - began < 2


def test_colours_are_for_terminals() -> None:
    table = boards_table([a_board(1)])
    assert "\x1b[31mbroken" in printed(table, 100)
    assert "\x1b" not in printed(table, 100, NO_COLOR="1")
    piped = printed(table, 20, terminal=False)
    assert "\x1b" not in piped
    # Nothing is cut for a program that reads it.
    assert "broken: it does not come back as a tty  pulsecount  0000000001   virtual" in piped


def test_what_an_attacker_names_a_board_cannot_colour_the_terminal() -> None:
    table = Table(Column("board", whole=True))
    table.add(Cell("\x1b[31mred[bold]"))
    assert printed(table, 80, NO_COLOR="1").splitlines()[1] == " [31mred[bold]"


def test_wide_characters_count_twice() -> None:
    table = Table(Column("a"), Column("b", whole=True))
    table.add("漢字漢字漢字漢字", "end")
    [_, line] = list(table.lines(15, coloured=False))
    assert cell_len(line) <= 15
    assert line.endswith("end")
