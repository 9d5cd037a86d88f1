//! Sessions: under which right an instance executes sagas, and how another takes them all over.
//!
//! A session is one record with a deadline, renewed with all other rights of the process. Every
//! commit of an executor is guarded by the revision of its session's record. To take over is one
//! commit to that record: from then on nothing of the old executor is accepted any more, however
//! many sagas it had, and they are found under the session's name in the list.
//!
//! A session is taken over once it has lapsed, or at once if its process ran on this machine and
//! is seen to be dead. It knows nothing of what is executed under it.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::machine::Process;
use super::record::{decode, encode};
use crate::clock::{Clock, Timestamp};
use crate::error::{Error, ErrorKind, Result};
use crate::keeper::{Keeper, Right};
use crate::scribe::{self, Scribe};
use crate::store::{
    Commit, Deadline, Fence, Guard, Key, Kind, MAX_PAGE, Partition, Range, Record, Reply, Revision,
    Store, Write,
};

/// Under which sagas are executed. Key: a random id.
pub(crate) const SESSION: Kind = Kind::new("session");

/// How often a new session is tried when the store's answer was lost.
const TRIES: usize = 8;

/// What is stored of a session.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct SessionRecord {
    /// Who executes under it now.
    instance_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    instance_name: Option<String>,
    process: Process,
}

/// A right to execute the sagas of one session. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub(crate) id: Arc<str>,
    pub(crate) right: Right,
}

impl Session {
    /// What every commit of its executor is guarded by. A session that has lapsed still counts
    /// until somebody takes it over.
    pub(crate) fn guard(&self) -> Guard {
        let fence = self.right.fence();
        Guard::RevisionIs(fence.key.clone(), fence.token)
    }
}

/// The sessions of an instance.
pub(crate) struct Sessions {
    store: Arc<dyn Store>,
    clock: Clock,
    keeper: Keeper,
    ttl: Duration,
    instance_id: String,
    instance_name: Option<String>,
    scribe: Scribe,
    process: Process,
    /// The one under which new sagas are started.
    own: tokio::sync::Mutex<Option<Session>>,
    /// All that are held, for the way out.
    held: Mutex<Vec<Session>>,
}

