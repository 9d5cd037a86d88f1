"""The saga kit, as tests call it. What the faults are, and what holds, is decided in Rust."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lockbay import _lockbay
from lockbay._lockbay import LockBay, SagaReport, Step
from lockbay._step import SagaStep
from lockbay.documents import StepFields

Handlers = Mapping[str, Any]


@dataclass(frozen=True)
class Trial:
    """One run: the handlers that were made for it, and an instance, which need not be closed."""

    handlers: Handlers
    bay: LockBay


@dataclass(frozen=True)
class _World:
    handlers: Handlers

    def on(self, bay: LockBay) -> Trial:
        return Trial(self.handlers, bay)


async def check_saga(
    handlers: Callable[[], Handlers | Awaitable[Handlers]],
    steps: Iterable[Step | SagaStep | StepFields | dict[str, Any]],
    context: Mapping[str, Any] | None = None,
    *,
    observe: Callable[[Trial], Any] | None = None,
    invariant: Callable[[Trial, str], Any] | None = None,
    prepare: Callable[[Trial], Any] | None = None,
    spread: bool = False,
    patience: float = 10,
) -> SagaReport:
    """Runs a saga without a fault, then once under each that it must survive; says what broke.

    The faults: each step fails, for now and for good; raises; acts and is not heard; is repeated
    with its key; the same of each compensation; and the process dies before and after each call,
    and after each record, and another goes on.

    `handlers` makes the handlers of one run by their names, with all that they share: each run
    begins anew. `observe` gives what can be seen of the world, as something whose `repr` is equal
    exactly when the world is: after a saga that went back it must be as before the start, and after
    one that was completed as after one without faults. Ids that differ from run to run do not
    belong in it. `invariant` raises, or returns something false but `None`, if something is wrong
    with the world after a saga that ended with that status. `prepare` makes what the saga starts
    from, such as deposits. All three get the `Trial`; all four may be coroutine functions.

    A saga of a few steps takes some seconds. Handlers must not wait for time to pass: the clock of
    a run stands still while they are at work, and one that takes longer than `patience`, in
    seconds, is a defect as well.
    """

    async def begin() -> _World:
        made = handlers()
        return _World(await made if inspect.isawaitable(made) else made)

    return await _lockbay.run_kit(
        begin,
        steps,
        None if context is None else dict(context),
        prepare=prepare,
        observe=observe,
        invariant=invariant,
        spread=spread,
        patience=patience,
    )
