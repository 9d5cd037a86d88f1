"""The guide's health, metrics and report, as status and JSON, for whichever framework sends them.

It refuses to know any framework, and decides nothing about health: the instance does.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Awaitable, Callable, Mapping

from lockbay._lockbay import LockBay
from lockbay.errors import LockBayError

PREFIX = "/api/advanced-state"

_JSON = "application/json"
_PROBLEM = "application/problem+json"

# The same as those of the server.
_STATUS: Mapping[str, int] = {
    "held": 409,
    "fenced": 409,
    "busy": 429,
    "key-reused": 422,
    "refused": 422,
    "not-found": 404,
    "invalid": 400,
    "unauthorized": 401,
    "unavailable": 503,
    "rolled-back": 503,
    "unknown-outcome": 504,
}

_PARTS = (
    "leader_election_healthy",
    "job_coordination_healthy",
    "saga_coordination_healthy",
    "cleanup_service_healthy",
    "state_manager_healthy",
    "overall_healthy",
)


@dataclass(frozen=True)
class Reply:
    """What is sent."""

    status: int
    body: str
    content_type: str = _JSON


async def health(bay: LockBay) -> Reply:
    """Health: 200, or 503 when not healthy. Of an instance that is not open, nothing is."""
    try:
        found = await bay.health()
    except LockBayError as error:
        return refusal("health", error)
    return Reply(200 if found["overall_healthy"] else 503, _text(found))


async def metrics(bay: LockBay) -> Reply:
    """What the instance counts and measures."""
    try:
        return Reply(200, _text(await bay.metrics()))
    except LockBayError as error:
        return refusal("metrics", error)


async def report(bay: LockBay) -> Reply:
    """What a person at night should know."""
    try:
        return Reply(200, _text(await bay.report()))
    except LockBayError as error:
        return refusal("report", error)


READS: Mapping[str, Callable[[LockBay], Awaitable[Reply]]] = {
    "health": health,
    "metrics": metrics,
    "report": report,
}
"""By the last part of their paths."""


def refusal(read: str, error: LockBayError) -> Reply:
    """What is sent in place of what was to be read; health has its own form for it."""
    if read == "health":
        found = {**dict.fromkeys(_PARTS, False), "last_check": None, "issues": [str(error)]}
        return Reply(503, _text(found))
    status = _STATUS.get(error.kind, 500)
    problem = {
        "type": f"/problems/{error.kind}",
        "title": error.kind.replace("-", " "),
        "status": status,
        "detail": str(error),
        "retryable": error.retryable,
    }
    return Reply(status, _text(problem), _PROBLEM)


def _text(document: Any) -> str:
    # What is measured may have come as a Decimal, and is sent as a number.
    return json.dumps(document, default=float)
