"""The dashboard without a mouse: all by Tab, Shift, Space and Enter, and one sees where one is."""

from playwright.sync_api import Browser as Chromium
from playwright.sync_api import Page, ViewportSize, expect
from support.processes import Processes
from support.waiting import until

import icefarm
from icefarm_broker.mosquitto import Mosquitto

from .browsing import window

_MOST = 60
"""Pressing Tab more often than this, a person gives up."""


def focused(page: Page) -> str:
    """What has the focus, as a screen reader would begin to say it."""
    text: str = page.evaluate(
        """() => {
            const e = document.activeElement;
            const label = e.labels?.[0]?.innerText ?? e.getAttribute("aria-label");
            return (label ?? e.innerText ?? "").trim().split("\\n")[0];
        }"""
    )
    return text


def has_visible_focus(page: Page) -> bool:
    """Whether what has the focus is drawn so, inside the window and not below the header."""
    seen: bool = page.evaluate(
        """() => {
            const e = document.activeElement, box = e.getBoundingClientRect();
            const style = getComputedStyle(e);
            const drawn = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
            const x = Math.min(box.left + box.width / 2, innerWidth - 2);
            const top = document.elementFromPoint(x, box.top + Math.min(box.height / 2, 20));
            return drawn && top !== null && (e.contains(top) || top.contains(e));
        }"""
    )
    return seen


def tab_to(page: Page, name: str) -> None:
    """Press Tab until something of that name has the focus; each thing on the way shows it has."""
    for _ in range(_MOST):
        page.keyboard.press("Tab")
        assert has_visible_focus(page), f"one cannot see that {focused(page)!r} has the focus"
        if focused(page).startswith(name):
            return
    raise AssertionError(f"{name!r} was not reached by pressing Tab {_MOST} times")


def test_a_reservation_is_ended_by_keys_alone(
    farm: Processes, mosquitto: Mosquitto, chromium: Chromium
) -> None:
    with (
        icefarm.Client(mosquitto.url, name="bob") as bob,
        window(chromium, farm.dashboard()) as opened,
    ):
        held = bob.reserve(boards=["bench-2"])
        page = opened.open("/boards/bench/bench-2")
        tab_to(page, "Name of your account")
        page.keyboard.type("ann")
        page.keyboard.press("Tab")
        assert focused(page) == "Password"
        page.keyboard.press("Enter")
        expect(page).to_have_url(opened.url + "/boards/bench/bench-2")

        opened.open("/")
        tab_to(page, "Boards")
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_have_text("Boards")
        # What has the focus is seen with its style sheet.
        page.wait_for_load_state()

        # What is the same on each page is passed over.
        page.keyboard.press("Tab")
        assert focused(page) == "Skip to the content"
        assert has_visible_focus(page)
        page.keyboard.press("Enter")
        expect(page).to_have_url(opened.url + "/boards#main")
        page.keyboard.press("Tab")
        assert focused(page) == "Search"
        page.keyboard.type("bench-2")
        expect(page.get_by_role("link", name="bench-1", exact=True)).to_have_count(0)
        assert focused(page) == "Search"
        tab_to(page, "bench-2")
        page.keyboard.press("Enter")
        expect(page).to_have_url(opened.url + "/boards/bench/bench-2")
        page.wait_for_load_state()

        tab_to(page, "End for this board")
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_contain_text("End")
        page.wait_for_load_state()
        tab_to(page, "End")
        page.keyboard.press("Enter")
        expect(page.get_by_role("status")).to_contain_text(
            f"reservation {held.id} of bob has ended"
        )
        until(lambda: not bob.reservations())


def test_everything_is_seen_when_it_has_the_focus_in_a_small_window(
    farm: Processes, chromium: Chromium
) -> None:
    with window(chromium, farm.dashboard(), ViewportSize(width=400, height=420)) as opened:
        opened.login("ann")
        for path in ("/boards", "/agents", "/history", "/do/drain?all=yes"):
            page = opened.open(path)
            stops = 0
            page.keyboard.press("Tab")
            while not page.evaluate("document.activeElement === document.body"):
                assert has_visible_focus(page), (path, focused(page))
                stops += 1
                assert stops < 3 * _MOST, "the focus is caught"
                page.keyboard.press("Tab")
            # And back again.
            for _ in range(stops):
                page.keyboard.press("Shift+Tab")
                assert has_visible_focus(page), (path, focused(page), "backwards")
