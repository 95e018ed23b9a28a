"""Debian's Chromium, as a person uses it; everything that goes wrong on a page is written down."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal
from urllib.parse import urlsplit

from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Request,
    Response,
    ViewportSize,
    expect,
    sync_playwright,
)
from support.waiting import PATIENCE

Scheme = Literal["light", "dark"]
DESKTOP = ViewportSize(width=1280, height=800)
PHONE = ViewportSize(width=390, height=844)
_PATIENCE = PATIENCE * 1000
"""Milliseconds. What is expected has its own, apart from that of windows."""
expect.set_options(timeout=_PATIENCE)


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser, without a window on a screen.

    Raises:
        AssertionError: it is not installed.
    """
    path = shutil.which("chromium")
    assert path is not None, "there is no chromium: run `make browser-programs`"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        yield browser
        browser.close()


class Window:
    """A window on the dashboard at `url`.

    `faults` is what has gone wrong in it, by the path of the page on which it did. Pages that are
    expected to be refused are named by `expect`, with the code of HTTP; what else goes wrong on
    purpose by `pardon`.
    """

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.page: Page = context.new_page()
        self.url = url
        self.faults: list[str] = []
        self._expected: set[tuple[str, int]] = set()
        self._pardoned: set[str] = set()
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self._note(f"a script failed: {error}"))
        self.page.on("requestfailed", self._see_failure)
        self.page.on("response", self._see_answer)

    def expect(self, path: str, code: int) -> None:
        """That page, without its query, may be refused."""
        self._expected.add((path, code))

    def pardon(self, *words: str) -> None:
        """What contains one of these is no fault, whenever it is told."""
        self._pardoned.update(words)

    def open(self, path: str) -> Page:
        """Go to a page, and wait until it is shown."""
        self.page.goto(self.url + path)
        return self.page

    def login(self, name: str, password: str = "") -> Page:
        """Go through the login's form."""
        page = self.open("/login")
        page.get_by_label("Name of your account").fill(name)
        page.get_by_label("Password").fill(password)
        page.get_by_role("button", name="Log in").click()
        page.wait_for_url(self.url + "/")
        return page

    def live(self, path: str) -> Page:
        """Go to a page, and wait until its changes are shown, too."""
        # Not those of the page before, which may come as late.
        wanted = (f"{self.url}/live{path}", f"{self.url}/trouble")
        with self.page.expect_response(lambda answer: answer.url in wanted):
            self.open(path)
        return self.page

    def width_too_much(self) -> int:
        """By how many pixels the page can be scrolled to its side."""
        found: int = self.page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        return found

    def _note(self, what: str) -> None:
        if not any(words in what for words in self._pardoned):
            self.faults.append(f"{self._path(self.page.url)}: {what}")

    def _path(self, url: str) -> str:
        parts = urlsplit(url)
        return parts.path + (f"?{parts.query}" if parts.query else "")

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type not in ("error", "warning"):
            return
        place: Any = message.location
        if (urlsplit(place["url"]).path, _code(message.text)) not in self._expected:
            self._note(f"{message.type} in the console: {message.text} ({place['url']})")

    def _see_failure(self, request: Request) -> None:
        # When a page is left, what has not come for it is no longer wanted.
        is_left = request.failure == "net::ERR_ABORTED" and request.resource_type != "document"
        if not is_left:
            self._note(f"a request failed: {request.url}: {request.failure}")

    def _see_answer(self, answer: Response) -> None:
        code = answer.status
        if code >= 400 and (urlsplit(answer.url).path, code) not in self._expected:
            self._note(f"{answer.request.method} {answer.url} was answered with {code}")


def _code(text: str) -> int:
    """Of HTTP, in what Chromium says when a request was refused; 0 where it is something else."""
    _, found, rest = text.partition("responded with a status of ")
    return int(rest[:3]) if found else 0


@contextmanager
def window(
    browser: Browser,
    url: str,
    size: ViewportSize = DESKTOP,
    scheme: Scheme = "light",
) -> Iterator[Window]:
    """A window of a person of its own, without anybody's cookies.

    Raises:
        AssertionError: something went wrong in it that nobody expected.
    """
    context = browser.new_context(
        viewport=size,
        color_scheme=scheme,
        has_touch=size == PHONE,
        is_mobile=size == PHONE,
        device_scale_factor=1,
        locale="en-GB",
        timezone_id="Europe/Berlin",
    )
    context.set_default_timeout(_PATIENCE)
    opened = Window(context, url)
    try:
        yield opened
    finally:
        context.close()
    assert not opened.faults, "\n".join(opened.faults)
