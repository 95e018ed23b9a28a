"""Use the FPGA boards of an iCEFARM.

    import icefarm

    with icefarm.Client() as farm, farm.reserve(4) as boards:
        for result in boards.evaluate(["a.bin", "b.bin"]):
            print(result.bitstream, result.board, result.pulses)

`AsyncClient` has the same names, with `async with` and `await`.
"""

from icefarm.async_board import AsyncHeldBoard
from icefarm.async_client import AsyncClient
from icefarm.async_console import AsyncConsole
from icefarm.async_operator import AsyncOperator
from icefarm.async_reservation import AsyncReservation
from icefarm.attaching import AsyncAttachment
from icefarm.board import HeldBoard
from icefarm.client import Client
from icefarm.errors import (
    BoardLostError,
    ControlOfflineError,
    FarmError,
    FarmPermissionError,
    FarmUnreachableError,
    InternalFarmError,
    InvalidBitstreamError,
    InvalidFirmwareError,
    InvalidRequestError,
    LimitExceededError,
    MeasurementFailedError,
    NoSuchAgentError,
    NoSuchBehaviourError,
    NoSuchBoardError,
    NoSuchReservationError,
    NotAvailableError,
    NotHolderError,
    NotSupportedError,
    ReservationEndedError,
    StreamLostError,
    TimedOutError,
)
from icefarm.evaluating import Item
from icefarm.events import (
    AgentStopping,
    BoardFailed,
    BoardReady,
    BoardsAvailable,
    BoardUnbound,
    FarmEvent,
    ReservationEnded,
    ReservationExpiring,
)
from icefarm.operator import Operator
from icefarm.reservation import Attachment, Console, Reservation, UsbServer
from icefarm.results import Result, Source
from icefarm.usb.server import AsyncUsbServer
from icefarm.view import Agent, Board

__all__ = [
    "Agent",
    "AgentStopping",
    "AsyncAttachment",
    "AsyncClient",
    "AsyncConsole",
    "AsyncHeldBoard",
    "AsyncOperator",
    "AsyncReservation",
    "AsyncUsbServer",
    "Attachment",
    "Board",
    "BoardFailed",
    "BoardLostError",
    "BoardReady",
    "BoardUnbound",
    "BoardsAvailable",
    "Client",
    "Console",
    "ControlOfflineError",
    "FarmError",
    "FarmEvent",
    "FarmPermissionError",
    "FarmUnreachableError",
    "HeldBoard",
    "InternalFarmError",
    "InvalidBitstreamError",
    "InvalidFirmwareError",
    "InvalidRequestError",
    "Item",
    "LimitExceededError",
    "MeasurementFailedError",
    "NoSuchAgentError",
    "NoSuchBehaviourError",
    "NoSuchBoardError",
    "NoSuchReservationError",
    "NotAvailableError",
    "NotHolderError",
    "NotSupportedError",
    "Operator",
    "Reservation",
    "ReservationEnded",
    "ReservationEndedError",
    "ReservationExpiring",
    "Result",
    "Source",
    "StreamLostError",
    "TimedOutError",
    "UsbServer",
]
