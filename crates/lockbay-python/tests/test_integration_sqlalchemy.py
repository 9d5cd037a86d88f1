"""Effects in the application's database: once for each call, on SQLite and PostgreSQL.

Calls are made up here; where processes are killed, in test_integration_sqlalchemy_kills.py, they come
from LockBay.
"""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from lockbay import Failed, LockBay, errors
from lockbay.integrations import sqlalchemy as integration
from lockbay.utils.atomic_transactions import (
    atomic_transaction,
    configure,
    create_outbox,
    forget,
    once,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Session, sessionmaker

from conditions import eventually, on_a_loop
from outbox_worker import payments
from outbox import (
    DATABASES,
    STEP,
    Step,
    async_engine,
    cluster,
    database,
    engine,
    pay,
    references,
    refund,
)


def test_a_transaction_commits_at_its_end_and_rolls_back_by_an_exception(engine: sa.Engine) -> None:
    with atomic_transaction() as session:
        session.execute(payments.insert().values(reference="kept", worker=0))
    with pytest.raises(ZeroDivisionError), atomic_transaction() as session:
        session.execute(payments.insert().values(reference="lost", worker=0))
        1 / 0
    assert references(engine) == ["kept"]


def test_a_second_attempt_gets_the_result_of_the_first_and_does_nothing(engine: sa.Engine) -> None:
    result = {"amount": Decimal("0.10"), "parts": (1, 2)}
    first = pay(STEP, result=result)
    second = pay(STEP.under(6), "paid again", result={"amount": "another"})
    assert first == second == {"amount": "0.10", "parts": [1, 2]}
    assert references(engine) == ["paid"]


def test_an_attempt_that_fails_leaves_nothing_and_the_next_does_it(engine: sa.Engine) -> None:
    with pytest.raises(ZeroDivisionError), atomic_transaction(STEP) as effect:
        effect.session.execute(payments.insert().values(reference="lost", worker=0))
        1 / 0
    assert references(engine) == []
    pay(STEP)
    assert references(engine) == ["paid"]


def test_an_attempt_with_an_older_token_than_the_recorded_is_refused(engine: sa.Engine) -> None:
    pay(STEP.under(7))
    with pytest.raises(errors.Fenced, match="7"):
        pay(STEP.under(5))
    refund(STEP.under(8).undoing())
    with pytest.raises(errors.Fenced, match="8"):
        refund(STEP.under(7).undoing())
    assert references(engine) == ["paid", "refunded"]


def test_a_step_that_is_undone_before_it_commits_can_commit_no_more(engine: sa.Engine) -> None:
    assert refund(STEP.undoing()) is None
    assert refund(STEP.undoing()) is None
    with pytest.raises(errors.Fenced, match="undone"):
        pay(STEP)
    with pytest.raises(errors.Fenced, match="undone"):
        pay(STEP.under(9))
    assert references(engine) == []


def test_a_compensation_gets_what_was_recorded_and_happens_once(engine: sa.Engine) -> None:
    paid = pay(STEP)
    assert refund(STEP.undoing()) == refund(STEP.under(6).undoing()) == {"refunded": paid}
    with pytest.raises(errors.Fenced, match="undone"):
        pay(STEP.under(6))
    assert references(engine) == ["paid", "refunded"]


def test_a_compensation_of_a_completed_step_without_a_row_is_done_once(engine: sa.Engine) -> None:
    known = {"charge": "ch-1", "amount": "0.10"}
    undoing = STEP.undoing(known)
    assert refund(undoing) == refund(undoing.under(6)) == {"refunded": known}
    assert references(engine) == ["refunded"]
    with pytest.raises(errors.Fenced, match="undone"):
        pay(STEP.under(7))
    with pytest.raises(errors.Fenced, match="6|5"):
        refund(undoing.under(4))


def test_a_completed_step_that_returned_nothing_is_undone_without_a_row(engine: sa.Engine) -> None:
    undoing = STEP.undoing(is_completed=True)
    assert refund(undoing) == refund(undoing.under(6)) == {"refunded": None}
    assert references(engine) == ["refunded"]


def test_a_compensation_that_fails_without_a_row_leaves_nothing_and_the_next_does_it(
    engine: sa.Engine,
) -> None:
    undoing = STEP.undoing("known")
    with pytest.raises(ZeroDivisionError), atomic_transaction(undoing) as effect:
        effect.session.execute(payments.insert().values(reference="lost", worker=0))
        1 / 0
    assert refund(undoing) == {"refunded": "known"}
    assert references(engine) == ["refunded"]


def test_a_compensation_is_done_when_the_row_of_its_step_was_forgotten(engine: sa.Engine) -> None:
    paid = pay(STEP)
    with atomic_transaction() as session:
        assert forget(session, timedelta(seconds=-5)) == 1
    assert refund(STEP.undoing(paid)) == {"refunded": paid}
    assert references(engine) == ["paid", "refunded"]


def test_a_compensation_goes_by_the_row_before_what_lockbay_has(engine: sa.Engine) -> None:
    paid = pay(STEP)
    assert refund(STEP.undoing("what LockBay has")) == {"refunded": paid}
    assert references(engine) == ["paid", "refunded"]


@pytest.mark.parametrize("charge", [{"charge": "ch-1"}, None])
@on_a_loop
async def test_a_saga_that_is_compensated_has_its_refund_if_only_that_uses_the_outbox(
    engine: sa.Engine, charge: Any
) -> None:
    class Pay:
        def execute(self, call: Any) -> Any:
            return charge

        def compensate(self, call: Any) -> Any:
            return refund(call)

    class Ship:
        def execute(self, call: Any) -> Any:
            raise Failed("no stock")

    async with LockBay("memory:") as bay:
        bay.register_handler("pay", Pay())
        bay.register_handler("ship", Ship())
        saga = await bay.sagas.start("order", [{"name": "pay"}, {"name": "ship"}])
        assert await bay.sagas.wait(saga, 20) == "compensated"
    assert references(engine) == ["refunded"]


def test_a_second_effect_of_a_call_without_a_name_is_refused(engine: sa.Engine) -> None:
    pay(STEP, "debit")
    with pytest.raises(errors.Invalid, match="name"):
        pay(STEP, "credit")
    later = STEP.under(6)
    pay(later, "debit")
    with pytest.raises(errors.Invalid, match="name"):
        pay(later, "credit")
    undoing = STEP.undoing().under(7)
    refund(undoing, "debit back")
    with pytest.raises(errors.Invalid, match="name"):
        refund(undoing, "credit back")
    assert references(engine) == ["debit", "debit back"]


def test_effects_of_a_call_with_names_each_happen_once(engine: sa.Engine) -> None:
    for call in (STEP, STEP.again()):
        pay(call, "debit")
        pay(call, "credit", name="credit")
    for call in (STEP.undoing(), STEP.undoing()):
        assert refund(call, "credit back", name="credit") == {"refunded": {"reference": "credit"}}
        assert refund(call, "debit back") == {"refunded": {"reference": "debit"}}
    with pytest.raises(errors.Fenced, match="undone"):
        pay(STEP.again(), "credit", name="credit")
    assert references(engine) == ["debit", "credit", "credit back", "debit back"]
    with pytest.raises(errors.Invalid, match="text"):
        pay(STEP, name=7)  # type: ignore[arg-type]


def test_a_step_with_a_name_like_that_of_an_effect_has_its_own(engine: sa.Engine) -> None:
    like = replace(STEP, idempotency_key=f"{STEP.idempotency_key}#credit")
    pay(STEP, "credit", name="credit")
    pay(like, "of the other step")
    pay(replace(like, idempotency_key=like.idempotency_key.replace("#", "%23")), "of a third")
    assert references(engine) == ["credit", "of the other step", "of a third"]


def test_a_second_effect_in_the_transaction_of_the_application_is_refused_without_a_name(
    engine: sa.Engine,
) -> None:
    def both(call: Step, name: str) -> None:
        with sessionmaker(engine).begin() as session:
            for reference, its in (("debit", ""), ("credit", name)):
                with once(session, call, name=its) as effect:
                    effect.session.execute(payments.insert().values(reference=reference, worker=0))

    with pytest.raises(errors.Invalid, match="name"):
        both(STEP, "")
    assert references(engine) == []
    both(STEP, "credit")
    both(STEP.again(), "credit")
    assert references(engine) == ["debit", "credit"]


def test_a_call_may_have_one_effect_in_each_of_two_databases(
    engine: sa.Engine, tmp_path: Path
) -> None:
    other = sa.create_engine(f"sqlite:///{tmp_path / 'other.db'}")
    payments.metadata.create_all(other)
    create_outbox(other)
    for call in (STEP, STEP.again()):
        pay(call, "debit")
        with atomic_transaction(call, bind=other) as effect:
            effect.session.execute(payments.insert().values(reference="credit", worker=0))
    assert (references(engine), references(other)) == (["debit"], ["credit"])
    other.dispose()


def test_what_is_remembered_of_effects_is_bounded() -> None:
    had = integration._Had(limit=2)
    for number in (1, 2, 1, 3):
        had.add((number,), None)
    assert [(number,) in had for number in (1, 2, 3)] == [True, False, True]


@on_a_loop
async def test_a_handler_with_two_effects_does_not_complete_with_one_of_them(
    engine: sa.Engine,
) -> None:
    names = {"unnamed": "", "named": "credit"}

    class Transfer:
        def __init__(self, name: str) -> None:
            self.name = name

        def execute(self, call: Any) -> Any:
            pay(call, "debit")
            pay(call, "credit", name=self.name)
            return "transferred"

        def compensate(self, call: Any) -> None:
            refund(call, "debit back")

    ends = {}
    async with LockBay("memory:") as bay:
        for kind, name in names.items():
            bay.register_handler(kind, Transfer(name))
            saga = await bay.sagas.start("transfer", [{"name": kind, "max_retries": 1}])
            ends[kind] = await bay.sagas.wait(saga, 20)
    assert ends == {"unnamed": "compensated", "named": "completed"}
    assert references(engine) == ["debit", "debit back", "debit", "credit"]


def test_of_many_attempts_at_once_one_has_the_effect(engine: sa.Engine) -> None:
    start = threading.Barrier(8)

    def attempt(number: int) -> Any:
        start.wait()
        return pay(STEP.again(), f"attempt {number}")

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(attempt, range(8)))
    assert len(references(engine)) == 1
    assert results == [{"reference": references(engine)[0]}] * 8


