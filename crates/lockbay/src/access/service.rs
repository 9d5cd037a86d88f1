//! Tokens: making, listing and revoking them.
//!
//! Every change of an admin token writes the one record that says that the store is closed, under
//! its revision. So two of them never pass each other, and the last admin token is found to be the
//! last by one of two who revoke at once.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::check::Found;
use super::memory::{Memory, Slot};
use super::record::{
    Revoked, Stored, TOKEN, TokenInfo, decode, encode, head_key, token_key, use_key,
};
use super::role::Role;
use super::secret::{Token, is_id};
use super::session::FoundSession;
use crate::clock::{Clock, Timestamp};
use crate::error::{Error, ErrorKind, Result};
use crate::name::check_name;
use crate::scribe::{Caller, Entry, Scribe};
use crate::store::{
    Commit, Deadline, Guard, Key, MAX_PAGE, Partition, Range, Record, Reply, Store, Write,
};

/// The longest name of a token, in bytes: with what stands around it, it is still an actor.
pub const MAX_TOKEN_NAME: usize = 128;
/// The shortest and the longest life of a token.
pub const MIN_TOKEN_LIFE: Duration = Duration::from_secs(1);
/// See [`MIN_TOKEN_LIFE`].
pub const MAX_TOKEN_LIFE: Duration = Duration::from_secs(10 * 366 * 86_400);
/// The longest reason, in bytes.
const MAX_REASON: usize = 1_024;
/// How often a change is tried that others got in the way of.
const TRIES: usize = 16;

/// Tokens and sessions of one store. Cheap to clone.
#[derive(Clone)]
pub struct Access(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Clock,
    pub(super) scribe: Scribe,
    /// Whether a token is needed even while there is none.
    pub(super) required: bool,
    /// Whether the store was ever seen to be closed, which it then stays.
    pub(super) closed: AtomicBool,
    pub(super) head: Arc<Slot<()>>,
    pub(super) tokens: Memory<Found>,
    pub(super) sessions: Memory<FoundSession>,
}

/// When a token ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// So long after it was made.
    In(Duration),
    /// At this moment, by the store's clock.
    At(Timestamp),
}

/// A token as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewToken {
    /// What the audit trail calls whoever uses it: 1 to 128 bytes.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// When it ends; never if there is nothing.
    pub expiry: Option<Expiry>,
}

/// A token that was made.
pub struct Issued {
    /// All that can be seen of it later.
    pub info: TokenInfo,
    /// The token itself, which is shown here and never again.
    pub token: String,
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued").field("info", &self.info).finish_non_exhaustive()
    }
}

/// What becomes of the last admin token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LastAdmin {
    /// It stays: without it nobody could make another over the network.
    Stays,
    /// It may go: whoever asks reaches the store itself.
    MayGo,
}

/// Who asks for a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asker {
    /// Somebody who may: by a token of their own, or because they reach the store itself.
    Known,
    /// Whoever comes while nobody is known.
    Anybody,
}

impl NewToken {
    fn lifetime(&self, now: Timestamp) -> Result<Option<Duration>> {
        let life = match self.expiry {
            None => return Ok(None),
            Some(Expiry::In(life)) => life,
            Some(Expiry::At(end)) => end.since(now),
        };
        if (MIN_TOKEN_LIFE..=MAX_TOKEN_LIFE).contains(&life) {
            return Ok(Some(life));
        }
        let days = MAX_TOKEN_LIFE.as_secs() / 86_400;
        Err(Error::invalid(format!(
            "a token lasts from a second to {days} days from now ({now}), not {life:?}"
        )))
    }
}

impl Access {
    pub(crate) fn new(store: Arc<dyn Store>, clock: Clock, scribe: Scribe, required: bool) -> Self {
        Access(Arc::new(Inner {
            store,
            clock,
            scribe,
            required,
            closed: AtomicBool::new(false),
            head: Arc::default(),
            tokens: Memory::new(),
            sessions: Memory::new(),
        }))
    }

    /// Makes a token. Not to be repeated blindly: each call makes another one; one whose answer was
    /// lost is found in the list, and revoked.
    ///
    /// # Errors
    /// `Invalid` for a name or an end that cannot be; `Refused` if the store is open and this is no
    /// admin token; `Busy` if others change tokens all the time.
    pub async fn create(&self, wish: &NewToken) -> Result<Issued> {
        self.make(wish, Asker::Known).await
    }

