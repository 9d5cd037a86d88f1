"""Jobs: run once, replayed to duplicates, and what a handler gets and may be."""

import asyncio
import functools
import threading
from typing import Any

import pytest
from conftest import QUICK, Hanging, until
from lockbay import Failed, Job, LockBay, errors


async def test_a_duplicate_gets_the_outcome_of_the_first(bay: LockBay) -> None:
    calls = []

    async def pay(job: Job) -> dict[str, Any]:
        calls.append(job.parameters)
        return {"transaction": "t1"}

    first = await bay.run_job("payment", "order_17", pay, {"amount": 10})
    second = await bay.run_job("payment", "order_17", pay, {"amount": 10})
    assert (first.status, first.replayed) == ("completed", False)
    assert first.result == {"transaction": "t1"}
    assert (second.status, second.replayed, second.result) == ("completed", True, first.result)
    assert calls == [{"amount": 10}]


async def test_a_duplicate_on_another_instance_gets_the_outcome_of_the_first(store: str) -> None:
    calls = []

    def pay(job: Job) -> str:
        calls.append(job)
        return "paid"

    async with LockBay.open(store, **QUICK) as one, LockBay.open(store, **QUICK) as other:
        assert (await one.run_job("payment", "order_17", pay)).result == "paid"
        outcome = await other.run_job("payment", "order_17", pay)
    assert outcome.replayed and outcome.result == "paid" and len(calls) == 1


async def test_other_parameters_are_another_job_unless_the_key_is_the_identity(
    bay: LockBay,
) -> None:
    async def pay(job: Job) -> Any:
        return job.parameters["amount"]

    assert (await bay.run_job("payment", "k", pay, {"amount": 1})).result == 1
    assert (await bay.run_job("payment", "k", pay, {"amount": 2})).result == 2
    assert (await bay.run_job("payment", "x", pay, {"amount": 1}, identity="key")).result == 1
    with pytest.raises(errors.KeyReused):
        await bay.run_job("payment", "x", pay, {"amount": 2}, identity="key")


async def test_a_handler_gets_parameters_and_tokens_by_name(bay: LockBay) -> None:
    async def pay(
        user_id: int,
        amount: str,
        *,
        idempotency_token: str,
        fencing_token: int,
        attempt: int,
        job: Job,
    ) -> list[Any]:
        assert idempotency_token == job.idempotency_token
        assert fencing_token == job.fencing_token > 0
        return [user_id, amount, attempt]

    outcome = await bay.run_job(
        "payment", "k", pay, {"user_id": 7, "amount": "10.00"}, by_name=True
    )
    assert outcome.result == [7, "10.00", 1]


async def test_a_parameter_goes_before_what_the_job_would_give_by_that_name(bay: LockBay) -> None:
    async def ship(attempt: str) -> str:
        return attempt

    outcome = await bay.run_job("shipping", "k", ship, {"attempt": "second"}, by_name=True)
    assert outcome.result == "second"


async def test_parameters_by_name_that_have_no_names_are_refused_before_anything_runs(
    bay: LockBay,
) -> None:
    with pytest.raises(errors.Invalid, match="parameters given by name are a dict"):
        await bay.run_job("payment", "k", print, [1, 2], by_name=True)
    assert await bay.jobs.list() == ([], None)


class Payer:
    """What can be called in several ways."""

    def __init__(self) -> None:
        self.threads: list[str] = []

    def note(self) -> None:
        self.threads.append(threading.current_thread().name)

    async def method(self, job: Job) -> str:
        self.note()
        return f"paid {job.parameters}"

    def plain_method(self, job: Job) -> str:
        self.note()
        return f"paid {job.parameters}"

    async def __call__(self, job: Job) -> str:
        return await self.method(job)

    async def with_more(self, more: str, job: Job) -> str:
        return await self.method(job) + more


async def test_whatever_can_be_called_is_a_handler(bay: LockBay) -> None:
    payer = Payer()
    handlers = {
        "method": payer.method,
        "plain method": payer.plain_method,
        "object": payer,
        "partial of a coroutine function": functools.partial(payer.with_more, ""),
        "partial of an object": functools.partial(payer),
        "partial of a plain method": functools.partial(payer.plain_method),
        "lambda that returns a coroutine": lambda job: payer.method(job),
    }
    for name, handler in handlers.items():
        outcome = await bay.run_job("payment", name, handler, 5)
        assert (outcome.status, outcome.result) == ("completed", "paid 5"), name
    main = threading.main_thread().name
    on_threads = [index for index, name in enumerate(payer.threads) if name != main]
    assert on_threads == [1, 5], "plain functions run on threads, coroutines on the loop"


async def test_a_handler_that_fails_is_told_with_its_exception(
    bay: LockBay, caplog: pytest.LogCaptureFixture
) -> None:
    async def pay(job: Job) -> None:
        raise LookupError("no such account: 7")

    outcome = await bay.run_job("payment", "k", pay, max_retries=0)
    assert (outcome.status, outcome.error) == ("failed", "LookupError: no such account: 7")
    assert outcome.as_tuple() == (False, None, "LookupError: no such account: 7")
    [record] = [record for record in caplog.records if record.name == "lockbay.handlers"]
    assert record.exc_info and record.exc_info[0] is LookupError


