//! Trends of what this service measured: fetched from history, judged, kept for a minute.
//!
//! The window is read in at most 288 pieces and the four weeks before it by the hour, so that a
//! trend costs little whatever is asked. All instances are judged together: what users meet is the
//! service, not one of its processes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::Semaphore;

use super::watch::{self, Source, Watched};
use super::{Goodness, Point, Question, Trend, judge};
use crate::clock::{Clock, Tick, Timestamp};
use crate::error::{Error, ErrorKind, Result};
use crate::monitor::history::History;
use crate::monitor::series::{self, Reading, Track};

/// How long an answer is good for.
const FRESH: Duration = Duration::from_secs(60);
/// So many answers are kept.
const KEPT: usize = 64;
/// A window is cut into so many pieces: five minutes each for a day.
const PIECES: u32 = 288;
/// Samples so far apart are taken at multiples of that time.
const ALIGNED: Duration = Duration::from_secs(300);
/// What is usual is told by so much history before the window.
const HISTORY: Duration = Duration::from_secs(28 * 86_400);
const HOUR: Duration = Duration::from_secs(3_600);
/// History goes back for 30 days.
pub const MAX_HOURS: u32 = 720;
/// The window if none is asked for.
pub const DEFAULT_HOURS: u32 = 24;
/// What one series may take to be fetched.
const WITHIN: Duration = Duration::from_secs(5);

/// The trend of one series.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Named {
    /// The path, or the name of a ratio.
    pub path: String,
    /// What its values are in.
    pub unit: &'static str,
    /// Which way is good.
    pub goodness: Goodness,
    /// How many hours the window has.
    pub window_hours: u32,
    /// Its begin.
    pub from: Timestamp,
    /// Its end.
    pub to: Timestamp,
    /// Why nothing is known, if it could not be fetched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// What was found.
    #[serde(flatten)]
    pub trend: Trend,
}

/// Trends of this service. Cheap to clone.
#[derive(Clone)]
pub struct Trends(Arc<Shared>);

struct Shared {
    history: History,
    clock: Clock,
    /// For the one that is fetched: others wait, and find it kept if it is what they want.
    fetching: Semaphore,
    kept: Mutex<BTreeMap<(String, u32), (Tick, Named)>>,
}

impl Trends {
    pub(crate) fn new(history: History, clock: Clock) -> Self {
        let (fetching, kept) = (Semaphore::new(1), Mutex::default());
        Trends(Arc::new(Shared { history, clock, fetching, kept }))
    }

    /// The trends of the important series over the last so many hours, at most a minute old. Never
    /// fails: of what cannot be fetched it says so.
    ///
    /// # Errors
    /// `Invalid` for less than one hour or more than 720; `Unavailable` if the store has not told
    /// its time yet and does not answer.
    pub async fn important(&self, hours: u32) -> Result<Vec<Named>> {
        check_hours(hours)?;
        let now = self.0.history.now().await?;
        let mut all = Vec::new();
        let mut down: Option<String> = None;
        for watched in watch::important() {
            // A store that did not answer once is not waited for again and again.
            let named = match &down {
                Some(problem) => unknown(&watched, hours, now, problem.clone()),
                None => self.named(&watched, hours, now).await,
            };
            down = named.problem.clone();
            all.push(named);
        }
        Ok(all)
    }

    /// The trend of one path over the last so many hours, at most a minute old.
    ///
    /// # Errors
    /// As [`important`](Trends::important); and `NotFound` if the path names nothing, `Invalid` for
    /// the sum of a histogram, which has no trend.
    pub async fn of(&self, path: &str, hours: u32) -> Result<Named> {
        check_hours(hours)?;
        let watched = watch::find(path)?;
        let now = self.0.history.now().await?;
        Ok(self.named(&watched, hours, now).await)
    }

    async fn named(&self, watched: &Watched, hours: u32, now: Timestamp) -> Named {
        if let Some(named) = self.kept(watched, hours) {
            return named;
        }
        let fetched = self.0.clock.timeout(WITHIN, async {
            let _turn = self.0.fetching.acquire().await;
            match self.kept(watched, hours) {
                Some(named) => Ok(named),
                None => self.fetch(watched, hours, now).await,
            }
        });
        match fetched.await {
            Some(Ok(named)) => named,
            Some(Err(error)) => unknown(watched, hours, now, error.to_string()),
            None => unknown(watched, hours, now, format!("no history within {WITHIN:?}")),
        }
    }

    fn kept(&self, watched: &Watched, hours: u32) -> Option<Named> {
        let kept = self.0.kept.lock();
        let (at, named) = kept.get(&(watched.name.clone(), hours))?;
        (self.0.clock.tick().since(*at) < FRESH).then(|| named.clone())
    }

