//! The rules and states of alerts as they are stored.
//!
//! A rule that somebody put is a record; it stands in the place of the built-in rule of its name. A
//! built-in rule that was deleted leaves a record that says so.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::round::Kept;
use super::rule::{MAX_RULES, Origin, Rule};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::scribe::{Entry, Scribe};
use crate::store::{
    Commit, Deadline, Guard, Key, Kind, MAX_PAGE, Partition, Range, Record, Reply, Revision, Store,
    Write,
};

/// A rule that somebody put, or a built-in one that somebody deleted. Key: its name.
pub(crate) const RULE: Kind = Kind::new("alert-rule");
/// The state of an alert that does not rest. Key: the name of its rule.
pub(crate) const STATE: Kind = Kind::new("alert-state");

/// How often a change is tried again because another came between.
const TRIES: usize = 8;

/// What is stored of a rule.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Stored {
    Put(Box<Rule>),
    Deleted,
}

/// The rules of all instances.
pub(super) struct Book {
    store: Arc<dyn Store>,
    scribe: Scribe,
    built_in: Vec<Rule>,
}

impl Book {
    pub(super) fn new(store: Arc<dyn Store>, scribe: Scribe, built_in: Vec<Rule>) -> Self {
        Book { store, scribe, built_in }
    }

    /// Every rule by name, and the store's time.
    pub(super) async fn rules(&self) -> Result<(Vec<Rule>, Timestamp)> {
        let limit = MAX_RULES + self.built_in.len();
        let (records, now) = all(&*self.store, RULE, limit).await?;
        let mut rules = self.built_in.clone();
        for record in records {
            let name = &*record.key.id;
            match serde_json::from_slice(&record.value) {
                Ok(Stored::Put(rule)) => {
                    rules.retain(|rule| rule.name != name);
                    rules.push(Rule { name: name.into(), origin: Origin::Put, ..*rule });
                }
                Ok(Stored::Deleted) => rules.retain(|rule| rule.name != name),
                // A built-in rule of that name goes on: better one alert too many.
                Err(error) => tracing::error!(rule = name, %error, "an alert rule cannot be read"),
            }
        }
        rules.sort_by(|a, b| a.name.cmp(&b.name));
        Ok((rules, now))
    }

    pub(super) async fn put(&self, mut rule: Rule) -> Result<Rule> {
        rule.origin = Origin::Put;
        rule.check()?;
        let key = key_of(RULE, &rule.name);
        let value = encode(&Stored::Put(Box::new(rule.clone())))?;
        let shown = serde_json::to_string(&rule).unwrap_or_default();
        for _ in 0..TRIES {
            let there = self.there(&key).await?;
            let limit = MAX_RULES + self.built_in.len();
            if there.is_none() && all(&*self.store, RULE, limit).await?.0.len() >= MAX_RULES {
                let message = format!("there are {MAX_RULES} alert rules, as many as there may be");
                return Err(Error::new(ErrorKind::Busy, message));
            }
            let mut entry = Entry::new("alert-rule", &rule.name, "put");
            entry.previous = there.as_ref().map(|record| record.revision);
            entry = entry.with("rule", &*shown);
            let (key, value) = (key.clone(), value.clone());
            let put = Write::Put { key, value, deadline: Deadline::Never };
            if self.write(guard(there.as_ref(), put.key()), put, &entry).await? {
                return Ok(rule);
            }
        }
        Err(too_fast(&rule.name))
    }

    pub(super) async fn delete(&self, name: &str) -> Result<()> {
        let not_found = || no_such_rule(name);
        if crate::name::check_name("rule name", name, 64).is_err() {
            return Err(not_found());
        }
        let key = key_of(RULE, name);
        let is_built_in = self.built_in.iter().any(|rule| rule.name == name);
        for _ in 0..TRIES {
            let there = self.there(&key).await?;
            let stored = there.as_ref().map(|record| serde_json::from_slice(&record.value));
            if matches!(stored, Some(Ok(Stored::Deleted))) || (stored.is_none() && !is_built_in) {
                return Err(not_found());
            }
            let key = key.clone();
            let write = match is_built_in {
                true => {
                    let value = encode(&Stored::Deleted)?;
                    Write::Put { key, value, deadline: Deadline::Never }
                }
                false => Write::Delete { key },
            };
            let mut entry = Entry::new("alert-rule", name, "deleted");
            entry.previous = there.as_ref().map(|record| record.revision);
            if self.write(guard(there.as_ref(), write.key()), write, &entry).await? {
                return Ok(());
            }
        }
        Err(too_fast(name))
    }

    async fn there(&self, key: &Key) -> Result<Option<Record>> {
        let read = self.store.get(std::slice::from_ref(key)).await?;
        Ok(read.records.into_iter().flatten().next())
    }

    /// Whether it is written; if not, another came between.
    async fn write(&self, guard: Guard, write: Write, entry: &Entry<'_>) -> Result<bool> {
        let key = write.key().clone();
        let writes = std::iter::once(write).chain(self.scribe.enter(entry)).collect();
        let commit = Commit::new(key.partition, vec![guard], writes, vec![key])?;
        Ok(matches!(self.store.commit(&commit).await?, Reply::Committed { .. }))
    }
}

/// The states as they are stored, each with the revision of its record.
pub(super) async fn states(store: &dyn Store) -> Result<BTreeMap<String, (Kept, Revision)>> {
    let (records, _) = all(store, STATE, 4 * MAX_RULES).await?;
    let mut states = BTreeMap::new();
    for record in records {
        let name: String = record.key.id.into();
        let kept = serde_json::from_slice(&record.value).unwrap_or_else(|error| {
            // All others are judged all the same, and this one anew.
            tracing::error!(rule = name, %error, "the state of an alert cannot be read");
            Kept::unknown()
        });
        states.insert(name, (kept, record.revision));
    }
    Ok(states)
}

pub(super) fn key_of(kind: Kind, name: &str) -> Key {
    Key::new(Partition::FIRST, kind, name)
}

pub(super) fn all_states() -> Range {
    Range::new(Partition::FIRST, STATE, "")
}

pub(super) fn encode(content: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(content).map_err(|error| {
        Error::new(ErrorKind::Internal, "a record of alerts has no JSON form").with_source(error)
    })
}

pub(super) fn no_such_rule(name: &str) -> Error {
    let mut name = name.to_owned();
    name.truncate(name.floor_char_boundary(64));
    Error::new(ErrorKind::NotFound, format!("there is no alert rule {name:?}"))
}

fn too_fast(name: &str) -> Error {
    Error::new(ErrorKind::Busy, format!("alert rule {name:?} changes too fast"))
}

fn guard(there: Option<&Record>, key: &Key) -> Guard {
    match there {
        None => Guard::Absent(key.clone()),
        Some(record) => Guard::RevisionIs(key.clone(), record.revision),
    }
}

async fn all(store: &dyn Store, kind: Kind, limit: usize) -> Result<(Vec<Record>, Timestamp)> {
    let mut range = Range::new(Partition::FIRST, kind, "");
    let mut records = Vec::new();
    loop {
        let page = store.scan(&range, MAX_PAGE).await?;
        records.extend(page.records);
        range.after = records.last().map(|record: &Record| record.key.id.to_string());
        if !page.more || records.len() > limit {
            return Ok((records, page.now));
        }
    }
}
