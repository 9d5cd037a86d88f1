//! What sagas leave behind when somebody dies at the wrong moment: tasks that nobody waits for, and
//! entries in the inboxes of sessions that are gone.

use std::sync::Arc;

use async_trait::async_trait;

use super::record::{SAGA_INBOX, Saga};
use super::session::SESSION;
use super::task::{orphaned_places, orphaned_tasks};
use crate::error::{ErrorKind, Result};
use crate::retire::{Ask, Doomed, Look, Next, Retire, Weight};
use crate::store::{Guard, Key, Partition, Range, Record, Store, Write};

/// Where a pass looks, in this order.
const INBOX: &str = "inbox";
const TASKS: &str = "tasks";
const QUEUE: &str = "queue";

pub(super) struct Leftovers(pub(super) Arc<dyn Store>);

#[async_trait]
impl Retire for Leftovers {
    async fn look(&self, ask: &Ask<'_>) -> Result<Look> {
        let (part, after) =
            ask.place.and_then(|place| place.split_once(' ')).unwrap_or((INBOX, ""));
        let from = (!after.is_empty()).then(|| after.to_owned());
        let mut look = Look::new();
        let end = match part {
            TASKS => orphaned_tasks(&*self.0, from, ask.now, &mut look).await?,
            QUEUE => orphaned_places(&*self.0, from, ask.limit, &mut look).await?,
            _ => self.inbox(from, ask.limit, &mut look).await?,
        };
        look.next = match (end, part) {
            (Some(last), part) => Next::At(format!("{part} {last}")),
            (None, QUEUE) => Next::End(None),
            (None, TASKS) => Next::At(format!("{QUEUE} ")),
            (None, _) => Next::At(format!("{TASKS} ")),
        };
        Ok(look)
    }
}

impl Leftovers {
    /// Entries in the inbox of a session that is no more: whoever took over its sagas has read
    /// their logs.
    async fn inbox(
        &self,
        from: Option<String>,
        limit: usize,
        look: &mut Look,
    ) -> Result<Option<String>> {
        let range = Range::new(Partition::FIRST, SAGA_INBOX, "").after(from);
        let page = self.0.scan(&range, limit).await?;
        let sessions: Vec<Key> = page.records.iter().map(session_of).collect();
        let records = match sessions.is_empty() {
            true => Vec::new(),
            false => self.0.get(&sessions).await?.records,
        };
        for ((entry, session), record) in page.records.iter().zip(sessions).zip(records) {
            look.scanned += 1;
            if record.is_some() {
                look.kept.push("of a session that is there");
                continue;
            }
            let delete = Write::Delete { key: entry.key.clone() };
            let doomed = Doomed::new(vec![Guard::Absent(session)], vec![delete]);
            look.doomed.push(Doomed { weight: Weight::Known(0), ..doomed });
        }
        Ok(page.records.last().filter(|_| page.more).map(|last| last.key.id.to_string()))
    }
}

/// The session in whose inbox an entry is.
fn session_of(entry: &Record) -> Key {
    let id = entry.key.id.split('/').next().unwrap_or(&entry.key.id);
    Key::new(Partition::of(id), SESSION, id)
}

/// What is known of whoever asked for a task.
pub(super) enum Asker {
    /// A saga to which something may still happen.
    AtWork,
    /// A saga that has ended.
    Over,
    /// No saga: it was removed, or something else asked, such as a tick of a schedule.
    Unknown,
}

/// How whoever asked for a task stands.
pub(super) async fn asker(store: &dyn Store, id: &str) -> Result<Asker> {
    match Saga::load(store, id).await {
        Ok(saga) if saga.status().is_terminal() => Ok(Asker::Over),
        Ok(_) => Ok(Asker::AtWork),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Asker::Unknown),
        Err(error) => Err(error),
    }
}
