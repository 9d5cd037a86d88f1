"""What the guide's text promises beyond its snippets, by the names of its modules."""

import asyncio
import sys
import types
from typing import Any

import pytest
from conftest import QUICK, until
from lockbay import LockBay, errors


@pytest.fixture
async def opened(guide: LockBay) -> LockBay:
    from lockbay.services.advanced_state_management import initialize_advanced_state_management

    assert await initialize_advanced_state_management()
    await until(guide.is_leader)
    return guide


def handlers(done: list[str]) -> Any:
    from lockbay.services.saga_coordinator import SagaStepHandler

    class Step(SagaStepHandler):
        async def execute(self, parameters: Any, context: Any) -> Any:
            done.append(f"execute {context.step.step}")
            if parameters == "wait":
                await asyncio.Event().wait()
            return parameters

        async def compensate(self, parameters: Any, context: Any, original_result: Any) -> Any:
            done.append(f"compensate {context.step.step}")

    return Step()


async def test_a_saga_is_started_looked_at_and_cancelled(opened: LockBay) -> None:
    from lockbay.services.saga_coordinator import SagaStep, saga_coordinator

    done: list[str] = []
    saga_coordinator.register_handler("step", handlers(done))
    steps = [
        SagaStep(name="first", handler="step"),
        SagaStep(name="second", handler="step", parameters="wait"),
    ]
    saga_id = await saga_coordinator.start_saga("order", steps, {"user": 7}, metadata={"by": "web"})
    await until(lambda: "execute second" in done)
    status = await saga_coordinator.get_saga_status(saga_id)
    assert status and status["status"] == "running" and status["metadata"] == {"by": "web"}
    assert saga_coordinator.get_metrics()["running_sagas"] == 1
    assert [saga["saga_id"] for saga in await saga_coordinator.list_sagas()] == [saga_id]
    assert await saga_coordinator.cancel_saga(saga_id, "changed my mind") is True
    assert await saga_coordinator.wait_for_saga(saga_id, 20) == "compensated"
    assert done[-2:] == ["compensate second", "compensate first"]
    assert await saga_coordinator.cancel_saga(saga_id) is False
    assert await saga_coordinator.cancel_saga("0" * 32) is False
    assert await saga_coordinator.get_saga_status("0" * 32) is None


async def test_a_handler_that_has_no_execute_of_its_own_says_so(opened: LockBay) -> None:
    from lockbay.services.saga_coordinator import SagaStepHandler, saga_coordinator

    class Empty(SagaStepHandler):
        async def compensate(self, parameters: Any, context: Any, original_result: Any) -> None: ...

    saga_coordinator.register_handler("empty", Empty())
    step = {"name": "empty", "max_retries": 0}
    saga_id = await saga_coordinator.start_saga("s", [step])
    assert await saga_coordinator.wait_for_saga(saga_id, 20) == "compensated"
    status = await saga_coordinator.get_saga_status(saga_id)
    assert status and "NotImplementedError: Empty has no execute" in status["steps"][0]["error"]


async def test_callbacks_hear_of_leadership_and_of_sagas(guide: LockBay) -> None:
    from lockbay.services.advanced_state_management import advanced_state_manager
    from lockbay.services.leader_election import leader_election
    from lockbay.services.saga_coordinator import saga_coordinator

    heard: list[Any] = []
    advanced_state_manager.add_callback("leader_elected", lambda: heard.append("elected"))
    leader_election.add_callback("leader_lost", lambda event: heard.append(event["event"]))
    advanced_state_manager.add_callback("saga_completed", heard.append)
    saga_coordinator.register_handler("step", handlers([]))
    assert await advanced_state_manager.initialize()
    await until(lambda: heard == ["elected"])
    saga_id = await saga_coordinator.start_saga("s", [{"name": "step"}])
    await until(lambda: len(heard) == 2)
    assert heard[1]["event"] == "saga_completed" and heard[1]["saga_id"] == saga_id
    await leader_election.resign()
    await until(lambda: heard[2:] == ["leader_lost", "elected"])


async def test_leadership_is_told(opened: LockBay) -> None:
    from lockbay.services import leader_election

    assert leader_election.is_leader()
    who = await leader_election.get_leader_info()
    assert who and who["instance_id"] == leader_election.leader_election.instance_id
    assert leader_election.leader_election.fencing_token == int(who["fencing_token"])


async def test_a_job_may_be_a_plain_function_and_is_listed(opened: LockBay) -> None:
    from lockbay.services.job_idempotency_service import job_idempotency_service

    def add(a: int, b: int) -> int:
        return a + b

    for _ in range(2):
        ran = await job_idempotency_service.execute_job("add", "k", {"a": 1, "b": 2}, add)
        assert ran == (True, 3, None)
    [job] = await job_idempotency_service.list_jobs(job_type="add")
    assert (await job_idempotency_service.get_job(job["job_id"]))["result"] == 3
    metrics = job_idempotency_service.get_metrics()
    assert (metrics["jobs_completed"], metrics["duplicates_prevented"]) == (1, 1)


