"""`pulsecount`: how many rising edges a circuit makes in one second."""

from icefarm_agent.behaviours.measuring import Measuring
from icefarm_schemas import Measurement


class PulseCount(Measuring):
    """Counts on FPGA pin 27. Takes no arguments."""

    firmware = "pulsecount"
    result = "pulses:"

    def _measurement(self, values: str) -> Measurement:
        return Measurement(pulses=int(values))
