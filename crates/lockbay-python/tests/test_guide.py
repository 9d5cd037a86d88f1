"""Every Python snippet of the integration guide, as it stands there.

They are extracted from the guide itself. All that is done to them is what its reader does: imports
of `services.` and `utils.` get the prefix `lockbay.`, placeholders such as `...` are filled in, and
names that are the application's own are there. Each snippet has a test here that runs it and looks
at what it did, and the tests are counted against the snippets.
"""

import ast
import inspect
import logging
import os
import re
import sys
import types
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from conftest import QUICK, until
from lockbay import LockBay, errors

REPOSITORY = Path(__file__).resolve().parents[3]
GUIDE = Path(os.environ.get("LOCKBAY_GUIDE", REPOSITORY.parent / "shared" / "GUIDE.md"))
if not GUIDE.exists():
    pytest.skip(
        f"the guide is no part of this repository, and not at {GUIDE}: set LOCKBAY_GUIDE",
        allow_module_level=True,
    )

SNIPPETS = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL)


def snippet(beginning: str, **placeholders: str) -> str:
    """The one that has this text, with the prefix, and with these placeholders filled in."""
    [found] = [snippet for snippet in SNIPPETS if beginning in snippet]
    found = re.sub(r"^(from )(services|utils)\.", r"\1lockbay.\2.", found, flags=re.MULTILINE)
    for name, filled in placeholders.items():
        placeholder = f"{name}..."
        [_] = re.findall(re.escape(placeholder), found)
        found = found.replace(placeholder, filled)
    assert "..." not in found, "a placeholder was left"
    return found


