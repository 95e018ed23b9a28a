"""What pages and the REST API have in common."""

from dataclasses import dataclass
from datetime import datetime

from icefarm_control.web.accounts import Accounts
from icefarm_control.web.acting import Operating
from icefarm_control.web.changes import Changes
from icefarm_control.web.reading import Reading
from icefarm_control.web.seen import Seen
from icefarm_control.web.sessions import SessionKey
from icefarm_control.web.usage import UsageReports
from icefarm_schemas import Presence


@dataclass(frozen=True)
class Trouble:
    """Something that keeps control from working, in words; `since` when, where that is known."""

    what: str
    why: str
    since: datetime | None = None


@dataclass(frozen=True)
class Web:
    """The parts of a dashboard.

    Attributes:
        reading: the database.
        usage: who used how much, from there.
        changes: tells when something may look different.
        seen: what the broker says.
        accounts: who may log in.
        operating: carries out what operators ask for.
        key: signs sessions.
    """

    reading: Reading
    usage: UsageReports
    changes: Changes
    seen: Seen
    accounts: Accounts
    operating: Operating
    key: SessionKey

    def trouble(self) -> list[Trouble]:
        """What is wrong with control now."""
        found = []
        seen, changes = self.seen, self.changes
        if changes.database_away is not None:
            found.append(
                Trouble(
                    "Control has lost the database: what is shown is as it was, and nothing can be "
                    "reserved, extended or given back until it is there again.",
                    changes.why_away,
                    changes.database_away,
                )
            )
        if seen.broker_away is not None:
            found.append(
                Trouble(
                    "Control has lost the broker: what is shown is as it was, and neither agents "
                    "nor clients reach control until it is there again.",
                    seen.why_away,
                    seen.broker_away,
                )
            )
        elif seen.control is None or seen.control.status is not Presence.ONLINE:
            found.append(
                Trouble(
                    "No control process leads yet: changes are not told to agents until one does.",
                    "this takes some seconds after a start",
                )
            )
        return found
