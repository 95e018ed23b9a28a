"""Bitstreams that wait to be sent, and which of them goes to which boards next."""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from icefarm.boards import BoardKey
from icefarm.results import Bitstream

MOST_WAITING = 256
"""Bitstreams of 104 kB each that are read ahead for boards that are busy or away."""


@dataclass(eq=False)
class Work:
    """A bitstream, and the boards that it has yet to be sent to.

    Attributes:
        boards: those; None when any board will do.
        lost: the boards that were lost while they had it.
    """

    bitstream: Bitstream
    boards: set[BoardKey] | None = None
    lost: list[BoardKey] = field(default_factory=list)


@dataclass
class Backlog:
    """What waits, in the order in which it came. Each board is served in this order.

    `room` is how many more bitstreams each board can take now; a board that is away for the
    moment is not in it.
    """

    _waiting: deque[Work] = field(default_factory=deque)

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, work: Work) -> None:
        """Behind all that waits."""
        self._waiting.append(work)

    def put_back(self, work: Work) -> None:
        """Before all that waits."""
        self._waiting.appendleft(work)

    def take(self, room: Mapping[BoardKey, int]) -> tuple[Work, list[BoardKey]] | None:
        """The next work that can be sent, and to which boards; one message serves all of them.

        A board that is away holds up nothing: it gets its part when it is back.
        """
        wanted: set[BoardKey] = set()
        for work in self._waiting:
            if work.boards is None:
                # A lost board may look ready for a moment; where it is alone, it was put right.
                others = set(room) - set(work.lost)
                free = [b for b in _free(room, wanted) if b in others or not others]
                if free:
                    self._waiting.remove(work)
                    return work, [max(free, key=lambda board: room[board])]
                continue
            there = work.boards & room.keys()
            if there and all(room[board] > 0 and board not in wanted for board in there):
                work.boards -= there
                if not work.boards:
                    self._waiting.remove(work)
                return work, sorted(there)
            wanted |= there
        return None

    def needs_more(self, room: Mapping[BoardKey, int]) -> bool:
        """Whether a board is idle that nothing waits for; asked when nothing can be taken."""
        return len(self._waiting) < MOST_WAITING and bool(_free(room, self.wanted()))

    def lose(self, boards: Iterable[BoardKey]) -> list[tuple[Work, BoardKey]]:
        """Let nothing wait for these boards any more, and return what did."""
        gone = set(boards)
        lost = [(w, board) for w in self._waiting for board in sorted((w.boards or set()) & gone)]
        for work, board in lost:
            assert work.boards is not None
            work.boards.discard(board)
        self._waiting = deque(work for work in self._waiting if work.boards != set())
        return lost

    def wanted(self) -> set[BoardKey]:
        """The boards that something waits for."""
        return {board for work in self._waiting for board in work.boards or ()}


def _free(room: Mapping[BoardKey, int], wanted: set[BoardKey]) -> list[BoardKey]:
    return [board for board, places in room.items() if places > 0 and board not in wanted]
