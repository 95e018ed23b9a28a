"""Boards as callers name them: by name, or by an object that has one."""

from collections.abc import Iterable, Sequence
from typing import Protocol

BoardKey = tuple[str, str]
"""Agent and device."""


class Named(Protocol):
    """A board that the farm listed, or one of a reservation."""

    @property
    def name(self) -> str:
        """The board's name."""


BoardName = str | Named
"""A board: its name, or an object of it."""


def name_of(board: BoardName) -> str:
    """The name of a board."""
    return board if isinstance(board, str) else board.name


def names_of(boards: BoardName | Iterable[BoardName]) -> tuple[str, ...]:
    """The names of boards; a single one needs no list."""
    if isinstance(boards, str) or not isinstance(boards, Iterable):
        return (name_of(boards),)
    return tuple(name_of(board) for board in boards)


def names_or_none(boards: Sequence[BoardName] | None) -> tuple[str, ...] | None:
    """The names of boards, where some are given."""
    return None if boards is None else names_of(boards)
