"""The configuration file, and where passwords come from."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import keyring
import pytest
from keyring.backends.fail import Keyring as NoKeyring
from keyring.errors import KeyringLocked
from support.file_keyring import FILE_VARIABLE, FileKeyring
from support.processes import script

import icefarm
from icefarm.cli.ending import ExitCode
from icefarm.configuration import configuration_file, find_address, read_configuration
from icefarm_broker.accounts import Account, Role, write_accounts
from icefarm_broker.mosquitto import Mosquitto, free_port

TWO_FARMS = """
default = "lab"

[farms.lab]
broker = "mqtts://farm.example.org"
user = "ada"

[farms.home]
broker = "mqtt://raspi.local:1884/garage"
"""


@pytest.fixture(autouse=True)
def _nothing_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """What the machine that tests has configured does not count."""
    for variable in ("ICEFARM_BROKER", "ICEFARM_CONFIG", "ICEFARM_PASSWORD"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    before = keyring.get_keyring()
    keyring.set_keyring(NoKeyring())  # type: ignore[no-untyped-call]
    yield
    keyring.set_keyring(before)


@pytest.fixture
def file() -> Path:
    """The configuration file, to be written."""
    path = configuration_file()
    path.parent.mkdir(parents=True)
    return path


@pytest.fixture
def passwords(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The file of a keyring, which processes of the test use too."""
    path = tmp_path / "keyring.json"
    path.write_text("{}")
    monkeypatch.setenv(FILE_VARIABLE, str(path))
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "support.file_keyring.FileKeyring")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    keyring.set_keyring(FileKeyring())  # type: ignore[no-untyped-call]
    return path


def test_where_the_file_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert configuration_file() == tmp_path / "config" / "icefarm" / "config.toml"
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative/is/ignored")
    assert configuration_file() == Path.home() / ".config" / "icefarm" / "config.toml"
    monkeypatch.setenv("ICEFARM_CONFIG", str(tmp_path / "mine.toml"))
    assert configuration_file() == tmp_path / "mine.toml"
    with pytest.raises(icefarm.InvalidRequestError, match=r"mine.toml, which .* ICEFARM_CONFIG"):
        find_address()


def test_what_is_meant_by_a_farm(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert str(find_address()) == "mqtt://127.0.0.1:1883"
    file.write_text(TWO_FARMS)
    assert str(find_address()) == "mqtts://ada@farm.example.org:8883"
    assert str(find_address("home")) == "mqtt://raspi.local:1884/garage"
    monkeypatch.setenv("ICEFARM_BROKER", "home")
    assert find_address().host == "raspi.local"
    assert find_address("lab").host == "farm.example.org"
    assert str(find_address("mqtt://other")) == "mqtt://other:1883"
    monkeypatch.setenv("ICEFARM_BROKER", "mqtt://bob:secret@other:1")
    assert find_address().password == "secret"


def test_an_address_needs_no_file(file: Path) -> None:
    file.write_text("this is not TOML")
    assert find_address("mqtt://other").host == "other"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("default =", "cannot be read: Invalid value"),
        ('default = "lab"', "the default farm 'lab' of FILE is none of its farms: there are none"),
        ("defaults = 3", "FILE has the key 'defaults', which means nothing; known are default, f"),
        ("default = 3", "default in FILE is no text"),
        ("farms = 3", r"farms in FILE is no table; write \[farms.lab\]"),
        ("[farms]\nlab = 3", r"farms.lab in FILE is no table; write \[farms.lab\]"),
        ("[farms.lab]", "farms.lab.broker in FILE is missing; write for example"),
        ('[farms.lab]\nbroker = "x"', "farms.lab.broker in FILE: a broker's address begins with"),
        (
            '[farms.lab]\nbroker = "mqtt://x"\npassword = "p"',
            r"FILE has the key 'password' in \[farms.lab\], which means nothing; known are broker",
        ),
        (
            '[farms.lab]\nbroker = "mqtt://bob@x"\nuser = "ada"',
            "farms.lab in FILE names two users: bob and ada",
        ),
        (TWO_FARMS, "there is no farm 'lap' in FILE: it has lab, home; add it there, or give"),
    ],
)
def test_what_makes_no_sense_names_the_file(file: Path, text: str, words: str) -> None:
    file.write_text(text)
    with pytest.raises(icefarm.InvalidRequestError, match=words.replace("FILE", str(file))):
        find_address("lap")


