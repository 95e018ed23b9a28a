"""What was typed for a command, also before its name where it is one of a group."""

from typing import Any

import typer


def is_typed(context: typer.Context, name: str) -> bool:
    """Whether a parameter was given by hand, and not by a variable or as its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def typed_above(context: typer.Context) -> dict[str, Any]:
    """What was typed before the name of this command."""
    above: Any = context.parent
    if above is None:
        return {}
    return {name: value for name, value in above.params.items() if is_typed(above, name)}


def find(context: typer.Context, name: str) -> Any:
    """The value of a parameter for this command."""
    value = context.params.get(name)
    return value if is_typed(context, name) else typed_above(context).get(name, value)
