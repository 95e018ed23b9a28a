"""The package as users install it: wheels in an environment of its own, with types."""

import subprocess
import sys
import sysconfig
from pathlib import Path

import httpx
import pytest
from support.processes import Processes
from support.waiting import until

from icefarm_broker.mosquitto import Mosquitto

PARTS = ("schemas", "broker", "control", "client")
SCRIPT = '''
"""What users write, and which types they may rely on."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import assert_type

import icefarm


def circuits() -> Iterator[Path | tuple[bytes, str] | None]:
    yield Path("a.bin")
    yield b"bytes", "bench-1"
    yield None


def lost(event: icefarm.BoardFailed) -> None:
    print(event.board, event.reason, event.detail)


with icefarm.Client(name="ada") as farm, farm.reserve(2, wait=60) as boards:
    farm.on(icefarm.BoardFailed, lost)
    for result in boards.evaluate(circuits(), when_lost="fail"):
        assert_type(result.pulses, int | None)
        assert_type(result.error, icefarm.FarmError | None)
    for board in boards:
        assert_type(board, icefarm.HeldBoard)
        assert_type(board.measure("a.bin").variance, float | None)


async def main() -> None:
    async with icefarm.AsyncClient(name="ada") as farm, farm.reserve(1) as boards:
        async for result in boards.evaluate([b"bytes"]):
            assert_type(result, icefarm.Result)
        assert_type(await boards.board().measure("a.bin"), icefarm.Result)


asyncio.run(main())
'''
WRONG = """
import icefarm

with icefarm.Client() as farm, farm.reserve("two") as boards:
    farm.on(icefarm.BoardReady, lambda event: event.detail)
    boards.evaluate([1])
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an environment with our wheels; what they need is that of the tests' own."""
    place = tmp_path_factory.mktemp("installed")
    uv, root = Path(sys.executable).with_name("uv"), Path(__file__).parents[2]

    def run(*arguments: str | Path) -> None:
        subprocess.run([uv, *arguments], check=True, capture_output=True, timeout=60)

    for part in PARTS:
        run("build", "--wheel", "--offline", root / part, "--out-dir", place / "wheels")
    run("venv", "--offline", "--python", sys.executable, place / "venv")
    python = place / "venv" / "bin" / "python"
    run(
        *("pip", "install", "--offline", "--no-deps", "--python", python),
        *(place / "wheels").glob("*.whl"),
    )
    [packages] = (place / "venv" / "lib").glob("python*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))
    return python


def check(python: Path, script: Path) -> tuple[int, str]:
    """What mypy says of a script where the wheels are installed."""
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--python-executable", python),
            *("--config-file=", f"--cache-dir={python.parents[2] / 'cache'}", script),
        ],
        capture_output=True,
        text=True,
        cwd=script.parent,
        timeout=110,
        check=False,
    )
    return ended.returncode, ended.stdout


def test_scripts_are_checked_against_the_installed_package(python: Path, tmp_path: Path) -> None:
    script, wrong = tmp_path / "experiment.py", tmp_path / "wrong.py"
    script.write_text(SCRIPT)
    wrong.write_text(WRONG)
    assert check(python, script) == (0, "Success: no issues found in 1 source file\n")
    code, found = check(python, wrong)
    assert code == 1
    assert found.count("error:") == 3
    where = subprocess.run(
        [python, "-c", "import icefarm; print(icefarm.__file__)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert where.startswith(str(python.parents[1])), "not the installed package was checked"


def test_what_users_need_is_in_the_wheels(python: Path) -> None:
    for command in (["icefarm", "--help"], ["icefarm-broker", "--help"]):
        subprocess.run(
            [python.with_name(command[0]), *command[1:]], check=True, capture_output=True
        )
    source = "from importlib import resources; print(resources.files('icefarm') / 'circuits')"
    folder = subprocess.run(
        [python, "-c", source], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert (Path(folder) / "circuits.json").exists()
    source = "from importlib.metadata import entry_points as points; "
    source += "print(points(group='pytest11')['icefarm'].load().__file__)"
    plugin = subprocess.run(
        [python, "-c", source], capture_output=True, text=True, check=True
    ).stdout
    assert plugin.startswith(str(python.parents[1])), "not the installed plugin was loaded"


def test_an_installed_control_has_its_tables_and_its_dashboard(
    python: Path, mosquitto: Mosquitto, database_url: str, tmp_path: Path
) -> None:
    processes = Processes(mosquitto.url, database_url, tmp_path)
    command = (python.with_name("icefarm-control"), "--database", database_url)
    processes.start("control", *map(str, command), "--web", "127.0.0.1:0")
    source = Path(__file__).parents[2] / "control" / "src" / "icefarm_control" / "web" / "static"
    asked = "import icefarm_control as control; print(control.__file__)"
    found = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=True).stdout
    assert found.startswith(str(python.parents[1])), "not the installed package would be tried"
    static = [path for path in source.rglob("*") if path.is_file()]
    assert len(static) > 4
    try:
        with httpx.Client(base_url=processes.dashboard()) as browser:
            # It is ready when it has made its tables and functions.
            until(lambda: browser.get("/readyz").status_code == 200)
            until(lambda: browser.get("/login").status_code == 200)
            assert "<h1>Log in</h1>" in browser.get("/login").text
            for path in static:
                name = path.relative_to(source).as_posix()
                assert browser.get(f"/static/{name}").content == path.read_bytes(), name
            assert browser.get("/api/v1/openapi.json").json()["info"]["title"] == "iCEFARM"
            token = browser.get("/login").text.partition('name="csrf" value="')[2].partition('"')[0]
            assert browser.post("/login", data={"name": "ann", "csrf": token}).status_code == 303
            for page in ("/", "/boards", "/agents", "/reservations", "/history", "/audit"):
                assert browser.get(page).status_code == 200, page
    finally:
        processes.stop()
        print(processes.logs())
