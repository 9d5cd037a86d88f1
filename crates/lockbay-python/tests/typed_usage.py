"""How an application uses the package, for the type checker alone: it is checked, and never run."""

from decimal import Decimal
from typing import Any, assert_type

from lockbay import Failed, Job, JobOutcome, Lease, LockBay, SagaStep, Step, StepCall, Tick
from lockbay.documents import Health, JobInfo, LeaderInfo, SagaInfo, SagaStatus, ScheduleInfo
from lockbay.services.advanced_state_management import (
    advanced_state_manager,
    execute_background_job_with_coordination,
    execute_financial_escrow_saga,
)
from lockbay.services.saga_coordinator import SagaStepHandler, StepContext, saga_coordinator
from lockbay.utils.advanced_state_monitoring import add_custom_alert_rule


async def pay(job: Job) -> dict[str, str]:
    if job.attempt > 3:
        raise Failed("given up")
    return {"transaction_id": job.idempotency_token}


def pay_by_name(user_id: int, amount: str, idempotency_token: str) -> str:
    return f"{user_id} {amount} {idempotency_token}"


async def jobs(bay: LockBay) -> None:
    outcome = await bay.run_job("payment", "17", pay, {"amount": Decimal("25.00")}, wait_seconds=5)
    assert_type(outcome, JobOutcome)
    await bay.run_job("payment", "17", pay_by_name, {"user_id": 1}, by_name=True, identity="key")
    await bay.run_job("payment", "17", pay_by_name)  # type: ignore[arg-type]
    await bay.run_job("payment", "17", pay, identity="both")  # type: ignore[call-overload]
    found, page = await bay.jobs.list(status="failed")
    assert_type(found, list[JobInfo])
    assert_type(page, str | None)


async def sagas(bay: LockBay) -> None:
    @bay.step("reserve")
    async def reserve(call: StepCall) -> str:
        return call.idempotency_key

    @reserve.compensate
    async def unreserve(call: StepCall) -> None:
        assert_type(call.undo_key, str)

    assert_type(reserve, Step)
    saga_id = await bay.saga("order", [reserve, SagaStep(name="ship"), {"name": "bill"}])
    assert_type(await bay.sagas.wait(saga_id), SagaStatus)
    assert_type(await bay.sagas.get(saga_id), SagaInfo)
    await bay.sagas.operate(saga_id, "cancel", "changed my mind", actor="ann")
    await bay.sagas.operate(saga_id, "undo", "", actor="ann")  # type: ignore[arg-type]


async def the_rest() -> None:
    async with LockBay.open("memory:", claim_ttl="30s", max_retries=1) as bay:
        assert_type(bay, LockBay)
        assert_type(await bay.health(), Health)
        assert_type(await bay.leader.current(), LeaderInfo | None)
        async with bay.lease("export") as lease:
            assert_type(lease, Lease)

        def tick(tick: Tick) -> None:
            assert_type(tick.scheduled_time, str)

        bay.schedules.register("tick", tick)
        assert_type(await bay.schedules.put("s", "@hourly", "tick", misfire="skip"), ScheduleInfo)
        await bay.alerts.put_rule(
            "r", metric_path="p", operator=">", threshold=1, window_minutes=1, severity="info"
        )
        await bay.alerts.put_rule("r", metric_path="p")  # type: ignore[call-arg]
        await bay.state.set("a", 1, tags=["t"])
        await bay.escrow(1, 2, 1000.0, "USD")
        bay.on("leader_elected", lambda: None)
        bay.on("leader_chosen", lambda: None)  # type: ignore[arg-type]
    LockBay("memory:", claim_tll=30)  # type: ignore[call-arg]


class Payment(SagaStepHandler):
    async def execute(self, parameters: Any, context: StepContext) -> str:
        return context.step.idempotency_key

    async def compensate(self, parameters: Any, context: StepContext, original_result: Any) -> None:
        pass


async def by_the_guide() -> None:
    saga_coordinator.register_handler("payment_processing", Payment())
    saga_id = await saga_coordinator.start_saga("s", steps=[{"name": "payment_processing"}])
    saga = await saga_coordinator.get_saga_status(saga_id)
    assert_type(saga, SagaInfo | None)
    advanced_state_manager.add_callback("leader_elected", lambda: None)
    success, result, error = await execute_background_job_with_coordination(
        job_type="t", job_key="k", parameters={}, job_handler=pay_by_name, leader_only=True
    )
    assert_type(success, bool)
    assert_type(error, str | None)
    await execute_financial_escrow_saga(1, 2, 10.0, "USD", idempotency_key="k")
    add_custom_alert_rule("n", "p", ">", 5, window_minutes=10, severity="error")
