"""QEMU's machine protocol: one command, one answer, events between them passed over."""

import json
import socket
from typing import Any


class Qmp:
    """On a connected socket; https://qemu.readthedocs.io/en/v7.2.0/interop/qmp-spec.html."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._stream = connection.makefile("rw")
        self._greeted = False

    def execute(self, command: str, **arguments: Any) -> Any:
        """Carry out a command and return its result.

        Raises:
            RuntimeError: QEMU refused it, with its words.
            EOFError: QEMU has ended.
        """
        if not self._greeted:
            self._read()
            self._greeted = True
            self.execute("qmp_capabilities")
        self._stream.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self._stream.flush()
        while "return" not in (answer := self._read()):
            if "error" in answer:
                raise RuntimeError(f"QEMU refused {command}: {answer['error']['desc']}")
        return answer["return"]

    def _read(self) -> dict[str, Any]:
        line = self._stream.readline()
        if not line:
            raise EOFError("QEMU closed its control connection")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """Close the connection."""
        self._stream.close()
        self._connection.close()
