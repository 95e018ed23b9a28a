"""What a virtual board's answer costs: CPU of a warm worker for a bitstream it has not seen."""

import os
from pathlib import Path

from icefarm_agent.virtual.fpga import Simulator

CIRCUITS = Path(__file__).parents[1] / "examples" / "circuits"


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and of the children that it has waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


async def costs() -> dict[str, float]:
    """CPU seconds by circuit."""
    figures = {}
    simulator = Simulator()
    try:
        # Its last bytes are beyond the image, so that it is another bitstream of the same content.
        warm = (CIRCUITS / "silent.bin").read_bytes() + b"\xff"
        await simulator.waveform(warm)
        [pid] = simulator.worker_pids
        for path in sorted(CIRCUITS.glob("*.bin")):
            before = cpu_seconds(pid)
            await simulator.waveform(path.read_bytes())
            figures[f"simulation of {path.stem}, CPU s"] = cpu_seconds(pid) - before
    finally:
        await simulator.close()
    return figures
