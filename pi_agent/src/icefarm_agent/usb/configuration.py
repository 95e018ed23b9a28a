"""The agent's configuration file: which boards are ours, their firmware and labels.

It is TOML; deploy/agent.toml in the repository is a commented example.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)

from icefarm_agent.board import FirmwareError
from icefarm_agent.usb.uf2 import RP2040, RP2350, Uf2, parse_uf2
from icefarm_schemas import Name

_CHIPS: Mapping[str, frozenset[int]] = {"2e8a:0003": RP2040, "2e8a:000f": RP2350}
"""The UF2 families that each boot ROM takes."""


class ConfigurationError(Exception):
    """The configuration cannot be used; the text names the file and what is wrong in it."""


@dataclass(frozen=True)
class Product:
    """A kind of board."""

    name: str
    vendors: frozenset[int]
    models: frozenset[str]
    """In udev's spelling: _ for a space."""
    bootloaders: frozenset[str]
    """As "2e8a:0003"."""
    disk_labels: frozenset[str]
    """Of the disk that its bootloader shows; empty where any FAT file system will do."""
    family: int | None = None
    firmware: Mapping[str, Uf2] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)

    def families(self, bootloader: str | None = None) -> frozenset[int]:
        """The UF2 families for one bootloader, or for any of its; empty where that is unknown."""
        if self.family is not None:
            return frozenset({self.family})
        ids = self.bootloaders if bootloader is None else frozenset({bootloader})
        if not ids <= _CHIPS.keys():
            return frozenset()
        return frozenset().union(*(_CHIPS[i] for i in ids))


@dataclass(frozen=True)
class Configuration:
    """What the agent knows of the boards it may find."""

    products: tuple[Product, ...]
    """The first that fits a device counts."""
    board_labels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By serial number."""
    ignored: frozenset[str] = frozenset()
    """Serial numbers of devices that are left alone."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Of all boards."""
    source: str = "the agent's configuration file (`--config`)"
    """Where to write what is missing, for errors."""

    @staticmethod
    def load(path: Path | None = None) -> "Configuration":
        """Read a configuration file; without one, only what comes with the agent.

        Raises:
            ConfigurationError: a file cannot be read or is wrong.
        """
        own = _File() if path is None else _read(path)
        packaged = Path(str(files("icefarm_agent.usb") / "products.toml"))
        base = packaged.parent if path is None else path.parent
        common = _firmware(own.firmware, base, path or packaged, "firmware")
        products = [
            _product(product, common, where, where.parent, f"product {product.name!r}")
            for where, parsed in ((path or packaged, own), (packaged, _read(packaged)))
            for product in parsed.product
        ]
        serials = [board.serial for board in own.board]
        for serial in serials:
            if serials.count(serial) > 1:
                raise ConfigurationError(f"{path}: there are two [[board]] with serial {serial!r}")
        return Configuration(
            products=tuple(products),
            board_labels={board.serial: board.labels for board in own.board},
            ignored=frozenset(board.serial for board in own.board if board.ignore),
            labels=own.labels,
            **({} if path is None else {"source": str(path)}),
        )

    def labels_of(self, product: Product, serial: str) -> dict[str, str]:
        """Of one board; its own win over its product's, and those over what all have."""
        return {**self.labels, **product.labels, **self.board_labels.get(serial, {})}


def _as_ids(text: str) -> str:
    vendor, colon, product = text.lower().partition(":")
    try:
        if not colon:
            raise ValueError
        return f"{int(vendor, 16):04x}:{int(product, 16):04x}"
    except ValueError:
        raise ValueError(
            f'is vendor and product id in hexadecimal, as "2e8a:0003", not {text!r}'
        ) from None


def _as_vendor(value: Any) -> Any:
    if isinstance(value, str):
        try:
            return int(value, 16)
        except ValueError:
            raise ValueError(
                f'is a vendor id in hexadecimal, as "2e8a" or 0x2e8a, not {value!r}'
            ) from None
    return value


def _as_model(text: str) -> str:
    return text.strip().replace(" ", "_")


_Vendor = Annotated[int, BeforeValidator(_as_vendor), Field(ge=0, le=0xFFFF)]
_Ids = Annotated[str, AfterValidator(_as_ids)]
_Text = Annotated[str, StringConstraints(min_length=1)]
_Labels = dict[Name, Name]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Board(_Strict):
    serial: _Text
    labels: _Labels = Field(default_factory=dict)
    ignore: bool = False


class _Product(_Strict):
    name: Name
    vendors: list[_Vendor] = Field(min_length=1)
    models: list[Annotated[_Text, AfterValidator(_as_model)]] = Field(min_length=1)
    bootloaders: list[_Ids] = Field(min_length=1)
    disk_labels: list[_Text] = Field(default_factory=list)
    family: int | None = Field(default=None, ge=0, le=0xFFFFFFFF)
    firmware: dict[Name, _Text] = Field(default_factory=dict)
    labels: _Labels = Field(default_factory=dict)


class _File(_Strict):
    labels: _Labels = Field(default_factory=dict)
    firmware: dict[Name, _Text] = Field(default_factory=dict)
    product: list[_Product] = Field(default_factory=list)
    board: list[_Board] = Field(default_factory=list)


def _read(path: Path) -> _File:
    try:
        return _File.model_validate(tomllib.loads(path.read_text("utf-8")))
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not TOML: {error}") from error
    except ValidationError as error:
        raise ConfigurationError(
            "\n".join(f"{path}: {_key(e['loc'])}: {_problem(e)}" for e in error.errors())
        ) from None


def _key(location: tuple[int | str, ...]) -> str:
    """As a person finds it: the second [[product]]'s key is product[2].key."""
    text = ""
    for part in location:
        text += f"[{part + 1}]" if isinstance(part, int) else f".{part}" if text else part
    return text.removesuffix(".[key]")


def _problem(error: Any) -> str:
    if error["type"] == "extra_forbidden":
        return "there is no such key"
    if error["type"] == "missing":
        return "is missing"
    return str(error["msg"]).removeprefix("Value error, ")


def _product(
    product: _Product, common: Mapping[str, Uf2], path: Path, base: Path, key: str
) -> Product:
    result = Product(
        name=product.name,
        vendors=frozenset(product.vendors),
        models=frozenset(product.models),
        bootloaders=frozenset(product.bootloaders),
        disk_labels=frozenset(product.disk_labels),
        family=product.family,
        firmware={**common, **_firmware(product.firmware, base, path, f"{key}: firmware")},
        labels=product.labels,
    )
    for name in product.firmware:
        families = result.families()
        if families:
            try:
                result.firmware[name].check_chip(families)
            except FirmwareError as error:
                where = base / product.firmware[name]
                raise ConfigurationError(
                    f"{path}: {key}: firmware.{name}: {where}: {error}"
                ) from None
    return result


def _firmware(names: Mapping[str, str], base: Path, path: Path, key: str) -> dict[str, Uf2]:
    """Read the files and check them now, rather than when a holder waits for a board."""
    read = {}
    for name, file in names.items():
        where = base / file
        try:
            read[name] = parse_uf2(where.read_bytes())
        except OSError as error:
            raise ConfigurationError(
                f"{path}: {key}.{name}: cannot read {where}: {error.strerror}"
            ) from error
        except FirmwareError as error:
            raise ConfigurationError(f"{path}: {key}.{name}: {where}: {error}") from error
    return read