impl Sessions {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        clock: Clock,
        keeper: Keeper,
        ttl: Duration,
        (instance_id, instance_name): (String, Option<String>),
        scribe: Scribe,
    ) -> Self {
        let process = Process::this();
        let (own, held) = (tokio::sync::Mutex::default(), Mutex::default());
        Sessions {
            store,
            clock,
            keeper,
            ttl,
            instance_id,
            instance_name,
            scribe,
            process,
            own,
            held,
        }
    }

    /// The session under which new sagas are started, opened if there is none that is held.
    pub(crate) async fn own(&self) -> Result<Session> {
        let mut own = self.own.lock().await;
        if let Some(session) = own.as_ref().filter(|session| session.right.is_held()) {
            return Ok(session.clone());
        }
        let mut last = None;
        for _ in 0..TRIES {
            let id = &self.clock.random_id()[..16];
            let key = Key::new(Partition::of(id), SESSION, id);
            match self.put(key.clone(), vec![Guard::Absent(key)], None).await {
                Ok(Some(session)) => {
                    *own = Some(session.clone());
                    return Ok(session);
                }
                Ok(None) => {} // a random id that was there already
                Err(error) if error.kind() == ErrorKind::Unknown => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        let message = "no session could be opened to execute sagas under";
        Err(Error::new(ErrorKind::Unavailable, message).with_source(
            last.unwrap_or_else(|| Error::new(ErrorKind::Internal, "random ids repeat themselves")),
        ))
    }

    /// Puts our name on a session's record if the guards hold.
    async fn put(
        &self,
        key: Key,
        guards: Vec<Guard>,
        before: Option<&Record>,
    ) -> Result<Option<Session>> {
        let content = SessionRecord {
            instance_id: self.instance_id.clone(),
            instance_name: self.instance_name.clone(),
            process: self.process.clone(),
        };
        let value = encode(&content)?;
        let action = if before.is_some() { "taken_over" } else { "opened" };
        let mut entry = scribe::Entry::new("session", &key.id, action)
            .with("instance_id", self.instance_id.as_str());
        entry.previous = before.map(|record| record.revision);
        entry.record = Some(&value);
        // Whoever's request needed it: it is this instance that has it.
        let mut writes: Vec<Write> = self.scribe.enter_own(&entry).into_iter().collect();
        writes.push(Write::Put { key: key.clone(), value, deadline: Deadline::After(self.ttl) });
        let commit = Commit::new(key.partition, guards, writes, Vec::new())?;
        let attempt = self.clock.tick();
        match self.store.commit(&commit).await? {
            Reply::Committed { revision, .. } => Ok(Some(self.keep(key, revision, attempt))),
            Reply::Conflict { .. } => Ok(None),
        }
    }

    fn keep(&self, key: Key, token: Revision, attempt: crate::clock::Tick) -> Session {
        let id: Arc<str> = (&*key.id).into();
        let right = self.keeper.keep(Fence { key, token }, self.ttl, attempt);
        let session = Session { id, right };
        let mut held = self.held.lock();
        held.retain(|session| session.right.is_held());
        held.push(session.clone());
        session
    }

    /// Takes over every session whose owner is gone, and says when the next one lapses unless it
    /// is renewed. One that cannot be taken over is left for the next time.
    pub(crate) async fn take_over(&self) -> Result<(Vec<Session>, Option<Duration>)> {
        let (mut taken, mut next) = (Vec::new(), None::<Duration>);
        let mut after = None;
        loop {
            let range = Range::new(Partition::FIRST, SESSION, "").after(after);
            let page = match self.store.scan(&range, MAX_PAGE).await {
                Ok(page) => page,
                // What was taken must be executed, whatever happens now.
                Err(_) if !taken.is_empty() => return Ok((taken, next)),
                Err(error) => return Err(error),
            };
            after = page.records.last().map(|record| record.key.id.to_string());
            for record in page.records.iter().filter(|record| !self.is_ours(record)) {
                match self.try_to_take(record, page.now).await {
                    Ok(session) => taken.extend(session),
                    Err(error) => {
                        tracing::warn!(%error, session = %record.key.id, "session not taken over");
                    }
                }
                if let Some(deadline) = record.deadline.filter(|deadline| *deadline > page.now) {
                    let left = deadline.since(page.now);
                    next = Some(next.map_or(left, |next| next.min(left)));
                }
            }
            if !page.more {
                return Ok((taken, next));
            }
        }
    }

    /// For how long a session has lapsed that nobody took over, if there is one: the longest.
    pub(crate) async fn oldest_lapse(&self) -> Result<Option<Duration>> {
        let due = self.store.due(Partition::FIRST, SESSION, 1).await?;
        let lapsed = due.records.iter().filter_map(|record| record.deadline);
        Ok(lapsed.map(|deadline| due.now.since(deadline)).max())
    }

    async fn try_to_take(&self, record: &Record, now: Timestamp) -> Result<Option<Session>> {
        match self.is_orphaned(record, now) {
            Some(guards) => self.put(record.key.clone(), guards, Some(record)).await,
            None => Ok(None),
        }
    }

    fn is_ours(&self, record: &Record) -> bool {
        let held = self.held.lock();
        held.iter().any(|session| {
            let fence = session.right.fence();
            fence.key == record.key && fence.token == record.revision && session.right.is_held()
        })
    }

    /// What must hold for a session to be taken over, if its owner is gone.
    fn is_orphaned(&self, record: &Record, now: Timestamp) -> Option<Vec<Guard>> {
        let unchanged = Guard::RevisionIs(record.key.clone(), record.revision);
        if record.lapsed(now) {
            return Some(vec![unchanged, Guard::Lapsed(record.key.clone())]);
        }
        // What cannot be read is waited for like a process elsewhere.
        let content: SessionRecord = decode(record).ok()?;
        let dead = content.instance_id != self.instance_id && content.process.is_dead();
        dead.then(|| vec![unchanged])
    }

    /// Removes a session that executes nothing any more.
    pub(crate) async fn remove(&self, session: &Session) -> Result<()> {
        self.keeper.let_go(&session.right);
        let fence = session.right.fence().clone();
        let mut writes = vec![Write::Delete { key: fence.key.clone() }];
        writes.extend(self.entered_end(&fence, "removed"));
        let partition = fence.key.partition;
        let guard = Guard::RevisionIs(fence.key, fence.token);
        let commit = Commit::new(partition, vec![guard], writes, Vec::new())?;
        self.store.commit(&commit).await.map(drop)
    }

    /// Lets a session lapse now, so that another instance need not wait.
    pub(crate) async fn release(&self, session: &Session) -> Result<()> {
        self.keeper.let_go(&session.right);
        let fence = session.right.fence().clone();
        let (partition, key) = (fence.key.partition, fence.key.clone());
        let mut writes = vec![Write::Touch { key, ttl: Duration::ZERO }];
        writes.extend(self.entered_end(&fence, "released"));
        // One that has lapsed is released already, and that was entered.
        let commit = Commit::new(partition, vec![Guard::Held(fence)], writes, Vec::new())?;
        self.store.commit(&commit).await.map(drop)
    }

    fn entered_end(&self, fence: &Fence, action: &'static str) -> Option<Write> {
        let mut entry = scribe::Entry::new("session", &fence.key.id, action);
        entry.previous = Some(fence.token);
        self.scribe.enter_own(&entry)
    }

    /// A session was found to be another's by now: nothing more is begun under it.
    pub(crate) fn lost(&self, session: &Session) {
        self.keeper.let_go(&session.right);
    }

    /// Every session that is held.
    pub(crate) fn held(&self) -> Vec<Session> {
        let held = self.held.lock();
        held.iter().filter(|session| session.right.is_held()).cloned().collect()
    }
}
