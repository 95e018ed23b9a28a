"""The firmware in which everybody finds a board."""

import logging

from icefarm_agent.board import (
    DEFAULT_FIRMWARE,
    DEFAULT_FIRMWARE_GREETING,
    Board,
    BoardError,
)
from icefarm_agent.console import Console

log = logging.getLogger(__name__)


async def install_default(board: Board) -> None:
    """Bring a board, in whatever state it is, to its default firmware, and hear that greet.

    Raises:
        BoardError: it does not come, or does not greet although it was written twice.
    """
    await board.recover()
    await board.install(DEFAULT_FIRMWARE)
    try:
        await _hear_greeting(board)
    except BoardError as error:
        log.warning("%s gets its default firmware once more: %s", board.name, error)
        await board.install(DEFAULT_FIRMWARE)
        await _hear_greeting(board)


async def _hear_greeting(board: Board) -> None:
    async with Console(board.console) as console:
        await console.wait_for(DEFAULT_FIRMWARE_GREETING, board.patience)
