"""A netlist as one generated Python function, run clock cycle by clock cycle.

Python compiles the function once, and each cycle is then a few dozen assignments to local
variables: about a microsecond for a small circuit, without a simulator's start-up. The model is
that of any zero-delay simulator (and of icebox_vlog's output under iverilog): after each clock
edge the combinational logic settles, then flip-flops whose clock rose (or fell) take the levels
that had settled before, all at once. Clocks made by logic or by other flip-flops are followed in
the same way until no edge is left. Glitches shorter than that do not exist in the model.

The run ends as soon as the state of every flip-flop and loop behind the output has been seen
before: from then on everything must repeat, because nothing else goes in. Two earlier states are
kept for comparison: one taken after a short start-up, and one renewed at powers of two (Brent's
algorithm), which finds any period in at most three times the prefix or period.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from icefarm_agent.virtual.expression import expression
from icefarm_agent.virtual.feedback import Loop, in_order, is_loop
from icefarm_agent.virtual.netlist import CLOCK, HIGH, LOW, Netlist, Signal, cannot
from icefarm_agent.virtual.waveform import Waveform

_SETTLED_AFTER = 1024  # cycles after which the first state is kept for comparison
_RIPPLE_LIMIT = 1000  # clock edges that one edge may cause, one after the other
_CHANGES_KEPT = 500_000

_Run = Callable[[int], tuple[int, list[int], int, int | None]]
"""From the most cycles to run to the first level, its changes, the prefix and the period."""

_LONGEST, _SHORTEST, _EVALUATIONS = 4_800_000, 48_000, 240_000_000


def window(netlist: Netlist) -> int:
    """Clock cycles to simulate at most: 100 ms for a small circuit, at least 1 ms for a big one.

    It depends on the circuit alone, so that a busy machine gives the same answer as an idle one.
    """
    return max(_SHORTEST, min(_LONGEST, _EVALUATIONS // (len(netlist.gates) + 1)))


def simulate(netlist: Netlist) -> Waveform:
    """Run a circuit until its state repeats or the window ends.

    Raises BitstreamError if a loop does not settle or the clock is used as data.
    """
    writer = _Writer(netlist)
    initial, changes, prefix, period = writer.function()(window(netlist))
    return Waveform(initial, tuple(changes), prefix, period)


class _Writer:
    """Writes the function's source, from the state's names to the last comparison."""

    def __init__(self, netlist: Netlist) -> None:
        self.netlist = netlist
        self.order = in_order(netlist.gates)
        self.names = {LOW: "0", HIGH: "1", CLOCK: "clk"}
        self.names |= {signal: f"g{n}" for n, signal in enumerate(netlist.gates)}
        self.names |= {signal: f"q{n}" for n, signal in enumerate(netlist.flops)}
        loops = [group for group in self.order if is_loop(group, netlist.gates)]
        self.loop_of = {signal: n for n, group in enumerate(loops) for signal in group}
        self.loops = [Loop({signal: netlist.gates[signal] for signal in loop}) for loop in loops]
        self.lines: list[str] = []
        self.depth = 0
        self.follows_clock = self._follows_clock()
        self._check_clock_is_no_data()
        self.derived = sorted({f.clock for f in netlist.flops.values()} - {CLOCK, HIGH, LOW})
        self.asynchronous = [
            signal
            for signal, flop in netlist.flops.items()
            if flop.asynchronous and flop.reset != LOW
        ]
        self.read_directly = sorted(
            {s for f in netlist.flops.values() for s in (f.data, f.enable, f.reset)}
            & set(netlist.flops)
        )

    def _follows_clock(self) -> set[Signal]:
        """The clock, and gates that change with it without a flip-flop between."""
        found = {CLOCK}
        for group in self.order:
            if any(i in found for gate in group for i in self.netlist.gates[gate].inputs):
                found.update(group)
        return found

    def _check_clock_is_no_data(self) -> None:
        for flop in self.netlist.flops.values():
            if self.follows_clock & {flop.data, flop.enable, flop.reset}:
                raise cannot("a flip-flop takes the clock itself as data, which is a race")

    # Writing

    def add(self, line: str) -> None:
        self.lines.append("    " * self.depth + line)

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """Write a head; what is written inside is indented."""
        self.add(head)
        self.depth += 1
        before = len(self.lines)
        yield
        if len(self.lines) == before:
            self.add("pass")
        self.depth -= 1

    def settle(self, only: set[Signal] | None = None) -> None:
        """Evaluate combinational logic, all of it or the gates given."""
        gates = self.netlist.gates
        for group in self.order:
            if only is not None and group[0] not in only:
                continue
            if is_loop(group, gates):
                n = self.loop_of[group[0]]
                targets = ", ".join(self.names[member] for member in self.loops[n].members)
                inputs = ", ".join(self.names[i] for i in self.loops[n].inputs)
                self.add(f"[{targets}] = loops[{n}]({inputs})")
            else:
                gate = gates[group[0]]
                text = expression(gate.table, [self.names[i] for i in gate.inputs])
                self.add(f"{self.names[group[0]]} = {text}")

    def snapshot(self) -> None:
        """Keep flip-flops that feed others directly, since all of them switch at once."""
        for signal in self.read_directly:
            self.add(f"s{self.names[signal]} = {self.names[signal]}")

    def read(self, signal: Signal) -> str:
        """The name of a signal's level before the flip-flops switched."""
        name = self.names[signal]
        return f"s{name}" if signal in self.netlist.flops else name

    def switch(self, clock: Signal, falling: bool) -> None:
        """The flip-flops of one clock edge take their data."""
        groups: dict[tuple[Signal, Signal, bool], list[Signal]] = defaultdict(list)
        for signal, flop in self.netlist.flops.items():
            if flop.clock == clock and flop.falling == falling:
                groups[flop.enable, flop.reset, flop.asynchronous].append(signal)
        for (enable, reset, asynchronous), members in groups.items():
            if reset == LOW:
                with self.block(f"if {self.read(enable)}:"):
                    self.take(members)
            elif asynchronous:
                with self.block(f"if {self.read(reset)}:"):
                    self.clear(members)
                with self.block(f"elif {self.read(enable)}:"):
                    self.take(members)
            else:
                with self.block(f"if {self.read(enable)}:"):
                    with self.block(f"if {self.read(reset)}:"):
                        self.clear(members)
                    with self.block("else:"):
                        self.take(members)

    def take(self, members: list[Signal]) -> None:
        for signal in members:
            self.add(f"{self.names[signal]} = {self.read(self.netlist.flops[signal].data)}")

    def clear(self, members: list[Signal]) -> None:
        for signal in members:
            self.add(f"{self.names[signal]} = {self.netlist.flops[signal].reset_value}")

    def find_edges(self) -> None:
        """Find the edges of clocks that are made in the circuit."""
        for n, signal in enumerate(self.derived):
            name = self.names[signal]
            self.add(f"up{n} = {name} > was{n}; down{n} = {name} < was{n}; was{n} = {name}")

    def switch_derived(self) -> None:
        """The flip-flops of such clocks take their data."""
        for n, signal in enumerate(self.derived):
            with self.block(f"if up{n}:"):
                self.switch(signal, falling=False)
            with self.block(f"if down{n}:"):
                self.switch(signal, falling=True)

    def force(self) -> None:
        """Asynchronous resets and sets act without a clock."""
        for signal in self.asynchronous:
            flop, name = self.netlist.flops[signal], self.names[signal]
            with self.block(f"if {self.read(flop.reset)} and {name} != {flop.reset_value}:"):
                self.add(f"{name} = {flop.reset_value}; again = True")

    def ripple(self) -> None:
        """Follow the consequences until nothing switches any more."""
        if not self.derived and not self.asynchronous:
            return
        with self.block(f"for _ in range({_RIPPLE_LIMIT}):"):
            self.find_edges()
            edges = [f"up{n} or down{n}" for n in range(len(self.derived))]
            self.add(f"again = {' or '.join(edges) or False}")
            self.snapshot()
            self.switch_derived()
            self.force()
            self.add("if not again: break")
            self.settle()
        with self.block("else:"):
            self.add("raise cannot('a flip-flop resets or clocks itself without end')")

    def edge(self, level: int) -> None:
        """One edge of the board's clock, and the output after it."""
        tick = "tick" if level else "tick + 1"
        output = self.names[self.netlist.output]
        self.add(f"clk = {level}")
        self.settle(self.follows_clock)
        self.find_edges()
        self.snapshot()
        self.switch(CLOCK, falling=not level)
        self.switch_derived()
        self.settle()
        self.ripple()
        with self.block(f"if {output} != level:"):
            self.add(f"level = {output}")
            self.add(f"append({tick})")
            self.add(f"if len(changes) > {_CHANGES_KEPT}: return first, changes, {tick}, None")

    def cycle(self, state: list[str]) -> None:
        """Both edges of the clock, then the comparison with the states that were kept."""
        self.edge(1)
        if (
            len(self.follows_clock) > 1
            or self.netlist.output == CLOCK
            or any(f.clock == CLOCK and f.falling for f in self.netlist.flops.values())
        ):
            self.edge(0)
        for kept in "ab":
            same = " and ".join(f"{name} == {kept}{name}" for name in state) or "True"
            self.add(f"if {same}: return first, changes, {kept}mark + 1, tick + 1 - {kept}mark")
        with self.block(f"if tick == {2 * _SETTLED_AFTER - 1}:"):
            self.keep("a", state)
        with self.block("if tick > renewal:"):
            self.keep("b", state)
            self.add("renewal = 2 * tick")

    def keep(self, kept: str, state: list[str]) -> None:
        for name in state:
            self.add(f"{kept}{name} = {name}")
        self.add(f"{kept}mark = tick + 1")

    def function(self) -> _Run:
        """Compile the function: from the most cycles to run to the waveform's parts."""
        state = [self.names[signal] for signal in self.state()]
        with self.block("def run(cycles):"):
            self.add("changes = []; append = changes.append; clk = 0")
            for signal in self.netlist.flops:
                self.add(f"{self.names[signal]} = 0")
            self.settle()
            for n, signal in enumerate(self.derived):
                self.add(f"was{n} = {self.names[signal]}")
            self.ripple()
            self.add(f"first = level = {self.names[self.netlist.output]}")
            for name in state:
                self.add(f"a{name} = b{name} = {name}")
            self.add(f"amark = bmark = 0; renewal = {4 * _SETTLED_AFTER}")
            with self.block("for tick in range(1, 2 * cycles, 2):"):
                self.cycle(state)
            self.add("return first, changes, tick + 1, None")
        namespace: dict[str, Any] = {"loops": self.loops, "cannot": cannot}
        exec(compile("\n".join(self.lines), "<circuit>", "exec"), namespace)
        run: _Run = namespace["run"]
        return run

    def state(self) -> list[Signal]:
        """Everything that remembers, with what changes most often first.

        Comparing two states then nearly always ends at the first or second difference. Flip-flops
        without an enable, and with the simplest logic, are the low bits of counters.
        """
        position = {signal: n for n, group in enumerate(self.order) for signal in group}
        flops = self.netlist.flops
        remembering = sorted(
            flops, key=lambda s: (flops[s].enable != HIGH, position.get(flops[s].data, -1))
        )
        return remembering + list(self.loop_of)
