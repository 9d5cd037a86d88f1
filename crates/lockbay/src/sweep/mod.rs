//! Retention: what has ended goes, by rule, and really gives its room back.
//!
//! The sweeper owns the rules and the work of the leader. Services say what they no longer need
//! ([`crate::retire`]); it commits the deletions, each under the leader's fence and guarded by the
//! record as it was judged, at a pace that leaves the store to others, and counts what really went.
//! It refuses to know what a job, a saga or a lease is. Its state is the rules, the requests for
//! runs, and how far it came through indexes that are not emptied.
//!
//! The way of a rule through the files: [`rule`] says what is meant and [`book`] keeps it; [`cycle`]
//! begins work while this instance leads, or [`request`] because somebody asked; [`work`] looks and
//! judges, [`deletion`] deletes.
//!
//! # What holds
//! Nothing of unfinished work is deleted. A leader that was deposed deletes nothing. What was
//! touched after it was judged stays. A dry run deletes nothing and counts what a run would delete.
//!
//! # What does not
//! Numbers of a batch that was on its way when leadership was lost are not in any report.

mod book;
mod cycle;
mod deletion;
mod foreign;
mod lapsed;
mod pace;
mod pattern;
mod report;
mod request;
mod rule;
mod state_keys;
mod term;
mod work;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::leader::Leadership;
use crate::metrics::{Metric, Metrics};
use crate::retire::{Errand, Retire};
use crate::scribe::Scribe;
use crate::store::{Kind, Store};

pub use pattern::MAX_PATTERN_BYTES;
pub use report::{OptimizeReport, Report, RuleReport, SweepStats};
pub use rule::{
    Expiring, MAX_BATCH, MAX_INTERVAL, MAX_RULE_TTL, MAX_RULES, MIN_INTERVAL, MIN_SAGA_TTL, Origin,
    Rule, Scope, Strategy,
};

pub(crate) use lapsed::{Grace, Lapsed};
pub(crate) use rule::Retentions;
pub(crate) use state_keys::StateKeys;

use book::Book;
use cycle::LastCycle;
use pattern::Pattern;
use report::{megabytes, percent};
use request::Wish;
use work::{Extent, Part, Wanted};

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
    /// Only what this matches as well as the rule's own pattern. What has no name stays then.
    pub pattern: Option<String>,
    /// Whether to delete.
    pub mode: Mode,
    /// In place of the rules' own. Jobs and results are kept for as long as their own records
    /// promise all the same, and ended sagas for [`MIN_SAGA_TTL`].
    pub ttl: Option<Duration>,
}

/// What others give the sweeper to do.
#[derive(Default)]
pub(crate) struct Chores {
    /// Who looks for what may go, by scope.
    pub(crate) retire: BTreeMap<Scope, Arc<dyn Retire>>,
    /// Who deletes values that are older than one of their tags.
    pub(crate) stale_state: Option<Arc<dyn Errand>>,
    /// What the leader does every second besides, with the metric that counts it.
    pub(crate) each_second: Vec<(Metric, Arc<dyn Errand>)>,
}

/// How the sweeper of an instance works.
#[derive(Debug, Clone)]
pub(crate) struct SweepSettings {
    pub(crate) retentions: Retentions,
    /// Of batch rules that have none of their own.
    pub(crate) interval: Duration,
    /// Whether keys of others may be deleted.
    pub(crate) foreign_keys: bool,
    /// Records of this kind are those that are active.
    pub(crate) active: Kind,
    pub(crate) instance_id: String,
}

/// Retention, as one instance sees it. Cheap to clone.
#[derive(Clone)]
pub struct Sweeper(Arc<Inner>);

struct Inner {
    store: Arc<dyn Store>,
    clock: Clock,
    metrics: Arc<Metrics>,
    leadership: Leadership,
    settings: SweepSettings,
    chores: Chores,
    book: Book,
    /// Fires when this instance ends.
    stop: CancellationToken,
    /// One at a time carries out immediate rules, and one the others.
    immediate: tokio::sync::Mutex<()>,
    others: tokio::sync::Mutex<()>,
    tally: Mutex<Tally>,
    last: Mutex<LastCycle>,
    /// When work last came on: a tick in nanoseconds.
    progress: AtomicU64,
}

/// What was swept by this process.
#[derive(Debug, Default)]
struct Tally {
    cycles: u64,
    scanned: u64,
    cleaned: u64,
    errors: u64,
    bytes: u64,
    last: Duration,
    active: u64,
}

