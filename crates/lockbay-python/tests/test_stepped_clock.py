"""Time that is stepped: nothing lapses, is due or comes again until the test says so."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from lockbay import Job, StepCall
from lockbay.testing import Clock

pytestmark = pytest.mark.asyncio


async def test_time_stands_still_until_it_is_moved() -> None:
    clock = Clock()
    before = clock.now
    await asyncio.sleep(0.01)
    assert clock.now == before
    await clock.advance(90)
    assert (clock.now - before).total_seconds() == pytest.approx(90)


async def test_a_result_is_kept_for_its_time_and_the_key_is_remembered_longer() -> None:
    clock = Clock()

    async def pay(job: Job) -> Any:
        return {"paid": job.idempotency_token}

    async with clock.open(result_ttl=60) as bay:
        first = await bay.run_job("payment", "order_7", pay)
        await clock.advance(50)
        assert (await bay.run_job("payment", "order_7", pay)).result == first.result
        await clock.advance(20)
        late = await bay.run_job("payment", "order_7", pay)
        assert (late.status, late.replayed, late.result_kept) == ("completed", True, False)


async def test_what_runs_on_its_own_goes_on_before_time_does() -> None:
    clock = Clock()
    done: list[Any] = []

    async def pay(job: Job) -> None:
        done.append(clock.now)

    async with clock.open() as bay:

        async def work() -> None:
            for number in range(100):
                await bay.run_job("payment", str(number), pay)

        began, working = clock.now, asyncio.ensure_future(work())
        await clock.advance(3_600)
        await working
        assert done == [began] * 100


async def test_an_instance_leads_and_goes_on_leading() -> None:
    clock = Clock()
    async with clock.open() as bay:
        await clock.advance_until(bay.is_leader, limit=60)
        await clock.advance(600)
        assert bay.is_leader()


async def test_another_instance_leads_once_the_lease_of_the_first_has_ended() -> None:
    clock = Clock()
    async with clock.open() as first, clock.open() as second:
        await clock.advance_until(lambda: first.is_leader() or second.is_leader(), limit=60)
        leader, other = (first, second) if first.is_leader() else (second, first)
        await leader.close()
        await clock.advance_until(other.is_leader, limit=60)


async def test_a_step_that_fails_comes_again_when_it_is_due() -> None:
    clock = Clock()
    attempts: list[float] = []

    class Flaky:
        async def execute(self, step: StepCall) -> Any:
            attempts.append(clock.now.timestamp())
            if len(attempts) < 3:
                raise ConnectionError("nobody answers")

    bay = clock.open()
    bay.register_handler("flaky", Flaky())
    async with bay:
        saga = await bay.sagas.start("order", [{"name": "flaky"}])
        await clock.advance_until(lambda: len(attempts) == 3, limit=600)
        assert await bay.sagas.wait(saga) == "completed"
        assert attempts[0] < attempts[1] < attempts[2], "there is a pause between attempts"


async def test_a_saga_whose_time_is_over_goes_back() -> None:
    clock = Clock()
    undone: list[str] = []

    class Work:
        async def execute(self, step: StepCall) -> Any:
            if step.step == "slow":
                await asyncio.Event().wait()

        async def compensate(self, step: StepCall) -> Any:
            undone.append(step.step)

    bay = clock.open()
    bay.register_handler("work", Work())
    async with bay:
        steps = [{"name": name, "handler": "work"} for name in ("quick", "slow")]
        saga = await bay.sagas.start("order", steps, timeout=60)
        await clock.advance(59)
        assert (await bay.sagas.get(saga))["status"] == "running"
        await clock.advance(30)
        assert await bay.sagas.wait(saga) == "compensated"
        assert undone == ["slow", "quick"]


async def test_it_fails_with_what_was_waited_for_when_it_does_not_come() -> None:
    clock = Clock()
    with pytest.raises(AssertionError, match="not there after 5 s"):
        await clock.advance_until(lambda: False, limit=5)
