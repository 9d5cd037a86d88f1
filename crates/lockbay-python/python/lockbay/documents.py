"""The shapes of what LockBay tells, for type checkers: plain dicts at run time.

Times are RFC 3339 texts by the clock of the store. Tokens and revisions are texts, because they are
greater than some readers of JSON can count. Amounts are decimal texts.
"""

from typing import Any, Literal, NotRequired, TypeAlias, TypedDict

JobStatus: TypeAlias = Literal["claimed", "completed", "failed", "cancelled"]

SagaStatus: TypeAlias = Literal[
    "pending", "running", "completed", "compensating", "compensated", "parked", "abandoned"
]

StepStatus: TypeAlias = Literal[
    "pending",
    "running",
    "completed",
    "failed",
    "unknown",
    "compensating",
    "compensated",
    "skipped",
    "parked",
]

Decision: TypeAlias = Literal[
    "cancel", "resume", "abandon", "retry", "skip", "resolve_done", "resolve_undone"
]
"""What a person may decide about a saga."""

Severity: TypeAlias = Literal["info", "warning", "error", "critical"]

Operator: TypeAlias = Literal[">", ">=", "<", "<=", "==", "!="]

Misfire: TypeAlias = Literal["run_once", "run_all", "skip"]

Overlap: TypeAlias = Literal["queue", "skip", "allow"]

MetricGroup: TypeAlias = Literal[
    "job_idempotency_metrics",
    "saga_metrics",
    "cleanup_metrics",
    "state_manager_metrics",
    "schedule_metrics",
    "audit_metrics",
    "search_metrics",
]
"""What `LockBay.counted` tells of without asking the store."""

EventName: TypeAlias = Literal[
    "leader_elected",
    "leader_lost",
    "leader_changed",
    "system_unhealthy",
    "system_healthy",
    "job_failed",
    "claim_lost",
    "saga_completed",
    "saga_compensated",
    "saga_parked",
    "saga_abandoned",
    "session_taken_over",
    "schedule_misfired",
    "schedule_tick_failed",
    "alert_notified",
    "notification_dead",
    "audit_broken",
    "store_rolled_back",
    "alert_fired",
    "alert_resolved",
]
"""What a callback can be called on; `lockbay.EVENTS` has the same at run time."""


class JobInfo(TypedDict):
    """A job as it stands."""

    job_id: str
    job_type: str
    job_key: str
    identity: Literal["fingerprint", "key"]
    parameters: Any
    status: JobStatus
    lapsed: bool
    attempt: int
    failures: int
    max_retries: int
    holder: str
    fencing_token: str
    idempotency_token: str
    created_at: str
    claimed_at: str
    claim_expires_at: str | None
    scheduled_time: str | None
    leader_only: bool
    completed_at: str | None
    result: Any
    result_kept: bool
    error: str | None
    next_retry_at: str | None


class StepInfo(TypedDict):
    """A step of a saga as it stands."""

    name: str
    handler: str
    compensation_handler: str | None
    status: StepStatus
    depends_on: list[str]
    parameters: Any
    attempts: int
    compensation_attempts: int
    max_retries: int
    compensation_max_retries: int
    timeout_seconds: float
    pivot: bool
    idempotent: bool
    idempotency_key: str
    result: Any
    compensation_result: Any
    in_doubt: bool
    error: str | None
    next_retry_at: str | None
    updated_at: str | None


class SagaInfo(TypedDict):
    """A saga as it stands."""

    saga_id: str
    saga_name: str
    status: SagaStatus
    reason: str | None
    steps: list[StepInfo]
    context: Any
    metadata: Any
    created_at: str
    updated_at: str
    deadline: str
    ended_at: str | None
    fencing_token: str
    session: str


class HistoryEntry(TypedDict):
    """Something that happened to a saga."""

    number: int
    at: str
    revision: str
    event: str
    step: NotRequired[str]
    result: NotRequired[Any]
    error: NotRequired[str]
    next_retry_at: NotRequired[str]
    actor: NotRequired[str]
    reason: NotRequired[str]


class LeaderInfo(TypedDict):
    """Who leads."""

    service: str
    instance_id: str
    instance_name: str | None
    term: int
    fencing_token: str
    elected_at: str
    last_heartbeat: str
    expires_at: str
    is_self: bool


class OpenTick(TypedDict):
    """A tick that has begun and is not known to have ended."""

    scheduled_time: str
    job_key: str
    job_id: NotRequired[str]
    attempt: NotRequired[int]
    error: NotRequired[str]


