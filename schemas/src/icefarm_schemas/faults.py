"""What is wrong with a message, in words that a person can act on."""

from pydantic import ValidationError

_FAULTS_TOLD = 5
_LONGEST_LEVEL, _LONGEST_WHY = 64, 200
"""Characters; names and texts may come from whoever has sent the message."""


def in_words(error: ValidationError) -> str:
    """The first faults, each with its place; there may be as many as a payload has bytes."""
    faults = error.errors(include_url=False, include_input=False, include_context=False)
    words = [
        (".".join(str(level)[:_LONGEST_LEVEL] for level in fault["loc"]) + ": ")
        * bool(fault["loc"])
        + fault["msg"].removeprefix("Value error, ")[:_LONGEST_WHY]
        for fault in faults[:_FAULTS_TOLD]
    ]
    if len(faults) > _FAULTS_TOLD:
        words.append(f"and {len(faults) - _FAULTS_TOLD:,} more")
    return "; ".join(words)
