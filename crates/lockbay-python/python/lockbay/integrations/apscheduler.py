"""APScheduler 3 with jobs that run on the leader alone, each tick of them once.

    scheduler = LeaderAwareScheduler()
    scheduler.add_job(reconcile, "cron", hour=3, leader_only=True)
    scheduler.start()
    async with scheduler.bay:
        ...

A leader-only job is a schedule of LockBay, and not a job that APScheduler itself begins. The
reason is the handover. What APScheduler knows of a job, its next run time, dies with the process,
and a new leader that adds the job anew begins with the next tick: what was due between the death of
the old leader and the election would be lost, and what the old leader had begun and not finished as
well. A schedule is a record of the store. The leader commits there under its fence which ticks it
begins, and runs each as a job whose key is the job's id and the due time, so every leader goes on
where the last one was cut off, and no tick is lost or done twice.

So it owns two things: which leader-only jobs this process has, and what their schedules are to be.
They are in the job list while this instance leads, and only the leader writes schedules: what a
follower adds or removes counts when it is elected. When a job is due, and how it is run, is decided
elsewhere: in `_due`, and by the schedules.

Add leader-only jobs on every instance, since any may lead, and before the instance is opened. What
such a function has parameters for, it gets of its tick: `idempotency_token`, `fencing_token`,
`attempt`, `scheduled_time`, `tick`. An exception is tried again, as with any job.

Of APScheduler's settings, those hold that are said, for the job or in `job_defaults`:

- `coalesce`: of what is late only the last runs; without it all of it, 1,000 ticks at most.
- `misfire_grace_time`: what is later does not run. `None`, or not said beside `coalesce`: it runs
  however late, because the second that is APScheduler's default is less than a handover takes.
- `max_instances`: with 1, a tick that is due while another runs is left out; with more, up to 16
  run at once.

If neither of the first two is said, no tick is left out that is late by at most a minute, and of
those that are later the last one runs. If the last is not said, ticks run one after another.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import traceback
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from enum import Enum
from functools import partial
from typing import Any, Awaitable, Callable, Iterator, Mapping

from apscheduler.events import (
    EVENT_JOB_ERROR,
    EVENT_JOB_EXECUTED,
    EVENT_JOB_MISSED,
    EVENT_JOB_SUBMITTED,
    JobExecutionEvent,
    JobSubmissionEvent,
)
from apscheduler.job import Job
from apscheduler.jobstores.base import BaseJobStore, ConflictingIdError, JobLookupError
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.schedulers.base import STATE_RUNNING
from apscheduler.util import get_callable_name, ref_to_obj, undefined

from lockbay import _loop
from lockbay._lockbay import LockBay
from lockbay._process import bay as process_bay
from lockbay.errors import Invalid, LockBayError, NotFound, UnknownOutcome
from lockbay.integrations._due import due

__all__ = ["LEADER", "LeaderAwareScheduler"]

logger = logging.getLogger(__name__)

LEADER = "leader"
"""The alias of the job store that has leader-only jobs."""

_HANDLER = "apscheduler:"
_OF_THE_TICK = ("idempotency_token", "fencing_token", "attempt", "scheduled_time", "tick")
_POLICIES = ("misfire_grace_time", "coalesce", "max_instances")
_AGAIN, _LONGEST_AGAIN = 0.05, 1.0
_LOOK = 0.05
_MOST_RETRIES = 1000
_LONGEST_TICK = timedelta(days=7).total_seconds()


class _FromTheTick:
    def __repr__(self) -> str:
        return "<from the tick>"


_FROM_THE_TICK = _FromTheTick()


@dataclass(frozen=True)
class _Asked:
    """What was asked of a leader-only job beyond what APScheduler keeps of it."""

    said: frozenset[str] = frozenset()
    max_retries: int | None = None
    timeout: float | None = None

    def __post_init__(self) -> None:
        retries, timeout = self.max_retries, self.timeout
        if retries is not None:
            counts = isinstance(retries, int) and not isinstance(retries, bool)
            if not counts or not 0 <= retries <= _MOST_RETRIES:
                raise Invalid(f"max_retries is from 0 to {_MOST_RETRIES}, not {retries!r}")
        if timeout is not None:
            counts = isinstance(timeout, (int, float)) and not isinstance(timeout, bool)
            if not counts or not 0 < timeout <= _LONGEST_TICK:
                raise Invalid(
                    f"timeout is in seconds, more than 0 and at most {_LONGEST_TICK:g}, not "
                    f"{timeout!r}"
                )


class LeaderAwareScheduler(AsyncIOScheduler):  # type: ignore[misc]
    """An `AsyncIOScheduler` whose `add_job` and `scheduled_job` know `leader_only=True`.

    Everything else is as it is there. `bay` is the instance whose leadership counts; that of the
    process unless it is said. Shut it down together with the instance: while it is paused or shut
    down, ticks that this instance has begun wait, and their waiting counts as time of the attempt.
    """

    def __init__(
        self, gconfig: Any = None, *, bay: LockBay | None = None, **options: Any
    ) -> None:
        self.bay = bay or process_bay
        self._leader_jobs = _LeaderJobs(self.bay)
        super().__init__(gconfig or {}, **options)

    def _configure(self, config: Any) -> None:
        self._said_of_all = frozenset(config.get("job_defaults", {})) & frozenset(_POLICIES)
        super()._configure(config)
        self.add_jobstore(self._leader_jobs, LEADER)

    def add_job(
        self,
        func: Any,
        trigger: Any = None,
        args: Any = None,
        kwargs: Any = None,
        id: str | None = None,
        name: str | None = None,
        misfire_grace_time: Any = undefined,
        coalesce: Any = undefined,
        max_instances: Any = undefined,
        next_run_time: Any = undefined,
        jobstore: str = "default",
        executor: str = "default",
        replace_existing: bool = False,
        *,
        leader_only: bool = False,
        max_retries: int | None = None,
        timeout: float | None = None,
        **trigger_args: Any,
    ) -> Job:
        """As APScheduler's; with `leader_only=True`, or `jobstore="leader"`, on the leader alone.

        Its `id` is the name of the function unless it is said. `max_retries` and `timeout` are
        those of its ticks. Without `timeout` an attempt may take seven days, the longest there is.
        A plain function cannot be stopped: past it, it goes on beside the next attempt.
        """
        policies = (misfire_grace_time, coalesce, max_instances)
        if not leader_only and jobstore != LEADER:
            if max_retries is not None or timeout is not None:
                raise Invalid("max_retries and timeout are for jobs with leader_only=True")
            plain = (args, kwargs, id, name, *policies, next_run_time, jobstore, executor)
            return super().add_job(func, trigger, *plain, replace_existing, **trigger_args)
        if next_run_time is not undefined:
            raise Invalid(
                "a leader-only job is due when its trigger says: leave next_run_time out, and "
                "pause it or run it with `bay.schedules`"
            )
        function = ref_to_obj(func) if isinstance(func, str) else func
        id = id or get_callable_name(function)
        trigger = self._create_trigger(trigger, trigger_args)
        due(id, trigger)
        said = {name for name, value in zip(_POLICIES, policies) if value is not undefined}
        asked = _Asked(self._said_of_all | said, max_retries, timeout)
        kwargs = {**_of_the_tick(function, args or (), kwargs or {}), **(kwargs or {})}
        rest = (*policies, undefined, LEADER, executor, replace_existing)
        with self._leader_jobs.asking(id, asked):
            return super().add_job(func, trigger, args, kwargs, id, name, *rest)

    def modify_job(self, job_id: str, jobstore: str | None = None, **changes: Any) -> Job:
        """As APScheduler's. Leader-only jobs are changed on the leader, for all."""
        with self._jobstores_lock:
            job, alias = self._lookup_job(job_id, jobstore)
            if alias is None:  # It waits for the scheduler to start.
                alias = next(alias for it, alias, _ in self._pending_jobs if it is job)
            if alias != LEADER:
                return super().modify_job(job_id, jobstore, **changes)
            if "trigger" in changes:
                due(job_id, changes["trigger"])
            if changes.keys() & {"func", "args", "kwargs"}:
                changes["kwargs"] = _with_the_tick(job, changes)
            said = frozenset(changes) & frozenset(_POLICIES)
            with self._leader_jobs.changing(job_id, said, "next_run_time" in changes):
                return super().modify_job(job_id, jobstore, **changes)

    async def settled(self, timeout: float = 10.0) -> None:
        """Waits until the schedules of this leader are as its jobs say.

        Raises what was refused, and `TimeoutError` if this instance does not lead meanwhile.
        """
        async with asyncio.timeout(timeout):
            while self._leader_jobs.unsettled or not self.bay.is_leader():
                await asyncio.sleep(_LOOK)
        if self._leader_jobs.refused:
            raise next(iter(self._leader_jobs.refused.values()))


