"""The package as users install it: wheels in an environment of its own, with types."""

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

PARTS = ("schemas", "broker", "client")
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
