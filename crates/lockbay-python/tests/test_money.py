"""Amounts: exact, or refused with the reason; and the financial sagas on them."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lockbay import LockBay, errors

EXACT = [
    (1000.0, "USD", "1000.00"),
    (0.1, "USD", "0.10"),
    (1e3, "USD", "1000.00"),
    (19.99, "USD", "19.99"),
    (7, "USD", "7.00"),
    ("12.5", "USD", "12.50"),
    ("1e3", "USD", "1000.00"),
    (Decimal("12.50"), "USD", "12.50"),
    (Decimal("1E+3"), "USD", "1000.00"),
    (Decimal("0.000001"), "BTC", "0.00000100"),
    (1e-06, "BTC", "0.00000100"),
    (10, "JPY", "10"),
    (Decimal("10.000"), "JPY", "10"),
    (1.005, "KWD", "1.005"),
]

REFUSED: list[tuple[Any, str, str]] = [
    (0.1 + 0.2, "USD", "an amount of USD has at most 2 decimals, .*0.30000000000000004"),
    (10.5, "JPY", "an amount of JPY has at most 0 decimals, .*10.5"),
    ("0.001", "USD", "at most 2 decimals"),
    (True, "USD", "an amount is text, a Decimal, an int or a float, not True"),
    (None, "USD", "an amount is text, a Decimal, an int or a float, not None"),
    ([5], "USD", r"not \[5\]"),
    (b"5", "USD", "not b'5'"),
    (float("nan"), "USD", "an amount is a number, not NaN"),
    (float("inf"), "USD", "an amount is a number, not inf"),
    (Decimal("NaN"), "USD", "a decimal number such as 1000.00, not"),
    (Decimal("-Infinity"), "USD", "a decimal number such as 1000.00, not"),
    (0, "USD", "0"),
    (-5, "USD", "-5"),
    ("", "USD", "a decimal number"),
    ("five", "USD", "a decimal number such as 1000.00, not \"five\""),
    (Decimal("1E+999999999"), "USD", "999999999"),
    (Decimal("1E-999999999"), "USD", "at most 2 decimals"),
    (1e300, "USD", r"at most 1000000000000000.00, not 1e\+300"),
    (10**5000, "USD", "an amount has fewer digits than this"),
    (5, "usd", "in upper case, such as USD"),
    (5, "XXQ", "no currency that is known here"),
]


@pytest.mark.parametrize("amount, currency, text", EXACT)
async def test_an_amount_is_taken_exactly(
    sqlite_bay: LockBay, amount: Any, currency: str, text: str
) -> None:
    balance = await sqlite_bay.ledger.deposit(1, amount, currency, idempotency_key="d")
    assert (balance["available"], balance["currency"]) == (text, currency)
    assert Decimal(balance["available"]) == Decimal(str(amount))


@pytest.mark.parametrize("amount, currency, message", REFUSED, ids=map(str, range(len(REFUSED))))
async def test_an_amount_that_is_not_exact_is_refused_before_anything_moves(
    sqlite_bay: LockBay, amount: Any, currency: str, message: str
) -> None:
    with pytest.raises(errors.Invalid, match=message):
        await sqlite_bay.ledger.deposit(1, amount, currency, idempotency_key="d")
    with pytest.raises(errors.Invalid):
        await sqlite_bay.escrow(1, 2, amount, currency)
    assert (await sqlite_bay.ledger.trial_balance())["currencies"] == []
    assert await sqlite_bay.sagas.list() == ([], None)


@settings(
    deadline=None,
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(cents=st.integers(1, 10**13))
async def test_every_float_of_whole_cents_is_the_amount_that_it_shows(
    sqlite_bay: LockBay, cents: int
) -> None:
    amount = Decimal(cents).scaleb(-2)
    before = (await sqlite_bay.ledger.balance(1, "USD"))["available"]
    after = await sqlite_bay.ledger.deposit(
        1, float(amount), "USD", idempotency_key=f"{before}+{cents}"
    )
    assert Decimal(after["available"]) - Decimal(before) == amount


async def test_a_deposit_that_is_repeated_is_the_same_deposit(bay: LockBay) -> None:
    for _ in range(2):
        balance = await bay.ledger.deposit("ann", "5", "USD", idempotency_key="d1")
        assert balance["available"] == "5.00"
    with pytest.raises(errors.KeyReused):
        await bay.ledger.deposit("ann", "6", "USD", idempotency_key="d1")


async def test_a_user_is_a_number_or_text(bay: LockBay) -> None:
    await bay.ledger.deposit(7, 5, "USD", idempotency_key="d1")
    assert (await bay.ledger.balance("7", "USD"))["available"] == "5.00"
    for user in (None, 1.5, True, b"7", ["7"]):
        with pytest.raises(errors.Invalid, match="user_id is a number or text, not"):
            await bay.ledger.balance(user, "USD")


async def test_an_escrow_is_released_to_its_seller_once(bay: LockBay) -> None:
    await bay.ledger.deposit(1, 100, "USD", idempotency_key="d1")
    escrow = await bay.escrow(1, 2, 60.0, "USD", idempotency_key="e1")
    assert await bay.escrow(1, 2, 60, "USD", idempotency_key="e1") == escrow
    assert await bay.sagas.wait(escrow, 20) == "completed"
    for _ in range(2):
        assert await bay.sagas.wait(await bay.release(escrow), 20) == "completed"
    assert (await bay.ledger.balance(1, "USD"))["available"] == "40.00"
    assert (await bay.ledger.balance(2, "USD"))["available"] == "60.00"


async def test_an_escrow_is_refunded_to_its_buyer(bay: LockBay) -> None:
    await bay.ledger.deposit(1, 100, "USD", idempotency_key="d1")
    escrow = await bay.escrow(1, 2, Decimal("60"), "USD")
    assert await bay.sagas.wait(escrow, 20) == "completed"
    assert await bay.sagas.wait(await bay.refund(escrow), 20) == "completed"
    assert (await bay.ledger.balance(1, "USD"))["available"] == "100.00"


async def test_a_cashout_without_the_money_is_refused_before_it_begins(bay: LockBay) -> None:
    await bay.ledger.deposit(1, 100, "USD", idempotency_key="d1")
    with pytest.raises(errors.Refused, match="has 100.00 USD available, and this needs 100.01"):
        await bay.cashout(1, 100.01, "USD", "bank_account_1")
    cashout = await bay.cashout(1, 100, "USD", "bank_account_1")
    assert await bay.sagas.wait(cashout, 20) == "completed"
    balance = await bay.ledger.balance(1, "USD")
    assert (balance["available"], balance["held"]) == ("0.00", "0.00")
