import subprocess
from pathlib import Path

from support.processes import script

from icefarm_broker.mosquitto import Mosquitto, free_port


def write_accounts(directory: Path, text: str) -> subprocess.CompletedProcess[str]:
    """Run `icefarm-broker accounts` on a text."""
    return subprocess.run(
        [script("icefarm-broker"), "accounts", "-", "--directory", str(directory)],
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )


def test_accounts_are_written_for_mosquitto(tmp_path: Path) -> None:
    done = write_accounts(
        tmp_path, "# the farm\ncontrol control c\nagent bench b\n\nclient ann a\n"
    )
    assert done.returncode == 0, done.stderr
    files = (tmp_path / "passwords", tmp_path / "access")
    assert done.stdout == "password_file {}\nacl_file {}\n".format(*files)
    with Mosquitto(tmp_path / "broker", free_port(), files) as broker:
        for login, code in (("ann", 0), ("bob", 5)):
            publish = ["mosquitto_pub", "-p", str(broker.port), "-u", login, "-P", "a"]
            sent = subprocess.run([*publish, "-t", "x", "-n"], capture_output=True, check=False)
            assert sent.returncode == code


def test_a_line_that_is_no_account_is_named(tmp_path: Path) -> None:
    done = write_accounts(tmp_path, "client ann a\nking bob b\n")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: line 2 is not `role name password`: 'king'")
    assert not (tmp_path / "passwords").exists()


def test_one_name_cannot_have_two_roles(tmp_path: Path) -> None:
    done = write_accounts(tmp_path, "client ann a\nagent ann a\n")
    assert done.returncode == 1
    assert done.stderr == "Error: the account 'ann' is there twice; each has one role\n"


def test_a_port_that_is_taken_ends_the_broker_with_its_reason(tmp_path: Path) -> None:
    with Mosquitto(tmp_path / "first", free_port()) as broker:
        done = subprocess.run(
            [
                script("icefarm-broker"),
                "run",
                "--directory",
                str(tmp_path / "second"),
                "--port",
                str(broker.port),
            ],
            capture_output=True,
            timeout=30,
            check=False,
        )
    assert done.returncode != 0
    assert "Address already in use" in (tmp_path / "second" / "mosquitto.log").read_text()