@pytest.mark.parametrize("database", [DATABASES[1]], indirect=True)
def test_a_compensation_waits_for_the_attempt_that_is_committing(engine: sa.Engine) -> None:
    waits = sa.text("select count(*) from pg_locks where not granted")
    with ThreadPoolExecutor(1) as pool:
        with atomic_transaction(STEP) as effect:
            effect.session.execute(payments.insert().values(reference="paid", worker=0))
            effect.result = "slow"
            undone = pool.submit(refund, STEP.undoing())
            with engine.connect() as look:
                look = look.execution_options(isolation_level="AUTOCOMMIT")
                eventually("it waits", lambda: look.scalar(waits))
            assert not undone.done()
        assert undone.result() == {"refunded": "slow"}
    assert references(engine) == ["paid", "refunded"]


@pytest.mark.parametrize("database", [DATABASES[1]], indirect=True)
def test_a_database_of_any_other_kind_goes_by_savepoints(engine: sa.Engine) -> None:
    # Its dialect is the same, and only called otherwise.
    engine.dialect.name = "another"
    assert pay(STEP) == pay(STEP.again(), "paid again") == {"reference": "paid"}
    refund(STEP.undoing())
    with pytest.raises(errors.Fenced, match="undone"):
        pay(STEP)
    assert references(engine) == ["paid", "refunded"]


