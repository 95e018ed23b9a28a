"""What one reservation asks of one device, and the answers that it gets."""

from icefarm_agent.commands import Command, command_queue
from icefarm_agent.evaluations import Evaluation, evaluation_queue
from icefarm_agent.metrics import count_evaluation
from icefarm_agent.outbox import Outbox
from icefarm_schemas import (
    CommandFinished,
    Error,
    EvaluationFinished,
    Measurement,
    utc_now,
)


class Work:
    """Evaluations and commands that wait, and the firmware of the holder's own.

    Attributes:
        behaviour: what the device does while it measures; it may be changed.
        firmware: a UF2 of the holder's, in the place of the behaviour's firmware.
    """

    def __init__(
        self, agent: str, device: str, reservation: str, behaviour: str, outbox: Outbox
    ) -> None:
        self._agent, self._device = agent, device
        self._outbox = outbox
        self.reservation = reservation
        self.behaviour = behaviour
        self.firmware: bytes | None = None
        self.evaluations = evaluation_queue()
        self.commands = command_queue()

    async def take_evaluation(self, evaluation: Evaluation, refusal: Error | None) -> None:
        """Queue a bitstream, unless there is a reason to refuse it, which is its result then.

        Of one that has been measured already, the result is sent again.
        """
        before = self.evaluations.result_of(evaluation)
        if before is not None:
            await self._outbox.put(evaluation.client, evaluation.session, before)
            return
        error = refusal or self.evaluations.add(evaluation)
        if error is not None:
            result = self._evaluated(evaluation, None, error, 0)
            count_evaluation(result)
            await self._outbox.put(evaluation.client, evaluation.session, result)

    async def take_command(self, command: Command, refusal: Error | None) -> None:
        """Queue a command likewise."""
        before = self.commands.result_of(command)
        if before is not None:
            await self._outbox.put(command.client, command.session, before)
            return
        error = refusal or self.commands.add(command)
        if error is not None:
            await self._outbox.put(
                command.client, command.session, self._carried_out(command, error, 0)
            )

    async def evaluated(
        self,
        evaluation: Evaluation,
        measurement: Measurement | None,
        error: Error | None,
        seconds: float,
    ) -> None:
        """Give an evaluation its result: a measurement or an error."""
        result = self._evaluated(evaluation, measurement, error, seconds)
        self.evaluations.finish(evaluation, result)
        count_evaluation(result)
        await self._outbox.put(evaluation.client, evaluation.session, result)

    async def carried_out(self, command: Command, error: Error | None, seconds: float) -> None:
        """Give a command its result."""
        result = self._carried_out(command, error, seconds)
        self.commands.finish(command, result)
        await self._outbox.put(command.client, command.session, result)

    async def refuse_all(self, error: Error) -> None:
        """Answer all that still waits."""
        for evaluation in self.evaluations.drain():
            await self.evaluated(evaluation, None, error, 0)
        for command in self.commands.drain():
            await self.carried_out(command, error, 0)

    def _evaluated(
        self,
        evaluation: Evaluation,
        measurement: Measurement | None,
        error: Error | None,
        seconds: float,
    ) -> EvaluationFinished:
        return EvaluationFinished(
            reservation=self.reservation,
            evaluation=evaluation.id,
            agent=self._agent,
            device=self._device,
            behaviour=self.behaviour,
            measurement=measurement,
            error=error,
            seconds=round(seconds, 6),
            finished_at=utc_now(),
        )

    def _carried_out(
        self, command: Command, error: Error | None, seconds: float
    ) -> CommandFinished:
        return CommandFinished(
            reservation=self.reservation,
            command=command.name,
            id=command.id,
            agent=self._agent,
            device=self._device,
            error=error,
            seconds=round(seconds, 6),
        )
