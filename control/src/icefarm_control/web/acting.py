"""What operators can do from a page: what it is called, what it needs, and what came of it."""

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import ValidationError
from starlette.datastructures import QueryParams

from icefarm_control.database import Database
from icefarm_control.operators import Operator, carry_out
from icefarm_control.web.accounts import User
from icefarm_control.web.changes import Changes
from icefarm_control.web.reading import DatabaseAwayError
from icefarm_schemas import (
    ConcernedAgent,
    ConcernedDevice,
    DrainRequest,
    EndRequest,
    ExtendLeasesRequest,
    ForgetAgentsRequest,
    ForgetRequest,
    Message,
    NoteRequest,
    OperatorOperation,
    Reply,
    ReservationState,
    RestartDevicesRequest,
    RestartRequest,
    ResumeRequest,
    faults,
)

_PATIENCE = 10.0
"""Seconds that something may take."""
_NAMED = 12
"""How many things are named in a message; the others are counted."""


class Operating:
    """Carries out what operators ask for on a connection of its own, once that is open."""

    def __init__(self, database: Database, changes: Changes) -> None:
        self._database = database
        self._changes = changes
        self._is_open = asyncio.Event()

    def begin(self) -> None:
        """The connection is open."""
        self._is_open.set()

    async def carry_out(
        self, user: User, session: str, operation: str, request: Message, correlation: bytes
    ) -> Reply:
        """Do it, or say why not; once for each `correlation`.

        Raises:
            DatabaseAwayError: it has not been done, since the database does not answer.
        """
        if self._changes.database_away is not None:
            raise DatabaseAwayError(self._changes.why_away)
        who = Operator(user.name, session, correlation)
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._is_open.wait()
                return await carry_out(self._database, operation, who, request)
        except TimeoutError:
            raise DatabaseAwayError(f"it did not answer within {_PATIENCE:g} s") from None


@dataclass(frozen=True)
class Action:
    """Something that is done after a confirmation.

    Attributes:
        name: in addresses.
        operation: the operator's operation.
        request: its message.
        title: as on a button.
        about: what it is about: reservations, agents or devices.
        explains: what it means for those concerned.
        needs: what is typed in: minutes (with `minutes` as a proposal) or text.
        is_grave: whether it takes something from somebody.
    """

    name: str
    operation: OperatorOperation
    request: type[Message]
    title: str
    about: str
    explains: str
    needs: str = ""
    minutes: int = 0
    is_grave: bool = False


ACTIONS = {
    action.name: action
    for action in (
        Action(
            "end",
            OperatorOperation.END,
            EndRequest,
            "End",
            "reservations",
            "The boards go back to the farm at once, whatever is running on them. Their holders "
            "are told that an operator did it.",
            is_grave=True,
        ),
        Action(
            "extend",
            OperatorOperation.EXTEND,
            ExtendLeasesRequest,
            "Extend",
            "reservations",
            "The leases will end so many minutes from now, instead of when they would have.",
            needs="minutes",
            minutes=60,
        ),
        Action(
            "restart-boards",
            OperatorOperation.RESTART_DEVICES,
            RestartDevicesRequest,
            "Restart",
            "devices",
            "The boards are started anew in what they do. Whoever holds one keeps it, but loses "
            "what is running on it.",
            is_grave=True,
        ),
        Action(
            "forget",
            OperatorOperation.FORGET,
            ForgetRequest,
            "Forget and find again",
            "devices",
            "The farm forgets the boards and what is noted of them. Those that are plugged in are "
            "found anew, prepared and tested; who holds one loses it.",
            is_grave=True,
        ),
        Action(
            "note",
            OperatorOperation.NOTE,
            NoteRequest,
            "Write a note",
            "devices",
            "Everybody sees the note. It takes the place of the one that is there; an empty one "
            "removes it.",
            needs="text",
        ),
        Action(
            "drain",
            OperatorOperation.DRAIN,
            DrainRequest,
            "Drain",
            "agents",
            "Nobody gets boards of the agents any more. Who holds some is told, and keeps them for "
            "so many minutes at most. The agents stay, until they are resumed.",
            needs="minutes",
            minutes=10,
            is_grave=True,
        ),
        Action(
            "resume",
            OperatorOperation.RESUME,
            ResumeRequest,
            "Resume",
            "agents",
            "Boards of the agents can be reserved again.",
        ),
        Action(
            "restart",
            OperatorOperation.RESTART,
            RestartRequest,
            "Restart",
            "agents",
            "The agents are drained: nobody gets boards of them, and who holds some keeps them for "
            "so many minutes at most. Then the agents end, and what supervises them starts them "
            "again.",
            needs="minutes",
            minutes=10,
            is_grave=True,
        ),
        Action(
            "forget-agents",
            OperatorOperation.FORGET_AGENTS,
            ForgetAgentsRequest,
            "Forget",
            "agents",
            "For agents that will not come back: the farm forgets them and their boards, of which "
            "nobody may hold one. One that comes back all the same is found as if it were new.",
            is_grave=True,
        ),
    )
}
"""By name."""