    /// Makes the first admin token of an open store, for somebody who has shown nothing. The commit
    /// itself makes sure that the store is open still, so that of two who ask at once one gets a
    /// token, and nobody does who was let in before it was closed.
    ///
    /// # Errors
    /// As [`create`](Access::create) has them; `Unauthorized` if there is an admin token, or was.
    pub async fn create_first(&self, wish: &NewToken) -> Result<Issued> {
        self.make(wish, Asker::Anybody).await
    }

    async fn make(&self, wish: &NewToken, asker: Asker) -> Result<Issued> {
        check_name("name of a token", &wish.name, MAX_TOKEN_NAME)?;
        if wish.name.trim() != wish.name {
            return Err(Error::invalid("the name of a token neither begins nor ends with a space"));
        }
        for _ in 0..TRIES {
            let read = self.0.store.get(&[head_key()]).await?;
            let head = read.records.into_iter().flatten().next();
            if head.is_some() && asker == Asker::Anybody {
                self.0.head_changed();
                return Err(Error::new(
                    ErrorKind::Unauthorized,
                    "there is an admin token by now, so that whoever shows none makes no other; \
                     nothing was done",
                ));
            }
            if head.is_none() && wish.role != Role::Admin {
                return Err(Error::new(
                    ErrorKind::Refused,
                    format!(
                        "the first token has the role admin, not {}: until there is one, everybody \
                         may do everything",
                        wish.role
                    ),
                ));
            }
            let life = wish.lifetime(read.now)?;
            let token = Token::draw(&self.0.clock, read.now);
            let by = Caller::current().shown(None);
            let stored = Stored::new(&wish.name, wish.role, &token.secret.hash(), read.now, by);
            let commit = self.creation(&token.id, &stored, life, head.as_ref())?;
            if let Reply::Committed { now, .. } = self.0.store.commit(&commit).await? {
                self.0.head_changed();
                let record = Record {
                    key: token_key(&token.id),
                    value: encode(&stored)?,
                    revision: crate::store::Revision::ZERO,
                    deadline: life.map(|life| now + life),
                };
                let info = TokenInfo::of(&record, None, now)?;
                return Ok(Issued { info, token: token.text() });
            }
        }
        Err(contended())
    }

    fn creation(
        &self,
        id: &str,
        stored: &Stored,
        life: Option<Duration>,
        head: Option<&Record>,
    ) -> Result<Commit> {
        let mut entry = Entry::new("token", id, "created")
            .with("name", stored.name.as_str())
            .with("role", stored.role.name())
            .with_some("lasts_seconds", life.map(|life| life.as_secs()));
        let value = encode(stored)?;
        entry.record = Some(&value);
        let mut writes: Vec<Write> = self.0.scribe.enter(&entry).into_iter().collect();
        let deadline = life.map_or(Deadline::Never, Deadline::After);
        writes.push(Write::Put { key: token_key(id), value, deadline });
        let guards = vec![Guard::Absent(token_key(id)), head_is(head)];
        if stored.role == Role::Admin {
            writes.push(new_head());
        }
        Commit::new(Partition::FIRST, guards, writes, Vec::new())
    }

    /// Tokens behind this id, oldest first, and the id behind which there are more.
    ///
    /// # Errors
    /// As the store has them.
    pub async fn list(
        &self,
        after: Option<String>,
        limit: usize,
    ) -> Result<(Vec<TokenInfo>, Option<String>)> {
        let range = Range::new(Partition::FIRST, TOKEN, "").after(after);
        let page = self.0.store.scan(&range, limit.min(MAX_PAGE)).await?;
        let keys: Vec<Key> = page.records.iter().map(|record| use_key(&record.key.id)).collect();
        let used = match keys.is_empty() {
            true => Vec::new(),
            false => self.0.store.get(&keys).await?.records,
        };
        let pairs = page.records.iter().zip(&used);
        let tokens: Result<Vec<TokenInfo>> =
            pairs.map(|(record, used)| TokenInfo::of(record, used.as_ref(), page.now)).collect();
        let last = page.records.last().filter(|_| page.more);
        Ok((tokens?, last.map(|record| record.key.id.to_string())))
    }

