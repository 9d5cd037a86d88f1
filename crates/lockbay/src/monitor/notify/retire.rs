//! What of notices may go: those that were told, and dead letters, some time after they came to
//! that.

use std::sync::Arc;

use async_trait::async_trait;

use super::outbox::{self, Loaded, NOTICE_LIST, NoticeStatus, places};
use crate::error::Result;
use crate::retire::{Ask, Doomed, Look, Next, Retire};
use crate::store::{Guard, Key, Partition, Range, Store, Write};

/// How many notices are read at once: each may tell of a hundred alerts.
const AT_ONCE: usize = 50;

/// Notices that have come to stand like this.
pub(crate) struct Letters {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) status: NoticeStatus,
}

#[async_trait]
impl Retire for Letters {
    async fn look(&self, ask: &Ask<'_>) -> Result<Look> {
        let prefix = format!("{}/", self.status.name());
        let after = match ask.place {
            Some(place) => place.to_owned(),
            None => places(self.status, ask.cutoff()),
        };
        let range = Range::new(Partition::FIRST, NOTICE_LIST, prefix).after(Some(after));
        let page = self.store.scan(&range, ask.limit.min(AT_ONCE)).await?;
        let keys: Vec<Key> =
            page.records.iter().map(|entry| outbox::key(outbox::behind(&entry.key.id))).collect();
        let read = if keys.is_empty() { Vec::new() } else { self.store.get(&keys).await?.records };
        let mut look = Look::new();
        look.scanned = keys.len() as u64;
        for ((entry, key), record) in page.records.iter().zip(keys).zip(&read) {
            match record.as_ref().map(|record| (record, Loaded::of(record))) {
                None => {
                    let delete = Write::Delete { key: entry.key.clone() };
                    look.doomed.push(Doomed::new(vec![Guard::Absent(key)], vec![delete]));
                }
                Some((_, Err(error))) => look.broken.push(error.to_string()),
                Some((_, Ok(Loaded { kept, .. }))) if kept.status != self.status => {
                    look.kept.push("came to stand otherwise meanwhile");
                }
                Some((record, Ok(Loaded { kept, .. }))) => {
                    let guards = vec![Guard::RevisionIs(key, record.revision)];
                    let doomed = Doomed::new(guards, kept.forget());
                    look.doomed.push(doomed.named(kept.notice.group));
                }
            }
        }
        if let Some(last) = page.records.last().filter(|_| page.more) {
            look.next = Next::At(last.key.id.to_string());
        }
        Ok(look)
    }
}