def _of_the_tick(function: Callable[..., Any], args: Any, kwargs: Any) -> dict[str, Any]:
    """The parameters that a function gets of its tick."""
    names = _loop.named_parameters(function)
    try:
        bound = inspect.signature(function).bind_partial(*args, **kwargs).arguments
    except (TypeError, ValueError):  # APScheduler says what is wrong, or cannot either.
        return {}
    return {name: _FROM_THE_TICK for name in _OF_THE_TICK if name in names and name not in bound}


def _with_the_tick(job: Job, changes: dict[str, Any]) -> Any:
    """What a job that is changed gets by name: what is said, and of its tick what it now names."""
    func, args, kwargs = (changes.get(it, getattr(job, it)) for it in ("func", "args", "kwargs"))
    if not isinstance(kwargs, Mapping):  # APScheduler says what is wrong.
        return kwargs
    said = {name: value for name, value in kwargs.items() if value is not _FROM_THE_TICK}
    function = ref_to_obj(func) if isinstance(func, str) else func
    return {**_of_the_tick(function, args, said), **said}


class _Standing(Enum):
    """How the schedule of a job is to stand."""

    AS_IT_DOES = "as it does"
    PAUSED = "paused"
    ACTIVE = "active"
    GONE = "gone"


@dataclass(frozen=True, eq=False)
class _Wish:
    """One wish, told from any other that says the same."""

    standing: _Standing


