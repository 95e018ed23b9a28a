"""`variance`: how much a circuit's output moves between readings of an ADC."""

from itertools import pairwise
from typing import Any

from icefarm_agent.behaviours import ArgumentsError
from icefarm_agent.behaviours.measuring import Measuring
from icefarm_schemas import Measurement

READINGS = 500


class Variance(Measuring):
    """Reads FPGA pin 27 five hundred times. With `waveform: true` the readings are in the result.

    The fitness is the sum of absolute differences of consecutive readings over their count.
    """

    firmware = "variance"
    result = "samples:"

    def _take_arguments(self, arguments: dict[str, Any]) -> None:
        waveform = arguments.pop("waveform", False)
        if not isinstance(waveform, bool):
            raise ArgumentsError(f"variance takes waveform: true or false, not {waveform!r}")
        if arguments:
            raise ArgumentsError(
                f"variance takes only the argument waveform, not {', '.join(arguments)}"
            )
        self._with_waveform = waveform

    def _measurement(self, values: str) -> Measurement:
        samples = tuple(int(value) for value in values.split(","))
        if len(samples) != READINGS:
            raise ValueError(f"{len(samples)} readings")
        return Measurement(
            variance=sum(abs(b - a) for a, b in pairwise(samples)) / len(samples),
            waveform=samples if self._with_waveform else None,
        )
