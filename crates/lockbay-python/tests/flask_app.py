"""An application for Flask, imported by the master of gunicorn before it forks.

Its store is that of `LOCKBAY_STORE`. It registers what does its steps when it is imported.
"""

from __future__ import annotations

import os
from typing import Any

from flask import Flask, Response, jsonify
from lockbay.integrations.flask import LoopThread, blueprint
from lockbay.services.saga_coordinator import SagaStepHandler, saga_coordinator

MASTER = os.getpid()


class Pay(SagaStepHandler):
    def execute(self, parameters: Any, context: Any) -> Any:
        return {"paid_by": os.getpid()}


saga_coordinator.register_handler("pay", Pay())
lockbay = LoopThread()
app = Flask(__name__)
app.register_blueprint(blueprint(lockbay))


@app.post("/orders/<order>")
def order(order: str) -> Response:
    async def pay() -> Any:
        saga = await saga_coordinator.start_saga("order", [{"name": "pay"}], idempotency_key=order)
        await saga_coordinator.wait_for_saga(saga, 20)
        return await saga_coordinator.get_saga_status(saga)

    return jsonify(status=lockbay.run(pay, timeout=25)["status"], is_forked=os.getpid() != MASTER)


@app.after_request
def signed(response: Response) -> Response:
    response.headers["X-Worker"] = str(os.getpid())
    return response
