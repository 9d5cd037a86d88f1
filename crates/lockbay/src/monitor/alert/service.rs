//! Alerts, as one instance sees them: their states, their rules, and whether somebody judges them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::Semaphore;

use super::backtest::{self, Backtest};
use super::decide::{Phase, Reason};
use super::evaluator::{Audience, Source};
use super::record::{self, Book, no_such_rule};
use super::round::Kept;
use super::rule::{Operator, Rule};
use super::{Severity, builtin};
use crate::clock::{Clock, Tick, Timestamp};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Bus;
use crate::leader::Leadership;
use crate::metrics::{Metric, Metrics};
use crate::scribe::Scribe;
use crate::store::Store;

/// So many intervals without a judgement are an issue of health.
const STANDS_STILL: u32 = 6;

/// An alert as it is shown.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Alert {
    /// Its rule.
    pub rule: String,
    /// How bad it is.
    pub severity: Severity,
    /// Where it is.
    pub state: Phase,
    /// Since when, by the store's clock; `None` if it has rested ever since.
    pub since: Option<Timestamp>,
    /// The number of the last firing; zero before the first.
    pub episode: u64,
    /// The value that was judged last.
    pub value: Option<f64>,
    /// How the value is held against the threshold.
    pub operator: Operator,
    /// The threshold.
    pub threshold: f64,
    /// Why it is not where its condition alone would have it.
    pub reason: Option<Reason>,
    /// In words.
    pub summary: String,
    /// When it was judged last. The leader knows it to the second; others, as it is stored.
    pub evaluated_at: Option<Timestamp>,
    /// When the last firing began.
    pub fired_at: Option<Timestamp>,
    /// When the last firing was over.
    pub resolved_at: Option<Timestamp>,
    /// Words about it.
    pub labels: BTreeMap<String, String>,
    /// Where to read what to do.
    pub runbook: Option<String>,
}

/// Alerts, as one instance sees them. Cheap to clone.
#[derive(Clone)]
pub struct Alerts(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Clock,
    pub(super) metrics: Arc<Metrics>,
    pub(super) bus: Bus,
    pub(super) leadership: Leadership,
    pub(super) scribe: Scribe,
    pub(super) book: Book,
    pub(super) source: Arc<dyn Source>,
    pub(super) audience: Arc<dyn Audience>,
    pub(super) interval: Duration,
    desk: Mutex<Desk>,
    /// For the one back-test at a time.
    bench: Semaphore,
}

/// What the evaluation of this instance came to, while it leads.
#[derive(Default)]
struct Desk {
    began: Option<Tick>,
    judged: Option<Tick>,
    kept: Option<BTreeMap<String, Kept>>,
}

/// What alerts stand on.
pub(crate) struct Footing {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Clock,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) bus: Bus,
    pub(crate) leadership: Leadership,
    pub(crate) scribe: Scribe,
}

impl Alerts {
    pub(crate) fn new(
        footing: Footing,
        source: Arc<dyn Source>,
        audience: Arc<dyn Audience>,
        interval: Duration,
    ) -> Self {
        let Footing { store, clock, metrics, bus, leadership, scribe } = footing;
        let book = Book::new(Arc::clone(&store), scribe.clone(), builtin::rules());
        let desk = Mutex::default();
        Alerts(Arc::new(Inner {
            store,
            clock,
            metrics,
            bus,
            leadership,
            scribe,
            book,
            source,
            audience,
            interval,
            desk,
            bench: Semaphore::new(1),
        }))
    }

    /// The alert of every rule, by name; only those in this state, if one is given. On the leader it
    /// is as of the last evaluation; elsewhere as it is stored, which lacks the values of alerts
    /// that rest and may lack the latest of those that fire.
    pub async fn list(&self, state: Option<Phase>) -> Result<Vec<Alert>> {
        let (rules, _) = self.0.book.rules().await?;
        let known = self.0.desk.lock().kept.clone();
        let known = match known {
            Some(known) => known,
            None => {
                let states = record::states(&*self.0.store).await?.into_iter();
                states.map(|(name, (kept, _))| (name, kept)).collect()
            }
        };
        let mut alerts: Vec<Alert> =
            rules.iter().map(|rule| Alert::of(rule, known.get(&rule.name))).collect();
        alerts.retain(|alert| state.is_none_or(|state| alert.state == state));
        Ok(alerts)
    }

