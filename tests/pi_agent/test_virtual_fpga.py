"""A virtual board's answer is computed from the bitstream, by the real tools, or is an error."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from support.waiting import until

from icefarm_agent.virtual import fabric, icestorm, netlist, program
from icefarm_agent.virtual.fpga import (
    IMAGE_SIZE,
    TIME_LIMIT,
    BitstreamError,
    Simulator,
    ToolsMissing,
    Waveform,
)
from icefarm_agent.virtual.netlist import CLOCK, HIGH, LOW, Flop, Gate, Netlist, Signal

CIRCUITS = Path(__file__).parents[2] / "examples" / "circuits"
CATALOGUE: list[dict[str, Any]] = json.loads((CIRCUITS / "circuits.json").read_text())

T = TypeVar("T")


def image(name: str) -> bytes:
    return (CIRCUITS / f"{name}.bin").read_bytes()


def use(work: Callable[[Simulator], Awaitable[T]], **options: Any) -> T:
    """Run something with a simulator, which is closed afterwards."""

    async def run() -> T:
        simulator = Simulator(**options)
        try:
            return await work(simulator)
        finally:
            await simulator.close()

    return asyncio.run(run())


def waveform_of(bitstream: bytes) -> Waveform:
    return use(lambda simulator: simulator.waveform(bitstream))


# The example circuits


@pytest.mark.parametrize("circuit", CATALOGUE, ids=lambda circuit: circuit["name"])
def test_counts_what_the_circuit_was_designed_for(circuit: dict[str, Any]) -> None:
    bitstream = (CIRCUITS / circuit["file"]).read_bytes()
    assert len(bitstream) == IMAGE_SIZE
    waveform = waveform_of(bitstream)
    assert waveform.pulses() == circuit["pulses"]
    assert waveform.exact


def test_the_noise_has_the_count_of_an_independent_model() -> None:
    shift = level = pulses = 0
    for _ in range(128_000):
        new = 1 ^ (shift >> 7 ^ shift >> 5 ^ shift >> 4 ^ shift >> 3) & 1
        shift = (shift << 1 | new) & 0xFF
        pulses += shift >> 7 > level
        level = shift >> 7
    assert waveform_of(image("noise")).pulses() == pulses


@pytest.mark.parametrize("name", ["pulse_20khz", "noise"])
def test_agrees_with_iverilog_on_the_output_of_icebox_vlog(name: str, tmp_path: Path) -> None:
    cycles = 6000
    waveform = waveform_of(image(name))
    expected = [tick for tick in waveform.changes if tick <= 2 * cycles]
    if waveform.period and waveform.prefix + waveform.period <= 2 * cycles:
        again = [tick for tick in waveform.changes if tick >= waveform.prefix]
        for start in range(waveform.period, 2 * cycles, waveform.period):
            expected += [tick + start for tick in again if tick + start <= 2 * cycles]
    assert len(expected) >= 2
    assert changes_in_iverilog(image(name), cycles, tmp_path) == expected


def changes_in_iverilog(bitstream: bytes, cycles: int, folder: Path) -> list[int]:
    (folder / "chip.asc").write_text(unpacked(bitstream))
    chip = subprocess.run(
        ["icebox_vlog", "-s", folder / "chip.asc"], capture_output=True, check=True, text=True
    ).stdout
    (folder / "bench.v").write_text(
        chip
        + f"""
module bench;
    reg clk; wire out; reg last; integer tick;
    chip chip (.io_12_31_1(clk), .io_18_31_1(out));
    initial begin
        #1 clk = 0; #1 last = out;
        for (tick = 1; tick <= {2 * cycles}; tick = tick + 1) begin
            clk = tick[0];
            #1 if (out !== last) $display("change %0d", tick);
            last = out;
        end
    end
endmodule
"""
    )
    subprocess.run(
        ["iverilog", "-s", "bench", "-o", folder / "bench", folder / "bench.v"], check=True
    )
    printed = subprocess.run(
        ["vvp", "-n", folder / "bench"], capture_output=True, check=True, text=True
    ).stdout
    return [int(tick) for tick in re.findall(r"change (\d+)", printed)]


# Bitstreams made from the examples by changing configuration bits


def unpacked(bitstream: bytes) -> str:
    return subprocess.run(
        ["iceunpack"], input=bitstream, capture_output=True, check=True
    ).stdout.decode()


def packed(text: str) -> bytes:
    return subprocess.run(["icepack"], input=text.encode(), capture_output=True, check=True).stdout


def edited(bitstream: bytes, edit: Callable[[str, list[str]], list[str]]) -> bytes:
    """Change the rows of each tile; `edit` gets the tile's heading and its rows."""
    lines = unpacked(bitstream).split("\n")
    for number, line in enumerate(lines):
        if "_tile " in line:
            rows = lines[number + 1 : number + 17]
            lines[number + 1 : number + 17] = edit(line, rows)
    return packed("\n".join(lines))


