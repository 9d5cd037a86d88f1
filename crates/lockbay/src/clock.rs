//! Time and chance: the only door to both.
//!
//! Everything that reads a clock, sleeps, or draws a random number does it through a [`Clock`],
//! so that a test can step time and replay a seed. It knows nothing of leases or jobs.
//!
//! Two kinds of time are kept apart. A [`Tick`] is monotonic and means something only within this
//! process; every decision about a right is made on ticks. A [`Timestamp`] is wall time, as the
//! store or the system tells it; it is stored and shown, and between stores' own writes it is
//! compared only with other timestamps of the same store.

// The one place where the banned methods are used: see clippy.toml.
#![allow(clippy::disallowed_methods)]

use std::fmt;
use std::ops::{Add, Sub};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use rand::rngs::{StdRng, SysRng};
use rand::{RngExt, SeedableRng, TryRng};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::sync::oneshot;

/// Wall time in microseconds since 1970, UTC. Shown as RFC 3339.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(u64);

impl Timestamp {
    /// From microseconds since 1970.
    pub const fn from_micros(micros: u64) -> Self {
        Timestamp(micros)
    }

    /// Microseconds since 1970.
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// The time from `earlier` to this, or zero if `earlier` is later.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Timestamp {
    type Output = Timestamp;
    fn add(self, by: Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(micros(by)))
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Timestamp;
    fn sub(self, by: Duration) -> Timestamp {
        Timestamp(self.0.saturating_sub(micros(by)))
    }
}

/// Whole microseconds of a duration; durations here are bounded far below the limit.
pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = i64::try_from(self.0).unwrap_or(i64::MAX);
        match jiff::Timestamp::from_microsecond(micros) {
            Ok(time) => write!(f, "{time:.6}"),
            Err(_) => write!(f, "{}us", self.0),
        }
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for Timestamp {
    type Err = crate::Error;
    fn from_str(text: &str) -> crate::Result<Self> {
        text.parse::<jiff::Timestamp>()
            .ok()
            .and_then(|time| u64::try_from(time.as_microsecond()).ok())
            .map(Timestamp)
            .ok_or_else(|| {
                crate::Error::invalid(format!("not an RFC 3339 time since 1970: {text:?}"))
            })
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Monotonic time of this process, in nanoseconds. Never goes back; never stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Tick(u64);

impl Tick {
    /// A tick by its nanoseconds.
    pub const fn from_nanos(nanos: u64) -> Self {
        Tick(nanos)
    }

    /// Its nanoseconds.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The time from `earlier` to this, or zero if `earlier` is later.
    pub fn since(self, earlier: Tick) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Tick {
    type Output = Tick;
    fn add(self, by: Duration) -> Tick {
        Tick(self.0.saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// How much [`Clock::coarse_tick`] may lag behind [`Clock::tick`].
///
/// The kernel advances its coarse clock once per scheduler tick: 10 ms at the slowest common
/// setting. Whoever compares with the coarse clock subtracts this from the limit first.
pub const COARSE_LAG: Duration = Duration::from_millis(10);

/// The clock and the dice. Cheap to clone.
#[derive(Clone)]
pub struct Clock(Inner);

#[derive(Clone)]
enum Inner {
    System,
    Manual(Arc<Mutex<Manual>>),
}

struct Manual {
    now: Duration,
    rng: StdRng,
    sleepers: Vec<(Duration, oneshot::Sender<()>)>,
}

/// Where a manual clock's wall time starts: 2026-01-01.
const MANUAL_EPOCH: Timestamp = Timestamp::from_micros(1_767_225_600_000_000);

impl Clock {
    /// The machine's clock and random numbers.
    pub fn system() -> Self {
        Clock(Inner::System)
    }

    /// A clock that stands still until [`advance`](Clock::advance)d, with dice from a seed.
    pub fn manual(seed: u64) -> Self {
        Clock(Inner::Manual(Arc::new(Mutex::new(Manual {
            now: Duration::ZERO,
            rng: StdRng::seed_from_u64(seed),
            sleepers: Vec::new(),
        }))))
    }

    /// Wall time.
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Inner::System => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH);
                Timestamp(micros(since.unwrap_or(Duration::ZERO)))
            }
            Inner::Manual(manual) => MANUAL_EPOCH + manual.lock().now,
        }
    }

    /// Monotonic time.
    pub fn tick(&self) -> Tick {
        self.read(ClockId::Monotonic)
    }

    /// Monotonic time that may lag by up to [`COARSE_LAG`], read in a few nanoseconds.
    #[cfg(target_os = "linux")]
    pub fn coarse_tick(&self) -> Tick {
        self.read(ClockId::MonotonicCoarse)
    }

    /// Monotonic time; this system has no cheaper clock.
    #[cfg(not(target_os = "linux"))]
    pub fn coarse_tick(&self) -> Tick {
        self.tick()
    }

    #[inline]
    fn read(&self, id: ClockId) -> Tick {
        match &self.0 {
            Inner::System => {
                let time = clock_gettime(id);
                let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
                let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
                Tick(seconds * 1_000_000_000 + nanos)
            }
            Inner::Manual(manual) => Tick::default() + manual.lock().now,
        }
    }

    /// Waits this long.
    pub async fn sleep(&self, duration: Duration) {
        match &self.0 {
            Inner::System => tokio::time::sleep(duration).await,
            Inner::Manual(manual) => {
                let woken = {
                    let mut manual = manual.lock();
                    let (wake, woken) = oneshot::channel();
                    let until = manual.now + duration;
                    if duration.is_zero() {
                        return;
                    }
                    manual.sleepers.push((until, wake));
                    woken
                };
                // The sender lives in the clock, which we hold: it cannot go away first.
                let _ = woken.await;
            }
        }
    }

    /// Waits until the given tick.
    pub async fn sleep_until(&self, until: Tick) {
        self.sleep(until.since(self.tick())).await;
    }

    /// The output of `future`, or `None` if it takes longer than `limit`; it is then dropped.
    pub async fn timeout<F: Future>(&self, limit: Duration, future: F) -> Option<F::Output> {
        tokio::select! {
            biased;
            output = future => Some(output),
            () = self.sleep(limit) => None,
        }
    }

    /// Steps a manual clock and wakes whoever has slept long enough, in order.
    ///
    /// # Panics
    /// On the system clock, which nobody can step.
    pub fn advance(&self, by: Duration) {
        let Inner::Manual(manual) = &self.0 else { panic!("only a manual clock can be advanced") };
        let mut manual = manual.lock();
        manual.now += by;
        let now = manual.now;
        let mut due: Vec<_> = manual.sleepers.extract_if(.., |(until, _)| *until <= now).collect();
        due.sort_by_key(|(until, _)| *until);
        for (_, wake) in due {
            let _ = wake.send(()); // a sleeper that was dropped needs no waking
        }
    }

    /// How long it takes until the first sleeper of a manual clock is due; `None` if nobody sleeps,
    /// or by the system's clock, which is not stepped.
    pub fn next_due(&self) -> Option<Duration> {
        let Inner::Manual(manual) = &self.0 else { return None };
        let manual = manual.lock();
        let awaited = manual.sleepers.iter().filter(|(_, wake)| !wake.is_closed());
        awaited.map(|(until, _)| until.saturating_sub(manual.now)).min()
    }

    /// A random number.
    pub fn random(&self) -> u64 {
        match &self.0 {
            // From the system each time: a generator of our own would be copied by a fork, and two
            // processes would draw the same identities and tokens.
            Inner::System => SysRng
                .try_next_u64()
                .expect("the system has random numbers: nothing here is safe without them"),
            Inner::Manual(manual) => manual.lock().rng.random(),
        }
    }

    /// A random duration below `limit`, or zero if that is zero.
    pub fn jitter(&self, limit: Duration) -> Duration {
        match micros(limit) {
            0 => Duration::ZERO,
            limit => Duration::from_micros(self.random() % limit),
        }
    }

    /// A random 128-bit identity as 32 hexadecimal digits.
    pub fn random_id(&self) -> String {
        format!("{:016x}{:016x}", self.random(), self.random())
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Inner::System => "Clock::System",
            Inner::Manual(_) => "Clock::Manual",
        })
    }
}

