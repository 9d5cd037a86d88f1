//! What of tokens may go: those that ended, some time after that. That the store is closed stays.

use std::sync::Arc;

use async_trait::async_trait;

use super::record::{Stored, TOKEN, decode, use_key};
use super::service::Access;
use crate::error::Result;
use crate::retire::{Ask, Doomed, Look, Next, Pass, Retire};
use crate::store::{Guard, Partition, Range, Record, Store, Write};

impl Access {
    /// Tokens that expired or were revoked, named by their names.
    pub(crate) fn ended_tokens(&self) -> Arc<dyn Retire> {
        Arc::new(Ended(Arc::clone(&self.0.store)))
    }
}

struct Ended(Arc<dyn Store>);

#[async_trait]
impl Retire for Ended {
    async fn look(&self, ask: &Ask<'_>) -> Result<Look> {
        let is_over =
            |record: &Record| record.deadline.is_some_and(|deadline| deadline + ask.ttl <= ask.now);
        let mut look = Look::new();
        let records: Vec<Record> = match ask.pass {
            Pass::Due => {
                let page = self.0.due(Partition::FIRST, TOKEN, ask.limit).await?;
                let over = page.records.iter().take_while(|record| is_over(record)).count();
                if page.more && over == page.records.len() {
                    look.next = Next::Again;
                }
                page.records.into_iter().take(over).collect()
            }
            Pass::Full => {
                let range = Range::new(Partition::FIRST, TOKEN, "");
                let range = range.after(ask.place.map(str::to_owned));
                let page = self.0.scan(&range, ask.limit).await?;
                if let Some(last) = page.records.last().filter(|_| page.more) {
                    look.next = Next::At(last.key.id.to_string());
                }
                page.records.into_iter().filter(is_over).collect()
            }
        };
        look.scanned = records.len() as u64;
        for record in records {
            match decode::<Stored>(&record) {
                Ok(stored) => look.doomed.push(doomed(&record).named(stored.name)),
                Err(error) => look.broken.push(error.to_string()),
            }
        }
        Ok(look)
    }
}

fn doomed(record: &Record) -> Doomed {
    let key = record.key.clone();
    let guards = vec![Guard::RevisionIs(key.clone(), record.revision), Guard::Lapsed(key.clone())];
    let used = use_key(&key.id);
    Doomed::new(guards, vec![Write::Delete { key }, Write::Delete { key: used }])
}