def set_everywhere(bitstream: bytes, row: int, column: int) -> bytes:
    """Set one bit in each logic tile that has logic."""

    def edit(heading: str, rows: list[str]) -> list[str]:
        if heading.startswith(".logic_tile") and any("1" in line[36:46] for line in rows):
            rows[row] = rows[row][:column] + "1" + rows[row][column + 1 :]
        return rows

    return edited(bitstream, edit)


def test_flip_flops_on_the_falling_edge_count_half_a_cycle_later() -> None:
    rising = waveform_of(image("pulse_1khz"))
    falling = waveform_of(set_everywhere(image("pulse_1khz"), 0, 0))  # NegClk is B0[0]
    assert falling.pulses() == 1000
    assert falling.changes[0] == rising.changes[0] + 1


def test_an_output_that_is_not_driven_is_silent() -> None:
    def edit(heading: str, rows: list[str]) -> list[str]:
        return ["0" * 18] * 16 if heading == ".io_tile 18 31" else rows

    waveform = waveform_of(edited(image("pulse_1khz"), edit))
    assert waveform.pulses() == 0
    assert waveform.exact
    assert waveform.samples(3, 0.001) == [0, 0, 0]


def test_counters_without_flip_flops_are_loops_that_do_not_settle() -> None:
    def edit(heading: str, rows: list[str]) -> list[str]:
        if not heading.startswith(".logic_tile"):
            return rows
        # The flip-flop enable of logic cell N is bit 45 of row 2 N.
        return [
            line[:45] + "0" + line[46:] if number % 2 == 0 else line
            for number, line in enumerate(rows)
        ]

    with pytest.raises(BitstreamError, match="combinational loop"):
        waveform_of(edited(image("pulse_1khz"), edit))


def test_a_clock_that_nothing_drives_is_not_guessed() -> None:
    def edit(heading: str, rows: list[str]) -> list[str]:
        if heading.startswith(".io_tile"):
            # These four bits choose what a pin's tile puts on its global network.
            rows[4:6] = [line[:14] + "00" + line[16:] for line in rows[4:6]]
        return rows

    with pytest.raises(BitstreamError, match=r"global network \d, which nothing drives"):
        waveform_of(edited(image("pulse_1khz"), edit))


# What is wrong with a bitstream


def damaged(bitstream: bytes) -> bytes:
    return bitstream[:20_000] + bytes([bitstream[20_000] ^ 1]) + bitstream[20_001:]


@pytest.mark.parametrize(
    ("bitstream", "message"),
    [
        (b"", "empty"),
        (image("noise")[:50_000], "truncated: 50,000 bytes of 104,090 needed"),
        (image("noise")[:30], "truncated: 30 bytes"),
        (image("noise")[:-1], "truncated: 104,089 bytes"),
        (bytes(range(1, 251)) * 416, "not an iCE40 bitstream: the preamble 7E AA 99 7E"),
        (damaged(image("noise")), "CRC"),
    ],
    ids=["empty", "truncated", "header only", "last byte missing", "not iCE40", "damaged"],
)
def test_says_what_is_wrong(bitstream: bytes, message: str) -> None:
    with pytest.raises(BitstreamError, match=message):
        waveform_of(bitstream)


@pytest.mark.parametrize("device", ["384", "1k", "8k", "u4k"])
def test_says_which_other_device_a_bitstream_is_for(device: str, tmp_path: Path) -> None:
    icebox: Any = icestorm.load_icebox(icestorm.locate())
    empty = icebox.iceconfig()
    getattr(empty, f"setup_empty_{device}")()
    empty.write_file(tmp_path / "empty.asc")
    with pytest.raises(BitstreamError, match=f"another device: iCE40 {device}"):
        waveform_of(packed((tmp_path / "empty.asc").read_text()))


def test_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolsMissing, match="apt install fpga-icestorm"):
        waveform_of(image("noise"))


# The model, on netlists written by hand

NOT, AND, XOR, NOR = 0b01, 0b1000, 0b0110, 0b0001


def lut(number: int) -> Signal:
    return Signal("lut", 1, 1, number)


def flop(number: int) -> Signal:
    return Signal("flop", 1, 1, number)


def clocked(data: Signal, clock: Signal = CLOCK, **other: Any) -> Flop:
    settings: dict[str, Any] = {
        "enable": HIGH,
        "reset": LOW,
        "reset_value": 0,
        "asynchronous": False,
        "falling": False,
    }
    return Flop(data, clock, **(settings | other))


def toggling(number: int, **other: Any) -> tuple[dict[Signal, Gate], dict[Signal, Flop]]:
    """A flip-flop that inverts itself."""
    gates = {lut(number): Gate((flop(number),), NOT)}
    return gates, {flop(number): clocked(lut(number), **other)}


