"""Every page in a browser: nothing fails, nothing is too wide, and nobody is kept out."""

from collections.abc import Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser as Chromium
from playwright.sync_api import Page, ViewportSize

from .browsing import DESKTOP, PHONE, Scheme, window
from .lab import Lab, a_lab

_TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
_GRAVE = ("serious", "critical")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, postgres: str) -> Iterator[Lab]:
    with a_lab(tmp_path_factory.mktemp("lab"), postgres) as lab:
        yield lab


def barriers(page: Page) -> list[str]:
    """What axe-core finds that keeps people out; what is less grave is only printed."""
    options = {"runOnly": {"type": "tag", "values": _TAGS}, "resultTypes": ["violations"]}
    found = []
    for fault in Axe().run(page, options=options).response["violations"]:
        places = [node["target"] for node in fault["nodes"]]
        text = f"{page.url}: {fault['impact']}: {fault['help']} ({fault['id']}): {places[:5]}"
        print(text)
        if fault["impact"] in _GRAVE:
            found.append(text)
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_every_page(lab: Lab, chromium: Chromium, size: ViewportSize, scheme: Scheme) -> None:
    missing = {
        "/nothing": 404,
        "/agents/nobody": 404,
        "/boards/rack-1/none": 404,
        "/reservations/none": 404,
    }
    faults = []
    with window(chromium, lab.url, size, scheme) as opened:
        for path in ("/login", *lab.pages.values(), *missing):
            if path == lab.pages["overview"]:
                opened.login("olga")
            if path in missing:
                opened.expect(path, missing[path])
            page = opened.open(path)
            page.wait_for_load_state()
            assert page.title().endswith("iCEFARM")
            assert page.get_by_role("heading", level=1).count() == 1, path
            faults += barriers(page)
            if opened.width_too_much() > 0:
                faults.append(f"{path} is {opened.width_too_much()} pixels too wide")
    assert not faults, "\n".join(faults)
