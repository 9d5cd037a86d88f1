"""A bank: transfers between accounts of an application, and escrows and cash-outs on the ledger,
over three processes that are killed and frozen while steps fail, are slow, and are done unheard.

Orders are repeated with their key until there is a clear answer. At the end all balances are worked
out again from nothing but what was asked for and how each saga ended. `LOCKBAY_TEST_ORDERS` says
how many orders there are, `LOCKBAY_TEST_SEED` replays those of a run and their mishaps.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import bank_accounts
from processes import PATIENCE, STORES, Died, Worker, eventually, shared_store

ORDERS = int(os.environ.get("LOCKBAY_TEST_ORDERS", "300"))
SEED = os.environ.get("LOCKBAY_TEST_SEED", str(random.SystemRandom().randrange(1 << 32)))
PER_SECOND = 30
"""How many are begun in a second, over the whole of a run."""
WORKERS = 3
CLIENTS = 16
USERS = [f"user-{number}" for number in range(10)]
KINDS = ["transfer", "transfer", "transfer", "checked_escrow", "escrow", "escrow", "cashout"]
DEPOSIT = 150 * ORDERS
"""What each user begins with, in cents, here and there: some will not have enough."""
BETWEEN_KILLS = (1.0, 2.5)
FROZEN_FOR = 1.5
"""Longer than a session lasts."""
ENDS = ["completed", "compensated", "abandoned"]
OPEN = ["pending", "running", "compensating", "parked"]


class Order:
    """What a client asks for, by the seed and its number; and what it was told."""

    def __init__(self, number: int) -> None:
        dice = random.Random(f"{SEED}/{number}")
        self.key = f"order-{number}"
        self.kind = dice.choice(KINDS)
        payer, payee = dice.sample(USERS, 2)
        self.what: dict[str, Any] = {"from": payer, "to": payee, "cents": dice.randint(1, 5_000)}
        self.then = dice.choice(["release", "refund", None]) if self.kind == "escrow" else None
        self.sagas: dict[str, str] = {}
        """Which saga does it, and which follows."""

    @property
    def cents(self) -> int:
        return int(self.what["cents"])


class Bank:
    """The workers, and who brings them down."""

    def __init__(self, store: str, directory: Path) -> None:
        self.store, self.database = store, directory / "bank.db"
        bank_accounts.create(self.database, dict.fromkeys(USERS, DEPOSIT))
        self.over = threading.Event()
        self.havoc: Counter[str] = Counter()
        self.workers = [self.start() for _ in range(WORKERS)]
        for worker in self.workers:
            worker.opened()

    def start(self) -> Worker:
        return Worker("bank_worker.py", self.store, self.database, SEED)

    def close(self) -> None:
        for worker in self.workers:
            worker.kill()

    def ask(self, order: str, /, **given: Any) -> Any:
        """Asks whoever lives, until somebody answers."""

        def answer() -> tuple[Any] | None:
            worker = random.choice(self.workers)
            try:
                return (worker.ask(order, **given),)
            except Died:
                return None

        return eventually(f"somebody answers {order}", answer, 2 * PATIENCE)[0]

    def bring_down(self) -> None:
        """Kills a worker and starts it again, with pauses; every other time another one freezes."""
        dice = random.Random(f"{SEED}/havoc")
        while not self.over.wait(dice.uniform(*BETWEEN_KILLS)):
            victim, other = dice.sample(range(WORKERS), 2)
            freezes = self.havoc["killed"] % 2 == 1
            # In the middle of something, so that somebody has to take it over.
            dying = self.workers[victim]
            eventually("it runs a saga", lambda: self.over.is_set() or dying.ask("running"))
            # Its numbers die with it.
            self.havoc["taken over"] += dying.ask("taken_over")
            dying.kill()
            self.havoc["killed"] += 1
            if freezes:
                self.workers[other].freeze()
                self.havoc["frozen"] += 1
                self.over.wait(FROZEN_FOR)
                self.workers[other].thaw()
            self.workers[victim] = self.start()
            self.workers[victim].opened(2 * PATIENCE)

    def audit(self) -> None:
        """Takes trial balances of the ledger in motion."""
        while not self.over.wait(0.1):
            assert_balanced(self.ask("trial_balance"))
            self.havoc["trial balances"] += 1


def assert_balanced(trial: dict[str, Any]) -> None:
    assert trial["balanced"] is True, trial
    assert [cents(total["sum"]) for total in trial["currencies"]] == [0], trial


def cents(text: str) -> int:
    return int(text.replace(".", ""))


def place(bank: Bank, kind: str, key: str, order: dict[str, Any]) -> str | None:
    """The saga of an order, or nothing if the business refuses it."""

    def ask() -> dict[str, str] | None:
        answer = bank.ask("place", kind=kind, key=key, wish=order)
        return None if "again" in answer else answer

    return eventually(f"a clear answer to {key}", ask, 2 * PATIENCE).get("saga_id")


def ended(bank: Bank, saga: str) -> str:
    """How a saga ended, once it has; one that was taken over too often is resumed."""

    def look() -> str | None:
        status = bank.ask("wait", saga_id=saga)
        if status == "parked":
            bank.havoc["resumed"] += 1
            bank.ask("resume", saga_id=saga)
        return status if status in ENDS else None

    return eventually(f"saga {saga} ends", look, 4 * PATIENCE)


def see_through(bank: Bank, order: Order) -> None:
    """Places an order, and what follows it when it is done."""
    saga = place(bank, order.kind, order.key, order.what)
    if saga is None:
        return
    order.sagas[order.kind] = saga
    if order.then is not None and ended(bank, saga) == "completed":
        follows = {**order.what, "escrow": saga}
        then = place(bank, order.then, f"{order.key}-then", follows)
        assert then is not None, "what is in escrow can be paid out"
        order.sagas[order.then] = then


def paced(orders: list[Order]) -> Iterator[Order]:
    """Each when it is due."""
    began = time.monotonic()
    for number, order in enumerate(orders):
        time.sleep(max(0, began + number / PER_SECOND - time.monotonic()))
        yield order


def run(bank: Bank, orders: list[Order]) -> dict[str, str]:
    """Does all orders while the workers come down; gives how each saga ended."""
    for user in USERS:
        key = f"first-{user}"
        deposit = f"{DEPOSIT // 100}.{DEPOSIT % 100:02}"
        bank.ask("deposit", user_id=user, amount=deposit, currency="USD", idempotency_key=key)
    with ThreadPoolExecutor(CLIENTS + 2) as threads:
        beside: list[Callable[[], None]] = [bank.bring_down, bank.audit]
        running = [threads.submit(what) for what in beside]
        try:
            for placed in [threads.submit(see_through, bank, order) for order in paced(orders)]:
                placed.result()
        finally:
            bank.over.set()
        for thread in running:
            thread.result()
    sagas = [saga for order in orders for saga in order.sagas.values()]
    ends = {saga: ended(bank, saga) for saga in sagas}
    bank.havoc["taken over"] += sum(worker.ask("taken_over") for worker in bank.workers)
    return ends


def check_sagas(bank: Bank, ends: dict[str, str]) -> None:
    """There are no sagas but those that clients were told of, and none is under way."""
    found = bank.ask("all", statuses=ENDS + OPEN)
    assert {status: found[status] for status in OPEN} == {status: [] for status in OPEN}
    assert found["abandoned"] == []
    told = {status: {saga for saga in ends if ends[saga] == status} for status in ENDS}
    assert {status: set(found[status]) for status in ENDS} == told


def check_accounts(bank: Bank, orders: list[Order], ends: dict[str, str]) -> None:
    """In the application, each completed transfer moved once, and no other moved at all."""
    expected = dict.fromkeys(USERS, DEPOSIT)
    moved = bank_accounts.movements(bank.database)
    for order in orders:
        saga = order.sagas.get("transfer")
        found = moved.pop(saga, []) if saga is not None else []
        payer, payee = order.what["from"], order.what["to"]
        if saga is not None and ends[saga] == "completed":
            assert found == [(payer, -order.cents), (payee, order.cents)], order.key
            expected[payer] -= order.cents
            expected[payee] += order.cents
        else:
            sums: Counter[str] = Counter()
            for account, amount in found:
                sums[account] += amount
            assert not any(sums.values()), (order.key, found)
            assert len(found) in (0, 2, 4), (order.key, found)
    assert moved == {}, "nothing moved but by an order"
    assert bank_accounts.balances(bank.database) == expected
    assert sum(expected.values()) == DEPOSIT * len(USERS), "no cent came from or went to nowhere"


def check_ledger(bank: Bank, orders: list[Order], ends: dict[str, str]) -> None:
    """On the ledger, each user has what is left of the orders that were completed."""
    expected = dict.fromkeys(USERS, DEPOSIT)
    in_escrow = paid_out = 0
    for order in orders:
        done = {kind for kind, saga in order.sagas.items() if ends[saga] == "completed"}
        payer, payee = order.what["from"], order.what["to"]
        if done & {"escrow", "checked_escrow", "cashout"}:
            expected[payer] -= order.cents
        if "cashout" in done:
            paid_out += order.cents
        elif "release" in done:
            expected[payee] += order.cents
        elif "refund" in done:
            expected[payer] += order.cents
        elif done & {"escrow", "checked_escrow"}:
            in_escrow += order.cents
    for user, amount in expected.items():
        balance = bank.ask("balance", user_id=user, currency="USD")
        assert (cents(balance["available"]), cents(balance["held"])) == (amount, 0), user
    trial = bank.ask("trial_balance")
    assert_balanced(trial)
    (totals,) = trial["currencies"]
    assert (cents(totals["held"]), cents(totals["escrow"])) == (0, in_escrow), totals
    assert cents(totals["external"]) == paid_out - DEPOSIT * len(USERS), totals


@pytest.mark.parametrize("kind", STORES)
def test_no_cent_is_lost_or_made_although_processes_die_and_freeze_and_steps_fail(
    kind: str, tmp_path: Path
) -> None:
    print(f"LOCKBAY_TEST_SEED={SEED} LOCKBAY_TEST_ORDERS={ORDERS}")
    orders = [Order(number) for number in range(ORDERS)]
    with shared_store(kind, tmp_path) as store:
        bank = Bank(store, tmp_path)
        try:
            began = time.monotonic()
            ends = run(bank, orders)
            took = time.monotonic() - began
            kinds = {saga: kind for order in orders for kind, saga in order.sagas.items()}
            told = Counter((kinds[saga], end) for saga, end in ends.items())
            refused = sum(not order.sagas for order in orders)
            print(f"{took:.1f} s, {dict(bank.havoc)}, {refused} refused at once, {dict(told)}")
            check_sagas(bank, ends)
            check_accounts(bank, orders, ends)
            check_ledger(bank, orders, ends)
            for end in ("completed", "compensated"):
                assert told["transfer", end], "the test showed nothing"
            assert bank.havoc["killed"] and bank.havoc["taken over"], "the test showed nothing"
        finally:
            bank.close()
