"""Who pays out: a provider in Python, or one that only pretends, and never one by mistake."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path

import pytest

from lockbay import Failed, LockBay, PayoutCall
from lockbay.errors import Invalid

pytestmark = pytest.mark.asyncio


class Provider:
    """A bank that notes what it is asked, and answers as it is told."""

    name = "bank"

    def __init__(self, answer: Callable[[PayoutCall], Awaitable[str]]) -> None:
        self.answer = answer
        self.asked: list[PayoutCall] = []

    async def pay(self, call: PayoutCall) -> str:
        self.asked.append(call)
        return await self.answer(call)


Answer = Callable[[PayoutCall], Awaitable[str]]


def with_provider(path: Path, answer: Answer) -> tuple[LockBay, Provider]:
    bay, provider = LockBay(f"sqlite:{path / 'lockbay.db'}", monitoring=False), Provider(answer)
    bay.pay_through(provider)
    return bay, provider


async def cash_out(bay: LockBay) -> tuple[str, str, str]:
    """How it ended, what the user has left, and what the bank has had."""
    await bay.ledger.deposit("ann", "10.00", "USD", idempotency_key="first")
    saga = await bay.cashout("ann", "4.00", "USD", "iban_7")
    status = await bay.sagas.wait(saga, 30)
    balance = await bay.ledger.balance("ann", "USD")
    (total,) = (await bay.ledger.trial_balance())["currencies"]
    return status, balance["available"], total["external"]


async def test_a_provider_in_python_pays_out(tmp_path: Path) -> None:
    async def pay(call: PayoutCall) -> str:
        return "transfer_9"

    bay, provider = with_provider(tmp_path, pay)
    async with bay:
        assert await cash_out(bay) == ("completed", "6.00", "-6.00")
        (call,) = provider.asked
        assert (call.user_id, call.amount, call.currency) == ("ann", Decimal("4.00"), "USD")
        assert (call.destination, call.attempt) == ("iban_7", 1)
        assert call.key.endswith("/process_withdrawal") and call.fencing_token > 0


async def test_a_plain_function_pays_out_as_well(tmp_path: Path) -> None:
    class Plain:
        name = "bank"

        def pay(self, call: PayoutCall) -> str:
            return "transfer_9"

    bay = LockBay(f"sqlite:{tmp_path / 'lockbay.db'}", monitoring=False)
    bay.pay_through(Plain())
    async with bay:
        assert await cash_out(bay) == ("completed", "6.00", "-6.00")


async def test_what_is_refused_is_given_back(tmp_path: Path) -> None:
    async def pay(call: PayoutCall) -> str:
        raise Failed("the account is closed")

    bay, provider = with_provider(tmp_path, pay)
    async with bay:
        assert await cash_out(bay) == ("compensated", "10.00", "-10.00")
        assert len(provider.asked) == 1


async def test_what_is_not_known_is_asked_again_under_the_same_key(tmp_path: Path) -> None:
    async def pay(call: PayoutCall) -> str:
        if call.attempt == 1:
            raise ConnectionError("the answer is lost")
        return "transfer_9"

    bay, provider = with_provider(tmp_path, pay)
    async with bay:
        assert await cash_out(bay) == ("completed", "6.00", "-6.00")
        first, second = provider.asked
        assert (first.key, first.attempt, second.attempt) == (second.key, 1, 2)


async def test_the_simulated_provider_misbehaves_as_the_settings_say(tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path / 'lockbay.db'}"
    async with LockBay(store, monitoring=False, payout_provider="simulated:refused=100") as bay:
        assert await cash_out(bay) == ("compensated", "10.00", "-10.00")


async def test_an_instance_that_could_pay_nobody_is_not_opened(tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path / 'lockbay.db'}"
    bay = LockBay(store, monitoring=False, payout_provider="https://bank.example/pay")
    with pytest.raises(Invalid, match=r"pay_through\(\)"):
        await bay.start()
    assert not bay.is_open
    await bay.start(take_part=False)
    assert (await bay.health())["overall_healthy"], "one that only looks pays nobody"
    await bay.close()

    async def pay(call: PayoutCall) -> str:
        return "transfer_9"

    bay.pay_through(Provider(pay))
    async with bay:
        assert await cash_out(bay) == ("completed", "6.00", "-6.00")


async def test_a_provider_is_said_before_the_instance_is_open(tmp_path: Path) -> None:
    async def pay(call: PayoutCall) -> str:
        return "transfer_9"

    async with LockBay(f"sqlite:{tmp_path / 'lockbay.db'}", monitoring=False) as bay:
        with pytest.raises(Invalid, match="is open"):
            bay.pay_through(Provider(pay))
