//! A store whose commits are timed, and which is the store beneath in everything else.
//!
//! It stands between the services and the store, so that no backend and no service has to know of
//! it: two readings of the clock and two additions for each commit.

use std::sync::Arc;

use async_trait::async_trait;
use tracing::Instrument;

use crate::clock::{Clock, Tick};
use crate::error::Result;
use crate::metrics::{Metric, Metrics};
use crate::store::{
    Commit, Description, Hints, Key, Kind, Page, Partition, Pong, Range, Read, Reply, Store, Upkeep,
};

pub(super) struct Timed {
    inner: Arc<dyn Store>,
    clock: Clock,
    metrics: Arc<Metrics>,
}

impl Timed {
    pub(super) fn new(inner: Arc<dyn Store>, clock: Clock, metrics: Arc<Metrics>) -> Self {
        Timed { inner, clock, metrics }
    }

    fn took(&self, begun: Tick) {
        self.metrics.observe(Metric::CommitSeconds, self.clock.tick().since(begun));
    }
}

#[async_trait]
impl Store for Timed {
    async fn get(&self, keys: &[Key]) -> Result<Read> {
        self.inner.get(keys).await
    }

    async fn scan(&self, range: &Range, limit: usize) -> Result<Page> {
        self.inner.scan(range, limit).await
    }

    async fn due(&self, partition: Partition, kind: Kind, limit: usize) -> Result<Page> {
        self.inner.due(partition, kind, limit).await
    }

    /// What was answered counts, refusals included; what failed does not.
    async fn commit(&self, commit: &Commit) -> Result<Reply> {
        let span = tracing::trace_span!(
            "commit",
            operation = ?commit.operation,
            writes = commit.writes.len(),
            guards = commit.guards.len(),
        );
        let begun = self.clock.tick();
        let reply = self.inner.commit(commit).instrument(span).await;
        if reply.is_ok() {
            self.took(begun);
        }
        reply
    }

    /// Those that went together count as one.
    async fn commit_all(&self, commits: &[Commit]) -> Vec<Result<Reply>> {
        let span = tracing::trace_span!("commit", commits = commits.len());
        let begun = self.clock.tick();
        let replies = self.inner.commit_all(commits).instrument(span).await;
        if replies.iter().any(Result::is_ok) {
            self.took(begun);
        }
        replies
    }

    async fn watch(&self, range: &Range) -> Result<Hints> {
        self.inner.watch(range).await
    }

    async fn ping(&self) -> Result<Pong> {
        self.inner.ping().await
    }

    fn describe(&self) -> Description {
        self.inner.describe()
    }

    fn upkeep(&self) -> &dyn Upkeep {
        self.inner.upkeep()
    }

    async fn accept(&self) -> Result<()> {
        self.inner.accept().await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}
