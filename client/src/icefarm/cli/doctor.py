"""`icefarm doctor`: what stands between this machine and the farm, and what to do about it."""

import asyncio
import os
import sys
import textwrap
from collections.abc import AsyncIterator, Iterable
from dataclasses import asdict

from icefarm.async_client import AsyncClient
from icefarm.cli.app import FarmOptions, Json, command, out, print_json
from icefarm.cli.ending import ExitCode
from icefarm.cli.findings import (
    REACHING,
    Check,
    Finding,
    State,
    advice,
    ok,
    skipped,
    wrong,
)
from icefarm.cli.held import run
from icefarm.cli.reaching import reach
from icefarm.cli.tables import paint, takes_colour
from icefarm.cli.visiting import Answer, Visit, visiting
from icefarm.configuration import (
    PASSWORD_VARIABLE,
    configuration_file,
    locate,
    with_password,
)
from icefarm.errors import FarmError
from icefarm.usb import vhci
from icefarm_broker import (
    BrokerAddress,
    BrokerUnreachableError,
    LoginRefusedError,
    NobodyListensError,
    NotAuthorisedError,
)

_VISIT = 60.0
"""Seconds for all that is tried at the broker."""
_CLOCK = 2.0
"""Seconds by which clocks may differ."""

_MARKS = {State.OK: "✓", State.WRONG: "✗", State.ADVICE: "!", State.SKIPPED: "-"}
_ASCII_MARKS = {State.OK: "+", State.WRONG: "x", State.ADVICE: "!", State.SKIPPED: "-"}
_COLOURS = {State.OK: "green", State.WRONG: "red", State.ADVICE: "yellow", State.SKIPPED: "dim"}


@command
def doctor(options: FarmOptions, as_json: Json = False) -> None:
    """Check the way to the farm, the farm, and this machine's USB/IP, and say what is wrong.

    It changes nothing. The exit code is 0 when all is well, also where there is advice (!), 4 when
    the farm cannot be reached, and 1 when something else is wrong.

    Example: icefarm doctor --farm lab
    """
    findings: list[Finding] = []

    async def work() -> None:
        async for finding in _examine(options):
            findings.append(finding)
            if as_json:
                print_json(asdict(finding))
            else:
                _show(finding)

    run(work())
    bad = {finding.check for finding in findings if finding.state is State.WRONG}
    if bad:
        sys.exit(ExitCode.UNREACHABLE if bad & REACHING else ExitCode.FAILED)


def _show(finding: Finding) -> None:
    marks = _ASCII_MARKS if out.options.ascii_only else _MARKS
    width = max(out.width, 40) if out.is_terminal else None
    mark = paint(marks[finding.state], _COLOURS[finding.state], coloured=takes_colour(out))
    head = f"{mark} {finding.check:<13} "
    indent = " " * (len(Check.CONFIGURATION) + 3)
    for text in (finding.what, finding.todo):
        if text is not None:
            lines = textwrap.wrap(text, width - len(indent)) if width else [text]
            print(head + ("\n" + indent).join(lines), flush=True)
        head = indent + ("-> " if out.options.ascii_only else "→ ")


async def _examine(options: FarmOptions) -> AsyncIterator[Finding]:
    address = None
    try:
        address, finding = _find(options.farm)
        client = AsyncClient(str(address), name=options.name).name
    except FarmError as error:
        finding = wrong(
            Check.CONFIGURATION, str(error), "correct it; `icefarm farms` lists the farms you have"
        )
        address = None
    yield finding
    if address is None:
        async for finding in _skip(Check.NAME, "it is not known where the farm is"):
            yield finding
    else:
        async for finding in _examine_farm(address, client):
            yield finding
    yield await _examine_usb()


