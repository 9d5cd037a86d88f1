"""State: values with versions, tags and times to live."""

import asyncio

import pytest
from conftest import QUICK, until
from lockbay import LockBay, errors


async def test_a_value_is_there_until_it_is_deleted(bay: LockBay) -> None:
    assert await bay.state.get("k") is None and await bay.state.get("k", 5) == 5
    await bay.state.set("k", None)
    assert await bay.state.get("k", 5) is None, "a value may be null"
    await bay.state.set("k", {"a": 1}, tags=["t"], source="web")
    entry = await bay.state.entry("k")
    assert (entry["value"], entry["tags"], entry["source"]) == ({"a": 1}, ["t"], "web")
    assert await bay.state.delete("k") is True
    assert await bay.state.delete("k") is False
    assert await bay.state.entry("k") is None


async def test_a_value_ends_with_its_time(bay: LockBay) -> None:
    await bay.state.set("k", 1, ttl=0.2)

    async def is_gone() -> bool:
        return await bay.state.get("k") is None

    await until(is_gone)


async def test_a_version_guards_what_is_written(bay: LockBay) -> None:
    version = await bay.state.set("k", 1, if_version="absent")
    with pytest.raises(errors.LockBayError):
        await bay.state.set("k", 2, if_version="absent")
    other = await bay.state.set("k", 2, if_version=version)
    assert other != version
    with pytest.raises(errors.LockBayError):
        await bay.state.set("k", 3, if_version=version)
    assert await bay.state.get("k") == 2
    with pytest.raises(errors.Invalid):
        await bay.state.set("k", 3, if_version="latest")


async def test_of_many_that_add_one_at_once_none_is_lost(bay: LockBay) -> None:
    await bay.state.set("count", 0)

    async def add() -> None:
        while True:
            entry = await bay.state.entry("count")
            try:
                await bay.state.set("count", entry["value"] + 1, if_version=entry["version"])
                return
            except errors.LockBayError:
                pass

    await asyncio.gather(*(add() for _ in range(8)))
    assert await bay.state.get("count") == 8


async def test_what_has_a_tag_or_fits_a_pattern_is_invalidated(bay: LockBay) -> None:
    for number in range(3):
        await bay.state.set(f"user:{number}", number, tags=["users"])
    await bay.state.set("rate:USD", 1)
    await bay.state.invalidate(tags=["users"])
    assert [await bay.state.get(f"user:{number}") for number in range(3)] == [None] * 3
    assert await bay.state.invalidate(pattern="rate:*") == 1
    assert await bay.state.get("rate:USD") is None


async def test_a_rule_says_what_follows_from_a_change(bay: LockBay) -> None:
    await bay.state.put_rule("balances", "user:*", ["balance:*"])
    await bay.state.set("balance:7", 100)
    await bay.state.set("user:7", "ann")
    assert await bay.state.get("balance:7") is None
    await bay.state.delete_rule("balances")
    with pytest.raises(errors.NotFound, match="there is no rule \"balances\""):
        await bay.state.delete_rule("balances")


async def test_a_key_goes_with_what_it_depends_on(bay: LockBay) -> None:
    await bay.state.set("total", 5)
    await bay.state.set_dependencies("total", ["line:1"])
    await bay.state.set("line:1", 3)
    assert await bay.state.get("total") is None


async def test_instances_see_each_others_changes(store: str) -> None:
    async with LockBay.open(store, **QUICK) as one, LockBay.open(store, **QUICK) as other:
        await one.state.set("k", 1)
        assert await other.state.get("k") == 1
        await other.state.set("k", 2)

        async def is_seen() -> bool:
            return await one.state.get("k") == 2

        await until(is_seen)
