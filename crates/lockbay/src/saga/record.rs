//! The records of a saga: its head, its log, and its place in the lists.
//!
//! The head holds what never changes: the definition, and the session that executes it. The log
//! holds what happened, one record for each entry, numbered. A saga has one entry in the list,
//! under its status; one that somebody must execute stands under its executor's session, so that
//! the sagas of a dead executor are found without looking at any other.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::definition::Definition;
use super::log::{Entry, SagaStatus, State};
use super::retire::is_marked;
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::name::check_name;
use crate::scribe::Scribe;
use crate::store::{
    Commit, Deadline, Effects, Guard, Key, Kind, MAX_PAGE, Partition, Range, Record, Revision,
    Store, Write,
};

/// What a saga is to do. Key: its id.
pub(crate) const SAGA: Kind = Kind::new("saga");
/// What happened to a saga. Key: its id, the number of the entry.
pub(crate) const SAGA_LOG: Kind = Kind::new("saga-log");
/// Sagas by status. Key: status, session or a hyphen, time, saga id. No value.
pub(crate) const SAGA_LIST: Kind = Kind::index("saga-list");
/// Sagas to whose log somebody else than their executor has added. Key: session, saga id. No value.
pub(crate) const SAGA_INBOX: Kind = Kind::index("saga-inbox");

/// What is stored of a saga as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Head {
    /// Who executes it, unless the log names another.
    pub(crate) session: String,
    /// When it was started, by the executor's best knowledge of the store's time.
    pub(crate) created_us: u64,
    /// The digest of the request, where a key names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) request: Option<String>,
    pub(crate) definition: Arc<Definition>,
}

/// One record of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Logged {
    /// When it was entered, by the writer's best knowledge of the store's time.
    pub(crate) at_us: u64,
    pub(crate) entry: Entry,
}

/// One record of the log, about to be written.
#[derive(Serialize)]
struct ToLog<'a> {
    at_us: u64,
    entry: &'a Entry,
}

/// A saga as its records say.
#[derive(Debug, Clone)]
pub(crate) struct Saga {
    pub(crate) id: Arc<str>,
    pub(crate) head: Head,
    pub(crate) state: State,
    /// The number of the next entry of its log.
    pub(crate) next: u64,
    /// Grows with every change of its executor.
    pub(crate) token: Revision,
    /// The revision of its head, as it was read; zero before it has started.
    born: Revision,
    /// The commit that changed it last; zero before it has started.
    last: Revision,
}

/// An ended saga is kept this long at least, so a younger one is not being removed.
const LEAST_KEPT: Duration = Duration::from_secs(3_600);

pub(crate) fn saga_key(id: &str) -> Result<Key> {
    check_name("saga id", id, 128)?;
    Ok(Key::new(Partition::of(id), SAGA, id))
}

pub(crate) fn not_found(id: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no saga {id:?}"))
}

pub(super) fn log_key(id: &str, number: u64) -> Key {
    Key::new(Partition::of(id), SAGA_LOG, format!("{id}/{number:06x}"))
}

/// What is about to be added to a saga, beside the entry itself.
pub(crate) struct Addition<'a> {
    pub(crate) entry: &'a Entry,
    pub(crate) at: Timestamp,
    /// What is written together with it.
    pub(crate) effects: Effects,
    /// The right of the executor, if it is the executor who adds.
    pub(crate) executor: Option<Guard>,
}

/// A commit that adds to a saga's log, and what its guards are.
pub(crate) struct Adding {
    pub(crate) commit: Commit,
    /// How many guards, from the first, are the saga's own: those behind are of its effects.
    pub(crate) own_guards: usize,
}

impl Saga {
    /// A saga that is about to start.
    pub(crate) fn new(id: Arc<str>, head: Head) -> Self {
        let started = Timestamp::from_micros(head.created_us);
        let state = State::new(&head.definition, started);
        let (token, born, last) = (Revision::ZERO, Revision::ZERO, Revision::ZERO);
        Saga { id, head, state, next: 0, token, born, last }
    }

    /// It has started with this commit.
    pub(crate) fn started(&mut self, revision: Revision) {
        (self.token, self.last) = (revision, revision);
    }

