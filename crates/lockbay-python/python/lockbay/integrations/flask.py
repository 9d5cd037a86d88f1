"""A blueprint for Flask with the guide's paths.

    lockbay = LoopThread(store="sqlite:lockbay.db")
    app.register_blueprint(blueprint(lockbay))

Flask has no event loop, so the instance lives on one of its own, which is that of a `LoopThread`.
Views run jobs with `lockbay.run(lockbay.bay.run_job, …)`. A `LeaderAwareScheduler` is started with
`lockbay.ask(scheduler.start)`, in the process that serves and before the instance is opened.
"""

from __future__ import annotations

from typing import Any, Awaitable, Callable

from flask import Blueprint, Response

from lockbay._lockbay import LockBay
from lockbay.errors import Invalid, LockBayError, Unavailable
from lockbay.integrations._advanced_state import PREFIX, READS, Reply, refusal
from lockbay.integrations.threads import LoopThread

__all__ = ["LoopThread", "blueprint"]


def blueprint(
    lockbay: LoopThread | LockBay | None = None,
    *,
    prefix: str = PREFIX,
    name: str = "advanced_state",
    **settings: Any,
) -> Blueprint:
    """The guide's paths: `health`, which is 200 or 503, `metrics` and `report`.

    Without a `LoopThread` it makes one. The instance is opened when it is first asked, in the
    process that serves, after any fork, and not again once it was closed. They tell much to
    everybody who reaches them: guard them with `before_request` of what is returned.
    """
    asked = lockbay if isinstance(lockbay, LoopThread) else LoopThread(lockbay, **settings)
    if asked is lockbay and settings:
        raise Invalid(f"a LoopThread has its settings: give it {', '.join(settings)} instead")
    made = Blueprint(name, __name__, url_prefix=prefix)
    for path, read in READS.items():
        made.add_url_rule(f"/{path}", path, _view(asked, path, read), methods=["GET"])
    return made


def _view(
    asked: LoopThread, path: str, read: Callable[[LockBay], Awaitable[Reply]]
) -> Callable[[], Response]:
    def view() -> Response:
        try:
            reply = asked.run(read, asked.bay)
        except LockBayError as error:
            reply = refusal(path, Unavailable(f"it could not be opened: {error}"))
        return Response(
            reply.body,
            reply.status,
            content_type=reply.content_type,
            headers={"Cache-Control": "no-store"},
        )

    return view
