"""Sagas with Python steps: forwards, backwards, and what a person decides."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from conftest import QUICK, until
from lockbay import NOT_DONE, Failed, LockBay, SagaStep, StepCall, StepContext, errors


class Ledger:
    """Steps that note what they were asked, and fail where they are told to."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.fail: dict[str, BaseException] = {}

    def note(self, call: StepCall) -> str:
        what = f"{call.action} {call.step}"
        self.calls.append(what)
        if what in self.fail:
            raise self.fail[what]
        return f"{call.step} done"

    async def execute(self, call: StepCall) -> str:
        return self.note(call)

    async def compensate(self, call: StepCall) -> str:
        return self.note(call)


@pytest.fixture
def ledger(bay: LockBay) -> Ledger:
    ledger = Ledger()
    bay.register_handler("ledger", ledger)
    return ledger


def steps(*names: str, **options: Any) -> list[SagaStep]:
    return [SagaStep(name=name, handler="ledger", **options) for name in names]


async def test_steps_run_in_order_and_get_what_was_there_before(bay: LockBay) -> None:
    seen: dict[str, Any] = {}

    class Step:
        def execute(self, call: StepCall) -> Any:
            seen[call.step] = (call.parameters, call.context)
            assert call.saga_name == "order" and call.action == "execute"
            assert call.attempt == 1 and call.fencing_token > 0 and not call.cancelled
            assert call.idempotency_key == f"{call.saga_id}/{call.step}"
            assert 0 < call.time_left <= 300 and call.deadline.endswith("Z")
            return {"step": call.step}

    bay.register_handler("a", Step())
    bay.register_handler("b", Step())
    saga_id = await bay.sagas.start(
        "order", [{"name": "a", "parameters": {"x": 1}}, SagaStep(name="b")], {"user": 7}
    )
    assert await bay.sagas.wait(saga_id, 20) == "completed"
    assert seen["a"] == ({"x": 1}, {"user": 7})
    assert seen["b"] == (None, {"user": 7, "a_result": {"step": "a"}})


async def test_a_step_that_fails_has_those_before_it_compensated(
    bay: LockBay, ledger: Ledger
) -> None:
    ledger.fail["execute c"] = Failed("out of stock")
    saga_id = await bay.sagas.start("order", steps("a", "b", "c"))
    assert await bay.sagas.wait(saga_id, 20) == "compensated"
    forwards, backwards = ["execute a", "execute b", "execute c"], ["compensate b", "compensate a"]
    assert ledger.calls == forwards + backwards
    saga = await bay.sagas.get(saga_id)
    assert saga["steps"][2]["error"] == "out of stock"
    entries, _ = await bay.sagas.history(saga_id)
    assert [entry["event"] for entry in entries[:2]] == ["step_completed"] * 2


