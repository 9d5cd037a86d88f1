//! How often somebody may ask, and how often an address may fail to say who it is.
//!
//! Both are counted in this process, in bounded memory. When more are counted apart than there is
//! room for, those who come then share one count.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use governor::nanos::Nanos;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};
use lockbay::clock::{Clock, Tick};

use super::access::Means;

/// How many failures an address has in a second, and how many at once.
const FAILURES: NonZeroU32 = NonZeroU32::MIN.saturating_add(9);
const FAILURES_AT_ONCE: NonZeroU32 = NonZeroU32::MIN.saturating_add(19);
/// How many are counted apart.
const MOST: usize = 100_000;
/// What those share for whom there is no room.
const OTHERS: &str = "";

/// What is counted.
pub(super) struct Limits {
    requests: Option<Counter>,
    failures: Counter,
    /// Until when addresses that failed too often are barred.
    barred: Mutex<HashMap<String, Tick>>,
    clock: Clock,
}

impl Limits {
    /// At most so many requests a second for each; zero is no limit.
    pub(super) fn new(clock: &Clock, requests: u32) -> Self {
        let requests = NonZeroU32::new(requests).map(Quota::per_second);
        let failures = Quota::per_second(FAILURES).allow_burst(FAILURES_AT_ONCE);
        Limits {
            requests: requests.map(|quota| Counter::new(quota, clock)),
            failures: Counter::new(failures, clock),
            barred: Mutex::default(),
            clock: clock.clone(),
        }
    }

    /// Counts a request; how long to wait if it is one too many.
    pub(super) fn requested(&self, by: &Means, from: Option<SocketAddr>) -> Option<Duration> {
        let requests = self.requests.as_ref()?;
        let who = match by {
            Means::Nothing => network(from?),
            // As many sessions as somebody may begin: they share what their token has.
            Means::Token(id) | Means::Session(id) => format!("token {id}"),
            Means::Certificate(fingerprint) => format!("certificate {fingerprint}"),
        };
        requests.count(who)
    }

    /// Counts a failure; how long to wait if it is one too many.
    pub(super) fn failed(&self, from: Option<SocketAddr>) -> Option<Duration> {
        let network = network(from?);
        let wait = self.failures.count(network.clone())?;
        let now = self.clock.tick();
        let mut barred = self.list();
        if barred.len() >= MOST {
            barred.retain(|_, until| now < *until);
        }
        if barred.len() < MOST {
            barred.insert(network, now + wait);
        }
        Some(wait)
    }

    /// How long an address has to wait that failed too often.
    pub(super) fn barred(&self, from: Option<SocketAddr>) -> Option<Duration> {
        let mut barred = self.list();
        if barred.is_empty() {
            return None;
        }
        let (network, now) = (network(from?), self.clock.tick());
        let left = barred.get(&network)?.since(now);
        if left.is_zero() {
            barred.remove(&network);
            return None;
        }
        Some(left)
    }

    fn list(&self) -> MutexGuard<'_, HashMap<String, Tick>> {
        self.barred.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who shares an address: of IPv6, whoever has one can have 2^64.
fn network(from: SocketAddr) -> String {
    match from.ip().to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).to_string()
        }
    }
}

/// The clock by which is counted.
#[derive(Clone)]
struct Ticks(Clock);

impl governor::clock::Clock for Ticks {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::new(self.0.tick().as_nanos())
    }
}

type Governor = RateLimiter<
    String,
    HashMapStateStore<String>,
    Ticks,
    governor::middleware::NoOpMiddleware<Nanos>,
>;

struct Counter {
    governor: Governor,
    ticks: Ticks,
    /// When what is at rest was last forgotten, in nanoseconds.
    tidied: AtomicU64,
    most: usize,
}

impl Counter {
    fn new(quota: Quota, clock: &Clock) -> Self {
        let ticks = Ticks(clock.clone());
        let governor = RateLimiter::hashmap_with_clock(quota, ticks.clone());
        Counter { governor, ticks, tidied: AtomicU64::new(0), most: MOST }
    }

