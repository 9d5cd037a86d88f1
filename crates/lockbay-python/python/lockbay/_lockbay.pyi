import builtins
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Sequence
from decimal import Decimal
from os import PathLike
from typing import (
    Any,
    Final,
    Literal,
    Protocol,
    Self,
    TypeAlias,
    TypeVar,
    Unpack,
    final,
    overload,
)

from typing_extensions import disjoint_base

from lockbay._step import SagaStep
from lockbay.documents import (
    Alert,
    AlertRule,
    AlertRuleFields,
    AlertTest,
    Balance,
    CleanupReport,
    CleanupRule,
    CleanupRuleFields,
    Decision,
    EventName,
    Health,
    HistoryEntry,
    JobInfo,
    JobStatus,
    LeaderInfo,
    MetricGroup,
    Metrics,
    Misfire,
    MovementInfo,
    MovementKind,
    OptimizeReport,
    Overlap,
    Report,
    SagaInfo,
    SagaStatus,
    ScheduleInfo,
    StateEntry,
    StepFields,
    TrialBalance,
)
from lockbay.settings import Settings

_User: TypeAlias = int | str
_Amount: TypeAlias = str | int | Decimal | float
_Function = TypeVar("_Function", bound=Callable[..., Any])

__all__ = [
    "EVENTS",
    "Alerts",
    "Cleanup",
    "Done",
    "Job",
    "JobOutcome",
    "Jobs",
    "Leader",
    "Lease",
    "Ledger",
    "LockBay",
    "Movement",
    "PayoutCall",
    "SagaReport",
    "SagaRun",
    "Sagas",
    "Schedules",
    "State",
    "Step",
    "StepCall",
    "SteppedClock",
    "Tick",
    "__version__",
    "done",
    "end",
    "from_text",
    "forked",
    "go_on",
    "hold_still",
    "run_kit",
    "to_text",
    "undone",
]

_T = TypeVar("_T")
# What a call gives has begun, and can be awaited, gathered, cancelled, or made a task of.
_Answer: TypeAlias = Coroutine[Any, Any, _T]

class _Provider(Protocol):
    @property
    def name(self) -> str: ...
    def pay(self, call: PayoutCall, /) -> str | Awaitable[str]: ...

__version__: Final[str]
EVENTS: Final[list[EventName]]

def end() -> None: ...
def forked() -> None: ...
def hold_still() -> None: ...
def go_on() -> None: ...
def to_text(what: str, value: Any) -> str: ...
def from_text(text: str) -> Any: ...

