"""Leader-only jobs of APScheduler: where they are, when they run, and what becomes of settings."""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures.process import BrokenProcessPool
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from apscheduler.events import EVENT_JOB_ERROR, EVENT_JOB_EXECUTED, EVENT_JOB_MISSED
from apscheduler.executors.pool import ProcessPoolExecutor
from apscheduler.jobstores.base import ConflictingIdError, JobLookupError
from apscheduler.triggers.combining import OrTrigger
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.date import DateTrigger
from apscheduler.triggers.interval import IntervalTrigger
from lockbay import Failed, LockBay, errors
from lockbay.integrations._due import due
from lockbay.integrations.apscheduler import LeaderAwareScheduler, _LeaderJobs

from conditions import on_a_loop, soon


def open_bay(directory: Path, **settings: Any) -> LockBay:
    return LockBay(f"sqlite:{directory / 'lockbay.db'}", leader_ttl="1s", **settings)


def ids(scheduler: LeaderAwareScheduler) -> list[str]:
    return sorted(job.id for job in scheduler.get_jobs())


async def schedule(bay: LockBay, job_id: str) -> dict[str, Any]:
    return await bay.schedules.get(job_id)


@on_a_loop
async def test_leader_only_jobs_appear_with_leadership_and_vanish_with_it(tmp_path: Path) -> None:
    instances = []
    for _ in range(2):
        bay = open_bay(tmp_path)
        scheduler = LeaderAwareScheduler(bay=bay)
        scheduler.add_job(print, "cron", hour=3, id="report", leader_only=True)
        scheduler.add_job(print, "cron", hour=3, id="everywhere")
        scheduler.start()
        assert ids(scheduler) == ["everywhere"]
        await bay.start()
        instances.append((bay, scheduler))
        await soon("one leads", lambda: instances[0][0].is_leader())
    (first, leading), (second, following) = instances
    assert ids(leading) == ["everywhere", "report"]
    assert ids(following) == ["everywhere"]
    assert following.get_job("report") is None

    await first.close()
    assert ids(leading) == ["everywhere"]
    await soon("the other leads", lambda: second.is_leader())
    assert ids(following) == ["everywhere", "report"]
    due_next = following.get_job("report").next_run_time
    assert due_next == leading.get_job("everywhere").next_run_time
    await second.close()


@on_a_loop
async def test_each_tick_runs_once_on_one_of_two_instances_and_over_a_handover(
    tmp_path: Path,
) -> None:
    ran: list[tuple[str, datetime]] = []
    bays = {}
    for name in ("first", "second"):
        bay = open_bay(tmp_path)
        scheduler = LeaderAwareScheduler(bay=bay)

        def tick(who: str, scheduled_time: datetime) -> None:
            ran.append((who, scheduled_time))

        scheduler.add_job(tick, "interval", seconds=1, args=[name], id="tick", leader_only=True)
        scheduler.start()
        await bay.start()
        bays[name] = bay
        await soon("one leads", lambda: bays["first"].is_leader())
    await soon("two ticks", lambda: len(ran) >= 2)
    await bays["first"].close()
    await soon("ticks of the next leader", lambda: len(ran) >= 4 and ran[-1][0] == "second")
    await bays["second"].close()
    times = [at for _, at in ran]
    assert times == [times[0] + timedelta(seconds=n) for n in range(len(times))]
    assert {who for who, _ in ran} == {"first", "second"}


@on_a_loop
async def test_ticks_wait_while_a_version_without_the_job_leads(tmp_path: Path) -> None:
    ran: list[tuple[str, datetime]] = []

    async def version(name: str, jobs: bool) -> LockBay:
        bay = open_bay(tmp_path)
        scheduler = LeaderAwareScheduler(bay=bay)

        def tick(scheduled_time: datetime) -> None:
            ran.append((name, scheduled_time))

        if jobs:
            scheduler.add_job(tick, "interval", seconds=1, id="tick", leader_only=True)
        scheduler.start()
        return await bay.start()

    new = await version("new", jobs=True)
    await soon("a tick", lambda: ran)
    old = await version("old", jobs=False)
    await new.close()

    async def waiting() -> list[Any]:
        open_ticks = (await schedule(old, "tick"))["in_progress"]
        return [tick for tick in open_ticks if "waits" in (tick["error"] or "")]

    waited = await soon("a tick waits", waiting)
    await asyncio.sleep(3)
    assert await soon("it waits still", waiting) == waited
    again = await version("again", jobs=True)
    await old.close()
    await soon("what waited", lambda: ran[-1][0] == "again")
    await again.close()
    times = [at for _, at in ran]
    assert times == [times[0] + timedelta(seconds=n) for n in range(len(times))]


