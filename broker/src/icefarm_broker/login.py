"""Whether the broker takes a user's name and password, and what it lets that user publish."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from icefarm_broker.address import BrokerAddress
from icefarm_broker.errors import (
    BrokerUnreachableError,
    LoginRefusedError,
    NobodyListensError,
    NotAuthorisedError,
)
from icefarm_broker.mqtt import MqttClient
from icefarm_broker.packets import Outgoing
from icefarm_schemas import CONTENT_TYPE
from icefarm_schemas.topic import Topic

_PATIENCE = 5.0
"""Seconds that it may take in all."""


async def may_publish(address: BrokerAddress, user: str, password: str, topic: Topic) -> bool:
    """Log in as `user`, and see whether the access list lets him publish to `topic`.

    A message without fields is published to it, not retained.

    Raises:
        LoginRefusedError: the broker does not take the name and password.
        BrokerUnreachableError: it does not answer within some seconds.
        ConnectionLostError: it cut the connection meanwhile.
    """
    async with _logged_in(address, user, password) as mqtt:
        try:
            await mqtt.publish_and_confirm(
                Outgoing(topic.build(address.root), b"{}", content_type=CONTENT_TYPE)
            )
        except NotAuthorisedError:
            return False
        except NobodyListensError:
            return True
        return True


async def takes_anybody(address: BrokerAddress) -> bool:
    """Whether the broker has no accounts, and takes any name without a password.

    Raises:
        BrokerUnreachableError, ConnectionLostError: as `may_publish`.
    """
    try:
        async with _logged_in(address, f"anybody-{secrets.token_hex(6)}", ""):
            return True
    except LoginRefusedError:
        return False


@asynccontextmanager
async def _logged_in(address: BrokerAddress, user: str, password: str) -> AsyncIterator[MqttClient]:
    mqtt = MqttClient(
        replace(address, user=user, password=password),
        f"login-{secrets.token_hex(6)}",
        lambda: None,
        lambda delivery: delivery.acknowledge(),
        {},
        will=None,
        clean_start=True,
        session_expiry=0,
        keepalive=10,
        receive_maximum=1,
    )
    try:
        async with asyncio.timeout(_PATIENCE):
            await mqtt.__aenter__()
            try:
                yield mqtt
            finally:
                await mqtt.close()
    except TimeoutError:
        raise BrokerUnreachableError(
            f"the broker at {address} did not answer a login within {_PATIENCE:g} s"
        ) from None
