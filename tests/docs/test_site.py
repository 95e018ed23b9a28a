"""The documentation site: it is built without a warning, and says all that there is to say."""

import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import griffe
import pytest
import typer
from fastapi import FastAPI
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

import icefarm
import icefarm_schemas
from icefarm.cli import app
from icefarm_control.web import api, api_actions
from icefarm_schemas import ErrorCode, Message
from icefarm_schemas.topic import Topic

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    loud = [line for line in done.stderr.splitlines() if not line.startswith("INFO")]
    assert loud == [], "the build should be calm"
    return folder


@pytest.fixture(scope="module")
def entries(site: Path) -> set[str]:
    """What the reference of the library has an entry for, by dotted name."""
    inventory = (site / "objects.inv").read_bytes()
    assert inventory.startswith(b"# Sphinx inventory version 2")
    lines = zlib.decompress(inventory.split(b"\n", 4)[4]).decode().splitlines()
    return {line.split(" ", 1)[0] for line in lines}


def public_modules() -> Iterator[ModuleType]:
    """The package and those modules in it that say what is public in them; commands are no API."""
    yield icefarm
    for found in pkgutil.walk_packages(icefarm.__path__, "icefarm."):
        if not found.name.startswith("icefarm.cli"):
            module = importlib.import_module(found.name)
            if hasattr(module, "__all__"):
                yield module


PUBLIC = [f"{module.__name__}.{name}" for module in public_modules() for name in module.__all__]


def public_members(kind: griffe.Class) -> Iterator[str]:
    """Also what it has from classes that have no entry of their own, since they are private."""
    for base in kind.resolved_bases:
        if isinstance(base, griffe.Class) and base.name.startswith("_"):
            yield from public_members(base)
    for name, member in kind.members.items():
        if not name.startswith("_") and not member.is_alias:
            yield name


@pytest.fixture(scope="module")
def source() -> griffe.Object | griffe.Alias:
    """The library as its source has it, where attributes are seen that are set in a method."""
    return griffe.load("icefarm", search_paths=[ROOT / "client" / "src"])


@pytest.mark.parametrize("name", PUBLIC)
def test_each_public_name_is_described(
    name: str, entries: set[str], source: griffe.Object | griffe.Alias
) -> None:
    module, _, last = name.rpartition(".")
    thing = getattr(importlib.import_module(module), last)
    assert inspect.getdoc(thing) or not callable(thing), f"{name} has no docstring"
    assert name in entries, f"no page of docs/reference/api has {name}"
    if not inspect.isclass(thing):
        return
    found = source[name.removeprefix("icefarm.")]
    kind = found.final_target if isinstance(found, griffe.Alias) else found
    assert isinstance(kind, griffe.Class)
    for member in public_members(kind):
        # mkdocstrings leaves out what has no docstring.
        assert f"{name}.{member}" in entries, f"{name}.{member} has no docstring"


def test_each_command_is_described_with_its_options(site: Path) -> None:
    page = (site / "reference" / "cli.html").read_text()
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    context = typer.Context(group)
    assert len(page.split("<h2")) > 25
    for name, command in commands_of(group, context):
        anchor = f'id="icefarm-{name.replace(" ", "-")}"'
        assert page.count(anchor) == 1, name
        assert f"<code>{name}</code></a>" in page, f"icefarm {name} is not in the table"
        section = re.split("<h[23]", page.split(anchor)[1])[0]
        for option in command.params:
            for written in option.opts if option.param_type_name == "option" else ():
                assert written in section, f"icefarm {name} {written}"
        assert command.help is not None
        assert "Example" not in command.help or "<strong>Example</strong>" in section


def commands_of(
    group: TyperGroup, context: typer.Context, above: str = ""
) -> Iterator[tuple[str, TyperCommand | TyperGroup]]:
    """All commands, with those below others, by what is typed after `icefarm`."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert isinstance(command, TyperCommand | TyperGroup)
        yield above + name, command
        if isinstance(command, TyperGroup):
            yield from commands_of(command, context, f"{above}{name} ")


def test_each_topic_and_message_is_described(site: Path) -> None:
    page = (site / "reference" / "topics.html").read_text()
    for topic in Topic.__subclasses__():
        assert f"<code>{'/'.join(topic.levels)}</code>" in page
    for name in icefarm_schemas.__all__:
        kind = getattr(icefarm_schemas, name)
        if inspect.isclass(kind) and issubclass(kind, Message) and kind is not Message:
            section = page.split(f'<h4 id="{name}">')[1].split("<h4")[0]
            for field in kind.model_fields:
                assert f"<code>{field}</code>" in section, f"{name}.{field}"
    for code in ErrorCode:
        assert f"<code>{code}</code>" in page


def test_each_request_of_the_rest_api_is_described(site: Path) -> None:
    page = (site / "reference" / "rest.html").read_text()
    served = FastAPI()
    served.include_router(api.router)
    served.include_router(api_actions.router)
    document = served.openapi()
    for path, methods in document["paths"].items():
        for method, request in methods.items():
            row = page.split(f"<code>{method.upper()} {path}</code>")[1].split("</tr>")[0]
            for parameter in request.get("parameters", ()):
                if parameter["in"] == "query":
                    assert f"<code>{parameter['name']}</code>" in row, f"{path}: {parameter}"
    for name in ("Board", "BoardDetails", "Agent", "Reservation", "UsageReport"):
        section = page.split(f'<h3 id="{name}">')[1].split("<h3")[0]
        for field in document["components"]["schemas"][name]["properties"]:
            assert f"<code>{field}</code>" in section, f"{name}.{field}"


def test_the_site_fetches_nothing_from_elsewhere(site: Path) -> None:
    fetched = re.compile(
        r"""(?:<(?:script|img|iframe|source)[^>]*\ssrc|<link(?![^>]*rel="?canonical)[^>]*\shref)"""
        r"""\s*=\s*["']?(?:https?:)?//"""
        r"""|(?:@import|url\()\s*["']?(?:https?:)?//"""
    )
    pages = [*site.rglob("*.html"), *site.rglob("*.css")]
    assert len(pages) > 10
    for page in pages:
        assert fetched.search(page.read_text()) is None, page
    # The theme's own script would fetch what draws diagrams.
    assert not any('class="mermaid"' in page.read_text() for page in pages)


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_from_outside_the_site_lead_somewhere(name: str) -> None:
    text = (ROOT / name).read_text()
    for link in re.findall(r"\]\(([^)#]+)", text):
        assert link.startswith("https://") or (ROOT / link).exists(), f"{name} links to {link}"
