//! Sealing: the leader signs what was appended since the last checkpoint, under its fence.
//!
//! A checkpoint and the head that names it are one commit, guarded by the head as it was found and
//! by the right to lead. So whoever led before seals nothing more, and no line is sealed twice or
//! passed over, whenever leadership moves. What is found damaged is told, and sealing goes on: a
//! seal behind a damaged one vouches for new entries, and not for the damage.

use super::checkpoint::{self, Checkpoint, Head, Trimmed, checkpoint_key, head_key};
use super::key::{PublicKey, Signer};
use super::merkle::{self, Hash, Tree};
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

/// What the next checkpoint follows.
struct Standing {
    number: u64,
    hash: Hash,
    last: Revision,
    total: u64,
    trimmed: Option<Trimmed>,
    /// The key by which the next one has to be signed, if there is one already.
    key: Option<PublicKey>,
    /// Of the head's record, as it was found.
    head: Option<Revision>,
    /// The key that was made here, and the one noted as used.
    made: Option<Signer>,
    used: Option<Record>,
    now: Timestamp,
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
        let (signer, next_key, fresh) = self.signer(&standing);
        let trimmed = self.trim(&standing).await?;
        let turns = next_key.is_some();
        if lines.tree.count() == 0 && !turns && trimmed == standing.trimmed {
            return Ok(Sealed { entries: 0, more: false });
        }
        let next = Checkpoint {
            number: standing.number + 1,
            first: lines.first.unwrap_or(standing.last),
            last: lines.last,
            count: lines.tree.count(),
            total: standing.total + lines.tree.count(),
            root: lines.tree.root(),
            previous: standing.hash,
            at: standing.now,
            trimmed,
            key: signer.public(),
            next_key,
            signature: [0; 64],
        };
        let next = next.sign(&signer)?;
        let made = fresh.then_some(&signer);
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
        let mut writes =
            vec![put(checkpoint_key(next.number), stored), put(head_key(), head.encode()?)];
        if let Some(signer) = made {
            guards.push(Guard::Absent(made_key()));
            writes.push(put(made_key(), signer.secret().into_bytes()));
        }
        let used = next.next_key.unwrap_or(next.key).to_string().into_bytes();
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
        let commit = Commit::new(Partition::FIRST, guards, writes, Vec::new())?;
        match self.0.store.commit(&commit).await? {
            Reply::Committed { .. } => {
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

    /// Where sealing goes on. What is not as it was left is told.
    async fn standing(&self) -> Result<Standing> {
        let keys = [head_key(), made_key(), used_key()];
        let read = self.0.store.get(&keys).await?;
        let now = read.now;
        let mut found = read.records.into_iter();
        let (head, made, used) =
            (found.next().flatten(), found.next().flatten(), found.next().flatten());
        let made = match made {
            Some(record) => {
                let key = Signer::stored(&record.value);
                if key.is_none() {
                    self.notice("the key in the store is damaged".into());
                }
                // A made-up one is used by this checkpoint alone, and verification says so.
                Some(key.unwrap_or_else(|| Signer::make(&self.0.clock)))
            }
            None => None,
        };
        let mut standing = Standing {
            number: 0,
            hash: [0; 32],
            last: Revision::ZERO,
            total: 0,
            trimmed: None,
            key: None,
            head: head.as_ref().map(|record| record.revision),
            made,
            used,
            now,
        };
        let named = head.as_ref().map(|record| Head::decode(&record.value));
        match named {
            Some(Some(head)) => {
                let record = self.record(checkpoint_key(head.number)).await?;
                let whole = record.as_ref().is_some_and(|record| {
                    checkpoint::hash_of(&record.value) == head.hash
                        && self.take_up(&mut standing, record)
                });
                if whole {
                    self.saw(head);
                    return Ok(standing);
                }
                let number = head.number;
                self.notice(format!("checkpoint {number}, the newest, is missing or changed"));
            }
            Some(None) => self.notice("the head is damaged".into()),
            None if standing.used.is_none() => return Ok(standing),
            None => self.notice("the head is missing".into()),
        }
        self.go_on_behind_the_last(&mut standing).await?;
        Ok(standing)
    }

    /// Takes what the newest readable checkpoint says, after damage. Its successor names it.
    async fn go_on_behind_the_last(&self, standing: &mut Standing) -> Result<()> {
        let mut range = Range::new(Partition::FIRST, CHECKPOINT, "").backwards();
        // Some tries: what is damaged is told, and is nothing to go on from.
        for _ in 0..10 {
            let page = self.0.store.scan(&range, MAX_PAGE).await?;
            if page.records.iter().any(|record| self.take_up(standing, record)) {
                return Ok(());
            }
            if !page.more {
                break;
            }
            range = range.after(page.records.last().map(|record| record.key.id.to_string()));
        }
        Ok(())
    }

    /// Whether this record is a signed checkpoint under its number, behind which to go on.
    fn take_up(&self, standing: &mut Standing, record: &Record) -> bool {
        let Ok(read) = Checkpoint::decode(&record.value) else { return false };
        if checkpoint::number_of(&record.key) != Some(read.number) || !read.is_signed() {
            return false;
        }
        standing.number = read.number;
        standing.hash = checkpoint::hash_of(&record.value);
        standing.last = read.last;
        standing.total = read.total;
        standing.trimmed = read.trimmed;
        standing.key = Some(read.next_key.unwrap_or(read.key));
        true
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
                match log::lines(record) {
                    Ok(read) => read.iter().for_each(|line| {
                        lines.tree.push(merkle::leaf(line.revision, line.text));
                        lines.first.get_or_insert(line.revision);
                        lines.last = lines.last.max(line.revision);
                    }),
                    Err(error) => self.notice(error.to_string()),
                }
            }
            if !page.more {
                return Ok(lines);
            }
            range = range.after(page.records.last().map(|record| record.key.id.to_string()));
        }
    }

