"""What a call gives: awaited, made a task of, cancelled at any moment."""

import asyncio
import gc
import inspect
import threading
import time
import weakref
from typing import Any, Coroutine

import pytest
from conftest import QUICK, Hanging, until
from lockbay import Job, JobOutcome, LockBay, errors


async def test_what_a_call_gives_is_awaited_gathered_waited_for_or_made_a_task_of(
    bay: LockBay,
) -> None:
    async def pay(job: Job) -> str:
        await asyncio.sleep(0)
        return job.job_id

    def call(key: str) -> Coroutine[Any, Any, JobOutcome]:
        return bay.run_job("payment", key, pay)

    ends = [
        await asyncio.create_task(call("task")),
        await asyncio.wait_for(call("in time"), 20),
        *await asyncio.gather(call("one"), call("two")),
    ]
    async with asyncio.TaskGroup() as group:
        grouped = group.create_task(call("grouped"))
    done, _ = await asyncio.wait([asyncio.create_task(call("waited for"))])
    ends += [grouped.result(), *(task.result() for task in done)]
    assert len({end.result for end in ends}) == 6

    async def fail(job: Job) -> None:
        raise errors.Failed("no money")

    failed = asyncio.create_task(bay.run_job("payment", "fails", fail))
    assert (await failed).error == "no money"
    wrong = asyncio.create_task(bay.jobs.get("none"))
    with pytest.raises(errors.NotFound):
        await wrong


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
async def test_a_task_made_of_a_call_ends_it_when_it_is_cancelled(store: str, turns: int) -> None:
    pay = Hanging()
    async with LockBay.open(store, **QUICK) as bay:
        ran = asyncio.create_task(bay.run_job("payment", "k", pay, claim_ttl=0.6))
        for _ in range(turns):
            await asyncio.sleep(0)
        ran.cancel()
        with pytest.raises(asyncio.CancelledError):
            await ran
        again = await bay.run_job("payment", "k", lambda job: None, wait_seconds=20)
        assert again.status == "completed"
        await until(lambda: pay.running.is_set() == pay.cancelled)


async def test_cancelling_what_is_awaited_cancels_the_handler(bay: LockBay) -> None:
    pay = Hanging()
    ran = asyncio.ensure_future(bay.run_job("payment", "k", pay))
    await pay.running.wait()
    ran.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ran
    await until(lambda: pay.cancelled)


async def test_cancelled_at_once_nothing_is_called(store: str) -> None:
    called = []
    async with LockBay.open(store, **QUICK) as bay:
        for number in range(50):
            ran = asyncio.ensure_future(bay.run_job("payment", str(number), called.append))
            await asyncio.sleep(0)
            ran.cancel()
            with pytest.raises(asyncio.CancelledError):
                await ran
        begun = len(called)
        await bay.run_job("payment", "last", lambda job: None)
        assert len(called) == begun


async def test_a_handler_whose_task_is_cancelled_before_it_begins_is_tried_again() -> None:
    called: list[int] = []

    async def pay(job: Job) -> int:
        called.append(job.attempt)
        return job.attempt

    async with LockBay.open("memory:", **QUICK) as bay:
        await bay.run_job("payment", "other", pay)
        before = asyncio.all_tasks()
        running = bay.run_job("payment", "k", pay)
        [task] = asyncio.all_tasks() - before
        task.cancel()
        ran = await running
        assert (ran.status, ran.result, called) == ("completed", 2, [1, 2])