def test_a_result_that_json_cannot_say_is_refused_and_nothing_is_written(engine: sa.Engine) -> None:
    with pytest.raises(errors.Invalid, match="the result"):
        pay(STEP, result={"connection": object()})
    assert references(engine) == []
    pay(STEP)


def test_a_transaction_that_was_committed_inside_of_its_block_is_told(engine: sa.Engine) -> None:
    with pytest.raises(ZeroDivisionError), Session(engine) as session:
        with once(session, STEP) as effect:
            effect.session.execute(payments.insert().values(reference="half", worker=0))
            session.commit()
            1 / 0
    with pytest.raises(errors.UnknownOutcome, match="lockbay_outbox"):
        pay(STEP)
    with pytest.raises(errors.UnknownOutcome, match="lockbay_outbox"):
        refund(STEP.undoing())
    assert references(engine) == ["half"]


def test_a_transaction_that_was_rolled_back_inside_of_its_block_is_told(engine: sa.Engine) -> None:
    with pytest.raises(errors.Invalid, match="rolled back"):
        with Session(engine) as session, once(session, STEP) as effect:
            effect.session.rollback()
            effect.result = "done"
    pay(STEP)
    assert references(engine) == ["paid"]


def test_an_application_commits_an_effect_of_its_own_transaction_itself(engine: sa.Engine) -> None:
    for _ in range(2):
        with sessionmaker(engine).begin() as session:
            session.execute(payments.insert().values(reference="each time", worker=0))
            with once(session, STEP.again()) as effect:
                effect.session.execute(payments.insert().values(reference="once", worker=0))
                effect.result = 3
            assert effect.result == 3
    assert references(engine) == ["each time", "once", "each time"]


