"""The local USB/IP server against a USB/IP client of the test's own, and the ports of vhci-hcd."""

import asyncio
import random
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from support.stream_agent import StreamAgent, describe
from support.waiting import until_async

import icefarm
from icefarm.usb.vhci import parse_ports
from icefarm_broker.mosquitto import Mosquitto, free_port
from icefarm_schemas import DeviceStatus

DATA = random.Random(5).randbytes(1_000_000)
LIST, IMPORT = 0x8005, 0x8003


@asynccontextmanager
async def served(url: str) -> AsyncIterator[icefarm.AsyncUsbServer]:
    async with (
        icefarm.AsyncClient(url, name="ann", grace=20) as client,
        client.reserve(boards=["a", "b"], behaviour="usbip") as reservation,
        reservation.serve_usb(port=0) as server,
    ):
        yield server


class UsbipClient:
    """What a USB/IP client says and hears, by the kernel's documentation of the protocol."""

    def __init__(self, server: icefarm.AsyncUsbServer) -> None:
        self._port = server.port

    async def __aenter__(self) -> "UsbipClient":
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except ConnectionError:
            return  # The server has cut it off, as some tests want.

    def ask(self, code: int, body: bytes = b"", version: int = 0x0111) -> None:
        self.writer.write(struct.pack(">HHI", version, code, 0) + body)

    async def answer(self) -> tuple[int, int, int]:
        version, code, status = struct.unpack(">HHI", await self.reader.readexactly(8))
        return version, code, status

    async def device(self) -> dict[str, object]:
        data = await self.reader.readexactly(312)
        fields = struct.unpack(">256s32sIIIHHHBBBBBB", data)
        path, busid = (text.rstrip(b"\0").decode() for text in fields[:2])
        return {
            "path": path,
            "busid": busid,
            "numbers": fields[2:5],
            "ids": fields[5:8],
            "rest": fields[8:],
        }

    async def take(self, busid: str) -> int:
        """Ask for a device and return the status."""
        self.ask(IMPORT, busid.encode().ljust(32, b"\0"))
        version, code, status = await self.answer()
        assert (version, code) == (0x0111, 0x0003)
        return status

    async def is_cut_off(self) -> bool:
        async with asyncio.timeout(30):
            try:
                return await self.reader.read() == b""
            except ConnectionError:
                return True


async def test_the_list_of_boards(agent: StreamAgent, mosquitto: Mosquitto) -> None:
    async with served(mosquitto.url) as server, UsbipClient(server) as client:
        assert server.busids == {"a": "1-1", "b": "1-2"}
        # To learn what they are, each was opened once, and closed again.
        assert agent.opened == {"a": 1, "b": 1}
        client.ask(LIST)
        assert await client.answer() == (0x0111, 0x0005, 0)
        assert await client.reader.readexactly(4) == b"\0\0\0\2"
        for board, busid in (("a", "1-1"), ("b", "1-2")):
            assert await client.device() == {
                "path": f"/icefarm/pi/{board}",
                "busid": busid,
                "numbers": (1, 2, 2),
                "ids": (0x2E8A, 0x000A, 0x0100),
                "rest": (0xEF, 2, 1, 1, 1, 2),
            }
            assert await client.reader.readexactly(8) == b"\2\2\0\0\n\0\0\0"
        assert await client.is_cut_off()
        assert describe().busid == "1-1"


async def test_a_board_is_imported_and_its_bytes_pass(
    agent: StreamAgent, mosquitto: Mosquitto
) -> None:
    async with served(mosquitto.url) as server:
        for times in (2, 3):
            async with UsbipClient(server) as client:
                assert await client.take("1-1") == 0
                # With the address that it has in this stream.
                device = await client.device()
                assert (device["busid"], device["numbers"]) == ("1-1", (1, 1 + times, 2))
                assert server.imported == ("a",)
                sending = asyncio.create_task(client.writer.drain())
                client.writer.write(DATA)
                assert await client.reader.readexactly(len(DATA)) == DATA
                await sending
                async with UsbipClient(server) as other:
                    assert await other.take("1-1") == 2
                    assert await other.is_cut_off()

            async def given_back() -> bool:
                return not server.imported

            await until_async(given_back)
            assert agent.opened == {"a": times, "b": 1}


