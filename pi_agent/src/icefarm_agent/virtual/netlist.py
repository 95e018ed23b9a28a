"""The part of a circuit that the measured pin depends on: LUTs, carries and flip-flops.

The netlist is collected backwards from the output, so logic that cannot reach it is never looked
at. How the cells work is from Project IceStorm's documentation of the logic and IO tiles and from
what icebox_vlog makes of the same bits. What is not digital logic clocked by the board's clock
(block RAM, hard IP, PLL and internal oscillators, registered and three-state pins, wires that
nothing drives) is reported as such when the output depends on it, never guessed.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from icefarm_agent.virtual.errors import BitstreamError
from icefarm_agent.virtual.fabric import Device, Routing, Wire
from icefarm_agent.virtual.icestorm import Configuration

CLOCK_PIN = "35"
OUTPUT_PIN = "27"


class Signal(NamedTuple):
    """A value in the circuit: what drives it, and where (tile column, tile row, cell).

    Kinds: constant (the cell is the level), clock, lut, carry, flop.
    """

    kind: str
    x: int = 0
    y: int = 0
    cell: int = 0


LOW = Signal("constant", cell=0)
HIGH = Signal("constant", cell=1)
CLOCK = Signal("clock")


class Gate(NamedTuple):
    """Combinational logic: bit i of `table` is the output when the inputs spell the number i.

    The first input is the lowest bit. Inputs that make no difference have been left out.
    """

    inputs: tuple[Signal, ...]
    table: int


class Flop(NamedTuple):
    """A flip-flop, which is 0 after configuration.

    A synchronous reset acts only while enabled, an asynchronous one always; `reset_value` is 1
    for a set.
    """

    data: Signal
    clock: Signal
    enable: Signal
    reset: Signal
    reset_value: int
    asynchronous: bool
    falling: bool


@dataclass
class Netlist:
    """The cone of logic behind one output."""

    output: Signal = LOW
    gates: dict[Signal, Gate] = field(default_factory=dict)
    flops: dict[Signal, Flop] = field(default_factory=dict)


def cannot(reason: str) -> BitstreamError:
    """The error for a circuit that is well-formed but has no digital answer."""
    return BitstreamError(f"the circuit cannot be simulated digitally: {reason}")


def extract(device: Device, configuration: Configuration) -> Netlist:
    """Collect what package pin 27 depends on.

    Raises BitstreamError if that includes anything that has no digital answer.
    """
    return _Extraction(device, configuration).run()


def shrink(table: int, inputs: list[Signal]) -> Gate:
    """Leave out constant inputs, and inputs that make no difference."""
    position = 0
    while position < len(inputs):
        low, high = _halves(table, len(inputs), position)
        if inputs[position].kind == "constant":
            table = high if inputs[position].cell else low
        elif low == high:
            table = low
        else:
            position += 1
            continue
        del inputs[position]
    return Gate(tuple(inputs), table)


def _halves(table: int, width: int, position: int) -> tuple[int, int]:
    """The tables that remain when one input is 0, and when it is 1."""
    halves = [0, 0]
    count = [0, 0]
    for index in range(1 << width):
        side = index >> position & 1
        halves[side] |= (table >> index & 1) << count[side]
        count[side] += 1
    return halves[0], halves[1]


class _Extraction:
    def __init__(self, device: Device, configuration: Configuration) -> None:
        self.device = device
        self.icebox = device.icebox
        self.tiles = configuration.tiles
        self.extra_bits = configuration.extra_bits
        self.routing = Routing(device, configuration)
        self.netlist = Netlist()
        self.pending: list[Signal] = []
        self.known: dict[Wire, Signal] = {}

    def run(self) -> Netlist:
        x, y, block = self.device.pads[OUTPUT_PIN]
        if self.drives_pad(x, y, block):
            self.netlist.output = self.need((x, y, f"io_{block}/D_OUT_0"), LOW)
        while self.pending:
            self.collect(self.pending.pop())
        return self.netlist

    def need(self, wire: Wire, unconnected: Signal) -> Signal:
        """The signal on a cell's input, which will be collected too.

        An input whose switches are all open has a fixed level in the silicon: `unconnected`.
        """
        if not self.routing.closed(wire):
            return unconnected
        return self.signal(wire)

    def signal(self, wire: Wire) -> Signal:
        known = self.known.get(wire)
        if known is None:
            source = self.routing.source(wire)
            if source is None:
                x, y, name = wire
                raise cannot(
                    f"the output depends on a wire that nothing drives ({name} of tile ({x}, {y}))"
                )
            known = self.known[wire] = self.driver(source)
            if known.kind in ("lut", "carry", "flop"):
                self.pending.append(known)
        return known

    def driver(self, wire: Wire) -> Signal:
        """What drives a wire that ends at a function of the device."""
        x, y, name = wire
        cell, _, port = name.partition("/")
        if cell.startswith("lutff_"):
            index = int(cell[-1])
            enable_carry, enable_flop, _, _ = self.sequential_bits(x, y, index)
            if port == "cout":
                if enable_carry == "0":
                    raise cannot(
                        f"the output depends on a carry that is switched off, at tile ({x}, {y})"
                    )
                return Signal("carry", x, y, index)
            if port == "out" and enable_flop == "1":
                return Signal("flop", x, y, index)
            return self.lut_or_constant(x, y, index)
        if name == "carry_in_mux":
            return self.carry_into(x, y, 0)
        if name.startswith("glb_netwk_"):
            return self.global_network(int(name[-1]))
        if cell.startswith("io_"):
            if port == "D_IN_1":
                raise cannot(
                    f"the output depends on a pin read at both clock edges, "
                    f"{self.pin_name(x, y, int(cell[-1]))}"
                )
            return self.pad(x, y, int(cell[-1]))
        if name.startswith("padin_"):
            return self.pad(x, y, int(name[-1]))
        if cell == "ram":
            raise cannot(
                f"the output depends on the block RAM at tile ({x}, {y}), which virtual "
                f"boards do not have"
            )
        raise cannot(
            f"the output depends on the hard block (DSP, memory, oscillator or bus) at "
            f"tile ({x}, {y}), which virtual boards do not have"
        )

    # Logic cells

    def sequential_bits(self, x: int, y: int, index: int) -> list[str]:
        """A logic cell's bits: carry enable, flip-flop enable, set instead of reset, async."""
        bits: list[str] = self.icebox.get_lutff_seq_bits(self.tiles[x, y], index)
        return bits

    def table(self, x: int, y: int, index: int) -> int:
        bits = self.icebox.get_lutff_lut_bits(self.tiles[x, y], index)
        return int("".join(reversed(bits)), 2)

    def lut_or_constant(self, x: int, y: int, index: int) -> Signal:
        table = self.table(x, y, index)
        if table in (0, 0xFFFF):
            return HIGH if table else LOW
        return Signal("lut", x, y, index)

    def carry_into(self, x: int, y: int, index: int) -> Signal:
        tile = self.tiles[x, y]
        if index > 0:
            if self.sequential_bits(x, y, index - 1)[0] == "0":
                return LOW
            carry = Signal("carry", x, y, index - 1)
            self.pending.append(carry)
            return carry
        if self.icebox.get_carry_cascade_bit(tile) == "0":
            return HIGH if self.icebox.get_carry_bit(tile) == "1" else LOW
        return self.signal((x, y, "carry_in"))

    def collect(self, signal: Signal) -> None:
        kind, x, y, index = signal
        if signal in self.netlist.gates or signal in self.netlist.flops:
            return
        if kind == "flop":
            self.netlist.flops[signal] = self.flop(x, y, index)
            return
        cell = f"lutff_{index}"
        if kind == "carry":
            inputs = [self.need((x, y, f"{cell}/in_{i}"), LOW) for i in (1, 2)]
            inputs.append(self.carry_into(x, y, index))
            self.netlist.gates[signal] = shrink(0b11101000, inputs)  # the majority of three
            return
        # An input that the table ignores is not looked at: it may well float.
        inputs, table = [], self.table(x, y, index)
        for i in range(4):
            low, high = _halves(table, 4, i)
            inputs.append(LOW if low == high else self.need((x, y, f"{cell}/in_{i}"), LOW))
        self.netlist.gates[signal] = shrink(table, inputs)

    def flop(self, x: int, y: int, index: int) -> Flop:
        _, _, to_one, asynchronous = self.sequential_bits(x, y, index)
        data = self.lut_or_constant(x, y, index)
        if data.kind == "lut":
            self.pending.append(data)
        return Flop(
            data=data,
            clock=self.need((x, y, "lutff_global/clk"), LOW),
            enable=self.need((x, y, "lutff_global/cen"), HIGH),
            reset=self.need((x, y, "lutff_global/s_r"), LOW),
            reset_value=int(to_one),
            asynchronous=asynchronous == "1",
            falling=self.icebox.get_negclk_bit(self.tiles[x, y]) == "1",
        )

    # Pins

    def pin_type(self, x: int, y: int, block: int) -> str:
        """The six PINTYPE bits of an IO block, lowest first."""
        bits = ""
        for i in range(6):
            row, column = self.device.function_bits(x, y, f"IOB_{block}", f"PINTYPE_{i}")
            bits += self.tiles[x, y][row][column]
        return bits

    def drives_pad(self, x: int, y: int, block: int) -> bool:
        """Whether an IO block is a plain output; False if it drives nothing."""
        output = self.pin_type(x, y, block)[2:]
        if output[2:] == "00":
            return False
        if output != "0110":
            raise cannot(f"{self.pin_name(x, y, block)} is a registered or three-state output")
        return True

    def pin_name(self, x: int, y: int, block: int) -> str:
        pin = self.device.pins.get((x, y, block))
        return f"package pin {pin}" if pin else f"the pad at tile ({x}, {y}) without a pin"

    def pad(self, x: int, y: int, block: int) -> Signal:
        """The level that an IO block reads."""
        if (x, y, block) in self.pll_outputs():
            raise cannot("the output depends on a PLL")
        name = self.pin_name(x, y, block)
        if (x, y, block) != self.device.pads[CLOCK_PIN]:
            # The oscillators drive the global network of a pad in the pad's place.
            name += " or an internal oscillator"
        if self.pin_type(x, y, block)[:2] != "10":
            raise cannot(f"the output depends on {name} through a register or latch of the pin")
        if (x, y, block) == self.device.pads[CLOCK_PIN]:
            return CLOCK
        if self.drives_pad(x, y, block):  # an output that is read back
            return self.need((x, y, f"io_{block}/D_OUT_0"), LOW)
        raise cannot(
            f"the output depends on {name} (or an oscillator behind it), which a virtual "
            f"board does not drive"
        )

    def pll_outputs(self) -> set[tuple[int, int, int]]:
        """The IO blocks whose input a PLL replaces."""
        pll = self.icebox.pllinfo_db["5k"]
        plltype = ""
        for i in range(3):
            x, y, name = pll[f"PLLTYPE_{i}"]
            row, column = self.device.function_bits(x, y, "PLL", name)
            plltype += self.tiles[x, y][row][column]
        if plltype == "000":
            return set()
        return {pll["PLLOUT_A"], pll["PLLOUT_B"]}

    def global_network(self, number: int) -> Signal:
        """A global network is driven by its own pad or from the fabric, as an extra bit says."""
        for bit in self.extra_bits:
            if self.icebox.extra_bits_db["5k"].get(bit) == ("padin_glb_netwk", str(number)):
                return self.pad(*self.device.grid.padin_pio_db()[number])
        for x, y, network in self.device.grid.gbufin_db():
            if network == number and self.routing.closed((x, y, "fabout")):
                return self.signal((x, y, "fabout"))
        raise cannot(f"the output depends on global network {number}, which nothing drives")
