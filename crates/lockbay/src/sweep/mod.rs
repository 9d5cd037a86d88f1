//! Retention: what has ended goes, by rule, and really gives its room back.
//!
//! The sweeper owns the rules and the work of the leader. Services say what they no longer need; it
//! commits the deletions, each under the leader's fence and guarded by the record as it was judged,
//! at a pace that leaves the store to others, and counts what really went. It refuses to know what
//! a job, a saga or a lease is. Its state is the rules, the requests for runs, and how far it came
//! through indexes that are not emptied.
//!
//! # What holds
//! Nothing of unfinished work is deleted. A leader that was deposed deletes nothing. What was
//! touched after it was judged stays. A dry run deletes nothing and counts what a run would delete.
//!
//! # What does not
//! Numbers of a batch that was on its way when leadership was lost are not in any report.

mod pattern;
mod report;
mod rule;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::Result;

pub use pattern::MAX_PATTERN_BYTES;
pub use report::{OptimizeReport, Report, RuleReport, SweepStats};
pub use rule::{
    Expiring, MAX_BATCH, MAX_INTERVAL, MAX_RULE_TTL, MAX_RULES, MIN_INTERVAL, MIN_SAGA_TTL, Origin,
    Rule, Scope, Strategy,
};

/// Whether a run deletes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// It does.
    #[default]
    Delete,
    /// It counts and measures what would go.
    DryRun,
}

/// A wish for a run, now.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunRequest {
    /// Only this rule; the API's `type`. Without, all but those that never run.
    pub rule: Option<String>,
    /// Only what this matches as well as the rule's own pattern.
    pub pattern: Option<String>,
    /// Whether to delete.
    pub mode: Mode,
    /// In place of the rules' own.
    pub ttl: Option<Duration>,
}

/// Retention, as one instance sees it. Cheap to clone.
#[derive(Clone)]
pub struct Sweeper(());

impl Sweeper {
    /// Every rule, in the order in which a cycle goes through them: the built-in ones, unless they
    /// were deleted or replaced, and those that were put.
    pub async fn rules(&self) -> Result<Vec<Rule>> {
        unreachable!("not here yet")
    }

    /// Puts a rule, in the place of the one of its name if there is one. The leader goes by it from
    /// its next cycle on. Said twice, it is the same.
    ///
    /// # Errors
    /// `Invalid` for what cannot be meant. `Busy` if there are as many rules as there may be.
    pub async fn put_rule(&self, _rule: Rule) -> Result<()> {
        unreachable!("not here yet")
    }

    /// Deletes a rule. A built-in one stays deleted until a rule of its name is put.
    ///
    /// # Errors
    /// `NotFound` if there is none.
    pub async fn delete_rule(&self, _name: &str) -> Result<()> {
        unreachable!("not here yet")
    }

    /// Runs rules now, on the leader, wherever it is called, and says what that came to.
    ///
    /// A second run waits for the first. If the caller goes away, the run goes on.
    ///
    /// # Errors
    /// `Invalid` for a bad pattern or TTL, for a rule that there is not, and for one that never
    /// runs. `Unavailable` if nobody leads. `Busy` if too many runs wait. `Unknown` if the run was
    /// not over within ten minutes: it goes on.
    pub async fn run(&self, _request: RunRequest) -> Result<Report> {
        unreachable!("not here yet")
    }

    /// Runs the lazy rules, and has the store give unused space back to the machine, on the leader.
    ///
    /// # Errors
    /// As [`run`](Sweeper::run).
    pub async fn optimize_memory(&self) -> Result<OptimizeReport> {
        unreachable!("not here yet")
    }

    /// What this process has swept since it began.
    pub fn stats(&self) -> SweepStats {
        SweepStats::default()
    }
}
