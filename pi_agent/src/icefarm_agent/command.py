"""The `icefarm-agent` command."""

import resource
import socket
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from icefarm_agent.agent import Agent
from icefarm_agent.behaviours import installed_behaviours
from icefarm_agent.metrics import app as metrics_app
from icefarm_agent.metrics import in_words
from icefarm_agent.usb.configuration import Configuration, ConfigurationError
from icefarm_agent.virtual.board import virtual_boards
from icefarm_agent.virtual.errors import ToolsMissing
from icefarm_broker import URL_VARIABLE, BrokerAddress
from icefarm_broker.http import host_and_port, served
from icefarm_broker.logs import LogFormat, log_as_service
from icefarm_broker.service import run_service
from icefarm_schemas import check_name

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def run(
    broker: Annotated[
        str | None, typer.Option(envvar=URL_VARIABLE, help="mqtt://user:password@host:port")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="This agent's name in the farm; else this machine's.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="Which boards are yours, their firmware, labels; TOML.", dir_okay=False),
    ] = None,
    virtual_boards_count: Annotated[
        int,
        typer.Option(
            "--virtual-boards",
            min=0,
            max=1000,
            help="Boards without hardware; then real ones only with --config.",
        ),
    ] = 0,
    label: Annotated[
        list[str] | None,
        typer.Option(help="Of all its boards, as key=value; boards are chosen by them."),
    ] = None,
    virtual_speed: Annotated[
        float,
        typer.Option(min=0.01, help="How many times faster than real boards the virtual ones are."),
    ] = 1.0,
    drain_timeout: Annotated[
        float,
        typer.Option(
            min=0,
            help="Seconds that holders have after SIGTERM to be done; a second signal stops at "
            "once.",
        ),
    ] = 0,
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT", help="Serve /metrics for Prometheus, and /healthz, there."
        ),
    ] = None,
    log_format: Annotated[
        LogFormat | None,
        typer.Option(help="Else JSON where systemd's journal reads it, and text elsewhere."),
    ] = None,
) -> None:
    """Offer this machine's boards to the farm, until stopped.

    When an operator has it restarted, it ends with the exit code 75 and its supervisor starts it.
    """
    try:
        agent_name = check_name(name or socket.gethostname())
        address = BrokerAddress.find(broker)
        labels = dict(_label(text) for text in label or ())
        has_real = config is not None or not virtual_boards_count
        known = Configuration.load(config) if has_real else None
        served_at = None if metrics is None else host_and_port(metrics)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    except ConfigurationError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)
    log_as_service("agent", agent=agent_name, form=log_format)

    # Each board needs a few; a service's usual limit of 1024 would end at some 200 boards.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    try:
        agent = Agent(agent_name, address, installed_behaviours(), labels, known)

        async def main() -> int:
            async with virtual_boards(agent_name, virtual_boards_count, virtual_speed) as boards:
                for board in boards:
                    agent.add(board)
                async with served(metrics_app, served_at, "metrics are", "--metrics"):
                    return await agent.run()

        drain = partial(agent.drain, drain_timeout) if drain_timeout else None
        sys.exit(run_service(main, drain, status=in_words))
    except (ToolsMissing, ConfigurationError) as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(1)


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"a label is written key=value, not {text!r}")
    return check_name(key), value
