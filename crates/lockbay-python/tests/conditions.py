"""How tests of the integrations wait: for a condition, for so long, and never for time to pass."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")

PATIENCE = 30.0


def eventually(what: str, look: Callable[[], T | None]) -> T:
    """What is seen, as soon as it is."""
    until = time.monotonic() + PATIENCE
    while True:
        seen = look()
        if seen:
            return seen
        assert time.monotonic() < until, f"waited in vain: {what}"
        time.sleep(0.005)


async def soon(what: str, look: Callable[[], T | None | Awaitable[T | None]]) -> T:
    """The same on a loop; `look` may be a coroutine function."""
    until = time.monotonic() + PATIENCE
    while True:
        seen = look()
        if isinstance(seen, Awaitable):
            seen = await seen
        if seen:
            return seen
        assert time.monotonic() < until, f"waited in vain: {what}"
        await asyncio.sleep(0.005)


def on_a_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Makes a test of a coroutine function."""

    @functools.wraps(test)
    def run(*args: Any, **named: Any) -> None:
        async def within_patience() -> None:
            async with asyncio.timeout(2 * PATIENCE):
                await test(*args, **named)

        asyncio.run(within_patience())

    return run
