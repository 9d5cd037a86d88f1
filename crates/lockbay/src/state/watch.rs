//! Keeping what is at hand fresh: hints make it void at once, and what is used is verified again
//! before its trust ends, many keys by one read. What nobody reads costs nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::State;
use super::record::{HOME, STATE, TAG, state_key, tag_key};
use crate::error::Result;
use crate::store::{Hint, Hints, Key, Kind, Range, Revision};

/// How often what was used is verified again: often enough that a read has time before trust ends.
const VERIFY_EVERY: Duration = Duration::from_millis(400);
/// The most keys, and the most bytes of values, that are verified by one read.
const MAX_KEYS: usize = 256;
const MAX_BYTES: usize = 4 * 1024 * 1024;
/// The pause before the hint channel is asked for again.
const RETRY: Duration = Duration::from_secs(1);

impl State {
    /// Hears hints and verifies what is used, until `stop` fires. [`LockBay::start`] runs it; what
    /// is read is right without it, and slower.
    ///
    /// [`LockBay::start`]: crate::LockBay::start
    pub async fn watch_over(self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            ((), (), ()) = async {
                tokio::join!(self.hear(STATE), self.hear(TAG), self.keep_fresh())
            } => {}
        }
    }

    /// Applies the hints of a kind for ever.
    async fn hear(&self, kind: Kind) {
        let range = Range::new(HOME, kind, "");
        loop {
            match self.0.store.watch(&range).await {
                Ok(hints) => {
                    // Some may have been missed before.
                    self.apply_hint(&Hint::Anything);
                    self.hear_all(hints).await;
                }
                Err(error) => {
                    tracing::debug!(kind = kind.name(), %error, "no hints; values are read instead");
                    self.0.clock.sleep(RETRY).await;
                }
            }
        }
    }

    async fn hear_all(&self, mut hints: Hints) {
        loop {
            let hint = hints.next().await;
            self.apply_hint(&hint);
        }
    }

    fn apply_hint(&self, hint: &Hint) {
        match hint {
            Hint::Key(key) if key.kind == TAG => self.0.local.void_tags([&*key.id]),
            Hint::Key(key) => {
                self.0.local.void_keys([&*key.id]);
                self.0.flights.wake(&key.id);
            }
            Hint::Anything => {
                self.0.local.distrust();
                self.0.flights.wake_all();
            }
        }
    }

    async fn keep_fresh(&self) {
        loop {
            self.0.clock.sleep(VERIFY_EVERY).await;
            let used: BTreeSet<Arc<str>> = self.0.local.take_used().into_iter().collect();
            let mut batch = Vec::new();
            let mut bytes = 0;
            for key in used {
                let Some(entry) = self.0.local.peek(&key) else { continue };
                bytes += entry.state.value.text().len();
                batch.push((key, entry.state.tags.clone()));
                if batch.len() >= MAX_KEYS || bytes >= MAX_BYTES {
                    bytes = 0;
                    self.verify(std::mem::take(&mut batch)).await;
                }
            }
            self.verify(batch).await;
        }
    }

    /// Reads these keys and their tags, as of one moment, and keeps what is there.
    async fn verify(&self, batch: Vec<(Arc<str>, Vec<String>)>) {
        if batch.is_empty() {
            return;
        }
        if let Err(error) = self.try_verify(&batch).await {
            // What is at hand ends by itself.
            tracing::debug!(keys = batch.len(), %error, "values at hand not verified");
        }
    }

    async fn try_verify(&self, batch: &[(Arc<str>, Vec<String>)]) -> Result<()> {
        let tags: BTreeSet<&String> = batch.iter().flat_map(|(_, tags)| tags).collect();
        let keys = batch.iter().map(|(key, _)| state_key(key));
        let keys: Vec<Key> = keys.chain(tags.iter().map(|tag| tag_key(tag))).collect();
        let moment = self.0.local.begin();
        let read = self.0.store.get(&keys).await?;
        let mut records = read.records;
        let revisions = records.split_off(batch.len());
        let revisions = revisions.into_iter().map(|record| record.map(|record| record.revision));
        let tags: BTreeMap<String, Option<Revision>> =
            tags.into_iter().cloned().zip(revisions).collect();
        for ((key, _), record) in batch.iter().zip(records) {
            // One with other tags now is read when it is asked for.
            drop(self.judge(key, record, &tags, read.now, moment)?);
        }
        Ok(())
    }
}
