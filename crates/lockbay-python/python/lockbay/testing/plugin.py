"""What pytest finds by itself once the package is installed: fixtures for tests of applications.

The fixtures are plain ones that give something to be entered, because an instance belongs to the
event loop that opens it, and who runs that is the business of pytest-asyncio, of anyio, or of the
test itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lockbay._lockbay import LockBay
from lockbay.testing._clock import Clock


@pytest.fixture
def lockbay_store(tmp_path: Path) -> str:
    """The URL of a store of the test's own, which is empty, and gone afterwards."""
    return f"sqlite:{tmp_path / 'lockbay.db'}"


@pytest.fixture
def lockbay_bay(lockbay_store: str) -> Iterator[LockBay]:
    """An instance on `lockbay_store`, to be opened by `async with lockbay_bay as bay`.

    Handlers may be registered before. It looks after nothing that a test does not ask for: there is
    no monitoring.
    """
    yield LockBay(lockbay_store, monitoring=False)


@pytest.fixture
def lockbay_clock() -> Clock:
    """A clock that stands still by itself; `async with lockbay_clock.open() as bay` goes by it."""
    return Clock()
