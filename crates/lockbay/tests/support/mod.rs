//! What integration tests share: real servers, and a proxy that misbehaves on request.

#![allow(dead_code, unreachable_pub)] // every test binary uses its own part of it

pub mod proxy;
pub mod redis;

use std::time::{Duration, Instant};

/// How long a test waits for a condition before it fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `condition` gives a value; fails, saying what was awaited, when it never does.
pub async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut condition: impl FnMut() -> F,
) -> T {
    let since = now();
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(since.elapsed() < PATIENCE, "waited in vain: {what}");
        pause().await;
    }
}

/// A short breath between two looks at a condition.
pub async fn pause() {
    lockbay::clock::Clock::system().sleep(Duration::from_millis(10)).await;
}

/// The same for threads without a runtime.
#[allow(clippy::disallowed_methods)] // tests look at the real time to know when to give up
pub fn block() {
    std::thread::sleep(Duration::from_millis(5));
}

/// The real time.
#[allow(clippy::disallowed_methods)] // as above
pub fn now() -> Instant {
    Instant::now()
}
