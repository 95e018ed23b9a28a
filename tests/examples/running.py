"""Where the examples are, and how a test runs one."""

from pathlib import Path
from typing import Protocol

EXAMPLES = Path(__file__).parents[2] / "examples"


class RunExample(Protocol):
    """Runs an example to its end and returns what it printed."""

    def __call__(self, example: str, *arguments: str) -> str: ...
