//! Whether a token counts, and whether anybody needs one: the questions of every request.
//!
//! Both are answered from memory for less than a second after the store was asked. When a token
//! ends is judged by the store's time, as of its answer and the time that has gone by since it was
//! asked for: so a token is refused rather a moment too early than too late.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::memory::Seen;
use super::record::{Stored, Used, decode, encode, head_key, token_key, use_key};
use super::role::Role;
use super::secret::{Hash, Secret, Token};
use super::service::{Access, Inner};
use crate::clock::Timestamp;
use crate::error::Result;
use crate::store::{Commit, Deadline, Guard, Partition, Record, Revision, Store, Write};

/// How long ago somebody must have been known to be let look while the store cannot be asked.
pub(super) const REMEMBERED: Duration = Duration::from_secs(3_600);
/// How often it is noted that a token was used.
const NOTED_EVERY: Duration = Duration::from_secs(60);

/// Whose token it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// What names the token.
    pub token_id: String,
    /// What it is called.
    pub name: String,
    /// What whoever has it may do.
    pub role: Role,
    /// When it expires.
    pub expires_at: Option<Timestamp>,
}

/// Whether a token is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// There was never an admin token: everybody may do everything.
    Open,
    /// Nothing is done for whoever shows none.
    Closed,
}

/// A token as it was read.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) known: Arc<Known>,
    hash: Hash,
    revision: Revision,
    revoked: bool,
    deadline: Option<Timestamp>,
    /// When its use was noted last, in microseconds.
    noted_us: AtomicU64,
}

impl Found {
    fn of(record: &Record, used: Option<&Record>) -> Result<Self> {
        let stored: Stored = decode(record)?;
        let used: Option<Used> = used.map(decode).transpose()?;
        let hash = stored.hash();
        Ok(Found {
            known: Arc::new(Known {
                token_id: record.key.id.to_string(),
                name: stored.name,
                role: stored.role,
                expires_at: record.deadline,
            }),
            hash,
            revision: record.revision,
            revoked: stored.revoked.is_some(),
            deadline: record.deadline,
            noted_us: AtomicU64::new(used.map_or(0, |used| used.at_us)),
        })
    }

    pub(super) fn counts(&self, now: Timestamp) -> bool {
        !self.revoked && self.deadline.is_none_or(|deadline| now < deadline)
    }
}

impl Access {
    /// Whose token this text is, if it is one that counts. Why one does not is not told: it helps
    /// nobody but whoever tries.
    ///
    /// # Errors
    /// As the store has them, if it has to be asked. Then nobody knows.
    pub async fn check(&self, text: &str) -> Result<Option<Arc<Known>>> {
        let Some(token) = Token::parse(text) else { return Ok(None) };
        let seen = self.0.token(&token.id).await?;
        let now = seen.store_time(self.0.clock.tick());
        let Some(found) = seen.found.filter(|found| proves(&token.secret, found, now)) else {
            return Ok(None);
        };
        self.0.note_use(&found, now);
        Ok(Some(Arc::clone(&found.known)))
    }

    /// Whether this text was last seen to be a token that counts, without asking the store, and
    /// whose. For looking at what this process itself has to tell while the store cannot be asked,
    /// and for nothing else; at most an hour old.
    pub fn last_known(&self, text: &str) -> Option<Arc<Known>> {
        let token = Token::parse(text)?;
        let tick = self.0.clock.tick();
        let seen = self.0.tokens.last(&token.id).filter(|seen| seen.age(tick) < REMEMBERED)?;
        let now = seen.store_time(tick);
        seen.found
            .filter(|found| proves(&token.secret, found, now))
            .map(|found| Arc::clone(&found.known))
    }

    /// Whether a token is needed.
    ///
    /// # Errors
    /// As the store has them, if it has to be asked. Then nobody knows, and nothing is open.
    pub async fn standing(&self) -> Result<Standing> {
        let inner = &self.0;
        if inner.required || inner.closed.load(Ordering::Acquire) {
            return Ok(Standing::Closed);
        }
        let read = || {
            let store = Arc::clone(&inner.store);
            async move {
                let read = store.get(&[head_key()]).await?;
                let found = read.records.into_iter().flatten().next();
                Ok((found.map(|_| ()), read.now))
            }
        };
        let seen = inner.head.ask(&inner.clock, read).await?;
        if seen.found.is_none() {
            return Ok(Standing::Open);
        }
        inner.head_changed();
        Ok(Standing::Closed)
    }

    /// Whether a token was needed when the store was last asked, as for
    /// [`last_known`](Access::last_known).
    pub fn last_standing(&self) -> Option<Standing> {
        let inner = &self.0;
        if inner.required || inner.closed.load(Ordering::Acquire) {
            return Some(Standing::Closed);
        }
        let tick = inner.clock.tick();
        let seen = inner.head.last().filter(|seen| seen.age(tick) < REMEMBERED)?;
        Some(if seen.found.is_some() { Standing::Closed } else { Standing::Open })
    }
}

fn proves(secret: &Secret, found: &Found, now: Timestamp) -> bool {
    secret.is(&found.hash) && found.counts(now)
}

impl Inner {
    /// There is an admin token now, or was.
    pub(super) fn head_changed(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// A token by its id.
    pub(super) async fn token(&self, id: &str) -> Result<Seen<Found>> {
        let read = || {
            let (store, keys) = (Arc::clone(&self.store), [token_key(id), use_key(id)]);
            async move {
                let read = store.get(&keys).await?;
                let mut records = read.records.into_iter();
                let (token, used) = (records.next().flatten(), records.next().flatten());
                let found = token.map(|token| Found::of(&token, used.as_ref())).transpose()?;
                Ok((found, read.now))
            }
        };
        self.tokens.ask(&self.clock, id, read).await
    }

    /// Notes that a token was used, beside the work that it is used for, and not more often than
    /// needed. That a note is lost does no harm.
    pub(super) fn note_use(&self, found: &Found, now: Timestamp) {
        let noted = found.noted_us.load(Ordering::Relaxed);
        if now.since(Timestamp::from_micros(noted)) < NOTED_EVERY {
            return;
        }
        let (mine, relaxed) = (now.as_micros(), Ordering::Relaxed);
        if found.noted_us.compare_exchange(noted, mine, relaxed, relaxed).is_err() {
            return; // another request does it
        }
        let id = found.known.token_id.clone();
        let guard = Guard::RevisionIs(token_key(&id), found.revision);
        let store = Arc::clone(&self.store);
        tokio::spawn(async move {
            if let Err(error) = note(&*store, &id, guard, mine).await {
                tracing::debug!(token = id, %error, "use of a token not noted");
            }
        });
    }
}

async fn note(store: &dyn Store, id: &str, guard: Guard, at_us: u64) -> Result<()> {
    let value = encode(&Used { at_us })?;
    let put = Write::Put { key: use_key(id), value, deadline: Deadline::Never };
    let commit = Commit::new(Partition::FIRST, vec![guard], vec![put], Vec::new())?;
    store.commit(&commit).await.map(drop)
}
