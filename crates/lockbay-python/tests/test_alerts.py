"""Alert rules: stored, judged, told, and refused at once where they are wrong."""

from typing import Any

import pytest
from conftest import QUICK, until
from lockbay import Failed, LockBay, errors

RULE: dict[str, Any] = {
    "metric_path": "job_idempotency_metrics.jobs_failed",
    "operator": ">=",
    "threshold": 1,
    "window_minutes": 5,
    "severity": "error",
}


async def test_a_rule_is_stored_and_deleted(bay: LockBay) -> None:
    rule = await bay.alerts.put_rule("failures", **RULE)
    assert rule["name"] == "failures" and rule["threshold"] == 1.0
    assert "failures" in {it["name"] for it in await bay.alerts.rules()}
    await bay.alerts.delete_rule("failures")
    assert "failures" not in {it["name"] for it in await bay.alerts.rules()}


async def test_a_rule_fires_and_its_callback_is_called(store: str) -> None:
    fired: list[Any] = []

    def fail(job: Any) -> None:
        raise Failed("no")

    settings = {"monitoring_interval": "1s", "alert_interval": "1s", "alert_group_wait": "0s"}
    async with LockBay.open(store, **settings, **QUICK) as bay:
        bay.on("alert_fired", fired.append)
        await bay.alerts.put_rule("failures", **RULE)
        await bay.run_job("job", "k", fail)
        await until(lambda: fired, within=60)
        assert fired[0]["rule"] == "failures"


async def test_a_wrong_rule_is_refused_at_once_also_before_the_instance_is_open(
    store: str,
) -> None:
    bay = LockBay(store)
    for wrong, message in [
        ({"operator": "~"}, "operator|variant"),
        ({"window_minutes": 0}, "window_minutes"),
        ({"severity": "loud"}, "severity|variant"),
        ({"threshold": "many"}, "invalid type|threshold"),
        ({"thresold": 1}, "thresold"),
    ]:
        with pytest.raises(errors.Invalid, match=message):
            bay.alerts.add_rule("failures", **{**RULE, **wrong})


async def test_a_rule_that_was_added_before_is_put_when_it_opens_and_the_last_one_counts(
    store: str,
) -> None:
    bay = LockBay(store, **QUICK)
    bay.alerts.add_rule("failures", **RULE)
    assert await bay.alerts.add_rule("failures", **{**RULE, "threshold": 7}) is True
    for _ in range(2):
        async with bay:
            [rule] = [it for it in await bay.alerts.rules() if it["name"] == "failures"]
            assert rule["threshold"] == 7


async def test_a_rule_can_be_tested_against_what_was_measured(bay: LockBay) -> None:
    tested = await bay.alerts.test_rule("failures", minutes=60, **RULE)
    assert isinstance(tested, dict) and tested
