//! What a person may do: silence alerts, end silences, look at notices, and try dead letters again.
//! On any instance.
//!
//! Each change reads, decides, and commits under the revision that was read, with its entry in the
//! audit trail.

use std::sync::atomic::{AtomicBool, Ordering};

use sha2::{Digest, Sha256};

use super::outbox::{self, Kept, Loaded, NOTICE_LIST, NoticeStatus};
use super::silence::{Shelf, Silence, SilenceRequest, SilenceState, no_silence};
use super::{Notifier, cut, decode, put, shelf_key};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::hex::hex;
use crate::scribe::Entry;
use crate::store::{Commit, Guard, Key, Partition, Range, Reply, Write};

/// How often a change is decided anew because another came between.
const MAX_RACES: usize = 32;
/// How often a commit whose outcome is unknown is sent again.
const MAX_REPEATS: usize = 3;
/// So many hexadecimal digits name a silence.
const DIGITS: usize = 16;
/// How many notices a page of the list has at most, as each may be large.
pub(super) const MAX_LISTED: usize = 100;

/// A page of notices.
#[derive(Debug, Clone, PartialEq)]
pub struct NoticePage {
    /// Of one status those that came to it last stand first.
    pub items: Vec<Kept>,
    /// Where to go on, if there is more.
    pub next: Option<String>,
}

impl Notifier {
    /// Keeps alerts from being told. One that still fires when it ends is told then.
    ///
    /// # Errors
    /// `Invalid` with what is wrong; `Busy` if there are too many.
    pub async fn silence(&self, request: SilenceRequest) -> Result<Silence> {
        let id = &self.0.clock.random_id()[..DIGITS];
        Ok(self.silence_as(format!("sil_{id}"), request, None).await?.0)
    }

    /// As [`silence`](Notifier::silence), once for each key, as long as the silence is listed; and
    /// whether that was before.
    ///
    /// # Errors
    /// `KeyReused` if the key made another silence. Others as [`silence`](Notifier::silence).
    pub async fn silence_once(
        &self,
        idempotency_key: &str,
        request: SilenceRequest,
    ) -> Result<(Silence, bool)> {
        let digest = Sha256::digest(format!("lockbay silence 1\0{idempotency_key}").as_bytes());
        let id = format!("sil_{}", &hex(&digest)[..DIGITS]);
        let fingerprint = request.fingerprint()?;
        self.silence_as(id, request, Some(fingerprint)).await
    }

    async fn silence_as(
        &self,
        id: String,
        request: SilenceRequest,
        fingerprint: Option<String>,
    ) -> Result<(Silence, bool)> {
        let replayed = AtomicBool::new(false);
        let decide = |shelf: &mut Shelf, now| {
            let before = shelf.silences.iter().find(|silence| silence.id == id);
            replayed.store(before.is_some(), Ordering::Relaxed);
            match before {
                // Also one that could not be made now, because its time is over.
                Some(before) if before.fingerprint == fingerprint => Ok((before.clone(), false)),
                Some(_) => Err(Error::new(
                    ErrorKind::KeyReused,
                    format!("this idempotency key made another silence: {id}"),
                )),
                None => {
                    let mut silence = request.clone().into_silence(id.clone(), now)?;
                    silence.fingerprint.clone_from(&fingerprint);
                    shelf.add(silence.clone(), now)?;
                    Ok((silence, true))
                }
            }
        };
        let silence = self.change(decide, "silence_created").await?;
        let replayed = replayed.into_inner();
        if !replayed {
            tracing::info!(id = silence.id, rules = silence.rules, "alert_silence_created");
        }
        Ok((silence, replayed))
    }

    /// Ends a silence now. Done twice, it changes nothing.
    ///
    /// # Errors
    /// `NotFound` if there is none of this name.
    pub async fn unsilence(&self, id: &str, actor: &str) -> Result<Silence> {
        let silence = self.change(|shelf, now| shelf.end(id, actor, now), "silence_ended").await?;
        tracing::info!(id, "alert_silence_ended");
        Ok(silence)
    }

    /// All silences with how they stand, also some that ended lately; the oldest first.
    ///
    /// # Errors
    /// As the store has them.
    pub async fn silences(&self) -> Result<Vec<(Silence, SilenceState)>> {
        let read = self.0.store.get(&[shelf_key()]).await?;
        let record = read.records.iter().flatten().next();
        let shelf: Shelf = record.map(decode).transpose()?.unwrap_or_default();
        let stands = |mut silence: Silence| {
            silence.fingerprint = None;
            let state = silence.state(read.now);
            (silence, state)
        };
        Ok(shelf.silences.into_iter().map(stands).collect())
    }

    /// One silence.
    ///
    /// # Errors
    /// `NotFound` if there is none of this name.
    pub async fn silence_of(&self, id: &str) -> Result<(Silence, SilenceState)> {
        let found = self.silences().await?.into_iter().find(|(silence, _)| silence.id == id);
        found.ok_or_else(|| no_silence(id))
    }