@disjoint_base
class LockBay:
    @classmethod
    def open(
        cls,
        store: str | None = None,
        *,
        config_file: str | PathLike[str] | None = None,
        **settings: Unpack[Settings],
    ) -> Self: ...
    def __new__(
        cls,
        store: str | None = None,
        config_file: str | PathLike[str] | None = None,
        **settings: Unpack[Settings],
    ) -> Self: ...
    def configure(self, store: str | None = None, **settings: Unpack[Settings]) -> None: ...
    def configure_from(self, config: object) -> None: ...
    def default_to(self, config: object) -> None: ...
    def start(self, *, take_part: bool = True) -> _Answer[Self]: ...
    def close(self) -> _Answer[None]: ...
    def __aenter__(self) -> _Answer[Self]: ...
    def __aexit__(self, *_exception: object) -> _Answer[None]: ...
    def __await__(self) -> Generator[Any, None, Self]: ...
    @property
    def is_open(self) -> bool: ...
    def is_leader(self) -> bool: ...
    @property
    def instance_id(self) -> str: ...
    @property
    def settings(self) -> dict[str, Any]: ...
    def health(self) -> _Answer[Health]: ...
    def metrics(self) -> _Answer[Metrics]: ...
    def counted(self, group: MetricGroup) -> dict[str, Any]: ...
    def report(self, hours: int = 24) -> _Answer[Report]: ...
    def on(self, event: EventName, callback: Callable[..., Any]) -> None: ...
    @property
    def leader(self) -> Leader: ...
    def lease(self, name: str, ttl: float = 10.0, *, holder: str | None = None) -> Lease: ...
    @property
    def jobs(self) -> Jobs: ...
    @overload
    def run_job(
        self,
        job_type: str,
        job_key: str,
        handler: Callable[[Job], Any],
        parameters: Any = None,
        *,
        by_name: Literal[False] = False,
        leader_only: bool = False,
        identity: Literal["fingerprint", "key"] = "fingerprint",
        wait_seconds: float | None = None,
        on_failed: Literal["rerun", "replay"] = "rerun",
        max_retries: int | None = None,
        claim_ttl: float | None = None,
        timeout: float | None = None,
        holder: str | None = None,
        scheduled_time: str | None = None,
    ) -> _Answer[JobOutcome]: ...
    @overload
    def run_job(
        self,
        job_type: str,
        job_key: str,
        handler: Callable[..., Any],
        parameters: dict[str, Any] | None = None,
        *,
        by_name: Literal[True],
        leader_only: bool = False,
        identity: Literal["fingerprint", "key"] = "fingerprint",
        wait_seconds: float | None = None,
        on_failed: Literal["rerun", "replay"] = "rerun",
        max_retries: int | None = None,
        claim_ttl: float | None = None,
        timeout: float | None = None,
        holder: str | None = None,
        scheduled_time: str | None = None,
    ) -> _Answer[JobOutcome]: ...
    @property
    def sagas(self) -> Sagas: ...
    def pay_through(self, provider: _Provider) -> None: ...
    def register_handler(self, name: str, handler: object, *, spread: bool = False) -> None: ...
    def saga(
        self,
        saga_name: str,
        steps: Iterable[Step | SagaStep | StepFields | dict[str, Any]],
        context: Any = None,
        *,
        metadata: Any = None,
        timeout: float | None = None,
        idempotency_key: str | None = None,
        defer_handlers: bool = False,
    ) -> _Answer[str]: ...
    @overload
    def step(
        self, name: str, execute: None = None
    ) -> Callable[[Callable[[StepCall], Any]], Step]: ...
    @overload
    def step(self, name: str, execute: Callable[[StepCall], Any]) -> Step: ...
    @property
    def schedules(self) -> Schedules: ...
    @property
    def ledger(self) -> Ledger: ...
    def escrow(
        self,
        buyer_id: _User,
        seller_id: _User,
        amount: _Amount,
        currency: str,
        *,
        idempotency_key: str | None = None,
    ) -> _Answer[str]: ...
    def cashout(
        self,
        user_id: _User,
        amount: _Amount,
        currency: str,
        destination: str,
        *,
        idempotency_key: str | None = None,
    ) -> _Answer[str]: ...
    def release(self, escrow_id: str, *, idempotency_key: str | None = None) -> _Answer[str]: ...
    def refund(self, escrow_id: str, *, idempotency_key: str | None = None) -> _Answer[str]: ...
    @property
    def state(self) -> State: ...
    @property
    def cleanup(self) -> Cleanup: ...
    @property
    def alerts(self) -> Alerts: ...

@final
class Leader:
    @property
    def is_leader(self) -> bool: ...
    @property
    def term(self) -> int | None: ...
    @property
    def fencing_token(self) -> int | None: ...
    def current(self) -> _Answer[LeaderInfo | None]: ...
    def resign(self) -> _Answer[None]: ...

@final
class Lease:
    def acquire(self) -> _Answer[Self]: ...
    def release(self) -> _Answer[None]: ...
    @property
    def held(self) -> bool: ...
    @property
    def fencing_token(self) -> int | None: ...
    def __aenter__(self) -> _Answer[Self]: ...
    def __aexit__(self, *_exception: object) -> _Answer[None]: ...
    def __await__(self) -> Generator[Any, None, Self]: ...

