"""A command to boards of a reservation, such as `flash`, and the answer of each of them."""

import asyncio
import secrets
from collections.abc import Callable, Sequence

from icefarm.boards import BoardKey, BoardName
from icefarm.errors import FarmError, TimedOutError, from_broker, from_error
from icefarm.holding import Holding
from icefarm_broker import BrokerError, NobodyListensError
from icefarm_schemas import (
    CommandFinished,
    CommandRefused,
    Message,
    StreamClosed,
    StreamOpened,
)
from icefarm_schemas.topics import DEVICE_PROPERTY, FlashTopic, ResetTopic

READY_TIMEOUT = 120.0
"""Seconds; far more than flashing a board twice takes."""
FLASH_TIMEOUT = 300.0
"""Seconds; for large files and many boards of one agent."""

_RETRY = 0.5

Naming = Callable[[str, str, str, str], FlashTopic | ResetTopic]
"""The class of a command's topic: of a reservation, client, session and id."""


class Commanding:
    """One command, from its sending to the last answer; agents ignore an id that they had."""

    def __init__(self, holding: Holding, boards: Sequence[BoardName] | None) -> None:
        self._holding = holding
        self._session = holding.session
        self._view = holding.view
        self._id = secrets.token_hex(4)
        self._is_for_all = boards is None
        self._waited: set[BoardKey] = (
            {*holding.boards()} if boards is None else {holding.find(board) for board in boards}
        )
        self._errors: dict[BoardKey, FarmError] = {}
        # An agent that has started anew since it was sent knows nothing of it.
        self._boots = {agent: self._boot_of(agent) for agent, _ in self._waited}

    async def run(self, kind: Naming, payload: Message | bytes, timeout: float) -> None:
        """Send it and return when each board has done it.

        Raises:
            FarmError: what a board, or all of several, answered; see `_raise`.
        """
        what = kind.__name__.removesuffix("Topic").lower()
        topic = kind(self._holding.id, self._session.client, self._session.id, self._id)
        with self._holding.hearing(self._id, self._hear):
            try:
                async with asyncio.timeout(timeout):
                    await self._publish(topic, payload)
                    while self._waited:
                        self._look_for_losses()
                        if self._restarted():
                            await self._publish(topic, payload)
                        elif self._waited:
                            await self._session.while_listening(self._view.changed())
            except TimeoutError:
                for key in self._waited:
                    self._errors[key] = TimedOutError(
                        f"the board {key[1]!r} did not answer {what!r} within {timeout:g} s"
                    )
            except BrokerError as error:
                raise from_broker(error) from error
        self._raise()

    async def _publish(self, topic: FlashTopic | ResetTopic, payload: Message | bytes) -> None:
        named = () if self._is_for_all else sorted(board for _, board in self._waited)
        while True:
            try:
                return await self._session.connection.publish(
                    topic, payload, user_properties=[(DEVICE_PROPERTY, board) for board in named]
                )
            except NobodyListensError:
                # An agent that just came back has not subscribed yet.
                self._look_for_losses()
                await asyncio.sleep(_RETRY)

    def _hear(self, event: CommandFinished | CommandRefused | StreamOpened | StreamClosed) -> None:
        match event:
            case CommandFinished():
                answered = {(event.agent, event.device)} & self._waited
            case CommandRefused():
                answered = {key for key in self._waited if key[0] == event.agent}
            case _:
                return
        self._waited -= answered
        if event.error is not None:
            self._errors |= dict.fromkeys(answered, from_error(event.error))
        self._view.tell()

    def _look_for_losses(self) -> None:
        self._holding.check()
        for key in list(self._waited):
            if key not in self._holding.boards():
                self._waited.discard(key)
                self._errors[key] = self._holding.loss_of(key)

    def _boot_of(self, agent: str) -> str | None:
        state = self._view.agents.get(agent)
        return None if state is None else state.boot_id

    def _restarted(self) -> bool:
        """Whether an agent whose answer is missing has started again; each start is told once."""
        restarted = False
        for agent in {agent for agent, _ in self._waited}:
            # One that is offline has none. One whose boards are ready listens to the reservation.
            boot = self._boot_of(agent)
            ready = all(
                self._view.is_ready(*key, self._holding.id)
                for key in self._waited
                if key[0] == agent
            )
            if boot is not None and boot != self._boots[agent] and ready:
                self._boots[agent], restarted = boot, True
        return restarted

    def _raise(self) -> None:
        """Raise what went wrong: of one board its error, of several one that names each of them.

        Its class is the one that they share; where they do not, that of the first board.
        """
        errors = [self._errors[key] for key in sorted(self._errors)]
        if not errors:
            return
        if len(errors) == 1:
            raise errors[0]
        words = "; ".join(f"{key[1]}: {self._errors[key]}" for key in sorted(self._errors))
        boards = {
            key[1]: {"code": str(error.code), "message": str(error)}
            for key, error in sorted(self._errors.items())
        }
        raise type(errors[0])(words, {"boards": boards})