class LastRun(TypedDict):
    """The tick that ended last."""

    scheduled_time: str
    started_at: str
    ended_at: str
    outcome: Literal["completed", "failed", "cancelled"]
    error: NotRequired[str]
    job_key: str


class TickCounts(TypedDict):
    """How often what became of the ticks of a schedule."""

    begun: int
    completed: int
    failed: int
    skipped: int
    misfired: int


class ScheduleInfo(TypedDict):
    """A schedule as it stands."""

    job_id: str
    job_type: str
    schedule_expression: str
    time_zone: str
    parameters: Any
    handler: str
    leader_only: bool
    misfire: Misfire
    misfire_grace_seconds: float
    jitter_seconds: float
    overlap: Overlap
    max_retries: int | None
    timeout_seconds: float | None
    status: Literal["active", "paused", "ending"]
    next_due: str | None
    problem: NotRequired[str]
    in_progress: list[OpenTick]
    last_run: LastRun | None
    counts: TickCounts
    created_at: str
    changed_at: str


class StateEntry(TypedDict):
    """A value of state, with what is known of it."""

    key: str
    value: Any
    version: str
    tags: list[str]
    source: str | None
    updated_at: str
    expires_at: str | None


class Balance(TypedDict):
    """What a user has in one currency."""

    available: str
    held: str
    currency: str


class CurrencyTotals(TypedDict):
    """All accounts of one currency added up. `sum` is zero."""

    currency: str
    sum: str
    available: str
    held: str
    held_by_users: str
    escrow: str
    external: str


class TrialBalance(TypedDict):
    """All accounts added up, as they were at one moment."""

    balanced: bool
    as_of: str
    at: str
    currencies: list[CurrencyTotals]


MovementKind: TypeAlias = Literal[
    "deposit",
    "undo_deposit",
    "lock",
    "reserve",
    "void",
    "lapse",
    "escrow",
    "undo_escrow",
    "release",
    "refund",
    "undo_release",
    "payout",
    "undo_payout",
    "return_payout",
]


class MovementLeg(TypedDict):
    """One side of a movement: what was added to an account, and what was in it then."""

    account: str
    amount: str
    balance: str


class MovementReference(TypedDict):
    """The step of a saga that a movement was."""

    saga_id: str
    step: str


class MovementInfo(TypedDict):
    """A movement that happened. Its legs come to zero."""

    movement_id: str
    kind: MovementKind
    currency: str
    legs: list[MovementLeg]
    reference: MovementReference | None
    at: str


class Check(TypedDict):
    """How one part stands, why, and since when."""

    name: str
    status: Literal["healthy", "degraded", "unhealthy"]
    reasons: list[str]
    last_good: str | None
    since: str | None
    bad_for_seconds: float | None


class Health(TypedDict):
    """The health of one instance."""

    leader_election_healthy: bool
    job_coordination_healthy: bool
    saga_coordination_healthy: bool
    cleanup_service_healthy: bool
    state_manager_healthy: bool
    overall_healthy: bool
    last_check: str
    issues: list[str]
    warnings: list[str]
    store_round_trip_ms: float | None
    rolled_back: str | None
    status: Literal["healthy", "degraded", "unhealthy"]
    checks: list[Check]


class Metrics(TypedDict):
    """Everything that an instance counts and measures, by groups."""

    instance_id: str
    uptime_seconds: float
    is_leader: bool
    leader_info: LeaderInfo | None
    health_status: Health
    system_metrics: dict[str, Any]
    job_idempotency_metrics: dict[str, Any]
    saga_metrics: dict[str, Any]
    cleanup_metrics: dict[str, Any]
    state_manager_metrics: dict[str, Any]
    schedule_metrics: dict[str, Any]
    audit_metrics: dict[str, Any]
    search_metrics: dict[str, Any]


class LeaderStatus(TypedDict):
    """Who leads, and whether it is this instance."""

    is_leader: bool
    leader: LeaderInfo | None


class OwnWork(TypedDict):
    """What this instance has done since it was opened."""

    completed: float
    failed: float
    p95_ms: float | None


class Work(TypedDict):
    """What all instances did of one kind of work in the window of a report."""

    completed: float | None
    failed: float | None
    success_rate: float | None
    per_second: float | None
    usual_per_second: float | None
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    this_instance: OwnWork


class PerformanceSummary(TypedDict):
    """What was done in the window of a report."""

    window_hours: int
    job_processing: Work
    saga_processing: Work
    cleanup_efficiency: float | None


class ActiveAlert(TypedDict):
    """An alert that fires."""

    rule: str
    severity: Severity
    since: str
    value: float | None
    summary: str


