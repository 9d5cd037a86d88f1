//! What is to be told now: a pure function of what fires, what was told, and what is kept quiet.
//!
//! The book remembers of which alerts it was told that they fire. What fires and stands not in the
//! book is to be told, unless something holds it back; what stands in the book and fires no longer
//! is over, and that is to be told. Moves add what came and went in between, and the exact moments
//! and values. So whatever happens to the evaluator, what is told comes to what fires, each firing
//! once and each end once, an end only behind its firing.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::inhibit::inhibitor;
use super::notice::{Alert, MAX_ALERTS, Status};
use super::silence::{Silence, SilenceState};
use crate::clock::{Timestamp, micros};
use crate::monitor::alert::{Firing, Severity, Transition, Turn};

/// The label that says what an alert is told together with.
const GROUP: &str = "group";
/// The label that says where to read what to do.
const RUNBOOK: &str = "runbook";

/// What was told, what is held back, and what waits for company.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct Book {
    /// The place of the last notice; it only grows.
    pub(super) order: u64,
    /// By rule: a firing that was told, or waits in a group to be told, and whose end was not.
    told: BTreeMap<String, Told>,
    /// By rule: what fires and is not told.
    pub(super) held: BTreeMap<String, Held>,
    /// By group.
    waiting: BTreeMap<String, Waiting>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Told {
    episode: u64,
    since: Timestamp,
    severity: Severity,
    group: String,
    labels: BTreeMap<String, String>,
}

/// An alert that fires and is not told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Which firing of the rule.
    pub(super) episode: u64,
    /// What holds it back.
    pub why: Why,
}

/// What holds an alert back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// It is less severe than what is told here.
    Severity,
    /// A silence or a maintenance window, by its id.
    Silence(String),
    /// It follows from an alert of this rule, which fires too.
    Inhibited(String),
}

/// Moves of a group that wait for others of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Waiting {
    since: Timestamp,
    alerts: Vec<Alert>,
}

/// What the plan goes by.
pub(super) struct Policy<'a> {
    pub(super) silences: &'a [Silence],
    /// What is less severe is not told.
    pub(super) least: Severity,
    /// How long the first move of a group waits for others.
    pub(super) group_wait: Duration,
}

/// What comes of it.
#[derive(Debug, PartialEq)]
pub(super) struct Plan {
    /// The book as it is then.
    pub(super) book: Book,
    /// What is to be told, in order.
    pub(super) drafts: Vec<Draft>,
}

/// A notice without its identity.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Draft {
    /// Its place among all notices.
    pub(super) order: u64,
    pub(super) group: String,
    pub(super) alerts: Vec<Alert>,
}

/// The whole decision. `firing` is everything that fires after the moves.
pub(super) fn plan(
    book: &Book,
    moves: &[Transition],
    firing: &[Firing],
    policy: &Policy<'_>,
    at: Timestamp,
) -> Plan {
    let mut planner = Planner { book: book.clone(), drafts: Vec::new(), firing, policy, at };
    for step in moves {
        planner.follow(step);
    }
    planner.reconcile();
    planner.release_due();
    Plan { book: planner.book, drafts: planner.drafts }
}

struct Planner<'a> {
    book: Book,
    drafts: Vec<Draft>,
    firing: &'a [Firing],
    policy: &'a Policy<'a>,
    at: Timestamp,
}

