"""What steps of sagas are made of, as far as it is data."""

from dataclasses import dataclass
from typing import Any, Final, Sequence

from lockbay._lockbay import StepCall


class _NotDone:
    def __repr__(self) -> str:
        return "NOT_DONE"


NOT_DONE: Final = _NotDone()
"""What a probe returns if the step was not done, and no attempt made so far will do it."""


class StepContext(dict[str, Any]):
    """What a saga was given, with the result of each step that is done as `{step}_result`.

    `step` is the call itself: its idempotency key, its fencing token and the rest.
    """

    step: StepCall

    def __init__(self, given: dict[str, Any], step: StepCall) -> None:
        super().__init__(given)
        self.step = step


@dataclass(kw_only=True)
class SagaStep:
    """One step of a saga. It is done by the handler of its own name unless `handler` names another."""

    name: str
    handler: str | None = None
    parameters: Any = None
    compensation_handler: str | None = None
    max_retries: int | None = None
    compensation_max_retries: int | None = None
    timeout_seconds: float | None = None
    depends_on: Sequence[str] | None = None
    pivot: bool = False
    idempotent: bool = True
