"""Commands of holders, brought to the devices that they are for; what nobody may say is refused."""

import logging
from collections.abc import Mapping

from icefarm_agent.commands import Command
from icefarm_agent.device import Device
from icefarm_agent.evaluations import Evaluation
from icefarm_agent.outbox import Outbox
from icefarm_agent.streams import StreamRequest
from icefarm_broker import Received
from icefarm_schemas import CommandRefused, Error, ErrorCode
from icefarm_schemas.topics import (
    DEVICE_PROPERTY,
    CloseTopic,
    CommandTopic,
    EvaluateTopic,
    FlashTopic,
    OpenTopic,
    ResetTopic,
)

log = logging.getLogger(__name__)


class Dispatch:
    """Knows who holds which of an agent's devices."""

    def __init__(self, agent: str, devices: Mapping[str, Device], outbox: Outbox) -> None:
        self._agent, self._devices, self._outbox = agent, devices, outbox

    async def take(self, command: Received) -> None:
        """Pass a command on, or say to its sender why not."""
        topic: CommandTopic = command.topic  # type: ignore[assignment]
        held = [
            (device, device.assignment)
            for device in self._devices.values()
            if device.assignment and device.assignment.reservation == topic.reservation
        ]
        if not held:
            over = f"the reservation {topic.reservation!r} is over, or has no board here"
            await self._refuse(topic, ErrorCode.RESERVATION_ENDED, over)
        elif any(assignment.client != topic.client for _, assignment in held):
            other = (
                f"the reservation {topic.reservation!r} is held by somebody else, not by "
                f"{topic.client!r}"
            )
            await self._refuse(topic, ErrorCode.NOT_HOLDER, other)
        else:
            for device, _ in held:
                await self._pass_on(command, topic, device)

    async def _pass_on(self, command: Received, topic: CommandTopic, device: Device) -> None:
        message, sender = command.message, (topic.client, topic.session)
        match topic:
            case EvaluateTopic(evaluation=name) if self._is_for(command, device):
                await device.evaluate(Evaluation(name, message, *sender))
            case FlashTopic(command=name) if self._is_for(command, device):
                await device.command(Command(name, *sender, image=message))
            case ResetTopic(command=name) if device.name in (message.devices or [device.name]):
                await device.command(Command(name, *sender))
            case OpenTopic(stream=name) if device.name == message.device:
                request = StreamRequest(name, topic.reservation, device.name, *sender)
                await device.open_stream(request)
            case CloseTopic(stream=name) if device.name == message.device:
                await device.close_stream(
                    StreamRequest(name, topic.reservation, device.name, *sender)
                )

    @staticmethod
    def _is_for(command: Received, device: Device) -> bool:
        """Whether a command is for a device: one without names is for all of a reservation."""
        named = [value for key, value in command.delivery.user_properties if key == DEVICE_PROPERTY]
        return not named or device.name in named

    async def _refuse(self, topic: CommandTopic, code: ErrorCode, message: str) -> None:
        log.info(
            "refused %s: %s",
            topic.build(),
            message,
            extra={"reservation": topic.reservation, "client": topic.client},
        )
        *_, name, command = topic.build().split("/")
        event = CommandRefused(
            reservation=topic.reservation,
            command=name,
            id=command,
            agent=self._agent,
            error=Error(code=code, message=message),
        )
        await self._outbox.put(topic.client, topic.session, event)
