//! The work of the leader: what is done every second, and at intervals, while this instance leads.
//!
//! Five loops run side by side, so that none waits for a long pass of another: errands of other
//! services, immediate rules where an index tells what is due and where it has to be looked for,
//! batch rules, and runs that somebody asked for.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::report::{Report, RuleReport};
use super::rule::{Rule, Strategy};
use super::term::{Lost, Term};
use super::work::{Extent, Part, Wanted, Work};
use super::{Mode, Sweeper};
use crate::clock::Tick;
use crate::metrics::Metric;
use crate::retire::Errand;
use crate::store::Partition;

/// How often loops look whether there is something to do.
const TICK: Duration = Duration::from_secs(1);
/// Immediate rules that have to look for what is due rest this many times as long as that took, so
/// that looking takes a hundredth of the time at most.
const REST: u32 = 100;
/// How many records an errand does in one go.
const BUDGET: usize = 200;
/// How often in a row an errand that has more to do is asked again before the next tick.
const ROUNDS: usize = 1_000;

/// How cycles went lately, for health.
#[derive(Debug, Clone, Default)]
pub(super) struct LastCycle {
    /// When this leadership was first seen, while it lasts.
    leads_since: Option<Tick>,
    /// When a cycle last came to its end under it, or had nothing to do.
    finished: Option<Tick>,
    /// What went wrong in the last pass of each rule.
    errors: BTreeMap<String, String>,
    /// Whether the rules could not be read.
    without_rules: bool,
}

impl Sweeper {
    /// Works while this instance leads, until it ends.
    pub(crate) async fn watch(self) {
        let mut edges = self.0.leadership.subscribe();
        while !self.0.stop.is_cancelled() {
            let Some(term) = self.term() else {
                // An edge wakes it; should one be missed, it looks again all the same.
                let woken = self.0.clock.timeout(TICK, edges.next());
                self.0.stop.run_until_cancelled(woken).await;
                continue;
            };
            *self.0.last.lock() =
                LastCycle { leads_since: Some(self.0.clock.tick()), ..LastCycle::default() };
            // Each ends when the right is lost.
            let _each_lost = tokio::join!(
                self.errands(&term),
                self.immediate_rules(&term),
                self.immediate_looks(&term),
                self.batch_rules(&term),
                self.serve(&term),
            );
            *self.0.last.lock() = LastCycle::default();
        }
    }

    /// The right to work, while this instance leads.
    pub(super) fn term(&self) -> Option<Term> {
        let right = self.0.leadership.right()?;
        Some(Term {
            fence: right.fence().clone(),
            lost: right.lost().clone(),
            stop: self.0.stop.clone(),
            clock: self.0.clock.clone(),
        })
    }

    /// What other services do every second on the leader, side by side.
    async fn errands(&self, term: &Term) -> Result<(), Lost> {
        let errands = self.0.chores.each_second.iter();
        let each = errands.map(|(metric, errand)| self.errand(*metric, &**errand, term));
        futures_util::future::try_join_all(each).await.map(drop)
    }

    async fn errand(&self, metric: Metric, errand: &dyn Errand, term: &Term) -> Result<(), Lost> {
        loop {
            for _ in 0..ROUNDS {
                let began = self.0.clock.tick();
                match term.alive(errand.work(&term.fence, BUDGET)).await? {
                    Ok(worked) => {
                        self.0.metrics.add(metric, worked.cleaned);
                        term.sleep(self.0.clock.tick().since(began).min(TICK)).await?;
                        if !worked.more {
                            break;
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, "an errand of the leader was not done");
                        break;
                    }
                }
            }
            term.sleep(TICK).await?;
        }
    }

    async fn immediate_rules(&self, term: &Term) -> Result<(), Lost> {
        loop {
            let next = self.0.clock.tick() + TICK;
            if let Some(rules) = self.rules_of(Strategy::Immediate, term).await?
                && !rules.is_empty()
            {
                self.go_through(&rules, &usual(Part::Indexed), term).await.1?;
            }
            term.sleep(next.since(self.0.clock.tick())).await?;
        }
    }

