"""An event loop on a thread of its own, for programs that have none.

It owns the thread and its loop, on which the instance is opened and handlers run. Any number of
threads may ask at once; none of them holds up another. A process that was forked gets a thread of
its own when it first asks.
"""

from __future__ import annotations

import asyncio
import atexit
import inspect
import os
import threading
from typing import Any, Callable

from lockbay._lockbay import LockBay
from lockbay._process import bay as process_bay
from lockbay.errors import Invalid

__all__ = ["LoopThread"]


class LoopThread:
    """An instance that is asked by threads.

        lockbay = LoopThread(store="sqlite:lockbay.db")
        outcome = lockbay.run(lockbay.bay.run_job, "payout", "p-1", pay)

    It is opened when it is first asked, in that process.
    """

    def __init__(self, bay: LockBay | None = None, **settings: Any) -> None:
        self.bay = bay or process_bay
        if settings:
            self.bay.configure(**settings)
        self._opening = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        # Nothing is held in a child that another thread held when it was forked.
        os.register_at_fork(after_in_child=self._forked)
        atexit.register(self.close)

    def _forked(self) -> None:
        self._opening, self._loop = threading.Lock(), None

    def start(self) -> None:
        """Opens the instance. Called again while it is open, it does nothing."""
        with self._opening:
            loop = self._running()
            if not self.bay.is_open:
                self._wait(loop, self.bay.start, (), {}, None)

    def run(
        self, function: Callable[..., Any], *args: Any, timeout: float | None = None, **named: Any
    ) -> Any:
        """Calls a function on the loop, and gives what it returns, awaited.

        With a `timeout` in seconds it is cancelled then, and `TimeoutError` raised.
        """
        self.start()
        return self.ask(function, *args, timeout=timeout, **named)

    def ask(
        self, function: Callable[..., Any], *args: Any, timeout: float | None = None, **named: Any
    ) -> Any:
        """The same without opening the instance."""
        with self._opening:
            loop = self._running()
        return self._wait(loop, function, args, named, timeout)

    def close(self) -> None:
        """Closes the instance and ends the thread. Called again, it does nothing."""
        with self._opening:
            loop, self._loop = self._loop, None
            if loop is None:
                return
            self._wait(loop, self.bay.close, (), {}, None)
            loop.call_soon_threadsafe(loop.stop)
            self._thread.join()

    def _running(self) -> asyncio.AbstractEventLoop:
        if self._loop is not None:
            return self._loop
        loop = asyncio.new_event_loop()

        def serve() -> None:
            # Ends generators, tasks and the executor as `asyncio.run` does.
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                runner.get_loop().run_forever()

        self._thread = threading.Thread(target=serve, name="lockbay-loop", daemon=True)
        self._thread.start()
        self._loop = loop
        return loop

    def _wait(
        self,
        loop: asyncio.AbstractEventLoop,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        named: dict[str, Any],
        timeout: float | None,
    ) -> Any:
        if threading.current_thread() is self._thread:
            raise Invalid("the thread of the loop cannot wait for itself: await it instead")

        async def call() -> Any:
            result = function(*args, **named)
            return await result if inspect.isawaitable(result) else result

        future = asyncio.run_coroutine_threadsafe(call(), loop)
        try:
            return future.result(timeout)
        except BaseException:
            future.cancel()
            raise
