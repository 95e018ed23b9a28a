"""Where a farm is: the broker's host, port, login and the root of its topics, as one URL."""

import os
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import quote, unquote, urlsplit

from icefarm_schemas.topic import DEFAULT_ROOT, check_root

DEFAULT_URL = "mqtt://127.0.0.1:1883"
URL_VARIABLE = "ICEFARM_BROKER"
_PORTS = {"mqtt": 1883, "mqtts": 8883}


@dataclass(frozen=True)
class BrokerAddress:
    """`mqtt://user:password@host:port/root`; `mqtts` for TLS. All but the host may be left out."""

    host: str
    port: int
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: bool = False
    root: str = DEFAULT_ROOT

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read a URL.

        Raises:
            ValueError: it is not such a URL; the text says what is wrong, without the password.
        """
        parts = urlsplit(url)
        if parts.scheme not in _PORTS:
            raise ValueError(
                f"a broker's address begins with mqtt:// or mqtts://, this one with "
                f"{parts.scheme or 'neither'}; for example {DEFAULT_URL}"
            )
        if not parts.hostname:
            raise ValueError(f"the broker's address names no host; for example {DEFAULT_URL}")
        try:
            port = parts.port or _PORTS[parts.scheme]
        except ValueError:
            raise ValueError("the broker's port is no number from 1 to 65535") from None
        if parts.query or parts.fragment:
            raise ValueError("a broker's address has no ? and no #; write them as %3F and %23")
        root = unquote(parts.path.strip("/"))
        return cls(
            host=parts.hostname,
            port=port,
            user=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password) if parts.password is not None else None,
            tls=parts.scheme == "mqtts",
            root=check_root(root) if root else DEFAULT_ROOT,
        )

    @classmethod
    def find(cls, url: str | None = None) -> Self:
        """The farm that `url` names, else the variable ICEFARM_BROKER, else one on this machine."""
        return cls.parse(url or os.environ.get(URL_VARIABLE) or DEFAULT_URL)

    def __str__(self) -> str:
        """The URL without the password, fit for logs."""
        login = f"{quote(self.user)}@" if self.user else ""
        root = f"/{self.root}" if self.root != DEFAULT_ROOT else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.tls else 'mqtt'}://{login}{host}:{self.port}{root}"
