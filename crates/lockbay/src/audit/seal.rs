//! Sealing: the leader signs what was appended since the last checkpoint, under its fence.
//!
//! A checkpoint and the head that names it are one commit, guarded by the head as it was found and
//! by the right to lead. So whoever led before seals nothing more, and no line is sealed twice or
//! passed over, whenever leadership moves. What is found damaged is told, and sealing goes on: a
//! seal behind damage says so, and vouches for new entries, and not for the damage. Without the key
//! that the last checkpoint names nothing is sealed, and entries wait.

use super::checkpoint::{self, Checkpoint, Head, Trimmed, checkpoint_key, head_key, number_of};
use super::key::{Keys, PublicKey, Signer};
use super::merkle::{self, Tree};
use super::standing::Standing;
use super::{Audit, CHECKPOINT, entry, made_key, used_key};
use crate::clock::Timestamp;
use crate::error::Result;
use crate::metrics::Metric;
use crate::scribe::audit_log;
use crate::store::{
    Commit, Deadline, Fence, Guard, Key, MAX_PAGE, Partition, Range, Record, Reply, Revision,
    Write, log,
};

/// A checkpoint ends with the record by which it comes to so many lines, or bytes.
const MAX_LINES: u64 = 16_384;
const MAX_BYTES: usize = 16 * 1024 * 1024;
/// Records of lines read at once.
const PAGE: usize = 200;
/// Trimming is said once a day, or once in so many parts of the retention if that is shorter.
const TRIM_PARTS: u32 = 10;
const DAY: std::time::Duration = std::time::Duration::from_secs(86_400);

/// What a seal came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sealed {
    /// How many entries it sealed.
    pub(crate) entries: u64,
    /// Whether there may be more at once.
    pub(crate) more: bool,
}

/// Who signs.
struct Signing {
    signer: Signer,
    /// The one that follows from the next checkpoint on, if that changes.
    next: Option<Signer>,
    /// Whether the signer was made just now.
    fresh: bool,
}

/// The lines that are sealed next.
struct Lines {
    tree: Tree,
    first: Option<Revision>,
    last: Revision,
    more: bool,
}

impl Audit {
    /// Seals some of what is not sealed, under this right.
    ///
    /// # Errors
    /// `Fenced` if the right is gone. What the store says otherwise.
    pub(crate) async fn seal(&self, fence: &Fence) -> Result<Sealed> {
        let _one_at_a_time = self.0.sealing.lock().await;
        let standing = self.standing().await?;
        let lines = self.unsealed(standing.last).await?;
        let signing = self.signing(&standing)?;
        let trimmed = self.trim(&standing).await?;
        let turns = signing.next.is_some() || standing.damage.is_some();
        if lines.tree.count() == 0 && !turns && trimmed == standing.trimmed {
            return Ok(Sealed { entries: 0, more: false });
        }
        let next = Checkpoint {
            number: standing.next,
            first: lines.first.unwrap_or(standing.last),
            last: lines.last,
            count: lines.tree.count(),
            total: standing.total.saturating_add(lines.tree.count()),
            root: lines.tree.root(),
            previous: standing.hash,
            at: standing.now,
            trimmed,
            after_damage: standing.damage.clone(),
            key: signing.signer.public(),
            next_key: signing.next.as_ref().map(Signer::public),
            next_signature: None,
            signature: [0; 64],
        };
        let next = next.sign(&signing.signer, signing.next.as_ref())?;
        let made = signing.fresh.then_some(&signing.signer);
        self.commit_seal(&next, &standing, made, fence).await?;
        self.0.metrics.add(Metric::AuditEntriesSealed, next.count);
        Ok(Sealed { entries: next.count, more: lines.more })
    }

    async fn commit_seal(
        &self,
        next: &Checkpoint,
        standing: &Standing,
        made: Option<&Signer>,
        fence: &Fence,
    ) -> Result<()> {
        let put = |key: Key, value| Write::Put { key, value, deadline: Deadline::Never };
        let stored = next.encode()?;
        let head = Head { number: next.number, hash: checkpoint::hash_of(&stored) };
        let mut guards = vec![Guard::Held(fence.clone())];
        guards.push(match standing.head {
            Some(revision) => Guard::RevisionIs(head_key(), revision),
            None => Guard::Absent(head_key()),
        });
        guards.push(Guard::Absent(checkpoint_key(next.number)));
        let mut writes =
            vec![put(checkpoint_key(next.number), stored), put(head_key(), head.encode()?)];
        if let Some(signer) = made {
            guards.push(Guard::Absent(made_key()));
            writes.push(put(made_key(), signer.secret().into_bytes()));
        }
        let used = next.follower().to_string().into_bytes();
        if standing.used.as_ref().is_none_or(|record| record.value != used) {
            writes.push(put(used_key(), used));
        }
        let said = (next.trimmed != standing.trimmed).then_some(next.trimmed).flatten();
        if let Some(Trimmed { number, last, total }) = said {
            let detail = serde_json::json!({
                "checkpoint": number, "last": last.to_string(), "entries": total,
            });
            writes.push(entry::own("trimmed", &self.0.settings.instance, &detail));
        }
        if let Some(damage) = &next.after_damage {
            let detail = serde_json::json!({ "checkpoint": next.number, "problem": damage });
            writes.push(entry::own("broken", &self.0.settings.instance, &detail));
        }
        let commit = Commit::new(Partition::FIRST, guards, writes, Vec::new())?;
        match self.0.store.commit(&commit).await? {
            Reply::Committed { .. } => {
                if next.after_damage.is_some() {
                    // What was seen before is known to be gone, and said for good.
                    *self.0.seen.lock() = None;
                }
                self.saw(head);
                self.0.metrics.count(Metric::AuditCheckpoints);
                Ok(())
            }
            Reply::Conflict { .. } => Err(crate::error::Error::new(
                crate::error::ErrorKind::Fenced,
                "another instance leads and seals the audit trail",
            )),
        }
    }

