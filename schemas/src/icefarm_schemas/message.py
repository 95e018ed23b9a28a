"""What all messages share: strict fields, UTF-8 JSON, times in UTC."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict

CONTENT_TYPE = "application/json"
"""The MQTT 5 content type of every payload that is not bulk data."""

CONTRACT_VERSION = "1.2"
"""Of the topics and messages; a change that older parts cannot read changes the root topic."""

MAX_PAYLOAD_BYTES = 4 * 1024 * 1024
"""The largest payload, also mosquitto.conf's message_size_limit: a UF2 for an RP2040's 2 MB of
flash takes twice that, since half of each UF2 block is payload."""


def _to_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("the time is before the year 1 or after 9999 in UTC") from error


UtcTime = Annotated[AwareDatetime, AfterValidator(_to_utc)]
"""A moment, RFC 3339 on the wire; any offset is read, UTC is written."""


def utc_now() -> datetime:
    """The time now, in UTC, as messages carry it."""
    return datetime.now(UTC)


class Message(BaseModel):
    """A payload of the contract. Unknown fields are refused, so that a typing error is seen."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def encode(self) -> bytes:
        """The payload as UTF-8 JSON, without the fields that are None."""
        return self.model_dump_json(exclude_none=True).encode()