    /// Reads a saga with its whole log.
    ///
    /// # Errors
    /// `NotFound` if there is none.
    pub(crate) async fn load(store: &dyn Store, id: &str) -> Result<Saga> {
        let read = store.get(&[saga_key(id)?]).await?;
        let record = read.records.into_iter().flatten().next();
        // One that is being removed is gone for everybody.
        let record = record.filter(|head| !is_marked(head)).ok_or_else(|| not_found(id))?;
        let mut saga = Saga::new(id.into(), decode(&record)?);
        saga.started(record.revision);
        saga.born = record.revision;
        saga.refresh(store).await?;
        let age = read.now.since(Timestamp::from_micros(saga.head.created_us));
        if !saga.status().is_terminal() && age >= LEAST_KEPT {
            // It may have ended long ago, and its log been removed between the two reads.
            let read = store.get(&[saga_key(id)?]).await?;
            let head = read.records.into_iter().flatten().next();
            head.filter(|head| head.revision == saga.born).ok_or_else(|| not_found(id))?;
        }
        Ok(saga)
    }

    /// Reads what was added to the log since, page by page, and returns whether there was any.
    pub(crate) async fn refresh(&mut self, store: &dyn Store) -> Result<bool> {
        let before = self.next;
        loop {
            let page = store.scan(&self.log_range(self.next), MAX_PAGE).await?;
            for record in &page.records {
                if record.key != log_key(&self.id, self.next) {
                    return Err(not_found(&self.id)); // its log is being removed
                }
                let logged: Logged = decode(record)?;
                self.fold(&logged.entry, Timestamp::from_micros(logged.at_us)).map_err(broken)?;
                self.added(&logged.entry, record.revision);
            }
            if !page.more {
                return Ok(self.next > before);
            }
        }
    }

    /// The log from this number on.
    fn log_range(&self, from: u64) -> Range {
        let partition = Partition::of(&self.id);
        let mut range = Range::new(partition, SAGA_LOG, format!("{}/", self.id));
        range.after = from.checked_sub(1).map(|last| log_key(&self.id, last).id.into());
        range
    }

    fn fold(&mut self, entry: &Entry, at: Timestamp) -> Result<()> {
        self.state.apply(&self.head.definition, entry, at)
    }

    /// An entry has been written.
    pub(crate) fn added(&mut self, entry: &Entry, revision: Revision) {
        self.next += 1;
        self.last = revision;
        if entry.changes_executor() {
            self.token = revision;
        }
    }

    /// Where it stands.
    pub(crate) fn status(&self) -> SagaStatus {
        self.state.status(&self.head.definition)
    }

    /// The session whose owner executes it.
    pub(crate) fn session(&self) -> &str {
        self.state.session.as_ref().unwrap_or(&self.head.session)
    }

    /// The commit with which it starts.
    pub(crate) fn start(&self, executor: Guard, scribe: &Scribe) -> Result<Commit> {
        let key = saga_key(&self.id)?;
        let mut guards = vec![executor];
        if self.head.request.is_some() {
            // Any other id is random.
            guards.push(Guard::Absent(key.clone()));
        }
        let partition = key.partition;
        let value = encode(&self.head)?;
        let entered = scribe.enter(&self.start_entry(&value));
        let put = Write::Put { key, value, deadline: Deadline::Never };
        let mut writes = vec![put, Write::Mark { key: self.listed() }];
        writes.extend(entered);
        Commit::new(partition, guards, writes, Vec::new())
    }

    /// Folds an entry into the state and makes the commit that adds it to the log. If that is not
    /// committed, this value is ahead of its log and must be read anew.
    pub(crate) fn add(&mut self, addition: Addition<'_>, scribe: &Scribe) -> Result<Adding> {
        let Addition { entry, at, effects, executor } = addition;
        let status_before = self.status();
        let executor_before = self.session().to_owned();
        let place_before = self.listed();
        self.fold(entry, at)?;
        let place = self.listed();
        let own_log = log_key(&self.id, self.next);
        let by_executor = executor.is_some();
        let mut guards: Vec<Guard> = executor.into_iter().collect();
        if !by_executor {
            // Who is not its executor may look at a saga that is removed at this moment.
            guards.push(Guard::RevisionIs(saga_key(&self.id)?, self.born));
        }
        guards.push(Guard::Absent(own_log.clone()));
        let own_guards = guards.len();
        let partition = own_log.partition;
        let value = encode(&ToLog { at_us: at.as_micros(), entry })?;
        let entered = self.enter(entry, status_before, &value, self.last, scribe);
        let mut writes = vec![Write::Put { key: own_log, value, deadline: Deadline::Never }];
        writes.extend(entered);
        let mut hints = Vec::new();
        if place != place_before {
            writes.push(Write::Delete { key: place_before });
            writes.push(Write::Mark { key: place });
        }
        let status = self.status();
        if status.is_terminal() || status == SagaStatus::Parked {
            hints.push(saga_key(&self.id)?);
        }
        if !by_executor {
            let id = format!("{executor_before}/{}", self.id);
            let inbox = Key::new(partition, SAGA_INBOX, id);
            hints.push(inbox.clone());
            writes.push(Write::Mark { key: inbox });
        }
        guards.extend(effects.guards);
        writes.extend(effects.writes);
        Ok(Adding { commit: Commit::new(partition, guards, writes, hints)?, own_guards })
    }

