"""The saga kit with handlers in Python: a saga that holds passes, and one that does not is caught,
with the fault and the step named."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import lockbay
from lockbay import Movement, SagaStep, StepCall
from lockbay.testing import SagaReport, Trial, check_saga

pytestmark = pytest.mark.asyncio

STEPS = [SagaStep(name=name, handler="book") for name in ("train", "hotel")]


class Seats:
    """Seats that are booked under a key, and given back under it."""

    def __init__(self) -> None:
        self.booked: dict[str, int] = {}

    async def execute(self, step: StepCall) -> Any:
        self.booked[step.idempotency_key] = 1
        return {"seat": 7}

    async def compensate(self, step: StepCall) -> Any:
        self.booked.pop(step.idempotency_key, None)


class SeatsOnAThread(Seats):
    """The same by plain functions."""

    def execute(self, step: StepCall) -> Any:
        self.booked[step.idempotency_key] = 1
        return {"seat": 7}

    def compensate(self, step: StepCall) -> Any:
        self.booked.pop(step.idempotency_key, None)


class Twice(Seats):
    """Books again when it is asked again."""

    async def execute(self, step: StepCall) -> Any:
        before = self.booked.get(step.idempotency_key, 0)
        self.booked[step.idempotency_key] = before + (step.step == "hotel" or not before)


class Forgetful(Seats):
    """Does not give the train back."""

    async def compensate(self, step: StepCall) -> Any:
        if step.step != "train":
            self.booked.pop(step.idempotency_key, None)


class Trusting(Seats):
    """Gives back only what it was told of."""

    async def compensate(self, step: StepCall) -> Any:
        assert step.original_result is not None, "there must be a seat"
        self.booked.pop(step.idempotency_key, None)


class Liar(Seats):
    """Says that it failed after it has booked."""

    async def execute(self, step: StepCall) -> Any:
        self.booked[step.idempotency_key] = 1
        if step.step == "hotel" and step.attempt == 1:
            raise lockbay.Failed("no answer", retryable=True)


class NoWayBack:
    """Has no compensation."""

    async def execute(self, step: StepCall) -> Any:
        return None


async def seats(kind: type[Any]) -> SagaReport:
    return await check_saga(
        lambda: {"book": kind()},
        STEPS,
        {"traveller": "ann"},
        observe=lambda trial: sorted(getattr(trial.handlers["book"], "booked", {}).values()),
    )


def named(report: SagaReport, fault: str) -> list[str]:
    return [text for under, text in report.violations if fault in under]


@pytest.mark.parametrize("kind", [Seats, SeatsOnAThread])
async def test_a_saga_that_keeps_its_promises_passes(kind: type[Seats]) -> None:
    report = await seats(kind)
    report.assert_ok()
    assert report.is_ok and report.violations == []
    faults = [run.fault for run in report.runs]
    for what in ("fails for good", "unheard", "executed twice", "compensated twice", "dies"):
        assert any(what in fault for fault in faults), f"no run in which something {what}"
    assert {run.status for run in report.runs} == {"completed", "compensated"}


async def test_a_compensation_that_forgets_something_is_caught_with_its_step() -> None:
    report = await seats(Forgetful)
    assert not report.is_ok
    (wrong, *_) = named(report, 'step "hotel" fails for good')
    assert 'step "train" is not undone' in wrong
    with pytest.raises(AssertionError, match='step "train" is not undone'):
        report.assert_ok()


async def test_a_step_that_acts_twice_under_one_key_is_caught() -> None:
    report = await seats(Twice)
    (wrong,) = named(report, 'step "hotel" is executed twice')
    assert 'step "hotel" is not idempotent' in wrong
    assert not named(report, 'step "train" is executed twice')


async def test_a_compensation_that_needs_the_result_is_caught() -> None:
    report = await seats(Trusting)
    (wrong, *_) = named(report, 'step "hotel" acts unheard')
    assert 'step "hotel" cannot be undone' in wrong


async def test_a_step_that_fails_after_it_has_acted_is_caught_without_any_fault() -> None:
    report = await seats(Liar)
    (wrong,) = named(report, "no fault")
    assert 'step "hotel" reported failure after it had acted' in wrong


async def test_a_handler_without_compensation_is_caught() -> None:
    report = await seats(NoWayBack)
    (wrong, *_) = named(report, 'step "hotel" fails for good')
    assert "needs a person" in wrong


async def test_a_handler_that_is_not_there_is_said() -> None:
    report = await check_saga(lambda: {}, STEPS)
    assert "book" in str(report)
    assert not report.is_ok


async def test_an_invariant_that_does_not_hold_is_said_with_the_fault() -> None:
    def at_most_one(trial: Trial, status: str) -> None:
        assert len(trial.handlers["book"].booked) <= 1, f"{status} with two seats"

    report = await check_saga(lambda: {"book": Seats()}, STEPS, invariant=at_most_one)
    (wrong,) = named(report, "no fault")
    assert "completed with two seats" in wrong


async def test_what_a_function_of_the_test_raises_is_said() -> None:
    def begin() -> dict[str, Any]:
        raise RuntimeError("no database")

    report = await check_saga(begin, STEPS)
    assert "no database" in str(report)
    assert not report.is_ok


async def test_a_handler_that_does_not_answer_is_said_and_not_waited_for_again() -> None:
    class Hangs(Seats):
        async def compensate(self, step: StepCall) -> Any:
            await asyncio.Event().wait()

    report = await check_saga(lambda: {"book": Hangs()}, STEPS, patience=0.2)
    assert "took longer than 200ms" in str(report)


class Pay:
    """Moves money on the ledger with its outcome."""

    def movement(self, step: StepCall) -> Movement:
        return Movement.lock(step.saga_id, "ann", "30.00", "USD")

    async def execute(self, step: StepCall) -> Any:
        return lockbay.done({"hold": step.saga_id}, movements=[self.movement(step)], only=True)

    async def compensate(self, step: StepCall) -> Any:
        return lockbay.undone([self.movement(step)])


class PayAndForget(Pay):
    """Does not give the money back."""

    async def compensate(self, step: StepCall) -> Any:
        return None


async def deposit(trial: Trial) -> None:
    await trial.bay.ledger.deposit("ann", "100.00", "USD", idempotency_key="first")


async def money(trial: Trial) -> Any:
    return await trial.bay.ledger.balance("ann", "USD")


async def balanced(trial: Trial, _status: str) -> None:
    assert (await trial.bay.ledger.trial_balance())["balanced"]


async def pay(kind: type[Pay]) -> SagaReport:
    steps = [SagaStep(name="pay"), SagaStep(name="book")]
    return await check_saga(
        lambda: {"pay": kind(), "book": Seats()},
        steps,
        prepare=deposit,
        observe=money,
        invariant=balanced,
    )


async def test_movements_that_a_step_returns_hold_under_every_fault() -> None:
    (await pay(Pay)).assert_ok()


async def test_money_that_is_not_given_back_is_caught() -> None:
    report = await pay(PayAndForget)
    (wrong, *_) = named(report, 'step "book" fails for good')
    assert 'step "pay" is not undone' in wrong
