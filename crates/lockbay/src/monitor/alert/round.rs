//! One evaluation of all rules, as a pure function: what the states become, and what is told.
//!
//! The evaluator, back-tests and test files go the same rounds. It refuses to know where states are
//! kept and who is told.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::decide::{Phase, Reason, Standing, Terms, decide, end};
use super::judge::{Tracks, judge};
use super::rule::Rule;
use super::{Firing, Severity, Transition, Turn};
use crate::clock::Timestamp;

/// What is kept of an alert from one round to the next.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// Its state.
    #[serde(flatten)]
    pub standing: Standing,
    /// Its severity when it was judged last.
    pub severity: Severity,
    /// In words, when it was judged last.
    pub summary: String,
    /// What was judged. A pending alert of another condition begins anew.
    condition: String,
}

/// What a round came to.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Round {
    /// Every alert that there is now.
    pub kept: BTreeMap<String, Kept>,
    /// What somebody may be told of.
    pub moves: Vec<Transition>,
    /// What fires now.
    pub firing: Vec<Firing>,
}

/// Judges all rules at a moment.
pub fn go_round(
    rules: &[Rule],
    before: &BTreeMap<String, Kept>,
    tracks: &dyn Tracks,
    at: Timestamp,
    interval: Duration,
) -> Round {
    let mut round = Round::default();
    for rule in rules {
        let known = before.get(&rule.name);
        let standing = standing(known, rule, at);
        let (standing, turn) = match rule.enabled {
            true => {
                let seen = judge(rule, tracks, at);
                decide(&standing, &Terms::of(rule, interval), &seen, at)
            }
            false => end(&standing, at, Some(Reason::Disabled)),
        };
        let summary = match (rule.enabled, known) {
            (true, _) => rule.summary(standing.value),
            (false, _) => format!("the rule {} is disabled", rule.name),
        };
        let (severity, condition) = (rule.severity, rule.condition());
        let kept = Kept { standing, severity, summary, condition };
        round.add(&rule.name, kept, turn, &rule.labels_with_runbook(), at);
    }
    for (name, kept) in before.iter().filter(|(name, _)| !rules.iter().any(|r| r.name == **name)) {
        let (standing, turn) = end(&kept.standing, at, None);
        if turn.is_some() {
            let summary = format!("the rule {name} was deleted");
            round.tell(name, &Kept { standing, summary, ..kept.clone() }, turn, at);
        }
    }
    round
}

/// The state before, once it is known that the same is judged as then.
fn standing(known: Option<&Kept>, rule: &Rule, at: Timestamp) -> Standing {
    let Some(known) = known else { return Standing { since: at, ..Standing::default() } };
    let mut standing = known.standing.clone();
    if standing.phase == Phase::Pending && known.condition != rule.condition() {
        standing.phase = Phase::Inactive;
        standing.counted = Duration::ZERO;
    }
    standing
}

impl Round {
    fn add(
        &mut self,
        name: &str,
        kept: Kept,
        turn: Option<Turn>,
        labels: &BTreeMap<String, String>,
        at: Timestamp,
    ) {
        self.tell(name, &kept, turn, at);
        if kept.standing.phase.fires() {
            self.firing.push(Firing {
                rule: name.to_owned(),
                severity: kept.severity,
                labels: labels.clone(),
                since: kept.standing.fired_at.unwrap_or(kept.standing.since),
                episode: kept.standing.episode,
                value: kept.standing.value,
                summary: kept.summary.clone(),
            });
        }
        self.kept.insert(name.to_owned(), kept);
    }

    fn tell(&mut self, name: &str, kept: &Kept, turn: Option<Turn>, at: Timestamp) {
        let Some(turn) = turn else { return };
        let standing = &kept.standing;
        self.moves.push(Transition {
            rule: name.to_owned(),
            severity: kept.severity,
            turn,
            episode: standing.episode,
            at,
            value: standing.value,
            summary: kept.summary.clone(),
        });
    }
}

impl Kept {
    /// In the place of a state that cannot be read: at rest.
    pub(super) fn unknown() -> Self {
        Kept {
            standing: Standing::default(),
            severity: Severity::Info,
            summary: String::new(),
            condition: String::new(),
        }
    }

    /// Whether a state that is stored as `stored` has to be written, because a next leader would
    /// go on otherwise than this one, or because readers would be misled.
    pub fn must_be_written(&self, stored: Option<&Kept>, refresh: Duration) -> bool {
        let Some(stored) = stored else { return self.standing.phase != Phase::Inactive };
        let (now, then) = (&self.standing, &stored.standing);
        let aged = now.evaluated_at.since(then.evaluated_at) >= refresh;
        now.phase.counts()
            || now.phase != then.phase
            || now.episode != then.episode
            || now.reason != then.reason
            || self.severity != stored.severity
            || (now.phase == Phase::Firing && aged && self.summary != stored.summary)
    }
}

impl Rule {
    fn labels_with_runbook(&self) -> BTreeMap<String, String> {
        let mut labels = self.labels.clone();
        if let Some(runbook) = &self.runbook {
            labels.entry("runbook".into()).or_insert_with(|| runbook.clone());
        }
        labels
    }
}
