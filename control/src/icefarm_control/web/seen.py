"""What the broker says: which agents there are, whether control leads, whether it is there."""

from collections import deque
from datetime import datetime

from icefarm_broker import Connected, Disconnected, Happening, Received, Synced
from icefarm_control.web.reading import Changes
from icefarm_schemas import AgentState, ControlState, LogLine, utc_now
from icefarm_schemas.topics import AgentStateTopic, ControlStateTopic, LogTopic

_LINES = 1000
"""Of each agent's log."""


class Seen:
    """The latest of it. `broker_away` is since when control has not had the broker."""

    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self.agents: dict[str, AgentState] = {}
        self.control: ControlState | None = None
        self.broker_away: datetime | None = utc_now()
        self.why_away = "control has not connected to it yet"
        self.logs: dict[str, deque[LogLine]] = {}
        """The last lines of each agent's log since this process started."""
        self._confirmed: set[str] = set()

    @staticmethod
    def patterns(root: str) -> list[str]:
        """What the connection must subscribe to."""
        kinds = (AgentStateTopic, ControlStateTopic, LogTopic)
        return [kind.pattern(root) for kind in kinds]

    def log_of(self, agent: str, device: str) -> list[LogLine]:
        """The last lines that are about a device, newest first."""
        return [line for line in reversed(self.logs.get(agent, ())) if line.device == device]

    def observe(self, happening: Happening) -> None:
        """Take note of what the connection tells."""
        match happening:
            case Connected():
                self._confirmed.clear()
            case Synced():
                self.agents = {
                    agent: state for agent, state in self.agents.items() if agent in self._confirmed
                }
                self.broker_away = None
            case Disconnected(why):
                self.broker_away, self.why_away = utc_now(), str(why)
            case Received(AgentStateTopic(agent), AgentState() as state):
                self._confirmed.add(agent)
                self.agents[agent] = state
            case Received(AgentStateTopic(agent)):
                self.agents.pop(agent, None)
            case Received(LogTopic(agent), LogLine() as line):
                self.logs.setdefault(agent, deque(maxlen=_LINES)).append(line)
            case Received(ControlStateTopic(), message):
                self.control = message
            case _:
                return
        self._changes.tell()
