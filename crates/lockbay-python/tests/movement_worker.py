"""A worker whose steps and jobs move money on the ledger with their outcome.

Started with a store. It runs what it is told until it is killed, which is soon.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import lockbay
from lockbay import Movement
from orders import serve


class Lock:
    """Sets a cent of the payer apart; one order of seven is turned around behind it."""

    def movement(self, step: lockbay.StepCall) -> Movement:
        return Movement.lock(step.saga_id, "payer", "0.01", "USD")

    async def execute(self, step: lockbay.StepCall) -> Any:
        return lockbay.done({"held": True}, movements=[self.movement(step)], only=True)

    async def compensate(self, step: lockbay.StepCall) -> Any:
        return lockbay.undone([self.movement(step)])


class Escrow(Lock):
    """Puts it into escrow."""

    def movement(self, step: lockbay.StepCall) -> Movement:
        return Movement.escrow(step.saga_id, "payer", "0.01", "USD", escrow_id=step.saga_id)


class Release(Lock):
    """Pays it to the payee, unless the order is to be turned around."""

    def movement(self, step: lockbay.StepCall) -> Movement:
        return Movement.release(step.saga_id, "payer", "payee", "0.01", "USD")

    async def execute(self, step: lockbay.StepCall) -> Any:
        if step.parameters % 7 == 0:
            raise lockbay.Failed("this order is turned around")
        return await super().execute(step)


async def earn(job: lockbay.Job) -> Any:
    deposit = Movement.deposit("worker", "0.01", "USD", provider="wages")
    return lockbay.done({"attempt": job.attempt}, movements=[deposit])


async def earn_once(bay: lockbay.LockBay, key: str) -> str:
    while True:
        try:
            outcome = await bay.run_job("earn", key, earn, wait_seconds=30, claim_ttl=1)
        except lockbay.errors.Fenced:
            continue  # It took too long, so somebody else may have done it.
        if outcome.status != "in_progress":
            return outcome.status


async def obey(bay: lockbay.LockBay, order: str, given: dict[str, Any]) -> Any:
    match order:
        case "deposit":
            return await bay.ledger.deposit("payer", "10.00", "USD", idempotency_key="first")
        case "start":
            number = given["number"]
            names = ("lock", "escrow", "release")
            steps = [{"name": name, "parameters": number} for name in names]
            return await bay.sagas.start("pay", steps, idempotency_key=f"order-{number}")
        case "wait":
            return await bay.sagas.wait(given["saga_id"], 30)
        case "earn":
            return await earn_once(bay, f"job-{given['number']}")
        case "balances":
            users = ("payer", "payee", "worker")
            return {user: await bay.ledger.balance(user, "USD") for user in users}
        case "trial_balance":
            return await bay.ledger.trial_balance()
        case _:
            raise ValueError(order)


async def main() -> None:
    bay = lockbay.LockBay(sys.argv[1], session_ttl=1, monitoring=False)
    for name, handler in {"lock": Lock(), "escrow": Escrow(), "release": Release()}.items():
        bay.register_handler(name, handler)
    async with bay:
        await serve(lambda order, given: obey(bay, order, given))


if __name__ == "__main__":
    asyncio.run(main())
