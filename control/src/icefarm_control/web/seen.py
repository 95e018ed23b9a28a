"""What the broker says: agents, boards, whether control leads, and whether the broker is there."""

from collections import deque
from datetime import datetime
from typing import TypeVar

from icefarm_broker import Connected, Disconnected, Happening, Received, Synced
from icefarm_control.web.changes import About, Changes
from icefarm_schemas import AgentState, ControlState, DeviceState, LogLine, utc_now
from icefarm_schemas.topics import AgentStateTopic, ControlStateTopic, DeviceStateTopic, LogTopic

_Key = TypeVar("_Key")
_State = TypeVar("_State")

_LINES = 500
"""Of each agent's log."""
_ALL_LINES = 20_000
"""Of all logs together; of more, those lose who have said most."""


def lines_of(agent: str, board: str = "") -> About:
    """The log lines of an agent, or those about one board of it."""
    return ("lines", agent, board)


def state_of(agent: str, board: str) -> About:
    """What an agent says of a board."""
    return ("board", agent, board)


class Seen:
    """The latest of it. `broker_away` is since when control has not had the broker."""

    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self.agents: dict[str, AgentState] = {}
        self.boards: dict[tuple[str, str], DeviceState] = {}
        self.control: ControlState | None = None
        self.broker_away: datetime | None = utc_now()
        self.why_away = "control has not connected to it yet"
        self._logs: dict[str, deque[LogLine]] = {}
        """The last lines of each agent's log since this process started."""
        self._line_count = 0
        self._confirmed: set[str | tuple[str, str]] = set()

    @staticmethod
    def patterns(root: str) -> list[str]:
        """What the connection must subscribe to."""
        kinds = (AgentStateTopic, DeviceStateTopic, ControlStateTopic, LogTopic)
        return [kind.pattern(root) for kind in kinds]

    def lines(self, agent: str, board: str = "") -> list[LogLine]:
        """The last lines of an agent's log, or those about one board, newest first."""
        said = reversed(self._logs.get(agent, ()))
        return [line for line in said if not board or line.device == board]

    def observe(self, happening: Happening) -> None:
        """Take note of what the connection tells, and wake the pages that show it."""
        about: list[About] | None = None
        match happening:
            case Connected():
                self._confirmed.clear()
            case Synced():
                self.agents = {k: v for k, v in self.agents.items() if k in self._confirmed}
                self.boards = {k: v for k, v in self.boards.items() if k in self._confirmed}
                self.broker_away = None
            case Disconnected(why):
                self.broker_away, self.why_away = utc_now(), str(why)
            case Received(AgentStateTopic(agent), message):
                _take(self.agents, agent, message)
                self._confirmed.add(agent)
            case Received(DeviceStateTopic(agent, board), message):
                _take(self.boards, (agent, board), message)
                self._confirmed.add((agent, board))
                about = [state_of(agent, board)]
            case Received(LogTopic(agent), LogLine() as line):
                self._keep(agent, line)
                about = [lines_of(agent)]
                if line.device is not None:
                    about.append(lines_of(agent, line.device))
            case Received(ControlStateTopic(), message):
                self.control = message
            case _:
                return
        self._changes.tell(about)

    def _keep(self, agent: str, line: LogLine) -> None:
        log = self._logs.setdefault(agent, deque())
        log.append(line)
        self._line_count += 1
        if len(log) > _LINES:
            log.popleft()
            self._line_count -= 1
        if self._line_count > _ALL_LINES:
            max(self._logs.values(), key=len).popleft()
            self._line_count -= 1


def _take(known: dict[_Key, _State], key: _Key, state: _State | None) -> None:
    if state is None:
        known.pop(key, None)
    else:
        known[key] = state
