//! Which ticks are begun now: the whole decision of a schedule as pure functions.
//!
//! A schedule remembers the first due time that was not decided yet. Everything from there to now
//! is decided in bounded work: what is late by more than the grace by the misfire policy, the rest
//! one after another as far as there is room. What finds no room stays undecided, and may be too
//! late when there is some.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::expression::Expression;
use crate::clock::{Timestamp, micros};

/// How many late ticks [`Misfire::RunAll`] keeps.
pub const MAX_KEPT: usize = 1_000;
/// How many ticks are counted when they are passed over; beyond it is "or more".
pub(super) const MAX_COUNTED: u64 = 1_000;

/// What becomes of ticks that are late by more than the grace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Misfire {
    /// Only the latest of them runs.
    #[default]
    RunOnce,
    /// All of them run, the last 1,000 at most.
    RunAll,
    /// None of them runs.
    Skip,
}

/// What becomes of a tick that is due while the one before it still runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// It runs after it.
    #[default]
    Queue,
    /// It does not run.
    Skip,
    /// It runs beside it.
    Allow,
}

/// How a schedule treats what is due.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    pub(super) misfire: Misfire,
    pub(super) grace: Duration,
    pub(super) overlap: Overlap,
}

/// What was decided.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Ticks that begin, in order.
    pub(super) begin: Vec<Timestamp>,
    /// Ticks that do not run because the one before them still does.
    pub(super) skipped: u64,
    /// Ticks that do not run because they are too late; at least so many.
    pub(super) misfired: u64,
    /// The first due time that is not decided.
    pub(super) next_due: Option<Timestamp>,
}

/// Decides what is due at `now`, with `open` ticks that were begun and have not ended, of which
/// there may be `room` more.
pub(super) fn plan(
    expression: &Expression,
    rules: Rules,
    next_due: Option<Timestamp>,
    now: Timestamp,
    open: usize,
    room: usize,
) -> Plan {
    let mut plan = Plan { next_due, ..Plan::default() };
    let timely_from = now - rules.grace;
    if let Some(first) = next_due.filter(|due| *due < timely_from) {
        let kept = first_kept(expression, rules.misfire, first, timely_from);
        plan.misfired = count(expression, first, kept.unwrap_or(timely_from));
        plan.next_due = match kept {
            Some(kept) => Some(kept),
            None => expression.next_after(timely_from - Duration::from_micros(1)),
        };
    }
    let mut decided = 0;
    while let Some(due) = plan.next_due.filter(|due| *due <= now) {
        let running = open + plan.begin.len();
        if rules.overlap == Overlap::Skip && running > 0 {
            plan.skipped += 1;
        } else if plan.begin.len() < room {
            plan.begin.push(due);
        } else {
            break;
        }
        plan.next_due = expression.next_after(due);
        decided += 1;
        if decided >= MAX_KEPT {
            break;
        }
    }
    plan
}

/// The first tick that runs of those that are late, from `first` to before `timely_from`.
fn first_kept(
    expression: &Expression,
    misfire: Misfire,
    first: Timestamp,
    timely_from: Timestamp,
) -> Option<Timestamp> {
    let keep = match misfire {
        Misfire::Skip => return None,
        Misfire::RunOnce => 1,
        Misfire::RunAll => MAX_KEPT,
    };
    let mut kept = None;
    let mut before = timely_from;
    for _ in 0..keep {
        match expression.last_before(before).filter(|last| *last >= first) {
            Some(last) => (kept, before) = (Some(last), last),
            None => break,
        }
    }
    // Time zones change; what was due by the rules of yesterday was due.
    kept.or(Some(first))
}

/// How many ticks there are from `first` to before `end`, counted up to a limit.
fn count(expression: &Expression, first: Timestamp, end: Timestamp) -> u64 {
    let (mut count, mut due) = (0, Some(first));
    while let Some(at) = due.filter(|at| *at < end && count < MAX_COUNTED) {
        count += 1;
        due = expression.next_after(at);
    }
    count
}

/// By how much a tick begins after it is due: the same for everybody who asks.
pub(super) fn jitter(job_id: &str, due: Timestamp, most: Duration) -> Duration {
    let most = micros(most);
    if most == 0 {
        return Duration::ZERO;
    }
    let mut hash = Sha256::new();
    hash.update(job_id.as_bytes());
    hash.update([0]);
    hash.update(due.as_micros().to_be_bytes());
    let digest: [u8; 32] = hash.finalize().into();
    let dice = digest[..8].iter().fold(0u64, |dice, byte| dice << 8 | u64::from(*byte));
    Duration::from_micros(dice % (most + 1))
}

#[cfg(test)]
mod tests;
