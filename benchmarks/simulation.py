"""What a virtual board's answer costs: CPU of a warm worker for a bitstream it has not seen."""

from pathlib import Path

from benchmarks.farm import Place
from benchmarks.report import Figure
from benchmarks.usage import cpu_seconds
from icefarm_agent.virtual.fpga import Simulator

CIRCUITS = Path(__file__).parents[1] / "examples" / "circuits"


async def measure(place: Place) -> list[Figure]:
    """CPU seconds by circuit."""
    figures = []
    simulator = Simulator()
    try:
        # Its last bytes are beyond the image, so that it is another bitstream of the same content.
        warm = (CIRCUITS / "silent.bin").read_bytes() + b"\xff"
        await simulator.waveform(warm)
        [pid] = simulator.worker_pids
        for path in sorted(CIRCUITS.glob("*.bin")):
            before = cpu_seconds(pid)
            await simulator.waveform(path.read_bytes())
            used = cpu_seconds(pid) - before
            figures.append(
                Figure(f"{path.stem}_cpu_s", f"simulation of {path.stem}", used, "CPU s")
            )
    finally:
        await simulator.close()
    return figures