    /// Who signs the next checkpoint, whom it names to follow, and whether that key is new.
    fn signer(&self, standing: &Standing) -> (Signer, Option<PublicKey>, bool) {
        let keys = &self.0.settings.keys;
        let (current, fresh) = match (&keys.current, &standing.made) {
            (Some(current), _) => (current.clone(), false),
            (None, Some(made)) => (made.clone(), false),
            (None, None) => (Signer::make(&self.0.clock), true),
        };
        let Some(expected) = standing.key.filter(|key| *key != current.public()) else {
            return (current, None, fresh);
        };
        let earlier = keys.retired.iter().chain(&standing.made);
        match earlier.into_iter().find(|signer| signer.public() == expected) {
            Some(earlier) => (earlier.clone(), Some(current.public()), false),
            None => {
                self.notice(format!(
                    "the key changed from {expected} to {}, and the old one is not at hand; give \
                     both, the new one first",
                    current.public()
                ));
                (current, None, fresh)
            }
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
        let first = self.0.store.scan(&range, 1).await?.records.into_iter().next();
        let due = |record: &Record| {
            let read = Checkpoint::decode(&record.value).ok();
            read.is_some_and(|read| read.number == after + 1 && read.at + slack <= cutoff)
        };
        if !first.as_ref().is_some_and(due) {
            return Ok(standing.trimmed);
        }
        let mut trimmed = standing.trimmed;
        for record in self.0.store.scan(&range, MAX_PAGE).await?.records {
            let expected = trimmed.map_or(0, |trimmed| trimmed.number) + 1;
            match Checkpoint::decode(&record.value) {
                Ok(read) if read.number == expected && read.at <= cutoff && read.is_signed() => {
                    let (number, last, total) = (read.number, read.last, read.total);
                    trimmed = Some(Trimmed { number, last, total });
                }
                Ok(_) | Err(_) => break,
            }
        }
        Ok(trimmed)
    }

    /// The public keys that may have signed, as far as this instance is sure of them.
    pub(super) async fn trusted(&self) -> Result<Vec<PublicKey>> {
        if let Some(current) = &self.0.settings.keys.current {
            let keys = [Some(current), self.0.settings.keys.retired.as_ref()];
            return Ok(keys.into_iter().flatten().map(Signer::public).collect());
        }
        Ok(self.made_key().await?.iter().map(Signer::public).collect())
    }

    /// The key that signs exports.
    pub(super) async fn export_signer(&self) -> Result<Option<Signer>> {
        match &self.0.settings.keys.current {
            Some(current) => Ok(Some(current.clone())),
            None => self.made_key().await,
        }
    }
}
