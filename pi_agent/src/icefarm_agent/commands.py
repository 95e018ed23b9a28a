"""What a holder tells one device to do besides measuring: to flash its firmware, to start anew."""

from dataclasses import dataclass, field

from icefarm_agent.once import OnceQueue
from icefarm_schemas import CommandFinished

_MOST_WAITING = 8
"""UF2 files of up to 4 MiB each."""
_RESULTS_KEPT = 64


@dataclass(frozen=True)
class Command:
    """A command and the session that waits for its end.

    `image` is the UF2 file to be written; without one, the device is to start anew.
    """

    id: str
    client: str
    session: str
    image: bytes | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """As in its topic."""
        return "reset" if self.image is None else "flash"

    @property
    def key(self) -> tuple[str, str, str]:
        """Name, client and id, which make it the same when it comes again."""
        return self.name, self.client, self.id


def command_queue() -> OnceQueue[Command, CommandFinished]:
    """The commands to one device in one reservation."""
    return OnceQueue("commands", _MOST_WAITING, _RESULTS_KEPT)
