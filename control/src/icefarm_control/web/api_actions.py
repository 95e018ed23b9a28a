"""The REST API for operators: the same requests as over the broker, with the same answers."""

import hashlib
import secrets
from typing import Annotated, Any

from fastapi import APIRouter, Body, Header, Request
from fastapi.responses import JSONResponse

from icefarm_control.web.access import LOGINS, Operator
from icefarm_control.web.accounts import User
from icefarm_control.web.api import REFUSALS, Refusal
from icefarm_control.web.state import Web
from icefarm_schemas import (
    ConcernedAgent,
    ConcernedDevice,
    DrainRequest,
    EndRequest,
    Error,
    ErrorCode,
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
)

_CODES = {
    ErrorCode.NO_SUCH_AGENT: 404,
    ErrorCode.NO_SUCH_DEVICE: 404,
    ErrorCode.NO_SUCH_RESERVATION: 404,
    ErrorCode.INVALID_REQUEST: 422,
    ErrorCode.LIMIT_EXCEEDED: 422,
}
"""Of HTTP; what is not here is a conflict with how things are now."""


class Refused(Refusal):
    """Why an operator's request was refused: in words, and as the contract says it."""

    error: Error


class RefusedByFarmError(Exception):
    """An operator's request was refused."""

    def __init__(self, error: Error) -> None:
        super().__init__(error.message)
        self.error = error


def refused(error: RefusedByFarmError) -> JSONResponse:
    """The answer that says so."""
    refusal = Refused(detail=error.error.message, error=error.error)
    return JSONResponse(refusal.model_dump(mode="json"), _CODES.get(error.error.code, 409))


router = APIRouter(
    prefix="/api/v1",
    tags=["operators"],
    dependencies=LOGINS,
    responses=REFUSALS
    | {
        400: {"model": Refusal, "description": "The body is no text in UTF-8."},
        403: {"model": Refusal, "description": "You may look, but not act."},
        404: {"model": Refused, "description": "Something that is named is not there."},
        409: {"model": Refused, "description": "It cannot be done now."},
    },
)


def _such_as(*examples: dict[str, object]) -> Any:
    """Bodies for the document."""
    return Body(examples=list(examples))


Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        max_length=200,
        description="A request that comes again with it within ten minutes is not done again.",
    ),
]


async def _ask(
    request: Request, user: User, operation: OperatorOperation, wanted: Message, key: str | None
) -> Reply:
    web: Web = request.app.state.web
    correlation = secrets.token_bytes(8) if key is None else hashlib.sha256(key.encode()).digest()
    reply = await web.operating.carry_out(user, "api", operation, wanted, correlation)
    if reply.error is not None:
        raise RefusedByFarmError(reply.error)
    return reply


@router.post("/reservations/end")
async def end(
    request: Request,
    user: Operator,
    wanted: Annotated[
        EndRequest,
        _such_as(
            {"devices": ["bench-1", "attic/board-7"]},
            {"client": "ann"},
            {"all": True, "dry_run": True},
        ),
    ],
    key: Key = None,
) -> list[ReservationState]:
    """End anybody's reservations, or take boards out of them; the reservations as they are then."""
    reply = await _ask(request, user, OperatorOperation.END, wanted, key)
    return list(reply.reservations or ())


@router.post("/reservations/extend")
async def extend(
    request: Request,
    user: Operator,
    wanted: Annotated[ExtendLeasesRequest, _such_as({"client": "ann", "duration": 7200})],
    key: Key = None,
) -> list[ReservationState]:
    """Let anybody's leases end later; the reservations as they are then."""
    reply = await _ask(request, user, OperatorOperation.EXTEND, wanted, key)
    return list(reply.reservations or ())


@router.post("/agents/drain")
async def drain(
    request: Request,
    user: Operator,
    wanted: Annotated[DrainRequest, _such_as({"agents": ["bench"], "deadline": 600})],
    key: Key = None,
) -> list[ConcernedAgent]:
    """Give the boards of agents to nobody, and take them back at a deadline."""
    reply = await _ask(request, user, OperatorOperation.DRAIN, wanted, key)
    return list(reply.agents or ())


@router.post("/agents/resume")
async def resume(
    request: Request,
    user: Operator,
    wanted: Annotated[ResumeRequest, _such_as({"all": True})],
    key: Key = None,
) -> list[ConcernedAgent]:
    """Let agents go on that are drained."""
    reply = await _ask(request, user, OperatorOperation.RESUME, wanted, key)
    return list(reply.agents or ())


@router.post("/agents/restart")
async def restart(
    request: Request,
    user: Operator,
    wanted: Annotated[RestartRequest, _such_as({"agents": ["bench"], "deadline": 60})],
    key: Key = None,
) -> list[ConcernedAgent]:
    """Drain agents and let them end, to be started again by what supervises them."""
    reply = await _ask(request, user, OperatorOperation.RESTART, wanted, key)
    return list(reply.agents or ())


@router.post("/agents/forget")
async def forget_agents(
    request: Request,
    user: Operator,
    wanted: Annotated[ForgetAgentsRequest, _such_as({"agents": ["bench"]})],
    key: Key = None,
) -> list[ConcernedAgent]:
    """Remove agents that are not there, with their boards, of which nobody may hold one."""
    reply = await _ask(request, user, OperatorOperation.FORGET_AGENTS, wanted, key)
    return list(reply.agents or ())


@router.post("/boards/restart")
async def restart_boards(
    request: Request,
    user: Operator,
    wanted: Annotated[RestartDevicesRequest, _such_as({"devices": ["bench-1", "attic/board-7"]})],
    key: Key = None,
) -> list[ConcernedDevice]:
    """Start boards anew in what they do, whoever holds them."""
    reply = await _ask(request, user, OperatorOperation.RESTART_DEVICES, wanted, key)
    return list(reply.devices or ())


@router.post("/boards/forget")
async def forget(
    request: Request,
    user: Operator,
    wanted: Annotated[ForgetRequest, _such_as({"devices": ["bench-1"]})],
    key: Key = None,
) -> list[ConcernedDevice]:
    """Remove boards and what is noted of them; those that are there are found anew."""
    reply = await _ask(request, user, OperatorOperation.FORGET, wanted, key)
    return list(reply.devices or ())


@router.post("/boards/note")
async def note(
    request: Request,
    user: Operator,
    wanted: Annotated[NoteRequest, _such_as({"devices": ["bench-1"], "text": "Its LED is dead."})],
    key: Key = None,
) -> list[ConcernedDevice]:
    """Write something about boards for all to see; an empty text removes it."""
    reply = await _ask(request, user, OperatorOperation.NOTE, wanted, key)
    return list(reply.devices or ())
