//! History on real stores: what was sampled outlives its process, and others read it.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod support;

use std::sync::Arc;
use std::time::Duration;

use lockbay::clock::Clock;
use lockbay::config::{Config, Span};
use lockbay::metrics::Metric;
use lockbay::monitor::series::increase;
use lockbay::store::Store;
use lockbay::store::redis::RedisStore;
use lockbay::store::sqlite::SqliteStore;
use lockbay::{LockBay, Result};
use support::eventually;
use support::redis::RedisServer;

const PATH: &str = "saga_metrics.sagas_failed";

fn instance(name: &str, store: Arc<dyn Store>) -> LockBay {
    let config = Config {
        instance_name: Some(name.into()),
        monitoring_interval: Span(Duration::from_secs(1)),
        ..Config::default()
    };
    let bay = LockBay::with_store(config, store, Clock::system());
    bay.start();
    bay
}

/// The failures of the last ten minutes, over all instances, and how many lives there were.
async fn failures(bay: &LockBay) -> (Option<f64>, usize) {
    let to = bay.history().now().await.unwrap();
    let from = to - Duration::from_secs(600);
    let tracks = bay.history().tracks(PATH, from, to).await.unwrap();
    (increase(&tracks, from, to), tracks.len())
}

async fn outlives(open: impl AsyncFn() -> Result<Arc<dyn Store>>) {
    let first = instance("one", open().await.unwrap());
    first.metrics().add(Metric::SagasFailed, 3);
    eventually("the failures are sampled", async || {
        (failures(&first).await.0 == Some(3.0)).then_some(())
    })
    .await;
    first.metrics().add(Metric::SagasFailed, 1);
    first.shutdown().await;
    let second = instance("one", open().await.unwrap());
    second.metrics().add(Metric::SagasFailed, 2);
    let other = instance("two", open().await.unwrap());
    eventually("both lives are seen by another instance", async || {
        (failures(&other).await == (Some(6.0), 3)).then_some(())
    })
    .await;
    second.shutdown().await;
    other.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn samples_outlive_their_process_on_real_stores() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("history.db");
    outlives(async || {
        Ok(Arc::new(SqliteStore::open(&file, "history", Clock::system())?) as Arc<dyn Store>)
    })
    .await;
    let server = RedisServer::start_with(&["appendonly no"]);
    outlives(async || {
        let store = RedisStore::open(&server.url(), "history", Clock::system()).await?;
        Ok(Arc::new(store) as Arc<dyn Store>)
    })
    .await;
}