    /// How long to wait, if this is one too many.
    fn count(&self, who: String) -> Option<Duration> {
        let who = if self.has_room() { who } else { OTHERS.to_owned() };
        let early = self.governor.check_key(&who).err()?;
        let now = governor::clock::Clock::now(&self.ticks);
        Some(early.wait_time_from(now))
    }

    /// Whether there is room for another, once those at rest are forgotten. That takes its time, so
    /// it is not done more than once a second.
    fn has_room(&self) -> bool {
        if self.governor.len() < self.most {
            return true;
        }
        let now = governor::clock::Clock::now(&self.ticks).as_u64();
        let tidied = self.tidied.load(Ordering::Relaxed);
        let is_time = now.saturating_sub(tidied) >= 1_000_000_000;
        let (taken, ignored) = (Ordering::Relaxed, Ordering::Relaxed);
        if is_time && self.tidied.compare_exchange(tidied, now, taken, ignored).is_ok() {
            self.governor.retain_recent();
            self.governor.shrink_to_fit();
        }
        self.governor.len() < self.most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(address: &str) -> Option<SocketAddr> {
        Some(SocketAddr::new(address.parse().unwrap(), 1))
    }

    #[test]
    fn each_token_has_its_own_limit_and_gets_room_again_with_time() {
        let clock = Clock::manual(1);
        clock.advance(Duration::from_secs(10));
        let limits = Limits::new(&clock, 5);
        let (a, b) = (Means::Token("a".into()), Means::Token("b".into()));
        for _ in 0..5 {
            assert_eq!(limits.requested(&a, None), None);
        }
        let wait = limits.requested(&a, None).unwrap();
        assert!(wait > Duration::ZERO && wait <= Duration::from_millis(200), "{wait:?}");
        assert_eq!(limits.requested(&b, None), None);
        // A session of the token has no more room than the token itself.
        assert!(limits.requested(&Means::Session("a".into()), None).is_some());
        clock.advance(wait);
        assert_eq!(limits.requested(&a, None), None);
        let unlimited = Limits::new(&clock, 0);
        assert!((0..100_000).all(|_| unlimited.requested(&a, None).is_none()));
    }

    #[test]
    fn an_address_that_fails_too_often_is_barred_for_a_moment_and_no_other_is() {
        let clock = Clock::manual(1);
        let limits = Limits::new(&clock, 0);
        for _ in 0..20 {
            assert_eq!(limits.failed(from("2001:db8::1")), None);
            assert_eq!(limits.barred(from("2001:db8::1")), None);
        }
        let wait = limits.failed(from("2001:db8::2")).unwrap();
        assert_eq!(limits.barred(from("2001:db8::3")), Some(wait));
        assert_eq!(limits.barred(from("2001:db8:0:1::3")), None);
        assert_eq!(limits.barred(from("10.0.0.1")), None);
        clock.advance(wait);
        assert_eq!(limits.barred(from("2001:db8::3")), None);
        assert_eq!(limits.failed(from("2001:db8::2")), None);
    }

    #[test]
    fn what_is_counted_is_bounded_and_those_without_room_share_a_count() {
        let clock = Clock::manual(1);
        clock.advance(Duration::from_secs(10));
        let mut counter = Counter::new(Quota::per_second(NonZeroU32::MIN), &clock);
        counter.most = 10;
        for n in 0..10 {
            assert_eq!(counter.count(format!("{n}")), None);
        }
        assert_eq!(counter.count("one more".into()), None);
        assert!(counter.count("and another".into()).is_some(), "they share a count");
        assert!(counter.governor.len() <= 11);
        clock.advance(Duration::from_secs(5));
        assert_eq!(counter.count("later".into()), None);
        assert!(counter.governor.len() <= 2, "what is at rest is forgotten");
    }
}
