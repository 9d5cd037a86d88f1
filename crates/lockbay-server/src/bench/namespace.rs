//! Where the benchmark works: a namespace that nobody else has, and that is gone afterwards.
//!
//! Whatever the URL names, the namespace is one that was made for this run. So what is emptied at
//! the end can only be what the benchmark wrote.

use lockbay::clock::Clock;
use lockbay::store::{self, Commit, Kind, MAX_PAGE, Partition, Range, Store, Write};

use super::{job, saga, state};

/// What LockBay keeps in a store: the kinds of docs/store.md.
const OURS: [&str; 49] = [
    "leader",
    "instance",
    "lease",
    "job",
    "job-list",
    "account",
    "posting",
    "simulated-payout",
    "posting-time",
    "saga",
    "saga-log",
    "saga-list",
    "saga-inbox",
    "session",
    "schedule",
    "schedule-bell",
    "handler",
    "task",
    "task-request",
    "task-queue",
    "state",
    "state-tag",
    "state-rule",
    "state-dependency",
    "state-head",
    "state-intent",
    "audit",
    "audit-checkpoint",
    "audit-head",
    "audit-key",
    "sweep-rule",
    "sweep-progress",
    "sweep-request",
    "alert-rule",
    "alert-state",
    "history",
    "alert-book",
    "alert-silence",
    "alert-notice",
    "alert-notice-list",
    "approval",
    "approval-list",
    "search-head",
    "search-words",
    "search-docs",
    "token",
    "token-use",
    "access-head",
    "access-session",
];

/// What the bare store is measured with.
const RAW: [Kind; 6] =
    [job::RAW, job::RAW_LIST, saga::RAW, saga::RAW_LOG, saga::RAW_LIST, state::RAW];

/// The URL with a namespace of its own in the place of the one that it names.
pub(super) fn own(url: &str) -> String {
    if url.starts_with("memory:") {
        return url.to_owned();
    }
    let (base, query) = url.split_once('?').unwrap_or((url, ""));
    let others: String = query
        .split('&')
        .filter(|part| !part.is_empty() && !part.starts_with("namespace="))
        .map(|part| format!("{part}&"))
        .collect();
    format!("{base}?{others}namespace=bench-{}", Clock::system().random_id())
}

/// Removes everything in the namespace of this URL, once nobody writes there any more.
pub(super) async fn empty(url: &str, clock: &Clock) -> anyhow::Result<()> {
    let store = store::open(url, clock).await?;
    for kind in OURS.map(Kind::new).into_iter().chain(RAW) {
        empty_kind(&*store, kind).await?;
    }
    store.close().await;
    Ok(())
}

async fn empty_kind(store: &dyn Store, kind: Kind) -> anyhow::Result<()> {
    loop {
        let page = store.scan(&Range::new(Partition::FIRST, kind, ""), MAX_PAGE).await?;
        let writes: Vec<Write> =
            page.records.into_iter().map(|record| Write::Delete { key: record.key }).collect();
        if writes.is_empty() {
            return Ok(());
        }
        store.commit(&Commit::new(Partition::FIRST, vec![], writes, vec![])?).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_benchmark_never_works_in_the_namespace_that_a_url_names() {
        for (url, begins) in [
            ("sqlite:a.db", "sqlite:a.db?namespace=bench-"),
            ("sqlite:a.db?namespace=pay", "sqlite:a.db?namespace=bench-"),
            ("redis://h?namespace=pay&ca=x", "redis://h?ca=x&namespace=bench-"),
            ("redis://h?ca=x", "redis://h?ca=x&namespace=bench-"),
        ] {
            let (one, other) = (own(url), own(url));
            assert!(one.starts_with(begins), "{one}");
            assert_ne!(one, other);
        }
        assert_eq!(own("memory:"), "memory:");
    }

    #[test]
    fn every_kind_of_the_document_is_emptied() {
        let document = include_str!("../../../../docs/store.md");
        let table = document.split("## Kinds of records").nth(1).unwrap_or_default();
        let table = table.trim_start().lines().take_while(|line| line.starts_with('|'));
        let kinds: Vec<&str> = table.filter_map(|row| row.split('`').nth(1)).collect();
        assert_eq!(kinds, OURS);
    }
}
