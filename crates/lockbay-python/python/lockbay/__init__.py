"""Leader election, idempotent jobs and sagas for services that move money."""

import atexit

from lockbay import _lockbay, errors
from lockbay._lockbay import (
    EVENTS,
    Job,
    JobOutcome,
    LockBay,
    Movement,
    PayoutCall,
    StepCall,
    done,
    undone,
)
from lockbay._step import NOT_DONE, SagaStep, StepContext
from lockbay.errors import Failed, LockBayError

__all__ = [
    "EVENTS",
    "Failed",
    "Job",
    "JobOutcome",
    "LockBay",
    "LockBayError",
    "Movement",
    "NOT_DONE",
    "PayoutCall",
    "SagaStep",
    "StepCall",
    "StepContext",
    "done",
    "errors",
    "undone",
]

atexit.register(_lockbay.end)