    /// Its entry in the list, as it stands.
    pub(crate) fn listed(&self) -> Key {
        let status = self.status();
        let (group, time) = match status {
            SagaStatus::Pending | SagaStatus::Running | SagaStatus::Compensating => {
                (self.session(), self.head.created_us)
            }
            SagaStatus::Parked => ("-", self.head.created_us),
            // The newest first.
            SagaStatus::Completed | SagaStatus::Compensated | SagaStatus::Abandoned => {
                ("-", u64::MAX - self.state.changed.as_micros())
            }
        };
        let id = format!("{}/{group}/{time:016x}/{}", status.name(), self.id);
        Key::new(Partition::of(&self.id), SAGA_LIST, id)
    }
}

/// The sagas of a session that have this status.
pub(crate) fn executed_by(session: &str, status: SagaStatus) -> Range {
    Range::new(Partition::of(session), SAGA_LIST, format!("{}/{session}/", status.name()))
}

/// The entries of somebody else in the logs of a session's sagas.
pub(crate) fn inbox_of(session: &str) -> Range {
    Range::new(Partition::of(session), SAGA_INBOX, format!("{session}/"))
}

/// The saga that an entry of a list or an inbox stands for.
pub(crate) fn saga_behind(place: &Record) -> &str {
    place.key.id.rsplit('/').next().unwrap_or(&place.key.id)
}

/// One page of a saga's log.
pub(crate) async fn log_page(
    store: &dyn Store,
    id: &str,
    from: u64,
    limit: usize,
) -> Result<(Vec<(Logged, Revision)>, bool)> {
    let key = saga_key(id)?;
    let mut range = Range::new(key.partition, SAGA_LOG, format!("{id}/"));
    range.after = from.checked_sub(1).map(|last| log_key(id, last).id.into());
    let page = store.scan(&range, limit).await?;
    let entries = page.records.iter().map(|record| Ok((decode(record)?, record.revision)));
    Ok((entries.collect::<Result<_>>()?, page.more))
}

pub(crate) fn decode<T: serde::de::DeserializeOwned>(record: &Record) -> Result<T> {
    serde_json::from_slice(&record.value).map_err(|error| {
        let message = format!("stored {} cannot be read", record.key);
        Error::new(ErrorKind::Internal, message).with_source(error)
    })
}

pub(crate) fn encode(content: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(content).map_err(|error| {
        Error::new(ErrorKind::Internal, "a record of a saga has no JSON form").with_source(error)
    })
}

fn broken(error: Error) -> Error {
    Error::new(ErrorKind::Internal, "a saga's log does not make sense").with_source(error)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::json::Json;
    use crate::saga::definition::Policies;
    use crate::saga::{SagaRequest, StepSpec};

    #[test]
    fn a_saga_of_three_steps_writes_seven_rows() {
        let hour = Duration::from_secs(3_600);
        let policies = Policies { timeout: hour, step_timeout: hour, max_retries: 3 };
        let step = |name: &str| StepSpec::new(name, "handler", Json::null());
        let request = SagaRequest::new("t", ["a", "b", "c"].map(step).to_vec());
        let definition = Arc::new(Definition::of(&request, policies).unwrap());
        let head = Head { session: "s".into(), created_us: 1, request: None, definition };
        let session = Key::new(Partition::FIRST, Kind::new("session"), "s");
        let executor = || Guard::RevisionIs(session.clone(), Revision::new(1));
        let mut saga = Saga::new("id".into(), head);
        let scribe = Scribe::silent();
        let mut rows = vec![saga.start(executor(), &scribe).unwrap().writes.len()];
        for step in 0..3 {
            let entry = Entry::Done { step, result: Json::null() };
            let addition = Addition {
                entry: &entry,
                at: Timestamp::from_micros(2),
                effects: Effects::default(),
                executor: Some(executor()),
            };
            rows.push(saga.add(addition, &scribe).unwrap().commit.writes.len());
            saga.added(&entry, Revision::new(2));
        }
        assert_eq!(rows, [2, 1, 1, 3], "head and list; each step; the move in the list");
        assert_eq!(saga.status(), SagaStatus::Completed);
    }
}