    /// Every rule, by name: the built-in ones, unless they were deleted or replaced, and those that
    /// were put.
    pub async fn rules(&self) -> Result<Vec<Rule>> {
        Ok(self.0.book.rules().await?.0)
    }

    /// The rule of this name.
    ///
    /// # Errors
    /// `NotFound` if there is none.
    pub async fn rule(&self, name: &str) -> Result<Rule> {
        let found = self.rules().await?.into_iter().find(|rule| rule.name == name);
        found.ok_or_else(|| no_such_rule(name))
    }

    /// Puts a rule, in the place of the one of its name if there is one. The leader judges it from
    /// its next evaluation on; an alert that fires goes on if the new condition holds, and else
    /// resolves. Said twice, it is the same.
    ///
    /// # Errors
    /// `Invalid` for what cannot be meant. `Busy` if there are as many rules as there may be.
    pub async fn put_rule(&self, rule: Rule) -> Result<Rule> {
        self.0.book.put(rule).await
    }

    /// Deletes a rule. An alert that fires resolves, and whoever was told of it is told so. A
    /// built-in rule stays deleted until one of its name is put.
    ///
    /// # Errors
    /// `NotFound` if there is none.
    pub async fn delete_rule(&self, name: &str) -> Result<()> {
        self.0.book.delete(name).await
    }

    /// How often and when a rule would have fired over the last minutes, as far as history goes.
    /// Nothing is stored, and nobody is told.
    ///
    /// # Errors
    /// `Invalid` for a rule that cannot be meant and for more minutes than history has; `Busy` while
    /// this instance tests another.
    pub async fn test(&self, rule: Rule, minutes: u32) -> Result<Backtest> {
        rule.check()?;
        let _alone = self.0.bench.try_acquire().map_err(|_| {
            Error::new(ErrorKind::Busy, "a rule is tested already; one is at a time, try again")
        })?;
        let now = self.0.store.ping().await?.now;
        backtest::run(rule, &*self.0.source, now, minutes, self.0.interval).await
    }

    /// What is wrong with the evaluation on this instance, if it leads.
    pub(crate) fn examine(&self) -> Vec<String> {
        let desk = self.0.desk.lock();
        let Some(last) = desk.judged.or(desk.began) else { return Vec::new() };
        let still = self.0.clock.tick().since(last);
        if still < self.0.interval * STANDS_STILL {
            return Vec::new();
        }
        vec![format!(
            "alerts: none was judged for {} s; see the log of this instance",
            still.as_secs()
        )]
    }

    /// This instance leads from now on.
    pub(super) fn begin(&self) {
        *self.0.desk.lock() = Desk { began: Some(self.0.clock.tick()), ..Desk::default() };
    }

    /// This instance does not lead.
    pub(super) fn rest(&self) {
        *self.0.desk.lock() = Desk::default();
        self.0.metrics.set(Metric::AlertsFiring, 0);
    }

    pub(super) fn judged(&self, kept: &BTreeMap<String, Kept>) {
        let mut desk = self.0.desk.lock();
        desk.judged = Some(self.0.clock.tick());
        desk.kept = Some(kept.clone());
    }
}

impl Alert {
    fn of(rule: &Rule, known: Option<&Kept>) -> Self {
        let standing = known.map(|kept| &kept.standing);
        let value = standing.and_then(|standing| standing.value);
        Alert {
            rule: rule.name.clone(),
            severity: rule.severity,
            state: standing.map_or(Phase::Inactive, |standing| standing.phase),
            since: standing.map(|standing| standing.since),
            episode: standing.map_or(0, |standing| standing.episode),
            value,
            operator: rule.operator,
            threshold: rule.threshold,
            reason: standing.and_then(|standing| standing.reason.clone()),
            summary: known.map_or_else(|| rule.summary(None), |kept| kept.summary.clone()),
            evaluated_at: standing.map(|standing| standing.evaluated_at),
            fired_at: standing.and_then(|standing| standing.fired_at),
            resolved_at: standing.and_then(|standing| standing.resolved_at),
            labels: rule.labels.clone(),
            runbook: rule.runbook.clone(),
        }
    }
}
