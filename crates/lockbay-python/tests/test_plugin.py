"""The fixtures of the pytest plugin, used by tests of an application in a pytest of their own."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import lockbay

pytest_plugins = ["pytester"]

TESTS = """
import pytest
from lockbay import LockBay
from lockbay.testing import Clock

MARK

async def test_an_instance_of_ones_own(lockbay_bay: LockBay, lockbay_store: str):
    async with lockbay_bay as bay:
        outcome = await bay.run_job("payment", "order_7", lambda job: {"paid": True})
        assert outcome.result == {"paid": True}
        assert lockbay_store.startswith("sqlite:")

async def test_the_next_one_is_empty(lockbay_bay: LockBay):
    async with lockbay_bay as bay:
        assert await bay.jobs.list() == ([], None)

async def test_time_that_is_stepped(lockbay_clock: Clock):
    async with lockbay_clock.open() as bay:
        await lockbay_clock.advance_until(bay.is_leader, limit=60)
"""


WITHOUT_LOOP = """
import asyncio

def test_an_instance_of_ones_own(lockbay_bay):
    async def work():
        async with lockbay_bay as bay:
            return (await bay.run_job("payment", "order_7", lambda job: 7)).result

    assert asyncio.run(work()) == 7
"""

Run = Callable[..., pytest.RunResult]


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs tests with the plugin, as it is found by itself once the package is installed."""
    monkeypatch.setenv("PYTHONPATH", str(Path(lockbay.__file__).parents[1]))
    installed = entry_points(group="pytest11", name="lockbay")
    plugin = [] if installed else ["-p", "lockbay.testing.plugin"]

    def run(tests: str, *options: str) -> pytest.RunResult:
        pytester.makepyfile(tests)
        return pytester.runpytest_subprocess(*plugin, *options)

    return run


def test_the_fixtures_work_with_pytest_asyncio(run: Run) -> None:
    run(TESTS.replace("MARK", ""), "-o", "asyncio_mode=auto").assert_outcomes(passed=3)


def test_the_fixtures_work_with_anyio(run: Run) -> None:
    mark = "pytestmark = pytest.mark.anyio\n\n"
    mark += "@pytest.fixture\ndef anyio_backend():\n    return 'asyncio'\n"
    result = run(TESTS.replace("MARK", mark), "-p", "no:asyncio", "-p", "anyio")
    result.assert_outcomes(passed=3)


def test_the_fixtures_work_without_either(run: Run) -> None:
    run(WITHOUT_LOOP, "-p", "no:asyncio").assert_outcomes(passed=1)


def test_the_plugin_is_declared_for_pytest_to_find() -> None:
    project = Path(__file__).resolve().parents[1] / "pyproject.toml"
    declared = '[project.entry-points.pytest11]\nlockbay = "lockbay.testing.plugin"'
    assert declared in project.read_text()
