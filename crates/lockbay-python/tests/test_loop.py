"""Meeting event loops: which one runs what, what ends when, and that none is held up."""

import asyncio
import contextvars
import gc
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import uvloop
from conftest import QUICK, until
from lockbay import Job, LockBay, SagaStep, StepCall, errors

PERSON: contextvars.ContextVar[str] = contextvars.ContextVar("PERSON", default="nobody")


def test_one_instance_serves_two_loops_one_after_the_other(store: str) -> None:
    bay = LockBay(store, **QUICK)

    async def first() -> Any:
        await bay.start()
        return (await bay.run_job("payment", "k", lambda job: "paid")).result

    async def second() -> Any:
        outcome = await bay.run_job("payment", "k", lambda job: "paid again")
        await bay.close()
        return outcome.replayed, outcome.result

    assert asyncio.run(first()) == "paid"
    assert asyncio.run(second()) == (True, "paid")


class Waits:
    """A step that waits at its first attempt until it is cancelled."""

    def __init__(self) -> None:
        self.running = threading.Event()
        self.ends: list[str] = []

    async def execute(self, call: StepCall) -> str:
        if call.attempt > 1:
            return "done"
        self.running.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.ends.append("cancelled")
            raise
        return "never"


def test_a_saga_whose_loop_ended_goes_on_with_the_next_loop(store: str) -> None:
    bay, waits = LockBay(store, **QUICK), Waits()
    bay.register_handler("wait", waits)

    async def first() -> str:
        await bay.start()
        saga_id = await bay.sagas.start("s", [SagaStep(name="wait", max_retries=1)])
        await until(waits.running.is_set)
        return saga_id

    async def second(saga_id: str) -> str:
        status = await bay.sagas.wait(saga_id, 20)
        await bay.close()
        return status

    saga_id = asyncio.run(first())
    assert waits.ends == ["cancelled"], "the first loop cancels what it still runs"
    assert asyncio.run(second(saga_id)) == "completed"


def test_a_loop_that_is_closed_without_ceremony_is_left_for_the_next(store: str) -> None:
    bay = LockBay(store, **QUICK)

    class Step:
        async def execute(self, call: StepCall) -> int:
            return id(asyncio.get_running_loop())

    bay.register_handler("step", Step())
    async def start() -> None:
        await bay.start()

    first = asyncio.new_event_loop()
    first.run_until_complete(start())
    first.close()

    async def second() -> tuple[str, int]:
        saga_id = await bay.sagas.start("s", [{"name": "step"}])
        status = await bay.sagas.wait(saga_id, 20)
        [step] = (await bay.sagas.get(saga_id))["steps"]
        await bay.close()
        assert step["result"] == id(asyncio.get_running_loop())
        return status

    assert asyncio.run(second()) == "completed"


def test_a_job_of_a_loop_that_is_closed_without_ceremony_lapses() -> None:
    bay = LockBay("memory:", claim_ttl=1.0, **QUICK)
    waits: list[weakref.ref[Any]] = []

    async def hang(job: Job) -> None:
        waits.append(weakref.ref(asyncio.get_running_loop()))
        await asyncio.Event().wait()

    async def begin() -> None:
        await bay.start()
        bay.run_job("pay", "slow", hang, timeout=1)
        await until(lambda: waits)

    first = asyncio.new_event_loop()
    first.run_until_complete(begin())
    # It is cut off meanwhile, and its own loop does not hear of it.
    asyncio.run(until(lambda: is_failed(bay)))
    first.close()
    del first

    async def second() -> None:
        ran = await bay.run_job("pay", "slow", lambda job: job.attempt, wait_seconds=20)
        assert (ran.status, ran.result) == ("completed", 2)
        await bay.close()

    asyncio.run(second())
    gc.collect()
    assert waits[0]() is None


def test_a_loop_that_has_ended_is_not_kept(sqlite_store: str) -> None:
    ended: list[weakref.ref[Any]] = []

    async def work() -> None:
        ended.append(weakref.ref(asyncio.get_running_loop()))
        async with LockBay.open(sqlite_store, **QUICK):
            pass

    for _ in range(3):
        asyncio.run(work())
    asyncio.run(asyncio.sleep(0))
    gc.collect()
    assert [loop() for loop in ended] == [None, None, None]


async def is_failed(bay: LockBay) -> bool:
    jobs, _ = await bay.jobs.list(status="failed")
    return bool(jobs)


