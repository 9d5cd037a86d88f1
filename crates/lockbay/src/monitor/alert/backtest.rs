//! What a rule would have done over the past: the same rounds, over history.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::evaluator::{Gathered, Source, Step, needs};
use super::judge::{FINE, STALE_COARSE, STALE_FINE, Tracks};
use super::round::go_round;
use super::rule::Rule;
use super::{Transition, Turn};
use crate::clock::Timestamp;
use crate::error::{Error, Result as Known};
use crate::monitor::series::Track;

/// The longest back-test: as far as history goes.
pub const MAX_BACKTEST_MINUTES: u32 = 30 * 24 * 60;
/// The most evaluations of one back-test; over longer times they are farther apart.
const MOST_ROUNDS: u32 = 10_000;
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
) -> Known<Backtest> {
    if !(1..=MAX_BACKTEST_MINUTES).contains(&minutes) {
        return Err(Error::invalid(format!(
            "minutes lies between 1 and {MAX_BACKTEST_MINUTES}, as far as history goes, not {minutes}"
        )));
    }
    let length = Duration::from_secs(u64::from(minutes) * 60);
    let from = to - length;
    let rule = Rule { enabled: true, ..rule };
    let mut gathered = Gathered::default();
    let mut is_coarse = false;
    for ((path, coarse), span) in needs(std::iter::once(&rule)) {
        is_coarse |= length + span > FINE;
        let step = if coarse { Step::Coarse } else { Step::Fine };
        let tracks = source.tracks(&path, from - span, to).await?;
        gathered.0.insert((path, step), Ok(tracks));
    }
    let interval = interval.max(length / MOST_ROUNDS);
    let interval = if is_coarse { interval.max(COARSE) } else { interval };
    let past = Past { gathered, stale: if is_coarse { STALE_COARSE } else { STALE_FINE } };
    Ok(judge_all(&rule, &past, (from, to), interval))
}

/// Tracks of a time of which history knows only coarse steps, or all of the fine ones.
struct Past {
    gathered: Gathered,
    stale: Duration,
}

impl Tracks for Past {
    fn of(&self, path: &str, span: Duration) -> Result<&[Track], String> {
        self.gathered.of(path, span)
    }

    fn stale(&self, _: Duration) -> Duration {
        self.stale
    }
}

fn judge_all(
    rule: &Rule,
    past: &Past,
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
