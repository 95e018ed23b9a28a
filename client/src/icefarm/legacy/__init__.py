"""The names of the older, HTTP-based `icefarm` package (to 0.1.16), on a farm of this one.

A script for it runs after its import is changed:

    from icefarm.legacy import PulseCountClient

What differs, and what to write instead, is in the guide "Migrate from the older package". New
scripts use `icefarm.Client`, which tells more and does more.
"""

from icefarm.legacy.evaluations import (
    Evaluation,
    EvaluationFailed,
    PulseCountEvaluation,
    Result,
    VarMaxEvaluation,
    batch,
)
from icefarm.legacy.handlers import (
    AbstractEventHandler,
    DefaultBaseEventHandler,
    Event,
    EventServer,
    LoggerEventHandler,
    register,
)
from icefarm.legacy.pulsecount import PulseCountClient
from icefarm.legacy.varmax import VarMaxClient

__all__ = [
    "AbstractEventHandler",
    "DefaultBaseEventHandler",
    "Evaluation",
    "EvaluationFailed",
    "Event",
    "EventServer",
    "LoggerEventHandler",
    "PulseCountClient",
    "PulseCountEvaluation",
    "Result",
    "VarMaxClient",
    "VarMaxEvaluation",
    "batch",
    "register",
]