def _find(farm: str | None) -> tuple[BrokerAddress, Finding]:
    """Where the farm is, and what is to be said of that.

    Raises:
        FarmError: it cannot be known.
    """
    located, by = locate(farm)
    address = with_password(located)
    what = f"the farm is {located}, named by {by}"
    if located.password is not None:
        password = "in the address"
    elif located.user is not None and os.environ.get(PASSWORD_VARIABLE):
        password = f"in the variable {PASSWORD_VARIABLE}"
    elif address.password is not None:
        password = "in the keyring"
    elif located.user is not None:
        return address, advice(
            Check.CONFIGURATION,
            f"{what}; there is no password for {located.user}",
            f"`icefarm login` keeps one in the keyring, or set the variable {PASSWORD_VARIABLE}",
        )
    else:
        return address, ok(Check.CONFIGURATION, f"{what}; nobody logs in")
    what += f"; the password of {located.user} is {password}"
    if located.password is not None and str(configuration_file()) in by:
        return address, advice(
            Check.CONFIGURATION,
            what,
            "take it out of the file, and let `icefarm login` keep it in the keyring",
        )
    return address, ok(Check.CONFIGURATION, what)


async def _skip(first: Check, why: str) -> AsyncIterator[Finding]:
    """All checks of the farm from this one on."""
    for check in list(Check)[list(Check).index(first) : -1]:
        yield skipped(check, f"not looked at, since {why}")


async def _examine_farm(address: BrokerAddress, client: str) -> AsyncIterator[Finding]:
    async for finding in reach(address):
        yield finding
        if finding.state is State.WRONG:
            following = list(Check)[list(Check).index(finding.check) + 1]
            async for other in _skip(following, "the broker is not reached"):
                yield other
            return
    try:
        async with asyncio.timeout(_VISIT), visiting(address, client) as visit:
            who = (
                f"{client} may log in" if address.user else f"nobody need log in; you are {client}"
            )
            yield ok(Check.LOGIN, who)
            for finding in await _examine_inside(visit):
                yield finding
        return
    except LoginRefusedError as error:
        yield wrong(
            Check.LOGIN,
            str(error),
            "type the password again with `icefarm login`, or ask whoever keeps the farm whether "
            "you have an account"
            if address.user
            else "this broker wants a login: write user = ... in the configuration file and use "
            "`icefarm login`, or mqtt://user@host",
        )
    except NotAuthorisedError as error:
        yield ok(Check.LOGIN, f"{client} may log in")
        yield _forbidden(client, [f"write its own sessions' states ({error})"])
        async for finding in _skip(Check.CONTROL, "without a session nothing can be asked"):
            yield finding
        return
    except BrokerUnreachableError as error:
        yield wrong(
            Check.LOGIN,
            f"what answers there is no broker that speaks MQTT 5: {error}",
            "correct the port; for a port with TLS, write mqtts://",
        )
    except TimeoutError:
        yield wrong(
            Check.LOGIN,
            f"the broker was lost, and did not come back within {_VISIT:g} s",
            "look at the broker's log, and whether it is started again and again",
        )
        return
    async for finding in _skip(Check.ACCESS, "there is no login"):
        yield finding


async def _examine_inside(visit: Visit) -> Iterable[Finding]:
    await visit.try_access()
    control, database, answer = await _examine_control(visit)
    visit.judge_silence()
    if visit.refused:
        access = _forbidden(visit.client, visit.refused)
    else:
        access = ok(Check.ACCESS, f"{visit.client} may do what a client needs, as far as it shows")
    return access, control, database, _examine_clock(answer)


def _forbidden(client: str, refused: list[str]) -> Finding:
    return wrong(
        Check.ACCESS,
        f"the broker does not let {client} " + "; or ".join(refused),
        "let whoever keeps the farm write its access list anew with `icefarm-broker accounts`, "
        f"in which {client} is a client",
    )