async def test_a_loop_that_is_held_up_holds_up_no_timeout(bay: LockBay) -> None:
    began = asyncio.Event()

    async def hang(job: Job) -> None:
        began.set()
        await asyncio.Event().wait()

    ran = asyncio.ensure_future(bay.run_job("pay", "k", hang, timeout=1, max_retries=0))
    await began.wait()
    # Holds this loop up until another has seen that the attempt was cut off and recorded.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, until(lambda: is_failed(bay))).result()
    outcome = await ran
    assert outcome.status == "failed" and "timeout" in outcome.error


async def test_plain_functions_do_not_hold_up_the_loop(bay: LockBay) -> None:
    go_on = threading.Event()

    def slow(job: Job) -> str:
        assert go_on.wait(20), "the loop was held up"
        return "done"

    slow_ran = asyncio.ensure_future(bay.run_job("slow", "k", slow))
    quick = await bay.run_job("quick", "k", lambda job: "quick")
    go_on.set()
    assert (quick.result, (await slow_ran).result) == ("quick", "done")


async def test_a_store_that_does_not_answer_does_not_hold_up_the_loop(
    redis_port: int, redis_store: str
) -> None:
    async with LockBay.open(redis_store, **QUICK) as bay:
        asker, writer = await asyncio.open_connection("127.0.0.1", redis_port)
        writer.write(b"CLIENT PAUSE 60000 WRITE\r\n")
        assert (await asker.readline()).startswith(b"+OK")
        written = asyncio.ensure_future(bay.state.set("k", "v"))
        turns = 0
        while turns < 100:
            await asyncio.sleep(0)
            turns += 1
        assert not written.done()
        writer.write(b"CLIENT UNPAUSE\r\n")
        assert (await asker.readline()).startswith(b"+OK")
        writer.close()
        assert await written


async def test_a_job_sees_the_context_variables_of_its_caller(bay: LockBay) -> None:
    async def who(job: Job) -> str:
        return PERSON.get()

    def who_on_a_thread(job: Job) -> str:
        return PERSON.get()

    PERSON.set("ann")
    assert (await bay.run_job("who", "1", who)).result == "ann"
    assert (await bay.run_job("who", "2", who_on_a_thread)).result == "ann"
    PERSON.set("bob")
    assert (await bay.run_job("who", "3", who)).result == "bob"


async def test_a_step_does_not_see_the_context_variables_of_whoever_called_first(
    store: str,
) -> None:
    class Who:
        async def execute(self, call: StepCall) -> str:
            return PERSON.get()

    PERSON.set("ann")
    async with LockBay.open(store, **QUICK) as bay:
        bay.register_handler("who", Who())
        saga_id = await bay.sagas.start("s", [{"name": "who"}])
        assert await bay.sagas.wait(saga_id, 20) == "completed"
        [step] = (await bay.sagas.get(saga_id))["steps"]
        assert step["result"] == "nobody"


class Stop(BaseException):
    """What no `except Exception` catches."""


async def test_a_handler_that_raises_what_is_no_exception_has_failed(bay: LockBay) -> None:
    async def on_the_loop(job: Job) -> None:
        raise Stop("now")

    def on_a_thread(job: Job) -> None:
        raise Stop("now")

    async def as_a_generator(job: Job) -> None:
        raise GeneratorExit("now")

    raised = {on_the_loop: "Stop", on_a_thread: "Stop", as_a_generator: "GeneratorExit"}
    for handler, error in raised.items():
        outcome = await bay.run_job("stop", handler.__name__, handler, max_retries=0)
        assert (outcome.status, outcome.error) == ("failed", f"{error}: now")


async def test_a_plain_function_that_raises_stop_iteration_has_failed(bay: LockBay) -> None:
    def empty(job: Job) -> None:
        next(iter([]))

    outcome = await bay.run_job("first", "k", empty, max_retries=0)
    assert outcome.status == "failed"
    assert outcome.error == "RuntimeError: the function raised StopIteration"


def test_a_handler_that_exits_ends_the_program_as_anywhere_in_asyncio(sqlite_store: str) -> None:
    bay = LockBay(sqlite_store, **QUICK)

    async def leave(job: Job) -> None:
        raise SystemExit(3)

    async def work() -> None:
        await bay.start()
        await bay.run_job("leave", "k", leave, max_retries=0)

    with pytest.raises(SystemExit) as exit:
        asyncio.run(work())
    assert exit.value.code == 3

    async def close() -> None:
        await bay.close()

    asyncio.run(close())


