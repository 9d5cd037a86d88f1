"""What the extension module needs of asyncio, and can only be said in Python."""

import asyncio
import contextvars
import inspect
import logging
import threading
from types import FunctionType
from typing import Any, AsyncGenerator, Awaitable, Callable, TypeVar

from lockbay.errors import Failed

COROUTINE = inspect.CO_COROUTINE
T = TypeVar("T")

logger = logging.getLogger("lockbay")
handlers = logging.getLogger("lockbay.handlers")


class Answer(asyncio.Future[T]):
    """The answer to a call of the library, which has begun. It is a future, and a coroutine as well,
    so that `asyncio.create_task` takes it. Cancelled, it ends the call."""

    __slots__ = ("end",)
    end: Callable[[], None]  # Of one that has not been answered yet.

    def cancel(self, msg: Any = None) -> bool:
        if not super().cancel(msg):
            return False
        if hasattr(self, "end"):
            self.end()
            del self.end
        return True

    def send(self, value: Any) -> Any:
        try:
            return next(self.__await__())
        finally:
            del self  # An exception that is raised keeps this frame, and so a cycle.

    def throw(self, *exception: Any) -> Any:
        self.cancel()
        try:
            return self.__await__().throw(*exception)
        finally:
            del self, exception

    def close(self) -> None:
        self.cancel()


async def acquire(lease: Any) -> Any:
    """Takes a lease. Who is cancelled when it is taken but does not know it yet gives it back."""
    taken = lease._take()
    try:
        return await taken
    except asyncio.CancelledError:
        if not taken.cancelled() and taken.exception() is None:
            # One that cannot be given back lapses.
            lease.release().add_done_callback(lambda given: given.cancelled() or given.exception())
        raise
    finally:
        del taken


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling it gives a coroutine: of a coroutine function, or an object that has one."""
    if type(function) is FunctionType:  # Nearly always, and asked before each call.
        return bool(function.__code__.co_flags & COROUTINE) or inspect.iscoroutinefunction(function)
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(type(function), "__call__", None)
    )


async def awaited(whatever: Awaitable[T]) -> T:
    """A coroutine of what a function gives that is marked as one for coroutines."""
    return await whatever


async def on_a_thread(
    function: Callable[..., Any], positional: tuple[Any, ...], keywords: dict[str, Any] | None
) -> Any:
    """Cancelled before a thread has begun with it, it is not called; after that it runs to its end,
    and what it says then is what is told of it, because it cannot be stopped. Where no thread takes
    it, it had no effect."""
    begun = threading.Lock()  # Taken by who begins with it, or by who gives it up.

    def call() -> Any:
        if not begun.acquire(blocking=False):
            return None
        return plainly(function, *positional, **(keywords or {}))

    run = contextvars.copy_context().run
    try:
        thread = asyncio.get_running_loop().run_in_executor(None, run, call)
    except RuntimeError as error:
        # What was queued all the same may have been begun, and finds itself given up if not.
        if not begun.acquire(blocking=False):
            raise
        raise Failed(f"no thread could begin with it: {error}", retryable=True) from error
    while True:
        try:
            result = await asyncio.shield(thread)
            break
        except asyncio.CancelledError:
            if thread.done():
                result = thread.result()
                break
            if begun.acquire(blocking=False):
                raise
    return await result if inspect.isawaitable(result) else result


def plainly(function: Callable[..., Any], /, *positional: Any, **keywords: Any) -> Any:
    """Calls a plain function for a future."""
    try:
        return function(*positional, **keywords)
    except StopIteration as error:  # A future cannot carry it.
        raise RuntimeError("the function raised StopIteration") from error


def log(level: int, text: str) -> None:
    """Writes a line that the library tells of itself."""
    logger.log(level, "%s", text)


def report(what: str, error: BaseException) -> None:
    """Tells the log of an exception of the application's code that is not raised to it."""
    if isinstance(error, asyncio.CancelledError):
        handlers.info("%s was cancelled", what)
    else:
        handlers.error("%s failed", what, exc_info=error)


def until_end(mailbox: Any) -> AsyncGenerator[None, None]:
    """What closes a mailbox when the running loop ends, because that ends its generators."""
    guard = _guard(mailbox)
    try:
        guard.asend(None).send(None)
    except StopIteration:
        pass
    return guard


async def _guard(mailbox: Any) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        mailbox.close()


def takes_an_argument(function: Callable[..., Any]) -> bool:
    """Whether a function can be called with one positional argument."""
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        return False
    except ValueError:  # A builtin that does not say.
        return True
    return True


def named_parameters(function: Callable[..., Any]) -> frozenset[str]:
    """The names of the parameters that a function can be given by name."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # A builtin that does not say.
        return frozenset()
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return frozenset(parameter.name for parameter in parameters if parameter.kind in by_name)


async def nothing() -> bool:
    """What is awaited of something that is done later."""
    return True
