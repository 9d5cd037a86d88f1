//! Tasks that nobody comes for any more, and places in queues without a task.

use std::time::Duration;

use super::record::{Found, Request, TASK, TASK_QUEUE, remove, request_key, task_at};
use crate::clock::Timestamp;
use crate::error::Result;
use crate::retire::{Doomed, Look, Weight};
use crate::saga::leftover::{Asker, asker};
use crate::saga::record::decode;
use crate::store::{Guard, Key, Partition, Range, Record, Store, Write};

/// How many tasks are looked at in one go: outcomes and requests may be large.
const LOOKED_AT: usize = 32;
/// How long a task that lapsed is left to whoever asked.
const GRACE: Duration = Duration::from_secs(3_600);
/// How long after its last change a task is kept if no saga asked for it: whoever did may come for
/// its outcome late, after a time without a leader.
const LONGEST_WAIT: Duration = Duration::from_secs(7 * 86_400);

/// Tasks that nobody waits for any more, and where to go on.
pub(in crate::saga) async fn orphaned_tasks(
    store: &dyn Store,
    from: Option<String>,
    now: Timestamp,
    look: &mut Look,
) -> Result<Option<String>> {
    let range = Range::new(Partition::FIRST, TASK, "").after(from);
    let page = store.scan(&range, LOOKED_AT).await?;
    for record in &page.records {
        look.scanned += 1;
        if record.deadline.is_some_and(|deadline| now < deadline + GRACE) {
            look.kept.push("still waited for");
            continue;
        }
        match judge(store, record, now).await {
            Ok(Some(doomed)) => look.doomed.push(doomed),
            Ok(None) => look.kept.push("whoever asked for it may still come"),
            Err(error) => look.broken.push(error.to_string()),
        }
    }
    Ok(page.records.last().filter(|_| page.more).map(|last| last.key.id.to_string()))
}

async fn judge(store: &dyn Store, record: &Record, now: Timestamp) -> Result<Option<Doomed>> {
    let found = Found::of(record)?;
    let read = store.get(&[request_key(&record.key)]).await?;
    if let Some(request) = read.records.into_iter().flatten().next() {
        let request: Request = decode(&request)?;
        let waited_for = match asker(store, &request.saga_id).await? {
            Asker::AtWork => true,
            Asker::Over => false,
            Asker::Unknown => now < record.revision.time() + LONGEST_WAIT,
        };
        if waited_for {
            return Ok(None);
        }
    }
    let key = record.key.clone();
    let mut guards = vec![Guard::RevisionIs(key.clone(), record.revision)];
    if record.deadline.is_some() {
        guards.push(Guard::Lapsed(key.clone()));
    }
    let mut doomed = Doomed::new(guards, remove(&key, &found.task));
    doomed.weight = Weight::Measure(vec![request_key(&key), key]);
    Ok(Some(doomed))
}

/// Places in queues whose task is gone, and where to go on.
pub(in crate::saga) async fn orphaned_places(
    store: &dyn Store,
    from: Option<String>,
    limit: usize,
    look: &mut Look,
) -> Result<Option<String>> {
    let range = Range::new(Partition::FIRST, TASK_QUEUE, "").after(from);
    let page = store.scan(&range, limit.min(LOOKED_AT * 4)).await?;
    let tasks: Vec<Key> = page.records.iter().map(|place| task_at(&place.key)).collect();
    let records = match tasks.is_empty() {
        true => Vec::new(),
        false => store.get(&tasks).await?.records,
    };
    for ((place, task), record) in page.records.iter().zip(tasks).zip(records) {
        look.scanned += 1;
        if record.is_some() {
            look.kept.push("waits for a worker");
            continue;
        }
        let delete = Write::Delete { key: place.key.clone() };
        let doomed = Doomed::new(vec![Guard::Absent(task)], vec![delete]);
        look.doomed.push(Doomed { weight: Weight::Known(0), ..doomed });
    }
    Ok(page.records.last().filter(|_| page.more).map(|last| last.key.id.to_string()))
}
