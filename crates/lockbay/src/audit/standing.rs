//! Where sealing goes on: behind the newest checkpoint, or behind the last good one after damage.
//!
//! Only a checkpoint signed by a key at hand is gone on from. What is damaged is told, and the next
//! checkpoint says so under its signature, so that sealing covers nothing up: every verification
//! from then on names it. Nothing that is there is overwritten.

use super::checkpoint::{self, Checkpoint, Head, Trimmed, checkpoint_key, head_key, number_of};
use super::key::{Keys, PublicKey, Signer};
use super::merkle::Hash;
use super::{Audit, CHECKPOINT, made_key, used_key};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::store::{MAX_PAGE, Partition, Range, Record, Revision};

/// Pages of checkpoints that are looked through for one to go on from.
const PAGES: usize = 10;

/// What the next checkpoint follows.
pub(super) struct Standing {
    /// The number of the next one.
    pub(super) next: u64,
    pub(super) hash: Hash,
    pub(super) last: Revision,
    pub(super) total: u64,
    pub(super) trimmed: Option<Trimmed>,
    /// The key by which the next one has to be signed, if there is one already.
    pub(super) key: Option<PublicKey>,
    /// What is damaged, if something is.
    pub(super) damage: Option<String>,
    /// Of the head's record, as it was found.
    pub(super) head: Option<Revision>,
    /// The key that was made here, and the one noted as used.
    pub(super) made: Option<Signer>,
    pub(super) used: Option<Record>,
    pub(super) now: Timestamp,
}

/// What a record of a checkpoint is good for.
enum Worth {
    Nothing,
    /// It is of one piece, and leads on to a key that is not at hand.
    Strange(PublicKey),
    Good(Box<Checkpoint>),
}

impl Audit {
    /// Where sealing goes on. What is not as it was left is told.
    ///
    /// # Errors
    /// `Fenced` if somebody else seals at this moment, `Internal` if a key that is needed is not at
    /// hand or damaged: then nothing is sealed. What the store says otherwise.
    pub(super) async fn standing(&self) -> Result<Standing> {
        let seen = self.seen();
        let keys = [head_key(), made_key(), used_key()];
        let read = self.0.store.get(&keys).await?;
        let now = read.now;
        let mut found = read.records.into_iter();
        let (head, made, used) =
            (found.next().flatten(), found.next().flatten(), found.next().flatten());
        let standing = Standing {
            next: 1,
            hash: [0; 32],
            last: Revision::ZERO,
            total: 0,
            trimmed: None,
            key: None,
            damage: None,
            head: head.as_ref().map(|record| record.revision),
            made: self.readable(made)?,
            used,
            now,
        };
        let Some(record) = head else {
            if standing.used.is_none() && seen.is_none() {
                return Ok(standing);
            }
            return self.behind_the_last(standing, "the head is missing".into()).await;
        };
        let Some(head) = Head::decode(&record.value) else {
            return self.behind_the_last(standing, "the head is damaged".into()).await;
        };
        let number = head.number;
        let keys = [head_key(), checkpoint_key(number), checkpoint_key(number.saturating_add(1))];
        let mut found = self.0.store.get(&keys).await?.records.into_iter();
        let (again, newest, next) =
            (found.next().flatten(), found.next().flatten(), found.next().flatten());
        if again.map(|record| record.revision) != standing.head {
            return Err(Error::new(ErrorKind::Fenced, "another instance seals the audit trail"));
        }
        let named = newest.filter(|record| checkpoint::hash_of(&record.value) == head.hash);
        let worth = named.map_or(Worth::Nothing, |record| self.worth(&standing, &record));
        let damage = match worth {
            Worth::Nothing => {
                Some(format!("checkpoint {number}, the newest, is missing or changed"))
            }
            Worth::Strange(_) | Worth::Good(_) if next.is_some() => {
                Some(format!("the head was set back to checkpoint {number}"))
            }
            Worth::Strange(_) | Worth::Good(_) => self.forgotten(seen.as_ref(), &head).await?,
        };
        match (damage, worth) {
            (Some(damage), _) => self.behind_the_last(standing, damage).await,
            (None, Worth::Good(newest)) => {
                let hash = head.hash;
                self.saw(head);
                let standing = standing.behind(&newest, hash);
                self.compare_note(&standing);
                Ok(standing)
            }
            (None, Worth::Strange(key)) => Err(self.refused(standing.missing(key))),
            // It is damaged, and that was the first case.
            (None, Worth::Nothing) => Err(self.refused("the head names nothing".into())),
        }
    }