    async fn unsealed(&self, after: Revision) -> Result<Lines> {
        let log = audit_log(Partition::FIRST);
        let mut lines = Lines { tree: Tree::default(), first: None, last: after, more: false };
        let (mut range, mut bytes) = (log::range(&log, after), 0);
        loop {
            let page = self.0.store.scan(&range, PAGE).await?;
            for record in &page.records {
                if lines.tree.count() >= MAX_LINES || bytes >= MAX_BYTES {
                    return Ok(Lines { more: true, ..lines });
                }
                bytes += record.value.len();
                let read = match log::lines(record) {
                    Ok(read) => read,
                    Err(error) => {
                        self.notice(error.to_string());
                        continue;
                    }
                };
                let reached = self.reached(record.revision, page.now).await?;
                for line in read {
                    if line.revision > reached {
                        let revision = line.revision;
                        self.notice(format!(
                            "entry {revision} is ahead of the store; it is not sealed"
                        ));
                        return Ok(lines);
                    }
                    lines.tree.push(merkle::leaf(line.revision, line.text));
                    lines.first.get_or_insert(line.revision);
                    lines.last = lines.last.max(line.revision);
                }
            }
            if !page.more {
                return Ok(lines);
            }
            range = range.after(page.records.last().map(|record| record.key.id.to_string()));
        }
    }

    /// Up to which revision a line can have been appended, given the one of its record. The store
    /// is asked only about what is ahead of its time, as after its clock was set back.
    pub(super) async fn reached(&self, record: Revision, now: Timestamp) -> Result<Revision> {
        match record.time() <= now {
            true => Ok(record),
            false => Ok(self.0.store.ping().await?.revision),
        }
    }

    /// Who signs the next checkpoint.
    fn signing(&self, standing: &Standing) -> Result<Signing> {
        let keys = &self.0.settings.keys;
        if matches!(keys, Keys::Unreadable) {
            return Err(self.refused("audit_key cannot be read".into()));
        }
        let at_hand = keys.at_hand(standing.made.as_ref());
        let current = at_hand.first().copied().cloned();
        let Some(expected) = standing.key else {
            let fresh = current.is_none();
            let signer = current.unwrap_or_else(|| Signer::make(&self.0.clock));
            return Ok(Signing { signer, next: None, fresh });
        };
        match at_hand.into_iter().find(|signer| signer.public() == expected) {
            Some(signer) => {
                let next = current.filter(|current| current.public() != expected);
                Ok(Signing { signer: signer.clone(), next, fresh: false })
            }
            None => Err(self.refused(standing.missing(expected))),
        }
    }

    /// What may be gone from the next checkpoint on: whole checkpoints that are old enough.
    async fn trim(&self, standing: &Standing) -> Result<Option<Trimmed>> {
        let retention = self.0.settings.retention;
        let after = standing.trimmed.map_or(0, |trimmed| trimmed.number);
        let cutoff = standing.now - retention;
        let range = Range::new(Partition::FIRST, CHECKPOINT, "");
        let range = range.after((after > 0).then(|| checkpoint_key(after).id.into()));
        let slack = DAY.min(retention / TRIM_PARTS);
        // What is damaged at the beginning is passed over, or nothing would ever go again.
        let readable = |record: &Record| {
            let read = Checkpoint::decode(&record.value).ok()?;
            let ours = number_of(&record.key) == Some(read.number) && read.is_signed();
            (ours && read.number < standing.next && read.last <= standing.last).then_some(read)
        };
        let due = |read: &Checkpoint| read.at + slack <= cutoff;
        let first = self.0.store.scan(&range, 1).await?.records.into_iter().next();
        let Some(first) = first else { return Ok(standing.trimmed) };
        if readable(&first).is_some_and(|read| !due(&read)) {
            return Ok(standing.trimmed);
        }
        let page = self.0.store.scan(&range, MAX_PAGE).await?;
        let mut read = page.records.iter().filter_map(readable).peekable();
        if !read.peek().is_some_and(due) {
            return Ok(standing.trimmed);
        }
        let last = read.take_while(|read| read.at <= cutoff).last();
        Ok(last
            .map(|Checkpoint { number, last, total, .. }| Trimmed { number, last, total })
            .or(standing.trimmed))
    }

    /// The public keys that may have signed, as far as this instance is sure of them.
    pub(super) async fn trusted(&self) -> Result<Vec<PublicKey>> {
        match &self.0.settings.keys {
            Keys::Stored => Ok(self.made_key().await?.iter().map(Signer::public).collect()),
            // The key of the store is trusted with nothing once another one is set.
            given @ (Keys::Given(..) | Keys::Unreadable) => {
                Ok(given.at_hand(None).into_iter().map(Signer::public).collect())
            }
        }
    }

    /// The key that signs exports.
    pub(super) async fn export_signer(&self) -> Result<Option<Signer>> {
        match &self.0.settings.keys {
            Keys::Given(current, _) => Ok(Some(current.clone())),
            Keys::Stored => self.made_key().await,
            Keys::Unreadable => Ok(None),
        }
    }
}
