//! Which instances there are: each says so in one record, which it writes again every ten seconds.
//!
//! The record is a sign of life for people and grants nothing: who leads, and who executes sagas,
//! rests on rights of their own. Its deadline is thrice the time between two writes, so that a slow
//! store does not make an instance look gone. One that ends in order takes its record away; what a
//! crash left behind is removed by the next instance that begins.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Timestamp};
use crate::error::{Error, ErrorKind, Result};
use crate::store::{Commit, Deadline, Guard, Key, Kind, Partition, Range, Record, Store, Write};

/// An instance that lives. Key: its id.
const INSTANCE: Kind = Kind::new("instance");

/// The time between two signs of life.
const EVERY: Duration = Duration::from_secs(10);
/// How long an instance counts as there after its last sign of life.
const KEPT: Duration = Duration::from_secs(30);
/// How many records of the dead are removed at once.
const REMOVED: usize = 100;
/// How long the end waits for the store to take the record away.
const LEAVE_WITHIN: Duration = Duration::from_millis(300);

#[derive(Debug, Clone, Serialize, Deserialize)]
struct InstanceRecord {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    instance_name: Option<String>,
    service: String,
    version: String,
    started_at: Timestamp,
}

/// An instance as it said of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InstanceInfo {
    /// The random identity of the process.
    pub instance_id: String,
    /// A name for people; not an identity.
    pub instance_name: Option<String>,
    /// The service whose leader it runs for.
    pub service: String,
    /// The version of LockBay that it runs.
    pub version: String,
    /// When it began, by its own clock.
    pub started_at: Timestamp,
    /// When it last gave a sign of life, by the store's clock.
    pub last_seen: Timestamp,
}

/// The instances on a store. Cheap to clone.
#[derive(Clone)]
pub struct Instances {
    store: Arc<dyn Store>,
    clock: Clock,
    instance_id: Arc<str>,
    instance_name: Option<Arc<str>>,
    service: Arc<str>,
}

impl Instances {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        clock: Clock,
        (instance_id, instance_name): (&str, Option<&str>),
        service: &str,
    ) -> Self {
        let instance_name = instance_name.map(Arc::from);
        Instances {
            store,
            clock,
            instance_id: instance_id.into(),
            instance_name,
            service: service.into(),
        }
    }

    /// A page of those that gave a sign of life within half a minute, in the order of their ids, and
    /// behind which id the next page begins. None are there with `monitoring` off.
    ///
    /// # Errors
    /// `Unavailable` if the store does not answer.
    pub async fn list(
        &self,
        after: Option<String>,
        limit: usize,
    ) -> Result<(Vec<InstanceInfo>, Option<String>)> {
        let range = Range::new(Partition::FIRST, INSTANCE, "").after(after);
        let page = self.store.scan(&range, limit).await?;
        let next = page.records.last().filter(|_| page.more).map(|last| last.key.id.to_string());
        let alive = page.records.iter().filter(|record| !record.lapsed(page.now));
        Ok((alive.filter_map(info).collect(), next))
    }

    /// Gives signs of life until stopped, and then takes the record away.
    pub(crate) async fn announce(self, stop: CancellationToken) {
        let started_at = self.clock.now();
        if let Err(error) = self.remove_the_dead().await {
            tracing::debug!(%error, "records of instances that died stay until the next begins");
        }
        loop {
            if let Err(error) = self.write(started_at).await {
                tracing::debug!(%error, "no sign of life: the store did not take it");
            }
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.clock.sleep(EVERY) => {}
            }
        }
        if let Some(Err(error)) = self.clock.timeout(LEAVE_WITHIN, self.leave()).await {
            tracing::debug!(%error, "the record of this instance lapses by itself");
        }
    }

    async fn write(&self, started_at: Timestamp) -> Result<()> {
        let content = InstanceRecord {
            instance_name: self.instance_name.as_deref().map(str::to_owned),
            service: self.service.as_ref().to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at,
        };
        let value = serde_json::to_vec(&content).map_err(|error| {
            Error::new(ErrorKind::Internal, "an instance has no JSON form").with_source(error)
        })?;
        let put = Write::Put { key: self.key(), value, deadline: Deadline::After(KEPT) };
        self.commit(Vec::new(), vec![put]).await
    }

    async fn leave(&self) -> Result<()> {
        self.commit(Vec::new(), vec![Write::Delete { key: self.key() }]).await
    }

    async fn remove_the_dead(&self) -> Result<()> {
        let due = self.store.due(Partition::FIRST, INSTANCE, REMOVED).await?;
        for Record { key, revision, .. } in due.records {
            let guards = vec![Guard::RevisionIs(key.clone(), revision), Guard::Lapsed(key.clone())];
            self.commit(guards, vec![Write::Delete { key }]).await?;
        }
        Ok(())
    }

    /// A guard that does not hold is no error: then somebody else was here.
    async fn commit(&self, guards: Vec<Guard>, writes: Vec<Write>) -> Result<()> {
        let commit = Commit::new(Partition::FIRST, guards, writes, Vec::new())?;
        self.store.commit(&commit).await.map(drop)
    }

    fn key(&self) -> Key {
        Key::new(Partition::FIRST, INSTANCE, &*self.instance_id)
    }
}

/// What cannot be read was written by another version, and is left out.
fn info(record: &Record) -> Option<InstanceInfo> {
    let content: InstanceRecord = serde_json::from_slice(&record.value).ok()?;
    Some(InstanceInfo {
        instance_id: record.key.id.to_string(),
        instance_name: content.instance_name,
        service: content.service,
        version: content.version,
        started_at: content.started_at,
        last_seen: record.deadline? - KEPT,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_that_dies_is_listed_no_more_and_its_record_goes_with_the_next_that_begins() {
        let clock = Clock::manual(1);
        let store = crate::store::open("memory:", &clock).await.unwrap();
        let instance = |id: &str, name| {
            Instances::new(Arc::clone(&store), clock.clone(), (id, Some(name)), "pay")
        };
        let (dead, next) = (instance("a", "web-1"), instance("b", "web-2"));
        dead.write(clock.now()).await.unwrap();
        let (found, more) = next.list(None, 10).await.unwrap();
        assert_eq!((found.len(), more), (1, None));
        let seen = found.first().unwrap();
        assert_eq!((seen.instance_id.as_str(), seen.last_seen), ("a", clock.now()));
        assert_eq!(seen.instance_name.as_deref(), Some("web-1"));
        clock.advance(EVERY * 2);
        next.remove_the_dead().await.unwrap();
        assert_eq!(next.list(None, 10).await.unwrap().0.len(), 1, "it may only be slow");
        clock.advance(KEPT);
        assert_eq!(next.list(None, 10).await.unwrap().0, []);
        next.remove_the_dead().await.unwrap();
        let range = Range::new(Partition::FIRST, INSTANCE, "");
        assert!(store.scan(&range, 10).await.unwrap().records.is_empty());
    }
}
