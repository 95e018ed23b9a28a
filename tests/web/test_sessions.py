"""Logins in a browser: how long they last, where, and how they are kept safe."""

from contextlib import ExitStack

import psycopg
from support.metrics import get
from support.processes import Processes
from support.waiting import until

from icefarm_broker.mosquitto import Mosquitto

from .conftest import Browser
from .test_live import no_database


def is_logged_in(url: str, browser: Browser) -> bool:
    with Browser(base_url=url, cookies=browser.cookies) as same:
        until(lambda: same.get("/").status_code != 503, "it has the database")
        return "ann" in same.page("/") and same.get("/api/v1/me").json()["name"] == "ann"


def test_a_login_holds_at_each_control_process_and_through_restarts(
    browser: Browser, farm: Processes, database_url: str
) -> None:
    farm.control("second", web=True)
    second = farm.dashboard("second")
    assert is_logged_in(second, browser)
    farm.interrupt("control")
    assert is_logged_in(second, browser)
    farm.kill("second")
    farm.control("third", web=True)
    third = farm.dashboard("third")
    assert is_logged_in(third, browser)
    with Browser(base_url=third, cookies=browser.cookies) as same, Browser(base_url=third) as other:
        # Its forms are good, too.
        form = {"csrf": same.token(), "board": "bench/bench-1", "text": "as before"}
        assert same.post("/do/note", data=form).status_code == 303
        assert same.get("/api/v1/boards/bench/bench-1").json()["note"] == "as before"
        other.cookies.set("icefarm", "forged." + browser.cookies["icefarm"], domain="127.0.0.1")
        assert other.get("/").status_code == 303
    with psycopg.connect(database_url) as connection:
        rows = connection.execute("SELECT name, length(value), value FROM secret").fetchall()
    assert [row[:2] for row in rows] == [("session", 72)]
    assert rows[0][2] not in farm.logs()


def cookies_of(browser: Browser, **headers: str) -> str:
    return browser.get("/login", headers=headers).headers["set-cookie"].lower()


def test_a_cookie_is_sent_by_https_alone_where_there_is_https(stranger: Browser) -> None:
    by_https = cookies_of(stranger, **{"X-Forwarded-Proto": "https"})
    assert "; secure" in by_https
    assert "httponly; samesite=strict" in by_https
    # Without it, browsers would not send it at all.
    stranger.cookies.clear()
    assert "secure" not in cookies_of(stranger)


def test_who_cannot_log_in_without_a_database_is_told(
    processes: Processes, mosquitto: Mosquitto, postgres: str, database_url: str
) -> None:
    with ExitStack() as stack:
        with no_database(postgres, database_url):
            processes.control(web=True)
            browser = stack.enter_context(Browser(base_url=processes.dashboard()))
            until(lambda: "lost the database" in browser.get("/login").text)
            for answer in (browser.get("/login"), browser.post("/login"), browser.get("/boards")):
                assert answer.status_code == 503
                assert "The database does not answer" in answer.text
                # It comes back by itself.
                assert answer.headers["refresh"] == "5"
            assert "database" in browser.get("/api/v1/boards").json()["detail"]
            assert browser.get("/nothing").status_code == 404
            assert browser.get("/static/icefarm.css").status_code == 200
            assert get(f"{browser.base_url}/healthz") == (200, "ok\n")
        until(lambda: browser.get("/login").status_code == 200)
        assert browser.login("ann").status_code == 303
        until(lambda: browser.get("/boards").status_code == 200)
