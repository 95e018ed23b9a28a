from pathlib import Path

import pytest

from icefarm_agent.usb.configuration import Configuration, ConfigurationError

from .uf2_files import RP2350_FAMILY, uf2

EXAMPLE = Path(__file__).parents[2] / "deploy" / "agent.toml"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "default.uf2").write_bytes(uf2(4))
    (tmp_path / "other.uf2").write_bytes(uf2(5))
    (tmp_path / "pico2.uf2").write_bytes(uf2(4, RP2350_FAMILY))
    (tmp_path / "damaged.uf2").write_bytes(uf2(4)[:-100])
    return tmp_path / "agent.toml"


def load(file: Path, text: str) -> Configuration:
    file.write_text(text)
    return Configuration.load(file)


OWN_PRODUCT = """
[[product]]
name = "own"
vendors = ["2e8a", 0x1209]
models = ["Pico", "My Board"]
bootloaders = ["2E8A:3"]
"""


def test_without_a_file_the_pico_ice_is_known() -> None:
    (product,) = Configuration.load().products
    assert product.name == "pico-ice"
    assert product.vendors == {0x2E8A, 0x1209}
    assert product.bootloaders == {"2e8a:0003", "2e8a:000f"}
    assert not product.firmware


def test_firmware_is_read_beside_the_file_and_a_product_may_have_its_own(file: Path) -> None:
    configuration = load(
        file,
        '[firmware]\ndefault = "default.uf2"\npulsecount = "default.uf2"\n'
        + OWN_PRODUCT
        + '[product.firmware]\ndefault = "other.uf2"\n',
    )
    own, packaged = configuration.products
    assert (own.name, packaged.name) == ("own", "pico-ice")
    assert {name: image.blocks for name, image in own.firmware.items()} == {
        "default": 5,
        "pulsecount": 4,
    }
    assert packaged.firmware["default"].blocks == 4
    assert own.models == {"Pico", "My_Board"}
    assert own.bootloaders == {"2e8a:0003"}


def test_a_boards_labels_win_over_its_products_and_those_over_all(file: Path) -> None:
    configuration = load(
        file,
        '[labels]\nroom = "b12"\nchip = "?"\nfpga = "?"\n'
        + OWN_PRODUCT
        + 'labels = { chip = "rp2040", fpga = "?" }\n'
        '[[board]]\nserial = "A1"\nlabels = { fpga = "up5k" }\n'
        '[[board]]\nserial = "A2"\nignore = true\n',
    )
    own = configuration.products[0]
    assert configuration.labels_of(own, "A1") == {"room": "b12", "chip": "rp2040", "fpga": "up5k"}
    assert configuration.labels_of(own, "A3") == {"room": "b12", "chip": "rp2040", "fpga": "?"}
    assert configuration.ignored == {"A2"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("labels = ", "is not TOML: "),
        ("[lables]\n", "agent.toml: lables: there is no such key"),
        (OWN_PRODUCT + "colour = 1\n", r"product\[1\].colour: there is no such key"),
        ('[[product]]\nname = "a"\n', r"product\[1\].vendors: is missing"),
        (OWN_PRODUCT.replace("2E8A:3", "2e8a"), r"product\[1\].bootloaders\[1\]: .*2e8a:0003"),
        (OWN_PRODUCT.replace('"2e8a"', '"pico"'), r"product\[1\].vendors\[1\]: .*hexadecimal"),
        ('[[board]]\nserial = "A"\n[[board]]\nserial = "A"\n', "two .*board.* with serial 'A'"),
        ('[labels]\n"a/b" = "c"\n', "labels.a/b: .*slash"),
        ('[firmware]\ndefault = "none.uf2"\n', "firmware.default: cannot read .*none.uf2: No such"),
        ('[firmware]\ndefault = "damaged.uf2"\n', "firmware.default: .*damaged.uf2: .*truncated"),
        (
            OWN_PRODUCT + '[product.firmware]\ndefault = "pico2.uf2"\n',
            "product 'own': firmware.default: .*pico2.uf2: .*for another chip",
        ),
    ],
)
def test_what_is_wrong_is_named_with_the_file_and_the_key(file: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as error:
        load(file, text)
    assert str(file) in str(error.value)


def test_a_file_that_is_not_there_is_named(file: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot read .*agent.toml: No such file"):
        Configuration.load(file)


def test_the_example_is_right(tmp_path: Path) -> None:
    firmware = tmp_path / "firmware"
    firmware.mkdir()
    for name in ("default", "pulsecount", "variance"):
        (firmware / f"{name}.uf2").write_bytes(uf2(4))
    (firmware / "pico2-default.uf2").write_bytes(uf2(4, RP2350_FAMILY))
    text = EXAMPLE.read_text()
    assert set(load(tmp_path / "agent.toml", text).products[0].firmware) == {
        "default",
        "pulsecount",
        "variance",
    }
    # What is commented out is meant to be uncommented.
    lines = [line.removeprefix("# ") for line in text.splitlines()]
    begin = lines.index("[[product]]")
    shown = [line for line in lines[begin:] if line[:1] == "[" or " = " in line]
    shown_and_given = "\n".join([*text.splitlines()[: begin - 4], *shown])
    configuration = load(tmp_path / "agent.toml", shown_and_given)
    assert [product.name for product in configuration.products] == ["pico2-ice", "pico-ice"]
    assert configuration.ignored == {"E6614C311B7E0002"}