async def test_closed_twice_it_is_closed(store: str) -> None:
    bay = LockBay(store, **QUICK)
    await bay.close()
    await bay.start()
    await asyncio.gather(bay.close(), bay.close())
    await bay.close()
    assert not bay.is_open


async def test_a_close_that_is_not_waited_for_is_seen_through(sqlite_store: str) -> None:
    bay = await LockBay.open(sqlite_store, **QUICK)
    closing = asyncio.ensure_future(bay.close())
    await asyncio.sleep(0)
    closing.cancel()
    await bay.close()
    async with LockBay.open(sqlite_store, **QUICK) as other:
        await until(other.is_leader, within=3)


async def test_closed_while_it_is_being_opened_it_is_closed_when_that_is_through(store: str) -> None:
    bay = LockBay(store, **QUICK)
    opening = asyncio.ensure_future(bay.start())
    assert not bay.is_open
    await bay.close()
    assert not bay.is_open
    assert await opening is bay and not bay.is_open
    async with bay:
        assert bay.is_open


async def test_who_reads_what_is_at_hand_again_and_again_lets_others_have_the_loop(store: str) -> None:
    async with LockBay.open(store, **QUICK) as bay:
        await bay.state.set("rate", 1)
        others = 0

        async def other() -> None:
            nonlocal others
            while True:
                others += 1
                await asyncio.sleep(0)

        beside = asyncio.ensure_future(other())
        for _ in range(1_000):
            assert await bay.state.get("rate") == 1
        beside.cancel()
        assert others > 10


async def test_two_that_start_it_at_once_get_the_same_instance(store: str) -> None:
    bay = LockBay(store, **QUICK)
    assert await asyncio.gather(*(bay.start() for _ in range(5))) == [bay] * 5
    await bay.close()


async def test_a_start_that_failed_can_be_made_again(tmp_path: Any) -> None:
    (tmp_path / "in_the_way").write_text("")
    bay = LockBay(f"sqlite:{tmp_path}/in_the_way/lockbay.db", **QUICK)
    starts = await asyncio.gather(*(bay.start() for _ in range(3)), return_exceptions=True)
    assert all(isinstance(failed, errors.LockBayError) for failed in starts), starts
    bay.configure(f"sqlite:{tmp_path}/lockbay.db")
    async with bay:
        assert bay.is_open


async def test_before_it_is_open_and_after_it_is_closed_calls_are_refused(store: str) -> None:
    bay = LockBay(store, **QUICK)
    for _ in range(2):
        with pytest.raises(errors.Unavailable, match="not open: use `async with`"):
            await bay.run_job("payment", "k", print)
        with pytest.raises(errors.Unavailable, match="not open"):
            await bay.state.get("k")
        with pytest.raises(errors.Unavailable, match="not open"):
            bay.counted("saga_metrics")
        assert not bay.is_leader() and not bay.is_open
        await bay.start()
        await bay.close()


def test_without_a_loop_that_is_said(sqlite_store: str) -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        LockBay(sqlite_store).start()


async def test_one_that_is_dropped_without_close_gives_its_rights_up(store: str) -> None:
    # Far longer than anything here is waited for: leadership is given up, and does not lapse.
    long = {"leader_ttl": "10m", **QUICK}
    bay = await LockBay.open(store, **long)
    await until(bay.is_leader)
    async with LockBay.open(store, **long) as other:
        follows = await other.leader.current()
        assert follows["instance_id"] == bay.instance_id
        del bay
        gc.collect()

        async def nobody_leads_but_this() -> bool:
            who = await other.leader.current()
            return who is None or who["is_self"]

        await until(nobody_leads_but_this)


async def test_one_that_its_own_handlers_hold_is_collected_and_gives_its_rights_up(
    store: str,
) -> None:
    class Step:
        def __init__(self, bay: LockBay) -> None:
            self.bay = bay

        async def execute(self, call: StepCall) -> None: ...

    async def open_one() -> weakref.ref[Step]:
        bay = await LockBay.open(store, **QUICK)
        step = Step(bay)
        bay.register_handler("step", step)
        bay.on("leader_elected", lambda: bay.is_open)
        bay.schedules.register("tick", lambda: bay.is_open)
        await until(bay.is_leader)
        return weakref.ref(step)

    step = await open_one()
    async with LockBay.open(store, **QUICK) as other:
        await until(lambda: gc.collect() >= 0 and other.is_leader())
        await until(lambda: gc.collect() >= 0 and step() is None)


