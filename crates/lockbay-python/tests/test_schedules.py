"""Schedules: Python functions at times, on the leader."""

from typing import Any

import pytest
from conftest import QUICK, until
from lockbay import LockBay, errors


async def test_a_schedule_runs_its_function_with_the_tick(leading: LockBay) -> None:
    ticks: list[Any] = []

    async def report(tick: Any) -> dict[str, str]:
        ticks.append(tick)
        return {"due": tick.scheduled_time}

    leading.schedules.register("report", report)
    shown = await leading.schedules.put("hourly", "every 1s", "report", parameters={"a": 1})
    assert shown["job_id"] == "hourly"
    await until(lambda: len(ticks) >= 2)
    first = ticks[0]
    assert (first.schedule, first.parameters, first.attempt) == ("hourly", {"a": 1}, 1)
    assert first.fencing_token > 0 and first.idempotency_token != ticks[1].idempotency_token
    assert first.scheduled_time < ticks[1].scheduled_time


async def test_a_plain_function_without_parameters_does_as_well(leading: LockBay) -> None:
    ran: list[int] = []
    leading.schedules.register("count", lambda: ran.append(1))
    await leading.schedules.put("count", "every 1s", "count")
    await until(lambda: ran)


async def test_a_schedule_is_run_now_paused_resumed_and_deleted(leading: LockBay) -> None:
    ran: list[int] = []
    leading.schedules.register("yearly", lambda: ran.append(1))
    await leading.schedules.put("yearly", "0 0 1 1 *", "yearly")
    await leading.schedules.run("yearly")
    await until(lambda: ran == [1])
    await leading.schedules.pause("yearly")
    assert (await leading.schedules.get("yearly"))["status"] == "paused"
    await leading.schedules.resume("yearly")
    schedules, _ = await leading.schedules.list()
    assert [schedule["job_id"] for schedule in schedules] == ["yearly"]
    await leading.schedules.delete("yearly")

    async def is_gone() -> bool:
        try:
            await leading.schedules.get("yearly")
        except errors.NotFound:
            return True
        return False

    # It goes when the ticks that have started have ended.
    await until(is_gone)


async def test_a_tick_that_fails_is_tried_again(leading: LockBay) -> None:
    attempts: list[int] = []

    def flaky(tick: Any) -> None:
        attempts.append(tick.attempt)
        if tick.attempt == 1:
            raise OSError("away")

    leading.schedules.register("flaky", flaky)
    await leading.schedules.put("flaky", "0 0 1 1 *", "flaky", max_retries=2)
    await leading.schedules.run("flaky")
    await until(lambda: attempts == [1, 2])


async def test_schedules_go_on_with_the_next_leader(store: str) -> None:
    ran: list[str] = []
    async with LockBay.open(store, **QUICK) as other:
        other.schedules.register("tick", lambda: ran.append("other"))
        async with LockBay.open(store, **QUICK) as first:
            first.schedules.register("tick", lambda: ran.append("first"))
            await first.schedules.put("tick", "every 1s", "tick")
            await until(lambda: ran)
        await until(other.is_leader)
        ran.clear()
        await until(lambda: "other" in ran)


async def test_what_is_wrong_with_a_schedule_is_said(bay: LockBay) -> None:
    bay.schedules.register("tick", lambda: None)
    with pytest.raises(errors.Invalid, match="sometimes"):
        await bay.schedules.put("tick", "sometimes", "tick")
    with pytest.raises(errors.Invalid, match="misfire is run_once, run_all or skip, not \"hope\""):
        await bay.schedules.put("tick", "every 1m", "tick", misfire="hope")
    with pytest.raises(errors.Invalid, match="Nowhere"):
        await bay.schedules.put("tick", "0 0 * * *", "tick", time_zone="Nowhere/City")