    /// What immediate rules have to look for, at the rule's interval if it has one, else as often as
    /// that is cheap.
    async fn immediate_looks(&self, term: &Term) -> Result<(), Lost> {
        let mut next: HashMap<String, Tick> = HashMap::new();
        loop {
            for rule in self.rules_of(Strategy::Immediate, term).await?.unwrap_or_default() {
                let began = self.0.clock.tick();
                if next.get(&rule.name).is_some_and(|next| began < *next) {
                    continue;
                }
                let _turn = term.alive(self.0.others.lock()).await?;
                let began = self.0.clock.tick();
                let looked_through = usual(Part::LookedThrough);
                self.go_through(std::slice::from_ref(&rule), &looked_through, term).await.1?;
                let took = self.0.clock.tick().since(began);
                let cheap = (took * REST).clamp(TICK, self.0.settings.interval.max(TICK));
                let pause = rule.interval.unwrap_or(cheap);
                next.insert(rule.name, began + pause);
            }
            term.sleep(TICK).await?;
        }
    }

    async fn batch_rules(&self, term: &Term) -> Result<(), Lost> {
        let mut begun: HashMap<String, Tick> = HashMap::new();
        let mut count_at = self.0.clock.tick();
        loop {
            let now = self.0.clock.tick();
            let next = now + TICK;
            let Some(mut rules) = self.rules_of(Strategy::Batch, term).await? else {
                self.0.last.lock().without_rules = true;
                term.sleep(TICK).await?;
                continue;
            };
            self.0.last.lock().without_rules = false;
            rules.retain(|rule| {
                let interval = rule.interval.unwrap_or(self.0.settings.interval);
                begun.get(&rule.name).is_none_or(|begun| now.since(*begun) >= interval)
            });
            if rules.is_empty() {
                // Nothing to do is done in time, too.
                self.0.last.lock().finished = Some(now);
            } else {
                begun.extend(rules.iter().map(|rule| (rule.name.clone(), now)));
                let _turn = term.alive(self.0.others.lock()).await?;
                let (report, ended) = self.go_through(&rules, &usual(Part::All), term).await;
                ended?;
                self.finished(&report);
                if self.0.clock.tick() >= count_at {
                    count_at = self.0.clock.tick() + self.0.settings.interval;
                    self.count_active(term).await?;
                }
            }
            term.sleep(next.since(self.0.clock.tick())).await?;
        }
    }

    /// The rules of a strategy; nothing if they cannot be read now.
    async fn rules_of(&self, strategy: Strategy, term: &Term) -> Result<Option<Vec<Rule>>, Lost> {
        match term.alive(self.0.book.recent_rules()).await? {
            Ok(mut rules) => {
                rules.retain(|rule| rule.strategy == strategy);
                Ok(Some(rules))
            }
            Err(error) => {
                tracing::warn!(%error, "the rules of cleanup could not be read");
                Ok(None)
            }
        }
    }

    /// Carries out rules one after another, and counts what that came to.
    pub(super) async fn go_through(
        &self,
        rules: &[Rule],
        wanted: &Wanted,
        term: &Term,
    ) -> (Report, Result<(), Lost>) {
        let inner = &self.0;
        let began = inner.clock.tick();
        let work = Work {
            store: &inner.store,
            book: &inner.book,
            chores: &inner.chores,
            foreign_keys: inner.settings.foreign_keys,
            term,
            wanted: wanted.clone(),
            // What is done beside cycles all the time says nothing of them.
            progress: match wanted.part {
                Part::Indexed => None,
                Part::All | Part::LookedThrough => Some(&inner.progress),
            },
        };
        let (mut reports, mut ended) = (Vec::new(), Ok(()));
        for rule in rules {
            let mut report = RuleReport::of(&rule.name);
            // Immediate rules are carried out all the time: not by two at once.
            let turn = match (rule.strategy, wanted.mode, wanted.part) {
                (Strategy::Immediate, Mode::Delete, Part::All | Part::Indexed) => {
                    Some(term.alive(inner.immediate.lock()).await)
                }
                (
                    Strategy::Immediate | Strategy::Batch | Strategy::Lazy | Strategy::Never,
                    Mode::Delete | Mode::DryRun,
                    Part::All | Part::Indexed | Part::LookedThrough,
                ) => None,
            };
            ended = match turn {
                Some(Err(Lost)) => Err(Lost),
                Some(Ok(_)) | None => work.rule(rule, &mut report).await,
            };
            drop(turn);
            self.note_errors(&report);
            reports.push(report);
            if ended.is_err() {
                break;
            }
        }
        let mut report = Report::of(reports, inner.clock.tick().since(began));
        report.dry_run = wanted.mode == Mode::DryRun;
        self.count(&report);
        (report, ended)
    }