impl Planner<'_> {
    fn follow(&mut self, step: &Transition) {
        match step.turn {
            Turn::Fired => {
                let fires =
                    |alert: &&Firing| alert.rule == step.rule && alert.episode == step.episode;
                let alert = self.firing.iter().find(fires).cloned().map(|alert| Firing {
                    value: step.value,
                    summary: step.summary.clone(),
                    ..alert
                });
                // It may be over already.
                self.fired(&alert.unwrap_or_else(|| began(step)));
            }
            Turn::Resolved => {
                self.book.held.remove(&step.rule);
                let told = self.book.told.get(&step.rule);
                if told.is_some_and(|told| told.episode == step.episode) {
                    self.over(&step.rule, step.at, step.value, &step.summary);
                }
            }
        }
    }

    /// Brings the book to what fires.
    fn reconcile(&mut self) {
        let firing = self.firing;
        let fires = |rule: &str, episode: u64| {
            firing.iter().any(|alert| alert.rule == rule && alert.episode == episode)
        };
        let over: Vec<String> = self
            .book
            .told
            .iter()
            .filter(|(rule, told)| !fires(rule, told.episode))
            .map(|(rule, _)| rule.clone())
            .collect();
        for rule in over {
            self.over(&rule, self.at, None, "it fires no longer");
        }
        self.book.held.retain(|rule, held| fires(rule, held.episode));
        for alert in firing {
            self.fired(alert);
        }
    }

    /// Tells that an alert fires, once, unless something holds it back.
    fn fired(&mut self, alert: &Firing) {
        if let Some(told) = self.book.told.get(&alert.rule) {
            if told.episode == alert.episode {
                return;
            }
            // The end of the one before was missed.
            self.over(&alert.rule, self.at, None, "it fires no longer");
        }
        let group = group_of(alert);
        if let Some(why) = self.held_back(alert, &group) {
            let held = Held { episode: alert.episode, why };
            self.book.held.insert(alert.rule.clone(), held);
            return;
        }
        self.book.held.remove(&alert.rule);
        let told = Told {
            episode: alert.episode,
            since: alert.since,
            severity: alert.severity,
            group: group.clone(),
            labels: alert.labels.clone(),
        };
        let words = (alert.value, alert.summary.as_str());
        let alert = entry(&alert.rule, &told, Status::Firing, None, words);
        self.book.told.insert(alert.rule.clone(), told);
        self.join(group, alert);
    }

    fn over(&mut self, rule: &str, until: Timestamp, value: Option<f64>, summary: &str) {
        let Some(told) = self.book.told.remove(rule) else { return };
        let alert = entry(rule, &told, Status::Resolved, Some(until), (value, summary));
        self.join(told.group, alert);
    }

    fn held_back(&self, alert: &Firing, group: &str) -> Option<Why> {
        if alert.severity < self.policy.least {
            return Some(Why::Severity);
        }
        if let Some(silence) = self.silenced(alert) {
            return Some(Why::Silence(silence.id.clone()));
        }
        // What nobody is told of is no reason to tell of nothing else.
        let told = self.firing.iter().filter(|cause| self.silenced(cause).is_none());
        inhibitor(alert, group, told).map(|rule| Why::Inhibited(rule.to_owned()))
    }

    fn silenced(&self, alert: &Firing) -> Option<&Silence> {
        let quiet = |silence: &&Silence| {
            silence.covers(alert) && silence.state(self.at) == SilenceState::Active
        };
        self.policy.silences.iter().find(quiet)
    }

    /// Lets a move wait for others of its group.
    fn join(&mut self, group: String, alert: Alert) {
        if let Some(waiting) = self.book.waiting.get(&group) {
            let has_rule = waiting.alerts.iter().any(|other| other.rule == alert.rule);
            if has_rule || waiting.alerts.len() >= MAX_ALERTS {
                self.release(&group);
            }
        }
        let waiting = self.book.waiting.entry(group);
        let fresh = || Waiting { since: self.at, alerts: Vec::new() };
        waiting.or_insert_with(fresh).alerts.push(alert);
    }

    /// Lets those go that have waited long enough, and what is critical at once.
    fn release_due(&mut self) {
        let (at, wait) = (self.at, self.policy.group_wait);
        let is_due = |waiting: &Waiting| {
            let urgent = |alert: &Alert| {
                alert.severity == Severity::Critical && alert.state == Status::Firing
            };
            let set_back = waiting.since > at; // a clock was; nothing waits longer for that
            set_back || at.since(waiting.since) >= wait || waiting.alerts.iter().any(urgent)
        };
        let due = self.book.waiting.iter().filter(|(_, waiting)| is_due(waiting));
        let due: Vec<String> = due.map(|(group, _)| group.clone()).collect();
        for group in due {
            self.release(&group);
        }
    }

    /// Makes notices of what waits in a group: one of what fires, one of what is over.
    fn release(&mut self, group: &str) {
        let Some(waiting) = self.book.waiting.remove(group) else { return };
        let (firing, over): (Vec<_>, Vec<_>) =
            waiting.alerts.into_iter().partition(|alert| alert.state == Status::Firing);
        for alerts in [firing, over].into_iter().filter(|alerts| !alerts.is_empty()) {
            self.book.order = self.book.order.saturating_add(1).max(micros_of(self.at));
            let (order, group) = (self.book.order, group.to_owned());
            self.drafts.push(Draft { order, group, alerts });
        }
    }
}

/// What an alert is told together with: its label, or nothing but itself.
pub(super) fn group_of(alert: &Firing) -> String {
    alert.labels.get(GROUP).unwrap_or(&alert.rule).clone()
}

fn entry(
    rule: &str,
    told: &Told,
    state: Status,
    until: Option<Timestamp>,
    (value, summary): (Option<f64>, &str),
) -> Alert {
    let mut labels = told.labels.clone();
    let runbook = labels.remove(RUNBOOK);
    let alert = Alert {
        rule: rule.to_owned(),
        severity: told.severity,
        state,
        episode: told.episode,
        value,
        summary: summary.to_owned(),
        since: told.since,
        until,
        runbook,
        labels,
    };
    alert.fit()
}

/// A firing as its move tells of it.
fn began(step: &Transition) -> Firing {
    Firing {
        rule: step.rule.clone(),
        severity: step.severity,
        labels: BTreeMap::new(),
        since: step.at,
        episode: step.episode,
        value: step.value,
        summary: step.summary.clone(),
    }
}

fn micros_of(at: Timestamp) -> u64 {
    micros(at.since(Timestamp::default()))
}

#[cfg(test)]
mod model;