class Refuses(ThreadPoolExecutor):
    """Takes no work, as when the interpreter is ending, for so many times."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def submit(self, *args: Any, **named: Any) -> Any:
        if self.times:
            self.times -= 1
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")
        return super().submit(*args, **named)


async def test_a_step_that_no_thread_could_begin_with_had_no_effect(bay: LockBay) -> None:
    called: list[str] = []

    class Plain:
        def execute(self, call: StepCall) -> None:
            called.append(f"{call.action} {call.step}")

        def compensate(self, call: StepCall) -> None:
            called.append(f"{call.action} {call.step}")

    bay.register_handler("plain", Plain())
    asyncio.get_running_loop().set_default_executor(Refuses(1))
    step = SagaStep(name="pay", handler="plain", idempotent=False)
    saga_id = await bay.sagas.start("order", [step])
    assert await bay.sagas.wait(saga_id, 20) == "completed"
    assert called == ["execute pay"]


async def test_a_compensation_gets_the_original_result_and_a_key_of_its_own(
    bay: LockBay,
) -> None:
    seen: list[Any] = []

    class Pay:
        def execute(self, call: StepCall) -> Any:
            return {"transaction": "t1"}

        def compensate(self, call: StepCall) -> Any:
            seen.append((call.is_completed, call.original_result))
            assert call.undo_key != call.idempotency_key

    class Ship:
        def execute(self, call: StepCall) -> Any:
            raise Failed("no")

    bay.register_handler("pay", Pay())
    bay.register_handler("ship", Ship())
    saga_id = await bay.sagas.start("order", [{"name": "pay"}, {"name": "ship"}])
    assert await bay.sagas.wait(saga_id, 20) == "compensated"
    assert seen == [(True, {"transaction": "t1"})]


async def test_an_exception_leaves_open_whether_the_step_was_done_so_it_is_compensated_too(
    bay: LockBay, ledger: Ledger
) -> None:
    ledger.fail["execute b"] = ConnectionError("lost")
    saga_id = await bay.sagas.start("order", steps("a", "b", max_retries=0))
    assert await bay.sagas.wait(saga_id, 20) == "compensated"
    assert ledger.calls == ["execute a", "execute b", "compensate b", "compensate a"]


async def test_a_step_that_is_unknown_is_tried_again_with_the_same_key(bay: LockBay) -> None:
    keys = []

    class Step:
        async def execute(self, call: StepCall) -> int:
            keys.append(call.idempotency_key)
            if call.attempt == 1:
                raise ConnectionError("lost")
            return call.attempt

    bay.register_handler("step", Step())
    saga_id = await bay.sagas.start("s", [{"name": "step"}])
    assert await bay.sagas.wait(saga_id, 20) == "completed"
    assert len(keys) == 2 and len(set(keys)) == 1


@pytest.mark.parametrize(
    "found, status, undone", [(NOT_DONE, "compensated", []), ({"id": 3}, "completed", [])]
)
async def test_a_probe_finds_out_whether_a_step_was_done(
    bay: LockBay, found: Any, status: str, undone: list[Any]
) -> None:
    class Step:
        async def execute(self, call: StepCall) -> None:
            raise ConnectionError("lost")

        async def probe(self, call: StepCall) -> Any:
            return found

        async def compensate(self, call: StepCall) -> None:
            undone.append(call.step)

    bay.register_handler("step", Step())
    step = SagaStep(name="step", idempotent=False, max_retries=1)
    saga_id = await bay.sagas.start("s", [step])
    assert await bay.sagas.wait(saga_id, 20) == status
    [shown] = (await bay.sagas.get(saga_id))["steps"]
    assert undone == [] and shown["result"] == (None if found is NOT_DONE else found)


async def test_a_compensation_that_fails_parks_the_saga_until_a_person_decides(
    bay: LockBay, ledger: Ledger
) -> None:
    ledger.fail["execute b"] = Failed("no")
    ledger.fail["compensate a"] = Failed("bank closed")
    saga_id = await bay.sagas.start("order", steps("a", "b", compensation_max_retries=0))
    assert await bay.sagas.wait(saga_id, 20) == "parked"
    [parked], _ = await bay.sagas.list(status="parked")
    assert parked["saga_id"] == saga_id
    with pytest.raises(errors.Invalid, match="retry names a step"):
        await bay.sagas.operate(saga_id, "retry", "bank is open", actor="ann")
    with pytest.raises(errors.Invalid, match="there is no decision \"hope\"; there are cancel"):
        await bay.sagas.operate(saga_id, "hope", "bank is open", actor="ann")
    del ledger.fail["compensate a"]
    await bay.sagas.operate(saga_id, "resume", "bank is open", actor="ann")
    assert await bay.sagas.wait(saga_id, 20) == "compensated"


async def test_a_handler_without_compensation_parks_the_saga_that_needs_it(bay: LockBay) -> None:
    class Forwards:
        def execute(self, call: StepCall) -> None:
            if call.step == "b":
                raise Failed("no")

    bay.register_handler("forwards", Forwards())
    both = [SagaStep(name=name, handler="forwards") for name in "ab"]
    saga_id = await bay.sagas.start("s", both)
    assert await bay.sagas.wait(saga_id, 20) == "parked"
    result = {"parked": True}
    await bay.sagas.operate(saga_id, "skip", "nothing to undo", actor="ann", step="a")
    assert await bay.sagas.wait(saga_id, 20) == "compensated", result


async def test_a_saga_that_is_cancelled_goes_back_and_its_coroutine_is_cancelled(
    bay: LockBay,
) -> None:
    running, ends = asyncio.Event(), []

    class Step:
        async def execute(self, call: StepCall) -> None:
            running.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                ends.append(f"cancelled: {call.cancelled}")
                raise

        async def compensate(self, call: StepCall) -> None:
            ends.append("compensated")

    bay.register_handler("step", Step())
    saga_id = await bay.sagas.start("s", [{"name": "step"}])
    await running.wait()
    await bay.sagas.operate(saga_id, "cancel", "changed my mind", actor="ann")
    assert await bay.sagas.wait(saga_id, 20) == "compensated"
    assert ends == ["cancelled: True", "compensated"]


async def test_a_coroutine_that_is_cancelled_may_still_say_what_came_of_it(
    bay: LockBay,
) -> None:
    running, undone = asyncio.Event(), []

    class Step:
        async def execute(self, call: StepCall) -> str:
            running.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await asyncio.sleep(0)
                return "done all the same"
            return "never"

        async def compensate(self, call: StepCall) -> None:
            undone.append(call.original_result)

    bay.register_handler("step", Step())
    saga_id = await bay.sagas.start("s", [{"name": "step"}])
    await running.wait()
    await bay.sagas.operate(saga_id, "cancel", "changed my mind", actor="ann")
    assert await bay.sagas.wait(saga_id, 20) == "compensated"
    assert undone == ["done all the same"]


async def test_a_plain_function_that_is_told_to_stop_is_waited_for(bay: LockBay) -> None:
    running, order = threading.Event(), []

    class Step:
        def execute(self, call: StepCall) -> str:
            running.set()
            while not call.cancelled:
                threading.Event().wait(0.001)
            order.append("stopped")
            return "half"

        def compensate(self, call: StepCall) -> None:
            order.append(f"undone: {call.original_result}")

    bay.register_handler("step", Step())
    saga_id = await bay.sagas.start("s", [{"name": "step"}])
    await until(running.is_set)
    await bay.sagas.operate(saga_id, "cancel", "changed my mind", actor="ann")
    assert await bay.sagas.wait(saga_id, 20) == "compensated"
    assert order == ["stopped", "undone: half"]


async def test_a_step_that_takes_longer_than_its_timeout_is_cancelled(bay: LockBay) -> None:
    ends = []

    class Step:
        async def execute(self, call: StepCall) -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                ends.append("cancelled")
                raise

        async def compensate(self, call: StepCall) -> None: ...

    bay.register_handler("step", Step())
    step = SagaStep(name="step", timeout_seconds=0.2, max_retries=0)
    saga_id = await bay.sagas.start("s", [step])
    assert await bay.sagas.wait(saga_id, 20) == "compensated"
    await until(lambda: ends == ["cancelled"])


async def test_steps_that_do_not_depend_on_each_other_run_at_once(bay: LockBay) -> None:
    both = asyncio.Barrier(2)

    class Meet:
        async def execute(self, call: StepCall) -> None:
            await both.wait()

    class Last:
        async def execute(self, call: StepCall) -> list[str]:
            return sorted(call.context)

    bay.register_handler("meet", Meet())
    bay.register_handler("last", Last())
    saga_id = await bay.sagas.start(
        "s",
        [
            SagaStep(name="a", handler="meet", depends_on=[]),
            SagaStep(name="b", handler="meet", depends_on=[]),
            SagaStep(name="last", depends_on=["a", "b"]),
        ],
    )
    assert await bay.sagas.wait(saga_id, 20) == "completed"
    assert (await bay.sagas.get(saga_id))["steps"][2]["result"] == ["a_result", "b_result"]


async def test_a_saga_with_a_key_is_started_once(bay: LockBay, ledger: Ledger) -> None:
    ids = {await bay.sagas.start("s", steps("a"), idempotency_key="k") for _ in range(3)}
    assert len(ids) == 1
    with pytest.raises(errors.KeyReused):
        await bay.sagas.start("s", steps("b"), idempotency_key="k")
    assert await bay.sagas.wait(ids.pop(), 20) == "completed"
    assert ledger.calls == ["execute a"]


async def test_a_handler_that_nobody_knows_is_refused_at_the_start_unless_deferred(
    bay: LockBay,
) -> None:
    with pytest.raises(errors.LockBayError, match="nobody"):
        await bay.sagas.start("s", [{"name": "later"}])
    saga_id = await bay.sagas.start("s", [{"name": "later"}], defer_handlers=True)
    bay.register_handler("later", type("Later", (), {"execute": lambda self, call: "done"})())
    assert await bay.sagas.wait(saga_id, 20) == "completed"


async def test_another_instance_goes_on_with_a_saga_of_one_that_ends(store: str) -> None:
    async with LockBay.open(store, shutdown_grace="0s") as one:
        running = asyncio.Event()

        class Stuck:
            async def execute(self, call: StepCall) -> None:
                running.set()
                await asyncio.Event().wait()

        one.register_handler("step", Stuck())
        saga_id = await one.sagas.start("s", [{"name": "step"}])
        await running.wait()
    async with LockBay(store, **QUICK) as other:
        other.register_handler("step", type("S", (), {"execute": lambda self, call: "done"})())
        assert await other.sagas.wait(saga_id, 20) == "completed"


async def test_a_handler_spread_gets_parameters_context_and_the_call_itself(bay: LockBay) -> None:
    seen: list[Any] = []

    class Step:
        async def execute(self, parameters: Any, context: StepContext) -> str:
            seen.append((parameters, dict(context), context.step.idempotency_key))
            return "done"

        async def compensate(self, parameters: Any, context: StepContext, original: Any) -> None:
            seen.append((parameters, dict(context), original))

    class Fails:
        def execute(self, parameters: Any, context: StepContext) -> None:
            raise Failed("no")

    bay.register_handler("step", Step(), spread=True)
    bay.register_handler("fails", Fails(), spread=True)
    saga_id = await bay.sagas.start(
        "s", [{"name": "step", "parameters": 5}, {"name": "fails"}], {"user": 7}
    )
    assert await bay.sagas.wait(saga_id, 20) == "compensated"
    context = {"user": 7, "step_result": "done"}
    assert seen == [(5, {"user": 7}, f"{saga_id}/step"), (5, context, "done")]


async def test_what_is_wrong_with_a_step_is_said_with_its_place(bay: LockBay) -> None:
    wrong: list[tuple[Any, str]] = [
        ({"handler": "ledger"}, r"steps\[0\] has no name"),
        ({"name": "a", "retries": 3}, r"steps\[0\] has no field \"retries\"; it has name, handler"),
        ({"name": "a", "timeout_seconds": -1}, r"steps\[0\]\.timeout_seconds is a time in seconds"),
    ]
    for step, message in wrong:
        with pytest.raises(errors.Invalid, match=message):
            await bay.sagas.start("s", [step])
    with pytest.raises(errors.Invalid, match="a handler has a method execute; .* has none"):
        bay.register_handler("step", object())
    with pytest.raises(errors.NotFound):
        await bay.sagas.get("0" * 32)
