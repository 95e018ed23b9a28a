"""Combinational logic in order, and its loops: do they settle, whatever the delays are?

A loop of LUTs without a flip-flop may be a latch, which has one answer, or a ring oscillator or a
race, which depends on the delays of this one chip. The two are told apart by ternary simulation
(Eichelberger, "Hazard detection in combinational and sequential switching circuits", 1965): the
inputs that change are first made unknown, and what becomes unknown with them is found; then they
get their new values. Whatever is known at the end is so for every possible delay. Anything else is
an error here, never a number.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache

from icefarm_agent.virtual.netlist import Gate, Signal, cannot

UNKNOWN = 2


@lru_cache(maxsize=4096)
def _ternary_table(table: int, width: int) -> tuple[int, ...]:
    """The output for inputs of 0, 1 or unknown; the index is the inputs as base-3 digits."""
    outputs = []
    for number in range(3**width):
        digits = [number // 3**position % 3 for position in range(width)]
        possible = {
            table >> index & 1
            for index in range(1 << width)
            if all(d == UNKNOWN or d == index >> p & 1 for p, d in enumerate(digits))
        }
        outputs.append(possible.pop() if len(possible) == 1 else UNKNOWN)
    return tuple(outputs)


class Loop:
    """Gates that feed each other. Calling it with the outside inputs gives the gates' levels."""

    def __init__(self, gates: Mapping[Signal, Gate]) -> None:
        self.members = sorted(gates)
        self.inputs = sorted({i for gate in gates.values() for i in gate.inputs} - set(gates))
        places = {signal: place for place, signal in enumerate(self.members + self.inputs)}
        self._logic = [
            (_ternary_table(gate.table, len(gate.inputs)), [places[i] for i in gate.inputs])
            for gate in (gates[member] for member in self.members)
        ]
        self._levels = [UNKNOWN] * len(places)
        self._last: tuple[int, ...] | None = None

    def __call__(self, *inputs: int) -> list[int]:
        """Settle with new inputs. Raises BitstreamError if the outcome depends on delays."""
        size = len(self.members)
        if inputs != self._last:
            if self._last is not None:
                self._levels[size:] = [
                    new if new == old else UNKNOWN
                    for new, old in zip(inputs, self._last, strict=True)
                ]
                self._iterate(spreading=True)
            self._levels[size:] = inputs
            self._iterate(spreading=False)
            if UNKNOWN in self._levels[:size]:
                raise cannot(
                    f"a combinational loop through {size} LUTs or carries oscillates or does not "
                    f"settle to a level that is independent of delays"
                )
            self._last = inputs
        return self._levels[:size]

    def _iterate(self, spreading: bool) -> None:
        """Evaluate until nothing changes; while spreading, a level may only become unknown."""
        levels = self._levels
        changed = True
        while changed:
            changed = False
            for place, (table, inputs) in enumerate(self._logic):
                if spreading and levels[place] == UNKNOWN:
                    continue
                index = 0
                for i in reversed(inputs):
                    index = index * 3 + levels[i]
                level = table[index]
                if level != levels[place]:
                    levels[place] = UNKNOWN if spreading else level
                    changed = True


def in_order(gates: Mapping[Signal, Gate]) -> list[list[Signal]]:
    """Group the gates into loops, and order the groups so that inputs come before users.

    A group of one gate is no loop unless the gate is its own input (see `is_loop`). This is
    Tarjan's algorithm for strongly connected components, without recursion because carry chains
    are long.
    """
    groups: list[list[Signal]] = []
    number: dict[Signal, int] = {}
    lowest: dict[Signal, int] = {}
    stack: list[Signal] = []
    stacked: set[Signal] = set()
    for root in gates:
        if root in number:
            continue
        work = [(root, 0)]
        while work:
            gate, position = work.pop()
            if position == 0:
                number[gate] = lowest[gate] = len(number)
                stack.append(gate)
                stacked.add(gate)
            inputs = gates[gate].inputs
            for position in range(position, len(inputs)):  # noqa: B020 - resumed where it was
                other = inputs[position]
                if other not in gates:
                    continue
                if other not in number:
                    work += [(gate, position + 1), (other, 0)]
                    break
                if other in stacked:
                    lowest[gate] = min(lowest[gate], number[other])
            else:
                if lowest[gate] == number[gate]:
                    place = stack.index(gate)
                    groups.append(stack[place:])
                    stacked.difference_update(groups[-1])
                    del stack[place:]
                if work:
                    parent = work[-1][0]
                    lowest[parent] = min(lowest[parent], lowest[gate])
    return groups


def is_loop(group: Sequence[Signal], gates: Mapping[Signal, Gate]) -> bool:
    """Whether a group of `in_order` feeds back on itself."""
    return len(group) > 1 or group[0] in gates[group[0]].inputs
