"""The application of the bank test: accounts in a SQLite database of its own, and steps on it.

Money moves once, because the key of a step is the primary key of its movement, written in the same
transaction. Whoever undoes a movement that is not there takes its key, so that it cannot come any
more. Knows nothing of the ledger of LockBay.
"""

from __future__ import annotations

import random
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import lockbay

SCHEMA = """
CREATE TABLE accounts (name TEXT PRIMARY KEY, cents INTEGER NOT NULL CHECK (cents >= 0));
CREATE TABLE movements (
    key TEXT PRIMARY KEY, saga TEXT NOT NULL, account TEXT NOT NULL, cents INTEGER NOT NULL
);
"""
SLOW = 0.6
"""Longer than a step may take."""


def connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=30, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    return connection


def create(path: Path, accounts: dict[str, int]) -> None:
    with closing(connect(path)) as bank:
        bank.executescript(SCHEMA)
        bank.executemany("INSERT INTO accounts VALUES (?, ?)", accounts.items())


def balances(path: Path) -> dict[str, int]:
    with closing(connect(path)) as bank:
        return dict(bank.execute("SELECT name, cents FROM accounts"))


def movements(path: Path) -> dict[str, list[tuple[str, int]]]:
    """What each saga has moved, in order; a key that was taken to bar it moved nothing."""
    with closing(connect(path)) as bank:
        found: dict[str, list[tuple[str, int]]] = {}
        rows = bank.execute("SELECT saga, account, cents FROM movements WHERE cents ORDER BY rowid")
        for saga, account, cents in rows:
            found.setdefault(saga, []).append((account, cents))
        return found


def move(path: Path, step: lockbay.StepCall, account: str, cents: int) -> None:
    """Moves money under the key of the step, unless that has happened or is barred."""
    with closing(connect(path)) as bank:
        bank.execute("BEGIN IMMEDIATE")
        row = (step.idempotency_key, step.saga_id, account, cents)
        taken = bank.execute("INSERT OR IGNORE INTO movements VALUES (?, ?, ?, ?)", row)
        if taken.rowcount:
            try:
                change(bank, account, cents)
            except sqlite3.IntegrityError:
                bank.execute("ROLLBACK")
                raise lockbay.Failed(f"{account} has less than {-cents}") from None
        bank.execute("COMMIT")


def move_back(path: Path, step: lockbay.StepCall, account: str, cents: int) -> None:
    """Undoes what was moved under the key of the step, or bars it if it was not."""
    with closing(connect(path)) as bank:
        bank.execute("BEGIN IMMEDIATE")
        bar = (step.idempotency_key, step.saga_id, account, 0)
        barred = bank.execute("INSERT OR IGNORE INTO movements VALUES (?, ?, ?, ?)", bar)
        (moved,) = bank.execute(
            "SELECT cents FROM movements WHERE key = ?", (step.idempotency_key,)
        ).fetchone()
        if not barred.rowcount and moved:
            row = (step.undo_key, step.saga_id, account, -cents)
            taken = bank.execute("INSERT OR IGNORE INTO movements VALUES (?, ?, ?, ?)", row)
            if taken.rowcount:
                change(bank, account, -cents)
        bank.execute("COMMIT")


def change(bank: sqlite3.Connection, account: str, cents: int) -> None:
    bank.execute("UPDATE accounts SET cents = cents + ? WHERE name = ?", (cents, account))


class Mishap:
    """What goes wrong in one attempt, by a seed: replayed with it, the same goes wrong."""

    def __init__(self, seed: str, step: lockbay.StepCall) -> None:
        of = f"{seed}/{step.parameters}/{step.action}/{step.step}/{step.attempt}"
        self.dice = random.Random(of).random()
        self.may_fail = step.action == "execute"

    def before(self) -> None:
        if self.may_fail and self.dice < 0.04:
            raise lockbay.Failed("it is refused for good")
        if self.may_fail and self.dice < 0.08:
            raise lockbay.Failed("it is refused for now", retryable=True)
        if self.dice < 0.12:
            raise ConnectionError("nobody answers")

    def after(self) -> None:
        if 0.12 <= self.dice < 0.16:
            raise ConnectionError("the answer is lost")
        if 0.16 <= self.dice < 0.19:
            time.sleep(SLOW)


class Move:
    """Takes money from an account, or gives it to one; on a thread, as it blocks."""

    def __init__(self, path: Path, seed: str, of: str, sign: int) -> None:
        self.path, self.seed, self.of, self.sign = path, seed, of, sign

    def execute(self, step: lockbay.StepCall) -> Any:
        mishap = Mishap(self.seed, step)
        mishap.before()
        cents = self.sign * step.parameters["cents"]
        move(self.path, step, step.parameters[self.of], cents)
        mishap.after()
        return {"moved": cents}

    def compensate(self, step: lockbay.StepCall) -> Any:
        mishap = Mishap(self.seed, step)
        mishap.before()
        cents = self.sign * step.parameters["cents"]
        move_back(self.path, step, step.parameters[self.of], cents)
        mishap.after()
        return None


class Check:
    """Looks, and moves nothing."""

    def __init__(self, seed: str) -> None:
        self.seed = seed

    async def execute(self, step: lockbay.StepCall) -> Any:
        mishap = Mishap(self.seed, step)
        mishap.before()
        return {"checked": True}

    async def compensate(self, step: lockbay.StepCall) -> Any:
        return None
