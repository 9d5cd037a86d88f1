"""Leader election, idempotent jobs and sagas for services that move money."""

import atexit

from lockbay import _lockbay, errors
from lockbay._lockbay import (
    EVENTS,
    Job,
    JobOutcome,
    Lease,
    LockBay,
    Step,
    StepCall,
    Tick,
    __version__,
)
from lockbay._step import NOT_DONE, SagaStep, StepContext
from lockbay.errors import Failed, LockBayError

__all__ = [
    "EVENTS",
    "Failed",
    "Job",
    "JobOutcome",
    "Lease",
    "LockBay",
    "LockBayError",
    "NOT_DONE",
    "SagaStep",
    "Step",
    "StepCall",
    "StepContext",
    "Tick",
    "__version__",
    "errors",
]

atexit.register(_lockbay.end)
