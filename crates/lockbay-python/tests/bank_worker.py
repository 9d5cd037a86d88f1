"""A worker of the bank test: an instance with the steps of `bank_accounts.py`, and the ledger.

Started with a store, the application's database and the seed of all mishaps.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path
from typing import Any

import bank_accounts
import lockbay
import lockbay.documents
from orders import serve

STORE, DATABASE, SEED = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
STEP_TIMEOUT = bank_accounts.SLOW / 2
PROVIDER = "simulated:refused=10,unknown=5,delay_ms=20"


def transfer(order: dict[str, Any]) -> list[lockbay.SagaStep]:
    """From one account of the application to another."""
    names = ("take", "check", "give", "tell")
    handlers = ("bank.take", "bank.check", "bank.give", "bank.check")
    return [
        lockbay.SagaStep(
            name=name, handler=handler, parameters=order, timeout_seconds=STEP_TIMEOUT
        )
        for name, handler in zip(names, handlers)
    ]


def checked_escrow(order: dict[str, Any]) -> list[lockbay.SagaStep]:
    """The escrow of the ledger, with a Python step behind it that may turn it around."""
    given = {
        "user_id": order["from"],
        "seller_id": order["to"],
        "amount": text(order["cents"]),
        "currency": "USD",
    }
    parts = ("validate_participants", "lock_funds", "create_escrow")
    steps = [
        lockbay.SagaStep(name=part, handler=f"finance.{part}", parameters=given) for part in parts
    ]
    check = lockbay.SagaStep(name="check", handler="bank.check", parameters=order, max_retries=1)
    return [*steps, check]


def text(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02}"


async def place(bay: lockbay.LockBay, kind: str, key: str, wish: dict[str, Any]) -> str:
    """Starts the saga of an order, once for its key, and gives its id."""
    paid = (wish["from"], text(wish["cents"]), "USD")
    match kind:
        case "transfer":
            return await bay.sagas.start("transfer", transfer(wish), idempotency_key=key)
        case "checked_escrow":
            steps = checked_escrow(wish)
            return await bay.sagas.start("checked_escrow", steps, idempotency_key=key)
        case "escrow":
            return await bay.escrow(wish["from"], wish["to"], *paid[1:], idempotency_key=key)
        case "cashout":
            return await bay.cashout(*paid, "bank_account_7", idempotency_key=key)
        case "release":
            return await bay.release(wish["escrow"], idempotency_key=key)
        case "refund":
            return await bay.refund(wish["escrow"], idempotency_key=key)
        case _:
            raise ValueError(kind)


async def all_of(bay: lockbay.LockBay, status: lockbay.documents.SagaStatus) -> list[str]:
    found: list[str] = []
    page = None
    while True:
        sagas, page = await bay.sagas.list(status=status, page=page)
        found += [saga["saga_id"] for saga in sagas]
        if page is None:
            return found


async def obey(bay: lockbay.LockBay, order: str, given: dict[str, Any]) -> Any:
    match order:
        case "place":
            try:
                return {"saga_id": await place(bay, **given)}
            except lockbay.errors.Refused as error:
                return {"refused": str(error)}
            except lockbay.LockBayError as error:
                # Whether it has begun or not: to be asked again, with the same key.
                return {"again": f"{error.kind}: {error}"}
        case "wait":
            return await bay.sagas.wait(given["saga_id"], 1)
        case "all":
            return {status: await all_of(bay, status) for status in given["statuses"]}
        case "resume":
            return await bay.sagas.operate(
                given["saga_id"], "resume", "it was taken over too often", actor="driver"
            )
        case "deposit":
            return await bay.ledger.deposit(**given)
        case "balance":
            return await bay.ledger.balance(**given)
        case "trial_balance":
            return await bay.ledger.trial_balance()
        case "running":
            return bay.counted("saga_metrics")["running_sagas"]
        case "taken_over":
            return bay.counted("saga_metrics")["sagas_taken_over"]
        case _:
            raise ValueError(order)


async def main() -> None:
    # What goes wrong does so on purpose, and often.
    logging.getLogger("lockbay").setLevel(logging.CRITICAL)
    bay = lockbay.LockBay(STORE, session_ttl=1, monitoring=False, payout_provider=PROVIDER)
    bay.register_handler("bank.take", bank_accounts.Move(DATABASE, SEED, "from", -1))
    bay.register_handler("bank.give", bank_accounts.Move(DATABASE, SEED, "to", +1))
    bay.register_handler("bank.check", bank_accounts.Check(SEED))
    async with bay:
        await serve(lambda order, given: obey(bay, order, given))


if __name__ == "__main__":
    asyncio.run(main())
