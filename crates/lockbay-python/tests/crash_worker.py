"""A worker of the crash tests: an instance whose handlers write down what they are asked.

Started with a store, a directory and its own name. Each call of a handler is a line in
`calls.jsonl`. A call waits for as long as there is a file `hold.{worker}.{action}.{step}`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import lockbay
from orders import note, serve

STORE, DIRECTORY, NAME = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
SETTINGS = json.loads(sys.argv[4]) if len(sys.argv) > 4 else {}


class Call:
    """One call of a handler, written down as it goes."""

    def __init__(self, action: str, step: str, **of: Any) -> None:
        self.of = {"worker": NAME, "action": action, "step": step, **of}
        self.hold = DIRECTORY / f"hold.{NAME}.{action}.{step}"

    def note(self, what: str) -> None:
        note(DIRECTORY / "calls.jsonl", what=what, **self.of)

    async def go(self) -> None:
        self.note("began")
        try:
            while self.hold.exists():
                await asyncio.sleep(0.005)
        except asyncio.CancelledError:
            self.note("cancelled")
            raise
        self.note("returned")

    def go_on_a_thread(self, step: lockbay.StepCall) -> None:
        self.note("began")
        while self.hold.exists() and not step.cancelled:
            time.sleep(0.005)
        self.note("cancelled" if step.cancelled else "returned")


def call_of(step: lockbay.StepCall) -> Call:
    return Call(
        step.action,
        step.step,
        key=step.idempotency_key if step.action == "execute" else step.undo_key,
        token=step.fencing_token,
        attempt=step.attempt,
    )


class Work:
    """Does a step by writing it down."""

    async def execute(self, step: lockbay.StepCall) -> Any:
        if step.parameters == "fail":
            raise lockbay.Failed("it is to fail")
        await call_of(step).go()
        return {"by": NAME}

    async def compensate(self, step: lockbay.StepCall) -> Any:
        await call_of(step).go()
        return {"by": NAME}


class WorkOnAThread:
    """The same as a plain function."""

    def execute(self, step: lockbay.StepCall) -> Any:
        call_of(step).go_on_a_thread(step)
        return {"by": NAME}


async def pay(job: lockbay.Job) -> Any:
    call = Call(
        "run", "pay", key=job.idempotency_token, token=job.fencing_token, attempt=job.attempt
    )
    await call.go()
    return {"by": NAME}


async def run_job(bay: lockbay.LockBay, given: dict[str, Any]) -> Any:
    try:
        outcome = await bay.run_job("payment", "order_7", pay, {"amount": 10}, **given)
    except lockbay.LockBayError as error:
        return {"raised": error.kind}
    return {"status": outcome.status, "replayed": outcome.replayed, "result": outcome.result}


async def obey(bay: lockbay.LockBay, order: str, given: dict[str, Any]) -> Any:
    match order:
        case "start":
            return await bay.sagas.start("order", given["steps"])
        case "wait":
            return await bay.sagas.wait(given["saga_id"], 30)
        case "show":
            return await bay.sagas.get(given["saga_id"])
        case "history":
            return (await bay.sagas.history(given["saga_id"]))[0]
        case "run_job":
            return await run_job(bay, given)
        case _:
            raise ValueError(order)


async def main() -> None:
    bay = lockbay.LockBay(STORE, monitoring=False, **SETTINGS)
    bay.register_handler("work", Work())
    bay.register_handler("work_on_a_thread", WorkOnAThread())
    async with bay:
        await serve(lambda order, given: obey(bay, order, given))


if __name__ == "__main__":
    asyncio.run(main())
