"""Log lines of services: for people on a terminal, JSON for machines, each naming its part."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from icefarm_broker.logs import LogFormat

PROGRAM = """
import logging
import sys

from structlog.contextvars import bound_contextvars

from icefarm_broker.logs import LogFormat, log_as_service

form = LogFormat(sys.argv[1]) if sys.argv[1:] else None
log_as_service("agent", agent="100% bench", form=form)
log = logging.getLogger("lab.boards")
log.debug("not worth a line")
log.info("reservation %s is active", "3f9a", extra={"reservation": "3f9a", "client": "ann"})
with bound_contextvars(device="bench-1"):
    log.warning("it hangs\\nand hangs \\udc80")
logging.getLogger("uvicorn.error").info("Started server process")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("a defect")
raise RuntimeError("the end")
"""


def run(*arguments: str, **environment: str) -> str:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )
    assert ended.returncode == 1
    return ended.stderr


def objects(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def test_lines_for_machines_say_whose_they_are_and_what_they_are_about() -> None:
    lines = objects(run(LogFormat.JSON))
    assert [list(line)[:6] for line in lines] == [
        ["at", "level", "part", "agent", "logger", "text"]
    ] * 4
    assert {(line["part"], line["agent"]) for line in lines} == {("agent", "100% bench")}
    active, hangs, defect, end = lines
    assert active["text"] == "reservation 3f9a is active"
    assert (active["level"], active["logger"]) == ("info", "lab.boards")
    assert (active["reservation"], active["client"]) == ("3f9a", "ann")
    assert (hangs["device"], hangs["text"].splitlines()[0]) == ("bench-1", "it hangs")
    assert "device" not in defect, "what was bound is over"
    assert defect["exception"].endswith("ZeroDivisionError: division by zero")
    assert end["level"] == "critical"
    assert end["exception"].endswith("RuntimeError: the end")


def test_lines_for_people_name_the_part_and_repeat_nothing() -> None:
    output = run(LogFormat.TEXT)
    assert "\x1b" not in output, "no colours in a file"
    active, hangs = output.splitlines()[:2]
    assert active.endswith(
        "[info     ] icefarm-agent[100% bench]: reservation 3f9a is active client=ann"
    )
    assert hangs.endswith("[warning  ] icefarm-agent[100% bench]: it hangs")
    assert "device=bench-1" in output
    assert output.count("Traceback (most recent call last)") == 2
    assert output.rstrip().endswith("RuntimeError: the end")


@pytest.mark.parametrize("is_journal", [True, False])
def test_systemds_journal_gets_json(tmp_path: Path, is_journal: bool) -> None:
    output = tmp_path / "journal"
    with output.open("wb") as file:
        # As systemd sets it: which device and inode the journal's stream is.
        here = os.fstat(file.fileno())
        stream = f"{here.st_dev}:{here.st_ino if is_journal else here.st_ino + 1}"
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            stderr=file,
            timeout=60,
            check=False,
            env={**os.environ, "JOURNAL_STREAM": stream},
        )
    text = output.read_text()
    assert text.startswith("{") is is_journal
    assert not is_journal or len(objects(text)) == 4
