//! Health, and who leads.

use utoipa::ToSchema;

use super::Moment;

/// How something stands: well, working but to be looked at, or not doing what it is there for.
#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::http) enum HealthStatus {
    Healthy,
    Degraded,
    Unhealthy,
}

/// One part, judged.
#[derive(ToSchema)]
pub(in crate::http) struct HealthCheck {
    /// Which, such as `store` or `leader_election`.
    name: String,
    status: HealthStatus,
    /// Why it is not well.
    reasons: Vec<String>,
    /// When it was last found well; null if it never was.
    #[schema(required)]
    last_good: Option<Moment>,
    /// Since when it has not been well, if it is not.
    #[schema(required)]
    since: Option<Moment>,
    /// How long that is by now.
    #[schema(required)]
    bad_for_seconds: Option<f64>,
}

/// The health of one instance, judged from what really happened.
#[derive(ToSchema)]
pub(in crate::http) struct Health {
    leader_election_healthy: bool,
    job_coordination_healthy: bool,
    saga_coordination_healthy: bool,
    cleanup_service_healthy: bool,
    state_manager_healthy: bool,
    /// All of them.
    overall_healthy: bool,
    /// When this was found out.
    last_check: Moment,
    /// What is wrong, and what to do.
    issues: Vec<String>,
    /// What breaks no promise now, and should be looked at.
    warnings: Vec<String>,
    /// The round trip to the store.
    #[schema(required)]
    store_round_trip_ms: Option<f64>,
    /// Why effects are halted, if the store was found rolled back.
    #[schema(required)]
    rolled_back: Option<String>,
    /// All in one word.
    status: HealthStatus,
    /// Part by part.
    checks: Vec<HealthCheck>,
}
