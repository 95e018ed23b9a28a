"""Where the farm is for a script that names the older package's control server."""

import os
from urllib.parse import urlsplit

from icefarm.configuration import read_configuration
from icefarm_broker.address import URL_VARIABLE


def farm_of(url: str) -> str | None:
    """What `icefarm.Client` is to be given: None for the farm that is configured.

    An `http://` address named the older control server, which this farm has not: then the farm is
    the configured one, else the broker on that host. Anything else is a farm's address or name.

    Raises:
        InvalidRequestError: the configuration file makes no sense.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        return url
    if os.environ.get(URL_VARIABLE) or read_configuration().default is not None:
        return None
    host = parts.hostname or "127.0.0.1"
    return f"mqtt://[{host}]:1883" if ":" in host else f"mqtt://{host}:1883"
