"""Why a request was not carried out, in words."""

import json
from typing import Any

from icefarm_control.database import Cursor, all_rows
from icefarm_schemas import (
    MAX_LEASE,
    ChangeRequest,
    Error,
    ErrorCode,
    ExtendLeasesRequest,
    ExtendRequest,
    Message,
    ReleaseRequest,
    ReserveRequest,
    TakeOverRequest,
)

_OfLeases = ReserveRequest | ExtendRequest | ExtendLeasesRequest


class RefusedError(Exception):
    """A request that cannot be granted."""

    def __init__(self, code: ErrorCode, message: str, **details: Any) -> None:
        super().__init__(message)
        self.error = Error(code=code, message=message, details=details)


def check_lease(request: Message) -> None:
    """Refuse a lease that is too long.

    Raises:
        RefusedError: it is.
    """
    if isinstance(request, _OfLeases) and request.duration > MAX_LEASE:
        raise RefusedError(
            ErrorCode.LIMIT_EXCEEDED,
            f"a lease of {request.duration:g} s was asked for; {MAX_LEASE:g} s are allowed "
            f"at a time, and a lease can be extended while it lasts",
            longest=MAX_LEASE,
        )


async def why_refused(cursor: Cursor, client: str, request: Message) -> RefusedError | None:
    """Why a request was refused; None when nothing stands in its way any more."""
    match request:
        case ReserveRequest(devices=None):
            return await _why_not(cursor, request)
        case ReserveRequest():
            return await _why_not_these(cursor, request)
        case TakeOverRequest() | ExtendRequest() | ReleaseRequest() | ChangeRequest():
            return await _why_not_selected(cursor, client, request)
    raise AssertionError(f"no rule for {request!r}")


def _wish(request: ReserveRequest) -> str:
    """What is asked for, as a part of a sentence."""
    parts = [f"with {request.behaviour!r}"]
    if request.product is not None:
        parts.append(f"of the product {request.product!r}")
    parts += [f"labelled {name}={value}" for name, value in sorted(request.labels.items())]
    return ", ".join(parts)


async def _why_not(cursor: Cursor, request: ReserveRequest) -> RefusedError:
    [row] = await all_rows(
        cursor,
        """
        SELECT count(*) FILTER (WHERE offers) AS offering,
               count(*) FILTER (WHERE offers AND fits) AS total,
               count(*) FILTER (WHERE offers AND fits AND free) AS free,
               array(SELECT DISTINCT unnest(behaviours) FROM device ORDER BY 1) AS known,
               (SELECT count(*) FROM reservation WHERE status = 'queued') AS others
        FROM (
            SELECT %(behaviour)s = ANY(behaviours) AS offers,
                   (%(product)s::text IS NULL OR product = %(product)s)
                   AND labels @> %(labels)s::jsonb AS fits,
                   is_free(device) AS free
            FROM device
        ) AS d
        """,
        {
            "behaviour": request.behaviour,
            "product": request.product,
            "labels": json.dumps(request.labels),
        },
    )
    free, total, known, others = row["free"], row["total"], row["known"], row["others"]
    if row["offering"] == 0:
        return RefusedError(
            ErrorCode.NO_SUCH_BEHAVIOUR,
            f"no board offers {request.behaviour!r}; the farm's boards offer: "
            + (", ".join(known) or "nothing, since there are none"),
            known=known,
        )
    if others == 0:
        ahead = ""
    elif others == 1:
        ahead = ", and 1 reservation is in the queue"
    else:
        ahead = f", and {others} reservations are in the queue"
    return RefusedError(
        ErrorCode.NOT_AVAILABLE,
        f"not enough boards {_wish(request)}: {request.count} asked for, "
        f"{free} of {total} free{ahead}",
        asked=request.count,
        free=free,
        total=total,
        queued=others,
    )


