//! Values set, read and loaded, by the state service and by hand.

use std::sync::Arc;

use lockbay::state::{LoadOptions, SetOptions};
use lockbay::store::{Commit, Deadline, Guard, Key, Kind, Partition, Reply, Write};
use lockbay::{Json, LockBay};

use super::load::{self, Measured};

/// What the bare store writes.
pub(super) const RAW: Kind = Kind::new("bench-state");
/// Keys that are read again and again.
const HOT: usize = 100;
/// Callers that want one key at once.
const STAMPEDE: usize = 100;

fn value() -> anyhow::Result<Json> {
    Ok(Json::parse(r#"{"balance":"1000.00","currency":"USD","holds":[]}"#)?)
}

/// Reads values that are at hand.
pub(super) async fn cached(
    bay: &LockBay,
    callers: usize,
    count: usize,
) -> anyhow::Result<Measured> {
    let keys: Arc<Vec<String>> = Arc::new((0..HOT).map(|n| format!("hot:{n}")).collect());
    for key in keys.iter() {
        bay.state().set(key, value()?, SetOptions::default()).await?;
        bay.state().get(key).await?;
    }
    let state = bay.state().clone();
    load::run(callers, count, move |n| {
        let (state, keys) = (state.clone(), Arc::clone(&keys));
        async move {
            let found = state.get(&keys[n % HOT]).await?;
            anyhow::ensure!(found.is_some(), "a value is gone");
            Ok(())
        }
    })
    .await
}

/// Reads values that were not read before.
pub(super) async fn read(bay: &LockBay, callers: usize, count: usize) -> anyhow::Result<Measured> {
    let run = bay.clock().random_id();
    let name = move |n: usize| format!("cold:{n}:{run}");
    let state = bay.state().clone();
    load::run(callers.max(64), count, {
        let (state, name) = (state.clone(), name.clone());
        move |n| {
            let (state, key) = (state.clone(), name(n));
            async move { Ok(state.set(&key, value()?, SetOptions::default()).await.map(drop)?) }
        }
    })
    .await?;
    load::run(callers, count, move |n| {
        let (state, key) = (state.clone(), name(n));
        async move {
            anyhow::ensure!(state.get(&key).await?.is_some(), "a value is gone");
            Ok(())
        }
    })
    .await
}

/// Sets values.
pub(super) async fn set(bay: &LockBay, callers: usize, count: usize) -> anyhow::Result<Measured> {
    let run = bay.clock().random_id();
    let state = bay.state().clone();
    load::run(callers, count, move |n| {
        let (state, key) = (state.clone(), format!("set:{n}:{run}"));
        async move { Ok(state.set(&key, value()?, SetOptions::default()).await.map(drop)?) }
    })
    .await
}

/// Loads values, each wanted by a hundred callers at once; counts the callers.
pub(super) async fn stampede(
    bay: &LockBay,
    callers: usize,
    count: usize,
) -> anyhow::Result<Measured> {
    let run = bay.clock().random_id();
    let state = bay.state().clone();
    load::run(callers, count, move |n| {
        let (state, key) = (state.clone(), format!("load:{}:{run}", n / STAMPEDE));
        async move {
            let loader = || async { Json::parse(r#"{"rate":"1.0837"}"#) };
            state.get_or_load(&key, LoadOptions::default(), loader).await?;
            Ok(())
        }
    })
    .await
}

/// The bare store reading one record at a time, each once.
pub(super) async fn raw_read(
    bay: &LockBay,
    callers: usize,
    count: usize,
) -> anyhow::Result<Measured> {
    let run = bay.clock().random_id();
    let key = move |n: usize| Key::new(Partition::FIRST, RAW, format!("cold:{n}:{run}"));
    let store = bay.store().clone();
    load::run(callers.max(64), count, {
        let (store, key) = (store.clone(), key.clone());
        move |n| {
            let (store, key) = (store.clone(), key(n));
            async move { put(&*store, key).await }
        }
    })
    .await?;
    load::run(callers, count, move |n| {
        let (store, key) = (store.clone(), key(n));
        async move {
            let read = store.get(&[key]).await?;
            anyhow::ensure!(read.records.iter().all(Option::is_some), "a record is gone");
            Ok(())
        }
    })
    .await
}

/// The bare store making the writes of a set.
pub(super) async fn raw_set(
    bay: &LockBay,
    callers: usize,
    count: usize,
) -> anyhow::Result<Measured> {
    let run = bay.clock().random_id();
    let store = bay.store().clone();
    load::run(callers, count, move |n| {
        let store = store.clone();
        let key = Key::new(Partition::FIRST, RAW, format!("set:{n}:{run}"));
        async move { put(&*store, key).await }
    })
    .await
}

async fn put(store: &dyn lockbay::store::Store, key: Key) -> anyhow::Result<()> {
    let head = Key::new(Partition::FIRST, RAW, "head");
    let put = Write::Put {
        key: key.clone(),
        value: format!(r#"{{"value":{{"json":{}}}}}"#, value()?.text()).into_bytes(),
        deadline: Deadline::Never,
    };
    let commit = Commit::new(Partition::FIRST, vec![Guard::Absent(head)], vec![put], vec![key])?;
    match store.commit(&commit).await? {
        Reply::Committed { .. } => Ok(()),
        conflict @ Reply::Conflict { .. } => anyhow::bail!("refused: {conflict:?}"),
    }
}
