"""Tables that fit the terminal: lines of plain text, each cell of which may have a colour.

Rich's own tables cannot keep ids whole while they shorten other columns, nor leave columns out, so
on a narrow terminal they would cut what is to be typed again. They also take seconds for ten
thousand rows.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.color import ColorSystem
from rich.console import Console
from rich.style import Style

_GAP = "  "
_ANSI = ("standard", "256", "truecolor")


@dataclass(frozen=True)
class Cell:
    """A text, and its colour as Rich names it."""

    text: str
    colour: str = ""


@dataclass(frozen=True)
class Column:
    """A column's title, and what becomes of it where a terminal is too narrow.

    One that is whole is never shortened: names and ids, which are typed again; others keep the
    `least` number of characters, as far as they have them. Where that is not enough, those with
    the highest `spare` are left out first; 0 stays.
    """

    title: str
    whole: bool = False
    least: int = 6
    spare: int = 0
    right: bool = False


Row = Sequence[str | Cell]


class Table:
    """Rows under titles."""

    def __init__(self, *columns: Column) -> None:
        self.columns = columns
        self.rows: list[Sequence[Cell]] = []

    def add(self, *cells: str | Cell) -> None:
        """Add a row; line breaks and control characters in it are shown as spaces."""
        row = (cell if isinstance(cell, Cell) else Cell(cell) for cell in cells)
        self.rows.append([Cell(on_one_line(cell.text), cell.colour) for cell in row])

    def lines(self, width: int | None, *, coloured: bool) -> Iterable[str]:
        """The titles and the rows, none wider than `width`, where one is given."""
        widths = self._widths(width)
        titles = [Cell(column.title, "bold") for column in self.columns]
        for row in (titles, *self.rows):
            cells = [
                _fit(cell, wide, right=column.right, coloured=coloured)
                for cell, column, wide in zip(row, self.columns, widths, strict=True)
                if wide
            ]
            yield _GAP.join(cells).rstrip()

    def hidden(self, width: int | None) -> list[str]:
        """The titles of the columns for which there is no room."""
        widths = self._widths(width)
        return [c.title for c, wide in zip(self.columns, widths, strict=True) if not wide]

    def _widths(self, width: int | None) -> list[int]:
        """How wide each column is; 0 for those that are left out."""
        natural = [cell_len(column.title) for column in self.columns]
        for row in self.rows:
            for number, cell in enumerate(row):
                length = cell_len(cell.text)
                if length > natural[number]:
                    natural[number] = length
        if width is None:
            return natural
        # The least spare stay; each must have room for what it cannot do without.
        left_out = sorted(
            (n for n, column in enumerate(self.columns) if column.spare),
            key=lambda n: self.columns[n].spare,
        )
        widths = natural.copy()
        while left_out and _needed(self._least(widths)) > width:
            widths[left_out.pop()] = 0
        least = self._least(widths)
        if _needed(least) > width:
            return [min(wide, width) for wide in widths]
        over = _needed(widths) - width
        while over > 0:
            # The widest ones give first.
            widest = max(
                (n for n in range(len(widths)) if widths[n] > least[n]), key=widths.__getitem__
            )
            widths[widest] -= 1
            over -= 1
        return widths

    def _least(self, widths: Sequence[int]) -> list[int]:
        return [
            wide if column.whole else min(wide, max(column.least, cell_len(column.title)))
            for column, wide in zip(self.columns, widths, strict=True)
        ]


def _needed(widths: Sequence[int]) -> int:
    shown = [wide for wide in widths if wide]
    return sum(shown) + len(_GAP) * (len(shown) - 1)


def on_one_line(text: str) -> str:
    """The text, with spaces for line breaks and for what would steer a terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)


def _fit(cell: Cell, width: int, *, right: bool, coloured: bool) -> str:
    text = cell.text
    length = cell_len(text)
    if length > width:
        text, length = set_cell_size(text, width - 1) + "…", width
    space = " " * (width - length)
    text = paint(text, cell.colour, coloured=coloured)
    return space + text if right else text + space


def paint(text: str, colour: str, *, coloured: bool) -> str:
    """A text in a colour, as Rich names it, or as it is."""
    if not (coloured and colour and text):
        return text
    return Style.parse(colour).render(text, color_system=ColorSystem.STANDARD)


def print_table(console: Console, table: Table) -> None:
    """Print a table: as wide as a terminal, or, in a file or a pipe, as wide as it needs to be."""
    width = console.width if console.is_terminal else None
    coloured = takes_colour(console)
    for line in table.lines(width, coloured=coloured):
        console.file.write(line + "\n")
    hidden = table.hidden(width)
    if hidden:
        console.file.write(f"Not shown here: {', '.join(hidden)}; --json has them.\n")
    console.file.flush()


def takes_colour(console: Console) -> bool:
    """Whether it is a terminal that shows colours, and nobody has asked for none."""
    return console.is_terminal and not console.no_color and console.color_system in _ANSI