CRONS: list[dict[str, Any]] = [
    {"second": "*/7"},
    {"minute": "5/10"},
    {"hour": 3},
    {"hour": "1-5/2,12", "minute": "0,30"},
    {"day": "last"},
    {"day": "1,last"},
    {"day": "2nd fri", "hour": 4},
    {"day": "5th wed"},
    {"day": "last sun"},
    {"day": "*/10"},
    {"day": "13", "day_of_week": "fri"},
    {"day": "1-7", "day_of_week": "tue", "hour": 2},
    {"day_of_week": "mon-fri", "hour": 9, "minute": 30},
    {"day_of_week": "sat,sun"},
    {"day_of_week": 6},
    {"day_of_week": "*/3"},
    {"month": "jan,jun-aug", "day": 15},
    {"month": "*/5"},
    {"hour": 3, "timezone": "America/New_York"},
]


@on_a_loop
async def test_a_cron_trigger_and_its_expression_are_due_at_the_same_time(tmp_path: Path) -> None:
    async with open_bay(tmp_path, audit=False) as bay:
        for fields in CRONS:
            trigger = CronTrigger(**{"timezone": "UTC", **fields})
            when = due("job", trigger)
            put = await bay.schedules.put("job", when.expression, "h", time_zone=when.time_zone)
            by_ours = datetime.fromisoformat(put["next_due"])
            by_theirs = trigger.get_next_fire_time(None, datetime.now(timezone.utc))
            assert by_ours == by_theirs, f"{fields} as {when}"
            await bay.schedules.delete("job")


def test_an_interval_is_due_at_its_multiples_and_shown_so() -> None:
    trigger = IntervalTrigger(minutes=7)
    assert due("job", trigger).expression == "every 420s"
    at = trigger.get_next_fire_time(None, datetime.now(timezone.utc))
    assert at.timestamp() % 420 == 0
    assert due("job", IntervalTrigger(seconds=1.5)).expression == "every 1500ms"


@pytest.mark.parametrize(
    ("trigger", "why"),
    [
        (DateTrigger(), "run_job"),
        (OrTrigger([CronTrigger(hour=3, timezone="UTC")]), "'interval' or 'cron'"),
        (CronTrigger(year=2030, timezone="UTC"), "'year'"),
        (CronTrigger(week=3, timezone="UTC"), "'week'"),
        (CronTrigger(hour=3, timezone="UTC", end_date="2030-01-01"), "end_date"),
        (CronTrigger(hour=3, timezone=timezone(timedelta(hours=1))), "IANA"),
        (IntervalTrigger(hours=24, start_date="2026-01-01 03:00:00", timezone="UTC"), "1970"),
        (IntervalTrigger(hours=1, end_date="2030-01-01"), "end_date"),
        (CronTrigger(day="1st mon,3rd mon", timezone="UTC"), "several jobs"),
    ],
)
def test_a_trigger_that_differs_between_instances_is_refused(trigger: Any, why: str) -> None:
    scheduler = LeaderAwareScheduler(bay=LockBay())
    with pytest.raises(errors.Invalid, match=why):
        scheduler.add_job(print, trigger, id="job", leader_only=True)
    assert scheduler.get_jobs() == []


@pytest.mark.parametrize(
    ("defaults", "options", "expected"),
    [
        ({}, {}, ("run_once", 60.0, "queue")),
        ({}, {"coalesce": False, "misfire_grace_time": None}, ("run_all", 0.0, "queue")),
        ({}, {"coalesce": False, "misfire_grace_time": 30}, ("skip", 30.0, "queue")),
        ({}, {"coalesce": True}, ("run_once", 0.0, "queue")),
        ({}, {"coalesce": False}, ("run_all", 0.0, "queue")),
        ({"coalesce": False}, {}, ("run_all", 0.0, "queue")),
        ({"coalesce": False}, {"misfire_grace_time": 5}, ("skip", 5.0, "queue")),
        ({"max_instances": 1}, {}, ("run_once", 60.0, "skip")),
        ({"max_instances": 1}, {"max_instances": 3}, ("run_once", 60.0, "allow")),
    ],
)
@on_a_loop
async def test_settings_of_misfires_hold_where_they_are_said(
    tmp_path: Path, defaults: Any, options: Any, expected: Any
) -> None:
    async with open_bay(tmp_path) as bay:
        scheduler = LeaderAwareScheduler(bay=bay, job_defaults=defaults)
        scheduler.add_job(print, "cron", hour=3, id="job", leader_only=True, **options)
        scheduler.start()
        await scheduler.settled()
        kept = await schedule(bay, "job")
        assert (kept["misfire"], kept["misfire_grace_seconds"], kept["overlap"]) == expected


