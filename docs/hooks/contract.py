"""Writes the reference of topics and messages from the contract in `icefarm_schemas`."""

import inspect
import json
import re
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Any, get_args

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

import icefarm_schemas
from icefarm.errors import FarmError
from icefarm_broker.accounts import Role, rules
from icefarm_schemas import ErrorCode, Event, Message, topics
from icefarm_schemas.operators import AGENT_COMMANDS, OPERATIONS
from icefarm_schemas.requests import REQUESTS
from icefarm_schemas.topic import Topic

PAGE = "reference/topics.md"
_WRITERS = (Role.CONTROL, Role.AGENT, Role.CLIENT, Role.OPERATOR)
_SOURCE = griffe.load("icefarm_schemas")


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put tables and messages where the page has a comment for them."""
    if page.file.src_uri != PAGE:
        return markdown
    parts: dict[str, Callable[[], str]] = {
        "topics": _topics,
        "requests": lambda: _operations(REQUESTS),
        "operators": lambda: _operations(OPERATIONS),
        "agent commands": lambda: _operations(AGENT_COMMANDS, "command"),
        "events": _events,
        "messages": _messages,
        "error codes": _error_codes,
    }
    for name, write in parts.items():
        mark = f"<!-- {name} -->"
        if mark not in markdown:
            raise PluginError(f"{PAGE} has no {mark}")
        markdown = markdown.replace(mark, write())
    return markdown


def _table(titles: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    titles = tuple(titles)
    lines = [titles, ("---",) * len(titles), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _topics() -> str:
    return _table(
        ("topic", "message", "written by", "retained", "what it is"),
        (
            (
                f"`{'/'.join(kind.levels)}`",
                _carried(kind),
                ", ".join(_writers(kind)),
                "yes" if kind.retained else "",
                _in_a_cell(kind),
            )
            for kind in Topic.__subclasses__()
        ),
    )


def _carried(kind: type[Topic]) -> str:
    if kind.carries is bytes:
        return "bytes"
    if kind is topics.OperatorTopic:
        return "[an operator's request](#operators)"
    if kind is topics.AgentCommandTopic:
        return "[a command](#agent-commands)"
    if kind.carries is Message:
        return "[a request](#requests)"
    if kind.carries is Event:
        return "[an event](#events)"
    return _link(kind.carries.__name__)


def _writers(kind: type[Topic]) -> list[Role]:
    """Those roles; an operator may write all that a client may, which goes without saying."""
    may = [role for role in _WRITERS if _may_write(role, kind)]
    return [role for role in may if role is not Role.OPERATOR or Role.CLIENT not in may]


def _may_write(role: Role, kind: type[Topic]) -> bool:
    return any(
        "write" in access and text.replace("/anybody/", "/+/") == kind.pattern()
        for access, text in rules(role, "anybody")
    )


def _operations(kinds: dict[str, type[Message]], what: str = "operation") -> str:
    return _table(
        (what, "message", "what it asks for"),
        (
            (f"`{operation}`", _link(message.__name__), _in_a_cell(message))
            for operation, message in kinds.items()
        ),
    )


def _events() -> str:
    events = get_args(get_args(Event)[0])
    return _table(
        ("event", "message", "what it tells"),
        (
            (f"`{event.model_fields['event'].default}`", _link(event.__name__), _in_a_cell(event))
            for event in events
        ),
    )


def _error_codes() -> str:
    classes = {kind.code: kind.__name__ for kind in FarmError.__subclasses__()}
    return _table(
        ("code", "in Python", "meaning"),
        (
            (
                f"`{code}`",
                f"[`{classes[code]}`][icefarm.{classes[code]}]",
                _meaning(ErrorCode, code),
            )
            for code in ErrorCode
        ),
    )


def _messages() -> str:
    """All of them, and the lists of words in them, by the module that they are in."""
    chapters: dict[str, list[type[Message | StrEnum]]] = {}
    for name in icefarm_schemas.__all__:
        kind = getattr(icefarm_schemas, name)
        if not isinstance(kind, type) or kind in (Message, ErrorCode):
            continue
        if issubclass(kind, Message | StrEnum):
            chapters.setdefault(kind.__module__.rpartition(".")[2], []).append(kind)
    return "\n\n".join(
        f"### In `{chapter}` {{#messages-{chapter}}}\n\n"
        + "\n\n".join(_section(kind) for kind in kinds)
        for chapter, kinds in chapters.items()
    )


def _section(kind: type[Message | StrEnum]) -> str:
    table = _fields(kind) if issubclass(kind, Message) else _words(kind)
    return f"#### {kind.__name__} {{#{kind.__name__}}}\n\n{inspect.getdoc(kind)}\n\n{table}"


def _words(kind: type[StrEnum]) -> str:
    return _table(("value", "meaning"), ((f"`{word}`", _meaning(kind, word)) for word in kind))


def _meaning(kind: type[StrEnum], word: StrEnum) -> str:
    """What stands below a member; Python itself forgets it."""
    module = kind.__module__.partition(".")[2]
    docstring = _SOURCE[f"{module}.{kind.__name__}.{word.name}"].docstring
    if docstring is None:
        raise PluginError(f"{kind.__name__}.{word.name} has no docstring below it")
    return " ".join(docstring.value.split())


def _fields(kind: type[Message]) -> str:
    schema = kind.model_json_schema(ref_template="{model}")
    needed = schema.get("required", ())
    return _table(
        ("field", "type", "where absent"),
        (
            (f"`{name}`", _type(field), "*it must be there*" if name in needed else _default(field))
            for name, field in schema.get("properties", {}).items()
        ),
    )


def _default(field: dict[str, Any]) -> str:
    default = field.get("default")
    return "" if default is None else f"`{json.dumps(default)}`"


def _type(field: dict[str, Any]) -> str:
    """A type of JSON Schema in words."""
    if "$ref" in field:
        return _link(field["$ref"])
    if "anyOf" in field:
        return " or ".join(_type(one) for one in field["anyOf"] if one.get("type") != "null")
    if "const" in field:
        return f"`{field['const']}`"
    match field.get("type"):
        case "array":
            return f"list of {_type(field['items'])}" + _limits(field)
        case "object":
            values = field.get("additionalProperties")
            return "object" + (f" of {_type(values)}" if isinstance(values, dict) else "")
        case "string" if field.get("format") == "date-time":
            return "time"
        case str(name):
            return name + _limits(field)
    return "anything"


_LIMITS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "more than {}",
    "maximum": "at most {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {}",
    "maxItems": "at most {}",
}


def _limits(field: dict[str, Any]) -> str:
    said = [text.format(f"{field[key]:g}") for key, text in _LIMITS.items() if key in field]
    return f" ({', '.join(said)})" if said else ""


def _link(name: str) -> str:
    return f"[`{name}`](#{'error-codes' if name == 'ErrorCode' else name})"


def _in_a_cell(kind: type) -> str:
    """The first paragraph of a docstring, without the topic that it may begin with."""
    paragraph = (inspect.getdoc(kind) or "").split("\n\n")[0]
    return re.sub(r"^`[^`]*/[^`]*`: ", "", " ".join(paragraph.split()))
