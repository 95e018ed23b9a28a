"""A reader who does what a page says, and sees whether the terminal shows what the page shows."""

from contextlib import ExitStack
from pathlib import Path

from docs.page import Saved, Typed, steps
from docs.terminal import Terminal


class WrongPageError(AssertionError):
    """Something else happened than the page says; the text says where and what."""


def follow(page: Path, workspace: Path, environment: dict[str, str], inside: list[str]) -> None:
    """Do all that a page says, in a folder, with terminals that are opened by a command.

    Raises:
        WrongPageError: the page is wrong.
    """
    terminals: dict[str, Terminal] = {}
    with ExitStack() as open_terminals:
        for step in steps(page):
            if isinstance(step, Saved):
                (workspace / step.name).write_text(step.text)
                continue
            if step.terminal not in terminals:
                terminals[step.terminal] = open_terminals.enter_context(
                    Terminal(inside, workspace, environment)
                )
            wrong = _do(step, terminals[step.terminal])
            if wrong is not None:
                raise WrongPageError(f"{page.name}:{step.line}: {step.text or 'Ctrl-C'} {wrong}")


def _do(step: Typed, terminal: Terminal) -> str | None:
    """Type it, or press Ctrl-C; return what is wrong then."""
    if step.text is None:
        terminal.press_ctrl_c()
    elif step.text:
        terminal.type(step.text)
    if step.goes_on:
        as_shown = terminal.wait_for(step.pattern) and terminal.exit_code is None
        output = terminal.output
    else:
        terminal.wait_for_prompt()
        # After a command that Ctrl-C ended, the shell begins a new line, wherever it is.
        output = terminal.output.removeprefix("^C").removeprefix("\n").rstrip("\n") + "\n"
        as_shown = not step.shown or step.pattern.fullmatch(output) is not None
    if not as_shown:
        return f"shows\n{output}\ninstead of\n{step.shown}"
    if terminal.exit_code and not step.may_fail:
        return f"ends with {terminal.exit_code}:\n{output}"
    return None