async def _why_not_these(cursor: Cursor, request: ReserveRequest) -> RefusedError:
    assert request.devices is not None
    names = list(request.devices)
    rows = await all_rows(
        cursor,
        "SELECT *, labels @> %(labels)s::jsonb AS labelled FROM device "
        "WHERE name = ANY(%(names)s) ORDER BY online, agent, name",
        {
            "names": names,
            "labels": json.dumps(request.labels),
        },
    )
    # A board that was moved may still be known at an agent that is away; the online one counts.
    found = {row["name"]: row for row in rows}
    reasons = []
    for name in names:
        row = found.get(name)
        if row is None:
            return RefusedError(
                ErrorCode.NO_SUCH_DEVICE,
                f"the farm has no board {name!r}; `icefarm boards` lists them",
                device=name,
            )
        if request.behaviour not in row["behaviours"]:
            return RefusedError(
                ErrorCode.NO_SUCH_BEHAVIOUR,
                f"the board {name!r} does not offer {request.behaviour!r} but "
                + ", ".join(row["behaviours"]),
                device=name,
                known=row["behaviours"],
            )
        if not row["labelled"] or request.product not in (None, row["product"]):
            return RefusedError(
                ErrorCode.NO_SUCH_DEVICE,
                f"the board {name!r} is not what is asked for: {_wish(request)}",
                device=name,
            )
        if not row["online"]:
            reasons.append(f"the board {name!r} is away with its agent")
        elif row["reservation"] is not None:
            reasons.append(f"the board {name!r} is held by another reservation")
        elif row["draining"]:
            reasons.append(f"the agent {row['agent']!r} of the board {name!r} is being drained")
        elif row["status"] != "available":
            reasons.append(f"the board {name!r} is {row['status']}")
    return RefusedError(
        ErrorCode.NOT_AVAILABLE,
        "; ".join(reasons) or "others are ahead in the queue for these boards",
        devices=names,
    )


async def _why_not_selected(
    cursor: Cursor,
    client: str,
    request: TakeOverRequest | ExtendRequest | ReleaseRequest | ChangeRequest,
) -> RefusedError | None:
    rows = await all_rows(
        cursor,
        "SELECT id, client, status, end_reason FROM reservation WHERE id = ANY(%(ids)s)",
        {"ids": list(request.reservations or ())},
    )
    found = {row["id"]: row for row in rows}
    for reservation in request.reservations or ():
        refusal = _why_not_this(client, reservation, found.get(reservation), request)
        if refusal is not None:
            return refusal
    if isinstance(request, TakeOverRequest):
        return None
    held = await all_rows(
        cursor,
        """
        SELECT a.device, d.behaviours
        FROM allocation a JOIN reservation r ON r.id = a.reservation
        LEFT JOIN device d ON d.agent = a.agent AND d.name = a.device
        WHERE a.ended_at IS NULL AND r.client = %(client)s
          AND (%(all)s OR r.id = ANY(%(ids)s) OR a.device = ANY(%(devices)s))
        """,
        {
            "client": client,
            "all": request.all,
            "ids": list(request.reservations or ()),
            "devices": list(request.devices or ()),
        },
    )
    for device in request.devices or ():
        if device not in {row["device"] for row in held}:
            return RefusedError(
                ErrorCode.NOT_HOLDER,
                f"the board {device!r} is in no reservation of {client!r}",
                device=device,
            )
    if isinstance(request, ChangeRequest):
        for row in held:
            if request.behaviour not in (row["behaviours"] or ()):
                return RefusedError(
                    ErrorCode.NO_SUCH_BEHAVIOUR,
                    f"the board {row['device']!r} does not offer {request.behaviour!r} but "
                    + ", ".join(row["behaviours"] or ()),
                    device=row["device"],
                    known=row["behaviours"],
                )
    return None


def _why_not_this(
    client: str, reservation: str, row: dict[str, Any] | None, request: Message
) -> RefusedError | None:
    if row is not None and row["client"] != client:
        return RefusedError(
            ErrorCode.NOT_HOLDER,
            f"the reservation {reservation!r} is held by somebody else, not by {client!r}",
        )
    is_about_lease = isinstance(request, ExtendRequest | ChangeRequest)
    return why_not_live(reservation, row, is_about_lease=is_about_lease)


def why_not_live(
    reservation: str, row: dict[str, Any] | None, *, is_about_lease: bool
) -> RefusedError | None:
    """Why nothing can be done with a reservation, by its row, where it has one."""
    if row is None:
        return RefusedError(
            ErrorCode.NO_SUCH_RESERVATION, f"there is no reservation {reservation!r}"
        )
    if row["status"] == "ended":
        reason = row["end_reason"]
        return RefusedError(
            ErrorCode.RESERVATION_ENDED,
            f"the reservation {reservation!r} is over: {reason.replace('_', ' ')}",
            reason=reason,
        )
    if row["status"] == "queued" and is_about_lease:
        return RefusedError(
            ErrorCode.INVALID_REQUEST,
            f"the reservation {reservation!r} is still queued; its lease begins when there are "
            f"devices for it",
        )
    return None
