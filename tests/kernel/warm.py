"""Inside an emulated machine: an interpreter that has imported a module and forks for each program.

    python warm.py SOCKET MODULE

To start Python there and to import the agent or the client takes seconds, each time. A connection
brings two descriptors for output, and a script's argv and environment. What is answered is the
process's id and, when it has ended, its exit status.
"""

import importlib
import os
import runpy
import signal
import socket
import sys

from kernel.guest import listen, read_frame, write_frame


def main() -> None:
    """Serve for ever; return in each process that is to become a script."""
    place, module = sys.argv[1:]
    importlib.import_module(module)
    # Of each script waits a process of its own, which the kernel buries.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with listen(place) as server:
        while True:
            connection, _ = server.accept()
            with connection:
                if os.fork() == 0:
                    server.close()
                    return _start(connection)


def _start(connection: socket.socket) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, outputs, _, _ = socket.recv_fds(connection, 1, 2)
    with connection.makefile("rwb", buffering=0) as stream:
        header, _ = read_frame(stream)
        if pid := os.fork():
            _, status = os.waitpid(pid, 0)
            write_frame(stream, {"code": os.waitstatus_to_exitcode(status)})
            os._exit(0)
        os.setsid()
        write_frame(stream, {"pid": os.getpid()})
    for number, output in enumerate(outputs, 1):
        os.dup2(output, number)
        os.close(output)
    os.environ.update(header["env"])
    sys.argv = header["argv"]


if __name__ == "__main__":
    main()
    runpy.run_path(sys.argv[0], run_name="__main__")