    /// Changes the silences. `decide` gives the one that it is about, and whether it changed it.
    async fn change(
        &self,
        decide: impl Fn(&mut Shelf, Timestamp) -> Result<(Silence, bool)>,
        action: &'static str,
    ) -> Result<Silence> {
        for _ in 0..MAX_RACES {
            let read = self.0.store.get(&[shelf_key()]).await?;
            let record = read.records.iter().flatten().next();
            let mut shelf: Shelf = record.map(decode).transpose()?.unwrap_or_default();
            let (mut silence, changed) = decide(&mut shelf, read.now)?;
            silence.fingerprint = None;
            if !changed {
                return Ok(silence);
            }
            let guard = match record {
                Some(record) => Guard::RevisionIs(shelf_key(), record.revision),
                None => Guard::Absent(shelf_key()),
            };
            let mut entry = Entry::new("silence", &silence.id, action);
            entry.actor = Some(silence.ended_by.as_ref().unwrap_or(&silence.actor));
            entry.reason = Some(&silence.reason);
            entry = entry.with("rules", &*silence.rules);
            let mut writes = vec![put(shelf_key(), &shelf)?];
            writes.extend(self.0.scribe.enter(&entry));
            if self.commit(guard, writes).await? {
                return Ok(silence);
            }
        }
        Err(Error::new(ErrorKind::Busy, "silences change too fast; nothing was done"))
    }

    /// Notices of one status, those that came to it last first.
    ///
    /// # Errors
    /// As the store has them.
    pub async fn notices(
        &self,
        status: NoticeStatus,
        after: Option<String>,
        limit: usize,
    ) -> Result<NoticePage> {
        let prefix = format!("{}/", status.name());
        let range = Range::new(Partition::FIRST, NOTICE_LIST, prefix).after(after);
        let page = self.0.store.scan(&range, limit.min(MAX_LISTED)).await?;
        let last = page.records.last().map(|entry| entry.key.id.to_string());
        let keys: Vec<Key> =
            page.records.iter().map(|entry| outbox::key(outbox::behind(&entry.key.id))).collect();
        let read =
            if keys.is_empty() { Vec::new() } else { self.0.store.get(&keys).await?.records };
        let kept = read.iter().flatten().map(Kept::decode).collect::<Result<Vec<_>>>()?;
        // One that moved on meanwhile is of another status by now.
        let items = kept.into_iter().filter(|kept| kept.status == status).collect();
        Ok(NoticePage { items, next: last.filter(|_| page.more) })
    }

    /// One notice.
    ///
    /// # Errors
    /// `NotFound` if there is none of this id.
    pub async fn notice(&self, id: &str) -> Result<Kept> {
        self.loaded(id).await.map(|(loaded, _)| loaded.kept)
    }

    async fn loaded(&self, id: &str) -> Result<(Loaded, Timestamp)> {
        let none = || Error::new(ErrorKind::NotFound, format!("there is no notice {id:?}"));
        if id.is_empty() || id.len() > 100 {
            return Err(none());
        }
        let read = self.0.store.get(&[outbox::key(id)]).await?;
        let record = read.records.into_iter().flatten().next().ok_or_else(none)?;
        Ok((Loaded::of(&record)?, read.now))
    }

    /// Tries a dead letter again on the channels that gave it up, as if it were new, under the same
    /// identity.
    ///
    /// # Errors
    /// `NotFound` if there is no such notice, `Refused` if it is no dead letter.
    pub async fn retry(&self, id: &str, actor: Option<&str>) -> Result<Kept> {
        for _ in 0..MAX_RACES {
            let (Loaded { mut kept, revision }, now) = self.loaded(id).await?;
            let mut writes = kept.revive(now)?;
            if writes.is_empty() {
                let status = kept.status.name();
                let message = format!("notice {id:?} is no dead letter, it is {status}");
                return Err(Error::new(ErrorKind::Refused, message));
            }
            let mut actor = actor.map(str::to_owned);
            actor.iter_mut().for_each(|actor| cut(actor, 255));
            let mut entry = Entry::new("notice", id, "notice_retried");
            entry.actor = actor.as_deref();
            writes.extend(self.0.scribe.enter(&entry));
            if self.commit(Guard::RevisionIs(outbox::key(id), revision), writes).await? {
                self.committed();
                tracing::info!(notice = id, "notification_retried");
                return Ok(kept);
            }
        }
        Err(Error::new(ErrorKind::Busy, format!("notice {id:?} changes too fast")))
    }

    /// Whether a commit was applied; one whose answer was lost is sent again.
    async fn commit(&self, guard: Guard, writes: Vec<Write>) -> Result<bool> {
        let commit = Commit::new(Partition::FIRST, vec![guard], writes, Vec::new())?;
        let mut reply = self.0.store.commit(&commit).await;
        for _ in 0..MAX_REPEATS {
            match &reply {
                Err(error) if error.kind() == ErrorKind::Unknown => {
                    reply = self.0.store.commit(&commit).await;
                }
                Ok(_) | Err(_) => break,
            }
        }
        Ok(matches!(reply?, Reply::Committed { .. }))
    }
}
