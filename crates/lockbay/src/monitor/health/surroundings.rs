//! What an instance stands on and cannot mend: the clocks, the disk, schedules that nobody can read.

use std::time::Duration;

use super::check::{Finding, Past};
use crate::clock::{Clock, Timestamp};
use crate::error::Result;
use crate::schedule::{ScheduleFilter, Schedules};
use crate::store::Volume;

/// How far the clocks of this machine and of the store may be apart.
pub const MAX_SKEW: Duration = Duration::from_secs(1);
/// With less free space than this commits are about to fail.
const FULL_BYTES: u64 = 64 * 1024 * 1024;
/// With less than this, or than a twentieth of the volume, it is time to look. Of a large volume no
/// more than this is asked.
const LOW_BYTES: u64 = 1024 * 1024 * 1024;
/// Schedules are looked at once in a while, because each may be large.
const SCHEDULES_EVERY: Duration = Duration::from_secs(60);
/// So many of them.
const SCHEDULES_LOOKED_AT: usize = 200;
/// So many reasons are told one by one.
const MAX_REASONS: usize = 5;

/// Whether the clocks agree. Both were read within the round trip, so a difference inside it proves
/// nothing.
pub(super) fn clocks(asked: Timestamp, store: Timestamp, took: Duration) -> Finding {
    let behind = asked.since(store);
    let apart = behind.max(store.since(asked).saturating_sub(took));
    if apart <= MAX_SKEW {
        return Finding::default();
    }
    let word = if behind.is_zero() { "behind" } else { "ahead of" };
    Finding::warning(format!(
        "clock: this machine's is {:.1} s {word} the store's; set both by NTP: rights are safe, \
         but the times that people see are wrong",
        apart.as_secs_f64()
    ))
}

/// Whether the volume of the store's file has room.
pub(super) fn disk(volume: Option<Volume>) -> Finding {
    let Some(Volume { free_bytes, total_bytes }) = volume else { return Finding::default() };
    let mib = free_bytes / (1024 * 1024);
    if free_bytes < FULL_BYTES {
        return Finding::issue(format!(
            "disk: {mib} MiB are free where the store's file is, and commits are about to fail; \
             make room now"
        ));
    }
    if free_bytes < (total_bytes / 20).min(LOW_BYTES) {
        return Finding::warning(format!(
            "disk: only {mib} MiB are free where the store's file is; make room, or see \
             `lockbay cleanup optimize-memory`"
        ));
    }
    Finding::default()
}

/// Whether what is measured is kept.
pub(super) fn history(stands_still: Option<Duration>) -> Finding {
    stands_still.map_or_else(Finding::default, |idle| {
        let seconds = idle.as_secs();
        Finding::warning(format!(
            "history: no sample was stored for {seconds} s, so alerts and trends see nothing new; \
             see the log of this instance"
        ))
    })
}

/// Whether all schedules can be read; looked up once a minute.
pub(super) async fn schedules(
    schedules: &Schedules,
    clock: &Clock,
    past: &mut Past,
    limit: Duration,
) -> Finding {
    let now = clock.tick();
    if let Some((at, found)) = &past.schedules
        && now.since(*at) < SCHEDULES_EVERY
    {
        return found.clone();
    }
    let filter = ScheduleFilter::default();
    let list = schedules.list(&filter, None, SCHEDULES_LOOKED_AT);
    let found = match clock.timeout(limit, list).await {
        Some(page) => problems(page),
        None => Finding::warning(format!("schedules: no answer within {limit:?}")),
    };
    past.schedules = Some((now, found.clone()));
    found
}

fn problems(page: Result<crate::schedule::SchedulePage>) -> Finding {
    let page = match page {
        Ok(page) => page,
        Err(error) => return Finding::warning(format!("schedules: {error}")),
    };
    let mut stuck: Vec<String> = page
        .items
        .iter()
        .filter_map(|schedule| {
            let problem = schedule.problem.as_ref()?;
            Some(format!("schedules: {} stands still: {problem}", schedule.job_id))
        })
        .collect();
    if stuck.len() > MAX_REASONS {
        let more = stuck.len() - MAX_REASONS;
        stuck.truncate(MAX_REASONS);
        stuck.push(format!("schedules: {more} more stand still; see `lockbay schedule list`"));
    }
    Finding { issues: Vec::new(), warnings: stuck }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1024 * 1024 * 1024;

    #[test]
    fn a_volume_is_low_before_it_is_full() {
        let of = |free_bytes, total_bytes| disk(Some(Volume { free_bytes, total_bytes }));
        assert!(of(500 * GIB, 1_000 * GIB).warnings.is_empty());
        assert!(of(2 * GIB, 1_000 * GIB).warnings.is_empty(), "that is plenty");
        assert_eq!(of(GIB / 2, 1_000 * GIB).warnings.len(), 1);
        assert!(of(GIB / 2, GIB).warnings.is_empty(), "half of a small volume is free");
        assert_eq!(of(GIB / 32, GIB).issues.len(), 1);
        assert!(disk(None).issues.is_empty());
    }

    #[test]
    fn a_slow_answer_is_no_skew() {
        let now = Timestamp::from_micros(1_000_000_000);
        let second = Duration::from_secs(1);
        assert!(clocks(now, now + second * 3, second * 3).warnings.is_empty());
        assert!(clocks(now, now + second * 3, second).warnings[0].contains("2.0 s behind"));
        assert!(clocks(now, now - second * 3, second).warnings[0].contains("3.0 s ahead of"));
    }
}