@on_a_loop
async def test_a_coalesced_tick_that_is_later_than_its_grace_is_told_and_not_run(
    tmp_path: Path,
) -> None:
    ran, missed = [], []
    async with open_bay(tmp_path) as bay:
        scheduler = LeaderAwareScheduler(bay=bay)
        scheduler.add_listener(missed.append, EVENT_JOB_MISSED)
        scheduler.add_job(
            lambda tick: ran.append(tick),
            CronTrigger(hour=3, timezone="UTC"),
            id="job",
            coalesce=True,
            misfire_grace_time=60,
            leader_only=True,
        )
        scheduler.start()
        await scheduler.settled()
        for lateness, attempt in ((30, 1), (90, 1), (90, 2)):
            at = datetime.now(timezone.utc) - timedelta(seconds=lateness)
            tick = SimpleNamespace(scheduled_time=at.isoformat(), attempt=attempt)
            await scheduler._leader_jobs._tick("job", tick)
    assert [tick.attempt for tick in ran] == [1, 2], "one that was begun before is not late"
    assert len(missed) == 1


@on_a_loop
async def test_a_coalesced_tick_without_a_grace_runs_however_late(tmp_path: Path) -> None:
    ran: list[str] = []
    async with open_bay(tmp_path) as bay:
        scheduler = LeaderAwareScheduler(bay=bay)
        how: Any = {"hour": 3, "id": "job", "coalesce": True, "leader_only": True}
        scheduler.add_job(lambda scheduled_time: ran.append(scheduled_time), "cron", **how)
        scheduler.start()
        await scheduler.settled()
        at = datetime.now(timezone.utc) - timedelta(seconds=6)  # As long as a handover takes.
        tick = SimpleNamespace(scheduled_time=at.isoformat(), attempt=1)
        await scheduler._leader_jobs._tick("job", tick)
    assert ran == [at]


@on_a_loop
async def test_the_leader_pauses_changes_and_removes_for_all(tmp_path: Path) -> None:
    async with open_bay(tmp_path) as bay:
        scheduler = LeaderAwareScheduler(bay=bay)
        scheduler.start()
        job = scheduler.add_job(print, "cron", hour=3, id="job", leader_only=True, timezone="UTC")
        await scheduler.settled()
        job.pause()
        await scheduler.settled()
        assert (await schedule(bay, "job"))["status"] == "paused"
        assert scheduler.get_job("job").next_run_time is None
        job.resume()
        job.reschedule("interval", minutes=5)
        scheduler.modify_job("job", misfire_grace_time=9, coalesce=False)
        await scheduler.settled()
        kept = await schedule(bay, "job")
        assert (kept["status"], kept["schedule_expression"]) == ("active", "every 300s")
        assert (kept["misfire"], kept["misfire_grace_seconds"]) == ("skip", 9.0)
        with pytest.raises(errors.Invalid, match="run_job"):
            scheduler.reschedule_job("job", trigger="date")
        scheduler.add_job(print, "cron", hour=4, id="job", leader_only=True, replace_existing=True)
        await scheduler.settled()
        assert (await schedule(bay, "job"))["schedule_expression"] == "0 0 4 * * *"
        job.remove()
        await scheduler.settled()
        assert scheduler.get_jobs() == []
        with pytest.raises(errors.NotFound):
            await schedule(bay, "job")


@on_a_loop
async def test_a_follower_that_forgets_a_job_leaves_its_schedule_alone(tmp_path: Path) -> None:
    async with open_bay(tmp_path) as leader:
        await soon("it leads", leader.is_leader)
        leading = LeaderAwareScheduler(bay=leader)
        leading.add_job(print, "cron", hour=3, id="job", leader_only=True)
        leading.start()
        await leading.settled()
        before = await schedule(leader, "job")
        async with open_bay(tmp_path) as follower:
            following = LeaderAwareScheduler(bay=follower)
            following.add_job(print, "cron", hour=4, id="job", leader_only=True)
            following.start()
            with pytest.raises(JobLookupError):
                following.pause_job("job")
            following.remove_job("job")
            with pytest.raises(JobLookupError):
                following.remove_job("job")
        assert await schedule(leader, "job") == before


