"""The REST API, tried by schemathesis with all that its own document allows, and much that not."""

import subprocess
from pathlib import Path

import httpx
import pytest
from support.processes import script

_CONFIGURATION = Path(__file__).with_name("schemathesis.toml")


def try_everything(url: str, directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run schemathesis with all its checks; what it found is its output."""
    return subprocess.run(
        [
            script("schemathesis"),
            f"--config-file={_CONFIGURATION}",
            "run",
            f"{url}/api/v1/openapi.json",
            "--checks=all",
            "--no-color",
            *options,
        ],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )


# A machine that does much else needs longer.
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("who", "options"),
    [
        ("nobody", ["--phases=fuzzing"]),
        ("otto", ["--auth=otto:otto", "--phases=fuzzing"]),
        ("olga", ["--auth=olga:olga"]),
    ],
)
def test_the_api_is_as_it_says(guarded: str, tmp_path: Path, who: str, options: list[str]) -> None:
    """As nobody, as an observer and as an operator."""
    tried = try_everything(guarded, tmp_path, *options)
    print(tried.stdout, tried.stderr)
    assert tried.returncode == 0
    audit = httpx.get(f"{guarded}/api/v1/audit?limit=1000", auth=("otto", "otto")).json()
    assert {entry["who"] for entry in audit} == ({"olga"} if who == "olga" else set())
