"""`icefarm console`: a board's console in this terminal, in a pipe, or as a local tty."""

import asyncio
import sys
from pathlib import Path
from typing import Annotated, BinaryIO, Protocol

import typer

from icefarm.async_console import AsyncConsole
from icefarm.cli.app import FarmOptions, command
from icefarm.cli.completing import complete_board, complete_reservation
from icefarm.cli.held import hold, say
from icefarm.cli.reservations import Wait
from icefarm.cli.terminal import Pipe, Pty, Terminal
from icefarm.errors import InvalidRequestError, StreamLostError
from icefarm_broker.service import run_service

_QUIET = 2.0
"""Seconds without a word from the board after the last line of input."""


class Place(Protocol):
    """Where the board's words go, and where those for it come from."""

    async def read(self) -> bytes:
        """What is for the board; empty when there is no more."""

    async def show(self, data: bytes) -> None:
        """Pass on what the board said."""

    def connect(self) -> None:
        """The board is there, at first or again."""

    def disconnect(self) -> None:
        """The board is lost."""

    def close(self) -> None:
        """It is over."""


@command
def console(
    options: FarmOptions,
    board: Annotated[
        str | None, typer.Option(help="This board.", autocompletion=complete_board)
    ] = None,
    reservation: Annotated[
        str | None,
        typer.Option(
            help="A board of this one instead of reserving one.",
            autocompletion=complete_reservation,
        ),
    ] = None,
    log: Annotated[
        Path | None, typer.Option(help="Append all that the board says to this file.")
    ] = None,
    pty: Annotated[
        Path | None, typer.Option(help="Offer it as a tty to other programs, under this path.")
    ] = None,
    wait: Wait = None,
) -> None:
    """Talk to a board's console; without root, and without its USB being plugged in here.

    It reserves a board for that, or uses one of --reservation, which it leaves reserved. In a
    terminal, Ctrl-] ends it. In a pipe it sends what comes, prints what the board says, and ends
    when the board is quiet after the last line.

    Example: icefarm console --board bench-1 --log bench-1.log
    """
    place = _choose_place(pty)

    async def main() -> None:
        async with (
            options.open_async() as farm,
            hold(
                farm,
                reservation,
                [board] if board is not None else None,
                "serial",
                only_one=True,
                wait=wait,
            ) as held,
        ):
            [(one, [chosen])] = held
            async with one.console(chosen) as opened:
                await _Talk(opened, place, log).run()

    try:
        sys.exit(run_service(main))
    except OSError as error:
        raise InvalidRequestError(f"{error.filename or 'console'}: {error.strerror}") from error
    finally:
        place.close()


def _choose_place(pty: Path | None) -> Place:
    if pty is not None:
        return Pty(pty)
    return Terminal() if sys.stdin.isatty() else Pipe()


class _Talk:
    """Copies between a console and a place until either has no more."""

    def __init__(self, console: AsyncConsole, place: Place, log: Path | None) -> None:
        self._console, self._place = console, place
        self._log: BinaryIO | None = None if log is None else log.open("ab", buffering=0)
        self._is_answered = asyncio.Event()

    async def run(self) -> None:
        self._place.connect()
        hearing = asyncio.create_task(self._hear())
        speaking = asyncio.create_task(self._speak())
        try:
            await asyncio.wait([hearing, speaking], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (hearing, speaking):
                task.cancel()
            ended = await asyncio.gather(hearing, speaking, return_exceptions=True)
            self._place.disconnect()
            if self._log is not None:
                self._log.close()
        for error in ended:
            if isinstance(error, Exception):
                raise error

    async def _hear(self) -> None:
        while True:
            try:
                data = await self._console.read()
            except StreamLostError as error:
                self._place.disconnect()
                say(f"{self._console.board} is lost, and will be connected again: {error}")
                await self._console.wait()
                self._place.connect()
                say(f"{self._console.board} is connected again")
                continue
            self._is_answered.set()
            if self._log is not None:
                self._log.write(data)
            try:
                await self._place.show(data)
            except BrokenPipeError:
                return

    async def _speak(self) -> None:
        has_spoken = False
        while data := await self._place.read():
            has_spoken = True
            try:
                await self._console.write(data)
            except StreamLostError:
                say("what was typed since the loss did not reach the board")
        if not has_spoken:
            # Nothing was asked, so this is to listen for as long as it runs.
            await asyncio.Event().wait()
        await self._until_quiet()

    async def _until_quiet(self) -> None:
        if isinstance(self._place, Terminal):
            return
        while True:
            self._is_answered.clear()
            try:
                async with asyncio.timeout(_QUIET):
                    await self._is_answered.wait()
            except TimeoutError:
                return
