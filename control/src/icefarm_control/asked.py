"""A request as it came, and the answer to it, which functions/requests.sql decides."""

import asyncio
import json
import logging
import math
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import psycopg

from icefarm_control.clock import database_time
from icefarm_control.database import Cursor, Database, all_rows
from icefarm_control.history import history, usage
from icefarm_control.refusals import why_refused
from icefarm_schemas import (
    Error,
    ErrorCode,
    HistoryRequest,
    Message,
    Operation,
    Reply,
    ReserveRequest,
    UsageRequest,
)
from icefarm_schemas.topics import RepliesTopic

_CARRY_OUT = """
    SELECT asked->>'id' AS id,
           carry_out(asked->>'client', asked->>'session', decode(asked->>'correlation', 'hex'),
                     asked->>'operation', asked->>'id', asked->'request')::text AS reply
    -- Before any row is locked, so that it cannot wait for somebody who waits for that row.
    FROM (SELECT CASE WHEN %(decides)s THEN one_at_a_time() END) AS turn,
         jsonb_array_elements(%(asked)s::jsonb) AS asked
"""

_ON_ITS_WAY = 0.1
"""Seconds; far more than it takes from the broker to the database."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Asked:
    """A request and who asks, by the topic that it came on.

    It is wanted until then, by time.monotonic(); nobody waits for an answer any more. It `came_at`
    a moment by the same clock.
    """

    client: str
    session: str
    correlation: bytes
    operation: str
    request: Message
    wanted_until: float = math.inf
    came_at: float = field(default_factory=time.monotonic)

    @property
    def is_wanted(self) -> bool:
        """Whether somebody may still wait for the answer."""
        return time.monotonic() < self.wanted_until

    @property
    def replies(self) -> RepliesTopic:
        """Where the answer goes."""
        return RepliesTopic(self.client, self.session)

    def as_json(self, new_id: str) -> str:
        """As `carry_out` is called with it; a reservation that is made gets this id."""
        head = {
            "client": self.client,
            "session": self.session,
            "correlation": self.correlation.hex(),
            "operation": self.operation,
            "id": new_id,
        }
        request = self.request.model_dump_json(exclude_none=True)
        return json.dumps(head)[:-1] + ', "request": ' + request + "}"


async def carry_out(database: Database, batch: Sequence[Asked]) -> list[bytes | None]:
    """Carry out requests in one transaction, in their order, and return the replies' payloads.

    None for one that cannot be carried out, see `refuse`, or that is not wanted any more. One that
    fails is a defect, of which whoever asked is told; the others are carried out.
    """
    # Of new reservations: short enough to be typed, not to be guessed within a lease.
    ids = [secrets.token_hex(5) for _ in batch]

    decides = any(asked.operation == Operation.RESERVE for asked in batch)

    def together() -> dict[str, Any]:
        # Anew at each attempt: the database may have been away for long.
        wanted = [
            asked.as_json(new_id)
            for new_id, asked in zip(ids, batch, strict=True)
            if asked.is_wanted
        ]
        return {"asked": "[" + ",".join(wanted) + "]", "decides": decides}

    try:
        rows = await database.call(_CARRY_OUT, together)
    except psycopg.Error as error:
        # One may have come twice and been carried out elsewhere: then its answer is remembered now.
        if len(batch) > 1 or _came_twice(error):
            return [reply for asked in batch for reply in await carry_out(database, [asked])]
        log.error(
            "%s of %s failed",
            batch[0].operation,
            batch[0].client,
            exc_info=error,
            extra={"client": batch[0].client},
        )
        message = "control failed on this request; its log says why"
        return [Reply(error=Error(code=ErrorCode.INTERNAL, message=message)).encode()]
    replies = {row["id"]: row["reply"] and row["reply"].encode() for row in rows}
    return [replies.get(new_id) for new_id in ids]


def _came_twice(error: psycopg.Error) -> bool:
    return isinstance(error, psycopg.errors.UniqueViolation) and error.diag.table_name == "answer"


async def refuse(database: Database, reading: Database, asked: Asked) -> bytes | None:
    """Answer a request that was not carried out: with what it asks for, or why not.

    None when nobody waits for it any more. What takes long is done on the connection `reading`.
    """
    while asked.is_wanted:
        if isinstance(asked.request, ReserveRequest):
            # A board that its agent has just reported may be on its way to the database.
            await asyncio.sleep(_ON_ITS_WAY)
            [reply] = await carry_out(database, [asked])
            if reply is not None:
                return reply
        refused = await reading.transaction(partial(_explain, asked))
        # Without a reason, what stood in the way has gone meanwhile.
        if refused is not None:
            return refused.encode()
        [reply] = await carry_out(database, [asked])
        if reply is not None:
            return reply
    return None


async def _explain(asked: Asked, cursor: Cursor) -> Reply | None:
    match asked.request:
        case HistoryRequest() as request:
            return Reply(history=await history(cursor, request), at=await database_time(cursor))
        case UsageRequest() as request:
            return Reply(usage=await usage(cursor, request), at=await database_time(cursor))
    refusal = await why_refused(cursor, asked.client, asked.request)
    if refusal is None:
        return None
    log.info(
        "refused %s of %s: %s",
        asked.operation,
        asked.client,
        refusal.error.message,
        extra={"client": asked.client, "code": refusal.error.code},
    )
    reply = Reply(error=refusal.error)
    # Kept to when the request comes again: whoever asked has gone another way by then.
    await all_rows(
        cursor,
        """
        INSERT INTO answer (client, session, correlation, reply, answered_at)
        VALUES (%(client)s, %(session)s, %(correlation)s, %(reply)s, now())
        ON CONFLICT DO NOTHING
        """,
        {
            "client": asked.client,
            "session": asked.session,
            "correlation": asked.correlation,
            "reply": reply.encode().decode(),
        },
    )
    return reply
