"""iCEFARM and its Mosquitto: the typed connection, accounts, and running a broker here."""

from icefarm_broker.address import DEFAULT_URL, URL_VARIABLE, BrokerAddress
from icefarm_broker.connection import KEEPALIVE, Connection
from icefarm_broker.errors import (
    BrokerError,
    BrokerUnreachableError,
    ConnectionLostError,
    LoginRefusedError,
    NobodyListensError,
    NotAuthorisedError,
    PublishRefusedError,
    RequestTimedOutError,
    StreamLostError,
    TakenOverError,
)
from icefarm_broker.happenings import (
    Connected,
    Disconnected,
    Happening,
    Invalid,
    PresenceMessages,
    Received,
    Synced,
)
from icefarm_broker.login import may_publish, takes_anybody
from icefarm_broker.requester import Requester
from icefarm_broker.retained import RetainedStates
from icefarm_broker.stream import Stream

__all__ = [
    "DEFAULT_URL",
    "KEEPALIVE",
    "URL_VARIABLE",
    "BrokerAddress",
    "BrokerError",
    "BrokerUnreachableError",
    "Connected",
    "Connection",
    "ConnectionLostError",
    "Disconnected",
    "Happening",
    "Invalid",
    "LoginRefusedError",
    "NobodyListensError",
    "NotAuthorisedError",
    "PresenceMessages",
    "PublishRefusedError",
    "Received",
    "RequestTimedOutError",
    "Requester",
    "RetainedStates",
    "Stream",
    "StreamLostError",
    "Synced",
    "TakenOverError",
    "may_publish",
    "takes_anybody",
]
