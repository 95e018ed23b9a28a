"""An agent, the real one, whose boards are those of another process (timed_boards.py).

python -m benchmarks.timed_agent BROKER NAME BOARDS SOCKET
"""

import asyncio
import sys

from icefarm_agent.agent import Agent
from icefarm_agent.behaviours import installed_behaviours
from icefarm_agent.board import BoardError, BoardWithoutUsb
from icefarm_broker import BrokerAddress
from icefarm_broker.logs import log_as_service
from icefarm_broker.service import run_service


class RemoteBoard(BoardWithoutUsb):
    """A board that is given its firmwares over a socket."""

    product = "timed"
    patience = 10.0

    def __init__(self, name: str, socket: str) -> None:
        self.name = name
        self._socket = socket
        self._console: str | None = None

    @property
    def console(self) -> str:
        """The tty of the firmware that runs."""
        if self._console is None:
            raise BoardError("it has no firmware yet, and so no console")
        return self._console

    def has_firmware(self, firmware: str) -> bool:
        """Whatever is asked for is given."""
        return True

    async def install(self, firmware: str) -> None:
        """Ask for it; the one before has ended when its console was closed."""
        reader, writer = await asyncio.open_unix_connection(self._socket)
        writer.write(f"{self.name} {firmware}\n".encode())
        self._console = (await reader.readline()).decode().strip()
        writer.close()
        await writer.wait_closed()

    async def close(self) -> None:
        """Nothing to let go of: a firmware ends with its console."""


async def main(url: str, name: str, count: int, socket: str) -> None:
    """Offer the boards to the farm until stopped."""
    boards = [RemoteBoard(f"{name}-{number}", socket) for number in range(count)]
    agent = Agent(name, BrokerAddress.parse(url), installed_behaviours())
    for board in boards:
        agent.add(board)
    await agent.run()


if __name__ == "__main__":
    _, broker, own_name, boards_count, boards_socket = sys.argv
    log_as_service("timed-agent", agent=own_name)
    sys.exit(run_service(lambda: main(broker, own_name, int(boards_count), boards_socket)))
