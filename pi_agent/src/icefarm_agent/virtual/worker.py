"""The process that turns bitstreams into waveforms, kept warm so that icebox is loaded once.

It reads images from standard input and answers on standard output, one at a time: a length of four
bytes, most significant first, then that many bytes; an image in, a JSON object out with one of the
keys `waveform`, `error` (the bitstream's fault) or `missing` (the installation's).

It must not outlive its parent, however that ends. Waiting, it sees standard input close; while it
simulates, the kernel kills it (prctl PR_SET_PDEATHSIG, Linux only).
"""

import ctypes
import json
import os
import signal
import sys
from typing import Any, BinaryIO

from icefarm_agent.virtual import fabric, icestorm, netlist, program
from icefarm_agent.virtual.errors import BitstreamError, ToolsMissing

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent is gone; exit if it is gone already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit(0)


def read_message(stream: BinaryIO) -> bytes | None:
    """The next message, or None at the end of the stream."""
    head = stream.read(4)
    if len(head) < 4:
        return None
    size = int.from_bytes(head, "big")
    body = stream.read(size)
    return body if len(body) == size else None


def answer(tools: icestorm.Tools, device: fabric.Device, image: bytes) -> dict[str, Any]:
    """The reply to one image, which has been checked."""
    try:
        configuration = icestorm.unpack(tools, image)
        circuit = netlist.extract(device, configuration)
        return {"waveform": program.simulate(circuit).to_json()}
    except BitstreamError as error:
        return {"error": str(error)}


def main() -> None:
    """Serve until standard input ends. The one argument is the parent's process id."""
    die_with_parent(int(sys.argv[1]))
    # Ctrl-C reaches the whole terminal; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    images, replies = sys.stdin.buffer, sys.stdout.buffer
    device: fabric.Device | None = None
    while (image := read_message(images)) is not None:
        try:
            tools = icestorm.locate()
            device = device or fabric.Device(icestorm.load_icebox(tools))
            reply = answer(tools, device, image)
        except ToolsMissing as missing:
            reply = {"missing": str(missing)}
        body = json.dumps(reply, separators=(",", ":")).encode()
        replies.write(len(body).to_bytes(4, "big") + body)
        replies.flush()


if __name__ == "__main__":
    main()