@final
class Jobs:
    def get(self, job_id: str) -> _Answer[JobInfo]: ...
    def list(
        self,
        *,
        status: JobStatus | None = None,
        job_type: str | None = None,
        job_key: str | None = None,
        page_size: int = 100,
        page: str | None = None,
    ) -> _Answer[tuple[builtins.list[JobInfo], str | None]]: ...
    def cancel(self, job_id: str, reason: str) -> _Answer[None]: ...
    def retry(self, job_id: str, reason: str) -> _Answer[None]: ...

@final
class Job:
    @property
    def parameters(self) -> Any: ...
    @property
    def job_id(self) -> str: ...
    @property
    def idempotency_token(self) -> str: ...
    @property
    def attempt(self) -> int: ...
    @property
    def fencing_token(self) -> int: ...
    @property
    def cancelled(self) -> bool: ...
    @property
    def time_left(self) -> float | None: ...

@final
class JobOutcome:
    @property
    def status(self) -> Literal["completed", "failed", "cancelled", "in_progress"]: ...
    @property
    def replayed(self) -> bool: ...
    @property
    def result(self) -> Any: ...
    @property
    def result_kept(self) -> bool: ...
    @property
    def error(self) -> str | None: ...
    @property
    def job_id(self) -> str | None: ...
    @property
    def attempt(self) -> int | None: ...
    @property
    def holder(self) -> str | None: ...
    @property
    def retry_after(self) -> float | None: ...
    def as_tuple(self) -> tuple[bool, Any, str | None]: ...

@final
class Sagas:
    def start(
        self,
        saga_name: str,
        steps: Iterable[Step | SagaStep | StepFields | dict[str, Any]],
        context: Any = None,
        *,
        metadata: Any = None,
        timeout: float | None = None,
        idempotency_key: str | None = None,
        defer_handlers: bool = False,
    ) -> _Answer[str]: ...
    def get(self, saga_id: str) -> _Answer[SagaInfo]: ...
    def wait(self, saga_id: str, timeout: float | None = None) -> _Answer[SagaStatus]: ...
    def list(
        self,
        *,
        status: SagaStatus | None = None,
        saga_name: str | None = None,
        step: str | None = None,
        key: str | None = None,
        older_than: float | None = None,
        page_size: int = 100,
        page: str | None = None,
    ) -> _Answer[tuple[builtins.list[SagaInfo], str | None]]: ...
    def history(
        self, saga_id: str, *, page_size: int = 100, page: str | None = None
    ) -> _Answer[tuple[builtins.list[HistoryEntry], str | None]]: ...
    def operate(
        self,
        saga_id: str,
        decision: Decision,
        reason: str,
        *,
        actor: str,
        step: str | None = None,
        parameters: Any = None,
        result: Any = None,
    ) -> _Answer[SagaStatus]: ...

@final
class Step:
    @property
    def name(self) -> str: ...
    def compensate(self, function: _Function) -> _Function: ...
    def probe(self, function: _Function) -> _Function: ...
    def settle(self, function: _Function) -> _Function: ...
    def __call__(self, *arguments: Any, **keywords: Any) -> Any: ...

@final
class StepCall:
    @property
    def action(self) -> Literal["execute", "compensate", "probe"]: ...
    @property
    def saga_id(self) -> str: ...
    @property
    def saga_name(self) -> str: ...
    @property
    def step(self) -> str: ...
    @property
    def parameters(self) -> Any: ...
    @property
    def context(self) -> Any: ...
    @property
    def is_completed(self) -> bool: ...
    @property
    def original_result(self) -> Any: ...
    @property
    def idempotency_key(self) -> str: ...
    @property
    def undo_key(self) -> str: ...
    @property
    def attempt(self) -> int: ...
    @property
    def fencing_token(self) -> int: ...
    @property
    def deadline(self) -> str: ...
    @property
    def time_left(self) -> float: ...
    @property
    def cancelled(self) -> bool: ...

