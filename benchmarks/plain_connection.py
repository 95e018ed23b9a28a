"""A connection to the broker with nothing of the farm's above it."""

from collections.abc import Callable

from icefarm_broker import BrokerAddress
from icefarm_broker.mqtt import MqttClient
from icefarm_broker.packets import Delivery, Outgoing


async def connect(url: str, name: str, deliver: Callable[[Delivery], None]) -> MqttClient:
    """Connect; `deliver` is called with each message, and acknowledges it."""
    client = MqttClient(
        BrokerAddress.parse(url),
        name,
        lambda: None,
        deliver,
        {},
        will=Outgoing(f"floor/{name}/will", b""),
        clean_start=True,
        session_expiry=0,
        keepalive=60,
        receive_maximum=100,
    )
    return await client.__aenter__()