def insert(session: Any, reference: str) -> None:
    session.execute(payments.insert().values(reference=reference, worker=0))


def test_an_exception_that_is_caught_in_the_transaction_takes_the_row_and_the_effect(
    engine: sa.Engine,
) -> None:
    for call in (STEP, STEP.undoing("known")):
        with sessionmaker(engine).begin() as session:
            insert(session, "before")
            with contextlib.suppress(ZeroDivisionError), once(session, call) as effect:
                insert(effect.session, "lost")
                1 / 0
            insert(session, "after")
    pay(STEP.again())
    refund(STEP.undoing())
    assert references(engine) == ["before", "after"] * 2 + ["paid", "refunded"]


def test_an_error_of_the_database_that_is_caught_in_the_transaction_takes_the_row_and_the_effect(
    engine: sa.Engine,
) -> None:
    class Base(DeclarativeBase):
        pass

    class Payment(Base):
        __table__ = sa.Table(
            "payments",
            Base.metadata,
            sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("reference", sa.String(200)),
            sa.Column("worker", sa.Integer),
        )

    with sessionmaker(engine).begin() as session:
        session.add(Payment(id=101, reference="before", worker=0))
        with pytest.raises(IntegrityError), once(session, STEP) as effect:
            # It is written at the end of the block.
            effect.session.add(Payment(id=102, reference=None, worker=0))
        with pytest.raises(IntegrityError), once(session, STEP) as effect:
            effect.session.add(Payment(id=102, reference=None, worker=0))
            effect.session.flush()
        with pytest.raises(errors.Invalid, match="the result"), once(session, STEP) as effect:
            insert(effect.session, "lost")
            effect.result = object()
        with once(session, STEP) as effect:
            effect.session.add(Payment(id=103, reference="paid", worker=0))
    assert references(engine) == ["before", "paid"]


def test_a_refusal_that_is_caught_in_the_transaction_leaves_no_row(engine: sa.Engine) -> None:
    pay(STEP.under(7))
    with sessionmaker(engine).begin() as session:
        with contextlib.suppress(errors.Fenced), once(session, STEP.under(5).undoing()):
            pass
    assert refund(STEP.under(8).undoing()) == {"refunded": {"reference": "paid"}}


