"""How a part ends by signals."""

import subprocess
import sys

PROGRAM = """
import asyncio, signal, sys
from icefarm_broker.service import run_service

async def main():
    # Changes nothing, and returns what is blocked.
    blocked = await asyncio.to_thread(signal.pthread_sigmask, signal.SIG_BLOCK, ())
    print(*sorted(number.name for number in blocked))
    print(*signal.pthread_sigmask(signal.SIG_BLOCK, ()))

sys.exit(run_service(main))
"""


def test_signals_come_to_the_main_thread_alone() -> None:
    """Another one may outlive the handlers for a moment, and the signal would end the process."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "SIGINT SIGTERM\n\n"
