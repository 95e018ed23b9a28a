"""Calls that the kernel may block for long, in threads that hold up neither loop nor exit."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from icefarm_broker.service import leave_signals_to_others

T = TypeVar("T")


async def in_thread(call: Callable[[], T]) -> T:
    """What `call` returns or raises.

    Cancelled, this returns at once and the call goes on without anybody waiting for it. The thread
    is a daemon and not one of the default executor's, whose threads the interpreter waits for at
    its end: one that a broken device keeps in the kernel would keep the process too.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def finish(result: T | None, error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        leave_signals_to_others()
        result: T | None = None
        failure: BaseException | None = None
        try:
            result = call()
        except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
            failure = error
        # The loop may have ended while the kernel was busy; then nobody waits.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(finish, result, failure)

    threading.Thread(target=run, name="icefarm usb", daemon=True).start()
    return await done