def test_an_effect_that_comes_first_is_not_committed_before_its_transaction(
    engine: sa.Engine,
) -> None:
    with pytest.raises(ZeroDivisionError), sessionmaker(engine).begin() as session:
        with once(session, STEP) as effect:
            insert(effect.session, "lost")
        1 / 0
    assert references(engine) == []
    with Session(engine) as session, once(session, STEP) as effect:
        insert(effect.session, "lost as well")
    assert references(engine) == []
    pay(STEP)
    assert references(engine) == ["paid"]


@on_a_loop
async def test_an_exception_caught_in_an_async_transaction_takes_the_row_and_the_effect(
    database: str,
) -> None:
    async with async_engine(database) as engine:
        async with AsyncSession(engine) as session, session.begin():
            with contextlib.suppress(ZeroDivisionError):
                async with once(session, STEP) as effect:
                    await effect.session.execute(
                        payments.insert().values(reference="lost", worker=0)
                    )
                    1 / 0
            async with once(session, STEP) as effect:
                await effect.session.execute(payments.insert().values(reference="paid", worker=0))
        async with AsyncSession(engine) as session, session.begin():
            async with once(session, STEP.again()) as effect:
                assert effect.is_done
        with pytest.raises(ZeroDivisionError):
            async with AsyncSession(engine) as session, session.begin():
                async with once(session, STEP, name="first") as effect:
                    await effect.session.execute(
                        payments.insert().values(reference="lost", worker=0)
                    )
                1 / 0
    plain = sa.create_engine(database)
    assert references(plain) == ["paid"]
    plain.dispose()


def test_rows_are_forgotten_when_they_are_old(engine: sa.Engine) -> None:
    pay(STEP)
    with atomic_transaction() as session:
        assert forget(session, timedelta(days=1)) == 0
        old = sa.text("update lockbay_outbox set recorded_at = '2020-01-01 00:00:00'")
        session.execute(old)
        assert forget(session, timedelta(days=400)) == 1


@on_a_loop
async def test_an_async_session_has_the_same_effects(database: str) -> None:
    async def pay_async(call: Any) -> Any:
        async with atomic_transaction(call) as effect:
            await effect.session.execute(payments.insert().values(reference="paid", worker=0))
            effect.result = {"n": 1}
        return effect.result

    async with async_engine(database) as engine:
        async with atomic_transaction() as session:
            assert isinstance(session, AsyncSession)
        assert await pay_async(STEP) == await pay_async(STEP.again()) == {"n": 1}
        with pytest.raises(errors.Invalid, match="name"):
            await pay_async(STEP)
        async with atomic_transaction(STEP, name="fee") as effect:
            await effect.session.execute(payments.insert().values(reference="fee", worker=0))
        with pytest.raises(errors.Fenced):
            await pay_async(STEP.under(4))
        async with AsyncSession(engine) as session, session.begin():
            async with once(session, STEP.undoing()) as effect:
                assert effect.original_result == {"n": 1}
        with pytest.raises(errors.Fenced):
            await pay_async(STEP)
        with pytest.raises(errors.Invalid, match="async with"):
            atomic_transaction().__enter__()
        async with AsyncSession(engine) as session:
            with pytest.raises(errors.Invalid, match="async with"):
                once(session, STEP).__enter__()
    plain = sa.create_engine(database)
    assert references(plain) == ["paid", "fee"]
    configure(plain)
    with pytest.raises(errors.Invalid, match="use `with"):
        await atomic_transaction().__aenter__()
    plain.dispose()


def test_what_is_no_call_is_refused(engine: sa.Engine) -> None:
    for wrong, why in ((object(), "context.step"), (replace(STEP, action="probe"), "probe")):
        with pytest.raises(errors.Invalid, match=why):
            pay(wrong)
    with pytest.raises(errors.Invalid, match="sessionmaker"):
        configure("sqlite://")  # type: ignore[arg-type]
