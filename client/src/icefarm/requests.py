"""Requests from what a caller gave, checked before anything is sent."""

from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from icefarm.boards import BoardName, names_or_none
from icefarm.errors import InvalidRequestError
from icefarm_schemas import Message, OnSessionEnd, ReserveRequest
from icefarm_schemas.faults import in_words

_Request = TypeVar("_Request", bound=Message)


def make(kind: type[_Request], **fields: Any) -> _Request:
    """A request.

    Raises:
        InvalidRequestError: a field makes no sense.
    """
    try:
        return kind(**fields)
    except ValidationError as error:
        raise InvalidRequestError(in_words(error)) from error


def reserve_request(
    count: int | None,
    *,
    behaviour: str,
    boards: Sequence[BoardName] | None,
    product: str | None,
    labels: dict[str, str] | None,
    arguments: dict[str, Any] | None,
    duration: float,
    keep: bool,
    wait: float | None,
    priority: int,
    board_grace: float,
) -> ReserveRequest:
    """As `AsyncClient.reserve` describes it."""
    return make(
        ReserveRequest,
        behaviour=behaviour,
        count=1 if count is None and boards is None else count,
        devices=names_or_none(boards),
        product=product,
        labels=labels or {},
        arguments=arguments or {},
        duration=duration,
        on_session_end=OnSessionEnd.KEEP if keep else OnSessionEnd.RELEASE,
        wait=wait,
        priority=priority,
        device_grace=board_grace,
    )


def selection(
    reservations: Sequence[str], boards: Sequence[BoardName] | None, everything: bool
) -> dict[str, Any]:
    """The fields that say what a request is about: reservations, boards, or all of them."""
    return {
        "reservations": tuple(reservations) or None,
        "devices": names_or_none(boards),
        "all": everything,
    }
