"""Sagas: several steps, each with a compensation, that go on or go back after any crash."""

from __future__ import annotations

from typing import Any, Iterable, Mapping

from lockbay._lockbay import Step
from lockbay._process import bay
from lockbay._step import NOT_DONE, SagaStep, StepContext
from lockbay.documents import SagaInfo, SagaStatus, StepFields
from lockbay.errors import Failed, NotFound, Refused

__all__ = [
    "Failed",
    "NOT_DONE",
    "SagaCoordinator",
    "SagaStep",
    "SagaStepHandler",
    "StepContext",
    "saga_coordinator",
]


class SagaStepHandler:
    """Who does a step: with `execute`, and `compensate` if there is something to undo.

    Both may be coroutine functions or plain ones. Both may come again: `context.step` has the
    idempotency key, which stays the same, and the fencing token. `Failed` says that there was no
    effect; any other exception leaves that open. A handler without `compensate` parks the saga that
    needs it. `probe(parameters, context)`, if there is one, finds out whether a step was done, and
    returns its result or `NOT_DONE`.
    """

    async def execute(self, parameters: Any, context: StepContext) -> Any:
        """Does it. What it returns is kept, for later steps and for the compensation."""
        raise NotImplementedError(f"{type(self).__name__} has no execute")


class SagaCoordinator:
    """The sagas of this process's instance, by the guide's names."""

    def register_handler(self, name: str, handler: Any) -> None:
        """Registers who does the steps of this name in this process.

        Register before the instance starts, so that what it takes over finds its handlers.
        """
        bay.register_handler(name, handler, spread=True)

    async def start_saga(
        self,
        saga_name: str,
        steps: Iterable[SagaStep | Step | StepFields | dict[str, Any]],
        context: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> str:
        """Starts a saga, durably, and gives its id."""
        given = None if context is None else dict(context)
        return await bay.sagas.start(saga_name, steps, given, **options)

    async def get_saga_status(self, saga_id: str) -> SagaInfo | None:
        """A saga as it stands, with every step; `None` if there is no such saga."""
        try:
            return await bay.sagas.get(saga_id)
        except NotFound:
            return None

    async def wait_for_saga(self, saga_id: str, timeout: float | None = None) -> SagaStatus:
        """Waits for the end of a saga, and gives its status then."""
        return await bay.sagas.wait(saga_id, timeout)

    async def cancel_saga(
        self, saga_id: str, reason: str = "cancelled", *, actor: str = "application"
    ) -> bool:
        """Has a saga go back; false if it has ended, is past its pivot, or is not there."""
        try:
            await bay.sagas.operate(saga_id, "cancel", reason, actor=actor)
        except (NotFound, Refused):
            return False
        return True

    async def list_sagas(self, **filters: Any) -> list[SagaInfo]:
        """Sagas that match, a page of them; see `LockBay.sagas.list`."""
        sagas, _ = await bay.sagas.list(**filters)
        return sagas

    def get_metrics(self) -> dict[str, Any]:
        """What this instance has counted of sagas."""
        return bay.counted("saga_metrics")


saga_coordinator = SagaCoordinator()