class Report(TypedDict):
    """What a person at night should know."""

    timestamp: str
    instance_id: str
    instance_name: str | None
    overall_status: Literal["healthy", "degraded", "unhealthy"]
    system_uptime: float
    leader_status: LeaderStatus
    performance_summary: PerformanceSummary
    system_load: dict[str, float | None]
    health_issues: list[str]
    warnings: list[str]
    checks: list[Check]
    trends: list[dict[str, Any]]
    baselines: dict[str, dict[str, Any]]
    active_alerts: list[ActiveAlert]
    next_steps: list[str]
    notes: list[str]


class Alert(TypedDict):
    """An alert rule, and how it stands."""

    rule: str
    severity: Severity
    state: Literal["inactive", "pending", "firing", "recovering", "resolved"]
    since: str | None
    episode: int
    value: float | None
    operator: Operator
    threshold: float
    reason: Literal["no_data", "cooldown", "disabled"] | dict[str, str] | None
    summary: str
    evaluated_at: str | None
    fired_at: str | None
    resolved_at: str | None
    labels: dict[str, str]
    runbook: str | None


class DivideBy(TypedDict):
    """What the value of an alert rule is divided by."""

    metric_path: str
    minimum: NotRequired[float]


class AlertRuleOptions(TypedDict, total=False):
    """What an alert rule may have beyond what it must."""

    for_seconds: int
    keep_firing_for_seconds: int
    cooldown_minutes: int
    aggregation: Literal["increase", "rate", "avg", "max", "min", "last", "quantile"]
    quantile: float
    on_no_data: Literal["ignore", "fire", "resolve", "keep"]
    divide_by: DivideBy
    confirm_window_minutes: int
    description: str
    runbook: str
    labels: dict[str, str]
    enabled: bool


class AlertRuleFields(AlertRuleOptions):
    """The fields of an alert rule, beside its name."""

    metric_path: str
    operator: Operator
    threshold: float
    window_minutes: int
    severity: Severity


class AlertRule(AlertRuleFields):
    """An alert rule as it is kept."""

    name: str
    origin: Literal["built_in", "put"]


class AlertTransition(TypedDict):
    """An alert that began or ended to fire."""

    rule: str
    severity: Severity
    turn: Literal["fired", "resolved"]
    episode: int
    at: str
    value: float | None
    summary: str


AlertTest = TypedDict(
    "AlertTest",
    {
        "rule": str,
        "from": str,
        "to": str,
        "interval_seconds": float,
        "evaluations": int,
        "times_fired": int,
        "fires_now": bool,
        "firing_seconds": float,
        "transitions": list[AlertTransition],
    },
)
"""What a rule would have done over the last minutes."""


class CleanupRuleOptions(TypedDict, total=False):
    """What a retention rule may have beyond what it must."""

    strategy: Literal["immediate", "batch", "lazy", "never"]
    batch_size: int
    priority: int
    interval_seconds: float
    applies_to: list[str]
    expiring: Literal["leave", "include"]


class CleanupRuleFields(CleanupRuleOptions):
    """The fields of a retention rule, beside its name."""

    pattern: str
    ttl_seconds: float


class CleanupRule(CleanupRuleFields):
    """A retention rule as it is kept."""

    name: str
    origin: Literal["built_in", "put"]


class CleanupRuleReport(TypedDict):
    """What one rule came to within a run."""

    rule: str
    scanned: int
    cleaned: int
    errors: int
    bytes_freed: int
    kept: dict[str, int]
    messages: list[str]


class CleanupReport(TypedDict):
    """What a run of the cleanup came to."""

    total_scanned: int
    total_cleaned: int
    total_errors: int
    cleanup_time_ms: float
    memory_freed_mb: float
    keys_by_type: dict[str, int]
    bytes_freed: int
    cleanup_efficiency: float
    dry_run: bool
    leaders: int
    rules: list[CleanupRuleReport]


class OptimizeReport(TypedDict):
    """What giving memory back came to."""

    bytes_freed: int
    memory_freed_mb: float
    pieces: int
    more: bool
    time_ms: float
    used_bytes_before: int
    used_bytes_after: int
    cleanup: CleanupReport


class StepFields(TypedDict):
    """A step of a saga as a dict. It is done by the handler of its own name unless one is named."""

    name: str
    handler: NotRequired[str | None]
    parameters: NotRequired[Any]
    compensation_handler: NotRequired[str | None]
    max_retries: NotRequired[int | None]
    compensation_max_retries: NotRequired[int | None]
    timeout: NotRequired[float | None]
    timeout_seconds: NotRequired[float | None]
    depends_on: NotRequired[list[str] | None]
    pivot: NotRequired[bool]
    idempotent: NotRequired[bool]
