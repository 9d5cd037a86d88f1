"""An application for FastAPI, of which uvicorn starts several processes.

Its store is that of `LOCKBAY_STORE`.
"""

from __future__ import annotations

import os
from typing import Any

from fastapi import FastAPI, Request
from lockbay.integrations.fastapi import lifespan, router
from lockbay.services.saga_coordinator import SagaStepHandler, saga_coordinator


class Pay(SagaStepHandler):
    async def execute(self, parameters: Any, context: Any) -> Any:
        return {"paid_by": os.getpid()}


saga_coordinator.register_handler("pay", Pay())
app = FastAPI(lifespan=lifespan())
app.include_router(router())


@app.post("/orders/{order}")
async def order(order: str) -> Any:
    saga = await saga_coordinator.start_saga("order", [{"name": "pay"}], idempotency_key=order)
    return {"status": await saga_coordinator.wait_for_saga(saga, 20)}


@app.middleware("http")
async def signed(request: Request, go_on: Any) -> Any:
    response = await go_on(request)
    response.headers["X-Worker"] = str(os.getpid())
    return response
