"""`make pictures`: images of each page of the dashboard, light and dark, large and small.

They are in docs/images/dashboard, named page-desktop-light.png and so on.
"""

import io
import shutil
import signal
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, ViewportSize

from icefarm_control.embedded import embedded_database

from .browsing import DESKTOP, PHONE, Scheme, chromium, window
from .lab import Lab, a_lab

_FOLDER = Path(__file__).parents[2] / "docs" / "images" / "dashboard"
_COLOURS = 128
"""Of an image; the dashboard has few."""
_LONGEST = 3
"""Windows: how much of a page that is long is shown."""
_SIZES = {"desktop": DESKTOP, "phone": PHONE}
_SCHEMES: tuple[Scheme, ...] = ("light", "dark")


def take(browser: Browser, lab: Lab, size: ViewportSize, scheme: Scheme, names: str) -> None:
    """All pages in one size and scheme; `names` are of files, with `{}` for that of the page."""
    with window(browser, lab.url, size, scheme) as opened:
        opened.open("/login")
        _save(opened.page.screenshot(), names.format("login"))
        opened.login("olga")
        for name, path in lab.pages.items():
            page = opened.live(path)
            # What follows at once has come when times are shown as people say them.
            page.wait_for_function("!document.querySelector('time')?.innerText.includes('UTC')")
            height = page.evaluate("document.documentElement.scrollHeight")
            shown = min(height, _LONGEST * size["height"])
            page.set_viewport_size({"width": size["width"], "height": max(shown, size["height"])})
            _save(page.screenshot(), names.format(name))
            page.set_viewport_size(size)


def _save(image: bytes, name: str) -> None:
    colours = (
        Image.open(io.BytesIO(image)).convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE)
    )
    colours.save(_FOLDER / name, optimize=True)


def main() -> None:
    """Take all pictures anew."""
    # Run in the background of a script, this process ignores Ctrl-C, and so would all it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    shutil.rmtree(_FOLDER, ignore_errors=True)
    _FOLDER.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="icefarm-") as temporary:
        directory = Path(temporary)
        with (
            embedded_database(directory / "postgres") as postgres,
            a_lab(directory / "lab", postgres.url) as lab,
            chromium() as browser,
        ):
            for kind, size in _SIZES.items():
                for scheme in _SCHEMES:
                    take(browser, lab, size, scheme, f"{{}}-{kind}-{scheme}.png")
    images = list(_FOLDER.iterdir())
    total = sum(image.stat().st_size for image in images)
    print(f"{len(images)} pictures in {_FOLDER}, {total / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
