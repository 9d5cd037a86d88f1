//! State values without a time to live that were not written for long.
//!
//! There is no index of them: whoever has such a rule has them looked through, from the literal
//! beginning of its pattern on.

use std::sync::Arc;

use async_trait::async_trait;

use crate::error::Result;
use crate::retire::{Ask, Doomed, Look, Next, Retire};
use crate::store::{Guard, Kind, Partition, Range, Store, Write};

pub(crate) struct StateKeys {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) kind: Kind,
}

#[async_trait]
impl Retire for StateKeys {
    async fn look(&self, ask: &Ask<'_>) -> Result<Look> {
        let range = Range::new(Partition::FIRST, self.kind, ask.prefix);
        let page = self.store.scan(&range.after(ask.place.map(str::to_owned)), ask.limit).await?;
        let mut look = Look::new();
        if let Some(last) = page.records.last().filter(|_| page.more) {
            look.next = Next::At(last.key.id.to_string());
        }
        for record in page.records {
            look.scanned += 1;
            if record.deadline.is_some() {
                look.kept.push("it has a time to live");
            } else if record.revision.time() > ask.cutoff() {
                look.kept.push("written not long ago");
            } else {
                let key = record.key;
                let guard = Guard::RevisionIs(key.clone(), record.revision);
                let mut doomed = Doomed::new(vec![guard], vec![Write::Delete { key: key.clone() }])
                    .named(&*key.id);
                // Caches of it are emptied.
                doomed.hints.push(key);
                look.doomed.push(doomed);
            }
        }
        Ok(look)
    }
}
