"""What has changed on a page that is open: its blocks are rendered again, and sent if they differ.

A block of a template whose name begins with `live_` is an element of that id, in which `_` is `-`.
Of a table of which only some rows differ, these are sent.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import suppress
from typing import Any

from fastapi import HTTPException
from jinja2 import Environment

from icefarm_control.web.changes import About, Changes
from icefarm_control.web.reading import DatabaseAwayError
from icefarm_control.web.state import Trouble

_TOGETHER = 0.2
"""Seconds: the shortest between two looks, so that what happens at once is sent together."""
_REST = 5
"""Times as long as a look took, the shortest between two, so that pages leave control its time."""
_SILENT = 15.0
"""Seconds after which something is sent, by which a server notices a browser that has gone."""
_MISSING = "What this page is about is not there any more: it is shown as it was."
_ROW = re.compile(r'<tr id="([^"]+)".*?</tr>', re.DOTALL)

Blocks = dict[str, str]
"""Each element's HTML by its id."""
Context = dict[str, Any]
Render = Callable[[], Awaitable[Blocks]]


def render_blocks(environment: Environment, template: str, context: Context) -> Blocks:
    """The live blocks of a page, those of the templates that it extends too."""
    page = environment.get_template(template)
    whole = page.new_context(context)
    # Only a rendering from its root makes known the blocks of what a template extends.
    for _ in page.root_render_func(whole):
        pass
    return {
        name.replace("_", "-"): "".join(blocks[0](whole)).strip()
        for name, blocks in whole.blocks.items()
        if name.startswith("live_")
    }


def difference(before: Blocks, now: Blocks) -> Blocks:
    """What must be replaced, by the id of the element."""
    changed: Blocks = {}
    for name, html in now.items():
        known = before.get(name)
        if known == html:
            continue
        if known is not None and _ROW.sub(r"\1", known) == _ROW.sub(r"\1", html):
            rows = {row[1]: row[0] for row in _ROW.finditer(known)}
            changed |= {row[1]: row[0] for row in _ROW.finditer(html) if rows[row[1]] != row[0]}
        else:
            changed[name] = html
    return changed


def message(changed: Blocks) -> bytes:
    """The event that htmx swaps into a page."""
    parts = [
        f'<hx-partial hx-target="#{name}" hx-swap="outerMorph">{html}</hx-partial>'
        for name, html in changed.items()
    ]
    return (
        b"".join(b"data: %s\n" % line.encode() for part in parts for line in _lines(part)) + b"\n"
    )


def _lines(text: str) -> list[str]:
    return [line for line in re.split(r"\r\n|\r|\n", text) if line.strip()]


async def follow(
    changes: Changes,
    shown: Collection[About],
    render: Render,
    render_trouble: Callable[..., Blocks],
) -> AsyncIterator[bytes]:
    """The events for a page, as long as it is open; `shown` is what is on it and not on all pages.

    While there is trouble, or what it is about is not there, the page stays as it was and says so.
    """
    sent: Blocks = {}
    clock = asyncio.get_running_loop().time
    with changes.woken(shown) as woken:
        while not changes.is_over:
            woken.clear()
            begun = clock()
            try:
                now = await render()
            except DatabaseAwayError:
                now = sent | render_trouble()
            except HTTPException as missing:
                now = sent | render_trouble(Trouble(_MISSING, missing.detail))
            changed = difference(sent, now)
            sent = now
            took = clock() - begun
            # A comment shows that the connection is alive, which otherwise nobody would notice.
            yield message(changed) if changed else b": nothing new\n\n"
            await asyncio.sleep(max(_TOGETHER, _REST * took))
            with suppress(TimeoutError):
                async with asyncio.timeout(_SILENT):
                    await woken.wait()