    async fn fetch(&self, watched: &Watched, hours: u32, now: Timestamp) -> Result<Named> {
        let resolution = self.0.history.resolution(now - HOUR * hours, now);
        let (to, step) = pieces(now, HOUR * hours, resolution);
        let from = to - HOUR * hours;
        let mut points = self.points(watched.source, from - HISTORY, from, HOUR).await?;
        points.extend(self.points(watched.source, from, to, step).await?);
        let limit = match watched.limit {
            Some(path) => self.stands_at(path, to).await?,
            None => None,
        };
        let question =
            Question { from, to, goodness: watched.goodness, limit, floor: watched.floor };
        let trend = judge(&points, &question);
        let unknown = unknown(watched, hours, now, String::new());
        let named = Named { from, to, problem: None, trend, ..unknown };
        let at = self.0.clock.tick();
        let mut kept = self.0.kept.lock();
        kept.retain(|_, (then, _)| at.since(*then) < FRESH);
        if kept.len() < KEPT {
            kept.insert((watched.name.clone(), hours), (at, named.clone()));
        }
        Ok(named)
    }

    async fn points(
        &self,
        source: Source,
        from: Timestamp,
        to: Timestamp,
        step: Duration,
    ) -> Result<Vec<Point>> {
        let (path, beside) = match source {
            Source::Rate(path) | Source::Value(path) | Source::Quantile(path, _) => (path, None),
            Source::Share(path, beside) => (path, Some(beside)),
        };
        let tracks = self.0.history.tracks_by(path, from, to, step).await?;
        let beside = match beside {
            Some(path) => self.0.history.tracks_by(path, from, to, step).await?,
            None => Vec::new(),
        };
        let reading = self.0.history.reading(&History::series(path)?, from, to);
        // Not beside requests: of many instances it takes a while.
        let read = move || read(source, &tracks, &beside, reading, (from, to, step));
        tokio::task::spawn_blocking(read).await.map_err(|error| {
            Error::new(ErrorKind::Internal, "a trend cannot be made").with_source(error)
        })
    }

    /// Where a gauge of all instances stands; none if nobody has set it.
    async fn stands_at(&self, path: &str, at: Timestamp) -> Result<Option<f64>> {
        let from = at - HOUR;
        let tracks = self.0.history.tracks(path, from, at).await?;
        let reading = self.0.history.reading(&History::series(path)?, from, at);
        Ok(series::last(&tracks, at, reading).filter(|value| *value > 0.0))
    }
}

fn unknown(watched: &Watched, hours: u32, now: Timestamp, problem: String) -> Named {
    Named {
        path: watched.name.clone(),
        unit: watched.unit,
        goodness: watched.goodness,
        window_hours: hours,
        from: now - HOUR * hours,
        to: now,
        problem: Some(problem),
        trend: Trend::unknown(),
    }
}

/// Where the last piece of a window ends, and how long a piece is. A piece has whole samples, and
/// begins and ends half way between two: else one more or less would fall into it by chance, and a
/// steady rate would look restless. Samples of ten seconds are taken three at a time, because they
/// are not aligned.
fn pieces(now: Timestamp, window: Duration, every: Duration) -> (Timestamp, Duration) {
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1);
    let grid = micros(every);
    let least = if every < ALIGNED { 3 } else { 1 };
    let samples = (micros(window) / u64::from(PIECES)).div_ceil(grid).max(least);
    let end = now.as_micros() / grid * grid - grid / 2;
    (Timestamp::from_micros(end), Duration::from_micros(grid * samples))
}

/// Refuses a window that history does not have.
pub(crate) fn check_hours(hours: u32) -> Result<()> {
    if (1..=MAX_HOURS).contains(&hours) {
        return Ok(());
    }
    Err(Error::invalid(format!("a window has 1 to {MAX_HOURS} hours, not {hours}")))
}

/// One point for each piece of the window of which something is known.
fn read(
    source: Source,
    tracks: &[Track],
    beside: &[Track],
    reading: Reading,
    (from, to, step): (Timestamp, Timestamp, Duration),
) -> Vec<Point> {
    let mut points = Vec::new();
    let mut begin = from;
    while begin + step <= to {
        let end = begin + step;
        let value = match source {
            Source::Rate(_) => series::rate(tracks, begin, end),
            Source::Value(_) => series::last(tracks, end, reading),
            Source::Quantile(_, share) => series::quantile(tracks, share, begin, end),
            Source::Share(..) => share(tracks, beside, begin, end),
        };
        points.extend(value.map(|value| (begin, value)));
        begin = end;
    }
    points
}

/// The part of the first in both; none where nothing happened.
fn share(tracks: &[Track], beside: &[Track], begin: Timestamp, end: Timestamp) -> Option<f64> {
    let first = series::increase(tracks, begin, end)?;
    let both = first + series::increase(beside, begin, end)?;
    (both > 0.0).then(|| first / both)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_cut_into_whole_samples() {
        let now = Timestamp::from_micros(1_767_225_601_000_000);
        let of = |hours: u32, every: u64| {
            let (end, step) = pieces(now, HOUR * hours, Duration::from_secs(every));
            assert!(now.since(end) <= Duration::from_secs(every * 3 / 2) && end < now);
            ((HOUR * hours).as_secs() / step.as_secs(), step.as_secs())
        };
        assert_eq!(of(1, 10), (120, 30));
        assert_eq!(of(24, 300), (288, 300));
        assert_eq!(of(25, 300), (150, 600));
        assert_eq!(of(720, 300), (288, 9_000));
    }
}
