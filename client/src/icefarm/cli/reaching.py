"""For `icefarm doctor`: the way to the broker, from its name to TLS."""

import asyncio
import ipaddress
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator, Mapping

from icefarm.cli.findings import Check, Finding, advice, ok, skipped, wrong
from icefarm_broker import BrokerAddress

_PATIENCE = 5.0
"""Seconds for a connection."""


async def reach(address: BrokerAddress) -> AsyncIterator[Finding]:
    """Look at the name, the network and TLS, as far as it leads."""
    try:
        # In a thread, which ends when the system's own patience with its name servers does.
        found = await asyncio.to_thread(
            socket.getaddrinfo, address.host, address.port, type=socket.SOCK_STREAM
        )
    except (OSError, UnicodeError) as error:
        yield wrong(
            Check.NAME,
            f"the name {address.host} cannot be resolved: {_words(error)}",
            "check how it is written, and whether this machine is online or in the farm's VPN",
        )
        return
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    if addresses == [address.host]:
        yield ok(Check.NAME, f"{address.host} is an address, which needs no look-up")
    else:
        yield ok(Check.NAME, f"{address.host} is {', '.join(addresses)}")
    began = time.monotonic()
    try:
        async with asyncio.timeout(_PATIENCE):
            _, writer = await asyncio.open_connection(address.host, address.port)
    except TimeoutError:
        yield wrong(
            Check.NETWORK,
            f"nothing answers at port {address.port} of {address.host} within {_PATIENCE:g} s",
            "a firewall may be in the way, or the machine is off, or this one is not in its VPN",
        )
        return
    except OSError as error:
        yield wrong(
            Check.NETWORK,
            f"port {address.port} of {address.host} cannot be reached: {_words(error)}",
            "start the broker there (Mosquitto), or correct the port; `icefarm up` starts a farm "
            "of virtual boards on this machine",
        )
        return
    took = time.monotonic() - began
    writer.close()
    yield ok(Check.NETWORK, f"port {address.port} is open; connecting takes {1000 * took:.1f} ms")
    yield await _encrypt(address, addresses)


async def _encrypt(address: BrokerAddress, addresses: list[str]) -> Finding:
    if not address.tls:
        local = all(ipaddress.ip_address(one.partition("%")[0]).is_loopback for one in addresses)
        if address.password is None or local:
            return skipped(Check.TLS, "it is not used: the address begins with mqtt://")
        return advice(
            Check.TLS,
            "it is not used, so the password goes over the network for all to read",
            "write mqtts:// if the broker takes TLS",
        )
    try:
        async with asyncio.timeout(_PATIENCE):
            _, writer = await asyncio.open_connection(
                address.host, address.port, ssl=ssl.create_default_context()
            )
    except ssl.SSLCertVerificationError as error:
        return wrong(
            Check.TLS,
            f"this machine does not trust the broker's certificate: {error.verify_message}",
            "if the farm has a certificate authority of its own, let the variable SSL_CERT_FILE "
            "name its certificate; if it is over or for another name, the broker needs a new one",
        )
    except (OSError, TimeoutError) as error:
        return wrong(
            Check.TLS,
            f"no TLS at port {address.port}: {_words(error)}",
            "the port for TLS is 8883 as a rule; write mqtt:// if the broker has none",
        )
    used: ssl.SSLObject = writer.get_extra_info("ssl_object")
    certificate = used.getpeercert() or {}
    writer.close()
    return ok(Check.TLS, f"{used.version()}; the certificate is good until {_expiry(certificate)}")


def _expiry(certificate: Mapping[str, object]) -> str:
    until = ssl.cert_time_to_seconds(str(certificate["notAfter"]))
    return time.strftime("%Y-%m-%d", time.gmtime(until))


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)  # asyncio puts the address into its own words.
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or "no answer in time"
