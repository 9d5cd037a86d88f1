//! Sessions: what a browser holds in place of a token.
//!
//! A session has a secret of its own, in a cookie that scripts do not see, and stands in the store
//! so that every instance knows it. It ends when it was not used for a while, half a day after it
//! began, when somebody ends it, and with its token. A second secret follows from the first; pages
//! of ours send it with every change, and pages of others do not have it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::check::{Known, REMEMBERED};
use super::memory::Seen;
use super::record::{StoredSession, decode, encode, session_key};
use super::secret::{Secret, same};
use super::service::{Access, Inner};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::hex::hex;
use crate::scribe::{Caller, Entry};
use crate::store::{Commit, Deadline, Guard, Partition, Record, Reply, Revision, Store, Write};

/// How long a session lasts that is not used.
pub const SESSION_IDLE: Duration = Duration::from_secs(3_600);
/// How long a session lasts at most.
pub const SESSION_LIFE: Duration = Duration::from_secs(12 * 3_600);
/// How often it is noted that a session is used.
const TOUCHED_EVERY: Duration = Duration::from_secs(60);
/// Digits of the hash by which a session is named where people see it.
const SHOWN_DIGITS: usize = 16;

/// A session that counts.
#[derive(Debug, Clone)]
pub struct Session {
    /// Whose token began it.
    pub known: Arc<Known>,
    /// What names it; no secret.
    pub session_id: String,
    /// When it ends, however much it is used.
    pub expires_at: Timestamp,
    /// What a page sends with every change.
    pub csrf_token: String,
}

impl Session {
    /// Whether a page of ours sent this.
    pub fn proves(&self, csrf_token: &str) -> bool {
        same(&self.csrf_token, csrf_token)
    }
}

/// A session that was begun.
#[derive(Debug)]
pub struct Begun {
    /// What the cookie holds.
    pub cookie: String,
    /// The session.
    pub session: Session,
}

/// A session as it was read.
#[derive(Debug)]
pub(super) struct FoundSession {
    token_id: String,
    revision: Revision,
    deadline: Option<Timestamp>,
    touched: AtomicBool,
}

impl FoundSession {
    fn of(record: &Record) -> Result<Self> {
        let stored: StoredSession = decode(record)?;
        Ok(FoundSession {
            token_id: stored.token_id,
            revision: record.revision,
            deadline: record.deadline,
            touched: AtomicBool::new(false),
        })
    }

    /// When it ends, however much it is used: touching it keeps its revision.
    fn end(&self) -> Timestamp {
        self.revision.time() + SESSION_LIFE
    }

    fn counts(&self, now: Timestamp) -> bool {
        now < self.end() && self.deadline.is_some_and(|deadline| now < deadline)
    }
}

/// The name of a session: it is found by it, and its secret is not.
fn id_of(secret: &Secret) -> String {
    hex(&secret.hash())
}

fn session(secret: &Secret, known: Arc<Known>, end: Timestamp) -> Session {
    let expires_at = known.expires_at.map_or(end, |expires| expires.min(end));
    let mut session_id = id_of(secret);
    session_id.truncate(SHOWN_DIGITS);
    Session { known, session_id, expires_at, csrf_token: secret.derive("csrf") }
}

impl Access {
    /// Begins a session for a token, if that counts.
    ///
    /// # Errors
    /// As the store has them.
    pub async fn begin_session(&self, token: &str) -> Result<Option<Begun>> {
        let Some(known) = self.check(token).await? else { return Ok(None) };
        // Whatever name they give, it is the token that they have shown.
        let caller = Caller { proven: Some(known.name.clone()), ..Caller::current() };
        caller.scope(self.begin(known)).await.map(Some)
    }

    async fn begin(&self, known: Arc<Known>) -> Result<Begun> {
        let secret = Secret::draw(&self.0.clock);
        let id = id_of(&secret);
        let value = encode(&StoredSession { token_id: known.token_id.clone() })?;
        let shown = id.get(..SHOWN_DIGITS).unwrap_or(&id);
        let entry = Entry::new("access-session", shown, "begun")
            .with("token_id", known.token_id.as_str())
            .with("name", known.name.as_str());
        let mut writes: Vec<Write> = self.0.scribe.enter(&entry).into_iter().collect();
        let deadline = Deadline::After(SESSION_IDLE);
        writes.push(Write::Put { key: session_key(&id), value, deadline });
        let guards = vec![Guard::Absent(session_key(&id))];
        let commit = Commit::new(Partition::FIRST, guards, writes, Vec::new())?;
        match self.0.store.commit(&commit).await? {
            Reply::Committed { revision, .. } => {
                let end = revision.time() + SESSION_LIFE;
                let session = session(&secret, known, end);
                Ok(Begun { cookie: secret.digits(), session })
            }
            Reply::Conflict { .. } => {
                Err(Error::new(ErrorKind::Internal, "two sessions drew the same secret"))
            }
        }
    }

