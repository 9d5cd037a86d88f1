"""Money that a step or a job moves with its outcome: once, whatever dies, or not at all."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest

import lockbay
from lockbay import Failed, Job, LockBay, Movement, StepCall, done, undone
from processes import STORES, Worker, shared_store

SEED = random.SystemRandom().randrange(1 << 32)
ROUNDS, SAGAS, JOBS = 4, 56, 28


class Step:
    """A step that returns what it is given."""

    def __init__(self, returns: Any, undoes: Any = None, **more: Any) -> None:
        self.returns, self.undoes = returns, undoes
        self.asked: list[StepCall] = []
        self.__dict__.update(more)

    async def execute(self, step: StepCall) -> Any:
        self.asked.append(step)
        return self.returns

    async def compensate(self, step: StepCall) -> Any:
        return self.undoes


class Fails:
    """A step that turns its saga around."""

    async def execute(self, step: StepCall) -> Any:
        raise Failed("it is to go back")


async def ends(bay: LockBay, *steps: str, **options: Any) -> tuple[str, Any]:
    given = [{"name": name, **options} for name in steps]
    saga_id = await bay.sagas.start("pay", given)
    status = await bay.sagas.wait(saga_id, 30)
    return status, await bay.sagas.get(saga_id)


async def available(bay: LockBay, user: str) -> str:
    balance = await bay.ledger.balance(user, "USD")
    return balance["available"]


@pytest.fixture
def bay(tmp_path: Path) -> LockBay:
    return LockBay(f"sqlite:{tmp_path / 'lockbay.db'}", monitoring=False)


@pytest.mark.asyncio
async def test_a_step_moves_money_with_its_outcome(bay: LockBay) -> None:
    come = Movement.deposit("ann", "10.00", "USD", provider="card")
    bay.register_handler("come", Step(done({"card": 7}, movements=[come])))
    async with bay:
        status, saga = await ends(bay, "come")
        assert status == "completed"
        assert saga["steps"][0]["result"] == {"card": 7}
        assert await available(bay, "ann") == "10.00"
        movement = await bay.ledger.movement(saga["steps"][0]["idempotency_key"])
        assert movement is not None and movement["kind"] == "deposit"
        assert await bay.ledger.movement("there/is/none") is None


@pytest.mark.asyncio
async def test_a_whole_escrow_is_moved_by_steps(bay: LockBay) -> None:
    ann = ("h1", "ann", "4.00", "USD")
    bay.register_handler("lock", Step(done(movements=[Movement.lock(*ann)])))
    bay.register_handler("set", Step(done(movements=[Movement.escrow(*ann, escrow_id="e1")])))
    to_bob = Movement.release("e1", "ann", "bob", "3.00", "USD")
    bay.register_handler("pay", Step(done(movements=[to_bob])))
    back = Movement.refund("e1", "ann", "1.00", "USD")
    bay.register_handler("rest", Step(done(movements=[back])))
    async with bay:
        await bay.ledger.deposit("ann", "10.00", "USD", idempotency_key="first")
        status, _ = await ends(bay, "lock", "set", "pay", "rest")
        assert status == "completed"
        assert (await available(bay, "ann"), await available(bay, "bob")) == ("7.00", "3.00")
        assert (await bay.ledger.trial_balance())["balanced"]


@pytest.mark.asyncio
async def test_what_was_moved_is_undone_exactly(bay: LockBay) -> None:
    ann = ("h1", "ann", "4.00", "USD")
    moves = {
        "come": Movement.deposit("ann", "10.00", "USD", provider="card"),
        "lock": Movement.reserve(*ann, lapses_after=60),
        "pay": Movement.payout(*ann, provider="bank"),
    }
    for name, move in moves.items():
        bay.register_handler(name, Step(done(movements=[move]), undone([move], {"undone": name})))
    bay.register_handler("fail", Fails())
    async with bay:
        status, saga = await ends(bay, *moves, "fail")
        assert status == "compensated"
        assert [step["compensation_result"] for step in saga["steps"]] == [
            {"undone": "come"},
            {"undone": "lock"},
            {"undone": "pay"},
            None,
        ]
        assert await available(bay, "ann") == "0.00"
        trial = await bay.ledger.trial_balance()
        assert trial["balanced"] and trial["currencies"][0]["external"] == "0.00"


@pytest.mark.asyncio
async def test_undoing_what_never_happened_moves_nothing(bay: LockBay) -> None:
    lock = Movement.lock("h1", "ann", "4.00", "USD")

    class Unheard(Step):
        async def execute(self, step: StepCall) -> Any:
            raise ConnectionError("nobody knows")

    bay.register_handler("lock", Unheard(None, undone([lock])))
    async with bay:
        await bay.ledger.deposit("ann", "10.00", "USD", idempotency_key="first")
        status, _ = await ends(bay, "lock", max_retries=0)
        assert status == "compensated"
        assert await available(bay, "ann") == "10.00"


@pytest.mark.asyncio
async def test_too_little_money_fails_a_step_that_does_nothing_else(bay: LockBay) -> None:
    lock = Movement.lock("h1", "ann", "4.00", "USD")
    step = Step(done(movements=[lock], only=True))
    bay.register_handler("lock", step)
    async with bay:
        status, saga = await ends(bay, "lock")
        assert (status, saga["steps"][0]["status"]) == ("compensated", "failed")
        assert "ann" in saga["steps"][0]["error"]
        assert len(step.asked) == 1, "asking again would only repeat it"


@pytest.mark.asyncio
async def test_too_little_money_leaves_a_step_unknown_that_may_have_done_more(
    bay: LockBay,
) -> None:
    lock = Movement.lock("h1", "ann", "4.00", "USD")
    step = Step({"mail": "sent"}, {"mail": "called back"})
    step.returns = done({"mail": "sent"}, movements=[lock])
    bay.register_handler("lock", step)
    async with bay:
        status, saga = await ends(bay, "lock", max_retries=0)
        assert status == "compensated"
        assert saga["steps"][0]["compensation_result"] == {"mail": "called back"}


@pytest.mark.asyncio
async def test_two_movements_happen_together_or_not_at_all(bay: LockBay) -> None:
    come = [Movement.deposit(user, "1.00", "USD", provider="card") for user in ("ann", "bob")]
    bay.register_handler("both", Step(done(movements=come)))
    too_much = Movement.lock("h1", "bob", "5.00", "USD")
    lock = Movement.lock("h2", "ann", "1.00", "USD")
    bay.register_handler("half", Step(done(movements=[lock, too_much], only=True)))
    async with bay:
        assert (await ends(bay, "both"))[0] == "completed"
        assert (await available(bay, "ann"), await available(bay, "bob")) == ("1.00", "1.00")
        assert (await ends(bay, "half"))[0] == "compensated"
        assert (await available(bay, "ann"), await available(bay, "bob")) == ("1.00", "1.00")


@pytest.mark.asyncio
async def test_two_movements_of_one_account_are_refused_for_one_step(bay: LockBay) -> None:
    come = [Movement.deposit("ann", "1.00", "USD", provider="card") for _ in range(2)]
    bay.register_handler("both", Step(done(movements=come, only=True)))
    async with bay:
        status, saga = await ends(bay, "both")
        assert status == "compensated"
        assert "the same account" in saga["steps"][0]["error"]
        assert await available(bay, "ann") == "0.00"


@pytest.mark.asyncio
async def test_what_a_probe_found_moves_what_it_would_have_moved(bay: LockBay) -> None:
    come = Movement.deposit("ann", "10.00", "USD", provider="card")

    class Once(Step):
        async def execute(self, step: StepCall) -> Any:
            raise ConnectionError("the answer is lost")

        async def probe(self, step: StepCall) -> Any:
            return {"found": True}

        async def settle(self, step: StepCall) -> Any:
            return done(movements=[come])

    bay.register_handler("come", Once(None))
    async with bay:
        status, saga = await ends(bay, "come", idempotent=False)
        assert (status, saga["steps"][0]["result"]) == ("completed", {"found": True})
        assert await available(bay, "ann") == "10.00"


@pytest.mark.asyncio
async def test_a_job_moves_money_once_for_all_that_ask(bay: LockBay) -> None:
    async def pay(job: Job) -> Any:
        come = Movement.deposit("ann", "10.00", "USD", provider="card")
        return done({"attempt": job.attempt}, movements=[come])

    async with bay:
        first = await bay.run_job("pay", "order_7", pay)
        again = await bay.run_job("pay", "order_7", pay)
        assert (first.result, again.result, again.replayed) == ({"attempt": 1},) * 2 + (True,)
        assert await available(bay, "ann") == "10.00"


@pytest.mark.asyncio
async def test_a_job_whose_movement_is_refused_has_failed(bay: LockBay) -> None:
    async def pay(job: Job) -> Any:
        return done(movements=[Movement.lock("h1", "ann", "4.00", "USD")])

    async with bay:
        outcome = await bay.run_job("pay", "order_7", pay)
        assert outcome.status == "failed"
        assert outcome.error is not None and "ann" in outcome.error


def test_a_movement_that_cannot_be_is_refused_where_it_is_made() -> None:
    with pytest.raises(lockbay.errors.Invalid, match="USD"):
        Movement.deposit("ann", "1.001", "USD", provider="card")
    with pytest.raises(lockbay.errors.Invalid, match="provider"):
        done(movements=[Movement.deposit("ann", "1.00", "USD", provider="a/b")])
    with pytest.raises(lockbay.errors.Invalid, match="no way back from a void"):
        undone([Movement.void("h1", "ann", "4.00", "USD")])
    with pytest.raises(TypeError):
        done(movements=["ann"])  # type: ignore[list-item]


@pytest.mark.parametrize("kind", STORES)
def test_money_moves_once_although_processes_die_around_the_commit(
    kind: str, tmp_path: Path
) -> None:
    print(f"seed {SEED}")
    dice = random.Random(SEED)
    with shared_store(kind, tmp_path) as store:
        with Worker("movement_worker.py", store) as worker:
            worker.opened().ask("deposit")
        for number in range(ROUNDS):
            with Worker("movement_worker.py", store) as worker:
                worker.opened()
                # It is killed in the middle of all this, and everything is asked again at the end.
                for saga in range(number * SAGAS // ROUNDS, (number + 1) * SAGAS // ROUNDS):
                    worker.tell("start", number=saga)
                for job in range(number * JOBS // ROUNDS, (number + 1) * JOBS // ROUNDS):
                    worker.tell("earn", number=job)
                time.sleep(dice.uniform(0.01, 0.25))
        with Worker("movement_worker.py", store) as worker:
            worker.opened()
            started = [worker.tell("start", number=number) for number in range(SAGAS)]
            ids = [worker.hear(number) for number in started]
            earned = [worker.tell("earn", number=number) for number in range(JOBS)]
            waited = [worker.tell("wait", saga_id=saga) for saga in ids]
            ended = [worker.hear(number) for number in waited]
            assert {worker.hear(number) for number in earned} == {"completed"}
            back = [number for number in range(SAGAS) if number % 7 == 0]
            assert [number for number in range(SAGAS) if ended[number] == "compensated"] == back
            assert ended.count("completed") == SAGAS - len(back)
            balances = worker.ask("balances")
            cents = {user: cents_of(balance["available"]) for user, balance in balances.items()}
            paid = SAGAS - len(back)
            assert cents == {"payer": 1000 - paid, "payee": paid, "worker": JOBS}
            assert all(balance["held"] == "0.00" for balance in balances.values())
            assert worker.ask("trial_balance")["balanced"]


def cents_of(text: str) -> int:
    return int(text.replace(".", ""))
