"""Leadership and named leases."""

import asyncio
from typing import Any

import pytest
from conftest import QUICK, until
from lockbay import LockBay, errors


async def test_one_of_several_leads_and_all_know_who(store: str) -> None:
    async with (
        LockBay.open(store, instance_name="one", **QUICK) as one,
        LockBay.open(store, instance_name="other", **QUICK) as other,
    ):
        await until(lambda: one.is_leader() or other.is_leader())
        leader, follower = (one, other) if one.is_leader() else (other, one)
        assert not follower.is_leader()
        for bay in (one, other):
            who = await bay.leader.current()
            assert who["instance_id"] == leader.instance_id
            assert who["is_self"] == (bay is leader)
        assert leader.leader.is_leader and leader.leader.term == 1
        assert follower.leader.term is None and follower.leader.fencing_token is None


async def test_when_the_leader_ends_another_is_elected_with_a_greater_token(store: str) -> None:
    events: list[Any] = []
    async with LockBay.open(store, **QUICK) as other:
        async with LockBay.open(store, **QUICK) as first:
            await until(lambda: first.is_leader() or other.is_leader())
            leader, follower = (first, other) if first.is_leader() else (other, first)
            token = leader.leader.fencing_token
            follower.on("leader_elected", events.append)
            await leader.close()
            await until(follower.is_leader)
            assert follower.leader.fencing_token > token and follower.leader.term == 2
            await until(lambda: events)
            assert events[0]["term"] == 2
            assert events[0]["fencing_token"] == follower.leader.fencing_token


async def test_resigning_gives_leadership_away(leading: LockBay) -> None:
    term = leading.leader.term
    assert term is not None
    await leading.leader.resign()
    await until(lambda: (leading.leader.term or 0) > term)


async def test_a_lease_is_held_by_one_and_has_a_token_that_grows(bay: LockBay) -> None:
    async with bay.lease("nightly", ttl=5) as lease:
        assert lease.held and lease.fencing_token > 0
        with pytest.raises(errors.Held):
            async with bay.lease("nightly", holder="other"):
                raise AssertionError("entered")
        token = lease.fencing_token
    assert not lease.held and lease.fencing_token is None
    again = await bay.lease("nightly")
    assert again.fencing_token > token
    await again.release()
    await again.release()


async def test_a_lease_is_released_by_an_exception_too(bay: LockBay) -> None:
    with pytest.raises(KeyError):
        async with bay.lease("nightly"):
            raise KeyError("x")
    async with bay.lease("nightly", holder="other") as lease:
        assert lease.held


async def test_a_lease_is_renewed_for_as_long_as_it_is_held(bay: LockBay) -> None:
    async with bay.lease("nightly", ttl=2, holder="one") as lease:
        token = lease.fencing_token
        with pytest.raises(errors.Held) as held:
            await bay.lease("nightly", holder="other")
        lapses = asyncio.get_running_loop().time() + held.value.retry_after
        await until(lambda: asyncio.get_running_loop().time() > lapses + 0.2)
        with pytest.raises(errors.Held):
            await bay.lease("nightly", holder="other")
        assert lease.held and lease.fencing_token == token


@pytest.mark.parametrize("how", ["entered", "awaited", "acquired"])
@pytest.mark.parametrize("turns", [0, 1, 2, 3, 4, 5, "until it is taken"])
async def test_a_lease_whose_taking_is_cancelled_is_free_at_once(
    bay: LockBay, turns: Any, how: str
) -> None:
    lease = bay.lease("nightly", ttl=600, holder="one")

    async def work() -> None:
        if how == "entered":
            async with lease:
                await asyncio.Event().wait()
        await (lease if how == "awaited" else lease.acquire())
        try:
            await asyncio.Event().wait()
        finally:
            await lease.release()

    working, turn = asyncio.create_task(work()), 0
    # When it is taken, the task may not know it yet.
    while not lease.held if isinstance(turns, str) else turn < turns:
        await asyncio.sleep(0)
        turn += 1
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    assert not lease.held
    await until(lambda: takes(bay))


async def takes(bay: LockBay) -> bool:
    try:
        async with bay.lease("nightly", holder="other"):
            return True
    except errors.Held:
        return False


async def test_a_time_that_is_none_is_refused(bay: LockBay) -> None:
    for ttl in (-1, float("nan")):
        with pytest.raises(errors.Invalid, match="ttl is a time in seconds"):
            bay.lease("nightly", ttl=ttl)


async def test_a_lease_that_is_held_can_be_taken_again_and_is_still_held(bay: LockBay) -> None:
    lease = bay.lease("nightly", holder="one")
    await lease
    token = lease.fencing_token
    try:
        await lease
    except errors.Held:
        assert lease.fencing_token == token
    assert lease.held
    with pytest.raises(errors.Held):
        await bay.lease("nightly", holder="other")
    await lease.release()
    await bay.lease("nightly", holder="other")
