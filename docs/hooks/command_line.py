"""Writes the reference of the `icefarm` command from the command itself, as typer tells it."""

import re
from collections.abc import Iterator

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page
from typer.cli import get_docs_for_click
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from icefarm.cli import app

PAGE = "reference/cli.md"
_TABLE = "<!-- table of commands -->"
_COMMANDS = "<!-- commands -->"
_NAME = "icefarm"
Command = TyperCommand | TyperGroup

_EXAMPLE = re.compile(r"^Examples?:\s+(.+(?:\n(?!\n).+)*)$", re.MULTILINE)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put the table of commands, and each with its options, where the page has a comment."""
    if page.file.src_uri != PAGE:
        return markdown
    for mark in (_TABLE, _COMMANDS):
        if mark not in markdown:
            raise PluginError(f"{PAGE} has no {mark}")
    commands = _commands()
    return markdown.replace(_TABLE, _table(commands)).replace(
        _COMMANDS, "\n\n".join(_describe(name, command) for name, command in commands.items())
    )


def _commands() -> dict[str, Command]:
    """By what is typed after `icefarm`, in the order of its help."""
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    context = typer.Context(group, info_name=_NAME)
    found = {name: group.get_command(context, name) for name in group.list_commands(context)}
    return {
        name: command
        for name, command in found.items()
        if isinstance(command, Command) and not command.hidden
    }


def _table(commands: dict[str, Command]) -> str:
    rows = [
        f"| [`{name}`](#{_anchor(name)}) | {_summary(command)} |"
        for name, command in _with_those_below(commands)
    ]
    return "\n".join(["| command | does |", "|---|---|", *rows])


def _with_those_below(commands: dict[str, Command]) -> Iterator[tuple[str, Command]]:
    for name, command in commands.items():
        yield name, command
        if isinstance(command, TyperGroup):
            for below in command.list_commands(typer.Context(command)):
                found = command.get_command(typer.Context(command), below)
                assert isinstance(found, Command)
                yield f"{name} {below}", found


def _summary(command: Command) -> str:
    paragraph = (command.help or "").split("\n\n")[0]
    return " ".join(paragraph.split())


def _anchor(name: str) -> str:
    return f"{_NAME}-{name}".replace(" ", "-")


def _describe(name: str, command: Command) -> str:
    context = typer.Context(command, info_name=name)
    text = get_docs_for_click(obj=command, ctx=context, indent=1, call_prefix=_NAME)
    heading, rest = text.split("\n", 1)
    return f"{heading} {{#{_anchor(name)}}}\n{_EXAMPLE.sub(_as_block, rest)}"


def _as_block(example: re.Match[str]) -> str:
    lines = "\n".join(f"$ {line.strip()}" for line in example[1].splitlines())
    return f"**Example**:\n\n```console\n{lines}\n```"
