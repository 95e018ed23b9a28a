"""The dashboard of 10,000 boards in a browser: how soon pages are there, and changes are seen."""

import asyncio
import re
import shutil
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from playwright.async_api import Page, async_playwright

import icefarm
from benchmarks.farm import Control, Place, reported_devices, running_control, running_servers
from benchmarks.report import Figure, Target
from benchmarks.requesting import release, reserve, until_served

AGENTS, PER_AGENT = 10, 1000
_PAGES = {
    "overview": ("overview", "/"),
    "boards": ("boards", "/boards"),
    "sorted": ("last page of boards, sorted", "/boards?order=-client&page=200"),
    "search": ("boards that are searched for", "/boards?search=agent-7-99"),
    "board": ("board", "/boards/agent-7/agent-7-990"),
    "agent": ("agent with 1,000 boards", "/agents/agent-3"),
}
"""By key: what it is called, and where it is."""
_OPENED = 10
"""Times, after one that is not counted."""
_CHANGES = 20
_PAUSE = 0.5
"""Seconds between changes, so that each is seen alone."""
_BOARDS = AGENTS * PER_AGENT

_WAIT = """
    ([row, text]) => {
        const look = () => [...document.querySelectorAll("tbody tr")].some(
            (each) => each.innerText.includes(row) && each.innerText.includes(text));
        window.seen = new Promise((resolve) => {
            const seen = () => resolve(Date.now() / 1000);
            if (look()) return seen();
            new MutationObserver((_, observer) => {
                if (look()) { observer.disconnect(); seen(); }
            }).observe(document.body, { subtree: true, childList: true, characterData: true });
        });
    }
"""
"""Take the time at which a row has a text, by this machine's clock."""


class BrowserMissingError(RuntimeError):
    """What shows the pages is not installed."""


def check_browser() -> str:
    """The path of Debian's Chromium.

    Raises:
        BrowserMissingError: there is none.
    """
    path = shutil.which("chromium")
    if path is None:
        raise BrowserMissingError("there is no chromium: `make browser-programs` installs it")
    return path


async def measure(place: Place) -> list[Figure]:
    """Milliseconds until pages are there and changes are seen, and bytes for each change."""
    async with (
        running_servers(place, "dashboard") as farm,
        reported_devices(farm.url, AGENTS, PER_AGENT),
        running_control(farm, web=True) as control,
        icefarm.AsyncClient(farm.url, name="bench") as client,
        _a_page(_url(control)) as page,
    ):
        await until_served(client)
        await _until_all_shown(page)
        opened = {key: await _time_of_opening(page, path) for key, (_, path) in _PAGES.items()}
        seen, update_bytes = await _time_until_seen(page, client)
    figures = [
        _milliseconds(f"{key}_ms", f"{_PAGES[key][0]}: open, p50", statistics.median(times), 1000)
        for key, times in opened.items()
    ]
    return [
        *figures,
        _milliseconds("seen_p50_ms", "a change until it is seen, p50", statistics.median(seen)),
        _milliseconds("seen_worst_ms", "a change until it is seen, worst", max(seen), 1000),
        Figure("update_bytes", "bytes to the page for a change", update_bytes, "B"),
    ]


def _milliseconds(key: str, name: str, seconds: float, most: float | None = None) -> Figure:
    target = None if most is None else Target("at most", most)
    return Figure(key, f"{_BOARDS:,} boards: {name}", 1e3 * seconds, "ms", target)


def _url(control: Control) -> str:
    [process] = control.processes
    found = re.search(r"the dashboard is at (\S+)/\n", process.log.read_text())
    assert found is not None, process.last_words()
    return found[1]


@asynccontextmanager
async def _a_page(url: str) -> AsyncIterator[Page]:
    """A page of the dashboard, with somebody logged in."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=check_browser())
        page = await browser.new_page(base_url=url)
        await page.goto("/login")
        await page.get_by_label("Name of your account").fill("ann")
        await page.get_by_role("button", name="Log in").click()
        await page.wait_for_url("/")
        yield page
        await browser.close()


async def _until_all_shown(page: Page) -> None:
    while True:
        answer = await page.request.get("/api/v1/boards?limit=1")
        if answer.ok and (await answer.json())["total"] == _BOARDS:
            return
        await asyncio.sleep(0.2)


async def _time_of_opening(page: Page, path: str) -> list[float]:
    """Seconds from when a page was asked for until all of it was there, as the browser has them."""
    times = []
    for _ in range(1 + _OPENED):
        await page.goto(path, wait_until="load")
        times.append(
            await page.evaluate("performance.getEntriesByType('navigation')[0].domComplete / 1000")
        )
    return times[1:]


async def _time_until_seen(page: Page, client: icefarm.AsyncClient) -> tuple[list[float], float]:
    """Seconds from a request for a board until the page shows it, and bytes that came for it."""
    received = 0

    def count(event: dict[str, Any]) -> None:
        nonlocal received
        received += event["dataLength"]

    async with page.expect_response(lambda answer: "/live/" in answer.url):
        await page.goto("/boards")
    await asyncio.sleep(_PAUSE)
    network = await page.context.new_cdp_session(page)
    await network.send("Network.enable")
    network.on("Network.dataReceived", count)
    times = []
    for _ in range(_CHANGES):
        # The first board is given first.
        await page.evaluate(_WAIT, ["agent-0-0", "bench"])
        asked = time.time()
        held = await reserve(client)
        times.append(await page.evaluate("window.seen") - asked)
        await asyncio.sleep(_PAUSE)
        await page.evaluate(_WAIT, ["agent-0-0", "nobody"])
        asked = time.time()
        await release(client, held)
        times.append(await page.evaluate("window.seen") - asked)
        await asyncio.sleep(_PAUSE)
    return times, received / len(times)
