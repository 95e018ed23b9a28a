"""What a test wants, from its marker."""

from dataclasses import dataclass
from typing import Any, Self

import pytest

import icefarm
from icefarm.requests import make
from icefarm_schemas import ReserveRequest
from pytest_icefarm.settings import SCOPES

_NAMES = ("behaviour", "count", "boards", "product", "labels", "arguments", "scope")

OVER = (icefarm.ReservationEndedError, icefarm.NoSuchReservationError)
"""What a request about a reservation that is over, perhaps for long, is answered."""


@dataclass(frozen=True)
class Wishes:
    """The arguments of `icefarm.Client.reserve` that a marker may have, checked and complete.

    Attributes:
        count: how many boards; None where they are named.
        boards: which; None for any.
    """

    behaviour: str
    count: int | None
    boards: tuple[str, ...] | None
    product: str | None
    labels: dict[str, str]
    arguments: dict[str, Any]

    @classmethod
    def of(cls, marker: pytest.Mark | None) -> tuple[Self, str | None]:
        """The wishes and the scope of a marker; without one, any board that counts pulses.

        The test fails when the marker has an argument that there is not, or that makes no sense.
        """
        try:
            return cls._read(marker)
        except icefarm.InvalidRequestError as error:
            why = f"@pytest.mark.board cannot be understood: {error}"
        pytest.fail(why, pytrace=False)

    @classmethod
    def _read(cls, marker: pytest.Mark | None) -> tuple[Self, str | None]:
        if marker is None:
            return cls._checked(), None
        if marker.args:
            raise icefarm.InvalidRequestError(
                f"it takes no positional arguments; write count={marker.args[0]!r}, for example"
            )
        unknown = [name for name in marker.kwargs if name not in _NAMES]
        if unknown:
            raise icefarm.InvalidRequestError(
                f"there is no argument {unknown[0]!r}; there are {', '.join(_NAMES)}"
            )
        wishes = dict(marker.kwargs)
        scope = wishes.pop("scope", None)
        if scope not in (None, *SCOPES):
            raise icefarm.InvalidRequestError(
                f"scope={scope!r}: write {' or '.join(map(repr, SCOPES))}"
            )
        return cls._checked(**wishes), scope

    @classmethod
    def _checked(
        cls,
        behaviour: Any = "pulsecount",
        count: Any = None,
        boards: Any = None,
        product: Any = None,
        labels: Any = None,
        arguments: Any = None,
    ) -> Self:
        if boards is not None and not isinstance(boards, list | tuple):
            raise icefarm.InvalidRequestError(f"boards={boards!r}: write a list of names")
        if count is not None and boards is not None:
            raise icefarm.InvalidRequestError("give either count or boards")
        request = make(
            ReserveRequest,
            behaviour=behaviour,
            count=1 if count is None and boards is None else count,
            devices=boards,
            product=product,
            labels={} if labels is None else labels,
            arguments={} if arguments is None else arguments,
        )
        return cls(
            behaviour=request.behaviour,
            count=request.count,
            boards=request.devices,
            product=request.product,
            labels=request.labels,
            arguments=request.arguments,
        )

    @property
    def number(self) -> int:
        """How many boards."""
        return len(self.boards) if self.boards is not None else self.count or 0

    def __str__(self) -> str:
        which = ", ".join(self.boards or ()) or f"{self.count} of the farm's boards"
        narrowed = [f"of product {self.product!r}"] if self.product else []
        narrowed += [f"with {name}={value}" for name, value in self.labels.items()]
        return " ".join([which, *narrowed, f"for {self.behaviour!r}"])

    def reserve(self, client: icefarm.Client, wait: float) -> icefarm.Reservation:
        """Reserve the boards, and queue for them for `wait` seconds.

        Raises:
            FarmError: as `icefarm.Client.reserve`.
        """
        return client.reserve(
            self.count,
            behaviour=self.behaviour,
            boards=self.boards,
            product=self.product,
            labels=self.labels,
            arguments=self.arguments,
            wait=wait or None,
        )

    def restore(self, reservation: icefarm.Reservation) -> bool:
        """Let the boards of a reservation do what is wished again; False when some are lost."""
        try:
            # It restarts only those that do something else, or with other arguments.
            reservation.change(self.behaviour, arguments=self.arguments)
        except (icefarm.BoardLostError, *OVER):
            return False
        return len(reservation) == self.number