async def test_a_stream_that_is_lost_ends_the_import_and_it_can_be_made_again(
    agent: StreamAgent, mosquitto: Mosquitto
) -> None:
    async with served(mosquitto.url) as server:
        async with UsbipClient(server) as client:
            assert await client.take("1-2") == 0
            await client.device()
            await agent.close_stream("b")
            assert await client.is_cut_off()
        await agent.report("b", DeviceStatus.STARTING)

        async def refused() -> bool:
            async with UsbipClient(server) as early:
                return await early.take("1-2") == 3

        await until_async(refused)
        await agent.report("b", DeviceStatus.READY)

        async def taken() -> bool:
            async with UsbipClient(server) as again:
                return await again.take("1-2") == 0

        await until_async(taken)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"\x01",
        b"\x01\x11\x80\x03\0\0\0",
        struct.pack(">HHI", 0x0100, LIST, 0),
        struct.pack(">HHI", 0x0111, 0x0001, 0),
        struct.pack(">HHI", 0x0111, IMPORT, 0) + b"1-1",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\xff" * 1_000_000,
    ],
)
async def test_who_does_not_speak_the_protocol_is_cut_off(
    agent: StreamAgent, mosquitto: Mosquitto, sent: bytes
) -> None:
    async with served(mosquitto.url) as server:
        async with UsbipClient(server) as client:
            client.writer.write(sent)
            if len(sent) < 100:
                client.writer.write_eof()
            assert await client.is_cut_off()
        async with UsbipClient(server) as good:
            good.ask(LIST)
            assert await good.answer() == (0x0111, 0x0005, 0)
        assert agent.opened == {"a": 1, "b": 1}


@pytest.mark.parametrize(
    "busid", [b"9-9", b"", b"\xff" * 32, b"x" * 32, b"1-1\x001-2".ljust(31, b" ") + b"!"]
)
async def test_an_unknown_bus_id_is_refused(
    agent: StreamAgent, mosquitto: Mosquitto, busid: bytes
) -> None:
    async with served(mosquitto.url) as server, UsbipClient(server) as client:
        client.ask(IMPORT, busid.ljust(32, b"\0"))
        status = (await client.answer())[2]
        # What follows the NUL does not count.
        assert status == (0 if busid.startswith(b"1-1") else 4)


async def test_a_port_that_is_taken_is_told(agent: StreamAgent, mosquitto: Mosquitto) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        async with (
            icefarm.AsyncClient(mosquitto.url, name="ann") as client,
            client.reserve(boards=["a"], behaviour="usbip") as reservation,
        ):
            with pytest.raises(icefarm.InvalidRequestError, match=f"port {port} .* another port"):
                async with reservation.serve_usb(port=port):
                    pass
            await reservation.change("serial")
            with pytest.raises(icefarm.NotSupportedError, match="change its behaviour to 'usbip'"):
                async with reservation.serve_usb(port=free_port()):
                    pass


def test_the_ports_of_vhci_are_read() -> None:
    # As Linux 6.1 shows them: one attached, one whose device has no address yet, one free.
    ports = list(
        parse_ports(
            "hub port sta spd dev      sockfd local_busid\n"
            "hs  0000 006 002 00110002 000008 1-1\n"
            "hs  0001 005 000 00000000 000000 0-0\n"
            "ss  0015 004 000 00000000 000000 0-0\n",
            3,
        )
    )
    assert [(p.number, p.is_free, p.is_fast, p.controller, p.place) for p in ports] == [
        (0, False, False, 3, 0),
        (1, False, False, 3, 1),
        (15, True, True, 3, 0),
    ]
    assert (ports[0].device_id, ports[0].socket, ports[0].busid) == (0x110002, 8, "1-1")
