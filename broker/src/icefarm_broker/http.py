"""Serving HTTP from within a part's event loop, so that what answers is what does the work."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import uvicorn

_AGAIN = 5.0
"""Seconds between attempts to get a port that another process has."""
_GRACE = 2
"""Seconds that requests have to end when the part does."""

log = logging.getLogger(__name__)


class _Server(uvicorn.Server):
    """Leaves signals to the part."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


def host_and_port(text: str) -> tuple[str, int]:
    """What `--metrics` and the like are given: 127.0.0.1:9100, [::1]:9100; port 0 is any.

    Raises:
        ValueError: it is something else.
    """
    host, _, port = text.rpartition(":")
    if not (host and port.isascii() and port.isdigit() and int(port) < 65536):
        raise ValueError(f"{text!r} is not a host and a port, such as 127.0.0.1:9100")
    return host.strip("[]"), int(port)


@asynccontextmanager
async def served(
    app: Any, place: tuple[str, int] | None, what: str, option: str
) -> AsyncIterator[None]:
    """`serve` at a host and port as long as the block runs; without a place, not at all."""
    if place is None:
        yield
        return
    serving = asyncio.create_task(serve(app, *place, what, option))
    try:
        yield
    finally:
        serving.cancel()
        await asyncio.wait([serving])


async def serve(app: Any, host: str, port: int, what: str, option: str) -> None:
    """Serve an ASGI application for ever; log that `what`, such as "metrics are", is there.

    While the port is somebody else's, it is tried again and again. That is logged once, with the
    `option` by which another one is chosen.
    """
    listener = await _listen(host, port, what, option)
    config = uvicorn.Config(
        app,
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=_GRACE,
        server_header=False,
    )
    server = _Server(config)
    serving = asyncio.ensure_future(server.serve(sockets=[listener]))
    log.info("%s at %s/", what, _url(listener))
    try:
        await asyncio.shield(serving)
    finally:
        server.should_exit = True
        await serving


async def _listen(host: str, port: int, what: str, option: str) -> socket.socket:
    said = False
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    while True:
        try:
            listener = socket.create_server((host, port), family=family)
        except OSError as error:
            if not said:
                log.warning(
                    "%s not at %s:%d: %s. All else works. Choose another place by %s, or end what "
                    "has this one; it is tried again every %g s",
                    *(what, host, port, error.strerror, option, _AGAIN),
                )
            said = True
            await asyncio.sleep(_AGAIN)
        else:
            # Its connections have it, too. asyncio sets it only where the socket's protocol is
            # named, and without it each answer takes 40 ms, until the other side acknowledges its
            # header.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
