"""What all topics of the contract have in common: their levels, their message, how they are read.

A topic is a frozen dataclass whose fields are the names in it; the class says its levels, the
message it carries and whether that is retained. Topics are written without the farm's root
(`icefarm/v1` unless configured), which `build` and `pattern` put before them.
"""

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

from pydantic import TypeAdapter, ValidationError

from icefarm_schemas.faults import in_words
from icefarm_schemas.message import MAX_PAYLOAD_BYTES
from icefarm_schemas.names import check_name

DEFAULT_ROOT = "icefarm/v1"

_NUL = rb"\u0000"
"""As JSON writes it."""


class UnknownTopicError(ValueError):
    """A topic that the contract does not have, or that holds a name it forbids."""


class InvalidPayloadError(ValueError):
    """A payload that is not the message its topic carries; the text says what is wrong with it."""


@dataclass(frozen=True)
class Topic:
    """One kind of topic; see the subclasses."""

    levels: ClassVar[tuple[str, ...]]
    """The template split at its slashes; `{field}` stands for a name."""
    carries: ClassVar[Any]
    """The message's type; bytes for bulk data."""
    retained: ClassVar[bool]

    def __init_subclass__(cls, template: str, carries: Any, retained: bool) -> None:
        cls.levels = tuple(template.split("/"))
        cls.carries = carries
        cls.retained = retained
        BY_LENGTH.setdefault(len(cls.levels), []).append(cls)

    def __post_init__(self) -> None:
        for field in fields(self):
            check_name(getattr(self, field.name))

    def build(self, root: str = DEFAULT_ROOT) -> str:
        """The topic as it is on the wire."""
        return root + "/" + "/".join(level.format(**self.__dict__) for level in self.levels)

    @classmethod
    def pattern(cls, root: str = DEFAULT_ROOT, **names: str) -> str:
        """A topic filter for all topics of this kind that hold the given names."""
        for name in names.values():
            check_name(name)
        wild = {field.name: "+" for field in fields(cls)} | names
        return root + "/" + "/".join(level.format(**wild) for level in cls.levels)

    @classmethod
    def match(cls, levels: list[str]) -> Self | None:
        """The topic of this kind that has these levels; none if it is of another kind.

        Raises:
            ValueError: a level is where a name should be, and is none.
        """
        names = {}
        for template, level in zip(cls.levels, levels, strict=True):
            if template.startswith("{"):
                names[template[1:-1]] = level
            elif template != level:
                return None
        return cls(**names)

    def decode(self, payload: bytes, *, strict: bool = False) -> Any:
        """The message in a payload: a `Message`, bytes for bulk data, None for a cleared state.

        With `strict`, no value is taken for another kind of value, such as "1" for a number.

        Raises:
            InvalidPayloadError: the payload is too large, no JSON, or not this topic's message.
        """
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise InvalidPayloadError(
                f"the payload has {len(payload):,} bytes; {MAX_PAYLOAD_BYTES:,} are allowed"
            )
        carried = self._carried()
        if carried is bytes:
            return payload
        if self.retained and not payload:
            return None
        if _NUL in payload:
            raise InvalidPayloadError("it holds the character NUL, which Postgres cannot keep")
        try:
            return _adapter(carried).validate_json(payload, strict=strict or None)
        except ValidationError as error:
            raise InvalidPayloadError(in_words(error)) from error

    def _carried(self) -> Any:
        return self.carries


BY_LENGTH: dict[int, list[type[Topic]]] = {}
"""All kinds of topics, by how many levels they have."""
_ADAPTERS: dict[int, TypeAdapter[Any]] = {}


def _adapter(carried: Any) -> TypeAdapter[Any]:
    if id(carried) not in _ADAPTERS:
        _ADAPTERS[id(carried)] = TypeAdapter(carried)
    return _ADAPTERS[id(carried)]


def check_root(root: str) -> str:
    """Return `root` when every level of it is a name.

    Raises:
        ValueError: a level is not a name, for example because the root ends with a slash.
    """
    for level in root.split("/"):
        check_name(level)
    return root