async def test_one_that_is_in_use_is_not_collected(bay: LockBay) -> None:
    class Step:
        async def execute(self, call: StepCall) -> str:
            gc.collect()
            return "done" if bay.is_open else "closed"

    bay.register_handler("step", Step())
    sagas = bay.sagas
    gc.collect()
    saga_id = await sagas.start("s", [{"name": "step"}])
    assert await sagas.wait(saga_id, 20) == "completed"
    assert (await sagas.get(saga_id))["steps"][0]["result"] == "done"


async def test_a_callback_that_fails_does_not_stop_later_ones(
    store: str, caplog: pytest.LogCaptureFixture
) -> None:
    heard = []

    def first(event: dict[str, Any]) -> None:
        heard.append(("first", event["event"]))
        raise ValueError("not today")

    async def second() -> None:
        heard.append(("second", None))

    bay = LockBay(store, **QUICK)
    bay.on("leader_elected", first)
    bay.on("leader_elected", second)
    async with bay:
        await until(lambda: len(heard) == 2)
        await bay.leader.resign()
        await until(lambda: len(heard) == 4)
    assert heard.count(("first", "leader_elected")) == heard.count(("second", None)) == 2
    assert "a callback on leader_elected failed" in caplog.text and "not today" in caplog.text


async def test_a_callback_hears_that_leadership_ends_with_the_instance(store: str) -> None:
    lost = []
    async with LockBay.open(store, **QUICK) as bay:
        bay.on("leader_lost", lost.append)
        await until(bay.is_leader)
    assert [event["event"] for event in lost] == ["leader_lost"]


async def test_what_the_library_tells_of_itself_is_in_the_log(
    store: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "lockbay")
    async with LockBay.open(store, **QUICK) as bay:
        await until(bay.is_leader)
        elected = f"leader_elected term=1 token={bay.leader.fencing_token}"
        await until(lambda: elected in caplog.text)
    await until(lambda: "leader_lost term=1" in caplog.text)


async def test_instances_on_loops_of_several_threads_share_a_store(store: str) -> None:
    def work(number: int) -> list[Any]:
        async def jobs() -> list[Any]:
            async with LockBay.open(store, **QUICK) as bay:
                ran = [
                    bay.run_job("add", str(key), lambda job: number, wait_seconds=20)
                    for key in range(20)
                ]
                return [outcome.result for outcome in await asyncio.gather(*ran)]

        return asyncio.run(jobs())

    results = await asyncio.gather(*(asyncio.to_thread(work, number) for number in range(4)))
    assert all(results[0] == other for other in results)


async def test_one_instance_serves_loops_of_several_threads_at_once(bay: LockBay) -> None:
    def work(number: int) -> list[Any]:
        async def jobs() -> list[Any]:
            ran = [bay.run_job(f"add {number}", str(key), lambda job: number) for key in range(20)]
            return [outcome.result for outcome in await asyncio.gather(*ran)]

        return asyncio.run(jobs())

    results = await asyncio.gather(*(asyncio.to_thread(work, number) for number in range(4)))
    assert results == [[number] * 20 for number in range(4)]


def test_threads_that_are_refused_at_once_do_not_block_each_other(sqlite_store: str) -> None:
    bay = LockBay(sqlite_store)

    def ask() -> int:
        refused = 0
        for _ in range(2_000):
            with pytest.raises(errors.Unavailable):
                bay.counted("saga_metrics")
            refused += 1
        return refused

    async def all_of_them() -> list[int]:
        return await asyncio.gather(*(asyncio.to_thread(ask) for _ in range(4)))

    assert asyncio.run(asyncio.wait_for(all_of_them(), 60)) == [2_000] * 4


def test_uvloop_is_a_loop_like_any_other(store: str) -> None:
    class Step:
        async def execute(self, call: StepCall) -> str:
            return type(asyncio.get_running_loop()).__module__

    async def work() -> Any:
        bay = LockBay(store, **QUICK)
        bay.register_handler("step", Step())
        async with bay:
            plain = await bay.run_job("payment", "k", lambda job: "paid")
            saga_id = await bay.sagas.start("s", [{"name": "step"}])
            assert await bay.sagas.wait(saga_id, 20) == "completed"
            [step] = (await bay.sagas.get(saga_id))["steps"]
            return plain.result, step["result"]

    for _ in range(2):
        assert uvloop.run(work()) == ("paid", uvloop.Loop.__module__)