    /// The key of the store. A damaged one that is needed is no reason to make another.
    fn readable(&self, made: Option<Record>) -> Result<Option<Signer>> {
        let Some(record) = made else { return Ok(None) };
        match (Signer::stored(&record.value), &self.0.settings.keys) {
            (Some(signer), _) => Ok(Some(signer)),
            (None, Keys::Stored) => Err(self.refused("the key in the store is damaged".into())),
            (None, Keys::Given(..) | Keys::Unreadable) => Ok(None),
        }
    }

    /// Tells why nothing is sealed: entries wait until somebody sees to it.
    pub(super) fn refused(&self, why: String) -> Error {
        let why = format!("nothing is sealed: {why}");
        self.notice(why.clone());
        Error::new(ErrorKind::Internal, why)
    }

    fn compare_note(&self, standing: &Standing) {
        let key = standing.key.map(|key| key.to_string().into_bytes());
        if standing.used.as_ref().map(|record| &record.value) != key.as_ref() {
            self.notice("the note of the key in use is missing or changed".into());
        }
    }

    /// Goes on behind the last good checkpoint there is, under the first number behind it that is
    /// free. The next one says what was damaged.
    async fn behind_the_last(&self, mut standing: Standing, damage: String) -> Result<Standing> {
        self.notice(damage.clone());
        let all = Range::new(Partition::FIRST, CHECKPOINT, "");
        let mut range = all.clone().backwards();
        'looking: for _ in 0..PAGES {
            let page = self.0.store.scan(&range, MAX_PAGE).await?;
            for record in &page.records {
                if let Worth::Good(read) = self.worth(&standing, record) {
                    standing = standing.behind(&read, checkpoint::hash_of(&record.value));
                    break 'looking;
                }
            }
            if !page.more {
                break;
            }
            range = range.after(page.records.last().map(|record| record.key.id.to_string()));
        }
        let before = standing.next.saturating_sub(1);
        let mut range = all.after((before > 0).then(|| checkpoint_key(before).id.into()));
        'free: for _ in 0..PAGES {
            let page = self.0.store.scan(&range, MAX_PAGE).await?;
            for record in &page.records {
                if number_of(&record.key) != Some(standing.next) {
                    break 'free;
                }
                standing.next = standing.next.saturating_add(1);
            }
            if !page.more {
                break;
            }
            range = range.after(page.records.last().map(|record| record.key.id.to_string()));
        }
        standing.damage = Some(damage);
        Ok(standing)
    }

    fn worth(&self, standing: &Standing, record: &Record) -> Worth {
        let Ok(read) = Checkpoint::decode(&record.value) else { return Worth::Nothing };
        if number_of(&record.key) != Some(read.number) || !read.is_signed() {
            return Worth::Nothing;
        }
        let at_hand = self.0.settings.keys.at_hand(standing.made.as_ref());
        match at_hand.iter().any(|signer| [read.key, read.follower()].contains(&signer.public())) {
            true => Worth::Good(Box::new(read)),
            false => Worth::Strange(read.follower()),
        }
    }
}

impl Standing {
    /// What to do about a key that the trail goes on with, and that is not at hand.
    pub(super) fn missing(&self, key: PublicKey) -> String {
        match self.made.as_ref().is_some_and(|made| made.public() == key) {
            true => "the key of the store signed the trail so far; to go on with another one, set \
                     audit_key to that one, a comma and `store`"
                .into(),
            false => format!(
                "the trail goes on with key {key}, which is not at hand; set audit_key to that \
                 one, or to both with a comma between them"
            ),
        }
    }

    fn behind(self, read: &Checkpoint, hash: Hash) -> Self {
        Standing {
            next: read.number.saturating_add(1),
            hash,
            last: read.last,
            total: read.total,
            trimmed: read.trimmed,
            key: Some(read.follower()),
            ..self
        }
    }
}
