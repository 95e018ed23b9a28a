"""A network for each part of the farm, so that each can be cut off from the others.

Every part runs in a network namespace of its own, joined to a bridge in a hub namespace. A cut is
made on the hub's side of that joint, either with a loss of carrier or without: then the part
notices nothing but silence, as behind a switch that has died.
"""

import ctypes
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from functools import cache
from types import TracebackType
from typing import Protocol, Self

_CLONE_NEWNET = 0x40000000


@cache
def why_no_namespaces() -> str | None:
    """Why this user cannot cut parts off, if he cannot; found out before a farm has its own."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [name for name in ("ip", "nsenter", "setpriv") if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)} not installed"
    try:
        with Namespaces([]):
            return None
    except RuntimeError as error:
        # As in a container that may not, or in a changed root that is no mount.
        return f"network namespaces cannot be made here: {error}"


class Network(Protocol):
    """Where the parts run and how they reach each other."""

    def address(self, part: str) -> str:
        """Where a part listens, as all others reach it."""

    def inside(self, part: str) -> list[str]:
        """What to put before a command to run it as this part."""

    def enter(self) -> None:
        """Let the calling thread reach all parts, whichever of them are cut off."""

    def cut(self, part: str, silently: bool) -> Callable[[], None]:
        """Cut a part off until the returned function is called."""

    def part(self, one: str, other: str) -> Callable[[], None]:
        """Cut two parts off from each other, and from nobody else."""


class Loopback:
    """Everything on this machine's own address: for users who may make no namespaces."""

    def address(self, part: str) -> str:
        return "127.0.0.1"

    def inside(self, part: str) -> list[str]:
        return []

    def enter(self) -> None:
        """Every thread is there already."""

    def cut(self, part: str, silently: bool) -> Callable[[], None]:
        raise RuntimeError("nothing can be cut off without namespaces")

    def part(self, one: str, other: str) -> Callable[[], None]:
        raise RuntimeError("nothing can be cut off without namespaces")


class Namespaces:
    """Namespaces that live as long as the `with` block."""

    def __init__(self, parts: list[str]) -> None:
        self._prefix = f"icefarm-{os.getpid()}-"
        self._hub = self._prefix + "hub"
        self._numbers = {part: number for number, part in enumerate(parts, 2)}
        self._made: list[str] = []
        self._cuts: Counter[str] = Counter()

    def __enter__(self) -> Self:
        try:
            self._make(self._hub)
            self._in_hub("link", "add", "hub", "type", "bridge", "forward_delay", "0")
            self._in_hub("address", "add", "10.77.0.1/24", "dev", "hub")
            self._in_hub("link", "set", "hub", "up")
            for part in self._numbers:
                self._join(part)
        except BaseException:
            self._remove_all()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._remove_all()

    def _make(self, namespace: str) -> None:
        _ip("netns", "add", namespace)
        self._made.append(namespace)
        _ip("-n", namespace, "link", "set", "lo", "up")

    def _remove_all(self) -> None:
        while self._made:
            # A veth pair goes with the namespace of either end.
            _ip("netns", "delete", self._made.pop())

    def _join(self, part: str) -> None:
        own, port = self._prefix + part, self._port(part)
        self._make(own)
        self._in_hub("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", own)
        self._in_hub("link", "set", port, "master", "hub", "up")
        _ip("-n", own, "address", "add", f"{self.address(part)}/24", "dev", "eth0")
        _ip("-n", own, "link", "set", "eth0", "up")

    def _in_hub(self, *arguments: str) -> None:
        _ip("-n", self._hub, *arguments)

    def _port(self, part: str) -> str:
        return f"port{self._numbers[part]}"

    def address(self, part: str) -> str:
        return f"10.77.0.{self._numbers[part]}"

    def inside(self, part: str) -> list[str]:
        return ["nsenter", f"--net=/run/netns/{self._prefix}{part}"]

    def enter(self) -> None:
        # os.setns is new in Python 3.12. It moves the calling thread only.
        libc = ctypes.CDLL(None, use_errno=True)
        with open(f"/run/netns/{self._hub}", "rb") as namespace:
            if libc.setns(namespace.fileno(), _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")

    def cut(self, part: str, silently: bool) -> Callable[[], None]:
        port = self._port(part)
        self._cuts[part] += 1
        # `nomaster` takes the port off the bridge: its carrier stays, but nothing passes.
        self._in_hub("link", "set", port, *(["nomaster"] if silently else ["down"]))

        def mend() -> None:
            self._cuts[part] -= 1
            if self._cuts[part] == 0:
                self._in_hub("link", "set", port, "master", "hub", "up")

        return mend

    def part(self, one: str, other: str) -> Callable[[], None]:
        # What comes from the one arrives, but no answer to it can leave.
        where = self._prefix + other
        route = ("blackhole", f"{self.address(one)}/32")
        self._cuts[f"{one} {other}"] += 1
        if self._cuts[f"{one} {other}"] == 1:
            _ip("-n", where, "route", "add", *route)

        def mend() -> None:
            self._cuts[f"{one} {other}"] -= 1
            if self._cuts[f"{one} {other}"] == 0:
                _ip("-n", where, "route", "delete", *route)

        return mend


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
