"""What each page shows of a real farm."""

from typing import Any

from support.waiting import until

import icefarm
from icefarm_broker.mosquitto import Mosquitto

from .conftest import Browser

PATHS = ["/", "/boards", "/agents", "/agents/bench", "/boards/bench/bench-1", "/reservations"]


def test_pages_say_what_the_farm_has(browser: Browser, mosquitto: Mosquitto) -> None:
    with icefarm.Client(mosquitto.url, name="bob") as bob, bob.reserve(1) as held:
        board = held.boards[0].name
        until(lambda: "ready" in browser.page(f"/boards/bench/{board}"))
        for path in ("/boards", "/agents/bench", f"/boards/bench/{board}", "/clients/bob"):
            page = browser.page(path)
            assert board in page
            assert "bob" in page
            assert held.id in page

        def known() -> dict[str, Any]:
            found: dict[str, Any] = browser.get(f"/api/v1/boards/bench/{board}").json()
            return found

        # What the agent says comes to the database, and to who serves the page, each in its time.
        until(lambda: (known()["status"], known()["since"] is None) == ("ready", False))
        said = known()
        assert (said["status"], said["arguments"], said["repairs"]) == ("ready", {}, 0)
        assert held.id in said["reservation"]
        assert f'since <time datetime="{said["since"][:19]}' in browser.page(
            f"/boards/bench/{board}"
        )
        assert "1</b> of 2" in browser.page("/")
        assert "pulsecount" in browser.page("/")
        assert held.id in browser.page("/reservations")
        assert "active" in browser.page(f"/reservations/{held.id}")
    until(lambda: "released" in browser.page(f"/reservations/{held.id}"))
    assert held.id not in browser.page("/reservations")
    assert held.id in browser.page("/reservations?status=ended")
    assert held.id in browser.page("/history")
    assert held.id in browser.page("/history?client=bob&what=ended&period=day")
    assert held.id not in browser.page("/history?client=eve")


QUERIES = {
    "": ["bench-1", "bench-2"],
    "search=BENCH-2": ["bench-2"],
    "search=100%25": [],
    "status=available": ["bench-1", "bench-2"],
    "status=broken": [],
    "behaviour=serial&product=nothing": [],
    "agent=bench&page=2": [],
    "order=-name": ["bench-2", "bench-1"],
    "order=nonsense&page=nonsense": ["bench-1", "bench-2"],
}


def test_what_is_asked_for_is_found_or_told_to_be_missing(browser: Browser) -> None:
    for query, shown in QUERIES.items():
        page = browser.page(f"/boards?{query}")
        found = [name for name in ("bench-1", "bench-2") if f'boards/bench/{name}"' in page]
        assert sorted(found, key=lambda name: page.index(f'boards/bench/{name}"')) == shown, query
    assert "no agent &#39;nobody&#39;" in browser.page("/agents/nobody", 404)
    assert "has no board" in browser.page("/boards/bench/none", 404)
    assert "there is no reservation" in browser.page("/reservations/none", 404)
    assert "Not Found" in browser.page("/nothing", 404)


def test_nothing_comes_from_elsewhere_and_reading_changes_nothing(browser: Browser) -> None:
    for path in (*PATHS, "/history", "/audit", "/clients/bob"):
        answer = browser.get(path)
        assert "http://" not in answer.text
        assert "https://" not in answer.text
        assert "<script>" not in answer.text
        assert "default-src 'self'" in answer.headers["content-security-policy"]
    for name in ("htmx/htmx.min.js", "htmx/hx-sse.min.js", "icefarm.css", "icefarm.js", "icon.svg"):
        assert browser.get(f"/static/{name}").status_code == 200
    document = browser.get("/api/v1/openapi.json").json()
    unsafe = [path for path, methods in document["paths"].items() if "post" in methods]
    assert len(unsafe) >= 8
    for path in unsafe:
        assert browser.get(path).status_code in (404, 405), path
    assert browser.get("/logout").status_code == 405
    for action in ("end", "extend", "restart-boards", "forget", "note"):
        assert "bench-1" in browser.page(f"/do/{action}?board=bench/bench-1")
    for action in ("drain", "resume", "restart"):
        assert "Agent" in browser.page(f"/do/{action}?agent=bench")
    assert browser.get("/api/v1/audit").json() == []
    assert "ann" in browser.page("/")