async def run(code: str, names: dict[str, Any]) -> dict[str, Any]:
    """Runs it as the body of a module that may await, and gives its names."""
    compiled = compile(code, GUIDE.name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    awaitable = eval(compiled, names)
    if inspect.isawaitable(awaitable):
        await awaitable
    return names


class Clock:
    """A `time` that is another second each time it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def time(self) -> float:
        self.asked += 1
        return 1_700_000_000.0 + self.asked


# What a test shows is the beginning of its snippet, which is how they are counted.
SHOWN: dict[str, Any] = {}


def shows(beginning: str) -> Any:
    def note(test: Any) -> Any:
        SHOWN[beginning] = test
        return test

    return note


@shows("async def startup():")
async def test_startup_opens_the_instance_and_monitoring(
    guide: LockBay, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    names = {"logger": logging.getLogger("application")}
    names = await run(snippet("async def startup():"), names)
    assert await names["startup"]() is True
    assert guide.is_open
    assert "Advanced state management fully initialized" in caplog.text
    await until(guide.is_leader)


async def test_startup_says_that_the_store_cannot_be_opened(
    guide: LockBay,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LOCKBAY_STORE", f"sqlite:{tmp_path}/file/lockbay.db")
    names = {"logger": logging.getLogger("application")}
    names = await run(snippet("async def startup():"), names)
    assert await names["startup"]() is False
    assert "Failed to initialize advanced state management" in caplog.text
    assert str(tmp_path) in caplog.text, "the log says which file"


@shows("saga_id = await execute_financial_escrow_saga(")
async def test_financial_sagas_move_the_money(guide: LockBay) -> None:
    await guide.start()
    await guide.ledger.deposit(12345, 2000, "USD", idempotency_key="salary")
    names = await run(snippet("saga_id = await execute_financial_escrow_saga("), {})
    cashout = names["saga_id"]
    assert await guide.sagas.wait(cashout, 20) == "completed"
    [escrow] = [
        saga["saga_id"] for saga in (await guide.sagas.list())[0] if saga["saga_id"] != cashout
    ]
    assert await guide.sagas.wait(escrow, 20) == "completed"
    assert (await guide.ledger.balance(12345, "USD"))["available"] == "500.00"
    assert (await guide.ledger.balance(67890, "USD"))["available"] == "0.00"
    [total] = (await guide.ledger.trial_balance())["currencies"]
    assert (total["sum"], total["escrow"]) == ("0.00", "1000.00")
    assert await guide.sagas.wait(await guide.release(escrow), 20) == "completed"
    assert (await guide.ledger.balance(67890, "USD"))["available"] == "1000.00"


async def test_financial_sagas_take_no_money_that_is_not_there(guide: LockBay) -> None:
    """Both want the same money at once: who comes too late for it is compensated, or refused where it
    asks for it only then."""
    await guide.start()
    await guide.ledger.deposit(12345, 1200, "USD", idempotency_key="salary")
    names: dict[str, Any] = {}
    asked_in_time = True
    try:
        await run(snippet("saga_id = await execute_financial_escrow_saga("), names)
    except errors.Refused:
        asked_in_time = False
    sagas, _ = await guide.sagas.list()
    ends = {saga["saga_id"]: await guide.sagas.wait(saga["saga_id"], 20) for saga in sagas}
    assert sorted(ends.values()) == ["compensated", "completed"][not asked_in_time :]
    cashed_out = asked_in_time and ends[names["saga_id"]] == "completed"
    left = (await guide.ledger.balance(12345, "USD"))["available"]
    assert left == ("700.00" if cashed_out else "200.00")


@shows("success, result, error = await execute_background_job_with_coordination(")
async def test_a_background_job_runs_once_and_on_the_leader(guide: LockBay, store: str) -> None:
    code = snippet("success, result, error = await execute_background_job_with_coordination(")
    given = {"user_id": 7, "amount": 25.0, "currency": "USD", "time": Clock()}
    await guide.start()
    await until(guide.is_leader)
    first = await run(code, dict(given))
    assert (first["success"], first["error"]) == (True, None)
    assert first["result"] == {"transaction_id": "txn_7_1700000001"}
    second = await run(code, dict(given))
    assert (second["success"], second["result"], second["error"]) == (True, first["result"], None)
    assert given["time"].asked == 1, "the handler has run once"
    other = await run(code, {**given, "amount": 30.0})
    assert other["result"] == {"transaction_id": "txn_7_1700000002"}, "another payment is another"


async def test_a_background_job_for_the_leader_is_refused_elsewhere(
    guide: LockBay, store: str
) -> None:
    code = snippet("success, result, error = await execute_background_job_with_coordination(")
    async with LockBay.open(store, **QUICK) as leader:
        await until(leader.is_leader)
        await guide.start()
        given = {"user_id": 7, "amount": 25.0, "currency": "USD", "time": Clock()}
        names = await run(code, given)
        assert (names["success"], names["result"]) == (False, None)
        assert "only the leader runs this job" in names["error"]
        assert given["time"].asked == 0


HEALTH = "health = await get_system_health()"


@shows(HEALTH)
async def test_health_metrics_and_report_are_read_as_shown(
    guide: LockBay, capsys: pytest.CaptureFixture[str]
) -> None:
    await guide.start()
    await until(guide.is_leader)
    await guide.run_job("job", "k", lambda job: 1)
    names = await run(snippet(HEALTH), {})
    assert names["health"].overall_healthy is True and names["health"].issues == []
    assert names["metrics"]["saga_metrics"]["sagas_started"] == 0
    said = capsys.readouterr().out
    assert "System Health: " in said and "Leader: True" in said and "Jobs Processed: 1" in said
    assert names["report"]["overall_status"] == "healthy"
    assert f"Performance Status: {names['report']['performance_summary']}" in said


@shows("def setup_leader_aware_jobs():")
async def test_jobs_of_a_scheduler_come_and_go_with_leadership(guide: LockBay) -> None:
    code = snippet(
        "def setup_leader_aware_jobs():",
        **{
            "critical_financial_reconciliation, ": "critical_financial_reconciliation,"
            ' "interval", hours=1, id="critical_financial_reconciliation"'
        },
    )
    scheduler = AsyncIOScheduler()

    def critical_financial_reconciliation() -> None: ...

    names = await run(code, {**locals()})
    scheduler.start()
    try:
        names["setup_leader_aware_jobs"]()
        await guide.start()
        job = "critical_financial_reconciliation"
        await until(lambda: scheduler.get_job(job))
        await guide.leader.resign()
        await until(lambda: scheduler.get_job(job) is None or guide.is_leader())
        await until(lambda: scheduler.get_job(job) and guide.is_leader())
        await guide.close()
        assert scheduler.get_job(job) is None
    finally:
        scheduler.shutdown(wait=False)


def application_database(
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[type, Callable[[], list[Any]]]:
    """The application's class `Escrow`, and what gives the rows of it that are committed.

    `lockbay.utils.atomic_transactions` is the package's own where SQLAlchemy is installed. Where it
    is not, a stand-in with the same meaning takes its place, so that the snippet is run anyway.
    """
    try:
        import sqlalchemy
        from lockbay.utils import atomic_transactions
        from sqlalchemy import orm
    except ImportError:
        return stand_in_database(monkeypatch)

    class Base(orm.DeclarativeBase): ...

    class Escrow(Base):
        __tablename__ = "escrows"
        buyer_id = orm.mapped_column(sqlalchemy.Integer, primary_key=True)
        seller_id = orm.mapped_column(sqlalchemy.Integer)
        amount = orm.mapped_column(sqlalchemy.Integer)

    engine = sqlalchemy.create_engine("sqlite://", poolclass=sqlalchemy.StaticPool)
    Base.metadata.create_all(engine)
    atomic_transactions.configure(engine)

    def committed() -> list[Any]:
        with orm.Session(engine) as session:
            return list(session.scalars(sqlalchemy.select(Escrow)))

    return Escrow, committed


def stand_in_database(monkeypatch: pytest.MonkeyPatch) -> tuple[type, Callable[[], list[Any]]]:
    committed: list[Any] = []
    stand_in = types.ModuleType("lockbay.utils.atomic_transactions")

    @contextmanager
    def atomic_transaction() -> Iterator[Any]:
        added: list[Any] = []
        yield types.SimpleNamespace(add=added.append)
        committed.extend(added)

    stand_in.atomic_transaction = atomic_transaction  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, stand_in.__name__, stand_in)
    return types.SimpleNamespace, lambda: committed


@shows("async def create_escrow_with_saga(buyer_id, seller_id, amount):")
async def test_a_saga_is_started_beside_a_transaction_of_the_application(
    guide: LockBay, monkeypatch: pytest.MonkeyPatch
) -> None:
    escrow_class, committed = application_database(monkeypatch)
    code = snippet(
        "async def create_escrow_with_saga(buyer_id, seller_id, amount):",
        **{
            "steps=[": 'steps=[{"name": "notify_seller", "parameters": {"by": "mail"}}',
            "Escrow(": "Escrow(buyer_id=buyer_id, seller_id=seller_id, amount=amount",
        },
    )
    done = []

    class Notify:
        async def execute(self, parameters: Any, context: Any) -> Any:
            done.append((parameters, dict(context)))
            return "told"

    from lockbay.services.saga_coordinator import saga_coordinator

    saga_coordinator.register_handler("notify_seller", Notify())
    await guide.start()
    names = await run(code, {"Escrow": escrow_class})
    saga_id = await names["create_escrow_with_saga"](1, 2, 300)
    assert await saga_coordinator.wait_for_saga(saga_id, 20) == "completed"
    status = await saga_coordinator.get_saga_status(saga_id)
    assert status and status["saga_name"] == "escrow_creation"
    assert done == [({"by": "mail"}, {"buyer_id": 1, "seller_id": 2})]
    [escrow] = committed()
    assert (escrow.buyer_id, escrow.seller_id, escrow.amount) == (1, 2, 300)


@shows("add_custom_alert_rule(")
async def test_an_alert_rule_is_stored(guide: LockBay) -> None:
    await run(snippet("add_custom_alert_rule("), {})
    await guide.start()
    rules = {rule["name"]: rule for rule in await guide.alerts.rules()}
    rule = rules["high_escrow_failure_rate"]
    assert rule["metric_path"] == "saga_metrics.sagas_failed"
    assert (rule["operator"], rule["threshold"]) == (">", 5)
    assert (rule["window_minutes"], rule["severity"]) == (10, "error")
    await guide.alerts.delete_rule("high_escrow_failure_rate")
    await run(snippet("add_custom_alert_rule("), {})

    async def is_stored() -> bool:
        return "high_escrow_failure_rate" in {it["name"] for it in await guide.alerts.rules()}

    await until(is_stored)


@shows("async def get_dashboard_data():")
async def test_a_dashboard_gets_its_data(guide: LockBay) -> None:
    await guide.start()
    await until(guide.is_leader)
    await guide.run_job("job", "k", lambda job: 1)
    # The snippet goes on from the one above it, which imports this.
    names = await run("from lockbay.utils.advanced_state_monitoring import get_health_report", {})
    names = await run(snippet("async def get_dashboard_data():"), names)
    data = (await names["get_dashboard_data"]())["advanced_state"]
    assert data["leader_status"]["is_leader"] is True
    assert data["system_health"] == "healthy"
    assert data["job_processing"]["this_instance"]["completed"] == 1
    assert data["saga_processing"]["this_instance"]["completed"] == 0
    assert "cleanup_efficiency" in data


@shows("REDIS_LEADER_ELECTION_TTL = 90")
async def test_the_configuration_is_honoured(
    guide: LockBay, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = types.ModuleType("config")
    exec(snippet("REDIS_LEADER_ELECTION_TTL = 90"), config.__dict__)
    monkeypatch.setitem(sys.modules, "config", config)
    from lockbay.services.advanced_state_management import initialize_advanced_state_management

    assert await initialize_advanced_state_management()
    expected = {
        "leader_ttl": "90s",
        "claim_ttl": "5m",
        "result_ttl": "1h",
        "cleanup_interval": "5m",
        "saga_timeout": "30m",
        "saga_step_timeout": "5m",
        "monitoring_interval": "30s",
    }
    assert {name: guide.settings[name] for name in expected} == expected


@shows("class PaymentSagaHandler(SagaStepHandler):")
async def test_a_saga_handler_is_registered_and_its_compensation_runs(guide: LockBay) -> None:
    from lockbay.services.saga_coordinator import Failed, SagaStepHandler, saga_coordinator

    paid, refunded = [], []

    async def process_payment(amount: int) -> dict[str, Any]:
        paid.append(amount)
        return {"transaction_id": f"t{len(paid)}"}

    async def refund_payment(transaction_id: str) -> None:
        refunded.append(transaction_id)

    class Ship(SagaStepHandler):
        async def execute(self, parameters: Any, context: Any) -> Any:
            assert context["payment_processing_result"] == {"transaction_id": "t1"}
            raise Failed("out of stock")

    await run(snippet("class PaymentSagaHandler(SagaStepHandler):"), {**locals()})
    saga_coordinator.register_handler("shipping", Ship())
    await guide.start()
    steps = [{"name": "payment_processing", "parameters": {"amount": 90}}, {"name": "shipping"}]
    saga_id = await saga_coordinator.start_saga("order", steps)
    assert await saga_coordinator.wait_for_saga(saga_id, 20) == "compensated"
    assert (paid, refunded) == ([90], ["t1"])
    status = await saga_coordinator.get_saga_status(saga_id)
    assert status and status["steps"][0]["compensation_result"] == {"status": "refunded"}
    assert "out of stock" in status["steps"][1]["error"]


@shows("async def critical_job():")
async def test_a_critical_job_runs_on_the_leader_alone(
    guide: LockBay, caplog: pytest.LogCaptureFixture
) -> None:
    from lockbay.services.advanced_state_management import advanced_state_manager

    caplog.set_level(logging.INFO)
    logger, processed = logging.getLogger("application"), []

    async def process_critical_operation() -> None:
        processed.append(advanced_state_manager.is_leader())

    names = await run(snippet("async def critical_job():"), {**locals()})
    await names["critical_job"]()
    assert processed == [] and "Not leader, skipping critical job" in caplog.text
    await guide.start()
    await until(guide.is_leader)
    await names["critical_job"]()
    assert processed == [True]


@shows("await force_cleanup()")
async def test_debug_commands_work(guide: LockBay, capsys: pytest.CaptureFixture[str]) -> None:
    from lockbay.services.advanced_state_management import advanced_state_manager, force_cleanup
    from lockbay.services.saga_coordinator import saga_coordinator

    await guide.start()
    await until(guide.is_leader)
    names = await run(snippet("await force_cleanup()"), {**locals()})
    assert capsys.readouterr().out.splitlines() == ["Is Leader: True", "Running Sagas: 0"]
    assert names["metrics"]["registered_handlers"] >= 0


def test_no_snippet_is_left_out() -> None:
    assert len(SNIPPETS) == len(SHOWN) == 12
    shown = [code for code in SNIPPETS if any(beginning in code for beginning in SHOWN)]
    assert shown == SNIPPETS
