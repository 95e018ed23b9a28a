"""Answers that are remembered, so that a request which comes again is not carried out again."""

import json

from icefarm_control.database import Cursor, all_rows
from icefarm_schemas import Reply

REMEMBERED = "10 minutes"
"""As a Postgres interval; far longer than any client repeats a request."""


async def remembered(cursor: Cursor, client: str, session: str, correlation: bytes) -> Reply | None:
    """The reply that this request got before."""
    rows = await all_rows(
        cursor,
        "SELECT reply FROM answer "
        "WHERE client = %(client)s AND session = %(session)s AND correlation = %(correlation)s",
        {"client": client, "session": session, "correlation": correlation},
    )
    return Reply.model_validate(rows[0]["reply"]) if rows else None


async def remember(
    cursor: Cursor, client: str, session: str, correlation: bytes, reply: Reply
) -> None:
    """Keep a reply, in the transaction that carries out its request."""
    await cursor.execute(
        "INSERT INTO answer (client, session, correlation, reply, answered_at) "
        "VALUES (%(client)s, %(session)s, %(correlation)s, %(reply)s, now())",
        {
            "client": client,
            "session": session,
            "correlation": correlation,
            "reply": json.dumps(reply.model_dump(mode="json", exclude_none=True)),
        },
    )


async def forget_old(cursor: Cursor) -> None:
    """Drop the answers that no client can ask for again."""
    await cursor.execute(
        "DELETE FROM answer WHERE answered_at < now() - %(age)s::interval", {"age": REMEMBERED}
    )
