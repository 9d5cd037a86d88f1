//! Removing what nobody can see: values that are stale by a tag, and then the record of the tag.
//!
//! A pass goes over all keys once, a bounded piece at a time. The record of a tag goes when a whole
//! pass that began after its last invalidation is through: then no value and no lease is left that
//! is from before it. Nothing from before can come later, because a load stores under a lease that
//! the pass would have removed, and under a guard that its tags were not invalidated meanwhile.
//! Values whose time to live has passed are not its business: their records are due.

use super::State;
use super::read::SCAN_PAGE;
use super::record::{Content, HOME, STATE, TAG};
use crate::error::{Error, ErrorKind, Result};
use crate::store::{Commit, Fence, Guard, Key, Range, Record, Reply, Revision, Write};

/// How many of the records that go together are weighed.
const SAMPLE: usize = 16;

/// Where the pass is.
#[derive(Debug, Default)]
pub(super) struct Pass {
    /// The last revision before it began; nothing if none is under way.
    began: Option<Revision>,
    after: Option<String>,
    /// A record could not be read. What tags it has is not known, so none may be forgotten.
    unread: bool,
}

/// What a piece of a pass came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StaleSwept {
    /// Records that were looked at.
    pub scanned: u64,
    /// Records that are gone: stale values and loads, and tags.
    pub removed: Vec<Key>,
    /// About how many bytes they occupied, measured on samples.
    pub bytes: u64,
    /// Whether this piece was the last of its pass.
    pub finished: bool,
}

impl State {
    /// Removes values that are stale by a tag, and tags of which none is left. Looks at `budget`
    /// records at most, rounded up to a page, and goes on from there when it is called again.
    ///
    /// Every commit holds the right of `fence`. Called twice at once, the second waits for the
    /// first.
    ///
    /// # Errors
    /// `Fenced` if the right is gone; others as the store has them. The next call goes on.
    pub async fn sweep_stale(&self, fence: &Fence, budget: usize) -> Result<StaleSwept> {
        let mut pass = self.0.upkeep.lock().await;
        let mut swept = StaleSwept::default();
        let began = match pass.began {
            Some(began) => began,
            None => {
                let began = self.0.store.ping().await?.revision;
                // Where no tag was invalidated nothing is stale.
                let tags = self.0.store.scan(&Range::new(HOME, TAG, ""), 1).await?;
                if tags.records.is_empty() {
                    return Ok(StaleSwept { finished: true, ..swept });
                }
                *pass = Pass { began: Some(began), ..Pass::default() };
                began
            }
        };
        while swept.scanned < budget as u64 {
            let range = Range::new(HOME, STATE, "").after(pass.after.clone());
            let page = self.0.store.scan(&range, SCAN_PAGE).await?;
            swept.scanned += page.records.len() as u64;
            let last = page.records.last().map(|record| record.key.id.to_string());
            let more = page.more;
            // Those that have lapsed, too: a clock that is set back would bring them to life again.
            let (stale, unread) = self.stale_of(page.records).await?;
            pass.unread |= unread > 0;
            self.remove_fenced(fence, stale, &mut swept).await?;
            pass.after = last.or(pass.after.take());
            if !more {
                if !pass.unread {
                    self.sweep_tags(fence, began, &mut swept).await?;
                }
                *pass = Pass::default();
                swept.finished = true;
                return Ok(swept);
            }
        }
        Ok(swept)
    }

    /// Those of these records of which a tag was invalidated after the moment that they are as of,
    /// and how many records could not be read.
    async fn stale_of(&self, records: Vec<Record>) -> Result<(Vec<(Key, Revision)>, usize)> {
        let all = records.len();
        let read = |record: Record| match Content::of(&record) {
            Ok(content) => Some((record, content)),
            // It stays, and whoever reads it is told; the others must not wait for it.
            Err(error) => {
                tracing::warn!(%error, "a record of state was passed over");
                None
            }
        };
        let records: Vec<_> = records.into_iter().filter_map(read).collect();
        let unread = all - records.len();
        let tags = self.tags_of(records.iter().flat_map(|(_, content)| content.tags())).await?;
        let stale = records.into_iter().filter(|(record, content)| {
            let as_of = content.as_of(record.revision);
            let mut revisions = content.tags().iter().filter_map(|tag| tags.get(tag));
            revisions.any(|invalidated| *invalidated > as_of)
        });
        Ok((stale.map(|(record, _)| (record.key, record.revision)).collect(), unread))
    }

    /// Removes the records of tags that were last invalidated before a pass that is through.
    async fn sweep_tags(
        &self,
        fence: &Fence,
        began: Revision,
        swept: &mut StaleSwept,
    ) -> Result<()> {
        let mut after = None;
        loop {
            let range = Range::new(HOME, TAG, "").after(after.take());
            let page = self.0.store.scan(&range, SCAN_PAGE).await?;
            after = page.records.last().map(|record| record.key.id.to_string());
            let done = page.records.into_iter().filter(|record| record.revision <= began);
            let done = done.map(|record| (record.key, record.revision)).collect();
            self.remove_fenced(fence, done, swept).await?;
            if !page.more {
                return Ok(());
            }
        }
    }

    /// Deletes those of these records that are unchanged.
    async fn remove_fenced(
        &self,
        fence: &Fence,
        mut doomed: Vec<(Key, Revision)>,
        swept: &mut StaleSwept,
    ) -> Result<()> {
        let sample: Vec<Key> = doomed.iter().take(SAMPLE).map(|(key, _)| key.clone()).collect();
        let bytes = match sample.is_empty() {
            true => 0,
            // What they weigh is for people; it must not keep them there.
            false => self.0.store.upkeep().weigh(&sample).await.unwrap_or_else(|error| {
                tracing::debug!(%error, "what is removed was not weighed");
                0
            }),
        };
        while !doomed.is_empty() {
            let unchanged =
                |(key, revision): &(Key, Revision)| Guard::RevisionIs(key.clone(), *revision);
            let guards = std::iter::once(Guard::Held(fence.clone()));
            let guards = guards.chain(doomed.iter().map(unchanged)).collect();
            let keys: Vec<Key> = doomed.iter().map(|(key, _)| key.clone()).collect();
            let writes = keys.iter().map(|key| Write::Delete { key: key.clone() }).collect();
            // Nobody waits for what was stale already.
            let commit = Commit::new(HOME, guards, writes, Vec::new())?;
            match self.commit_surely(&commit).await? {
                Reply::Committed { .. } => {
                    swept.bytes += bytes * keys.len() as u64 / sample.len() as u64;
                    swept.removed.extend(keys);
                    return Ok(());
                }
                Reply::Conflict { guard, .. } => match guard.checked_sub(1) {
                    Some(changed) => drop(doomed.swap_remove(changed)),
                    None => {
                        let message = "the right to clean up is gone; nothing was removed";
                        return Err(Error::new(ErrorKind::Fenced, message));
                    }
                },
            }
        }
        Ok(())
    }
}