async def test_a_job_that_fails_is_no_exception_and_one_that_is_wrong_is(
    opened: LockBay,
) -> None:
    from lockbay.services.advanced_state_management import (
        execute_background_job_with_coordination as execute,
    )

    def fail() -> None:
        raise ValueError("no account")

    ran = await execute("fail", "k", None, fail, max_retries=0)
    assert ran == (False, None, "ValueError: no account")
    with pytest.raises(errors.Invalid):
        await execute("fail", "k", {"a": object()}, fail)


async def test_a_job_that_may_have_happened_is_no_failure(
    opened: LockBay, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lockbay.services import advanced_state_management
    from lockbay.services.job_idempotency_service import job_idempotency_service

    execute = advanced_state_management.execute_background_job_with_coordination
    running, go_on = asyncio.Event(), asyncio.Event()

    async def pay() -> None:
        running.set()
        await go_on.wait()

    paying = asyncio.ensure_future(execute("pay", "k", None, pay, claim_ttl=0.6))
    await running.wait()
    [job] = await job_idempotency_service.list_jobs()
    await opened.jobs.cancel(job["job_id"], "wrong account")
    with pytest.raises(errors.Fenced):
        await paying

    class Silent:
        async def run_job(self, *_: Any, **__: Any) -> None:
            raise errors.UnknownOutcome("the store did not answer")

    monkeypatch.setattr(advanced_state_management, "bay", Silent())
    for run in (execute, job_idempotency_service.execute_job):
        with pytest.raises(errors.UnknownOutcome):
            await run("pay", "k", None, pay)


async def test_before_it_is_initialized_a_job_says_so(guide: LockBay) -> None:
    from lockbay.services.advanced_state_management import (
        execute_background_job_with_coordination as execute,
    )

    success, result, error = await execute("job", "k", {}, lambda: 1)
    assert (success, result) == (False, None) and error and "not open" in error


async def test_a_job_for_the_leader_is_scheduled(opened: LockBay) -> None:
    from lockbay.services.advanced_state_management import schedule_leader_only_job

    ran: list[int] = []
    shown = await schedule_leader_only_job("reconcile", lambda: ran.append(1), "every 1s")
    assert shown["leader_only"] is True
    await until(lambda: ran)


async def test_cleanup_rules_and_invalidation_patterns_are_taken_before_and_after_the_start(
    guide: LockBay,
) -> None:
    from lockbay.services.advanced_state_management import (
        add_cleanup_rule,
        force_cleanup,
        register_invalidation_pattern,
    )
    from lockbay.services.ttl_cleanup_service import ttl_cleanup_service

    add_cleanup_rule("drafts", "draft:*", 60)
    register_invalidation_pattern("user:*", ["balance:*"])
    await guide.start()
    await until(guide.is_leader)
    added = ttl_cleanup_service.add_cleanup_rule("notes", "note:*", 60, strategy="lazy")
    assert await added is True
    await ttl_cleanup_service.register_invalidation_pattern("rate:*", ["price:*"], name="prices")
    names = {rule["name"] for rule in await guide.cleanup.rules()}
    assert {"drafts", "notes"} <= names
    for changed, gone in [("user:7", "balance:7"), ("rate:USD", "price:tea")]:
        await guide.state.set(gone, 1)
        await guide.state.set(changed, 1)
        assert await guide.state.get(gone) is None
    report = await force_cleanup()
    assert report.total_errors == 0 and report["total_cleaned"] == report.total_cleaned
    assert (await ttl_cleanup_service.force_cleanup("drafts")).rules[0]["rule"] == "drafts"
    await ttl_cleanup_service.optimize_memory()
    await guide.state.set("a", 1, tags=["t"])
    assert await ttl_cleanup_service.invalidate(tags=["t"]) >= 0
    assert await guide.state.get("a") is None
    assert ttl_cleanup_service.get_metrics()["cleanup_cycles"] >= 1


async def test_a_rule_that_is_refused_later_is_known_to_whoever_waits(opened: LockBay) -> None:
    from lockbay.services.advanced_state_management import add_cleanup_rule

    with pytest.raises(errors.Invalid):
        await add_cleanup_rule("drafts", "", 60)


async def test_metrics_reports_and_alerts_are_those_of_the_instance(opened: LockBay) -> None:
    from lockbay.services.advanced_state_management import (
        get_system_health,
        get_system_metrics,
    )
    from lockbay.utils.advanced_state_monitoring import get_active_alerts, get_health_report

    groups = {
        "job_idempotency_metrics",
        "saga_metrics",
        "cleanup_metrics",
        "state_manager_metrics",
        "system_metrics",
    }
    metrics = await get_system_metrics()
    assert groups <= set(metrics) and metrics["is_leader"] is True
    assert (await get_system_health()).status == "healthy"
    with pytest.raises(AttributeError, match="what_else"):
        (await get_system_health()).what_else  # noqa: B018
    report = await get_health_report(hours=1)
    assert report["performance_summary"]["window_hours"] == 1
    assert await get_active_alerts() == []


async def test_monitoring_starts_the_instance_that_is_not_open(guide: LockBay) -> None:
    from lockbay.utils.advanced_state_monitoring import (
        start_advanced_monitoring,
        stop_advanced_monitoring,
    )

    assert await start_advanced_monitoring() and guide.is_open
    assert await start_advanced_monitoring()
    await stop_advanced_monitoring()
    assert guide.is_open


async def test_shut_down_it_can_be_initialized_again(opened: LockBay) -> None:
    from lockbay.services.advanced_state_management import (
        initialize_advanced_state_management,
        shutdown_advanced_state_management,
    )

    await shutdown_advanced_state_management()
    assert not opened.is_open
    assert await initialize_advanced_state_management() and opened.is_open


class Config:
    """As an application has it."""

    REDIS_JOB_CLAIM_TTL = 300
    REDIS_LEADER_ELECTION_TTL = "7s"
    SAGA_STEP_TIMEOUT = None
    LOCKBAY_AUDIT = False
    UNRELATED = object()


@pytest.mark.parametrize("form", ["class", "object", "dict", "module", "module with Config"])
async def test_settings_come_from_an_applications_configuration(guide: LockBay, form: str) -> None:
    from lockbay.services.advanced_state_management import initialize_advanced_state_management

    module, holder = types.ModuleType("config"), types.ModuleType("config")
    module.__dict__.update({name: value for name, value in vars(Config).items() if name.isupper()})
    holder.Config = Config  # type: ignore[attr-defined]
    config = {
        "class": Config,
        "object": Config(),
        "dict": vars(module),
        "module": module,
        "module with Config": holder,
    }[form]
    assert await initialize_advanced_state_management(config)
    assert guide.settings["claim_ttl"] == "5m" and guide.settings["leader_ttl"] == "7s"
    assert guide.settings["saga_step_timeout"] == "5m" and guide.settings["audit"] is False


async def test_the_environment_goes_before_an_imported_configuration_and_a_given_one_before_both(
    guide: LockBay, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lockbay.services.advanced_state_management import (
        initialize_advanced_state_management as initialize,
    )
    from lockbay.services.advanced_state_management import shutdown_advanced_state_management

    imported = types.ModuleType("config")
    imported.Config = Config  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "config", imported)
    monkeypatch.setenv("REDIS_LEADER_ELECTION_TTL", "8s")

    async def in_force() -> tuple[str, str]:
        settings = guide.settings["claim_ttl"], guide.settings["leader_ttl"]
        await shutdown_advanced_state_management()
        return settings

    assert await initialize()
    assert await in_force() == ("5m", "8s")
    Config.REDIS_JOB_CLAIM_TTL = 240
    try:
        assert await initialize()
        assert await in_force() == ("4m", "8s"), "it is read each time"
    finally:
        Config.REDIS_JOB_CLAIM_TTL = 300
    assert await initialize({"REDIS_LEADER_ELECTION_TTL": 9})
    assert await in_force() == ("4m", "9s")
    assert await initialize(leader_ttl="10s")
    assert await in_force() == ("5m", "10s")


async def test_a_configuration_that_is_wrong_is_logged_with_its_name(
    guide: LockBay, caplog: pytest.LogCaptureFixture
) -> None:
    from lockbay.services.advanced_state_management import initialize_advanced_state_management

    assert not await initialize_advanced_state_management({"REDIS_JOB_CLAIM_TTL": "soon"})
    assert "REDIS_JOB_CLAIM_TTL" in caplog.text and not guide.is_open
    assert await initialize_advanced_state_management(claim_ttl="30s")
    assert guide.settings["claim_ttl"] == "30s"


async def test_the_money_of_the_guides_functions_is_exact(opened: LockBay) -> None:
    from lockbay.services.advanced_state_management import (
        execute_financial_cashout_saga,
        execute_financial_escrow_saga,
    )

    await opened.ledger.deposit(1, 100, "USD", idempotency_key="d")
    for amount in (0.1 + 0.2, True, "ten"):
        with pytest.raises(errors.Invalid):
            await execute_financial_escrow_saga(1, 2, amount, "USD")
    ids = {
        await execute_financial_cashout_saga(1, 25.10, "USD", "bank", idempotency_key="c1")
        for _ in range(3)
    }
    assert len(ids) == 1 and await opened.sagas.wait(ids.pop(), 20) == "completed"
    assert (await opened.ledger.balance(1, "USD"))["available"] == "74.90"


async def test_an_instance_of_its_own_is_beside_that_of_the_process(
    opened: LockBay, store: str
) -> None:
    async with LockBay.open(store, **QUICK) as other:
        assert other.instance_id != opened.instance_id and not other.is_leader()