def test_a_password_is_in_the_environment_or_the_keyring(
    file: Path, passwords: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text(TWO_FARMS)
    assert find_address("lab").password is None
    keyring.set_password("icefarm", "mqtts://ada@farm.example.org:8883", "kept")
    assert find_address("lab").password == "kept"
    assert find_address("mqtts://ada@farm.example.org/another-root").password == "kept"
    monkeypatch.setenv("ICEFARM_PASSWORD", "set")
    assert find_address("lab").password == "set"
    assert find_address("mqtt://ada:written@x").password == "written"
    assert find_address("home").password is None


def test_without_a_keyring_a_farm_can_still_be_found(file: Path) -> None:
    file.write_text(TWO_FARMS)
    assert find_address("home").user is None
    assert find_address("lab").password is None


class LockedKeyring(FileKeyring):
    """One whose owner does not open it."""

    def get_password(self, service: str, username: str) -> str:
        raise KeyringLocked("dismissed")


def test_a_locked_keyring_is_told(file: Path) -> None:
    file.write_text(TWO_FARMS)
    keyring.set_keyring(LockedKeyring())  # type: ignore[no-untyped-call]
    with pytest.raises(icefarm.InvalidRequestError, match=r"dismissed; unlock it, or .*PASSWORD"):
        find_address("lab")
    assert find_address("home").user is None


def run(*arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    """Run the `icefarm` command as this user has it configured."""
    return subprocess.run(
        [script("icefarm"), *arguments],
        input=given,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_farms_are_listed(file: Path) -> None:
    none = run("farms")
    assert f"There are no farms in {file}; write for example" in none.stdout
    file.write_text(TWO_FARMS)
    assert run("farms").stdout.splitlines() == [
        "farm  broker                          user",
        "lab   mqtts://farm.example.org:8883   ada   default",
        "home  mqtt://raspi.local:1884/garage",
    ]
    [lab, home] = [json.loads(line) for line in run("farms", "--json").stdout.splitlines()]
    assert lab == {
        "farm": "lab",
        "broker": "mqtts://farm.example.org:8883",
        "user": "ada",
        "default": True,
    }
    assert home["user"] is None


def test_the_example_that_is_printed_is_one(file: Path) -> None:
    file.write_text(run("farms").stdout.partition("\n\n")[2])
    assert read_configuration().farms["lab"].user == "ada"


def test_a_login_is_tried_and_kept(file: Path, passwords: Path, tmp_path: Path) -> None:
    accounts = [Account("ada", "right", Role.CLIENT)]
    with Mosquitto(tmp_path / "broker", free_port(), write_accounts(accounts, tmp_path)) as broker:
        file.write_text(f'[farms.lab]\nbroker = "{broker.url}"\nuser = "ada"\n')
        before = run("boards", "--farm", "lab")
        assert before.returncode == ExitCode.UNREACHABLE
        assert "refuses the login of ada" in before.stderr
        assert "`icefarm login` keeps a password" in before.stderr
        wrong = run("login", "lab", given="wrong\n")
        assert wrong.returncode == ExitCode.UNREACHABLE
        assert json.loads(passwords.read_text()) == {}
        right = run("login", "lab", given="right\n")
        assert right.returncode == ExitCode.OK, right.stderr
        assert "right" not in right.stdout + right.stderr
        assert run("boards", "--farm", "lab").returncode == ExitCode.OK
        nobody = run("login", broker.url, given="right\n")
        assert nobody.returncode == ExitCode.USAGE
        assert "has no user who could log in" in nobody.stderr


def test_without_a_keyring_a_login_says_what_to_do(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.fail.Keyring")
    with Mosquitto(tmp_path / "broker", free_port()) as broker:
        file.write_text(f'[farms.lab]\nbroker = "{broker.url}"\nuser = "ada"\n')
        done = run("login", "lab", given="any\n")
        assert done.returncode == ExitCode.USAGE
        assert "no keyring that could keep a password; set the variable ICEFARM_PASSWORD" in (
            done.stderr
        )
        assert run("boards", "--farm", "lab").returncode == ExitCode.OK
