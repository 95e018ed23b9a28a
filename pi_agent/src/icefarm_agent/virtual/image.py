"""Is this a whole, undamaged bitstream for the iCE40UP5K?

The container is a stream of commands, described by Project IceStorm (docs/format.html): after the
preamble, each command byte has its operation in the upper four bits and the length of its argument
in the lower four. iceunpack reads the same stream but answers nearly everything with "unexpected
end of file" or "CRC check failed", so the questions that a user has are asked here.
"""

from binascii import crc_hqx

from icefarm_agent.virtual.errors import BitstreamError

PREAMBLE = bytes.fromhex("7EAA997E")
IMAGE_SIZE = 104_090
"""Bytes of an iCE40UP5K image as icepack writes it and the boards' firmware expects it."""

# Width and height in bits of configuration bank 0, which is enough to tell the devices apart.
# Read from what icepack writes for an empty design of each device.
_DEVICES = {
    (692, 336): "5k",
    (692, 176): "u4k",
    (332, 144): "1k",
    (872, 272): "8k",
    (182, 80): "384",
    (656, 176): "lm4k",
}
_BANKS_OF_5K = {0: (692, 336), 1: (692, 176), 2: (692, 336), 3: (692, 176)}

_CRAM_DATA, _BRAM_DATA, _RESET_CRC, _WAKEUP, _REBOOT = 1, 3, 5, 6, 8


def check_image(image: bytes) -> None:
    """Raise BitstreamError unless the bytes are a complete iCE40UP5K bitstream.

    Checked in the order in which the answers help most: empty, no iCE40 image, another device,
    truncated, damaged.
    """
    if not image:
        raise BitstreamError(f"the bitstream is empty: 0 bytes of {IMAGE_SIZE:,} needed")
    start = image.find(PREAMBLE)
    if start < 0:
        raise BitstreamError(
            f"not an iCE40 bitstream: the preamble 7E AA 99 7E is nowhere in its "
            f"{len(image):,} bytes"
        )
    _Walk(image, start + len(PREAMBLE)).run()
    if len(image) < IMAGE_SIZE:
        raise _truncated(image)


def _truncated(image: bytes) -> BitstreamError:
    return BitstreamError(
        f"the bitstream is truncated: {len(image):,} bytes of {IMAGE_SIZE:,} needed"
    )


class _Walk:
    """One pass over the commands, with the little state that they set."""

    def __init__(self, image: bytes, position: int) -> None:
        self.image = image
        self.position = position
        self.crc_from = position
        self.bank = self.width = self.height = 0
        self.banks_written: set[int] = set()

    def take(self, count: int) -> int:
        """The next `count` bytes as a number, most significant first."""
        end = self.position + count
        if end > len(self.image):
            raise _truncated(self.image)
        value = int.from_bytes(self.image[self.position : end], "big")
        self.position = end
        return value

    def run(self) -> None:
        while True:
            at = self.position
            command = self.take(1)
            argument = self.take(command & 0x0F)
            match command >> 4:
                case 0 if argument == _WAKEUP:
                    break
                case 0 if argument == _RESET_CRC:
                    self.crc_from = self.position
                case 0 if argument == _CRAM_DATA:
                    self.check_device()
                    self.banks_written.add(self.bank)
                    self.skip_data()
                case 0 if argument == _BRAM_DATA:
                    self.skip_data()
                case 1:
                    self.bank = argument
                case 2:
                    self.check_crc(at)
                case 6:
                    self.width = argument + 1
                case 7:
                    self.height = argument
                case 4 | 5 | 8 | 9:
                    pass  # boot address, oscillator speed, offset, warm boot: nothing to check
                case _ if argument == _REBOOT:
                    raise BitstreamError(
                        "the bitstream only selects another image to boot; it holds no circuit"
                    )
                case _:
                    raise BitstreamError(
                        f"the bitstream is damaged: unknown command {command:#04x} "
                        f"{argument:#x} at byte {at:,}"
                    )
        if self.banks_written != set(_BANKS_OF_5K):
            raise BitstreamError(
                f"the bitstream configures {len(self.banks_written)} of the 4 banks of an iCE40UP5K"
            )

    def check_device(self) -> None:
        size = (self.width, self.height)
        if self.bank == 0 and _DEVICES.get(size, "5k") != "5k":
            raise BitstreamError(
                f"the bitstream is for another device: iCE40 {_DEVICES[size]}, but the board has "
                f"an iCE40UP5K (5k)"
            )
        if _BANKS_OF_5K.get(self.bank) != size:
            raise BitstreamError(
                f"the bitstream is for another device, or damaged: bank {self.bank} is "
                f"{self.width} x {self.height} bits, which no iCE40UP5K has"
            )

    def skip_data(self) -> None:
        self.position += self.width * self.height // 8
        if self.take(2) != 0:
            raise BitstreamError(
                f"the bitstream is damaged: the data of bank {self.bank} does not end in zeros"
            )

    def check_crc(self, at: int) -> None:
        # CRC-16/CCITT from 0xFFFF over everything since the reset, its own two bytes included,
        # leaves 0.
        if crc_hqx(self.image[self.crc_from : self.position], 0xFFFF) != 0:
            raise BitstreamError(
                f"the bitstream is damaged: the CRC at byte {at:,} does not match the content"
            )
