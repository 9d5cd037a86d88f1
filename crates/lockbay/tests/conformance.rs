//! The store's contract on every backend, and the differential run against the oracle.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm)] // a test fails by panicking

mod support;

use std::path::Path;
use std::sync::Arc;

use lockbay::clock::Clock;
use lockbay::store::memory::{Memory, MemoryStore};
use lockbay::store::redis::RedisStore;
use lockbay::store::sqlite::SqliteStore;
use lockbay::store::{Store, conformance};
use support::redis::RedisServer;

fn sqlite(path: &Path) -> SqliteStore {
    SqliteStore::open(path, "conformance", Clock::system()).unwrap()
}

#[tokio::test]
async fn the_memory_store_keeps_the_contract() {
    let clock = Clock::manual(1);
    conformance::all(&MemoryStore::new(clock.clone()), &clock).await;
}

#[tokio::test]
async fn a_memory_store_that_is_emptied_or_set_back_is_found_out() {
    let memory = Memory::new(Clock::manual(1));
    let fresh = async || Arc::new(memory.client()) as Arc<dyn Store>;
    let client = memory.client();
    client.ping().await.unwrap();
    let old = memory.snapshot();
    conformance::a_store_that_loses_data_is_found_out(&client, async || memory.clear(), fresh)
        .await;
    let client = memory.client();
    conformance::a_store_that_loses_data_is_found_out(
        &client,
        async || memory.restore(&old),
        fresh,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sqlite_store_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    let store = sqlite(&dir.path().join("c.db"));
    conformance::all(&store, &Clock::system()).await;
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_answers_as_the_oracle_does() {
    let dir = tempfile::tempdir().unwrap();
    let store = sqlite(&dir.path().join("d.db"));
    for seed in seeds() {
        let oracle = MemoryStore::new(Clock::manual(seed));
        conformance::differential(&store, &oracle, seed, 400).await;
    }
    store.close().await;
}

async fn redis(url: &str) -> RedisStore {
    RedisStore::open(url, "conformance", Clock::system()).await.unwrap()
}

#[tokio::test]
async fn the_redis_store_keeps_the_contract() {
    let server = RedisServer::start();
    let store = redis(&server.url()).await;
    conformance::all(&store, &Clock::system()).await;
    store.close().await;
}

#[tokio::test]
async fn redis_answers_as_the_oracle_does() {
    let server = RedisServer::start_with(&["appendfsync no"]);
    let store = redis(&server.url()).await;
    for seed in seeds() {
        let oracle = MemoryStore::new(Clock::manual(seed));
        conformance::differential(&store, &oracle, seed, 400).await;
    }
    store.close().await;
}

#[tokio::test]
async fn a_redis_that_is_emptied_is_found_out() {
    let server = RedisServer::start();
    let url = server.url();
    let store = redis(&url).await;
    let fresh = async || Arc::new(redis(&url).await) as Arc<dyn Store>;
    conformance::a_store_that_loses_data_is_found_out(&store, async || server.flush_all(), fresh)
        .await;
}

/// A few fixed seeds and one that is new each time; a failure prints its own.
fn seeds() -> Vec<u64> {
    vec![1, 2, 3, Clock::system().random()]
}