async def test_handlers_run_under_a_task_factory_that_wraps_coroutines(bay: LockBay) -> None:
    traced = []

    def factory(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
        async def trace() -> Any:
            traced.append(work)
            return await work

        return asyncio.Task(trace(), loop=loop, **options)

    async def pay(job: Job) -> str:
        await asyncio.sleep(0)
        return "paid"

    asyncio.get_running_loop().set_task_factory(factory)
    ran = await asyncio.create_task(bay.run_job("payment", "k", pay))
    assert (ran.result, len(traced)) == ("paid", 2)

    def untraceable(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> Any:
        work.close()
        raise RuntimeError("no more tasks")

    asyncio.get_running_loop().set_task_factory(untraceable)
    ran = await bay.run_job("payment", "other", pay, max_retries=0)
    asyncio.get_running_loop().set_task_factory(None)
    assert (ran.status, ran.error) == ("failed", "RuntimeError: no more tasks")


def at_once(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Future[None]:
    """Does as much at once as `asyncio.eager_task_factory`, which came with 3.12."""
    ended: asyncio.Future[None] = loop.create_future()
    try:
        work.send(None)
    except StopIteration:
        ended.set_result(None)
        return ended

    async def go_on() -> None:
        await work

    return asyncio.Task(go_on(), loop=loop, **options)


async def test_handlers_run_under_a_task_factory_that_begins_at_once(bay: LockBay) -> None:
    async def pay(job: Job) -> str:
        return "paid"

    async def pay_later(job: Job) -> str:
        await asyncio.sleep(0)
        return "paid later"

    loop = asyncio.get_running_loop()
    loop.set_task_factory(getattr(asyncio, "eager_task_factory", at_once))
    ran = [await bay.run_job("payment", key, does) for key, does in (("k", pay), ("l", pay_later))]
    loop.set_task_factory(None)
    assert [end.result for end in ran] == ["paid", "paid later"]


async def test_a_handler_whose_coroutine_somebody_closed_is_tried_again(bay: LockBay) -> None:
    tasks: list[asyncio.Task[Any]] = []

    async def pay(job: Job) -> int:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        if job.attempt == 1:
            await asyncio.Event().wait()
        return job.attempt

    running = asyncio.ensure_future(bay.run_job("payment", "k", pay))
    await until(lambda: tasks)
    its: Any = tasks[0].get_coro()
    its.close()
    assert (await running).result == 2
    tasks[0].cancel()
    with pytest.raises(ValueError, match="ended"):
        await tasks[0]


async def test_a_task_that_runs_a_handler_tells_its_name_and_lets_nobody_else_drive_it(
    bay: LockBay,
) -> None:
    tasks: list[asyncio.Task[Any]] = []
    go_on = asyncio.Event()

    async def pay(job: Job) -> str:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        its: Any = task.get_coro()
        for meddle in (lambda: its.send(None), its.close, lambda: its.throw(KeyError())):
            with pytest.raises(ValueError, match="running"):
                meddle()
        assert "pay() running" in repr(task)
        await go_on.wait()
        return inspect.getcoroutinestate(its)

    running = asyncio.ensure_future(bay.run_job("payment", "k", pay))
    await until(lambda: tasks)
    its: Any = tasks[0].get_coro()
    assert inspect.getcoroutinestate(its) == "CORO_SUSPENDED"
    assert its.__qualname__.endswith("pay") and tasks[0].get_stack()
    go_on.set()
    assert (await running).result == "CORO_RUNNING"
    await asyncio.wait(tasks)
    assert inspect.getcoroutinestate(its) == "CORO_CLOSED"
    with pytest.raises(ValueError, match="ended"):
        its.send(None)


@pytest.mark.parametrize("error", [GeneratorExit, BaseException, BaseExceptionGroup])
async def test_what_ends_a_handler_and_is_no_error_is_told_once(bay: LockBay, error: Any) -> None:
    complaints = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, context: complaints.append(context))

    tasks: list[Any] = []

    async def pay(job: Job) -> None:
        tasks.append(asyncio.current_task())
        raise error("out", [ValueError()]) if error is BaseExceptionGroup else error("out")

    ran = await bay.run_job("payment", "k", pay, max_retries=0)
    assert ran.status == "failed"
    await asyncio.wait(tasks)
    tasks.clear()
    gc.collect()
    loop.set_exception_handler(None)
    assert complaints == []


async def test_a_handler_that_keeps_its_own_task_goes_when_nobody_has_it(bay: LockBay) -> None:
    class Pay:
        task: Any = None

        async def __call__(self, job: Job) -> None:
            self.task = asyncio.current_task()
            await asyncio.sleep(0)

    pay = Pay()
    await bay.run_job("payment", "k", pay)
    known = weakref.ref(pay)
    del pay

    def gone() -> bool:
        gc.collect()
        return known() is None

    await until(gone)


async def test_calls_and_leases_that_fail_leave_nothing_to_the_collector(bay: LockBay) -> None:
    async with bay.lease("taken", holder="other"):
        await leave_nothing(bay)
        gc.collect()
        gc.disable()
        try:
            for _ in range(20):
                await leave_nothing(bay)
            assert gc.collect() < 20
        finally:
            gc.enable()


async def leave_nothing(bay: LockBay) -> None:
    try:
        await asyncio.create_task(bay.jobs.get("none"))
    except errors.NotFound:
        pass
    try:
        async with bay.lease("taken"):
            raise AssertionError("it is taken")
    except errors.Held:
        pass


async def test_a_plain_function_on_a_thread_sees_that_nobody_waits_any_more(
    bay: LockBay,
) -> None:
    running, seen = threading.Event(), threading.Event()

    def pay(job: Job) -> None:
        running.set()
        while not job.cancelled:
            time.sleep(0.001)
        seen.set()

    ran = asyncio.ensure_future(bay.run_job("payment", "k", pay))
    await until(running.is_set)
    ran.cancel()
    await until(seen.is_set)


async def test_a_claim_that_is_lost_cancels_the_handler(store: str) -> None:
    pay = Hanging()
    async with LockBay.open(store, **QUICK) as one, LockBay.open(store, **QUICK) as other:
        ran = asyncio.ensure_future(one.run_job("payment", "k", pay, claim_ttl=0.5))
        await pay.running.wait()
        [job], _ = await other.jobs.list()
        await other.jobs.cancel(job["job_id"], "fraud")
        with pytest.raises(errors.Fenced):
            await ran
        await until(lambda: pay.cancelled)
