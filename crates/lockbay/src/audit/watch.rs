//! What every instance does in the background: the leader seals and verifies, all watch the newest
//! checkpoint that they have seen.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Audit;
use super::checkpoint::{Checkpoint, Head, checkpoint_key, hash_of, head_key};
use super::verify::{Pace, Thoroughness};
use crate::error::{ErrorKind, Result};
use crate::metrics::Metric;

/// How often the leader verifies the whole log by itself, and how long after its election first.
const VERIFY_EVERY: Duration = Duration::from_secs(86_400);
const VERIFY_FIRST: Duration = Duration::from_secs(600);
/// Seals in a row before anything else has a turn.
const SEALS: usize = 1_000;
/// How long sealing at the end of a leadership may take.
const LAST_SEAL: Duration = Duration::from_millis(300);

impl Audit {
    /// Seals while this instance leads, and watches, until it ends.
    pub(crate) async fn watch_over(self, stop: CancellationToken) {
        let inner = &self.0;
        let mut verify_at = None;
        while !stop.is_cancelled() {
            stop.run_until_cancelled(inner.clock.sleep(inner.settings.interval)).await;
            if stop.is_cancelled() {
                return;
            }
            if inner.leadership.fence().is_none() {
                verify_at = None;
                if let Err(error) = self.observe().await {
                    tracing::debug!(%error, "the newest checkpoint could not be read");
                }
                continue;
            }
            if let Err(error) = self.seal_all(Breaks::Paced).await {
                tracing::warn!(%error, "the audit trail was not sealed; it is tried again");
            }
            let now = inner.clock.tick();
            if *verify_at.get_or_insert(now + VERIFY_FIRST) <= now {
                verify_at = Some(now + VERIFY_EVERY);
                // Beside sealing: it takes its time.
                let (this, stop) = (self.clone(), stop.clone());
                tokio::spawn(async move {
                    let verify = this.verify_at(Thoroughness::Log, Pace::Slow);
                    if let Some(Err(error)) = stop.run_until_cancelled(verify).await {
                        tracing::warn!(%error, "the audit trail could not be verified");
                    }
                });
            }
        }
    }

    /// Seals everything that was appended until now, if this instance leads, and says how many
    /// entries that were.
    ///
    /// # Errors
    /// `Held` if another instance leads, which seals by itself. What the store says otherwise.
    pub async fn seal_now(&self) -> Result<u64> {
        self.seal_all(Breaks::None).await
    }

    /// Seals before leadership is given up, if there is time.
    pub(crate) async fn seal_last(&self) {
        if self.0.leadership.fence().is_some() {
            drop(self.0.clock.timeout(LAST_SEAL, self.seal_now()).await);
        }
    }

    async fn seal_all(&self, breaks: Breaks) -> Result<u64> {
        let mut entries = 0;
        for _ in 0..SEALS {
            let fence = self.0.leadership.fence().ok_or_else(|| {
                crate::error::Error::new(ErrorKind::Held, "the leader seals the audit trail")
            })?;
            let began = self.0.clock.tick();
            let sealed = self.seal(&fence).await?;
            entries += sealed.entries;
            if !sealed.more {
                break;
            }
            // A backlog is worked off in half the time, and the rest is for others.
            match breaks {
                Breaks::Paced => self.0.clock.sleep(self.0.clock.tick().since(began)).await,
                Breaks::None => tokio::task::yield_now().await,
            }
        }
        Ok(entries)
    }

    /// Looks whether the newest checkpoint that was seen is still there, and remembers a newer one.
    pub(crate) async fn observe(&self) -> Result<()> {
        let seen = self.seen();
        let head = self.record(head_key()).await?;
        let head = head.map(|record| Head::decode(&record.value));
        match head {
            Some(Some(head)) => {
                if let Some(why) = self.forgotten(seen.as_ref(), &head).await? {
                    self.notice(why);
                } else {
                    self.saw(head);
                }
            }
            Some(None) => self.notice("the head is damaged".into()),
            None if seen.is_some() => self.notice("the head is missing".into()),
            None => {}
        }
        Ok(())
    }

    /// The newest checkpoint seen so far. Whoever compares a head with it asks first and reads the
    /// head then: what was seen in between is newer than that head, and nothing is wrong with it.
    pub(super) fn seen(&self) -> Option<Head> {
        self.0.seen.lock().clone()
    }

    /// What of the one seen before this head was read is gone or different now, in words.
    pub(super) async fn forgotten(
        &self,
        seen: Option<&Head>,
        head: &Head,
    ) -> Result<Option<String>> {
        let Some(seen) = seen else { return Ok(None) };
        let number = seen.number;
        if head.number < number {
            return Ok(Some(format!("checkpoint {number} was seen before and is gone")));
        }
        let keys = [checkpoint_key(number), checkpoint_key(head.number)];
        let mut found = self.0.store.get(&keys).await?.records.into_iter();
        let (old, newest) = (found.next().flatten(), found.next().flatten());
        if let Some(record) = old {
            let same = hash_of(&record.value) == seen.hash;
            return Ok((!same).then(|| format!("checkpoint {number} is not as it was seen before")));
        }
        let newest = newest.and_then(|record| Checkpoint::decode(&record.value).ok());
        let trimmed = newest.and_then(|newest| newest.trimmed);
        let trimmed = trimmed.is_some_and(|trimmed| trimmed.number >= number);
        Ok((!trimmed).then(|| format!("checkpoint {number} was seen before and is gone")))
    }

    /// Remembers a checkpoint as the newest, unless a newer one was seen.
    pub(super) fn saw(&self, head: Head) {
        let number = i64::try_from(head.number).unwrap_or(i64::MAX);
        self.0.metrics.set(Metric::AuditCheckpoint, number);
        let mut seen = self.0.seen.lock();
        if seen.as_ref().is_none_or(|seen| seen.number < head.number) {
            *seen = Some(head);
        }
    }
}

/// Whether others have a turn between two seals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Breaks {
    Paced,
    None,
}
