"""A LUT's truth table as a short Python expression over the numbers 0 and 1.

The expressions are evaluated tens of thousands of times for each bitstream, so the shapes that
Python runs fastest are chosen: `and`, `or`, `^`, and conditional expressions, which evaluate only
the branch that is taken.
"""

from functools import lru_cache


def expression(table: int, inputs: list[str]) -> str:
    """Write a table (bit i is the output for the input number i) over the inputs' names."""
    return _shape(table, len(inputs)).format(*inputs)


@lru_cache(maxsize=4096)
def _shape(table: int, width: int) -> str:
    """The expression with {0}, {1} ... in the places of the inputs."""
    return _shortest(table, tuple(range(width)), width)


def _shortest(table: int, left: tuple[int, ...], width: int) -> str:
    """Split on each input that is left in turn, and keep the shortest result."""
    full = (1 << (1 << width)) - 1
    if table == 0:
        return "0"
    if table == full:
        return "1"
    best = ""
    for position in left:
        low, high = _cofactors(table, position, width)
        if low == high:
            continue
        rest = tuple(other for other in left if other != position)
        text = _combine(
            f"{{{position}}}", _shortest(low, rest, width), _shortest(high, rest, width)
        )
        if not best or len(text) < len(best):
            best = text
    return best


def _cofactors(table: int, position: int, width: int) -> tuple[int, int]:
    """The table with one input held at 0 and at 1, still as a table over all inputs."""
    low = high = 0
    for index in range(1 << width):
        low |= (table >> (index & ~(1 << position)) & 1) << index
        high |= (table >> (index | 1 << position) & 1) << index
    return low, high


def _combine(name: str, low: str, high: str) -> str:
    """The shortest of the ways to say `high if name else low`."""
    match (low, high):
        case ("0", "1"):
            return name
        case ("1", "0"):
            return f"(1 ^ {name})"
        case ("0", _):
            return f"({name} and {high})"
        case (_, "1"):
            return f"({name} or {low})"
        case ("1", _):
            return f"({high} if {name} else 1)"
        case (_, "0"):
            return f"(0 if {name} else {low})"
    if high == f"(1 ^ {low})":
        return f"({name} ^ {low})"
    if low == f"(1 ^ {high})":
        return f"(1 ^ {name} ^ {high})"
    return f"({high} if {name} else {low})"
