"""What the broker sends, read from the socket in large pieces.

paho asks the kernel for the first byte of a packet, for each byte of its length and for the rest,
which are four calls for a short message, and makes an object of it for its callbacks. The bytes of
streams are many short messages, so these are taken out here; all other packets are left to paho,
each in one piece.
"""

import ssl
from collections.abc import Callable, Mapping
from typing import Any

import paho.mqtt.client as paho

_PIECE = 262_144
"""Bytes that are asked for at once."""
_PUBLISH = 0x30
"""The first byte of a PUBLISH with QoS 0 that is not retained (MQTT 5, 3.3.1)."""


class Receiver:
    """Reads for one paho client, whose socket is its from now on.

    Args:
        takers: called with the payloads of messages with QoS 0 on their topics, past the client.
    """

    def __init__(self, client: paho.Client, takers: Mapping[str, Callable[[bytes], None]]) -> None:
        self._client, self._takers = client, takers
        self._came = bytearray()
        self._packet, self._at = b"", 0
        self._is_over = False
        client._sock_recv = self._give  # type: ignore[method-assign, assignment]

    def read(self) -> None:
        """Read what there is, and deal with all packets that are complete."""
        sock: Any = self._client.socket()
        while sock is not None:
            try:
                piece = sock.recv(_PIECE)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            except OSError:
                piece = b""
            if not piece:
                # For paho this is how a connection ends.
                self._is_over = True
                self._client.loop_read()
                return
            self._came += piece
            while (size := _size_of_packet(self._came)) <= len(self._came):
                self._deal_with(size)
            # What TLS has decrypted already makes no socket readable.
            if not (isinstance(sock, ssl.SSLSocket) and sock.pending()):
                return

    def _deal_with(self, size: int) -> None:
        packet = bytes(memoryview(self._came)[:size])
        del self._came[:size]
        if packet[0] == _PUBLISH and (found := self._find_taker(packet)) is not None:
            take, begin = found
            take(packet[begin:])
        else:
            self._packet, self._at = packet, 0
            self._client.loop_read()

    def _find_taker(self, packet: bytes) -> tuple[Callable[[bytes], None], int] | None:
        """Who takes a PUBLISH, and where its payload begins (MQTT 5, 3.3.2)."""
        _, at = _read_number(packet, 1)
        after = at + 2 + int.from_bytes(packet[at : at + 2], "big")
        take = self._takers.get(packet[at + 2 : after].decode(errors="replace"))
        if take is None:
            return None
        properties, begin = _read_number(packet, after)
        return take, begin + properties

    def _give(self, size: int) -> bytes:
        """Be the socket that paho reads from: one packet, and then nothing more for now."""
        if self._at == len(self._packet):
            if self._is_over:
                return b""
            raise BlockingIOError
        part = self._packet[self._at : self._at + size]
        self._at += len(part)
        return part


def _size_of_packet(data: bytearray) -> int:
    """Bytes of the packet at the beginning, or more than there are where that is not known yet."""
    try:
        size, after = _read_number(data, 1)
    except IndexError:
        return len(data) + 1
    return after + size


def _read_number(data: bytes | bytearray, at: int) -> tuple[int, int]:
    """A number, seven bits in each byte (MQTT 5, 1.5.5), and where what follows it begins.

    Raises:
        IndexError: it goes on behind the end of the data.
        ValueError: it has more than four bytes.
    """
    value = shift = 0
    while (byte := data[at]) > 127:
        if shift == 21:
            raise ValueError("the broker sent a length that is none of MQTT's")
        value |= (byte & 127) << shift
        shift += 7
        at += 1
    return value | byte << shift, at + 1
