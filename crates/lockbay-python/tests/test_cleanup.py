"""Cleanup: what has ended goes, by rules."""

import pytest
from conftest import QUICK, until
from lockbay import LockBay, errors


async def test_a_value_that_has_ended_is_cleaned_up(leading: LockBay) -> None:
    await leading.state.set("temp_state:1", 1, ttl=0.1)

    async def is_gone() -> bool:
        return await leading.state.get("temp_state:1") is None

    await until(is_gone)
    report = await leading.cleanup.run("temp_state", ttl=0)
    assert report["total_errors"] == 0 and report["dry_run"] is False
    assert [rule["rule"] for rule in report["rules"]] == ["temp_state"]


async def test_a_dry_run_tells_what_would_go_and_touches_nothing(leading: LockBay) -> None:
    # A lazy rule is carried out only where a run is asked for, so no cycle comes before the dry run.
    lazy = {"pattern": "draft:*", "ttl_seconds": 1, "strategy": "lazy"}
    await leading.cleanup.put_rule("drafts", **lazy)
    await leading.state.set("draft:1", 1)

    async def would_go() -> bool:
        report = await leading.cleanup.run("drafts", dry_run=True)
        assert report["dry_run"] is True
        return report["total_cleaned"] == 1

    await until(would_go)
    assert await leading.state.get("draft:1") == 1
    assert (await leading.cleanup.run("drafts"))["total_cleaned"] == 1
    assert await leading.state.get("draft:1") is None


async def test_a_rule_is_put_shown_and_deleted(bay: LockBay) -> None:
    await bay.cleanup.put_rule("drafts", pattern="draft:*", ttl_seconds=60)
    rules = {rule["name"]: rule for rule in await bay.cleanup.rules()}
    assert rules["drafts"]["pattern"] == "draft:*" and rules["drafts"]["ttl_seconds"] == 60
    await bay.cleanup.delete_rule("drafts")
    assert "drafts" not in {rule["name"] for rule in await bay.cleanup.rules()}
    with pytest.raises(errors.LockBayError):
        await bay.cleanup.delete_rule("drafts")


async def test_a_rule_that_was_added_before_is_put_when_it_opens(store: str) -> None:
    bay = LockBay(store, **QUICK)
    bay.cleanup.add_rule("drafts", pattern="draft:*", ttl_seconds=60)
    async with bay:
        assert "drafts" in {rule["name"] for rule in await bay.cleanup.rules()}


async def test_a_rule_that_fails_when_it_opens_leaves_the_instance_closed(store: str) -> None:
    bay = LockBay(store, **QUICK)
    bay.cleanup.add_rule("drafts", pattern="", ttl_seconds=60)
    with pytest.raises(errors.Invalid):
        await bay.start()
    assert not bay.is_open
    async with LockBay.open(store, **QUICK) as other:
        await until(other.is_leader)


async def test_memory_is_given_back(leading: LockBay) -> None:
    assert isinstance(await leading.cleanup.optimize_memory(), dict)