    /// Revokes a token: within a second no instance takes it any more, nor any session that it
    /// began. One that is revoked already stays as it is.
    ///
    /// # Errors
    /// `NotFound` if there is none of this id; `Refused` if it is the last admin token and that is
    /// to stay; `Busy` if others change tokens all the time.
    pub async fn revoke(&self, id: &str, reason: &str, last: LastAdmin) -> Result<TokenInfo> {
        check_name("reason", reason, MAX_REASON)?;
        for _ in 0..TRIES {
            let none = || Error::new(ErrorKind::NotFound, format!("there is no token {id:?}"));
            if !is_id(id) {
                return Err(none());
            }
            let read = self.0.store.get(&[token_key(id), use_key(id), head_key()]).await?;
            let [record, used, head] =
                <[Option<Record>; 3]>::try_from(read.records).map_err(|_| none())?;
            let record = record.ok_or_else(none)?;
            let mut stored: Stored = decode(&record)?;
            if stored.revoked.is_some() {
                return TokenInfo::of(&record, used.as_ref(), read.now);
            }
            let counts = !record.lapsed(read.now);
            let is_admin = stored.role == Role::Admin;
            if is_admin && counts && last == LastAdmin::Stays && !self.other_admin(id).await? {
                return Err(Error::new(
                    ErrorKind::Refused,
                    format!(
                        "{id} is the last admin token: make another first, or revoke it with \
                         `lockbay token revoke {id} --store URL` where the store is reached"
                    ),
                ));
            }
            stored.revoked = Some(Revoked {
                at_us: read.now.as_micros(),
                by: Caller::current().shown(None),
                reason: reason.to_owned(),
                expires_us: record.deadline.map(Timestamp::as_micros),
            });
            let commit = self.revocation(&record, &stored, reason, head.as_ref())?;
            if let Reply::Committed { now, .. } = self.0.store.commit(&commit).await? {
                self.0.tokens.forget(id);
                let value = encode(&stored)?;
                let record = Record { value, deadline: Some(now), ..record };
                return TokenInfo::of(&record, used.as_ref(), now);
            }
        }
        Err(contended())
    }

    fn revocation(
        &self,
        record: &Record,
        stored: &Stored,
        reason: &str,
        head: Option<&Record>,
    ) -> Result<Commit> {
        let id = &*record.key.id;
        let value = encode(stored)?;
        let mut entry = Entry::new("token", id, "revoked")
            .with("name", stored.name.as_str())
            .with("role", stored.role.name());
        entry.previous = Some(record.revision);
        entry.record = Some(&value);
        entry.reason = Some(reason);
        let mut writes: Vec<Write> = self.0.scribe.enter(&entry).into_iter().collect();
        let mut guards = vec![Guard::RevisionIs(record.key.clone(), record.revision)];
        // Its end is now.
        let deadline = Deadline::After(Duration::ZERO);
        writes.push(Write::Put { key: record.key.clone(), value, deadline });
        if stored.role == Role::Admin {
            guards.push(head_is(head));
            writes.push(new_head());
        }
        Commit::new(Partition::FIRST, guards, writes, Vec::new())
    }

    /// Whether another admin token counts.
    async fn other_admin(&self, id: &str) -> Result<bool> {
        let mut after = None;
        loop {
            let range = Range::new(Partition::FIRST, TOKEN, "").after(after);
            let page = self.0.store.scan(&range, MAX_PAGE).await?;
            for record in page.records.iter().filter(|record| &*record.key.id != id) {
                let stored: Stored = decode(record)?;
                let counts = stored.revoked.is_none() && !record.lapsed(page.now);
                if counts && stored.role == Role::Admin {
                    return Ok(true);
                }
            }
            match page.records.last().filter(|_| page.more) {
                Some(last) => after = Some(last.key.id.to_string()),
                None => return Ok(false),
            }
        }
    }
}

/// That the head is as it was read.
fn head_is(head: Option<&Record>) -> Guard {
    match head {
        Some(head) => Guard::RevisionIs(head_key(), head.revision),
        None => Guard::Absent(head_key()),
    }
}

fn new_head() -> Write {
    Write::Put { key: head_key(), value: b"{}".to_vec(), deadline: Deadline::Never }
}

fn contended() -> Error {
    Error::new(ErrorKind::Busy, "others change tokens at the same time; nothing was done")
}
