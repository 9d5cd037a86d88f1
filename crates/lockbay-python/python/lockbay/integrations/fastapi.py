"""A router for FastAPI with the guide's paths, and a lifespan that opens and closes the instance.

    app = FastAPI(lifespan=lifespan())
    app.include_router(router())
"""

from __future__ import annotations

from typing import Any, Awaitable, Callable

from fastapi import APIRouter, Response

from lockbay._lockbay import LockBay
from lockbay._process import bay as process_bay
from lockbay.integrations._advanced_state import PREFIX, READS, Reply
from lockbay.integrations.starlette import as_response, lifespan

__all__ = ["lifespan", "router"]


def router(bay: LockBay | None = None, *, prefix: str = PREFIX, **options: Any) -> APIRouter:
    """The guide's paths: `health`, which is 200 or 503, `metrics` and `report`.

    They tell much to everybody who reaches them: guard them with `dependencies`, which goes to
    `APIRouter` as all further options do.
    """
    options.setdefault("tags", ["advanced-state"])
    made = APIRouter(prefix=prefix, **options)
    for name, read in READS.items():
        endpoint = _endpoint(read, bay or process_bay)
        made.add_api_route(f"/{name}", endpoint, methods=["GET"], name=f"advanced_state_{name}")
    return made


def _endpoint(
    read: Callable[[LockBay], Awaitable[Reply]], bay: LockBay
) -> Callable[[], Awaitable[Response]]:
    async def endpoint() -> Response:
        return as_response(await read(bay))

    endpoint.__doc__ = read.__doc__
    return endpoint
