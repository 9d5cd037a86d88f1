//! Sagas of trivial steps, by the saga service and by hand.
//!
//! By hand means: the same commits, with as many guards, writes and bytes, given to the store
//! without definitions, states, handlers, drivers or sessions.

use std::sync::Arc;

use lockbay::saga::{SagaRequest, SagaStatus, StepContext, StepOutput, StepSpec, read_only};
use lockbay::store::{
    Commit, Deadline, Guard, Key, Kind, Partition, Range, Reply, Revision, Write,
};
use lockbay::{Json, LockBay};

use super::load::{self, Measured};

pub(super) const RAW: Kind = Kind::new("bench-saga");
pub(super) const RAW_LOG: Kind = Kind::new("bench-saga-log");
pub(super) const RAW_LIST: Kind = Kind::index("bench-saga-list");

const PARAMETERS: &str = r#"{"user_id":12345,"amount":"1000.00","currency":"USD"}"#;
const RESULT: &str = r#"{"transaction_id":"txn_12345"}"#;
const HANDLER: &str = "bench";

fn request(steps: usize) -> anyhow::Result<SagaRequest> {
    let step = |at| Ok(StepSpec::new(format!("step_{at}"), HANDLER, Json::parse(PARAMETERS)?));
    let steps = (1..=steps).map(step).collect::<anyhow::Result<_>>()?;
    Ok(SagaRequest::new("bench", steps))
}

/// Registers the handler of the benchmark's steps.
pub(super) fn register(bay: &LockBay) -> anyhow::Result<()> {
    let result = Json::parse(RESULT)?;
    let step = read_only(move |_: StepContext| {
        let result = result.clone();
        async move { Ok(StepOutput::from(result)) }
    });
    Ok(bay.sagas().register(HANDLER, step)?)
}

pub(super) async fn ours(
    bay: &LockBay,
    concurrency: usize,
    count: usize,
    steps: usize,
) -> anyhow::Result<Measured> {
    let (bay, request) = (bay.clone(), Arc::new(request(steps)?));
    load::run(concurrency, count, move |_| {
        let (bay, request) = (bay.clone(), Arc::clone(&request));
        async move {
            let (id, status) = bay.sagas().run(SagaRequest::clone(&request)).await?;
            anyhow::ensure!(status == SagaStatus::Completed, "saga {id} is {}", status.name());
            Ok(())
        }
    })
    .await
}

/// How many bytes the service stores: of a head, and of an entry of the log.
async fn record_sizes(bay: &LockBay, steps: usize) -> anyhow::Result<(usize, usize)> {
    let (id, _) = bay.sagas().run(request(steps)?).await?;
    let read = bay.store().get(&[Key::new(Partition::FIRST, Kind::new("saga"), &*id)]).await?;
    let head = read.records.first().and_then(Option::as_ref).map_or(0, |head| head.value.len());
    let log = Range::new(Partition::FIRST, Kind::new("saga-log"), format!("{id}/"));
    let log = bay.store().scan(&log, 1).await?;
    Ok((head, log.records.first().map_or(0, |entry| entry.value.len())))
}

/// What stands for the session of an executor.
async fn session(bay: &LockBay) -> anyhow::Result<(Key, Revision)> {
    let key = Key::new(Partition::FIRST, RAW, "session");
    let put = Write::Put { key: key.clone(), value: vec![b'x'; 200], deadline: Deadline::Never };
    match bay.store().commit(&Commit::new(Partition::FIRST, vec![], vec![put], vec![])?).await? {
        Reply::Committed { revision, .. } => Ok((key, revision)),
        conflict @ Reply::Conflict { .. } => anyhow::bail!("refused: {conflict:?}"),
    }
}

pub(super) async fn raw(
    bay: &LockBay,
    concurrency: usize,
    count: usize,
    steps: usize,
) -> anyhow::Result<Measured> {
    let (store, clock) = (bay.store().clone(), bay.clock().clone());
    let (head_bytes, entry_bytes) = record_sizes(bay, steps).await?;
    let (session_key, session_revision) = session(bay).await?;
    load::run(concurrency, count, move |_| {
        let (store, clock, session_key) = (store.clone(), clock.clone(), session_key.clone());
        async move {
            let now = clock.now().as_micros();
            let id = format!("{now:014x}{}", &clock.random_id()[..18]);
            let key = |kind, id: String| Key::new(Partition::FIRST, kind, id);
            let put = |key, bytes: usize| Write::Put {
                key,
                value: vec![b'x'; bytes],
                deadline: Deadline::Never,
            };
            let guard = || Guard::RevisionIs(session_key.clone(), session_revision);
            let place = key(RAW_LIST, format!("running/{}/{now:016x}/{id}", &session_key.id));
            for step in 0..=steps {
                let entry = key(RAW_LOG, format!("{id}/{step:06x}"));
                let (mut guards, mut writes, mut hints) = (vec![guard()], Vec::new(), Vec::new());
                if step == 0 {
                    writes.push(put(key(RAW, id.clone()), head_bytes));
                    writes.push(Write::Mark { key: place.clone() });
                } else {
                    guards.push(Guard::Absent(entry.clone()));
                    writes.push(put(entry, entry_bytes));
                }
                if step == steps {
                    let ended = u64::MAX - clock.now().as_micros();
                    let place_after = key(RAW_LIST, format!("completed/-/{ended:016x}/{id}"));
                    writes.push(Write::Delete { key: place.clone() });
                    writes.push(Write::Mark { key: place_after });
                    hints.push(key(RAW, id.clone()));
                }
                let commit = Commit::new(Partition::FIRST, guards, writes, hints)?;
                match store.commit(&commit).await? {
                    Reply::Committed { .. } => {}
                    conflict @ Reply::Conflict { .. } => anyhow::bail!("refused: {conflict:?}"),
                }
            }
            Ok(())
        }
    })
    .await
}
