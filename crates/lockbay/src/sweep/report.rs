//! What a run came to, and what this process has swept so far.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How many errors a report tells in words; all are counted.
pub(super) const MAX_MESSAGES: usize = 10;

/// What one run came to. Names as in the HTTP API.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// What was looked at because an index, or a pattern, said that it might go.
    pub total_scanned: u64,
    /// What went, or would have gone in a dry run.
    pub total_cleaned: u64,
    /// What could not be read, judged or deleted.
    pub total_errors: u64,
    /// How long it took.
    pub cleanup_time_ms: f64,
    /// Bytes freed, in units of 1,048,576.
    pub memory_freed_mb: f64,
    /// What was cleaned, by the rule that let it go.
    pub keys_by_type: BTreeMap<String, u64>,
    /// Bytes freed. A sample of each batch is weighed by the store before it is deleted.
    pub bytes_freed: u64,
    /// The share of what was looked at that was cleaned, in percent; 0 if nothing was looked at.
    pub cleanup_efficiency: f64,
    /// Whether nothing was deleted, because that was asked for.
    pub dry_run: bool,
    /// By how many leaders it was begun: more than one if leadership moved meanwhile. The numbers
    /// are those of the last.
    pub leaders: u32,
    /// Each rule that was run, in the order in which they were.
    pub rules: Vec<RuleReport>,
}

/// What one rule came to within a run.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RuleReport {
    /// Which.
    pub rule: String,
    /// See [`Report::total_scanned`].
    pub scanned: u64,
    /// See [`Report::total_cleaned`].
    pub cleaned: u64,
    /// See [`Report::total_errors`].
    pub errors: u64,
    /// See [`Report::bytes_freed`].
    pub bytes_freed: u64,
    /// What was looked at and stays: why, and how many.
    pub kept: BTreeMap<String, u64>,
    /// The first errors, in words.
    pub messages: Vec<String>,
}

impl RuleReport {
    pub(super) fn of(rule: &str) -> Self {
        RuleReport { rule: rule.to_owned(), ..RuleReport::default() }
    }

    pub(super) fn keep(&mut self, why: &str, many: u64) {
        if many > 0 {
            *self.kept.entry(why.to_owned()).or_default() += many;
        }
    }

    pub(super) fn failed(&mut self, message: impl Into<String>) {
        self.errors += 1;
        if self.messages.len() < MAX_MESSAGES {
            self.messages.push(message.into());
        }
    }
}

impl Report {
    /// The sum of what rules came to.
    pub(super) fn of(rules: Vec<RuleReport>, took: Duration) -> Self {
        let mut report = Report { leaders: 1, ..Report::default() };
        for rule in rules {
            report.add(rule);
        }
        report.cleanup_time_ms = took.as_secs_f64() * 1e3;
        report
    }

    fn add(&mut self, rule: RuleReport) {
        self.total_scanned += rule.scanned;
        self.total_cleaned += rule.cleaned;
        self.total_errors += rule.errors;
        self.bytes_freed += rule.bytes_freed;
        if rule.cleaned > 0 {
            *self.keys_by_type.entry(rule.rule.clone()).or_default() += rule.cleaned;
        }
        self.memory_freed_mb = megabytes(self.bytes_freed);
        self.cleanup_efficiency = percent(self.total_cleaned, self.total_scanned);
        self.rules.push(rule);
    }
}

/// What [`Sweeper::optimize_memory`](super::Sweeper::optimize_memory) came to.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct OptimizeReport {
    /// Bytes that the store gave back to the machine.
    pub bytes_freed: u64,
    /// The same in units of 1,048,576.
    pub memory_freed_mb: f64,
    /// How many pieces were given back.
    pub pieces: u64,
    /// Whether the store had more to give back when the time was over.
    pub more: bool,
    /// How long it took.
    pub time_ms: f64,
    /// Bytes that hold data, before and after, as the store measures it.
    pub used_bytes_before: u64,
    /// See above.
    pub used_bytes_after: u64,
    /// What the lazy rules came to, which were run first.
    pub cleanup: Report,
}

/// What this process has swept since it began. It sweeps while it leads.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct SweepStats {
    /// Cycles at the interval that came to their end.
    pub cleanup_cycles: u64,
    /// What went, by cycles and by runs that were asked for.
    pub total_keys_cleaned: u64,
    /// What could not be read, judged or deleted.
    pub total_errors: u64,
    /// How long the last cycle took.
    pub last_cleanup_time_ms: f64,
    /// Bytes freed, in units of 1,048,576.
    pub memory_freed_total_mb: f64,
    /// The share of what was looked at that was cleaned, in percent; 0 if nothing was looked at.
    pub cleanup_efficiency: f64,
    /// State values there were at the last cycle of this process; 0 before.
    pub active_keys_count: u64,
}

pub(super) fn megabytes(bytes: u64) -> f64 {
    #[allow(clippy::cast_precision_loss)] // exact up to 8 petabytes
    let bytes = bytes as f64;
    bytes / 1_048_576.0
}

pub(super) fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        return 0.0;
    }
    #[allow(clippy::cast_precision_loss)] // a share
    let share = part as f64 / whole as f64;
    share * 100.0
}
