//! Looking at a trail while it is sealed: what is made meanwhile is no damage.

#![allow(clippy::unwrap_used)] // a test fails by panicking

#[path = "support/sealed.rs"]
mod sealed;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use lockbay::LockBay;
use lockbay::audit::Thoroughness;
use lockbay::clock::Clock;
use lockbay::error::Result;
use lockbay::store::memory::Memory;
use lockbay::store::{
    Commit, Description, Hints, Key, Kind, Page, Partition, Pong, Range, Read, Reply, Store, Upkeep,
};
use parking_lot::Mutex;
use sealed::{append, end, lead, quiet};

type Errand = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

/// A store that has something else done before it answers the next scan.
struct Interrupted {
    inner: Arc<dyn Store>,
    errand: Mutex<Option<Errand>>,
}

#[async_trait]
impl Store for Interrupted {
    async fn get(&self, keys: &[Key]) -> Result<Read> {
        self.inner.get(keys).await
    }
    async fn scan(&self, range: &Range, limit: usize) -> Result<Page> {
        let errand = self.errand.lock().take();
        if let Some(errand) = errand {
            errand().await;
        }
        self.inner.scan(range, limit).await
    }
    async fn due(&self, partition: Partition, kind: Kind, limit: usize) -> Result<Page> {
        self.inner.due(partition, kind, limit).await
    }
    async fn commit(&self, commit: &Commit) -> Result<Reply> {
        self.inner.commit(commit).await
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

/// Verifies a trail of so many seals, and seals once more when it begins to read.
async fn verified_while_sealing(seals: usize) {
    let clock = Clock::manual(3);
    let memory = Memory::new(clock.clone());
    let store =
        Arc::new(Interrupted { inner: Arc::new(memory.client()), errand: Mutex::default() });
    let bay = LockBay::with_store(quiet(), store.clone(), clock.clone());
    lead(&bay, &clock).await;
    for part in 0..seals {
        append(&*store, part * 10, 10, 2).await;
        bay.audit().seal_now().await.unwrap();
    }
    append(&*store, 100, 10, 2).await;
    let sealing = bay.clone();
    *store.errand.lock() = Some(Box::new(move || {
        Box::pin(async move {
            assert_eq!(sealing.audit().seal_now().await.unwrap(), 10);
        })
    }));
    let said = bay.audit().verify(Thoroughness::Log).await.unwrap();
    assert!(store.errand.lock().is_none());
    assert!(said.ok, "{:?}", said.problems);
    assert!(bay.audit().verify(Thoroughness::Log).await.unwrap().ok);
    assert_eq!(bay.metrics().value(lockbay::metrics::Metric::AuditBroken), 0);
    end(&bay, &clock).await;
}

#[tokio::test]
async fn a_seal_that_is_made_while_a_trail_is_verified_is_no_damage() {
    verified_while_sealing(3).await;
}

#[tokio::test]
async fn the_very_first_seal_while_a_trail_is_verified_is_no_damage() {
    verified_while_sealing(0).await;
}
