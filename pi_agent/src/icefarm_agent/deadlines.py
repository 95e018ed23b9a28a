"""How long lasts what control gave a beginning and an end, whatever the clock here shows."""

from datetime import datetime

from icefarm_schemas import utc_now


def seconds_left(since: datetime, until: datetime, *, retained: bool) -> float:
    """Seconds until then; by this machine's wall clock only where that can be right.

    What was `retained` is of unknown age; else it has come just now.
    """
    length = (until - since).total_seconds()
    left = (until - utc_now()).total_seconds()
    if 0 < left <= length:
        return left
    # The clock is wrong, or it is over; of the former, that it comes just now is a sign.
    return min(left, length) if retained else length
