"""`icefarm console`, `flash`, `reset`, `attach` and `detach`, as people and scripts type them."""

import asyncio
import json
import os
import pty
import random
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.processes import Processes, script
from support.stream_agent import StreamAgent
from support.waiting import until, until_async

from icefarm.cli.ending import ExitCode
from icefarm_schemas import Error, ErrorCode

DATA = random.Random(6).randbytes(300_000)


async def run(
    processes: Processes, *arguments: str, given: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """Run the command while the test's agent goes on."""
    process = await asyncio.create_subprocess_exec(
        script("icefarm"),
        *arguments,
        env=processes.environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, errors = await process.communicate(given)
    assert process.returncode is not None
    return subprocess.CompletedProcess(arguments, process.returncode, out, errors)


async def talk(
    processes: Processes, said: bytes, *options: str
) -> subprocess.CompletedProcess[bytes]:
    """Say something to a console in a pipe, which is closed when as much has come back.

    Then it is to wait until the board is quiet. Closed before, it would take a machine that is
    busy for two seconds for a quiet board.
    """
    process = await asyncio.create_subprocess_exec(
        script("icefarm"),
        "console",
        *options,
        env=processes.environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(said)
    try:
        async with asyncio.timeout(60):
            came = await process.stdout.readexactly(len(said))
    except asyncio.IncompleteReadError as ended:
        came = ended.partial
    closed = time.monotonic()
    process.stdin.close()
    async with asyncio.timeout(60):
        out, errors = await process.communicate()
    assert time.monotonic() - closed >= 2
    assert process.returncode is not None
    return subprocess.CompletedProcess(options, process.returncode, came + out, errors)


async def reserve(processes: Processes, behaviour: str, *boards: str) -> str:
    named = [f"--board={board}" for board in boards]
    done = await run(processes, "reserve", *named, "--behaviour", behaviour, "--json")
    assert done.returncode == ExitCode.OK, done.stderr
    reservation: str = json.loads(done.stdout)["reservation"]
    return reservation


async def test_a_console_in_a_pipe(
    agent: StreamAgent, processes: Processes, tmp_path: Path
) -> None:
    log = tmp_path / "board.log"
    log.write_bytes(b"before\n")
    done = await talk(processes, DATA, "--board", "a", "--log", str(log))
    assert done.returncode == ExitCode.OK, done.stderr
    assert done.stdout == DATA
    assert log.read_bytes() == b"before\n" + DATA
    assert b"Reserved a as " in done.stderr
    assert b"Ctrl-]" not in done.stderr


async def test_a_console_of_a_reservation_leaves_it_reserved(
    agent: StreamAgent, processes: Processes
) -> None:
    held = await reserve(processes, "pulsecount", "a", "b")
    several = await run(processes, "console", "--reservation", held)
    assert several.returncode == ExitCode.USAGE
    assert b"say which with --board: a, b" in several.stderr
    done = await talk(processes, b"hello\n", "--board", "b")
    assert done.stdout == b"hello\n", done.stderr
    assert b"Changing b to serial" in done.stderr
    boards = await run(processes, "boards", "--json")
    does = [json.loads(line) for line in boards.stdout.splitlines()]
    assert {(b["name"], b["behaviour"], b["reservation"]) for b in does} == {
        ("a", "pulsecount", held),
        ("b", "serial", held),
    }


async def test_a_console_in_a_terminal(agent: StreamAgent, processes: Processes) -> None:
    master, slave = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        script("icefarm"),
        "console",
        env=processes.environment,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    os.set_blocking(master, False)
    said = b""

    async def saw(words: bytes) -> None:
        async def look() -> bool:
            nonlocal said
            try:
                said += os.read(master, 65536)
            except BlockingIOError:
                return False
            return words in said

        await until_async(look, f"{words!r} in the terminal")

    await saw(b"Connected; Ctrl-] ends it.")
    # The board echoes; a terminal that did so too would show it twice. Ctrl-C is the board's.
    os.write(master, b"abc\x03d")
    await saw(b"abc\x03d")
    assert said.count(b"abc") == 1
    await agent.close_stream("a")
    await saw(b"a is connected again")
    os.write(master, b"xyz\x1d")
    async with asyncio.timeout(30):
        assert await process.wait() == ExitCode.OK
    os.close(master)


async def test_a_console_as_a_tty_for_other_programs(
    agent: StreamAgent, processes: Processes, tmp_path: Path
) -> None:
    path, log = tmp_path / "ttyBoard", tmp_path / "log"
    console = processes.start(
        "console", script("icefarm"), "console", "--pty", str(path), "--log", str(log)
    )

    def use(data: bytes) -> int:
        """Open it as a program does, and have data echoed; return the open descriptor."""
        until(path.exists)
        opened = os.open(path, os.O_RDWR | os.O_NOCTTY)
        os.write(opened, data)
        came = b""
        while len(came) < len(data):
            assert select.select([opened], [], [], 30)[0]
            came += os.read(opened, 65536)
        assert came == data
        return opened

    opened = await asyncio.to_thread(use, b"one\n")
    os.close(opened)
    opened = await asyncio.to_thread(use, b"two\n")
    where = os.readlink(path)
    await agent.close_stream("a")

    def hung_up() -> bool:
        try:
            return os.read(opened, 1) == b""
        except OSError:
            return True

    assert await asyncio.to_thread(hung_up)

    async def is_back() -> bool:
        return "connected again" in processes.output("console")

    await until_async(is_back)
    again = await asyncio.to_thread(use, b"three\n")
    os.close(opened)
    assert os.ttyname(again) == os.readlink(path)
    os.close(again)
    assert where.startswith("/dev/")
    console.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(console.wait, 30) == ExitCode.OK
    assert not path.is_symlink()
    assert log.read_bytes() == b"one\ntwo\nthree\n"
    other = tmp_path / "file"
    other.write_text("precious")
    refused = await run(processes, "console", "--pty", str(other))
    assert refused.returncode == ExitCode.USAGE
    assert b"exists already" in refused.stderr
    assert other.read_text() == "precious"


async def test_flash_and_reset(agent: StreamAgent, processes: Processes, tmp_path: Path) -> None:
    uf2 = tmp_path / "mine.uf2"
    uf2.write_bytes(DATA)
    held = await reserve(processes, "pulsecount", "a", "b")
    done = await run(processes, "flash", str(uf2), "--reservation", held)
    assert (done.returncode, done.stdout) == (ExitCode.OK, b"a: flashed\nb: flashed\n")
    assert sorted(agent.commands) == [("flash", "a", DATA), ("flash", "b", DATA)]
    done = await run(processes, "reset", "--board", "b", "--json")
    assert json.loads(done.stdout) == {"board": "b", "reservation": held, "done": "reset"}
    done = await run(processes, "reset", "--all")
    assert done.stdout == b"a: reset\nb: reset\n"
    # None of these took the reservation from whoever made it, or ended it.
    assert (await run(processes, "flash", str(uf2), "--board", "a")).returncode == ExitCode.OK
    agent.errors["b"] = Error(code=ErrorCode.INVALID_FIRMWARE, message="it is for an RP2350")
    for arguments, code, words in (
        (("flash", str(uf2), "--reservation", held), ExitCode.FAILED, b"it is for an RP2350"),
        (("flash", "/no/such.uf2", "--all"), ExitCode.USAGE, b"does not exist"),
        (("reset",), ExitCode.USAGE, b"say what: --reservation, or --board, or --all"),
        (("reset", "--board", "z"), ExitCode.FAILED, b"'z' is in no reservation"),
        (("reset", "--reservation", "z"), ExitCode.FAILED, b"there is no reservation 'z'"),
    ):
        done = await run(processes, *arguments)
        assert done.returncode == code, done.stderr
        assert words in done.stderr
        assert b"Traceback" not in done.stderr


async def test_boards_are_offered_to_usbip_clients(
    agent: StreamAgent, processes: Processes
) -> None:
    serving = processes.start(
        "attach", script("icefarm"), "attach", "-n", "2", "--server", "--port", "0"
    )

    async def offered() -> bool:
        return processes.output("attach").count("usbip --tcp-port") == 2

    await until_async(offered)
    said = processes.output("attach")
    assert "a: usbip --tcp-port" in said
    assert "attach --remote 127.0.0.1 --busid 1-2" in said
    serving.send_signal(signal.SIGINT)
    assert await asyncio.to_thread(serving.wait, 30) == ExitCode.OK

    # Control tells the agent after it has answered who gives the boards back.
    async def given_back() -> bool:
        boards = await run(processes, "boards", "--json")
        return boards.stdout.count(b'"available"') == 2

    await until_async(given_back)


@pytest.mark.skipif(
    Path("/sys/devices/platform/vhci_hcd.0").exists(), reason="boards can be attached here"
)
def test_where_nothing_can_be_attached_the_command_says_what_to_do(processes: Processes) -> None:
    done = processes.run("attach")
    assert done.returncode == ExitCode.FAILED
    assert "icefarm attach --server" in " ".join(done.stderr.split())


HOLDER = """
import signal, time
from icefarm.usb.records import recorded
from icefarm.usb.vhci import Port
stopped = []
signal.signal(signal.SIGUSR1, lambda *_: stopped.append(1))
with recorded("r1", "bench 1") as record:
    record.write(None)
    print("attached", flush=True)
    # A signal that came before a pause would not end it.
    while record.is_wanted:
        time.sleep(0.02)
print("detached", flush=True)
"""


def test_what_is_attached_is_found_from_another_terminal(
    processes: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    nothing = processes.run("detach", "--all")
    assert nothing.returncode == ExitCode.USAGE
    assert "nothing is attached on this machine" in nothing.stderr
    holder = processes.start("holder", sys.executable, "-c", HOLDER)
    until(lambda: "attached" in processes.output("holder"))
    second = processes.start("second", sys.executable, "-c", HOLDER)
    assert second.wait(30) == 1
    assert f"attached already, by the process {holder.pid}" in processes.logs()
    assert "none of other is attached" in processes.run("detach", "other").stderr
    done = processes.run("detach", "bench 1")
    assert done.returncode == ExitCode.OK, done.stderr
    assert "bench 1 is detached" in done.stderr
    assert holder.wait(30) == 0
    # What a killed process has left is told apart from what is attached.
    processes.start("killed", sys.executable, "-c", HOLDER)
    until(lambda: "attached" in processes.output("killed"))
    processes.kill("killed")
    assert len(list(tmp_path.glob("icefarm/*"))) == 1
    assert processes.run("detach", "--all").returncode == ExitCode.USAGE
    assert list(tmp_path.glob("icefarm/*")) == []