@on_a_loop
async def test_a_leader_tells_of_schedules_whose_jobs_it_does_not_have(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_bay(tmp_path) as old:
        scheduler = LeaderAwareScheduler(bay=old)
        for job_id in ("kept", "dropped"):
            scheduler.add_job(print, "cron", hour=3, id=job_id, leader_only=True)
        scheduler.start()
        await scheduler.settled()
    scheduler.shutdown()
    bay = open_bay(tmp_path)
    scheduler = LeaderAwareScheduler(bay=bay)
    scheduler.add_job(print, "cron", hour=3, id="kept", leader_only=True)
    scheduler.start()
    async with bay:
        await soon("it is told", lambda: caplog.messages and "dropped" in caplog.text)
        assert "kept" not in "".join(it for it in caplog.messages if "schedule" in it)
        assert (await schedule(bay, "dropped"))["status"] == "active"


@on_a_loop
async def test_a_function_gets_of_its_tick_what_it_names(tmp_path: Path) -> None:
    got: list[dict[str, Any]] = []

    async def named(amount: int, *, idempotency_token: str, fencing_token: int) -> None:
        got.append({"amount": amount, "token": idempotency_token, "fence": fencing_token})

    async with open_bay(tmp_path) as bay:
        scheduler = LeaderAwareScheduler(bay=bay)
        scheduler.add_job(named, "interval", seconds=1, kwargs={"amount": 3}, leader_only=True)
        scheduler.start()
        await soon("a tick", lambda: got)
        (job,) = (await bay.jobs.list())[0][-1:]
    assert got[0]["amount"] == 3
    assert got[0]["token"] and got[0]["fence"] > 0
    assert job["job_type"].endswith("named")


@on_a_loop
async def test_an_exception_is_told_to_listeners_and_tried_again(tmp_path: Path) -> None:
    told: list[Any] = []
    threads = []

    def fails_once(attempt: int) -> str:
        threads.append(threading.current_thread())
        if attempt == 1:
            raise Failed("not yet", retryable=True)
        return "done"

    async with open_bay(tmp_path) as bay:
        scheduler = LeaderAwareScheduler(bay=bay)
        scheduler.add_listener(told.append, EVENT_JOB_ERROR | EVENT_JOB_EXECUTED)
        scheduler.add_job(fails_once, "interval", seconds=1, id="job", leader_only=True)
        scheduler.start()
        await soon("it is done", lambda: len(told) >= 2)
    assert [event.code for event in told[:2]] == [EVENT_JOB_ERROR, EVENT_JOB_EXECUTED]
    assert str(told[0].exception) == "not yet" and told[1].retval == "done"
    assert told[0].scheduled_run_time == told[1].scheduled_run_time
    assert threading.main_thread() not in threads, "a plain function holds no loop up"


@on_a_loop
async def test_ticks_wait_while_the_scheduler_is_paused(tmp_path: Path) -> None:
    ran: list[datetime] = []
    async with open_bay(tmp_path) as bay:
        scheduler = LeaderAwareScheduler(bay=bay)

        def job(scheduled_time: datetime) -> None:
            ran.append(scheduled_time)

        scheduler.add_job(job, "interval", seconds=1, id="job", leader_only=True)
        scheduler.start(paused=True)

        async def begun() -> list[Any]:
            try:
                return (await schedule(bay, "job"))["in_progress"]
            except errors.NotFound:
                return []

        waiting = await soon("a tick is begun", begun)
        assert ran == []
        scheduler.resume()
        await soon("it runs", lambda: ran)
    assert ran[0] == datetime.fromisoformat(waiting[0]["scheduled_time"])


@on_a_loop
async def test_jobs_that_are_not_leader_only_are_as_they_were(tmp_path: Path) -> None:
    ran = asyncio.Event()
    scheduler = LeaderAwareScheduler(bay=open_bay(tmp_path))

    async def now() -> None:
        ran.set()

    scheduler.add_job(now)
    scheduler.start()
    await ran.wait()
    with pytest.raises(errors.Invalid, match="leader_only"):
        scheduler.add_job(now, max_retries=1)
    scheduler.shutdown()


@on_a_loop
async def test_what_is_wrong_with_a_leader_only_job_is_said_where_it_is_added(
    tmp_path: Path,
) -> None:
    scheduler = LeaderAwareScheduler(bay=open_bay(tmp_path))
    scheduler.start()
    cron = {"trigger": "cron", "hour": 3, "timezone": "UTC", "leader_only": True}
    with pytest.raises(errors.Invalid, match="next_run_time"):
        scheduler.add_job(print, id="job", next_run_time=datetime.now(), **cron)
    with pytest.raises(ValueError, match="not been supplied"):
        scheduler.add_job(lambda amount: None, id="job", **cron)
    scheduler.add_job(print, id="job", **cron)
    with pytest.raises(ConflictingIdError):
        scheduler.add_job(print, id="job", **cron)
    scheduler.shutdown()


@on_a_loop
async def test_a_schedule_that_is_refused_is_said_by_settled(tmp_path: Path) -> None:
    async with open_bay(tmp_path) as bay:
        scheduler = LeaderAwareScheduler(bay=bay)
        scheduler.add_job(print, "cron", hour=3, id="with@sign", leader_only=True)
        scheduler.start()
        with pytest.raises(errors.Invalid, match="@"):
            await scheduler.settled()


@on_a_loop
async def test_a_tick_without_a_timeout_has_the_longest_there_is(tmp_path: Path) -> None:
    async with open_bay(tmp_path, saga_step_timeout="1s") as bay:
        scheduler = LeaderAwareScheduler(bay=bay)
        scheduler.add_job(print, "cron", hour=3, id="not said", leader_only=True)
        scheduler.add_job(print, "cron", hour=3, id="said", leader_only=True, timeout=30)
        scheduler.start()
        await scheduler.settled()
        times = [(await schedule(bay, it))["timeout_seconds"] for it in ("not said", "said")]
        assert times == [7 * 86_400, 30]


@pytest.mark.parametrize(
    "option",
    [
        {"max_retries": -1},
        {"max_retries": 1001},
        {"max_retries": "3"},
        {"max_retries": True},
        {"timeout": "30s"},
        {"timeout": 0},
        {"timeout": float("nan")},
        {"timeout": 8 * 86_400},
    ],
)
def test_retries_and_a_timeout_that_cannot_be_are_refused_where_they_are_said(option: Any) -> None:
    scheduler = LeaderAwareScheduler(bay=LockBay())
    how = {"hour": 3, "id": "job", "leader_only": True, **option}
    with pytest.raises(errors.Invalid, match=next(iter(option))):
        scheduler.add_job(print, "cron", **how)
    with pytest.raises(errors.Invalid, match=next(iter(option))):
        scheduler.scheduled_job("cron", **how)(print)
    assert scheduler.get_jobs() == []


@on_a_loop
async def test_a_job_whose_schedule_cannot_be_written_holds_no_other_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    carry_out = _LeaderJobs._carry_out

    async def fails_for_one(self: Any, job_id: str, wish: Any) -> None:
        if job_id == "bad":
            raise OverflowError("out of range")
        await carry_out(self, job_id, wish)

    monkeypatch.setattr(_LeaderJobs, "_carry_out", fails_for_one)
    async with open_bay(tmp_path) as bay:
        scheduler = LeaderAwareScheduler(bay=bay)
        for job_id in ("bad", "good"):
            scheduler.add_job(print, "cron", hour=3, id=job_id, leader_only=True)
        scheduler.start()
        with pytest.raises(OverflowError):
            await scheduler.settled()
        assert (await schedule(bay, "good"))["status"] == "active"
    assert "the schedule of bad was refused: out of range" in caplog.text


@on_a_loop
async def test_a_pause_is_ended_and_made_by_a_leader_that_did_not_make_or_end_it(
    tmp_path: Path,
) -> None:
    async with open_bay(tmp_path) as bay:
        scheduler = LeaderAwareScheduler(bay=bay)
        scheduler.add_job(print, "cron", hour=3, id="job", leader_only=True)
        scheduler.start()
        await scheduler.settled()
        await bay.schedules.pause("job")  # As the leader before did.
        scheduler.modify_job("job", name="another")
        await scheduler.settled()
        assert (await schedule(bay, "job"))["status"] == "paused"
        scheduler.resume_job("job")
        await scheduler.settled()
        assert (await schedule(bay, "job"))["status"] == "active"
        scheduler.pause_job("job")
        await scheduler.settled()
        await bay.schedules.resume("job")
        scheduler.pause_job("job")
        await scheduler.settled()
        assert (await schedule(bay, "job"))["status"] == "paused"


@on_a_loop
async def test_what_is_changed_before_the_start_holds(tmp_path: Path) -> None:
    async with open_bay(tmp_path) as bay:
        scheduler = LeaderAwareScheduler(bay=bay)
        for job_id in ("paused", "both", "late"):
            scheduler.add_job(print, "cron", hour=3, id=job_id, leader_only=True)
        scheduler.pause_job("paused")
        scheduler.pause_job("both")
        scheduler.resume_job("both")
        scheduler.modify_job("late", misfire_grace_time=9, coalesce=False)
        with pytest.raises(errors.Invalid, match="run_job"):
            scheduler.modify_job("late", trigger=DateTrigger())
        scheduler.start()
        await scheduler.settled()
        kept = [await schedule(bay, job_id) for job_id in ("paused", "both", "late")]
        assert [it["status"] for it in kept] == ["paused", "active", "active"]
        assert (kept[2]["misfire"], kept[2]["misfire_grace_seconds"]) == ("skip", 9.0)
        assert scheduler.get_job("paused").next_run_time is None
        scheduler.resume_job("paused")
        await scheduler.settled()
        assert (await schedule(bay, "paused"))["status"] == "active"


@on_a_loop
async def test_a_function_whose_arguments_are_changed_still_gets_what_it_names_of_its_tick(
    tmp_path: Path,
) -> None:
    got: list[Any] = []

    def first(amount: int, idempotency_token: str) -> None:
        got.append((amount, idempotency_token))

    def second(amount: int, attempt: int) -> None:
        got.append((amount, attempt))

    scheduler = LeaderAwareScheduler(bay=open_bay(tmp_path))
    how: Any = {"hour": 3, "id": "job", "leader_only": True}
    scheduler.add_job(first, "cron", kwargs={"amount": 1}, **how)

    async def tick() -> Any:
        at = datetime.now(timezone.utc).isoformat()
        tick = SimpleNamespace(scheduled_time=at, attempt=1, idempotency_token="token")
        await scheduler._leader_jobs._tick("job", tick)
        return got[-1]

    scheduler.modify_job("job", kwargs={"amount": 2})
    async with scheduler.bay:
        scheduler.start()
        await scheduler.settled()
        assert await tick() == (2, "token")
        scheduler.modify_job("job", kwargs={"amount": 3})
        assert await tick() == (3, "token")
        scheduler.modify_job("job", args=[4], kwargs={})
        assert await tick() == (4, "token")
        scheduler.modify_job("job", func=second)
        assert await tick() == (4, 1)
        scheduler.modify_job("job", kwargs={"attempt": 7})
        assert await tick() == (4, 7)
        with pytest.raises(TypeError, match="dict-like"):
            scheduler.modify_job("job", kwargs=3)


@on_a_loop
async def test_a_plain_job_that_raises_stop_iteration_has_failed(tmp_path: Path) -> None:
    async with open_bay(tmp_path) as bay:
        scheduler = LeaderAwareScheduler(bay=bay)
        how: Any = {"hour": 3, "id": "job", "leader_only": True, "kwargs": {"function": iter([])}}
        scheduler.add_job(lambda function: next(function), "cron", **how)
        scheduler.start()
        await scheduler.settled()
        tick = SimpleNamespace(scheduled_time=datetime.now(timezone.utc).isoformat(), attempt=1)
        with pytest.raises(RuntimeError, match="StopIteration"):
            async with asyncio.timeout(20):
                await scheduler._leader_jobs._tick("job", tick)


@on_a_loop
async def test_a_pool_of_processes_that_is_broken_is_replaced(tmp_path: Path) -> None:
    async with open_bay(tmp_path) as bay:
        executors = {"processes": ProcessPoolExecutor(1)}
        scheduler = LeaderAwareScheduler(bay=bay, executors=executors)
        how: Any = {"hour": 3, "executor": "processes", "leader_only": True}
        scheduler.add_job(os._exit, "cron", args=[1], id="exits", **how)
        scheduler.add_job(os.getpid, "cron", id="works", **how)
        told: list[Any] = []
        scheduler.add_listener(told.append, EVENT_JOB_EXECUTED)
        scheduler.start()
        await scheduler.settled()
        tick = SimpleNamespace(scheduled_time=datetime.now(timezone.utc).isoformat(), attempt=1)
        with pytest.raises(BrokenProcessPool):
            await scheduler._leader_jobs._tick("exits", tick)
        await scheduler._leader_jobs._tick("works", tick)
        assert told[0].retval != os.getpid()
        scheduler.shutdown()
