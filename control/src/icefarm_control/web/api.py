"""The REST API: what the pages show, for programs. /api/v1/openapi.json describes it."""

from datetime import datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, HTTPException, Path, Query, Request, status
from fastapi.exceptions import RequestValidationError
from pydantic import AwareDatetime, BaseModel, BeforeValidator

from icefarm_control.web import farm, queries
from icefarm_control.web.access import LOGINS, Asker
from icefarm_control.web.queries import BoardFilter, BoardOrder
from icefarm_control.web.state import Web
from icefarm_control.web.views import (
    Agent,
    Availability,
    BoardDetails,
    Boards,
    Reservation,
    Reservations,
    Step,
    UsageReport,
)
from icefarm_schemas import AuditEntry, ReservationStatus, What, utc_now

_MOST = 1000
_LONGEST_REPORT = timedelta(days=366)
_NO_NUL = r"^[^\x00]*$"


class Refusal(BaseModel):
    """Why a request was not served, in words."""

    detail: str


REFUSALS: dict[int | str, dict[str, object]] = {
    401: {"model": Refusal, "description": "Nobody is logged in, or with a wrong password."},
    503: {"model": Refusal, "description": "The database or the broker does not answer."},
}
_MISSING: dict[int | str, dict[str, object]] = {
    404: {"model": Refusal, "description": "The farm has none of this name."}
}

router = APIRouter(prefix="/api/v1", responses=REFUSALS, dependencies=LOGINS)


def _check_time(given: object) -> object:
    if isinstance(given, str) and "-" not in given[1:]:
        raise ValueError("give a date and a time with its offset, as 2026-11-21T19:57:18Z")
    return given


Text = Annotated[str, Query(max_length=200, pattern=_NO_NUL)]
InPath = Annotated[str, Path(max_length=200, pattern=_NO_NUL)]
Limit = Annotated[int, Query(ge=1, le=_MOST)]
Moment = Annotated[AwareDatetime, BeforeValidator(_check_time)]
"""Not a number of seconds, which would be taken for one."""
Offset = Annotated[int, Query(ge=0, le=10_000_000)]


def _web(request: Request) -> Web:
    web: Web = request.app.state.web
    return web


class Me(BaseModel):
    """Who asks, and what he may do: `observer` or `operator`."""

    name: str
    role: str


@router.get("/me", tags=["accounts"])
async def me(user: Asker) -> Me:
    """Who you are to the farm."""
    return Me(name=user.name, role=user.role.value)


@router.get("/availability", tags=["boards"])
async def availability(request: Request, _: Asker) -> Availability:
    """How many boards are free, by behaviour and by product."""
    return await queries.availability(_web(request).reading)


@router.get("/agents", tags=["agents"])
async def agents(request: Request, _: Asker) -> list[Agent]:
    """All agents."""
    return await farm.agents(_web(request))


@router.get("/agents/{agent}", tags=["agents"], responses=_MISSING)
async def agent(request: Request, _: Asker, agent: InPath) -> Agent:
    """One agent."""
    found = await farm.agent(_web(request), agent)
    if found is None:
        raise HTTPException(status.HTTP_404_NOT_FOUND, f"the farm has no agent {agent!r}")
    return found


@router.get("/boards", tags=["boards"])
async def boards(
    request: Request,
    _: Asker,
    search: Text = "",
    status: Text = "",
    behaviour: Text = "",
    product: Text = "",
    agent: Text = "",
    client: Text = "",
    reservation: Text = "",
    order: BoardOrder = BoardOrder.NAME,
    descending: bool = False,
    limit: Limit = 100,
    offset: Offset = 0,
) -> Boards:
    """Boards with who holds them: those that match all that is given."""
    wanted = BoardFilter(search, status, behaviour, product, agent, client, reservation)
    return await queries.boards(
        _web(request).reading,
        wanted,
        order=order,
        descending=descending,
        limit=limit,
        offset=offset,
    )


@router.get("/boards/{agent}/{board}", tags=["boards"], responses=_MISSING)
async def board(request: Request, _: Asker, agent: InPath, board: InPath) -> BoardDetails:
    """One board, with what its agent knows of it besides."""
    found = await farm.board(_web(request), agent, board)
    if found is None:
        raise HTTPException(
            status.HTTP_404_NOT_FOUND, f"the agent {agent!r} has no board {board!r}"
        )
    return found


@router.get("/reservations", tags=["reservations"])
async def reservations(
    request: Request,
    _: Asker,
    status: ReservationStatus | None = None,
    client: Text = "",
    search: Text = "",
    limit: Limit = 100,
    offset: Offset = 0,
) -> Reservations:
    """Reservations of a status, or all that live; the queue in its order, others newest first."""
    return await queries.reservations(
        _web(request).reading,
        client=client,
        status=status.value if status else "",
        search=search,
        limit=limit,
        offset=offset,
    )


@router.get("/reservations/{reservation}", tags=["reservations"], responses=_MISSING)
async def reservation(request: Request, _: Asker, reservation: InPath) -> Reservation:
    """One reservation, however long it is over."""
    found = await queries.reservation(_web(request).reading, reservation)
    if found is None:
        raise HTTPException(status.HTTP_404_NOT_FOUND, f"there is no reservation {reservation!r}")
    return found


@router.get("/history", tags=["history"])
async def history(
    request: Request,
    _: Asker,
    client: Text = "",
    board: Text = "",
    agent: Text = "",
    reservation: Text = "",
    what: What | None = None,
    before: Annotated[int | None, Query(ge=0, le=2**62)] = None,
    limit: Limit = 100,
) -> list[Step]:
    """What happened, newest first; `before` is the number of the oldest step that is known."""
    return await queries.steps(
        _web(request).reading,
        client=client,
        board=board,
        agent=agent,
        reservation=reservation,
        what=what.value if what else "",
        before=before,
        limit=limit,
    )


@router.get("/usage", tags=["history"])
async def usage(
    request: Request,
    _: Asker,
    since: Moment | None = None,
    until: Moment | None = None,
) -> UsageReport:
    """Who held boards for how long between two moments; without them, in the last seven days."""
    end = until or utc_now()
    begin = since or _earlier(end)
    if not timedelta() < end - begin <= _LONGEST_REPORT:
        raise _fault_of("since", "give up to 366 days, the earlier end first")
    return await queries.usage(_web(request).reading, begin, end)


@router.get("/audit", tags=["operators"])
async def audit(
    request: Request,
    _: Asker,
    who: Text = "",
    before: Annotated[int | None, Query(ge=0, le=2**62)] = None,
    limit: Limit = 100,
) -> list[AuditEntry]:
    """What operators asked for, newest first."""
    return await queries.audit(_web(request).reading, who=who, before=before, limit=limit)


def _fault_of(parameter: str, why: str) -> RequestValidationError:
    """A parameter is not as it should be, told as all others are."""
    return RequestValidationError(
        [{"type": "value_error", "loc": ("query", parameter), "msg": why, "input": None}]
    )


def _earlier(end: datetime) -> datetime:
    try:
        return end - timedelta(days=7)
    except OverflowError:
        return end
