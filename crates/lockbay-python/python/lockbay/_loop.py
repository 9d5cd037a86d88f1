"""What the extension module needs of asyncio, and can only be said in Python."""

import asyncio
import inspect
from typing import Any, AsyncGenerator, Callable


def begin(
    function: Callable[..., Any],
    context: Any,
    positional: tuple[Any, ...],
    keywords: dict[str, Any] | None,
) -> "asyncio.Task[Any]":
    """Begins a call as a task of the running loop."""
    if is_async(function):
        coroutine = function(*positional, **(keywords or {}))
    else:
        coroutine = _on_a_thread(function, positional, keywords or {})
    return asyncio.get_running_loop().create_task(coroutine, context=context)


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling it gives a coroutine: a coroutine function, or an object that is called as one."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)
    )


async def _on_a_thread(
    function: Callable[..., Any], positional: tuple[Any, ...], keywords: dict[str, Any]
) -> Any:
    result = await asyncio.to_thread(function, *positional, **keywords)
    return await result if inspect.isawaitable(result) else result


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
