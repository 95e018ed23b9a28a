"""A farm that is started as its users start one: by `icefarm up`."""

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.processes import script
from support.recorder import Recorder
from support.waiting import until


@contextmanager
def a_farm(directory: Path, port: int, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """`icefarm up`, when it says that it is ready."""
    output = directory / "up.txt"
    with output.open("wb") as file:
        up = subprocess.Popen(
            [
                script("icefarm"),
                "up",
                f"--port={port}",
                f"--directory={directory}",
                "--speed=20",
                *options,
            ],
            stdout=file,
            stderr=file,
        )
    try:
        # It gives up by itself, and says what did not start; a busy machine is no failure.
        until(
            lambda: up.poll() is not None or "The farm is ready" in output.read_text(), timeout=100
        )
        assert up.poll() is None, output.read_text()
        recorder = Recorder(f"mqtt://127.0.0.1:{port}")
        yield up
        recorder.stop()
    finally:
        if up.poll() is None:
            up.send_signal(signal.SIGINT)
            up.wait(60)
        print(output.read_text())
