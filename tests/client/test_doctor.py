"""`icefarm doctor`, with each thing in turn that can be wrong."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from support.processes import Processes, free_boards, script
from support.waiting import until

import icefarm
from icefarm.cli.ending import ExitCode
from icefarm.usb import vhci
from icefarm_broker.accounts import Account, Role, write_accounts
from icefarm_broker.mosquitto import Mosquitto, free_port
from icefarm_control.embedded import embedded_database

LIBFAKETIME = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)


@dataclass
class Diagnosis:
    """What the doctor found."""

    code: int
    findings: dict[str, dict[str, Any]]

    def states(self) -> dict[str, str]:
        """How each check went, but for USB, which depends on this machine."""
        return {
            check: finding["state"] for check, finding in self.findings.items() if check != "usb"
        }

    @property
    def wrong(self) -> list[str]:
        """The checks that found something wrong; each says what to do."""
        found = [f for f in self.findings.values() if f["state"] in ("wrong", "advice")]
        assert all(f["todo"] for f in found), found
        return [finding["check"] for finding in found if finding["state"] == "wrong"]


def diagnose(farm: str, **variables: str) -> Diagnosis:
    """Run the doctor for a farm."""
    done = subprocess.run(
        [script("icefarm"), "doctor", "--json", "--farm", farm],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, **variables},
        check=False,
    )
    assert done.stderr == ""
    findings = [json.loads(line) for line in done.stdout.splitlines()]
    return Diagnosis(done.returncode, {finding["check"]: finding for finding in findings})


def until_answered(farm: str) -> None:
    """Return when control has said what is free, and answers requests, each for the first time."""
    with icefarm.Client(farm) as client:
        until(client.is_served)
        assert client.history(client="nobody") == []
        until(lambda: free_boards(client) is not None)


def test_all_is_well(farm: Processes, mosquitto: Mosquitto) -> None:
    until_answered(mosquitto.url)
    found = diagnose(mosquitto.url)
    assert found.states() == {
        "configuration": "ok",
        "name": "ok",
        "network": "ok",
        "tls": "skipped",
        "login": "ok",
        "access": "ok",
        "control": "ok",
        "database": "ok",
        "clock": "ok",
    }
    assert found.code == ExitCode.OK
    with icefarm.Client(mosquitto.url, name="watcher") as client:
        assert client.history() == []
    shown = farm.run("doctor")
    assert shown.returncode == ExitCode.OK
    assert shown.stdout.startswith("✓ configuration the farm is mqtt://")
    assert " ms; version " in shown.stdout


def test_no_broker() -> None:
    found = diagnose(f"mqtt://127.0.0.1:{free_port()}")
    assert (found.code, found.wrong) == (ExitCode.UNREACHABLE, ["network"])
    assert "Connection refused" in found.findings["network"]["what"]
    assert {found.findings[check]["state"] for check in ("login", "control")} == {"skipped"}


def test_a_name_that_nobody_has() -> None:
    found = diagnose("mqtt://farm.invalid")
    assert (found.code, found.wrong) == (ExitCode.UNREACHABLE, ["name"])


def test_a_configuration_that_makes_no_sense(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("default = 3")
    found = diagnose("lab", ICEFARM_CONFIG=str(file))
    assert (found.code, found.wrong) == (ExitCode.FAILED, ["configuration"])
    assert str(file) in found.findings["configuration"]["what"]


def test_what_answers_is_no_broker() -> None:
    port = free_port()
    with subprocess.Popen(
        ["python3", "-m", "http.server", "--bind", "127.0.0.1", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as server:
        found = until(lambda: answered(f"mqtt://127.0.0.1:{port}"))
        server.terminate()
    assert found is not None
    assert (found.code, found.wrong) == (ExitCode.UNREACHABLE, ["login"])
    assert "no broker that speaks MQTT 5" in found.findings["login"]["what"]


def answered(farm: str) -> Diagnosis | None:
    found = diagnose(farm)
    return None if "network" in found.wrong else found


def test_control_is_not_running(mosquitto: Mosquitto) -> None:
    found = diagnose(mosquitto.url)
    assert (found.code, found.wrong) == (ExitCode.UNREACHABLE, ["control"])
    assert "not running" in found.findings["control"]["what"]


def test_the_database_is_stopped(mosquitto: Mosquitto, tmp_path: Path) -> None:
    with TemporaryDirectory(prefix="icefarm-test-") as directory:
        with embedded_database(Path(directory) / "postgres") as database:
            processes = Processes(mosquitto.url, database.url, tmp_path)
            processes.control()
            until_answered(mosquitto.url)
        found = diagnose(mosquitto.url)
        processes.stop()
    assert (found.code, found.wrong) == (ExitCode.FAILED, ["database"])
    assert "control is there, but its database is not" in found.findings["database"]["what"]
    assert found.findings["clock"]["state"] == "skipped"


@pytest.mark.skipif(LIBFAKETIME is None, reason="libfaketime is not installed")
@pytest.mark.parametrize(("offset", "words"), [("+3600", "ahead of"), ("-90", "behind")])
def test_the_clock_is_wrong(farm: Processes, mosquitto: Mosquitto, offset: str, words: str) -> None:
    until_answered(mosquitto.url)
    found = diagnose(
        mosquitto.url,
        LD_PRELOAD=str(LIBFAKETIME),
        FAKETIME=offset,
        FAKETIME_DONT_FAKE_MONOTONIC="1",
    )
    assert (found.code, found.wrong) == (ExitCode.FAILED, ["clock"])
    said = re.search(rf"([\d,]+) s {words} the farm's", found.findings["clock"]["what"])
    assert said is not None, found
    # It cannot tell how much of the time for an answer was on the way to control.
    assert abs(int(said[1].replace(",", "")) - abs(int(offset))) <= 3


@pytest.mark.skipif(vhci.is_loaded(), reason="this machine has vhci-hcd")
def test_no_driver_for_usb(mosquitto: Mosquitto) -> None:
    # No modprobe can be found there.
    found = diagnose(mosquitto.url, PATH="/nowhere").findings["usb"]
    assert found["state"] == "advice"
    assert "has no module vhci-hcd" in found["what"]
    assert "`icefarm attach --server`" in found["todo"]


@dataclass
class Guarded:
    """A farm whose broker keeps users apart; everybody's password is the name."""

    broker: Mosquitto
    access: Path

    def url_of(self, name: str, password: str | None = None) -> str:
        return self.broker.url.replace("//", f"//{name}:{password or name}@")

    @contextmanager
    def forbidding(self, ending: str) -> Iterator[None]:
        """Without the rules of ann's that end so."""
        whole = self.access.read_text()
        others, of_ann = whole.split("user ann\n")
        kept = [line for line in of_ann.splitlines() if not line.endswith(ending)]
        assert len(kept) < len(of_ann.splitlines())
        self._write(f"{others}user ann\n" + "\n".join(kept) + "\n")
        try:
            yield
        finally:
            self._write(whole)

    def _write(self, access: str) -> None:
        self.access.write_text(access)
        process, log = self.broker.process, self.broker.log_file
        assert process is not None
        read = log.read_text().count("Reloading config")
        process.send_signal(signal.SIGHUP)
        until(lambda: log.read_text().count("Reloading config") > read)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, postgres: str) -> Iterator[Guarded]:
    """One for all tests here."""
    directory = tmp_path_factory.mktemp("guarded")
    roles = {"control": Role.CONTROL, "bench": Role.AGENT, "ann": Role.CLIENT}
    accounts = [Account(name, name, role) for name, role in roles.items()]
    files = write_accounts(accounts, directory)
    with Mosquitto(directory / "broker", free_port(), files) as broker:
        farm = Guarded(broker, files[1])
        control = Processes(farm.url_of("control"), postgres, directory)
        agent = Processes(farm.url_of("bench"), postgres, directory)
        control.control()
        agent.agent("bench", boards=1)
        with icefarm.Client(farm.url_of("ann")) as ann:
            until(lambda: ann.is_served() and [b.status for b in ann.boards()] == ["available"])
            ann.wait_until_available(1, timeout=30)
        until_answered(farm.url_of("ann"))
        yield farm
        agent.stop()
        control.stop()
        print(control.logs())


