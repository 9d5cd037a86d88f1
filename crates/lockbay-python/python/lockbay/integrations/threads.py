"""An event loop on a thread of its own, for programs that have none.

It owns the thread and its loop, on which the instance is opened and handlers run. Any number of
threads may ask at once; none of them holds up another. A process that was forked gets a thread of
its own when it first asks.

Once it was closed, whoever asks is refused, and only `start` opens it again: a request that comes
late, or a handler that is still running, must not bring back what the program has ended. It is
closed when the process ends as well, before Python stops its executors, because an instance that
went on after that could call no plain function any more.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures.thread  # Registers its own end, which is to come after ours.
import inspect
import logging
import os
import threading
from concurrent.futures import Future
from typing import Any, Callable

from lockbay._lockbay import LockBay
from lockbay._process import bay as process_bay
from lockbay.errors import Invalid, Unavailable

__all__ = ["LoopThread"]

logger = logging.getLogger(__name__)


def _before_executors_stop(function: Callable[[], None]) -> None:
    """Calls it when the process ends, while executors still take work where Python can tell."""
    try:
        # Called in reverse order. It is not public, and refuses when the end has begun.
        getattr(threading, "_register_atexit")(function)
    except (AttributeError, RuntimeError):
        atexit.register(function)


class LoopThread:
    """An instance that is asked by threads.

        lockbay = LoopThread(store="sqlite:lockbay.db")
        outcome = lockbay.run(lockbay.bay.run_job, "payout", "p-1", pay)

    It is opened when it is first asked, in that process, and closed when the process ends.
    """

    def __init__(self, bay: LockBay | None = None, **settings: Any) -> None:
        self.bay = bay or process_bay
        if settings:
            self.bay.configure(**settings)
        self._forked()
        # Nothing is held in a child that another thread held when it was forked.
        os.register_at_fork(after_in_child=self._forked)
        _before_executors_stop(self._close_at_the_end)

    def _forked(self) -> None:
        # Held while it is opened and while a call is handed over, and never while it is closed.
        self._opening = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._is_closed = self._is_closing = False

    def start(self) -> None:
        """Opens the instance, also after it was closed. While it is open, it does nothing."""
        self._refuse_its_own_thread()
        with self._opening:
            if self._is_closing:
                raise Unavailable("the instance is being closed")
            self._is_closed = False
            self._open(self._running())

    def run(
        self, function: Callable[..., Any], *args: Any, timeout: float | None = None, **named: Any
    ) -> Any:
        """Calls a function on the loop, and gives what it returns, awaited.

        With a `timeout` in seconds it is cancelled then, and `TimeoutError` raised. `Unavailable`
        is raised once it was closed.
        """
        self._refuse_its_own_thread()
        with self._opening:
            loop = self._unless_closed()
            self._open(loop)
            future = self._begin(loop, function, args, named)
        return self._wait(future, timeout)

    def ask(
        self, function: Callable[..., Any], *args: Any, timeout: float | None = None, **named: Any
    ) -> Any:
        """The same without opening the instance."""
        self._refuse_its_own_thread()
        with self._opening:
            future = self._begin(self._unless_closed(), function, args, named)
        return self._wait(future, timeout)

    def close(self) -> None:
        """Closes the instance and ends the thread. Called again, it does nothing.

        From now on `run` and `ask` raise `Unavailable`. It waits for plain functions that run.
        """
        self._refuse_its_own_thread()
        with self._opening:
            self._is_closed = True
            loop, self._loop = self._loop, None
            if loop is None:
                return
            self._is_closing = True
            thread = self._thread
            # Behind what was handed over before, which is therefore known to the loop.
            closed = self._begin(loop, self.bay.close, (), {})
        try:
            self._wait(closed, None)
        finally:
            try:
                loop.call_soon_threadsafe(loop.stop)
                if thread is not None:
                    thread.join()
            finally:
                self._is_closing = False

    def _close_at_the_end(self) -> None:
        try:
            self.close()
        except Exception:  # What else is to end with the process has to.
            logger.exception("the instance could not be closed")

    def _unless_closed(self) -> asyncio.AbstractEventLoop:
        if self._is_closed:
            raise Unavailable("the instance was closed, and only start() opens it again")
        return self._running()

    def _open(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self.bay.is_open:
            self._wait(self._begin(loop, self.bay.start, (), {}), None)

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

    def _refuse_its_own_thread(self) -> None:
        if threading.current_thread() is self._thread:
            raise Invalid("the thread of the loop cannot wait for itself: await it instead")

    def _begin(
        self,
        loop: asyncio.AbstractEventLoop,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        named: dict[str, Any],
    ) -> Future[Any]:
        async def call() -> Any:
            result = function(*args, **named)
            return await result if inspect.isawaitable(result) else result

        return asyncio.run_coroutine_threadsafe(call(), loop)

    def _wait(self, future: Future[Any], timeout: float | None) -> Any:
        try:
            return future.result(timeout)
        except BaseException:
            future.cancel()
            raise
