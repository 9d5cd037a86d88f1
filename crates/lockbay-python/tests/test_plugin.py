"""The fixtures of the pytest plugin, used by tests of an application in a pytest of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

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


def run(pytester: pytest.Pytester, mark: str, *options: str) -> pytest.RunResult:
    pytester.makepyfile(TESTS.replace("MARK", mark))
    plugin = ["-p", "lockbay.testing.plugin"]
    return pytester.runpytest_subprocess(*plugin, *options)


def test_the_fixtures_work_with_pytest_asyncio(pytester: pytest.Pytester) -> None:
    run(pytester, "", "-o", "asyncio_mode=auto").assert_outcomes(passed=3)


def test_the_fixtures_work_with_anyio(pytester: pytest.Pytester) -> None:
    pytest.importorskip("anyio")
    mark = "pytestmark = pytest.mark.anyio\n\n"
    mark += "@pytest.fixture\ndef anyio_backend():\n    return 'asyncio'\n"
    result = run(pytester, mark, "-p", "no:asyncio", "-p", "anyio")
    result.assert_outcomes(passed=3)


def test_the_fixtures_work_without_either(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import asyncio

        def test_a_store_of_ones_own(lockbay_bay):
            async def work():
                async with lockbay_bay as bay:
                    return (await bay.run_job("payment", "order_7", lambda job: 7)).result

            assert asyncio.run(work()) == 7
        """
    )
    options = ["-p", "lockbay.testing.plugin", "-p", "no:asyncio"]
    pytester.runpytest_subprocess(*options).assert_outcomes(passed=1)


def test_the_plugin_is_declared_for_pytest_to_find() -> None:
    project = Path(__file__).resolve().parents[1] / "pyproject.toml"
    declared = '[project.entry-points.pytest11]\nlockbay = "lockbay.testing.plugin"'
    assert declared in project.read_text()