    /// The session that this cookie holds, if it counts.
    ///
    /// # Errors
    /// As the store has them, if it has to be asked. Then nobody knows.
    pub async fn check_session(&self, cookie: &str) -> Result<Option<Session>> {
        let Some(secret) = Secret::parse(cookie) else { return Ok(None) };
        let id = id_of(&secret);
        let seen = self.0.session(&id).await?;
        let now = seen.store_time(self.0.clock.tick());
        let Some(found) = seen.found.filter(|found| found.counts(now)) else { return Ok(None) };
        let token = self.0.token(&found.token_id).await?;
        let now = token.store_time(self.0.clock.tick());
        let Some(token) = token.found.filter(|token| token.counts(now)) else { return Ok(None) };
        self.0.note_use(&token, now);
        self.0.touch(&id, &found, now);
        Ok(Some(session(&secret, Arc::clone(&token.known), found.end())))
    }

    /// Whether this cookie was last seen to hold a session that counts, without asking the store; for
    /// what [`last_known`](Access::last_known) is for.
    pub fn last_known_session(&self, cookie: &str) -> Option<Session> {
        let secret = Secret::parse(cookie)?;
        let tick = self.0.clock.tick();
        let seen =
            self.0.sessions.last(&id_of(&secret)).filter(|seen| seen.age(tick) < REMEMBERED)?;
        let now = seen.store_time(tick);
        let found = seen.found.filter(|found| found.counts(now))?;
        let token = self.0.tokens.last(&found.token_id)?;
        let now = token.store_time(tick);
        let token = token.found.filter(|token| token.counts(now))?;
        Some(session(&secret, Arc::clone(&token.known), found.end()))
    }

    /// Ends the session that this cookie holds: at once here, within a second elsewhere. Without
    /// one, nothing is done.
    ///
    /// # Errors
    /// As the store has them.
    pub async fn end_session(&self, cookie: &str) -> Result<()> {
        let Some(secret) = Secret::parse(cookie) else { return Ok(()) };
        let id = id_of(&secret);
        let key = session_key(&id);
        let read = self.0.store.get(std::slice::from_ref(&key)).await?;
        let Some(record) = read.records.into_iter().flatten().next() else { return Ok(()) };
        let stored: StoredSession = decode(&record)?;
        let shown = id.get(..SHOWN_DIGITS).unwrap_or(&id);
        let mut entry =
            Entry::new("access-session", shown, "ended").with("token_id", &*stored.token_id);
        entry.previous = Some(record.revision);
        let mut writes: Vec<Write> = self.0.scribe.enter(&entry).into_iter().collect();
        writes.push(Write::Delete { key: key.clone() });
        let guards = vec![Guard::RevisionIs(key, record.revision)];
        let commit = Commit::new(Partition::FIRST, guards, writes, Vec::new())?;
        // Whoever was faster has ended it.
        self.0.store.commit(&commit).await?;
        self.0.sessions.forget(&id);
        Ok(())
    }
}

impl Inner {
    async fn session(&self, id: &str) -> Result<Seen<FoundSession>> {
        let read = || {
            let (store, key) = (Arc::clone(&self.store), session_key(id));
            async move {
                let read = store.get(&[key]).await?;
                let record = read.records.into_iter().flatten().next();
                let found = record.map(|record| FoundSession::of(&record)).transpose()?;
                Ok((found, read.now))
            }
        };
        self.sessions.ask(&self.clock, id, read).await
    }

    /// Lets a session that is used last, beside the work that it is used for.
    fn touch(&self, id: &str, found: &FoundSession, now: Timestamp) {
        let left = found.deadline.map_or(Duration::ZERO, |deadline| deadline.since(now));
        let wanted = SESSION_IDLE.min(found.end().since(now));
        if left + TOUCHED_EVERY > wanted || found.touched.swap(true, Ordering::Relaxed) {
            return;
        }
        let (store, key) = (Arc::clone(&self.store), session_key(id));
        let guard = Guard::RevisionIs(key.clone(), found.revision);
        let touch = Write::Touch { key, ttl: wanted };
        tokio::spawn(async move {
            if let Err(error) = prolong(&*store, guard, touch).await {
                tracing::debug!(%error, "a session that is used was not prolonged");
            }
        });
    }
}

async fn prolong(store: &dyn Store, guard: Guard, touch: Write) -> Result<()> {
    let commit = Commit::new(Partition::FIRST, vec![guard], vec![touch], Vec::new())?;
    store.commit(&commit).await.map(drop)
}