def test_a_login_that_is_right(guarded: Guarded) -> None:
    found = diagnose(guarded.url_of("ann"))
    assert (found.code, found.wrong) == (ExitCode.OK, [])
    assert found.findings["access"]["what"].startswith("ann may do what a client needs")


def test_a_wrong_password(guarded: Guarded) -> None:
    found = diagnose(guarded.url_of("ann", "guessed"))
    assert (found.code, found.wrong) == (ExitCode.UNREACHABLE, ["login"])
    assert "refuses the login of ann" in found.findings["login"]["what"]
    assert "guessed" not in str(found)
    nobody = diagnose(guarded.broker.url)
    assert nobody.wrong == ["login"]
    assert "this broker wants a login" in nobody.findings["login"]["todo"]


@pytest.mark.parametrize(
    ("ending", "words"),
    [
        ("clients/ann/+/state", "its own sessions' states"),
        ("requests/ann/+/+", "write requests"),
        ("commands/ann/+/evaluate/+", "write the command evaluate"),
        ("streams/+/ann/+/up", "write streams"),
        ("control/availability", "read what is available"),
        ("control/state", "read control's state"),
        ("agents/+/state", "read the states of agents"),
        ("devices/+/state", "read the states of boards"),
        ("reservations/+/state", "read the states of reservations"),
    ],
)
def test_what_the_access_list_misses_is_named(guarded: Guarded, ending: str, words: str) -> None:
    with (
        icefarm.Client(guarded.url_of("ann")) as ann,
        ann.reserve(wait=30),
        guarded.forbidding(ending),
    ):
        found = diagnose(guarded.url_of("ann"))
    assert "access" in found.wrong
    assert words in found.findings["access"]["what"]
    assert "icefarm-broker accounts" in found.findings["access"]["todo"]
    assert found.code == ExitCode.FAILED


