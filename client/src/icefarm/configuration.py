"""Which farm is meant: an address, or a name in the user's configuration file.

    default = "lab"

    [farms.lab]
    broker = "mqtts://farm.example.org"
    user = "ada"

Passwords are not in it: they come from the variable ICEFARM_PASSWORD, else from the keyring.
"""

import logging
import os
import sys
import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from icefarm.errors import InvalidRequestError
from icefarm_broker import DEFAULT_URL, URL_VARIABLE, BrokerAddress
from icefarm_schemas.topic import DEFAULT_ROOT

FILE_VARIABLE = "ICEFARM_CONFIG"
"""The path of the configuration file, where it is another one."""
PASSWORD_VARIABLE = "ICEFARM_PASSWORD"
KEYRING_SERVICE = "icefarm"
"""In the keyring, a password is that of this service and of the address `keyring_entry` writes."""

_FILE_KEYS = ("default", "farms")
_FARM_KEYS = ("broker", "user")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Configuration:
    """What the configuration file says; nothing where there is none.

    The addresses have a password only where the file's URL has one, which is not its place.
    """

    path: Path
    default: str | None = None
    farms: dict[str, BrokerAddress] = field(default_factory=dict)

    def address_of(self, farm: str) -> BrokerAddress:
        """The address of a farm that is named.

        Raises:
            InvalidRequestError: there is none of this name.
        """
        try:
            return self.farms[farm]
        except KeyError:
            known = f"it has {', '.join(self.farms)}" if self.farms else "it has none"
            raise InvalidRequestError(
                f"there is no farm {farm!r} in {self.path}: {known}; add it there, or give the "
                f"address of its broker, for example {DEFAULT_URL}"
            ) from None


def configuration_file() -> Path:
    """Where the configuration file is, or would be."""
    named = os.environ.get(FILE_VARIABLE)
    if named:
        return Path(named).expanduser()
    folder = os.environ.get("XDG_CONFIG_HOME")
    # Any other path is to be ignored (XDG Base Directory Specification).
    base = Path(folder) if folder and Path(folder).is_absolute() else Path.home() / ".config"
    return base / "icefarm" / "config.toml"


def read_configuration() -> Configuration:
    """Read the configuration file; without one, there are no farms.

    Raises:
        InvalidRequestError: it cannot be read, or makes no sense; the text names the file.
    """
    path = configuration_file()
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if os.environ.get(FILE_VARIABLE):
            raise InvalidRequestError(
                f"there is no file {path}, which the variable {FILE_VARIABLE} names"
            ) from None
        return Configuration(path)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidRequestError(f"{path} cannot be read: {error}") from error
    _check_keys(path, "", values, _FILE_KEYS)
    tables = values.get("farms", {})
    if not isinstance(tables, dict):
        raise InvalidRequestError(f"farms in {path} is no table; write [farms.lab]")
    configuration = Configuration(
        path,
        default=_text(path, "default", values, required=False),
        farms={name: _read_farm(path, name, table) for name, table in tables.items()},
    )
    if configuration.default is not None and configuration.default not in configuration.farms:
        raise InvalidRequestError(
            f"the default farm {configuration.default!r} of {path} is none of its farms: "
            + (", ".join(configuration.farms) or "there are none")
        )
    return configuration


def _read_farm(path: Path, name: str, table: Any) -> BrokerAddress:
    where = f"farms.{name}"
    if not isinstance(table, dict):
        raise InvalidRequestError(f"{where} in {path} is no table; write [{where}]")
    if "://" in name:
        raise InvalidRequestError(f"the farm {name!r} in {path} has an address as its name")
    _check_keys(path, f" in [{where}]", table, _FARM_KEYS)
    url = _text(path, f"{where}.broker", table, required=True)
    user = _text(path, f"{where}.user", table, required=False)
    try:
        address = BrokerAddress.parse(url or "")
    except ValueError as error:
        raise InvalidRequestError(f"{where}.broker in {path}: {error}") from error
    if user is None:
        return address
    if address.user not in (None, user):
        raise InvalidRequestError(f"{where} in {path} names two users: {address.user} and {user}")
    return replace(address, user=user)