async def _examine_control(visit: Visit) -> tuple[Finding, Finding, Answer | None]:
    """Of control, of its database, and what it answered from there."""
    unasked = skipped(Check.DATABASE, "not looked at, since control does not answer")
    start = "start `icefarm-control`, or ask whoever keeps the farm"
    try:
        first = await visit.ask()
    except NobodyListensError:
        told = "it is not running, or waits for its database since it was started"
        return wrong(Check.CONTROL, told, f"{start}; its log says more"), unasked, None
    except NotAuthorisedError:
        visit.refused.append("write requests")
        return skipped(Check.CONTROL, "not looked at, since requests are refused"), unasked, None
    if first is None and not visit.seen.is_served:
        return (
            wrong(Check.CONTROL, "it does not answer, and its state is not online", start),
            unasked,
            None,
        )
    if first is None:
        finding = wrong(
            Check.CONTROL,
            "it says that it is there, but no answer comes",
            "it hangs, or the broker does not let you read replies "
            f"(clients/{visit.client}/+/replies): ask whoever keeps the farm to look at both",
        )
        return finding, unasked, None
    finding = ok(Check.CONTROL, f"it answers after {1000 * first.seconds:.1f} ms{_version(visit)}")
    second = await visit.ask_database()
    if second is None:
        database = wrong(
            Check.DATABASE,
            "control is there, but its database is not: what needs it has no answer",
            "start Postgres, or see why control does not reach it (its log says); control goes on "
            "by itself then",
        )
    elif second.reply.error is not None:
        database = wrong(
            Check.DATABASE,
            f"control could not read it: {second.reply.error.message}",
            "ask whoever keeps the farm to look at the log of control",
        )
    else:
        database = ok(
            Check.DATABASE, f"what is read from it comes after {1000 * second.seconds:.1f} ms"
        )
        if not visit.seen.is_served and visit.seen.control is not None:
            finding = wrong(
                Check.CONTROL,
                "it answers, but its state is offline: nobody gives away boards",
                "try again in a minute; if it stays so, its log says why",
            )
    return finding, database, second


def _version(visit: Visit) -> str:
    control = visit.seen.control
    return f"; version {control.version}" if control is not None and control.version else ""


def _examine_clock(answer: Answer | None) -> Finding:
    if answer is None or answer.reply.at is None:
        return skipped(Check.CLOCK, "not compared, since the farm did not tell its time")
    ahead = answer.middle - answer.reply.at.timestamp()
    if abs(ahead) <= _CLOCK + answer.seconds / 2:
        return ok(Check.CLOCK, f"it differs from the farm's by {abs(ahead):.1f} s")
    return wrong(
        Check.CLOCK,
        f"this machine's is {abs(ahead):,.0f} s {'ahead of' if ahead > 0 else 'behind'} the "
        "farm's, so the times that are shown here are wrong by that",
        "set the one that is wrong, for example by `timedatectl set-ntp true`; leases are counted "
        "by the farm's and are not touched",
    )


async def _examine_usb() -> Finding:
    instead = "`icefarm attach --server` needs neither it nor root; `icefarm console` no USB at all"
    if sys.platform != "linux":
        return advice(Check.USB, "only Linux can plug boards in by `icefarm attach`", instead)
    by = "" if os.geteuid() == 0 else "; `icefarm attach` must be run with sudo"
    if vhci.is_loaded():
        try:
            ports = vhci.list_ports()
        except FarmError as error:
            return advice(Check.USB, str(error), instead)
        free = sum(port.is_free for port in ports)
        return ok(Check.USB, f"vhci-hcd is there, with {free} of {len(ports)} ports free{by}")
    if await vhci.is_loadable():
        return ok(Check.USB, f"vhci-hcd will be loaded when it is needed{by}")
    return advice(
        Check.USB,
        f"the kernel {os.uname().release} has no module vhci-hcd, so `icefarm attach` cannot plug "
        "boards in",
        "install the kernel's further modules (on Ubuntu linux-modules-extra, on Debian "
        f"linux-image-amd64), or do without: {instead}",
    )