_PARAMETERS = {
    "reservations": {"reservation": "reservations", "board": "devices", "client": "client"},
    "devices": {"board": "devices"},
    "agents": {"agent": "agents"},
}
"""Of an action's address, and the field of the request that each fills."""


def read_request(action: Action, given: QueryParams, *, dry_run: bool = False) -> Message:
    """The request that an address, or a form, stands for.

    Raises:
        ValueError: it is none; the text says why.
    """
    fields: dict[str, object] = {"dry_run": dry_run}
    for parameter, field in _PARAMETERS[action.about].items():
        named = [name for name in dict.fromkeys(given.getlist(parameter)) if name]
        if named:
            fields[field] = named[0] if field == "client" else named
    if given.get("all") == "yes" and "all" in action.request.model_fields:
        fields["all"] = True
    if action.needs == "minutes":
        text = given.get("minutes", str(action.minutes))
        try:
            seconds = float(text) * 60
        except ValueError:
            raise ValueError(f"{text[:40]!r} is no number of minutes") from None
        fields["duration" if action.name == "extend" else "deadline"] = seconds
    if action.needs == "text":
        fields["text"] = given.get("text", "").strip()
    try:
        return action.request.model_validate(fields)
    except ValidationError as error:
        raise ValueError(faults.in_words(error)) from None


def is_chosen(action: Action, given: QueryParams) -> bool:
    """Whether an address names anything that the action could be about."""
    named = any(given.getlist(parameter) for parameter in _PARAMETERS[action.about])
    return named or given.get("all") == "yes"


def new_correlation() -> str:
    """What a form brings, so that one that is sent twice is carried out once."""
    return secrets.token_hex(8)


def in_words(action: Action, reply: Reply) -> str:
    """What came of it."""
    if reply.error is not None:
        return f"Nothing was done: {reply.error.message}."
    done: Sequence[str]
    if reply.reservations is not None:
        done = [_of_reservation(action, state) for state in reply.reservations]
    elif reply.agents is not None:
        done = [_of_agent(action, agent) for agent in reply.agents]
    else:
        done = [_of_device(action, device) for device in reply.devices or ()]
    if not done:
        return "There was nothing to do."
    more = f"; and {len(done) - _NAMED} more" if len(done) > _NAMED else ""
    return "Done: " + "; ".join(done[:_NAMED]) + more + "."


def _of_reservation(action: Action, state: ReservationState) -> str:
    who = f"reservation {state.reservation} of {state.client}"
    if action.name == "extend":
        return f"{who} now ends at {state.expires_at:%Y-%m-%d %H:%M:%S} UTC"
    if state.status == "ended":
        return f"{who} has ended"
    return f"{who} goes on with {len(state.devices)} boards"


def _of_agent(action: Action, agent: ConcernedAgent) -> str:
    if action.name == "resume":
        return f"{agent.agent} gives its boards away again"
    if action.name == "forget-agents":
        return f"{agent.agent} is forgotten"
    held = len(agent.reservations)
    what = "is restarted" if agent.restart else "is drained"
    if held == 0:
        return f"{agent.agent} {what}, and nobody holds boards of it"
    return (
        f"{agent.agent} {what}; {held} {'reservation has' if held == 1 else 'reservations have'} "
        f"boards of it until {agent.drains_until:%Y-%m-%d %H:%M:%S} UTC at most"
    )


def _of_device(action: Action, device: ConcernedDevice) -> str:
    name = f"{device.agent}/{device.device}"
    if action.name == "note":
        return f"the note of {name} is written"
    if action.name == "forget":
        return f"{name} is forgotten, and will be found again if it is there"
    return f"{name} is being restarted"