def _check_keys(path: Path, where: str, values: dict[str, Any], known: tuple[str, ...]) -> None:
    for key in values:
        if key not in known:
            raise InvalidRequestError(
                f"{path} has the key {key!r}{where}, which means nothing; known are "
                + ", ".join(known)
            )


def _text(path: Path, name: str, values: dict[str, Any], *, required: bool) -> str | None:
    value = values.get(name.rpartition(".")[2])
    if value is None and not required:
        return None
    if not isinstance(value, str) or not value:
        what = "is missing" if value is None else "is no text"
        raise InvalidRequestError(f'{name} in {path} {what}; write for example {name} = "..."')
    return value


def find_address(farm: str | None = None) -> BrokerAddress:
    """Where a farm is, and who logs in there.

    Args:
        farm: the URL of a broker, or the name of a farm in the configuration file; else the
            variable ICEFARM_BROKER (either of both), else the configuration's default farm, else
            the broker on this machine.

    Raises:
        InvalidRequestError: it is no address, there is no farm of this name, the configuration
            file makes no sense, or the keyring is locked.
    """
    return with_password(locate(farm)[0])


def locate(farm: str | None = None) -> tuple[BrokerAddress, str]:
    """The address, as `find_address` has it but without a password's look-up, and who named it.

    Raises:
        InvalidRequestError: see `find_address`.
    """
    named = farm or os.environ.get(URL_VARIABLE)
    in_variable = named == os.environ.get(URL_VARIABLE)
    by = f"the variable {URL_VARIABLE}" if in_variable else "the command"
    if named and "://" in named:
        return _parse(named), by
    configuration = read_configuration()
    if named:
        return configuration.address_of(named), f"{configuration.path}, as {named}"
    if configuration.default is not None:
        where = f"{configuration.path}, as its default {configuration.default}"
        return configuration.farms[configuration.default], where
    return _parse(DEFAULT_URL), "nothing, so it is taken to be on this machine"


def _parse(url: str) -> BrokerAddress:
    try:
        return BrokerAddress.parse(url)
    except ValueError as error:
        raise InvalidRequestError(str(error)) from error


def with_password(address: BrokerAddress) -> BrokerAddress:
    """The address with its user's password, from the environment or the keyring.

    It stays without one where nobody logs in, and where none is to be found: the broker decides.

    Raises:
        InvalidRequestError: the keyring does not give it, for example because it is locked.
    """
    if address.user is None or address.password is not None:
        return address
    given = os.environ.get(PASSWORD_VARIABLE)
    return replace(address, password=given or read_keyring(address))


def keyring_entry(address: BrokerAddress) -> str:
    """What a password is kept under: the login and the broker, whatever the farm is called."""
    return str(replace(address, root=DEFAULT_ROOT))


def read_keyring(address: BrokerAddress) -> str | None:
    """The password in the keyring; None where it has none, or where this machine has no keyring.

    Raises:
        InvalidRequestError: the keyring does not give it.
    """
    # It takes a tenth of a second, which who needs no password need not wait.
    import keyring
    from keyring.errors import KeyringError, NoKeyringError

    try:
        return keyring.get_password(KEYRING_SERVICE, keyring_entry(address))
    except NoKeyringError:
        log.info("this machine has no keyring in which a password could be")
        return None
    except KeyringError as error:
        raise InvalidRequestError(
            f"the keyring does not give the password of {address}: {error}; unlock it, or set the "
            f"variable {PASSWORD_VARIABLE}"
        ) from error


def write_keyring(address: BrokerAddress) -> None:
    """Keep the address' password in the keyring.

    Raises:
        InvalidRequestError: this machine has none, or it does not take it.
    """
    import keyring
    from keyring.errors import KeyringError, NoKeyringError

    try:
        keyring.set_password(KEYRING_SERVICE, keyring_entry(address), address.password or "")
    except NoKeyringError as error:
        raise InvalidRequestError(
            "this machine has no keyring that could keep a password; set the variable "
            f"{PASSWORD_VARIABLE} instead"
            + (", or install gnome-keyring or KWallet" if sys.platform == "linux" else "")
        ) from error
    except KeyringError as error:
        raise InvalidRequestError(
            f"the keyring does not take the password: {error}; unlock it, or set the variable "
            f"{PASSWORD_VARIABLE}"
        ) from error
