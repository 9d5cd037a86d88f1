//! Retention rules, and what runs came to.

use std::collections::BTreeMap;

use utoipa::ToSchema;

use super::alert::Origin;

/// When a rule does its work: at once, at its interval, only when it is asked to, or never.
#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::http) enum CleanupStrategy {
    Immediate,
    Batch,
    Lazy,
    Never,
}

/// What a rule is about.
#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::http) enum CleanupScope {
    ExpiredState,
    StaleState,
    Leftovers,
    JobResults,
    Jobs,
    Sagas,
    Leases,
    History,
    StateKeys,
    Audit,
    ForeignKeys,
    Notices,
    DeadNotices,
    Tokens,
    AccessSessions,
}

/// What a rule does to keys of others that have an expiry.
#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::http) enum Expiring {
    Leave,
    Include,
}

/// A retention rule as it is shown; it can be put again.
#[derive(ToSchema)]
pub(in crate::http) struct CleanupRule {
    name: String,
    /// Which things, by their name: `*` is any text, `?` any character.
    pattern: String,
    /// How long they are kept.
    ttl_seconds: f64,
    strategy: CleanupStrategy,
    /// The most that one commit deletes.
    batch_size: u32,
    /// Within a cycle, rules with a higher one come first.
    priority: i32,
    /// Time between two cycles of the rule; left out where the setting `cleanup_interval` says it.
    #[schema(required = false)]
    interval_seconds: f64,
    applies_to: Vec<CleanupScope>,
    expiring: Expiring,
    origin: Origin,
}

/// What one rule came to within a run.
#[derive(ToSchema)]
pub(in crate::http) struct CleanupRuleReport {
    rule: String,
    scanned: u64,
    cleaned: u64,
    errors: u64,
    bytes_freed: u64,
    /// What was looked at and stays: why, and how many.
    kept: BTreeMap<String, u64>,
    /// The first errors, in words.
    messages: Vec<String>,
}

/// What a run came to.
#[derive(ToSchema)]
pub(in crate::http) struct CleanupReport {
    /// What was looked at because it might go.
    total_scanned: u64,
    /// What went, or would have gone in a dry run.
    total_cleaned: u64,
    /// What could not be read, judged or deleted.
    total_errors: u64,
    cleanup_time_ms: f64,
    /// Bytes freed, in units of 1,048,576.
    memory_freed_mb: f64,
    /// What was cleaned, by the rule that let it go.
    keys_by_type: BTreeMap<String, u64>,
    bytes_freed: u64,
    /// The share of what was looked at that was cleaned, in percent.
    cleanup_efficiency: f64,
    /// Whether nothing was deleted, because that was asked for.
    dry_run: bool,
    /// By how many leaders it was begun.
    leaders: u32,
    /// Each rule that was run, in the order in which they were.
    rules: Vec<CleanupRuleReport>,
}

/// What giving memory back came to.
#[derive(ToSchema)]
pub(in crate::http) struct OptimizeReport {
    /// Bytes that the store gave back to the machine.
    bytes_freed: u64,
    /// The same in units of 1,048,576.
    memory_freed_mb: f64,
    /// How many pieces were given back.
    pieces: u64,
    /// Whether the store had more to give back when the time was over.
    more: bool,
    time_ms: f64,
    used_bytes_before: u64,
    used_bytes_after: u64,
    /// What the lazy rules came to, which were run first.
    cleanup: CleanupReport,
}
