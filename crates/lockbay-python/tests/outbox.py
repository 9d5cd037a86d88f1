"""The application's database of tests: its tables and its outbox, on SQLite and PostgreSQL, and calls
that are made up."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from lockbay.integrations import sqlalchemy as integration
from lockbay.utils.atomic_transactions import atomic_transaction, configure, create_outbox
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from outbox_worker import payments
from postgresql import SERVER, postgresql

needs_postgresql = pytest.mark.skipif(SERVER is None, reason="there is no PostgreSQL here")
DATABASES = ["sqlite", pytest.param("postgresql", marks=needs_postgresql)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    with postgresql() as address:
        yield address


@pytest.fixture(params=DATABASES)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database with the tables, behind its driver."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'application.db'}"
    else:
        url = f"postgresql+psycopg://{request.getfixturevalue('cluster')}"
    engine = sa.create_engine(url)
    for metadata in (integration.metadata, payments.metadata):
        metadata.drop_all(engine)
    payments.metadata.create_all(engine)
    create_outbox(engine)
    create_outbox(engine)
    yield url
    engine.dispose()


@pytest.fixture
def engine(database: str) -> Iterator[sa.Engine]:
    engine = sa.create_engine(database)
    configure(engine)
    yield engine
    engine.dispose()


@contextlib.asynccontextmanager
async def async_engine(database: str) -> AsyncIterator[AsyncEngine]:
    url = database.replace("sqlite:", "sqlite+aiosqlite:").replace("+psycopg:", "+asyncpg:")
    engine = create_async_engine(url)
    configure(engine)
    yield engine
    await engine.dispose()


@dataclass(frozen=True)
class Step:
    """As much of a `StepCall` as an effect looks at."""

    action: str = "execute"
    idempotency_key: str = "saga-1/pay"
    undo_key: str = "saga-1/pay/undo"
    fencing_token: int = 5
    is_completed: bool = False
    original_result: Any = None
    attempt: int = 0

    def again(self, **changed: Any) -> Step:
        """Another attempt."""
        return replace(self, attempt=next(ATTEMPTS), **changed)

    def undoing(self, known: Any = None, *, is_completed: bool = False) -> Step:
        is_completed = is_completed or known is not None
        return self.again(action="compensate", is_completed=is_completed, original_result=known)

    def under(self, token: int) -> Step:
        return self.again(fencing_token=token)


ATTEMPTS = itertools.count(1)
STEP = Step()


def pay(call: Any, reference: str = "paid", result: Any = None, name: str = "") -> Any:
    with atomic_transaction(call, name=name) as effect:
        effect.session.execute(payments.insert().values(reference=reference, worker=0))
        effect.result = {"reference": reference} if result is None else result
    return effect.result


def refund(call: Any, reference: str = "refunded", name: str = "") -> Any:
    with atomic_transaction(call, name=name) as effect:
        effect.session.execute(payments.insert().values(reference=reference, worker=0))
        effect.result = {"refunded": effect.original_result}
    return effect.result


def references(engine: sa.Engine) -> list[str]:
    with engine.connect() as connection:
        return list(connection.scalars(sa.select(payments.c.reference).order_by(payments.c.id)))