@final
class Schedules:
    def register(self, name: str, handler: Callable[[Tick], Any] | Callable[[], Any]) -> None: ...
    def put(
        self,
        job_id: str,
        schedule_expression: str,
        handler: str,
        *,
        job_type: str | None = None,
        parameters: Any = None,
        time_zone: str = "UTC",
        leader_only: bool = True,
        misfire: Misfire = "run_once",
        misfire_grace: float | None = None,
        overlap: Overlap = "queue",
        jitter: float | None = None,
        max_retries: int | None = None,
        timeout: float | None = None,
    ) -> _Answer[ScheduleInfo]: ...
    def get(self, job_id: str) -> _Answer[ScheduleInfo]: ...
    def list(
        self, *, page_size: int = 100, page: str | None = None
    ) -> _Answer[tuple[builtins.list[ScheduleInfo], str | None]]: ...
    def pause(self, job_id: str) -> _Answer[ScheduleInfo]: ...
    def resume(self, job_id: str, *, catch_up: bool = False) -> _Answer[ScheduleInfo]: ...
    def run(self, job_id: str) -> _Answer[str]: ...
    def delete(self, job_id: str) -> _Answer[None]: ...

@final
class Tick:
    @property
    def schedule(self) -> str: ...
    @property
    def job_type(self) -> str: ...
    @property
    def job_id(self) -> str: ...
    @property
    def scheduled_time(self) -> str: ...
    @property
    def parameters(self) -> Any: ...
    @property
    def idempotency_token(self) -> str: ...
    @property
    def attempt(self) -> int: ...
    @property
    def fencing_token(self) -> int: ...
    @property
    def cancelled(self) -> bool: ...

@final
class Ledger:
    def deposit(
        self,
        user_id: _User,
        amount: _Amount,
        currency: str,
        *,
        idempotency_key: str,
    ) -> _Answer[Balance]: ...
    def balance(self, user_id: _User, currency: str) -> _Answer[Balance]: ...
    def trial_balance(self) -> _Answer[TrialBalance]: ...
    def movement(self, movement_id: str) -> _Answer[MovementInfo | None]: ...

@final
class Movement:
    @staticmethod
    def deposit(user_id: _User, amount: _Amount, currency: str, *, provider: str) -> Movement: ...
    @staticmethod
    def lock(
        hold_id: str,
        user_id: _User,
        amount: _Amount,
        currency: str,
        *,
        lapses_after: float | None = None,
    ) -> Movement: ...
    @staticmethod
    def reserve(
        hold_id: str,
        user_id: _User,
        amount: _Amount,
        currency: str,
        *,
        lapses_after: float | None = None,
    ) -> Movement: ...
    @staticmethod
    def void(hold_id: str, user_id: _User, amount: _Amount, currency: str) -> Movement: ...
    @staticmethod
    def escrow(
        hold_id: str, user_id: _User, amount: _Amount, currency: str, *, escrow_id: str
    ) -> Movement: ...
    @staticmethod
    def release(
        escrow_id: str, payer_id: _User, to_user_id: _User, amount: _Amount, currency: str
    ) -> Movement: ...
    @staticmethod
    def refund(escrow_id: str, payer_id: _User, amount: _Amount, currency: str) -> Movement: ...
    @staticmethod
    def payout(
        hold_id: str, user_id: _User, amount: _Amount, currency: str, *, provider: str
    ) -> Movement: ...
    @staticmethod
    def return_payout(
        user_id: _User, amount: _Amount, currency: str, *, provider: str
    ) -> Movement: ...
    @property
    def kind(self) -> MovementKind: ...

@final
class Done: ...

def done(result: Any = None, *, movements: Sequence[Movement], only: bool = False) -> Done: ...
def undone(movements: Sequence[Movement], result: Any = None) -> Done: ...

@final
class PayoutCall:
    @property
    def key(self) -> str: ...
    @property
    def user_id(self) -> str: ...
    @property
    def amount(self) -> Decimal: ...
    @property
    def currency(self) -> str: ...
    @property
    def destination(self) -> str: ...
    @property
    def fencing_token(self) -> int: ...
    @property
    def attempt(self) -> int: ...