def test_follows_a_ripple_counter() -> None:
    gates, flops = toggling(0)
    for number in range(1, 4):
        more_gates, more_flops = toggling(number, clock=flop(number - 1), falling=True)
        gates |= more_gates
        flops |= more_flops
    waveform = program.simulate(Netlist(flop(3), gates, flops))
    assert waveform.exact
    assert waveform.period == 2 * 16
    assert waveform.pulses() == 48_000_000 // 16


def test_follows_an_asynchronous_reset_and_an_enable() -> None:
    # Bit 1 counts only while bit 0 is set, and bits 0 and 1 together set a third flip-flop,
    # which takes its data, a 0, at the first clock edge after the set has ended.
    gates, flops = toggling(0)
    more_gates, more_flops = toggling(1, enable=flop(0))
    gates |= more_gates | {lut(2): Gate((flop(0), flop(1)), AND)}
    flops |= more_flops
    flops[flop(2)] = clocked(LOW, reset=lut(2), reset_value=1, asynchronous=True)
    waveform = program.simulate(Netlist(flop(2), gates, flops))
    assert waveform.period == 2 * 4
    assert waveform.changes[:2] == (2 * 3 - 1, 2 * 5 - 1)


def test_both_edges_of_the_clock_may_reach_the_output() -> None:
    gates, flops = toggling(0)
    gates[lut(1)] = Gate((flop(0), CLOCK), AND)
    assert program.simulate(Netlist(lut(1), gates, flops)).pulses() == 24_000_000
    assert program.simulate(Netlist(CLOCK)).pulses() == 48_000_000


def test_a_latch_settles_and_a_ring_does_not() -> None:
    # Two counter bits drive set and reset of a latch of two NORs, never both at once.
    gates, flops = toggling(0)
    more_gates, more_flops = toggling(1, clock=flop(0), falling=True)
    gates |= more_gates
    flops |= more_flops
    gates[lut(2)] = Gate((flop(0), flop(1)), NOR)
    gates[lut(3)] = Gate((flop(0), flop(1)), AND)
    gates[lut(4)] = Gate((lut(2), lut(5)), NOR)
    gates[lut(5)] = Gate((lut(3), lut(4)), NOR)
    assert program.simulate(Netlist(lut(4), gates, flops)).pulses() == 12_000_000

    ring = {lut(n): Gate((lut((n + 1) % 3),), NOT) for n in range(3)}
    with pytest.raises(BitstreamError, match=r"loop through 3 .* oscillates"):
        program.simulate(Netlist(lut(0), ring))


def test_a_flip_flop_that_takes_the_clock_as_data_is_a_race() -> None:
    with pytest.raises(BitstreamError, match="race"):
        program.simulate(Netlist(flop(0), {}, {flop(0): clocked(CLOCK)}))


def counter(bits: int) -> tuple[dict[Signal, Gate], dict[Signal, Flop]]:
    """A counter, and the carry out of its last bit as gate 0."""
    gates: dict[Signal, Gate] = {lut(1): Gate((flop(1),), NOT)}
    carry = flop(1)
    for bit in range(2, bits + 1):
        gates[lut(bit)] = Gate((flop(bit), carry), XOR)
        gates[lut(100 + bit)] = Gate((flop(bit), carry), AND)
        carry = lut(100 + bit)
    gates[lut(0)] = Gate((carry, LOW), XOR)
    return gates, {flop(bit): clocked(lut(bit)) for bit in range(1, bits + 1)}


def test_the_period_is_proved_by_the_state_not_by_the_looks_of_the_output() -> None:
    # For 8,191 cycles the output looks like its lowest bit, and then it misses one beat.
    gates, flops = counter(13)
    gates[lut(200)] = Gate((flop(1), lut(0)), 0b0010)
    waveform = program.simulate(Netlist(lut(200), gates, flops))
    assert waveform.exact
    assert waveform.period == 2 * 8192
    assert waveform.pulses(8192 / 48e6) == 4095


def test_without_a_period_the_window_is_extrapolated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "window", lambda netlist: 100_000)
    gates, flops = counter(26)
    waveform = program.simulate(Netlist(flop(11), gates, flops))
    assert not waveform.exact
    assert waveform.prefix == 200_000
    assert waveform.pulses() == 49 * 480
    assert waveform.pulses(0.001) == 23  # inside the window it is a count


def test_only_what_the_output_depends_on_is_looked_at() -> None:
    tools = icestorm.locate()
    device = fabric.Device(icestorm.load_icebox(tools))
    circuit = netlist.extract(device, icestorm.unpack(tools, image("silent")))
    assert len(circuit.flops) == 4
    assert circuit.output.kind == "lut"


# The waveform


