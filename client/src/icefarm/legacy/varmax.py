"""The older package's client that measures variance."""

from collections.abc import Iterable

from icefarm.legacy.client import LegacyClient, seconds_to_queue
from icefarm.legacy.evaluations import VarMaxEvaluation
from icefarm.legacy.handlers import Logger


class VarMaxClient(LegacyClient):
    """Reserves boards that measure the variance of a signal; otherwise a `PulseCountClient`.

    Args:
        url: see there, as for the next three.
        client_name: who you are, where the broker asks for no login.
        logger: is told what goes wrong, and which farm is used.
        log_events: log every event.
        send_waveform: have the readings, too, with each variance.
    """

    _kind = "variance"
    _evaluation = VarMaxEvaluation

    def __init__(
        self,
        url: str,
        client_name: str,
        logger: Logger,
        log_events: bool = False,
        send_waveform: bool = False,
    ) -> None:
        super().__init__(url, client_name, logger, log_events)
        self.send_waveform = send_waveform
        """What `reserve` does where it is not told otherwise."""

    def reserve(
        self,
        amount: int,
        wait_for_available: bool = False,
        available_timeout: float | None = 60,
        kind: str = "variance",
        send_waveform: bool | None = None,
        flush_interval_seconds: float = 10,
        flush_at_bitstreams_remaining: int = 25,
    ) -> list[str]:
        """Reserve boards, as `PulseCountClient.reserve` does.

        With `send_waveform`, here or at the client, values are `[variance, readings]`.
        """
        arguments = self._arguments(send_waveform)
        wait = seconds_to_queue(wait_for_available, available_timeout)
        return self._reserve(amount, kind, arguments, wait)

    def reserveSpecific(
        self,
        serials: Iterable[str],
        kind: str = "variance",
        send_waveform: bool | None = None,
        flush_interval_seconds: float = 10,
        flush_at_bitstreams_remaining: int = 25,
    ) -> list[str]:
        """Reserve exactly these boards, as `PulseCountClient.reserveSpecific` does."""
        return self._reserve(list(serials), kind, self._arguments(send_waveform))

    def _arguments(self, send_waveform: bool | None) -> dict[str, bool]:
        return {"waveform": self.send_waveform if send_waveform is None else send_waveform}
