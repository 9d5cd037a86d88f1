"""When an APScheduler trigger is due, said as an expression of a LockBay schedule.

A schedule has to be due at the same moments wherever it is read, so only triggers that say the same
on every instance have an expression. Any other is refused, with what to write instead; nothing is
rounded to something near it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.cron.expressions import (
    AllExpression,
    LastDayOfMonthExpression,
    RangeExpression,
    WeekdayPositionExpression,
    WeekdayRangeExpression,
)
from apscheduler.triggers.interval import IntervalTrigger

from lockbay.errors import Invalid

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_LAST = {"second": 59, "minute": 59, "hour": 23, "day": 31, "month": 12, "day_of_week": 6}
_FIELDS = ("second", "minute", "hour", "day", "month", "day_of_week")


@dataclass(frozen=True)
class Due:
    """When something is due."""

    expression: str
    time_zone: str
    jitter: float | None


def due(job_id: str, trigger: BaseTrigger) -> Due:
    """The expression of a trigger. An interval is moved to where its expression is due."""
    if isinstance(trigger, IntervalTrigger):
        return Due(_interval(job_id, trigger), "UTC", trigger.jitter)
    if isinstance(trigger, CronTrigger):
        return Due(_cron(job_id, trigger), _zone(job_id, trigger.timezone), trigger.jitter)
    raise _refused(
        job_id,
        f"{trigger} is not: use 'interval' or 'cron'. What is to run once is a job: "
        "`await bay.run_job(…, leader_only=True)`",
    )


def _refused(job_id: str, why: str) -> Invalid:
    must = f"the leader-only job {job_id!r} has to be due at the same times on every instance"
    return Invalid(f"{must}, and {why}")


def _interval(job_id: str, trigger: IntervalTrigger) -> str:
    length = trigger.interval
    if trigger.end_date is not None:
        raise _refused(job_id, "an end_date is not kept: remove the job when it is over")
    begins = trigger.start_date - _EPOCH
    if begins % length:
        # Without a start_date it begins when it was made, and that is not a whole second.
        if trigger.start_date.microsecond == 0:
            raise _refused(
                job_id,
                f"an interval is due at multiples of it, counted from 1970 in UTC; one that begins "
                f"at {trigger.start_date} is not: use 'cron', or leave start_date out",
            )
        trigger.start_date = _EPOCH.astimezone(trigger.timezone)
    milliseconds, rest = divmod(length, timedelta(milliseconds=1))
    if rest:
        raise _refused(job_id, f"an interval is a number of whole milliseconds, not {length}")
    seconds, rest_ms = divmod(milliseconds, 1_000)
    return f"every {milliseconds}ms" if rest_ms else f"every {seconds}s"


def _zone(job_id: str, zone: Any) -> str:
    if zone is timezone.utc:
        return "UTC"
    # As zoneinfo and pytz have it.
    name = getattr(zone, "key", None) or getattr(zone, "zone", None)
    if not isinstance(name, str) or name == "local":
        why = f"{zone!r} has no name of the IANA database: pass one, such as timezone='UTC'"
        raise _refused(job_id, why)
    return name


def _cron(job_id: str, trigger: CronTrigger) -> str:
    if trigger.start_date is not None or trigger.end_date is not None:
        raise _refused(job_id, "start_date and end_date are not kept: add and remove the job then")
    fields = {field.name: field.expressions for field in trigger.fields}
    for name in ("year", "week"):
        if str(fields[name][0]) != "*":
            raise _refused(job_id, f"there is no field {name!r} in its expressions: leave it out")
    texts = {name: _field(job_id, name, fields[name]) for name in _FIELDS}
    position = [it for it in fields["day"] if isinstance(it, WeekdayPositionExpression)]
    if position:
        if len(fields["day"]) > 1 or texts["day_of_week"] != "*":
            why = f"of days as {position[0]} there can be but one: add several jobs"
            raise _refused(job_id, why)
        texts["day"], texts["day_of_week"] = "*", _position(position[0])
    elif texts["day"] != "*" and texts["day_of_week"] != "*":
        # Both have to fit, where expressions are due on either unless they say so.
        texts["day_of_week"] = "+" + texts["day_of_week"]
    return " ".join(texts[name] for name in _FIELDS)


def _field(job_id: str, name: str, expressions: list[Any]) -> str:
    if name == "day_of_week":
        return _days_of_week(expressions)
    return ",".join(_values(job_id, name, expression) for expression in expressions)


def _values(job_id: str, name: str, expression: Any) -> str:
    if isinstance(expression, LastDayOfMonthExpression):
        return "L"
    if isinstance(expression, WeekdayPositionExpression):
        return "*"
    if isinstance(expression, RangeExpression):
        last = _LAST[name] if expression.last is None else expression.last
        values = str(expression.first) if last == expression.first else f"{expression.first}-{last}"
        return f"{values}/{expression.step}" if expression.step else values
    if isinstance(expression, AllExpression):
        return f"*/{expression.step}" if expression.step else "*"
    raise _refused(job_id, f"{expression} in {name} is nothing that its expressions know")


def _days_of_week(expressions: list[Any]) -> str:
    """By number, of which Sunday is the first here, and Monday there."""
    days: set[int] = set()
    for expression in expressions:
        if isinstance(expression, (RangeExpression, WeekdayRangeExpression)):
            last = expression.last
            if last is None:
                last = 6 if expression.step else expression.first
            days.update(range(expression.first, last + 1, expression.step or 1))
        else:
            days.update(range(0, 7, expression.step or 1))
    if len(days) == 7:
        return "*"
    return ",".join(str(day) for day in sorted((day + 1) % 7 for day in days))


def _position(expression: WeekdayPositionExpression) -> str:
    day = (expression.weekday + 1) % 7
    return f"{day}L" if expression.option_num == 5 else f"{day}#{expression.option_num + 1}"
