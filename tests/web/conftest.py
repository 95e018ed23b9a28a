"""A farm with a dashboard, and somebody who is logged in to it."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser as Chromium
from support.processes import Processes, are_available, script, wait_for_boards
from support.waiting import PATIENCE, until

import icefarm
from icefarm_broker.accounts import Account, Role, write_accounts
from icefarm_broker.mosquitto import Mosquitto, free_port

from . import browsing
from .browsing import Window


class Browser(httpx.Client):
    """Keeps cookies, and sends forms with their tokens, as browsers do."""

    def __init__(self, **options: Any) -> None:
        super().__init__(timeout=PATIENCE, **options)

    def page(self, path: str, code: int = 200) -> str:
        """The HTML of a page."""
        answer = self.get(path)
        assert answer.status_code == code, (path, answer.status_code, answer.text)
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        return answer.text

    def token(self) -> str:
        """What the forms of this session bring."""
        pages = (self.get("/login"), self.get("/"))
        found = re.search(r'name="csrf" value="([^"]+)"', "".join(page.text for page in pages))
        assert found is not None
        return found[1]

    def login(self, name: str, password: str = "") -> httpx.Response:
        """Send the form of /login."""
        form = {"name": name, "password": password, "csrf": self.token()}
        return self.post("/login", data=form)

    @contextmanager
    def live(self, path: str) -> Iterator[Iterator[str]]:
        """The events of a page that is open, each as the HTML that it brings."""
        with self.stream("GET", f"/live{path}", timeout=30) as answer:
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith("text/event-stream")
            yield _events(answer)


def _events(answer: httpx.Response) -> Iterator[str]:
    lines: list[str] = []
    for line in answer.iter_lines():
        if line.startswith("data: "):
            lines.append(line.removeprefix("data: "))
        elif not line and lines:
            yield "\n".join(lines)
            lines = []


def wait_for_logins(url: str) -> None:
    """Return when a dashboard has what signs sessions, which is in the database."""
    until(lambda: httpx.get(f"{url}/login", timeout=PATIENCE).status_code == 200)


@pytest.fixture
def farm(processes: Processes, mosquitto: Mosquitto) -> Processes:
    """Control with a dashboard, and an agent `bench` with two fast boards, both available."""
    processes.control(web=True)
    processes.agent("bench", boards=2)
    wait_for_boards(mosquitto.url, 2)
    wait_for_logins(processes.dashboard())
    return processes


@pytest.fixture
def stranger(farm: Processes) -> Iterator[Browser]:
    """A browser in which nobody is logged in."""
    with Browser(base_url=farm.dashboard()) as browser:
        yield browser


@pytest.fixture
def browser(stranger: Browser) -> Browser:
    """One in which ann is logged in, whose broker takes anybody: so she is an operator."""
    assert stranger.login("ann").status_code == 303
    until(lambda: "has lost" not in stranger.page("/") and "leads yet" not in stranger.page("/"))
    return stranger


@pytest.fixture
def guarded(tmp_path: Path, database_url: str) -> Iterator[str]:
    """The dashboard of a farm with accounts, whose passwords are their names."""
    roles = {
        "control": Role.CONTROL,
        "bench": Role.AGENT,
        "ann": Role.CLIENT,
        "olga": Role.OPERATOR,
        "otto": Role.OBSERVER,
    }
    accounts = [Account(name, name, role) for name, role in roles.items()]
    with Mosquitto(tmp_path / "broker", free_port(), write_accounts(accounts, tmp_path)) as broker:
        url = broker.url.replace("//", "//control:control@")
        processes = Processes(url, database_url, tmp_path)
        processes.control(web=True)
        processes.start(
            "agent",
            script("icefarm-agent"),
            *("--name", "bench", "--virtual-boards", "1", "--virtual-speed", "20"),
            *("--broker", broker.url.replace("//", "//bench:bench@")),
        )
        with icefarm.Client(broker.url.replace("//", "//ann:ann@")) as ann:
            until(lambda: are_available(ann, 1))
        wait_for_logins(processes.dashboard())
        yield processes.dashboard()
        processes.stop()
        print(processes.logs())


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    """A browser for the tests of a module; each person in them has a window of his own."""
    with browsing.chromium() as browser:
        yield browser


@pytest.fixture
def ann(chromium: Chromium, farm: Processes, mosquitto: Mosquitto) -> Iterator[Window]:
    """A window in which ann is logged in, whose broker takes anybody: so she is an operator."""
    with browsing.window(chromium, farm.dashboard()) as window:
        window.login("ann")
        yield window
