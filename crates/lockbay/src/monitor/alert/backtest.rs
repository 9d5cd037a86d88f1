//! What a rule would have done over the past: the same rounds, over history.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use serde::Serialize;

use super::evaluator::{Gathered, Source, Step, needs};
use super::round::go_round;
use super::rule::Rule;
use super::{Transition, Turn};
use crate::clock::Timestamp;
use crate::error::{Error, Result};

/// The longest back-test: as far as history goes.
pub const MAX_BACKTEST_MINUTES: u32 = 30 * 24 * 60;
/// The most evaluations of one back-test; over longer times they are farther apart.
const MOST_ROUNDS: u32 = 10_000;
/// So many evaluations, and others get their turn: each takes a fraction of a millisecond.
const AT_A_TIME: u64 = 16;
/// The closest that evaluations are where history is coarse.
const COARSE: Duration = Duration::from_secs(300);

/// What a rule would have done.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Backtest {
    /// Which rule.
    pub rule: String,
    /// Since when.
    pub from: Timestamp,
    /// Until when.
    pub to: Timestamp,
    /// The time between two evaluations, in seconds.
    pub interval_seconds: f64,
    /// How often it was judged.
    pub evaluations: u64,
    /// How often it would have fired.
    pub times_fired: u64,
    /// Whether it would fire at the end.
    pub fires_now: bool,
    /// For how long it would have fired altogether, in seconds.
    pub firing_seconds: f64,
    /// Every firing and every end, in order.
    pub transitions: Vec<Transition>,
}

/// Judges a rule at each interval of the last minutes.
///
/// # Errors
/// `Invalid` for more minutes than history has; others as reading history gives them.
pub async fn run(
    rule: Rule,
    source: &dyn Source,
    to: Timestamp,
    minutes: u32,
    interval: Duration,
) -> Result<Backtest> {
    if !(1..=MAX_BACKTEST_MINUTES).contains(&minutes) {
        return Err(Error::invalid(format!(
            "minutes lies between 1 and {MAX_BACKTEST_MINUTES}, as far as history goes, not {minutes}"
        )));
    }
    let length = Duration::from_secs(u64::from(minutes) * 60);
    let from = to - length;
    let rule = Rule { enabled: true, ..rule };
    let mut tracks_of = HashMap::new();
    let mut stale = Duration::ZERO;
    for ((path, coarse), span) in needs(std::iter::once(&rule)) {
        stale = stale.max(source.stale(from - span, to));
        let step = if coarse { Step::Coarse } else { Step::Fine };
        let tracks = source.tracks(&path, from - span, to).await?;
        tracks_of.insert((path, step), Ok(tracks));
    }
    let interval = interval.max(length / MOST_ROUNDS);
    let interval = if stale > COARSE { interval.max(COARSE) } else { interval };
    let gathered = Gathered { tracks: tracks_of, stale: (stale, stale) };
    Ok(judge_all(&rule, &gathered, (from, to), interval).await)
}

async fn judge_all(
    rule: &Rule,
    past: &Gathered,
    (from, to): (Timestamp, Timestamp),
    interval: Duration,
) -> Backtest {
    let rules = std::slice::from_ref(rule);
    let mut kept = BTreeMap::new();
    let (mut transitions, mut evaluations) = (Vec::new(), 0);
    let mut at = from;
    loop {
        let round = go_round(rules, &kept, past, at, interval);
        kept = round.kept;
        transitions.extend(round.moves);
        evaluations += 1;
        if at + interval > to {
            break;
        }
        at = at + interval;
        if evaluations % AT_A_TIME == 0 {
            tokio::task::yield_now().await;
        }
    }
    let fired = |moved: &&Transition| moved.turn == Turn::Fired;
    let times_fired = transitions.iter().filter(fired).count();
    let firing_seconds = length(&transitions, at);
    Backtest {
        rule: rule.name.clone(),
        from,
        to,
        interval_seconds: interval.as_secs_f64(),
        evaluations,
        times_fired: times_fired as u64,
        fires_now: kept.values().any(|kept| kept.standing.phase.fires()),
        firing_seconds,
        transitions,
    }
}

fn length(transitions: &[Transition], end: Timestamp) -> f64 {
    let mut firing = Duration::ZERO;
    let mut since = None;
    for moved in transitions {
        match (moved.turn, since) {
            (Turn::Fired, _) => since = Some(moved.at),
            (Turn::Resolved, Some(began)) => {
                firing += moved.at.since(began);
                since = None;
            }
            (Turn::Resolved, None) => {}
        }
    }
    let open = since.map_or(Duration::ZERO, |began| end.since(began));
    (firing + open).as_secs_f64()
}
