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
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_micros(1_767_225_600_000_000 + seconds * 1_000_000)
    }

    /// Every policy, every lateness around the grace, every room: each due tick is begun, skipped,
    /// misfired or left for later, once; and which of these is what the policies say.
    #[test]
    fn every_due_tick_is_decided_once_and_as_the_policies_say() {
        let every = Expression::parse("every 10s", "UTC").unwrap();
        let mut seen = [0u32; 4];
        for misfire in [Misfire::RunOnce, Misfire::RunAll, Misfire::Skip] {
            for overlap in [Overlap::Queue, Overlap::Skip, Overlap::Allow] {
                for grace in [0, 25, 30] {
                    for behind in 0..95 {
                        for (open, room) in [(0, 16), (0, 3), (1, 15), (3, 0)] {
                            let rules = Rules { misfire, grace: SECOND * grace, overlap };
                            let now = at(behind);
                            let plan = plan(&every, rules, Some(at(0)), now, open, room);
                            let context = format!("{rules:?} {behind} {open} {room}: {plan:?}");
                            check(&plan, rules, now, open, room, &context);
                            let decided = [
                                plan.begin.len() as u64,
                                plan.skipped,
                                plan.misfired,
                                u64::from(plan.next_due.is_some_and(|due| due <= now)),
                            ];
                            for (seen, count) in seen.iter_mut().zip(decided) {
                                *seen += u32::from(count > 0);
                            }
                        }
                    }
                }
            }
        }
        assert!(seen.iter().all(|count| *count > 50), "every decision was made: {seen:?}");
    }

    fn check(plan: &Plan, rules: Rules, now: Timestamp, open: usize, room: usize, context: &str) {
        let next = plan.next_due.expect("an interval is always due again");
        let all: Vec<Timestamp> = (0..).map(|n| at(n * 10)).take_while(|due| *due <= now).collect();
        let decided = all.iter().filter(|due| **due < next).count();
        let counted = plan.begin.len() + usize::try_from(plan.skipped + plan.misfired).unwrap();
        assert_eq!(decided, counted, "{context}");
        assert!(plan.begin.is_sorted() && plan.begin.len() <= room, "{context}");
        assert!(plan.begin.iter().all(|due| all.contains(due) && *due < next), "{context}");
        let is_late = |due: &&Timestamp| **due < now - rules.grace;
        let (late, timely): (Vec<_>, Vec<_>) = all.iter().partition(is_late);
        let begun_late: Vec<_> = plan.begin.iter().filter(is_late).collect();
        let lost = match rules.misfire {
            Misfire::RunOnce => late.len().saturating_sub(1),
            Misfire::RunAll => 0,
            Misfire::Skip => late.len(),
        };
        assert_eq!(plan.misfired, lost as u64, "{context}");
        match rules.misfire {
            Misfire::RunOnce => {
                assert!(begun_late.iter().all(|due| Some(due) == late.last().as_ref()))
            }
            Misfire::Skip => assert!(begun_late.is_empty(), "{context}"),
            Misfire::RunAll => {}
        }
        match rules.overlap {
            Overlap::Queue | Overlap::Allow => {
                assert_eq!(plan.skipped, 0, "{context}");
                let run = late.len() - lost + timely.len();
                assert_eq!(
                    plan.begin.len(),
                    run.min(room),
                    "as many as there is room for: {context}"
                );
            }
            Overlap::Skip => {
                let run = late.len() - lost + timely.len();
                let one = usize::from(open == 0 && room > 0 && run > 0);
                assert_eq!(plan.begin.len(), one, "{context}");
                if open > 0 {
                    assert_eq!(plan.skipped, run as u64, "{context}");
                }
            }
        }
    }

    #[test]
    fn years_of_missed_seconds_are_decided_in_bounded_work() {
        let every = Expression::parse("* * * * * *", "Europe/Berlin").unwrap();
        let now = at(5 * 366 * 86_400);
        for (misfire, first) in
            [(Misfire::RunOnce, 61), (Misfire::RunAll, 1_060), (Misfire::Skip, 60)]
        {
            let rules = Rules { misfire, grace: SECOND * 60, overlap: Overlap::Queue };
            let plan = plan(&every, rules, Some(at(0)), now, 0, 16);
            assert_eq!(plan.begin.first(), Some(&(now - SECOND * first)), "{misfire:?}");
            assert_eq!((plan.begin.len(), plan.misfired), (16, MAX_COUNTED));
        }
        let rules =
            Rules { misfire: Misfire::RunOnce, grace: SECOND * 86_400, overlap: Overlap::Skip };
        let plan = plan(&every, rules, Some(now - SECOND * 80_000), now, 1, 15);
        assert_eq!((plan.begin.len(), plan.skipped), (0, MAX_KEPT as u64));
        assert!(plan.next_due < Some(now), "the rest is decided in the next round");
    }

    #[test]
    fn ticks_that_are_late_by_at_most_the_grace_all_run_in_order() {
        let every = Expression::parse("* * * * * *", "UTC").unwrap();
        let rules = Rules { misfire: Misfire::Skip, grace: SECOND * 60, overlap: Overlap::Queue };
        let plan = plan(&every, rules, Some(at(0)), at(60), 0, 100);
        assert_eq!(plan.begin, (0..=60).map(at).collect::<Vec<_>>());
        assert_eq!((plan.misfired, plan.next_due), (0, Some(at(61))));
    }

    #[test]
    fn jitter_is_the_same_for_everybody_and_spreads_over_all_of_its_span() {
        let most = SECOND * 30;
        assert_eq!(jitter("a", at(0), Duration::ZERO), Duration::ZERO);
        let drawn: Vec<Duration> = (0..1_000).map(|n| jitter("a", at(n), most)).collect();
        assert!(drawn.iter().all(|jitter| *jitter <= most));
        assert!(drawn.iter().zip(0..).all(|(drawn, n)| *drawn == jitter("a", at(n), most)));
        assert!(drawn.iter().any(|jitter| *jitter < most / 20));
        assert!(drawn.iter().any(|jitter| *jitter > most * 19 / 20));
        assert_ne!(jitter("a", at(0), most), jitter("b", at(0), most));
        // Written down once, so that no version draws anew.
        assert_eq!(jitter("report", at(0), most), Duration::from_micros(JITTER_OF_REPORT));
    }

    const JITTER_OF_REPORT: u64 = 2_356_879;
}
