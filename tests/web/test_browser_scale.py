"""Ten thousand boards in a browser. How long it takes is measured by `make bench`."""

import re

import pytest
from anyio.from_thread import start_blocking_portal
from benchmarks.farm import reported_devices
from playwright.sync_api import Browser as Chromium
from playwright.sync_api import expect
from support.processes import Processes
from support.waiting import until

import icefarm
from icefarm_broker.mosquitto import Mosquitto
from icefarm_schemas import Operation, ReserveRequest

from .browsing import window
from .conftest import Browser, wait_for_logins


@pytest.mark.timeout(240)
def test_ten_thousand_boards_are_found_and_followed(
    processes: Processes, mosquitto: Mosquitto, chromium: Chromium
) -> None:
    processes.control(web=True)
    url = processes.dashboard()
    wait_for_logins(url)
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(reported_devices(mosquitto.url, 10, 1000)),
        icefarm.Client(mosquitto.url, name="bob") as bob,
        Browser(base_url=url) as followed,
        window(chromium, url) as opened,
    ):
        followed.login("ann")

        def are_known() -> bool:
            found: int = followed.get("/api/v1/boards?limit=1").json()["total"]
            return found == 10_000

        until(are_known, timeout=60)
        opened.login("ann")
        page = opened.live("/boards")
        rows = page.locator("tbody tr")
        expect(page.get_by_text("10000 boards")).to_be_visible()
        expect(rows).to_have_count(50)
        expect(page.get_by_role("navigation", name="Pages")).to_contain_text("Page 1 of 200")
        page.get_by_role("link", name="Next").click()
        expect(page.get_by_role("navigation", name="Pages")).to_contain_text("Page 2 of 200")
        page.get_by_role("searchbox", name="Search").fill("agent-7-99")
        expect(page.get_by_text("11 boards found")).to_be_visible()
        expect(rows).to_have_count(11)
        expect(page).to_have_url(re.compile("search=agent-7-99"))

        # What one change brings to a page is as little as if there were few boards.
        with followed.live("/boards?search=agent-7-99") as events:
            next(events)
            wanted = ReserveRequest(behaviour="pulsecount", devices=("agent-7-990",))
            bob._call(bob._client._request(Operation.RESERVE, wanted))
            assert len(next(event for event in events if "bob" in event)) < 5000
        expect(page.get_by_role("row", name="agent-7-990")).to_contain_text("bob")
        page.get_by_role("link", name="agent-7-990", exact=True).click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("agent-7-990")
        expect(page.get_by_role("main")).to_contain_text("bob")
