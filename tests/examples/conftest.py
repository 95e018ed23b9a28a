"""A small farm of fast virtual boards, and the examples as programs that use it."""

import subprocess
import sys

import pytest
from examples.running import EXAMPLES, RunExample
from support.processes import Processes


@pytest.fixture
def farm(processes: Processes) -> Processes:
    """Two boards, both available."""
    processes.serve(boards=2)
    return processes


@pytest.fixture
def run_example(farm: Processes) -> RunExample:
    """As a user types it, in a shell that knows the farm."""

    def run(example: str, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, str(EXAMPLES / example), *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            env=farm.environment,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return done.stdout

    return run
