"""Pages that are open: changes come by themselves, and trouble is said."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import psycopg
from support.waiting import until, until_async

import icefarm
from icefarm_broker.mosquitto import Mosquitto
from icefarm_control.web.changes import Changes

from .conftest import Browser


def test_of_a_change_only_what_differs_comes_to_an_open_page(
    browser: Browser, mosquitto: Mosquitto
) -> None:
    with icefarm.Client(mosquitto.url, name="bob") as bob, browser.live("/boards") as events:
        first = next(events)
        assert 'hx-target="#live-boards"' in first
        assert "bob" not in first
        with bob.reserve(boards=["bench-1"]):
            came = next(event for event in events if "bob" in event)
            assert "bench-1" in came
            assert "bench-2" not in came


def test_what_an_agent_says_of_a_board_is_seen_in_open_pages(
    browser: Browser, mosquitto: Mosquitto
) -> None:
    with (
        browser.live("/boards/bench/bench-1") as of_board,
        browser.live("/boards/bench/bench-2") as of_other,
        browser.live("/agents/bench") as of_agent,
        icefarm.Client(mosquitto.url, name="bob") as bob,
    ):
        for events in (of_board, of_other, of_agent):
            next(events)
        with (
            bob.reserve(boards=["bench-1"], behaviour="serial") as held,
            held.console(timeout=30) as console,
        ):
            console.readline(timeout=10)
            assert any("a stream is open" in event for event in of_board)
        for events in (of_board, of_agent):
            assert any(" is over: " in event for event in events)
        # An event that comes after it.
        browser.post(
            "/api/v1/boards/note",
            json={"devices": ["bench-2"], "text": "look here"},
            headers={"X-CSRF-Token": browser.token()},
        )
        for event in of_other:
            assert "live-log" not in event
            if "look here" in event:
                break


@contextmanager
def no_database(postgres: str, url: str) -> Iterator[None]:
    """A database that ends all connections and takes none, as long as the block."""
    name = urlsplit(url).path.removeprefix("/")
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false".encode())
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,)
        )
        yield
        connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true".encode())


def is_well(browser: Browser) -> bool:
    answer = browser.get("/boards")
    return answer.status_code == 200 and 'class="trouble"' not in answer.text


def test_pages_stay_up_and_say_what_is_lost(
    browser: Browser, mosquitto: Mosquitto, postgres: str, database_url: str
) -> None:
    with browser.live("/boards") as events:
        assert "bench-1" in next(events)
        mosquitto.stop()
        trouble = next(event for event in events if "has lost the broker" in event)
        assert 'hx-target="#live-trouble"' in trouble
        assert "has lost the broker" in browser.page("/boards")
        assert browser.get("/api/v1/boards").json()["total"] == 2
        with Browser(base_url=browser.base_url) as stranger:
            answer = stranger.login("eve")
            assert answer.status_code == 503
            assert "does not answer" in answer.text
            assert stranger.get("/api/v1/me", auth=("eve", "")).status_code == 503
        mosquitto.start()
        assert any("live-trouble" in event and "has lost" not in event for event in events)
    until(lambda: is_well(browser))
    with browser.live("/boards") as events:
        next(events)
        with no_database(postgres, database_url):
            trouble = next(event for event in events if "has lost the database" in event)
            # What is shown stays.
            assert "live-boards" not in trouble
            assert "comes back by itself" in browser.page("/boards", 503)
            assert browser.get("/api/v1/boards").status_code == 503
            assert browser.get("/static/icefarm.css").status_code == 200
            form = {"csrf": browser.token(), "board": "bench/bench-1", "text": "x"}
            assert browser.post("/do/note", data=form).status_code == 303
        assert any("live-trouble" in event and "has lost" not in event for event in events)
    until(lambda: is_well(browser))
    assert browser.get("/api/v1/audit").json() == []


async def test_a_database_that_answers_is_not_said_to_be_lost_for_long(database_url: str) -> None:
    changes = Changes()

    async def is_there() -> bool:
        return changes.database_away is None

    with changes.woken(()) as woken:
        listening = asyncio.create_task(changes.listen(database_url))
        # It is connected, and stays so.
        await woken.wait()
        changes.lose("a page has waited for it too long")
        woken.clear()
        await until_async(is_there)
        await woken.wait()
    listening.cancel()
