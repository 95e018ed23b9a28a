"""`icefarm attach` and `detach`: boards plugged into this machine over the farm."""

import asyncio
import os
import signal
import sys
from typing import Annotated, Any

import typer

from icefarm.async_reservation import AsyncReservation
from icefarm.attaching import AsyncAttachment
from icefarm.cli.app import FarmOptions, Json, command, print_json
from icefarm.cli.completing import complete_board, complete_reservation
from icefarm.cli.ending import ExitCode, show_error
from icefarm.cli.held import Held, hold, say
from icefarm.cli.reservations import Wait, parse_pairs
from icefarm.errors import FarmError, InvalidRequestError
from icefarm.usb import vhci
from icefarm.usb.records import Record, list_records, recorded
from icefarm.usb.server import USBIP_PORT, AsyncUsbServer
from icefarm_broker.service import run_service

_DETACHING = 10.0
"""Seconds that another process may take to end an attachment."""

Boards = Annotated[
    list[str] | None,
    typer.Option(help="This board; repeat it for several.", autocompletion=complete_board),
]


@command
def attach(
    options: FarmOptions,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many boards.")] = 1,
    board: Boards = None,
    reservation: Annotated[
        str | None,
        typer.Option(
            help="Attach boards of this one instead of reserving some.",
            autocompletion=complete_reservation,
        ),
    ] = None,
    product: Annotated[str | None, typer.Option(help="Only boards of this product.")] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="Only boards labelled key=value; repeat it.")
    ] = None,
    wait: Wait = None,
    server: Annotated[
        bool, typer.Option("--server", help="Offer them to any USB/IP client of this machine.")
    ] = False,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Of --server, on 127.0.0.1.")
    ] = USBIP_PORT,
    as_json: Json = False,
) -> None:
    """Plug boards into this machine, as /dev/ttyACM0 and the like, until Ctrl-C.

    It reserves boards for that, or uses those of --reservation, which it leaves reserved. What is
    lost with the network or an agent is plugged in again as soon as it is back. It needs root and
    Linux; with --server, neither.

    Example: icefarm attach --count 2
    """
    labels = {key: str(value) for key, value in parse_pairs("label", label or [])}
    wanted: dict[str, Any] = {
        "count": count,
        "product": product,
        "labels": labels,
        "wait": wait,
    }
    failed = False

    async def main() -> None:
        nonlocal failed
        if not server:
            await vhci.prepare()
        async with (
            options.open_async() as farm,
            hold(farm, reservation, board, "usbip", **wanted) as held,
        ):
            if server:
                await _serve(held, port, as_json)
            else:
                failed = await _Attaching(as_json).run(held)

    code = run_service(main)
    sys.exit(ExitCode.FAILED if failed else code)


class _Attaching:
    """The boards that this process has attached; ends when there are none any more."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._tasks: dict[asyncio.Task[None], Record] = {}

    async def run(self, held: Held) -> bool:
        """Whether any has ended by an error."""
        tasks = [
            asyncio.create_task(self._keep(reservation, board))
            for reservation, boards in held
            for board in boards
        ]
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, self._look)
        try:
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            loop.remove_signal_handler(signal.SIGUSR1)
        told = set()
        for error in ended:
            if isinstance(error, FarmError) and str(error) not in told:
                told.add(str(error))
                show_error(error)
            elif isinstance(error, Exception) and not isinstance(error, FarmError):
                raise error
        return bool(told)

    def _look(self) -> None:
        """`icefarm detach` has removed a record."""
        for task, record in self._tasks.items():
            if not record.is_wanted:
                task.cancel()

    async def _keep(self, reservation: AsyncReservation, board: str) -> None:
        task = asyncio.current_task()
        assert task is not None
        with recorded(reservation.id, board) as record:
            self._tasks[task] = record
            try:
                async with reservation.attach(board) as attachment:
                    await self._follow(attachment, record)
            finally:
                del self._tasks[task]
                record.write(None)
                self._show(board, "detached")

    async def _follow(self, attachment: AsyncAttachment, record: Record) -> None:
        known: tuple[bool, tuple[str, ...]] | None = None
        while True:
            now = (attachment.is_attached, attachment.paths)
            if now != known:
                known = now
                record.write(attachment.port)
                if attachment.is_attached:
                    self._show(attachment.board, "attached", paths=list(attachment.paths))
                else:
                    self._show(attachment.board, "lost", why=str(attachment.lost))
            await attachment.changed()

    def _show(self, board: str, state: str, **more: Any) -> None:
        if self._as_json:
            print_json({"board": board, "state": state, **more})
        elif state == "attached":
            print(f"{board}: {' '.join(more['paths']) or 'attached, without a tty'}", flush=True)
        elif state == "lost":
            say(f"{board} is lost, and will be attached again: {more['why']}")
        else:
            say(f"{board} is detached")


async def _serve(held: Held, port: int, as_json: bool) -> None:
    if len(held) > 1:
        raise InvalidRequestError("with --server, name the boards of one reservation")
    [(reservation, boards)] = held
    async with reservation.serve_usb(boards, port=port) as server:
        at = "" if server.port == USBIP_PORT else f" --tcp-port {server.port}"
        for board, busid in server.busids.items():
            command = f"usbip{at} attach --remote 127.0.0.1 --busid {busid}"
            if as_json:
                print_json({"board": board, "port": server.port, "busid": busid})
            else:
                print(f"{board}: {command}", flush=True)
        await _follow_imports(server)


async def _follow_imports(server: AsyncUsbServer) -> None:
    known: set[str] = set()
    while True:
        now = set(server.imported)
        for board in sorted(now - known):
            say(f"{board} is imported")
        for board in sorted(known - now):
            say(f"{board} is not imported any more; import it again to use it")
        known = now
        await server.changed()


def complete_attached(incomplete: str) -> list[str]:
    """Boards that are attached on this machine, for the shell."""
    return sorted(r.board for r in list_records() if r.board.startswith(incomplete))


@command
def detach(
    boards: Annotated[
        list[str] | None,
        typer.Argument(help="Boards that are attached here.", autocompletion=complete_attached),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that is attached here.")] = False,
) -> None:
    """End what `icefarm attach` does on this machine, from another terminal.

    Example: icefarm detach bench-1
    """
    if bool(boards) == everything:
        raise InvalidRequestError("say what: names of boards, or --all")
    found = 0
    for record in list_records():
        if everything or record.board in (boards or ()):
            found += _end(record)
    if not found:
        what = "nothing" if everything else f"none of {', '.join(boards or ())}"
        raise InvalidRequestError(f"{what} is attached on this machine by this user")


def _end(record: Record) -> bool:
    """Whether there was anything to end."""
    is_held = record.is_held
    record.remove()
    if is_held:
        os.kill(record.pid, signal.SIGUSR1)
        if not record.wait_until_released(_DETACHING):
            raise InvalidRequestError(
                f"the process {record.pid}, which attached {record.board!r}, does not answer; "
                "end it by force: the kernel then unplugs the board"
            )
    # The kernel unplugs what a killed process had; what it has left is unplugged here.
    is_left = record.port is not None and vhci.detach(record.port)
    if is_held or is_left:
        say(f"{record.board} is detached")
    return is_held or is_left
