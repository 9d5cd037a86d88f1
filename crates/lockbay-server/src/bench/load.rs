//! A closed loop of callers: each does one operation after the other, and is measured.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use lockbay::clock::Clock;

/// How long a number of operations took, together and each.
pub(super) struct Measured {
    count: usize,
    took: Duration,
    micros: Histogram<u64>,
}

impl Default for Measured {
    fn default() -> Self {
        // Three digits from 1 µs to a minute are always valid bounds.
        let micros = Histogram::new_with_bounds(1, 60_000_000, 3);
        Measured { count: 0, took: Duration::ZERO, micros: micros.expect("valid bounds") }
    }
}

impl Measured {
    pub(super) fn add(&mut self, other: Measured) {
        self.count += other.count;
        self.took += other.took;
        // Both have the same bounds.
        let _ = self.micros.add(&other.micros);
    }

    pub(super) fn per_second(&self) -> f64 {
        self.count as f64 / self.took.as_secs_f64().max(1e-9)
    }

    pub(super) fn millis(&self, percentile: f64) -> f64 {
        self.micros.value_at_percentile(percentile) as f64 / 1e3
    }
}

/// Runs `count` operations by `concurrency` callers; operation `n` is made by `operation(n)`.
pub(super) async fn run<F, O>(
    concurrency: usize,
    count: usize,
    operation: F,
) -> anyhow::Result<Measured>
where
    F: Fn(usize) -> O + Clone + Send + Sync + 'static,
    O: Future<Output = anyhow::Result<()>> + Send,
{
    let clock = Clock::system();
    let next = Arc::new(AtomicUsize::new(0));
    let began = clock.tick();
    let callers: Vec<_> = (0..concurrency)
        .map(|_| {
            let (next, operation, clock) = (Arc::clone(&next), operation.clone(), clock.clone());
            tokio::spawn(async move {
                // Numbers, and no histogram each: there may be a hundred thousand callers.
                let mut times = Vec::new();
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= count {
                        return anyhow::Ok(times);
                    }
                    let began = clock.tick();
                    operation(n).await?;
                    let took = clock.tick().since(began);
                    times.push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX).max(1));
                }
            })
        })
        .collect();
    let mut all = Measured::default();
    for caller in callers {
        for micros in caller.await?? {
            all.micros.saturating_record(u64::from(micros));
        }
    }
    all.count = count;
    all.took = clock.tick().since(began);
    Ok(all)
}
