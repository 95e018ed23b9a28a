"""What can go wrong between a bitstream and its waveform."""


class BitstreamError(Exception):
    """The bitstream has no waveform: damaged, for another device, or not digital.

    The message is a sentence for the person who sent the bitstream.
    """


class ToolsMissing(RuntimeError):
    """Project IceStorm is not installed; the message says what to install."""
