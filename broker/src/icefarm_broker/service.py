"""Running a part as a process: its log lines name it, and signals end it in order."""

import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from icefarm_broker.errors import BrokerError
from icefarm_broker.systemd import Systemd

log = logging.getLogger(__name__)


def log_as(name: str, *, debug: bool = False) -> None:
    """Write log lines to standard error, each with the name of the program it comes from.

    Of a service they say more: see logs.py.
    """
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.INFO,
        format=f"%(asctime)s %(levelname)-7s {name.replace('%', '%%')}: %(message)s",
        stream=sys.stderr,
    )
    # Alembic announces each start as news, and paho each packet.
    for noisy in ("alembic", "mqtt"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def leave_signals_to_others() -> None:
    """Let this thread get no signals that end a part.

    At the end of a process, its handlers are gone before its threads are; a signal that the kernel
    gives to one of these would end the process instead of with its exit code.
    """
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))


EXIT_RESTART = 75
"""The exit code of a part that was asked to end so that its supervisor starts it again."""


def run_service(
    main: Callable[[], Coroutine[Any, Any, int | None]],
    drain: Callable[[], None] | None = None,
    status: Callable[[], str] = lambda: "running",
) -> int:
    """Run until SIGTERM or Ctrl-C and return the exit code, which is `main`'s where it has one.

    The first signal cancels `main`, which cleans up; further ones do not interrupt that. Where
    there is a `drain`, it is called at a first SIGTERM instead, and lets `main` end by itself; the
    next signal cancels. A systemd that has started this process is kept informed of how it is, with
    the `status` in words.
    """
    systemd = Systemd()

    async def until_stopped() -> int:
        task = asyncio.create_task(main())
        # Ready as soon as it works: what it needs may come later, and it goes on trying.
        informing = asyncio.create_task(systemd.keep_informed(status))
        stopping = draining = False

        def stop(name: str) -> None:
            nonlocal stopping, draining
            if drain is not None and name == "SIGTERM" and not (draining or stopping):
                draining = True
                systemd.tell("STOPPING=1", "STATUS=draining")
                log.info("%s: draining; the next signal stops at once", name)
                drain()
                return
            log.info("%s: %s", name, "still stopping" if stopping else "stopping")
            if not stopping:
                stopping = True
                systemd.tell("STOPPING=1", "STATUS=stopping")
                task.cancel()

        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(initializer=leave_signals_to_others))
        for number in (signal.SIGTERM, signal.SIGINT):
            if sys.platform == "win32":
                # Its event loops have no signal handlers.
                signal.signal(number, lambda n, _: loop.call_soon_threadsafe(stop, str(n)))
            else:
                loop.add_signal_handler(number, stop, number.name)
        try:
            return await task or 0
        except asyncio.CancelledError:
            if not stopping:
                raise
        except BrokerError as error:
            log.error("%s", error)
            return 1
        except ExceptionGroup as group:
            known, others = group.split(BrokerError)
            if others is not None or known is None:
                raise
            log.error("%s", known.exceptions[0])
            return 1
        finally:
            informing.cancel()
            # Closing the loop puts the default handlers back.
            leave_signals_to_others()
        return 0

    # The one that watches sockets, as the MQTT library needs; on Windows it is not the default.
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        return runner.run(until_stopped())