def test_replies_that_do_not_come(guarded: Guarded) -> None:
    with guarded.forbidding("clients/ann/+/replies"):
        found = diagnose(guarded.url_of("ann"))
    assert (found.code, found.wrong) == (ExitCode.UNREACHABLE, ["control"])
    assert "clients/ann/+/replies" in found.findings["control"]["todo"]


class TlsMosquitto(Mosquitto):
    """One that speaks TLS only, with a certificate of its own making."""

    def configuration(self) -> str:
        files = f"certfile {self.directory}/broker.crt\nkeyfile {self.directory}/broker.key\n"
        return super().configuration() + files


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """For 127.0.0.1, beside its key."""
    make = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test "
        "-addext subjectAltName=IP:127.0.0.1 -keyout broker.key -out broker.crt"
    )
    subprocess.run(
        make.split(),
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    return tmp_path / "broker.crt"


def test_tls(certificate: Path, tmp_path: Path) -> None:
    # That it speaks TLS only is no hindrance to seeing that it runs.
    with TlsMosquitto(tmp_path, free_port()) as broker:
        url = broker.url.replace("mqtt:", "mqtts:")
        unknown = diagnose(url)
        assert (unknown.code, unknown.wrong) == (ExitCode.UNREACHABLE, ["tls"])
        assert "SSL_CERT_FILE" in unknown.findings["tls"]["todo"]
        known = diagnose(url, SSL_CERT_FILE=str(certificate))
        assert known.findings["tls"]["state"] == "ok"
        assert known.findings["tls"]["what"].startswith("TLSv1.")
        assert known.wrong == ["control"]
        plain = diagnose(broker.url)
        assert plain.wrong == ["login"]
        assert "write mqtts://" in plain.findings["login"]["todo"]
    with Mosquitto(tmp_path / "plain", free_port()) as broker:
        assert diagnose(broker.url.replace("mqtt:", "mqtts:")).wrong == ["tls"]