    fn count(&self, report: &Report) {
        let (metrics, mut tally) = (&self.0.metrics, self.0.tally.lock());
        tally.errors += report.total_errors;
        metrics.add(Metric::CleanupErrors, report.total_errors);
        for rule in report.rules.iter().filter(|rule| rule.errors > 0) {
            let errors = rule.errors;
            tracing::warn!(rule = rule.rule, errors, messages = ?rule.messages, "cleanup errors");
        }
        if report.dry_run {
            return;
        }
        tally.scanned += report.total_scanned;
        tally.cleaned += report.total_cleaned;
        tally.bytes += report.bytes_freed;
        metrics.add(Metric::CleanupKeysCleaned, report.total_cleaned);
        metrics.add(Metric::CleanupBytesFreed, report.bytes_freed);
    }

    fn finished(&self, report: &Report) {
        let took = Duration::from_secs_f64(report.cleanup_time_ms / 1e3);
        self.0.metrics.count(Metric::CleanupCycles);
        self.0.metrics.observe(Metric::CleanupSeconds, took);
        {
            let mut tally = self.0.tally.lock();
            tally.cycles += 1;
            tally.last = took;
        }
        self.0.last.lock().finished = Some(self.0.clock.tick());
    }

    /// Keeps what went wrong with a rule until its next pass.
    fn note_errors(&self, report: &RuleReport) {
        let mut last = self.0.last.lock();
        match report.messages.first() {
            Some(why) => {
                let errors = report.errors;
                let told = format!("rule {}: {errors} errors, such as: {why}", report.rule);
                last.errors.insert(report.rule.clone(), told);
            }
            None => drop(last.errors.remove(&report.rule)),
        }
    }

    async fn count_active(&self, term: &Term) -> Result<(), Lost> {
        let counted = self.0.store.upkeep().count(Partition::FIRST, self.0.settings.active);
        if let Ok(active) = term.alive(counted).await? {
            self.0.tally.lock().active = active;
        }
        Ok(())
    }

    /// Whether cleanup stands still, as far as this instance does it: what is wrong with it then,
    /// and what else a person should know.
    pub(crate) fn examine(&self) -> (Vec<String>, Vec<String>) {
        let last = self.0.last.lock().clone();
        let Some(since) = last.leads_since else { return (Vec::new(), Vec::new()) };
        let moved = last.finished.unwrap_or(since).max(self.progressed());
        let idle = self.0.clock.tick().since(moved);
        let (mut issues, mut warnings) = (Vec::new(), Vec::new());
        if idle > self.0.settings.interval * 3 {
            issues.push(format!("cleanup: it has not come on for {} s", idle.as_secs()));
        }
        if last.without_rules {
            warnings.push("cleanup: the rules could not be read".into());
        }
        warnings.extend(last.errors.into_values().map(|error| format!("cleanup: {error}")));
        (issues, warnings)
    }

    /// When work under the leader's right last came on.
    fn progressed(&self) -> Tick {
        Tick::from_nanos(self.0.progress.load(Ordering::Relaxed))
    }
}

/// What cycles ask of the rules.
fn usual(part: Part) -> Wanted {
    Wanted { mode: Mode::Delete, pattern: None, ttl: None, extent: Extent::New, part, named: false }
}
