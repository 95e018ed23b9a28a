"""Log lines of a part that runs as a service: each names the part, and what it is about.

All code logs by `logging`. What a line is about comes with it (`extra={"reservation": ...}`), or is
bound around a piece of work (`structlog.contextvars`); structlog's formatter writes both, for
people on a terminal or in a file, as lines of JSON for the journal and other machines.
"""

import logging
import os
import sys
from enum import StrEnum
from types import TracebackType
from typing import TextIO

import structlog
from structlog.dev import Column, KeyValueColumnFormatter, LogLevelColumnFormatter
from structlog.typing import EventDict, Processor, WrappedLogger

log = logging.getLogger(__name__)

_NOISY = ("alembic", "mqtt", "uvicorn")
"""They announce each start as news, or each packet."""
ABOUT = ("agent", "device", "devices", "reservation", "client")
"""The fields that say what a line is about."""
_DIM, _BRIGHT, _RESET = "\x1b[2m", "\x1b[1m", "\x1b[0m"


class LogFormat(StrEnum):
    """How log lines are written."""

    TEXT = "text"
    """For people."""
    JSON = "json"
    """An object in each line, with the fields at, level, part, logger and text, and what the line
    is about: agent, device, reservation, client."""


def log_as_service(
    part: str, *, agent: str | None = None, form: LogFormat | None = None, debug: bool = False
) -> None:
    """Write log lines to standard error, each with the part, and the agent, that it comes from.

    Without a `form`, they are JSON where systemd's journal reads them, text elsewhere.
    """
    if form is None:
        form = LogFormat.JSON if _is_journal(sys.stderr) else LogFormat.TEXT
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_formatter(form, part, agent, colours=sys.stderr.isatty()))
    logging.basicConfig(level=logging.DEBUG if debug else logging.INFO, handlers=[handler])
    for noisy in _NOISY:
        logging.getLogger(noisy).setLevel(logging.WARNING)
    sys.excepthook = _log_defect


def _log_defect(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """What ends the process is a line like all others, which can be found by its fields."""
    log.critical("ended by a defect: %r", error, exc_info=(kind, error, traceback))


def _is_journal(stream: TextIO) -> bool:
    """Whether a stream is the one that systemd has connected to its journal (systemd.exec(5))."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        there = os.fstat(stream.fileno())
    except OSError:
        return False
    return (device, inode) == (str(there.st_dev), str(there.st_ino))


def _formatter(
    form: LogFormat, part: str, agent: str | None, *, colours: bool
) -> structlog.stdlib.ProcessorFormatter:
    if form is LogFormat.JSON:
        names = {"part": part} if agent is None else {"part": part, "agent": agent}
    else:
        names = {"part": f"icefarm-{part}" + ("" if agent is None else f"[{agent}]")}

    def name(_: WrappedLogger, __: str, line: EventDict) -> EventDict:
        return {**line, **names}

    common: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        name,
    ]
    last: list[Processor]
    if form is LogFormat.JSON:
        last = [
            structlog.processors.TimeStamper(fmt="iso", key="at"),
            structlog.processors.format_exc_info,
            structlog.processors.EventRenamer("text"),
            _in_order,
            structlog.processors.JSONRenderer(ensure_ascii=False, default=str),
        ]
    else:
        last = [
            structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S", utc=False),
            _for_people,
            _text(colours=colours),
        ]
    remove = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    return structlog.stdlib.ProcessorFormatter(foreign_pre_chain=common, processors=[remove, *last])


def _for_people(_: WrappedLogger, __: str, line: EventDict) -> EventDict:
    """Without a field that the sentence has already; where it was written matters to few."""
    line.pop("logger")
    text = str(line["event"])
    return {key: value for key, value in line.items() if key not in ABOUT or not _says(text, value)}


def _in_order(_: WrappedLogger, __: str, line: EventDict) -> EventDict:
    first = ("at", "level", "part", "agent", "logger", "text")
    return {**{key: line[key] for key in first if key in line}, **line}


def _says(text: str, value: object) -> bool:
    values = value if isinstance(value, (list, tuple)) else [value]
    return all(str(one) in text for one in values)


def _text(*, colours: bool) -> structlog.dev.ConsoleRenderer:
    dim, bright, reset = (_DIM, _BRIGHT, _RESET) if colours else ("", "", "")

    def plain(style: str, postfix: str = "") -> KeyValueColumnFormatter:
        return KeyValueColumnFormatter(None, style, reset, str, postfix=postfix)

    styles = structlog.dev.ConsoleRenderer.get_default_level_styles(colours)
    return structlog.dev.ConsoleRenderer(
        # As Python writes it; a prettier one would be another text to search for.
        exception_formatter=structlog.dev.plain_traceback,
        columns=[
            Column("timestamp", plain(dim)),
            Column("level", LogLevelColumnFormatter(styles, reset_style=reset)),
            Column("part", plain(bright, ":")),
            Column("event", plain("")),
            Column("", KeyValueColumnFormatter(dim, dim, reset, str)),
        ],
    )