impl Sweeper {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        clock: Clock,
        metrics: Arc<Metrics>,
        leadership: Leadership,
        settings: SweepSettings,
        chores: Chores,
        scribe: Scribe,
    ) -> Self {
        let book = Book::new(Arc::clone(&store), clock.clone(), scribe, &settings.retentions);
        Sweeper(Arc::new(Inner {
            store,
            clock,
            metrics,
            leadership,
            settings,
            chores,
            book,
            stop: CancellationToken::new(),
            immediate: tokio::sync::Mutex::default(),
            others: tokio::sync::Mutex::default(),
            tally: Mutex::default(),
            last: Mutex::default(),
            progress: AtomicU64::new(0),
        }))
    }

    /// Every rule, in the order in which a cycle goes through them: the built-in ones, unless they
    /// were deleted or replaced, and those that were put.
    pub async fn rules(&self) -> Result<Vec<Rule>> {
        self.0.book.rules().await
    }

    /// Puts a rule, in the place of the one of its name if there is one. The leader goes by it from
    /// its next cycle on. Said twice, it is the same.
    ///
    /// # Errors
    /// `Invalid` for what cannot be meant. `Busy` if there are as many rules as there may be.
    pub async fn put_rule(&self, rule: Rule) -> Result<()> {
        self.0.book.put(rule).await
    }

    /// Deletes a rule. A built-in one stays deleted until a rule of its name is put.
    ///
    /// # Errors
    /// `NotFound` if there is none.
    pub async fn delete_rule(&self, name: &str) -> Result<()> {
        self.0.book.delete(name).await
    }

    /// Runs rules now, on the leader, wherever it is called, and says what that came to.
    ///
    /// A second run waits for the first. If the caller goes away, the run goes on.
    ///
    /// # Errors
    /// `Invalid` for a bad pattern or TTL, and for a rule that there is not. `Refused` for a rule
    /// that never runs. `Unavailable` if nobody leads, or if the run still waited for others after
    /// ten minutes; then it is withdrawn. `Busy` if too many runs wait. `Unknown` if it was begun and
    /// is not over by then, or this instance shuts down: it goes on.
    pub async fn run(&self, request: RunRequest) -> Result<Report> {
        self.check(&request).await?;
        self.carry_out(Wish::Run(request)).await?.into_report()
    }

    /// Runs the lazy rules, and has the store give unused space back to the machine, on the leader.
    ///
    /// # Errors
    /// As [`run`](Sweeper::run).
    pub async fn optimize_memory(&self) -> Result<OptimizeReport> {
        self.carry_out(Wish::Optimize).await?.into_optimized()
    }

    /// What this process has swept since it began.
    pub fn stats(&self) -> SweepStats {
        let tally = self.0.tally.lock();
        SweepStats {
            cleanup_cycles: tally.cycles,
            total_keys_cleaned: tally.cleaned,
            total_errors: tally.errors,
            last_cleanup_time_ms: tally.last.as_secs_f64() * 1e3,
            memory_freed_total_mb: megabytes(tally.bytes),
            cleanup_efficiency: percent(tally.cleaned, tally.scanned),
            active_keys_count: tally.active,
        }
    }

    /// The part of what this process has looked at that was cleaned, 0 to 1; none before it looked at
    /// anything.
    pub fn efficiency(&self) -> Option<f64> {
        let tally = self.0.tally.lock();
        (tally.scanned > 0).then(|| percent(tally.cleaned, tally.scanned) / 100.0)
    }

    /// Begins nothing more, and lets go of what is in progress.
    pub(crate) fn stop(&self) {
        self.0.stop.cancel();
    }

    /// Refuses a run that cannot be meant.
    async fn check(&self, request: &RunRequest) -> Result<()> {
        if let Some(pattern) = &request.pattern {
            pattern::check(pattern)?;
        }
        if let Some(ttl) = request.ttl {
            rule::check_ttl(ttl)?;
        }
        let Some(name) = &request.rule else { return Ok(()) };
        let rules = self.rules().await?;
        match rules.iter().find(|rule| rule.name == *name) {
            None => {
                let names: Vec<&str> = rules.iter().map(|rule| rule.name.as_str()).collect();
                let names = names.join(", ");
                Err(Error::invalid(format!("there is no rule {name:?}; there are {names}")))
            }
            Some(rule) if rule.strategy == Strategy::Never => {
                let message = format!("rule {name:?} has the strategy never, and is not run");
                Err(Error::new(ErrorKind::Refused, message))
            }
            Some(_) => Ok(()),
        }
    }
}

impl RunRequest {
    fn wanted(&self) -> Result<Wanted> {
        let pattern = self.pattern.as_deref().map(Pattern::new).transpose()?;
        let (mode, ttl) = (self.mode, self.ttl);
        let named = self.rule.is_some();
        Ok(Wanted { mode, pattern, ttl, extent: Extent::All, part: Part::All, named })
    }

    /// Whether a run of all rules, or of a named one, carries out this one.
    fn means(&self, rule: &Rule) -> bool {
        let named = self.rule.as_ref().is_none_or(|name| *name == rule.name);
        named && rule.strategy != Strategy::Never
    }
}
