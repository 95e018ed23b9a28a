"""The older package's client that counts pulses."""

from collections.abc import Iterable

from icefarm.legacy.client import LegacyClient, seconds_to_queue
from icefarm.legacy.evaluations import PulseCountEvaluation
from icefarm.legacy.handlers import Logger


class PulseCountClient(LegacyClient):
    """Reserves boards that count pulses, and measures bitstreams on them.

    It connects at once and needs no `with`: what it holds is given back by `stop`, and by itself
    when the program ends.

    Args:
        url: `http://...`, as of the older control server: the farm is then the configured one, else
            the broker on that host. Or this farm's address or name, as for `icefarm.Client`.
        client_name: who you are, where the broker asks for no login.
        logger: is told what goes wrong, and which farm is used.
        log_events: log every event.

    Raises:
        FarmUnreachableError, FarmPermissionError, InvalidRequestError: see `icefarm.Client`.
    """

    _kind = "pulsecount"
    _evaluation = PulseCountEvaluation

    def __init__(
        self, url: str, client_name: str, logger: Logger, log_events: bool = False
    ) -> None:
        super().__init__(url, client_name, logger, log_events)

    def reserve(
        self,
        amount: int,
        wait_for_available: bool = False,
        available_timeout: float | None = 60,
        kind: str = "pulsecount",
        flush_interval_seconds: float = 10,
        flush_at_bitstreams_remaining: int = 25,
    ) -> list[str]:
        """Reserve boards, wait until they are ready, and return their names.

        Args:
            amount: how many.
            wait_for_available: queue for them when they are not free.
            available_timeout: seconds to queue; None for as long as the farm lets one queue.
            kind: what they do.
            flush_interval_seconds: without effect: each result comes when it is there.
            flush_at_bitstreams_remaining: without effect, like it.

        Raises:
            NotAvailableError: not enough of them are free, or were within the time.
            BoardLostError, ControlOfflineError: see `icefarm.Client.reserve`.
        """
        return self._reserve(
            amount, kind, wait=seconds_to_queue(wait_for_available, available_timeout)
        )

    def reserveSpecific(
        self,
        serials: Iterable[str],
        kind: str = "pulsecount",
        flush_interval_seconds: float = 10,
        flush_at_bitstreams_remaining: int = 25,
    ) -> list[str]:
        """Reserve exactly these boards, as `reserve` does.

        Raises:
            NotAvailableError, NoSuchBoardError: one of them is not free, or not there.
        """
        return self._reserve(list(serials), kind)
