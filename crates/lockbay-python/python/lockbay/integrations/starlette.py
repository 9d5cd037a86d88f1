"""Routes and a lifespan for Starlette, and for whatever is built on it."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, AsyncIterator, Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lockbay._lockbay import LockBay
from lockbay._process import bay as process_bay
from lockbay.integrations._advanced_state import PREFIX, READS, Reply

__all__ = ["lifespan", "routes"]


def routes(bay: LockBay | None = None, *, prefix: str = PREFIX) -> list[Route]:
    """The guide's paths: `health`, which is 200 or 503, `metrics` and `report`.

    They tell much to everybody who reaches them: put them behind whatever guards the rest.
    """
    return [
        Route(f"{prefix}/{name}", _endpoint(read, bay or process_bay), methods=["GET"], name=name)
        for name, read in READS.items()
    ]


def _endpoint(
    read: Callable[[LockBay], Awaitable[Reply]], bay: LockBay
) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        return as_response(await read(bay))

    return endpoint


def as_response(reply: Reply) -> Response:
    """A reply as Starlette sends it."""
    return Response(
        reply.body,
        reply.status,
        media_type=reply.content_type,
        headers={"Cache-Control": "no-store"},
    )


def lifespan(
    bay: LockBay | None = None, *, scheduler: Any = None, **settings: Any
) -> Callable[[Any], AbstractAsyncContextManager[None]]:
    """What opens the instance when the application starts, and closes it when it ends.

    It is opened in the process that serves, after any fork. A `LeaderAwareScheduler` given here is
    started before and ended with it. Settings are those of `LockBay.configure`.
    """
    opened = bay or process_bay
    if settings:
        opened.configure(**settings)

    @asynccontextmanager
    async def live(app: Any) -> AsyncIterator[None]:
        if scheduler is not None:
            scheduler.start()
        try:
            async with opened:
                yield
        finally:
            if scheduler is not None and scheduler.running:
                scheduler.shutdown()

    return live