/// Sleeps in a thread that is not the runtime's, such as the SQLite writer.
#[cfg(feature = "sqlite")]
pub(crate) fn block_for(duration: Duration) {
    std::thread::sleep(duration);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_round_trip_as_rfc_3339() {
        let time = Timestamp::from_micros(1_767_225_600_000_001);
        assert_eq!(time.to_string(), "2026-01-01T00:00:00.000001Z");
        assert_eq!(time.to_string().parse::<Timestamp>().unwrap(), time);
        assert!("yesterday".parse::<Timestamp>().is_err());
    }

    #[test]
    fn the_coarse_clock_lags_by_less_than_its_margin() {
        let clock = Clock::system();
        for _ in 0..10_000 {
            // In this order, so that a stall in between does not count.
            let exact = clock.tick();
            let lag = exact.since(clock.coarse_tick());
            assert!(lag <= COARSE_LAG * 2, "the coarse clock lags by {lag:?}");
        }
    }

    #[tokio::test]
    async fn a_manual_clock_wakes_sleepers_only_when_stepped() {
        let clock = Clock::manual(1);
        let sleeper = tokio::spawn({
            let clock = clock.clone();
            async move { clock.sleep(Duration::from_secs(5)).await }
        });
        while clock.next_due().is_none() {
            tokio::task::yield_now().await;
        }
        clock.advance(Duration::from_secs(4));
        tokio::task::yield_now().await;
        assert!(!sleeper.is_finished());
        assert_eq!(clock.next_due(), Some(Duration::from_secs(1)));
        clock.advance(Duration::from_secs(1));
        sleeper.await.unwrap();
        assert_eq!(clock.next_due(), None);
    }

    #[tokio::test]
    async fn who_no_longer_sleeps_is_not_due() {
        let clock = Clock::manual(1);
        let (long, short) = (Duration::from_secs(5), Duration::from_secs(1));
        let sleeper = tokio::spawn({
            let clock = clock.clone();
            async move { clock.timeout(short, clock.sleep(long)).await }
        });
        while clock.next_due() != Some(short) {
            tokio::task::yield_now().await;
        }
        clock.advance(short);
        assert!(sleeper.await.unwrap().is_none());
        assert_eq!(clock.next_due(), None, "the sleep that was given up is not waited for");
    }
}
