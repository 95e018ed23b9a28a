"""A client's process that plugs boards into its machine, with firmware of its own in each.

    python -m benchmarks.attaching_client BROKER BOARD=FIRMWARE ...

The firmwares are those of the virtual boards (tests/kernel/firmwares.py). It prints `ready` when
all boards are attached, and gives them back on SIGTERM.
"""

import asyncio
import signal
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack

from kernel.uf2 import firmware_image, uf2

import icefarm
from benchmarks.requesting import until_served

READY = "ready"
_PATIENCE = 120.0
"""Seconds for the agent to have put its default firmware into the boards, while all is emulated."""


async def main(url: str, firmwares: Mapping[str, str]) -> None:
    """Hold the boards until told to end."""
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(icefarm.AsyncClient(url, name="bench"))
        await until_served(client)
        await client.wait_until_available(len(firmwares), behaviour="usbip", timeout=_PATIENCE)
        reservation = await stack.enter_async_context(
            client.reserve(boards=list(firmwares), behaviour="usbip")
        )
        for board, firmware in firmwares.items():
            await reservation.flash(uf2(firmware_image(firmware)), boards=[board])
        for board in firmwares:
            await stack.enter_async_context(reservation.attach(board))
        print(READY, flush=True)
        await told.wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], dict(pair.split("=") for pair in sys.argv[2:])))
