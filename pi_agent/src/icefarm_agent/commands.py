"""What a holder tells one device to do besides measuring: to flash its firmware, to start anew."""

import asyncio
from collections import OrderedDict, deque
from dataclasses import dataclass, field

from icefarm_schemas import CommandFinished, Error, ErrorCode

MOST_WAITING = 8
"""UF2 files of up to 4 MiB each."""
_RESULTS_KEPT = 64

_Key = tuple[str, str, str]


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
    def key(self) -> _Key:
        """What makes it the same command when it comes again."""
        return self.name, self.client, self.id


class CommandQueue:
    """First come, first served; a repeated command is not carried out again."""

    def __init__(self) -> None:
        self._waiting: deque[Command] = deque()
        self._came = asyncio.Event()
        self._known: set[_Key] = set()
        self._results: OrderedDict[_Key, CommandFinished] = OrderedDict()

    def add(self, command: Command) -> Error | None:
        """Queue a command, unless it is known; an error says why it is refused."""
        if command.key in self._known:
            return None
        if len(self._waiting) >= MOST_WAITING:
            return Error(
                code=ErrorCode.LIMIT_EXCEEDED,
                message=f"{MOST_WAITING} commands wait for this board already; wait for them",
            )
        self._known.add(command.key)
        self._waiting.append(command)
        self._came.set()
        return None

    async def next(self) -> Command:
        """The next one, as soon as there is one; it waits on until it is finished."""
        while not self._waiting:
            self._came.clear()
            await self._came.wait()
        return self._waiting[0]

    def drain(self) -> list[Command]:
        """Those that are not finished, which then wait no more."""
        drained = list(self._waiting)
        self._waiting.clear()
        return drained

    def finish(self, command: Command, result: CommandFinished) -> None:
        """Keep a result for a while, in case it is asked for again."""
        if command in self._waiting:
            self._waiting.remove(command)
        self._results[command.key] = result
        if len(self._results) > _RESULTS_KEPT:
            oldest, _ = self._results.popitem(last=False)
            self._known.discard(oldest)

    def result_of(self, command: Command) -> CommandFinished | None:
        """The result that this command has had already."""
        return self._results.get(command.key)
