"""The code blocks of a page of the documentation, as what a reader does with them.

A block of Python has a title and is a file that the reader saves under this name. In a block of a
console, a line that begins with `$ ` is typed, `^C` is pressed, and the other lines are what the
terminal shows. The block's title says which terminal it is, where there are several. A block that
begins otherwise goes on with the command that runs in this terminal since its last block.

Where something varies, the page has `...`: anything within a line, with the spaces around it, or,
alone in a line, any lines.
A command under which nothing is shown may print anything. Each command must end with exit code 0,
unless the page asks for another with `echo $?`.
"""

import re
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(
    r"^```(?P<language>\w*)(?: title=\"(?P<title>[^\"]*)\")?\n(?P<body>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_ANY = re.compile(r" *\.\.\. *")


@dataclass
class Saved:
    """A file that the reader saves."""

    line: int
    name: str
    text: str


@dataclass
class Typed:
    """A command, or Ctrl-C (None), or neither (""), and what the terminal shows after it."""

    line: int
    terminal: str
    text: str | None
    shown: str
    goes_on: bool = False
    """Whether it still runs when the reader does something else."""
    may_fail: bool = False

    @property
    def pattern(self) -> re.Pattern[str]:
        """What its output looks like, or begins with where it goes on."""
        lines = [
            r"(?:.*\n)*?" if line == "..." else ".*".join(map(re.escape, _ANY.split(line))) + r"\n"
            for line in self.shown.splitlines()
        ]
        return re.compile("".join(lines))


Step = Saved | Typed


def steps(page: Path) -> list[Step]:
    """What a reader of the page does, in this order.

    Raises:
        ValueError: a block is neither Python with a name nor a console.
    """
    text = page.read_text()
    found: list[Step] = []
    for block in _FENCE.finditer(text):
        line = text[: block.start()].count("\n") + 1
        language, title, body = block["language"], block["title"], block["body"]
        if language == "python" and title is not None:
            found.append(Saved(line, title, body))
        elif language == "console":
            found += _typed(line + 1, title or "", body)
        else:
            raise ValueError(f"{page}:{line}: a reader cannot know what to do with this block")
    _look_ahead(found)
    return found


def _typed(line: int, terminal: str, body: str) -> list[Typed]:
    found: list[Typed] = []
    for number, text in enumerate(body.splitlines(keepends=True), line):
        if text.startswith("$ "):
            found.append(Typed(number, terminal, text[2:].rstrip("\n"), ""))
        elif text.startswith("^C"):
            found.append(Typed(number, terminal, None, text[2:].lstrip("\n")))
        elif found:
            found[-1].shown += text
        else:
            found.append(Typed(number, terminal, "", text))
    return found


def _look_ahead(found: list[Step]) -> None:
    last: dict[str, Typed] = {}
    for step in found:
        if isinstance(step, Typed):
            before = last.get(step.terminal)
            if before is not None:
                before.goes_on = step.text in (None, "")
                before.may_fail = step.text == "echo $?"
            last[step.terminal] = step
