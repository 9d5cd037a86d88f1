"""Leader election, idempotent jobs and sagas for services that move money."""

import atexit
import os
import threading

from lockbay import _lockbay, errors
from lockbay._lockbay import (
    EVENTS,
    Job,
    JobOutcome,
    Lease,
    LockBay,
    Movement,
    PayoutCall,
    Step,
    StepCall,
    Tick,
    __version__,
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
    "Lease",
    "LockBay",
    "LockBayError",
    "Movement",
    "NOT_DONE",
    "PayoutCall",
    "SagaStep",
    "Step",
    "StepCall",
    "StepContext",
    "Tick",
    "__version__",
    "done",
    "errors",
    "undone",
]

atexit.register(_lockbay.end)
os.register_at_fork(
    before=_lockbay.hold_still,
    after_in_parent=_lockbay.go_on,
    after_in_child=_lockbay.forked,
)
# One fork at a time: what is registered last comes first before it, and last after it.
_forking = threading.Lock()
os.register_at_fork(
    before=_forking.acquire,
    after_in_parent=_forking.release,
    after_in_child=_forking._at_fork_reinit,  # type: ignore[attr-defined]
)
