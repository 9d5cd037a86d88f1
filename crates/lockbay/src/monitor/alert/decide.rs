//! The whole state machine of an alert, as a pure function.
//!
//! An evaluation is what was seen at a moment. From it and the state before follow the state after
//! and what is told, and nothing else: no clock, no store and no chance is known here.
//!
//! Times are counted, not subtracted: `for` and `keep_firing_for` sum up the time between one
//! evaluation and the next while both saw the same, two intervals for each at most. A pause longer
//! than [`MAX_GAP`] intervals begins the count anew, and a clock that goes back adds nothing. So no
//! jump of a clock and no pause of the evaluator can make an alert fire or resolve early.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Turn;
use super::rule::{OnNoData, Rule};
use crate::clock::Timestamp;

/// So many intervals without an evaluation, and what was counted is no longer believed.
pub const MAX_GAP: u32 = 6;
/// One evaluation counts for so many intervals at most.
const MAX_COUNTED: u32 = 2;
/// At least for so long a resolved alert is shown as that.
pub const RESOLVED_FOR: Duration = Duration::from_secs(300);

/// Where an alert is.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The condition does not hold.
    #[default]
    Inactive,
    /// It holds, and not for long enough, or the cooldown is not over.
    Pending,
    /// It holds for long enough.
    Firing,
    /// It does not hold, and not for long enough; to others it still fires.
    Recovering,
    /// It fired not long ago.
    Resolved,
}

impl Phase {
    /// All of them.
    pub const ALL: [Phase; 5] =
        [Phase::Inactive, Phase::Pending, Phase::Firing, Phase::Recovering, Phase::Resolved];

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Inactive => "inactive",
            Phase::Pending => "pending",
            Phase::Firing => "firing",
            Phase::Recovering => "recovering",
            Phase::Resolved => "resolved",
        }
    }

    /// Whether those who are told of it know it as firing.
    pub fn fires(self) -> bool {
        match self {
            Phase::Firing | Phase::Recovering => true,
            Phase::Inactive | Phase::Pending | Phase::Resolved => false,
        }
    }

    /// Whether time is counted in it, so that each evaluation changes the state.
    pub(super) fn counts(self) -> bool {
        match self {
            Phase::Pending | Phase::Recovering => true,
            Phase::Inactive | Phase::Firing | Phase::Resolved => false,
        }
    }
}

/// What an evaluation saw.
#[derive(Debug, Clone, PartialEq)]
pub enum Seen {
    /// The condition holds for this value.
    Holds(f64),
    /// It does not; the value, if there was something to measure.
    Fails(Option<f64>),
    /// Nothing is measured.
    Missing,
    /// What was measured could not be read.
    Failed(String),
}

/// Why an alert is not where its condition alone would have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Nothing is measured.
    NoData,
    /// What was measured could not be read.
    Error(String),
    /// It would fire, but resolved not long ago.
    Cooldown,
    /// Its rule is not enabled.
    Disabled,
}

/// The state of an alert.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Standing {
    /// Where it is.
    pub phase: Phase,
    /// Since when, by the store's clock.
    pub since: Timestamp,
    /// When it was judged last.
    pub evaluated_at: Timestamp,
    /// The time counted in this phase.
    #[serde(rename = "counted_us", with = "in_micros")]
    pub counted: Duration,
    /// The last firing: the second since 1970 in which it began, or more. Zero before the first.
    pub episode: u64,
    /// When the last firing began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fired_at: Option<Timestamp>,
    /// When the last firing was over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved_at: Option<Timestamp>,
    /// What was judged last, if there was something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// What stands in the way of a judgement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
}

mod in_micros {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(crate::clock::micros(*time))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_micros)
    }
}

/// How long an alert waits, as its rule says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Before it fires.
    pub hold_for: Duration,
    /// Before it resolves.
    pub keep_firing_for: Duration,
    /// Before it fires again.
    pub cooldown: Duration,
    /// While nothing is measured.
    pub on_no_data: OnNoData,
    /// Between two evaluations.
    pub interval: Duration,
}

impl Terms {
    /// Those of a rule that is judged at this interval.
    pub fn of(rule: &Rule, interval: Duration) -> Self {
        let seconds = |seconds: u32| Duration::from_secs(u64::from(seconds));
        Terms {
            hold_for: seconds(rule.for_seconds),
            keep_firing_for: seconds(rule.keep_firing_for_seconds),
            cooldown: seconds(rule.cooldown_minutes) * 60,
            on_no_data: rule.on_no_data,
            interval,
        }
    }
}

/// What the condition comes to, once missing data is read as the rule wants it.
#[derive(Clone, Copy, PartialEq)]
enum Verdict {
    Holds,
    Fails,
    /// Nothing begins and nothing ends.
    Nothing,
    /// Everything stays.
    Stays,
}

