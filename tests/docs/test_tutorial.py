"""The tutorial, done word by word: what it says to save is saved, what it says to type is typed.

`page.py` says how a page is read. The farm is the one that the tutorial's own command starts, on
the port that it says; so all of it happens in namespaces where no other farm is.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from docs.reader import follow
from support.waiting import until

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "tutorial.md"


@pytest.fixture
def inside(tmp_path: Path) -> Iterator[list[str]]:
    """What runs a program in a network and among processes of its own, all of which end with it."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("only root can make namespaces, in which port 1883 is free")
    # Bash, since the first process of such a place has to take note of each that ends.
    alone = ["unshare", "--net", "--pid", "--fork", "--mount-proc", "--kill-child"]
    tried = subprocess.run([*alone, "true"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        # As in a container that may not, or in a changed root that is no mount.
        pytest.skip(f"namespaces cannot be made here: {tried.stderr.strip()}")
    # The last command would take the shell's place.
    first = subprocess.Popen([*alone, "bash", "-c", "ip link set lo up && sleep infinity; exit"])
    try:
        process = psutil.Process(first.pid)
        [shell] = until(process.children)
        until(lambda: [c for c in shell.children() if c.name() == "sleep"], "the loopback device")
        yield ["nsenter", f"--target={shell.pid}", "--net", "--pid", "--mount", f"--wd={tmp_path}"]
    finally:
        first.kill()
        first.wait()


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """The repository's folder, so that what the reader saves does not get into the real one."""
    for path in ROOT.iterdir():
        if path.name != ".venv":
            (tmp_path / path.name).symlink_to(path)
    # `make install` finds it new: there is no registry here, and other tests use what is in it.
    environment = tmp_path / ".venv"
    environment.mkdir()
    for path in (ROOT / ".venv").iterdir():
        if path.name != "installed":
            (environment / path.name).symlink_to(path)
    (environment / "installed").touch()
    return tmp_path


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A reader's, who has set nothing for iCEFARM."""
    ours = ("ICEFARM_", "MAKE", "MFLAGS", "PYTEST", "VIRTUAL_ENV")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    home = tmp_path / "home"
    home.mkdir()
    # The shell's prompt stays as it is, also in a virtual environment.
    return kept | {"HOME": str(home), "LANG": "C.UTF-8", "VIRTUAL_ENV_DISABLE_PROMPT": "1"}


@pytest.mark.timeout(600)
def test_the_tutorial_says_what_happens(
    inside: list[str], workspace: Path, environment: dict[str, str]
) -> None:
    follow(PAGE, workspace, environment, inside)
