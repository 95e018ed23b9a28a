"""Accounts of a farm and what the broker allows each: Mosquitto's password file and access list.

Roles are written out for each user, because `pattern` lines of an access list apply to every user
alike: with patterns alone a client that is named like an agent would become one.
"""

import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import get_args

from icefarm_broker.mosquitto import find_program
from icefarm_schemas import check_name
from icefarm_schemas.topic import DEFAULT_ROOT
from icefarm_schemas.topics import (
    AgentCommandTopic,
    AgentStateTopic,
    AgentWishTopic,
    AssignmentTopic,
    AvailabilityTopic,
    CommandTopic,
    ControlProcessTopic,
    ControlStateTopic,
    DeviceStateTopic,
    EventsTopic,
    LogTopic,
    NoteTopic,
    OperatorTopic,
    RepliesTopic,
    RequestTopic,
    ReservationStateTopic,
    SessionStateTopic,
    StreamDownTopic,
    StreamUpTopic,
)

_COMMANDS = get_args(CommandTopic)


class Role(StrEnum):
    """What an account is for."""

    CONTROL = "control"
    AGENT = "agent"
    CLIENT = "client"
    OPERATOR = "operator"
    """A client that may also ask for things about everybody's boards."""
    OBSERVER = "observer"


@dataclass(frozen=True)
class Account:
    """A user of the broker. The name is the agent's or client's name in its topics."""

    name: str
    password: str
    role: Role

    def __post_init__(self) -> None:
        check_name(self.name)
        if ":" in self.name:
            raise ValueError(f"the account {self.name!r} holds a colon, which ends a user name")
        if not self.password or any(c in self.password for c in "\r\n"):
            raise ValueError(f"the password of {self.name!r} is empty or has more than one line")


def rules(role: Role, name: str, root: str = DEFAULT_ROOT) -> list[tuple[str, str]]:
    """What a role may do, as pairs of access (`read`, `write`, `readwrite`) and topic filter."""
    if role is Role.CONTROL:
        return [
            ("readwrite", ControlStateTopic.pattern(root)),
            ("readwrite", ControlProcessTopic.pattern(root)),
            ("readwrite", AvailabilityTopic.pattern(root)),
            ("read", LogTopic.pattern(root)),
            # Written only to remove what an agent that is gone has left.
            ("readwrite", AgentStateTopic.pattern(root)),
            ("readwrite", DeviceStateTopic.pattern(root)),
            ("readwrite", AssignmentTopic.pattern(root)),
            ("readwrite", NoteTopic.pattern(root)),
            ("readwrite", AgentWishTopic.pattern(root)),
            ("write", AgentCommandTopic.pattern(root)),
            # Written only to remove what a session that is gone has left.
            ("readwrite", SessionStateTopic.pattern(root)),
            ("read", RequestTopic.pattern(root)),
            ("read", OperatorTopic.pattern(root)),
            ("write", RepliesTopic.pattern(root)),
            ("write", EventsTopic.pattern(root)),
            ("readwrite", ReservationStateTopic.pattern(root)),
        ]
    if role is Role.AGENT:
        return [
            ("read", ControlStateTopic.pattern(root)),
            ("readwrite", AgentStateTopic.pattern(root, agent=name)),
            ("readwrite", DeviceStateTopic.pattern(root, agent=name)),
            ("read", AssignmentTopic.pattern(root, agent=name)),
            ("read", AgentWishTopic.pattern(root, agent=name)),
            ("read", AgentCommandTopic.pattern(root, agent=name)),
            ("write", LogTopic.pattern(root, agent=name)),
            # Whose stream is open, and whether it is still there.
            ("read", SessionStateTopic.pattern(root)),
            *(("read", kind.pattern(root)) for kind in _COMMANDS),
            ("read", StreamUpTopic.pattern(root)),
            ("write", StreamDownTopic.pattern(root)),
            ("write", EventsTopic.pattern(root)),
        ]
    if role is Role.OPERATOR:
        return [
            *rules(Role.CLIENT, name, root),
            ("write", OperatorTopic.pattern(root, client=name)),
            ("read", LogTopic.pattern(root)),
        ]
    if role is Role.CLIENT:
        return [
            ("read", ControlStateTopic.pattern(root)),
            ("read", AvailabilityTopic.pattern(root)),
            ("read", AgentStateTopic.pattern(root)),
            ("read", DeviceStateTopic.pattern(root)),
            ("read", NoteTopic.pattern(root)),
            ("read", ReservationStateTopic.pattern(root)),
            ("readwrite", SessionStateTopic.pattern(root, client=name)),
            ("write", RequestTopic.pattern(root, client=name)),
            ("read", RepliesTopic.pattern(root, client=name)),
            ("read", EventsTopic.pattern(root, client=name)),
            *(("write", kind.pattern(root, client=name)) for kind in _COMMANDS),
            ("write", StreamUpTopic.pattern(root, client=name)),
            ("read", StreamDownTopic.pattern(root, client=name)),
        ]
    return [("read", f"{root}/#")]


def access_list(accounts: Iterable[Account], root: str = DEFAULT_ROOT) -> str:
    """The text of Mosquitto's `acl_file`. A user who is not in it may do nothing."""
    sections = [
        f"user {account.name}\n"
        + "".join(
            f"topic {access} {text}\n" for access, text in rules(account.role, account.name, root)
        )
        for account in accounts
    ]
    return "\n".join(sections)


def write_accounts(
    accounts: Iterable[Account], directory: Path, root: str = DEFAULT_ROOT
) -> tuple[Path, Path]:
    """Write `passwords` (hashed) and `access` into `directory` and return their paths.

    Raises:
        ProgramMissingError: mosquitto_passwd is not installed.
        ValueError: a name comes twice.
    """
    accounts = list(accounts)
    names = [account.name for account in accounts]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"the account {name!r} is there twice; each has one role")
    passwords, access = directory / "passwords", directory / "access"
    passwords.touch()
    passwords.chmod(0o600)
    passwords.write_text("".join(f"{a.name}:{a.password}\n" for a in accounts))
    # -U hashes a file in place, so that no password stands on a command line for all to see.
    program = find_program("mosquitto_passwd")
    subprocess.run([program, "-U", str(passwords)], check=True, capture_output=True)
    access.touch()
    access.chmod(0o600)
    access.write_text(access_list(accounts, root))
    return passwords, access