async def test_a_failed_attempt_is_repeated_with_the_same_token(bay: LockBay) -> None:
    tokens = []

    async def pay(job: Job) -> int:
        tokens.append((job.attempt, job.idempotency_token))
        if job.attempt < 3:
            raise OSError("provider away")
        return job.attempt

    outcome = await bay.run_job("payment", "k", pay, max_retries=5)
    assert outcome.result == 3
    assert [attempt for attempt, _ in tokens] == [1, 2, 3]
    assert len({token for _, token in tokens}) == 1


async def test_failed_says_that_there_is_no_use_in_another_attempt(bay: LockBay) -> None:
    calls = []

    def pay(job: Job) -> None:
        calls.append(job.attempt)
        raise Failed("card expired")

    outcome = await bay.run_job("payment", "k", pay, max_retries=5)
    assert (outcome.status, outcome.error, calls) == ("failed", "card expired", [1])


async def test_failed_with_retryable_is_tried_again(bay: LockBay) -> None:
    def pay(job: Job) -> str:
        if job.attempt == 1:
            raise Failed("try later", retryable=True)
        return "paid"

    assert (await bay.run_job("payment", "k", pay, max_retries=1)).result == "paid"


async def test_a_failure_is_replayed_where_that_is_asked_for(bay: LockBay) -> None:
    calls = []

    def pay(job: Job) -> None:
        calls.append(job)
        raise Failed("card expired")

    for _ in range(2):
        outcome = await bay.run_job("payment", "k", pay, on_failed="replay")
        assert (outcome.status, outcome.error) == ("failed", "card expired")
    assert len(calls) == 1


async def test_an_attempt_that_takes_longer_than_its_timeout_is_cancelled(bay: LockBay) -> None:
    pay = Hanging()
    outcome = await bay.run_job("payment", "k", pay, timeout=1, max_retries=0)
    assert outcome.status == "failed" and outcome.error and "timeout" in outcome.error
    await until(lambda: pay.cancelled)


async def test_whoever_comes_while_it_runs_learns_who_runs_it_or_waits_for_it(
    bay: LockBay,
) -> None:
    running, go_on = asyncio.Event(), asyncio.Event()

    async def pay(job: Job) -> str:
        running.set()
        await go_on.wait()
        return "paid"

    first = asyncio.ensure_future(bay.run_job("payment", "k", pay, holder="web-1"))
    await running.wait()
    outcome = await bay.run_job("payment", "k", pay)
    assert (outcome.status, outcome.holder) == ("in_progress", "web-1")
    assert outcome.retry_after is not None and outcome.retry_after > 0
    assert outcome.as_tuple() == (False, None, "in progress: web-1 runs it")
    second = asyncio.ensure_future(bay.run_job("payment", "k", pay, wait_seconds=20))
    go_on.set()
    assert (await first).result == (await second).result == "paid"
    assert (await second).replayed


async def test_a_hundred_callers_at_once_cause_one_run(bay: LockBay) -> None:
    calls = []

    async def pay(job: Job) -> str:
        calls.append(job)
        return "paid"

    ran = [bay.run_job("payment", "k", pay, wait_seconds=20) for _ in range(100)]
    outcomes = await asyncio.gather(*ran)
    assert {outcome.result for outcome in outcomes} == {"paid"} and len(calls) == 1


async def test_a_job_that_is_cancelled_by_a_person_cancels_its_handler(bay: LockBay) -> None:
    pay = Hanging()
    ran = asyncio.ensure_future(bay.run_job("payment", "k", pay, claim_ttl=0.6))
    await pay.running.wait()
    [job], _ = await bay.jobs.list()
    await bay.jobs.cancel(job["job_id"], "wrong account")
    with pytest.raises(errors.Fenced):
        await ran
    await until(lambda: pay.cancelled)
    outcome = await bay.run_job("payment", "k", pay, on_failed="replay")
    assert (outcome.status, outcome.error) == ("cancelled", "cancelled: wrong account")


async def test_a_failed_job_runs_again_when_a_person_says_so(bay: LockBay) -> None:
    broken = [True]

    def pay(job: Job) -> str:
        if broken:
            raise Failed("account closed")
        return "paid"

    outcome = await bay.run_job("payment", "k", pay, on_failed="replay")
    assert outcome.status == "failed"
    [job], _ = await bay.jobs.list(status="failed", job_type="payment")
    broken.clear()
    await bay.jobs.retry(job["job_id"], "account is open again")
    assert (await bay.run_job("payment", "k", pay)).result == "paid"
    assert (await bay.jobs.get(job["job_id"]))["status"] == "completed"


async def test_a_job_for_the_leader_runs_only_there(store: str) -> None:
    async with LockBay.open(store, **QUICK) as one:
        await until(one.is_leader)
        async with LockBay.open(store, **QUICK) as other:
            outcome = await one.run_job("reconcile", "today", lambda job: 1, leader_only=True)
            assert outcome.result == 1
            with pytest.raises(errors.Held, match="only the leader runs this job"):
                await other.run_job("reconcile", "tomorrow", lambda job: 1, leader_only=True)


async def test_a_word_that_is_no_choice_is_refused_with_the_choices(bay: LockBay) -> None:
    for option, known in [("identity", "fingerprint or key"), ("on_failed", "rerun or replay")]:
        with pytest.raises(errors.Invalid, match=known):
            await bay.run_job("payment", "k", print, **{option: "whatever"})
    with pytest.raises(errors.Invalid, match="timeout is a time in seconds, not -1"):
        await bay.run_job("payment", "k", print, timeout=-1)
