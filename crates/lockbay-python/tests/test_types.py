"""What type checkers are told is what there is: fields of documents, and a package that is alone."""

import asyncio
import subprocess
import sys
from pathlib import Path
from types import UnionType
from typing import (
    Any,
    Literal,
    NotRequired,
    Required,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

import pytest

import lockbay
from lockbay import LockBay, StepCall, documents

RULE: documents.AlertRuleFields = {
    "metric_path": "saga_metrics.sagas_failed",
    "operator": ">",
    "threshold": 5,
    "window_minutes": 10,
    "severity": "error",
}


def misfits(value: Any, kind: Any, place: str) -> list[str]:
    """Where a value is not of a type of `lockbay.documents`."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return []
    if origin in (NotRequired, Required):
        return misfits(value, arguments[0], place)
    if origin in (Union, UnionType):
        found = [misfits(value, argument, place) for argument in arguments]
        return [] if [] in found else found[0]
    if origin is Literal:
        return [] if value in arguments else [f"{place} is {value!r}, not one of {arguments}"]
    if is_typeddict(kind):
        return misfit_members(value, kind, place)
    if origin in (list, dict):
        if not isinstance(value, origin):
            return [f"{place} is no {origin.__name__}: {value!r}"]
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return [it for at, item in items for it in misfits(item, arguments[-1], f"{place}[{at}]")]
    plain: Any = (float, int) if kind is float else kind
    fits = isinstance(value, plain) and (kind is bool or not isinstance(value, bool))
    return [] if fits else [f"{place} is {value!r}, not {kind.__name__}"]


def misfit_members(value: Any, kind: Any, place: str) -> list[str]:
    if not isinstance(value, dict):
        return [f"{place} is no {kind.__name__}: {value!r}"]
    hints = get_type_hints(kind, include_extras=True)
    wrong = [f"{place} has no {name}" for name in kind.__required_keys__ - value.keys()]
    wrong += [f"{place} has {name}, not told of" for name in value.keys() - hints.keys()]
    for name in value.keys() & hints.keys():
        wrong += misfits(value[name], hints[name], f"{place}.{name}")
    return wrong


async def fail(call: StepCall) -> None:
    raise lockbay.Failed("no van today")


async def every_document(bay: LockBay) -> dict[str, tuple[Any, Any]]:
    """One of each, with its type."""
    bay.step("reserve", lambda call: "reserved").compensate(lambda call: None)
    bay.step("ship", fail)
    bay.schedules.register("books", lambda: None)
    await bay.run_job("t", "k", lambda job: {"a": 1}, {"amount": 1.5})
    saga = await bay.saga("order", [{"name": "reserve"}, {"name": "ship"}], {"order_id": 17})
    await bay.sagas.wait(saga, 30)
    await bay.state.set("a", 1, tags=["t"], ttl=60)
    while not bay.is_leader():
        await asyncio.sleep(0.01)
    jobs, _ = await bay.jobs.list()
    history, _ = await bay.sagas.history(saga)
    schedule = await bay.schedules.put("books", "@hourly", "books")
    await bay.schedules.run("books")
    while (ran := await bay.schedules.get("books"))["last_run"] is None:
        await asyncio.sleep(0.01)
    await bay.cleanup.put_rule("drafts", pattern="draft:*", ttl_seconds=60, interval_seconds=5.5)
    d = documents
    return {
        "jobs": (jobs, list[d.JobInfo]),
        "saga": (await bay.sagas.get(saga), d.SagaInfo),
        "history": (history, list[d.HistoryEntry]),
        "leader": (await bay.leader.current(), d.LeaderInfo),
        "schedule": (schedule, d.ScheduleInfo),
        "schedule that ran": (ran, d.ScheduleInfo),
        "entry": (await bay.state.entry("a"), d.StateEntry),
        "balance": (await bay.ledger.deposit(1, "9.99", "USD", idempotency_key="1"), d.Balance),
        "trial balance": (await bay.ledger.trial_balance(), d.TrialBalance),
        "health": (await bay.health(), d.Health),
        "metrics": (await bay.metrics(), d.Metrics),
        "report": (await bay.report(1), d.Report),
        "alert rule": (await bay.alerts.put_rule("r", **RULE), d.AlertRule),
        "alert rules": (await bay.alerts.rules(), list[d.AlertRule]),
        "alerts": (await bay.alerts.list(), list[d.Alert]),
        "alert test": (await bay.alerts.test_rule("r", **RULE), d.AlertTest),
        "cleanup": (await bay.cleanup.run(dry_run=True), d.CleanupReport),
        "memory": (await bay.cleanup.optimize_memory(), d.OptimizeReport),
        "cleanup rules": (await bay.cleanup.rules(), list[d.CleanupRule]),
    }


def test_every_document_has_the_fields_that_its_type_says(tmp_path: Path) -> None:
    async def told() -> dict[str, tuple[Any, Any]]:
        async with LockBay.open(f"sqlite:{tmp_path}/types.db") as bay:
            return await asyncio.wait_for(every_document(bay), 60)

    documents_told = asyncio.run(told()).items()
    wrong = [it for name, (value, kind) in documents_told for it in misfits(value, kind, name)]
    assert not wrong, "\n".join(wrong)


def test_the_metric_groups_of_the_types_are_those_that_can_be_asked_for() -> None:
    async def ask() -> None:
        async with LockBay.open("memory:") as bay:
            for group in get_args(documents.MetricGroup):
                assert isinstance(bay.counted(group), dict)

    asyncio.run(ask())


def test_the_package_needs_nothing_but_the_standard_library() -> None:
    package = str(Path(lockbay.__file__).parents[1])
    script = f"import sys; sys.path.append({package!r}); {GUIDE}; print(lockbay.__version__)"
    command = [sys.executable, "-I", "-S", "-c", script]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ran.stdout.strip() == lockbay.__version__, ran.stderr


GUIDE = (
    "import lockbay.services.advanced_state_management, lockbay.services.saga_coordinator,"
    " lockbay.services.leader_election, lockbay.services.job_idempotency_service,"
    " lockbay.services.ttl_cleanup_service, lockbay.utils.advanced_state_monitoring"
)


@pytest.mark.parametrize("wrong", [{"term": 1}, [], None], ids=["a part", "a list", "nothing"])
def test_a_document_of_another_shape_is_found(wrong: Any) -> None:
    assert misfits(wrong, documents.LeaderInfo, "it")
