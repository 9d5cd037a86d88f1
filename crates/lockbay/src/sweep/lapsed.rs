//! Records of kinds that are of no use once their deadline has passed.
//!
//! They are found by their deadlines, the longest passed first, and each goes only if it is still
//! the one that was found and its deadline has still passed.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::error::Result;
use crate::retire::{Ask, Doomed, Look, Next, Pass, Retire};
use crate::store::{Guard, Kind, Partition, Range, Record, Store, Write};

/// How long a record stays after its deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Grace {
    /// It goes at once.
    None,
    /// As long as the rule says.
    Ttl,
}

/// Records of one such kind, named by their ids.
pub(crate) struct Lapsed {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) kind: Kind,
    pub(crate) grace: Grace,
}

#[async_trait]
impl Retire for Lapsed {
    async fn look(&self, ask: &Ask<'_>) -> Result<Look> {
        let grace = match self.grace {
            Grace::None => Duration::ZERO,
            Grace::Ttl => ask.ttl,
        };
        let is_over =
            |record: &Record| record.deadline.is_some_and(|deadline| deadline + grace <= ask.now);
        let mut look = Look::new();
        let records = match ask.pass {
            Pass::Due => {
                let page = self.store.due(Partition::FIRST, self.kind, ask.limit).await?;
                let over = page.records.iter().take_while(|record| is_over(record)).count();
                if page.more && over == page.records.len() {
                    look.next = Next::Again;
                }
                page.records.into_iter().take(over).collect::<Vec<_>>()
            }
            Pass::Full => {
                let range = Range::new(Partition::FIRST, self.kind, ask.prefix);
                let range = range.after(ask.place.map(str::to_owned));
                let page = self.store.scan(&range, ask.limit).await?;
                if let Some(last) = page.records.last().filter(|_| page.more) {
                    look.next = Next::At(last.key.id.to_string());
                }
                page.records.into_iter().filter(|record| is_over(record)).collect()
            }
        };
        look.scanned = records.len() as u64;
        look.doomed = records.into_iter().map(doomed).collect();
        Ok(look)
    }
}

fn doomed(record: Record) -> Doomed {
    let Record { key, revision, .. } = record;
    let name = key.id.to_string();
    let guards = vec![Guard::RevisionIs(key.clone(), revision), Guard::Lapsed(key.clone())];
    Doomed::new(guards, vec![Write::Delete { key }]).named(name)
}