@final
class SagaRun:
    @property
    def fault(self) -> str: ...
    @property
    def trace(self) -> list[str]: ...
    @property
    def status(self) -> SagaStatus | None: ...
    @property
    def reason(self) -> str | None: ...
    @property
    def violations(self) -> list[str]: ...

@final
class SagaReport:
    @property
    def runs(self) -> list[SagaRun]: ...
    @property
    def is_ok(self) -> bool: ...
    @property
    def violations(self) -> list[tuple[str, str]]: ...
    def assert_ok(self) -> None: ...

def run_kit(
    begin: Callable[[], Any],
    steps: Iterable[Step | SagaStep | StepFields | dict[str, Any]],
    context: Any,
    *,
    prepare: Callable[[Any], Any] | None,
    observe: Callable[[Any], Any] | None,
    invariant: Callable[[Any, str], Any] | None,
    spread: bool,
    patience: float,
) -> _Answer[SagaReport]: ...

@final
class SteppedClock:
    def __new__(cls, seed: int) -> Self: ...
    def open(self, **settings: Unpack[Settings]) -> LockBay: ...
    @property
    def now(self) -> str: ...
    def ahead(self, by: float) -> int: ...
    def step_towards(self, moment: int, shortest: float) -> bool: ...
    def is_quiet(self) -> bool: ...

@final
class State:
    def get(self, key: str, default: Any = None) -> _Answer[Any]: ...
    def entry(self, key: str) -> _Answer[StateEntry | None]: ...
    def set(
        self,
        key: str,
        value: Any,
        *,
        ttl: float | None = None,
        tags: Sequence[str] | None = None,
        source: str | None = None,
        if_version: str | None = None,
    ) -> _Answer[str]: ...
    def delete(self, key: str) -> _Answer[bool]: ...
    def invalidate(
        self,
        *,
        keys: Sequence[str] | None = None,
        tags: Sequence[str] | None = None,
        pattern: str | None = None,
        updated_key: str | None = None,
        reason: str | None = None,
    ) -> _Answer[int]: ...
    def put_rule(
        self, name: str, update_pattern: str, invalidate_patterns: Sequence[str]
    ) -> _Answer[None]: ...
    def add_rule(
        self, name: str, update_pattern: str, invalidate_patterns: Sequence[str]
    ) -> _Answer[bool]: ...
    def delete_rule(self, name: str) -> _Answer[None]: ...
    def set_dependencies(self, key: str, depends_on: Sequence[str]) -> _Answer[None]: ...

@final
class Cleanup:
    def run(
        self,
        rule: str | None = None,
        *,
        pattern: str | None = None,
        dry_run: bool = False,
        ttl: float | None = None,
    ) -> _Answer[CleanupReport]: ...
    def optimize_memory(self) -> _Answer[OptimizeReport]: ...
    def rules(self) -> _Answer[builtins.list[CleanupRule]]: ...
    def put_rule(self, name: str, **fields: Unpack[CleanupRuleFields]) -> _Answer[None]: ...
    def add_rule(self, name: str, **fields: Unpack[CleanupRuleFields]) -> _Answer[bool]: ...
    def delete_rule(self, name: str) -> _Answer[None]: ...

@final
class Alerts:
    def list(self) -> _Answer[builtins.list[Alert]]: ...
    def rules(self) -> _Answer[builtins.list[AlertRule]]: ...
    def put_rule(self, name: str, **fields: Unpack[AlertRuleFields]) -> _Answer[AlertRule]: ...
    def add_rule(self, name: str, **fields: Unpack[AlertRuleFields]) -> _Answer[bool]: ...
    def delete_rule(self, name: str) -> _Answer[None]: ...
    def test_rule(
        self, name: str, minutes: int = 60, **fields: Unpack[AlertRuleFields]
    ) -> _Answer[AlertTest]: ...