def test_samples_are_readings_at_the_times_asked_for() -> None:
    waveform = waveform_of(image("pulse_1khz"))
    # High in the second half of each millisecond.
    assert waveform.samples(8, 0.00025) == [0, 0, 4095, 4095] * 2
    assert waveform.samples(5, 0.001) == [0] * 5
    many = waveform.samples(500, 0.0001)
    assert len(many) == 500
    assert many[5:10] == many[495:] == [4095] * 5


def test_pulses_of_any_length_of_time_are_exact() -> None:
    waveform = waveform_of(image("pulse_5khz"))
    assert [waveform.pulses(seconds) for seconds in (0, 0.00009, 0.00011, 0.5, 3600)] == [
        0,
        0,
        1,
        2500,
        18_000_000,
    ]


def test_a_waveform_survives_json() -> None:
    for waveform in (Waveform(1, (3, 5, 11), 4, 10), Waveform(0, (), 100, None)):
        assert Waveform.from_json(json.loads(json.dumps(waveform.to_json()))) == waveform


# Remembering and sharing


def test_requests_for_the_same_bitstream_share_one_simulation() -> None:
    async def work(simulator: Simulator) -> int:
        first, second = await asyncio.gather(
            simulator.waveform(image("noise")), simulator.waveform(image("noise"))
        )
        assert first == second == await simulator.waveform(image("noise"))
        return simulator.simulations

    assert use(work, workers=2) == 1


def test_a_cancelled_request_does_not_disturb_another() -> None:
    async def work(simulator: Simulator) -> int:
        await simulator.waveform(image("silent"))
        (pid,) = simulator.worker_pids
        os.kill(pid, signal.SIGSTOP)  # so that it is surely in the middle
        hasty = asyncio.create_task(simulator.waveform(image("noise")))
        patient = asyncio.create_task(simulator.waveform(image("noise")))
        await asyncio.sleep(0.01)
        hasty.cancel()
        os.kill(pid, signal.SIGCONT)
        waveform = await patient
        assert hasty.cancelled()
        return waveform.pulses()

    assert use(work) == 32125


def test_closing_ends_requests_and_workers() -> None:
    async def work(simulator: Simulator) -> None:
        await simulator.waveform(image("silent"))
        (pid,) = simulator.worker_pids
        os.kill(pid, signal.SIGSTOP)
        request = asyncio.create_task(simulator.waveform(image("noise")))
        await asyncio.sleep(0.05)
        await simulator.close()
        with pytest.raises(RuntimeError, match="closed"):
            await request
        assert simulator.worker_pids == []
        assert not alive(pid)
        with pytest.raises(RuntimeError, match="closed"):
            await simulator.waveform(image("silent"))

    use(work)


# Workers


def alive(pid: int) -> bool:
    """Whether a process exists and is not only waiting to be collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_worker_that_is_killed_is_replaced() -> None:
    async def work(simulator: Simulator) -> int:
        await simulator.waveform(image("silent"))
        (pid,) = simulator.worker_pids
        os.kill(pid, signal.SIGSTOP)  # so that it is surely in the middle
        request = asyncio.create_task(simulator.waveform(image("noise")))
        await asyncio.sleep(0.1)
        assert not request.done()
        os.kill(pid, signal.SIGKILL)
        waveform = await request
        assert simulator.worker_pids != [pid]
        return waveform.pulses()

    assert use(work) == 32125


def test_a_simulation_has_a_time_limit() -> None:
    async def work(simulator: Simulator) -> None:
        # What is not stopped may take its time on a busy machine.
        pool = simulator._pool
        limit, pool._time_limit = pool._time_limit, TIME_LIMIT
        await simulator.waveform(image("silent"))
        (pid,) = simulator.worker_pids
        os.kill(pid, signal.SIGSTOP)
        pool._time_limit = limit
        with pytest.raises(BitstreamError, match=r"time limit of 0\.5 s"):
            await simulator.waveform(image("noise"))
        assert not alive(pid)
        pool._time_limit = TIME_LIMIT
        # The failure was the machine's, not the bitstream's, so it is not remembered.
        assert (await simulator.waveform(image("noise"))).exact

    use(work, time_limit=0.5)


def test_workers_die_with_their_parent_even_if_it_is_killed() -> None:
    program_text = f"""
import asyncio, os, pathlib, signal
from icefarm_agent.virtual.fpga import Simulator

async def main():
    simulator = Simulator()
    await simulator.waveform(pathlib.Path({str(CIRCUITS / "silent.bin")!r}).read_bytes())
    (pid,) = simulator.worker_pids
    os.kill(pid, signal.SIGSTOP)  # now it cannot notice that its input ends
    print(pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""
    package_root = str(Path(icestorm.__file__).parents[2])
    parent = subprocess.Popen(
        [sys.executable, "-c", program_text],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": package_root},
    )
    with parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        assert alive(worker)
        parent.kill()
    until(lambda: not alive(worker))