@dataclass
class _Held:
    """A leader-only job of this process."""

    job: Job
    paused: bool = False


@dataclass(eq=False)
class _LeaderJobs(BaseJobStore):  # type: ignore[misc]
    """Leader-only jobs, which are there while this instance leads. None is ever due here."""

    bay: LockBay
    refused: dict[str, Exception] = field(default_factory=dict)
    """Why schedules are not as their jobs say."""
    _jobs: dict[str, _Held] = field(default_factory=dict)
    _asked: dict[str, _Asked] = field(default_factory=dict)
    _wishes: dict[str, _Wish] = field(default_factory=dict)
    _decides: bool = False
    """Whether the job that is being changed is paused or resumed."""
    _listens: bool = False
    _is_new: bool = False
    """Whether it was elected and has not looked around yet."""
    _settling: asyncio.Task[None] | None = None
    _nudge: asyncio.Event | None = None

    # What the scheduler says of jobs.

    @contextmanager
    def asking(self, job_id: str, asked: _Asked) -> Iterator[None]:
        """Hears what is asked of a job that is being added."""
        before = self._asked.get(job_id)
        self._asked[job_id] = asked
        try:
            yield
        except BaseException:
            if before is None:
                del self._asked[job_id]
            else:
                self._asked[job_id] = before
            raise

    @contextmanager
    def changing(self, job_id: str, said: frozenset[str], decides: bool) -> Iterator[None]:
        """Hears which settings of a job are said from now on, and whether a pause is decided."""
        asked = self._asked.get(job_id, _Asked())
        self._decides = decides
        try:
            with self.asking(job_id, replace(asked, said=asked.said | said)):
                yield
        finally:
            self._decides = False

    # What APScheduler asks of a store of jobs.

    def start(self, scheduler: Any, alias: str) -> None:
        super().start(scheduler, alias)
        if not self._listens:
            self.bay.on("leader_elected", self._elected)
            self._listens = True
        scheduler._eventloop.call_soon_threadsafe(self._begin_to_settle)

    def shutdown(self) -> None:
        if self._settling is not None:
            self._settling.cancel()
        self._settling = self._nudge = None

    def add_job(self, job: Job) -> None:
        if job.id in self._jobs:
            raise ConflictingIdError(job.id)
        is_paused = job.next_run_time is None
        self._jobs[job.id] = _Held(job, is_paused)
        self.bay.schedules.register(_HANDLER + job.id, partial(self._tick, job.id))
        self._wish(job.id, _Standing.PAUSED if is_paused else _Standing.AS_IT_DOES)

    def update_job(self, job: Job) -> None:
        held = self._jobs.get(job.id)
        if held is None:
            raise JobLookupError(job.id)
        held.job = job
        is_paused = job.next_run_time is None
        # Another leader may have paused or resumed it since, so what is decided is always said.
        if is_paused == held.paused and not self._decides:
            self._wish(job.id)
        else:
            held.paused = is_paused
            self._wish(job.id, _Standing.PAUSED if is_paused else _Standing.ACTIVE)

    def remove_job(self, job_id: str) -> None:
        if self._jobs.pop(job_id, None) is None:
            raise JobLookupError(job_id)
        self._asked.pop(job_id, None)
        self.refused.pop(job_id, None)
        self._wishes.pop(job_id, None)
        if self.bay.is_leader():
            self._wish(job_id, _Standing.GONE)

    def remove_all_jobs(self) -> None:
        for job_id in list(self._jobs):
            self.remove_job(job_id)

    def lookup_job(self, job_id: str) -> Job | None:
        held = self._jobs.get(job_id)
        return self._shown(held) if held is not None and self.bay.is_leader() else None

    def get_all_jobs(self) -> list[Job]:
        if not self.bay.is_leader():
            return []
        return [self._shown(held) for held in self._jobs.values()]

    def get_due_jobs(self, now: datetime) -> list[Job]:
        return []

    def get_next_run_time(self) -> datetime | None:
        return None

    def _shown(self, held: _Held) -> Job:
        """The job with its next run time as of now, which nothing but a reader looks at."""
        if not held.paused:
            now = datetime.now(timezone.utc)
            held.job.next_run_time = held.job.trigger.get_next_fire_time(None, now)
        return held.job

    # Schedules, which only the leader writes.

    @property
    def unsettled(self) -> bool:
        """Whether schedules are still to be written."""
        return bool(self._wishes) or self._settling is None

    async def _elected(self) -> None:
        # Whether what was removed here is still wanted is for the leaders since to know.
        as_it_does = _Wish(_Standing.AS_IT_DOES)
        self._wishes = {job_id: self._wishes.get(job_id, as_it_does) for job_id in self._jobs}
        self._is_new = True
        self._wake()

    def _wish(self, job_id: str, standing: _Standing = _Standing.AS_IT_DOES) -> None:
        self.refused.pop(job_id, None)
        before = self._wishes.get(job_id)
        if before is not None and standing is _Standing.AS_IT_DOES:
            # A pause that was not carried out yet is still wished.
            standing = standing if before.standing is _Standing.GONE else before.standing
        self._wishes[job_id] = _Wish(standing)
        self._wake()

    def _wake(self) -> None:
        nudge = self._nudge
        if nudge is not None:
            self._scheduler._eventloop.call_soon_threadsafe(nudge.set)

    def _begin_to_settle(self) -> None:
        self._nudge = asyncio.Event()
        self._nudge.set()
        self._settling = asyncio.get_running_loop().create_task(self._settle(self._nudge))

    async def _settle(self, nudge: asyncio.Event) -> None:
        while True:
            await nudge.wait()
            nudge.clear()
            pause = _AGAIN
            while self._wishes and self.bay.is_leader():
                job_id, wish = next(iter(self._wishes.items()))
                try:
                    await self._carry_out(job_id, wish)
                except Exception as error:  # One job must not hold up the others.
                    if isinstance(error, UnknownOutcome) or getattr(error, "retryable", False):
                        await asyncio.sleep(pause)
                        pause = min(pause * 2, _LONGEST_AGAIN)
                        continue
                    unforeseen = None if isinstance(error, LockBayError) else error
                    what = "the schedule of %s was refused: %s"
                    logger.error(what, job_id, error, exc_info=unforeseen)
                    self.refused[job_id] = error
                pause = _AGAIN
                if self._wishes.get(job_id) is wish:
                    del self._wishes[job_id]
            if self._is_new and self.bay.is_leader():
                self._is_new = False
                await self._tell_of_strangers()

    async def _tell_of_strangers(self) -> None:
        """Tells of schedules whose jobs are not here. Another version of the application may have
        them, so that they are not this one's to delete."""
        page = None
        try:
            while True:
                found, page = await self.bay.schedules.list(page=page)
                for schedule in found:
                    job_id = schedule["job_id"]
                    if schedule["handler"] == _HANDLER + job_id and job_id not in self._jobs:
                        logger.warning(
                            "this leader has no job for the schedule %s, so its ticks wait for a "
                            "minute, and then fail: add the job on every instance, or delete the "
                            "schedule",
                            job_id,
                        )
                if page is None:
                    return
        except Exception as error:
            logger.warning("schedules could not be looked through: %s", error)

    async def _carry_out(self, job_id: str, wish: _Wish) -> None:
        schedules, held = self.bay.schedules, self._jobs.get(job_id)
        if wish.standing is _Standing.GONE or held is None:
            try:
                await schedules.delete(job_id)
            except NotFound:
                pass
            return
        job, asked = held.job, self._asked.get(job_id, _Asked())
        when = due(job_id, job.trigger)
        await schedules.put(
            job_id,
            when.expression,
            _HANDLER + job_id,
            time_zone=when.time_zone,
            jitter=when.jitter,
            max_retries=asked.max_retries,
            timeout=_LONGEST_TICK if asked.timeout is None else asked.timeout,
            **_policies(job, asked.said),
        )
        if wish.standing is _Standing.PAUSED:
            await schedules.pause(job_id)
        elif wish.standing is _Standing.ACTIVE:
            await schedules.resume(job_id)

    # Ticks, which the schedules begin.

    async def _tick(self, job_id: str, tick: Any) -> None:
        while self._scheduler is None or self._scheduler.state != STATE_RUNNING:
            await asyncio.sleep(_LOOK)
        held = self._jobs.get(job_id)
        if held is None:
            raise NotFound(f"this process has no job {job_id!r} any more")
        job, scheduler = held.job, self._scheduler
        at = datetime.fromisoformat(tick.scheduled_time)
        told = (job_id, LEADER, at.astimezone(scheduler.timezone))
        if self._is_too_late(job, tick, at):
            logger.warning("%s of %s was too late and did not run", at, job_id)
            scheduler._dispatch_event(JobExecutionEvent(EVENT_JOB_MISSED, *told))
            return
        submitted = JobSubmissionEvent(EVENT_JOB_SUBMITTED, job_id, LEADER, [told[2]])
        scheduler._dispatch_event(submitted)
        try:
            result = await self._call(job, tick)
        except Exception as error:
            logger.exception("%s of %s raised an exception", at, job_id)
            trace = "".join(traceback.format_tb(error.__traceback__))
            raised = JobExecutionEvent(
                EVENT_JOB_ERROR, *told, exception=error, traceback=trace
            )
            scheduler._dispatch_event(raised)
            raise
        scheduler._dispatch_event(JobExecutionEvent(EVENT_JOB_EXECUTED, *told, retval=result))

    def _is_too_late(self, job: Job, tick: Any, at: datetime) -> bool:
        """Where only the last of what is late runs, whether even that is too late."""
        said = self._asked.get(job.id, _Asked()).said
        # What was begun before is no longer late, but cut off.
        if tick.attempt > 1:
            return False
        seconds = _grace(job, said)
        if not job.coalesce or seconds is None:
            return False
        grace = timedelta(seconds=seconds + (job.trigger.jitter or 0))
        return datetime.now(timezone.utc) - at > grace

    async def _call(self, job: Job, tick: Any) -> Any:
        kwargs = {
            name: _of(tick, name) if value is _FROM_THE_TICK else value
            for name, value in job.kwargs.items()
        }
        if _loop.is_async(job.func):
            return await job.func(*job.args, **kwargs)
        result = await self._on_the_executor(job, partial(_loop.plainly, job.func), kwargs)
        return await result if inspect.isawaitable(result) else result

    def _on_the_executor(
        self, job: Job, function: Callable[..., Any], kwargs: dict[str, Any]
    ) -> Awaitable[Any]:
        executor = self._scheduler._lookup_executor(job.executor)
        call = partial(function, *job.args, **kwargs)
        begin = asyncio.get_running_loop().run_in_executor
        # Its own if it has one, such as a pool of processes.
        pool: Any = getattr(executor, "_pool", None)
        try:
            return begin(pool, call)
        except BrokenProcessPool:
            # It takes nothing any more, so nothing was begun. As APScheduler does.
            logger.warning("the pool of processes of %s is broken and was replaced", job.executor)
            executor._pool = type(pool)(pool._max_workers, **executor.pool_kwargs)
            return begin(executor._pool, call)


def _of(tick: Any, name: str) -> Any:
    if name == "tick":
        return tick
    if name == "scheduled_time":
        return datetime.fromisoformat(tick.scheduled_time)
    return getattr(tick, name)


def _grace(job: Job, said: frozenset[str]) -> int | None:
    """How late a tick may be, in seconds, if that was said."""
    seconds: int | None = job.misfire_grace_time if "misfire_grace_time" in said else None
    return seconds


def _policies(job: Job, said: frozenset[str]) -> dict[str, Any]:
    """What becomes of late and overlapping ticks, as far as it was said."""
    policies: dict[str, Any] = {}
    if said & {"misfire_grace_time", "coalesce"}:
        grace = _grace(job, said)
        if job.coalesce:
            policies.update(misfire="run_once", misfire_grace=0.0)
        elif grace is None:
            policies.update(misfire="run_all", misfire_grace=0.0)
        else:
            policies.update(misfire="skip", misfire_grace=float(grace))
    if "max_instances" in said:
        policies["overlap"] = "skip" if job.max_instances == 1 else "allow"
    return policies
