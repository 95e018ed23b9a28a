"""What can go wrong between a part and the broker."""


class BrokerError(Exception):
    """Base of all errors of the connection to the broker."""


class BrokerUnreachableError(BrokerError):
    """No connection to the broker could be made in time."""


class LoginRefusedError(BrokerError):
    """The broker does not accept the user name and password."""


class NotAuthorisedError(BrokerError):
    """The broker's access list refuses a publish or subscription (reason code 135)."""


class NobodyListensError(BrokerError):
    """No one has subscribed to the topic that was published to (reason code 16)."""


class PublishRefusedError(BrokerError):
    """The broker refused a publish for another reason, such as the message's size."""


class ConnectionLostError(BrokerError):
    """The connection ended while something was under way."""


class TakenOverError(BrokerError):
    """Another process connected with this one's client id."""


class RequestTimedOutError(BrokerError):
    """No reply to a request came in time."""


class StreamLostError(BrokerError):
    """A stream cannot go on: bytes are missing, or its connection was lost."""