/// Decides what becomes of an alert, and whether somebody is told.
pub fn decide(
    before: &Standing,
    terms: &Terms,
    seen: &Seen,
    at: Timestamp,
) -> (Standing, Option<Turn>) {
    let (verdict, value, reason) = read(seen, terms.on_no_data);
    let mut after = Standing { evaluated_at: at, value, reason, ..before.clone() };
    let elapsed = at.since(before.evaluated_at);
    let believed = elapsed <= terms.interval * MAX_GAP;
    let counted = match believed {
        true => before.counted + elapsed.min(terms.interval * MAX_COUNTED),
        false => Duration::ZERO,
    };
    let turn = match (before.phase, verdict) {
        (Phase::Inactive | Phase::Resolved, Verdict::Holds) => {
            go(&mut after, Phase::Pending);
            fire_if_due(&mut after, terms)
        }
        (Phase::Pending, Verdict::Holds) => {
            count(&mut after, counted, believed);
            fire_if_due(&mut after, terms)
        }
        (Phase::Pending, Verdict::Fails | Verdict::Nothing) => {
            let fired = before.resolved_at.is_some_and(|over| lately(over, at, terms));
            go(&mut after, if fired { Phase::Resolved } else { Phase::Inactive });
            None
        }
        (Phase::Firing, Verdict::Fails) => {
            go(&mut after, Phase::Recovering);
            resolve_if_due(&mut after, terms)
        }
        (Phase::Recovering, Verdict::Fails) => {
            count(&mut after, counted, believed);
            resolve_if_due(&mut after, terms)
        }
        (Phase::Recovering, Verdict::Holds | Verdict::Nothing) => {
            go(&mut after, Phase::Firing);
            after.since = before.fired_at.unwrap_or(at);
            None
        }
        (Phase::Resolved, Verdict::Fails | Verdict::Nothing) => {
            if !before.resolved_at.is_some_and(|over| lately(over, at, terms)) {
                go(&mut after, Phase::Inactive);
            }
            None
        }
        (Phase::Firing, Verdict::Holds | Verdict::Nothing)
        | (Phase::Inactive, Verdict::Fails | Verdict::Nothing)
        | (_, Verdict::Stays) => None,
    };
    (after, turn)
}

/// Ends what fires because its rule is gone or disabled, and lets go of what does not.
pub fn end(before: &Standing, at: Timestamp, reason: Option<Reason>) -> (Standing, Option<Turn>) {
    let mut after = Standing { evaluated_at: at, value: None, reason, ..before.clone() };
    match before.phase {
        Phase::Firing | Phase::Recovering => {
            go(&mut after, Phase::Resolved);
            after.resolved_at = Some(at);
            (after, Some(Turn::Resolved))
        }
        Phase::Pending => {
            go(&mut after, Phase::Inactive);
            (after, None)
        }
        Phase::Resolved if before.resolved_at.is_none_or(|over| at.since(over) >= RESOLVED_FOR) => {
            go(&mut after, Phase::Inactive);
            (after, None)
        }
        Phase::Inactive | Phase::Resolved => (after, None),
    }
}

fn read(seen: &Seen, on_no_data: OnNoData) -> (Verdict, Option<f64>, Option<Reason>) {
    match seen {
        Seen::Holds(value) => (Verdict::Holds, Some(*value), None),
        Seen::Fails(value) => (Verdict::Fails, *value, None),
        Seen::Failed(error) => (Verdict::Stays, None, Some(Reason::Error(error.clone()))),
        Seen::Missing => {
            let verdict = match on_no_data {
                OnNoData::Ignore => Verdict::Nothing,
                OnNoData::Fire => Verdict::Holds,
                OnNoData::Resolve => Verdict::Fails,
                OnNoData::Keep => Verdict::Stays,
            };
            (verdict, None, Some(Reason::NoData))
        }
    }
}

fn go(standing: &mut Standing, phase: Phase) {
    standing.phase = phase;
    standing.since = standing.evaluated_at;
    standing.counted = Duration::ZERO;
}

fn count(standing: &mut Standing, counted: Duration, believed: bool) {
    standing.counted = counted;
    if !believed {
        standing.since = standing.evaluated_at;
    }
}

/// Whether it resolved so lately that it is shown as that, or may not fire again.
fn lately(over: Timestamp, at: Timestamp, terms: &Terms) -> bool {
    at.since(over) < terms.cooldown.max(RESOLVED_FOR)
}

fn fire_if_due(standing: &mut Standing, terms: &Terms) -> Option<Turn> {
    if standing.counted < terms.hold_for {
        return None;
    }
    let at = standing.evaluated_at;
    // A clock that went back keeps nothing from firing.
    if standing.resolved_at.is_some_and(|over| over <= at && at < over + terms.cooldown) {
        standing.reason = standing.reason.take().or(Some(Reason::Cooldown));
        return None;
    }
    go(standing, Phase::Firing);
    // Grows also where the state of a rule was forgotten, as no firing takes less than a second.
    standing.episode = standing.episode.saturating_add(1).max(at.as_micros() / 1_000_000);
    standing.fired_at = Some(at);
    Some(Turn::Fired)
}

fn resolve_if_due(standing: &mut Standing, terms: &Terms) -> Option<Turn> {
    if standing.counted < terms.keep_firing_for {
        return None;
    }
    go(standing, Phase::Resolved);
    standing.resolved_at = Some(standing.evaluated_at);
    Some(Turn::Resolved)
}
