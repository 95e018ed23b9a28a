from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icefarm_agent.board import FirmwareError
from icefarm_agent.usb.uf2 import MAX_BYTES, RP2040, RP2350, parse_uf2

from .uf2_files import ERRATUM, RP2040_FAMILY, RP2350_FAMILY, block, uf2


@given(st.integers(1, 40), st.randoms())
def test_blocks_in_any_order_are_whole(count: int, random: Random) -> None:
    data = uf2(count)
    blocks = [data[i : i + 512] for i in range(0, len(data), 512)]
    random.shuffle(blocks)
    parsed = parse_uf2(b"".join(blocks))
    assert parsed.blocks == count
    assert parsed.families == {RP2040_FAMILY}


@given(st.integers(2, 20), st.data())
def test_a_missing_block_is_named(count: int, data: st.DataObject) -> None:
    missing = data.draw(st.integers(0, count - 1))
    whole = uf2(count)
    with pytest.raises(
        FirmwareError, match=f"{count - 1} of {count} blocks, and number {missing},"
    ):
        parse_uf2(whole[: missing * 512] + whole[(missing + 1) * 512 :])


@given(st.integers(1, 511))
def test_a_truncated_file_says_where(missing: int) -> None:
    with pytest.raises(
        FirmwareError, match=f"truncated: it ends {512 - missing} bytes into its bl"
    ):
        parse_uf2(uf2(3)[:-missing])


@given(st.integers(0, 3 * 512 - 1), st.integers(1, 255))
def test_a_damaged_file_is_refused_or_only_its_content_differs(at: int, change: int) -> None:
    whole = bytearray(uf2(3))
    whole[at] ^= change
    # Addresses, flags and payload are the file's own business; what identifies a block is not.
    protected = {*range(0, 8), *range(20, 28), *range(508, 512)}
    if at % 512 in protected:
        with pytest.raises(FirmwareError):
            parse_uf2(bytes(whole))


@given(st.binary(max_size=2000))
def test_anything_else_is_refused_with_a_firmware_error(data: bytes) -> None:
    with pytest.raises(FirmwareError):
        parse_uf2(data)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty"),
        (b"\x7fELF" + bytes(508), "an ELF file"),
        (b"\x7e\xaa\x99\x7e" + bytes(508), "an iCE40 bitstream"),
        (b"hello" * 200, "begins b'hellohel'"),
        (uf2(2) + b"\0" * 512, "block 3 of the UF2 file is damaged: its magic numbers"),
        (block(0, 2) + block(1, 3), "says that there are 3 blocks, others say 2"),
        (block(5, 2), "number 5 of 2"),
        (block(0, 1, size=477), "claims 477 bytes of payload"),
        (block(0, 1, size=128), "takes pages of 256 bytes"),
        (block(0, 1, flags=0x2001), "takes pages of 256 bytes"),
        (block(0, 1, address=0x10000080), "takes pages of 256 bytes"),
        (block(0, 0xFFFFFFFF), "1 of 4294967295 blocks"),
        (ERRATUM, "nothing but a workaround"),
        (uf2(MAX_BYTES // 512) + block(0, 1), "4,194,304 are allowed"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_error_says_what_is_wrong(data: bytes, says: str) -> None:
    with pytest.raises(FirmwareError, match=says):
        parse_uf2(data)


def test_the_largest_that_can_be_sent_is_taken() -> None:
    assert parse_uf2(uf2(MAX_BYTES // 512)).blocks == 8192


def test_the_workaround_for_an_erratum_is_no_missing_block() -> None:
    parsed = parse_uf2(ERRATUM + uf2(3, RP2350_FAMILY))
    assert parsed.families == {RP2350_FAMILY}
    parsed.check_chip(RP2350)


def test_a_file_for_another_chip_is_refused() -> None:
    with pytest.raises(FirmwareError, match="for RP2350 ARM secure, while the board takes RP2040"):
        parse_uf2(uf2(3, RP2350_FAMILY)).check_chip(RP2040)
    with pytest.raises(FirmwareError, match="does not say which chip"):
        parse_uf2(uf2(3, None)).check_chip(RP2040)


def test_a_file_for_several_chips_fits_each() -> None:
    parsed = parse_uf2(uf2(3) + uf2(5, RP2350_FAMILY))
    parsed.check_chip(RP2040)
    parsed.check_chip(RP2350)
