"""Values: what goes out comes back exactly, and what cannot is refused before anything is done."""

import dataclasses
import datetime
import decimal
import enum
import math
import sys
import uuid
from collections import OrderedDict, namedtuple
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lockbay import LockBay, errors

numbers = st.integers() | st.integers(min_value=-(10**60), max_value=10**60)
numbers |= st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
own_store = settings(
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def is_same(one: Any, other: Any) -> bool:
    """Equal in type as well, and for floats in every bit."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return one.hex() == other.hex()
    if isinstance(one, list):
        return len(one) == len(other) and all(map(is_same, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(map(is_same, one.values(), other.values()))
    return bool(one == other)


async def kept(bay: LockBay, value: Any) -> Any:
    await bay.state.set("k", value)
    return await bay.state.get("k")


@own_store
@given(value=values)
async def test_what_json_has_a_form_for_comes_back_exactly(
    sqlite_bay: LockBay, value: Any
) -> None:
    back = await kept(sqlite_bay, value)
    assert is_same(back, value), (back, value)


@own_store
@given(number=st.decimals(allow_nan=False, allow_infinity=False))
async def test_a_decimal_comes_back_as_its_exact_text(
    sqlite_bay: LockBay, number: decimal.Decimal
) -> None:
    assert await kept(sqlite_bay, [number]) == [str(number)]


@own_store
@given(
    value=st.dates()
    | st.datetimes(timezones=st.none() | st.just(datetime.timezone.utc) | st.timezones())
)
async def test_a_time_comes_back_as_its_iso_text(sqlite_bay: LockBay, value: Any) -> None:
    back = await kept(sqlite_bay, value)
    assert back == value.isoformat()


@own_store
@given(value=st.uuids())
async def test_a_uuid_comes_back_as_its_text(sqlite_bay: LockBay, value: uuid.UUID) -> None:
    assert uuid.UUID(await kept(sqlite_bay, value)) == value


class Color(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Mode(str, enum.Enum):
    FAST = "fast"


class Text(str): ...


class Whole(int): ...


Pair = namedtuple("Pair", "left right")


@dataclasses.dataclass
class Line:
    what: str
    price: decimal.Decimal
    currency: ClassVar[str] = "EUR"


@dataclasses.dataclass(frozen=True, slots=True)
class Order:
    number: uuid.UUID
    lines: tuple[Line, ...]
    extra: dataclasses.InitVar[int] = 3


async def test_what_else_python_has_is_written_as_said(bay: LockBay) -> None:
    number = uuid.UUID(int=7)
    order = Order(number, (Line("tea", decimal.Decimal("4.20")),))
    written = {
        "enum": (Color.RED, "red"),
        "int enum": (Level.HIGH, 3),
        "str enum": (Mode.FAST, "fast"),
        "str of a kind": (Text("a"), "a"),
        "int of a kind": (Whole(5), 5),
        "tuple": ((1, (2,)), [1, [2]]),
        "named tuple": (Pair(1, 2), [1, 2]),
        "ordered dict": (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        "key of a kind": ({Mode.FAST: 1}, {"fast": 1}),
        "dataclass": (order, {"number": str(number), "lines": [{"what": "tea", "price": "4.20"}]}),
        "largest float": (sys.float_info.max, sys.float_info.max),
        "smallest float": (5e-324, 5e-324),
        "minus zero": (-0.0, -0.0),
        "whole float": (1e22, 1e22),
        "control characters": ("\0\x1f\u2028\"\\/", "\0\x1f\u2028\"\\/"),
    }
    for name, (value, expected) in written.items():
        back = await kept(bay, value)
        assert is_same(back, expected), (name, back)


class Strange:
    def __repr__(self) -> str:
        return "<strange>"


class Broken:
    def __repr__(self) -> str:
        raise RuntimeError("no")


REFUSED: dict[str, tuple[Any, str]] = {
    "object": ({"a": [1, Strange()]}, r"value\.a\[1\] cannot be written as JSON: .*<strange>"),
    "object without repr": (Broken(), r"value cannot be written as JSON: .*Broken"),
    "bytes": ({"a": b"x"}, r"value\.a cannot be written as JSON: .*bytes b'x'"),
    "set": ([{1}], r"value\[0\] cannot be written as JSON: .*set \{1\}"),
    "key that is no text": ({"a": {1: 2}}, r"value\.a cannot be .*a key of an object is text.*1"),
    "nan": ({"a": math.nan}, r"value\.a cannot be .*JSON has no such number: float nan"),
    "infinity": ([-math.inf], r"value\[0\] cannot be .*float -inf"),
    "decimal nan": (decimal.Decimal("NaN"), r"value cannot be .*it is no number: Decimal"),
    "lone surrogate": ("\ud800", r"value cannot be .*lone surrogate"),
    "key with a lone surrogate": ({"\ud800": 1}, r"value cannot be .*lone surrogate"),
    "class": (Order, r"value cannot be .*type"),
    "too many digits": (10**5000, r"value cannot be .*more digits than Python reads back"),
    "field of a dataclass": (Line("tea", Strange()), r"value\.price cannot be .*<strange>"),
    "time": (datetime.time(1), r"value cannot be .*time"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_cannot_be_written_is_refused_with_its_place(
    sqlite_bay: LockBay, name: str
) -> None:
    value, message = REFUSED[name]
    with pytest.raises(errors.Invalid, match=message):
        await sqlite_bay.state.set("k", value)
    assert await sqlite_bay.state.entry("k") is None


async def test_a_value_that_contains_itself_is_refused(sqlite_bay: LockBay) -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(errors.Invalid, match=r"value\[0\]\[0\].* nested deeper than 100"):
        await sqlite_bay.state.set("k", value)


async def test_nothing_is_written_of_a_job_whose_parameters_are_refused(bay: LockBay) -> None:
    called: list[Any] = []
    with pytest.raises(errors.Invalid, match=r"parameters\.items\[1\] cannot be written"):
        await bay.run_job("job", "k", called.append, {"items": [1, Strange()]})
    assert called == [] and await bay.jobs.list() == ([], None)


async def test_nothing_is_written_of_a_saga_whose_values_are_refused(bay: LockBay) -> None:
    bay.register_handler("step", type("Step", (), {"execute": print})())
    steps = [{"name": "step"}, {"name": "other", "handler": "step", "parameters": Strange()}]
    with pytest.raises(errors.Invalid, match=r"steps\[1\]\.parameters cannot be written"):
        await bay.sagas.start("saga", steps)
    for name in ("context", "metadata"):
        with pytest.raises(errors.Invalid, match=rf"{name}\.a cannot be written"):
            await bay.sagas.start("saga", steps[:1], **{name: {"a": Strange()}})
    assert await bay.sagas.list() == ([], None)


async def test_parameters_that_nest_too_deep_to_be_compared_are_refused(bay: LockBay) -> None:
    deep: Any = 1
    for _ in range(40):
        deep = [deep]
    with pytest.raises(errors.Invalid, match="nested deeper than 32"):
        await bay.run_job("job", "k", print, deep)
    assert await bay.jobs.list() == ([], None)


async def test_a_result_that_cannot_be_written_fails_the_job_for_good(bay: LockBay) -> None:
    calls = []

    def give(job: Any) -> Any:
        calls.append(job)
        return {"session": Strange()}

    outcome = await bay.run_job("job", "k", give, max_retries=3)
    assert outcome.status == "failed" and len(calls) == 1
    assert "the result.session cannot be written as JSON" in outcome.error


async def test_a_result_that_cannot_be_written_leaves_a_step_unknown(bay: LockBay) -> None:
    class Step:
        def execute(self, call: Any) -> Any:
            return Strange()

        def compensate(self, call: Any) -> Any:
            return None

    bay.register_handler("step", Step())
    saga_id = await bay.sagas.start("saga", [{"name": "step", "max_retries": 0}])
    assert await bay.sagas.wait(saga_id, 20) == "compensated"
    [step] = (await bay.sagas.get(saga_id))["steps"]
    assert "the result cannot be written as JSON" in step["error"]


class Shrinking(enum.Enum):
    """Whose value, being read, changes the dict that is written."""

    A = "a"

    @property
    def value(self) -> str:  # type: ignore[override]
        CHANGED["new"] = 1
        return "a"


CHANGED: dict[str, Any] = {"first": Shrinking.A, "last": 2}


async def test_a_dict_that_changes_while_it_is_written_is_written_as_it_was(
    sqlite_bay: LockBay,
) -> None:
    assert await kept(sqlite_bay, CHANGED) == {"first": "a", "last": 2}
    assert "new" in CHANGED
