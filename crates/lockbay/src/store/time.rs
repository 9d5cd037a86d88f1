//! The store's time, as well as this process knows it between two answers.
//!
//! Deadlines and retries are moments of the store's clock, so that all instances mean the same.
//! An answer of the store tells its time; until the next one it goes on with the monotonic clock.
//! What was asked for long ago, or more than once, may be answered with a time that has passed, and
//! is not listened to.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::{Clock, Tick, Timestamp, micros};

/// How often an answer's time is taken.
const TAKE_EVERY: Duration = Duration::from_millis(500);
/// How long an answer may take whose time is taken, which bounds how far off it is.
const FRESH: Duration = Duration::from_millis(250);

/// What is known of the store's time.
pub(crate) struct StoreTime {
    clock: Clock,
    /// The store's time in microseconds less the monotonic clock's, wrapping.
    ahead: AtomicU64,
    /// The tick at which that was last taken, in microseconds.
    taken: AtomicU64,
}

impl StoreTime {
    /// Until the store has answered, this machine's time is taken for it.
    pub(crate) fn new(clock: Clock) -> Self {
        let ahead = clock.now().as_micros().wrapping_sub(ticks(&clock));
        StoreTime { clock, ahead: AtomicU64::new(ahead), taken: AtomicU64::new(0) }
    }

    /// The store's time now.
    pub(crate) fn now(&self) -> Timestamp {
        let ahead = self.ahead.load(Ordering::Relaxed);
        Timestamp::from_micros(ticks(&self.clock).wrapping_add(ahead))
    }

    /// Whether the store has told its time yet.
    pub(crate) fn is_known(&self) -> bool {
        self.taken.load(Ordering::Acquire) != 0
    }

    /// The store has told its time, to somebody who first asked at this tick.
    pub(crate) fn told(&self, now: Timestamp, asked: Tick) {
        let tick = ticks(&self.clock);
        let taken = self.taken.load(Ordering::Relaxed);
        let soon = tick.saturating_sub(taken) < micros(TAKE_EVERY);
        let stale = tick.saturating_sub(asked.as_nanos() / 1_000) > micros(FRESH);
        if taken != 0 && (soon || stale) {
            return;
        }
        self.ahead.store(now.as_micros().wrapping_sub(tick), Ordering::Release);
        self.taken.store(tick.max(1), Ordering::Release);
    }
}

fn ticks(clock: &Clock) -> u64 {
    clock.tick().as_nanos() / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_on_with_the_clock_and_follows_the_store_both_ways() {
        let clock = Clock::manual(1);
        let time = StoreTime::new(clock.clone());
        assert!(!time.is_known());
        let store = clock.now() + Duration::from_secs(100);
        time.told(store, clock.tick());
        assert!(time.is_known());
        assert_eq!(time.now(), store);
        clock.advance(Duration::from_secs(3));
        assert_eq!(time.now(), store + Duration::from_secs(3));
        let earlier = store - Duration::from_secs(50);
        time.told(earlier, clock.tick());
        assert_eq!(time.now(), earlier);
    }

    #[test]
    fn an_answer_that_was_repeated_does_not_set_it_back() {
        let clock = Clock::manual(1);
        let time = StoreTime::new(clock.clone());
        let store = clock.now();
        time.told(store, clock.tick());
        let asked = clock.tick();
        clock.advance(Duration::from_secs(3));
        time.told(store, asked);
        assert_eq!(time.now(), store + Duration::from_secs(3));
    }
}
