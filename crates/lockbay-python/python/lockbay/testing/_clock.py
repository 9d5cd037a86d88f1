"""Time that is stepped: an instance on a store in memory, whose clock stands still by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Any

from lockbay import _lockbay
from lockbay._lockbay import LockBay


class Clock:
    """A clock that moves only by `advance`, and the store in memory that goes by it.

    Instances that it opens share the store, as processes share a server: leases, claims and
    sessions lapse between them by this clock. `seed` is of all that is left to chance.
    """

    def __init__(self, seed: int = 0) -> None:
        self._clock = _lockbay.SteppedClock(seed)

    def open(self, **settings: Any) -> LockBay:
        """An instance on this store and clock, to be entered with `async with`, or awaited."""
        return self._clock.open(**settings)

    @property
    def now(self) -> datetime:
        """The time it shows. It begins in 2026."""
        return datetime.fromisoformat(self._clock.now)

    async def advance(self, seconds: float) -> None:
        """Moves time on, from one moment at which something is due to the next.

        What is due runs as far as it can before time goes on. What waits for something else than
        this clock, such as a plain function on its thread, is not waited for. Over long times,
        small steps become one: a thousand lie in each call, unless they were longer than a second.
        """
        moment, shortest = self._clock.ahead(seconds), min(seconds / 1_000, 1.0)
        await self._settle()
        while self._clock.step_towards(moment, shortest):
            await self._settle()

    async def advance_until(self, condition: Callable[[], Any], limit: float = 600) -> None:
        """Moves time on until a condition holds; fails if it does not within `limit` seconds."""
        moment = self._clock.ahead(limit)
        await self._settle()
        while not condition():
            if not self._clock.step_towards(moment, 0):
                raise AssertionError(f"what is waited for is not there after {limit} s")
            await self._settle()

    async def _settle(self) -> None:
        quiet = 0
        for _ in range(10_000):
            await asyncio.sleep(0)
            quiet = quiet + 1 if self._clock.is_quiet() else 0
            if quiet == 5:
                return
