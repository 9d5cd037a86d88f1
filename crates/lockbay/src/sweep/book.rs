//! The rules as they are stored, and how far passes came through indexes that are not emptied.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::rule::{MAX_RULES, Origin, Retentions, Rule, Scope, built_in};
use super::term::Term;
use crate::clock::{Clock, Tick, micros};
use crate::error::{Error, ErrorKind, Result};
use crate::scribe::{self as trail, Scribe};
use crate::store::{
    Commit, Deadline, Guard, Key, Kind, MAX_PAGE, Partition, Range, Record, Reply, Store, Write,
};

/// A rule that somebody put, or a built-in one that somebody deleted. Key: its name.
pub(crate) const RULE: Kind = Kind::new("sweep-rule");
/// Where the next pass of a rule begins in an index that it does not empty. Key: rule, scope.
pub(crate) const PROGRESS: Kind = Kind::new("sweep-progress");

/// How long rules that were read are good for.
const FRESH: Duration = Duration::from_millis(900);
/// How often a change is tried again because another came between.
const TRIES: usize = 8;

/// What is stored of a rule.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Entry {
    Put(Rule),
    Deleted,
}

/// What is stored of a pass. Another pattern or time makes it useless.
#[derive(Debug, Serialize, Deserialize)]
struct Progress {
    pattern: String,
    ttl_us: u64,
    place: String,
}

pub(super) struct Book {
    store: Arc<dyn Store>,
    clock: Clock,
    pub(super) scribe: Scribe,
    built_in: Vec<Rule>,
    at_hand: Mutex<Option<(Tick, Vec<Rule>)>>,
}

impl Book {
    pub(super) fn new(
        store: Arc<dyn Store>,
        clock: Clock,
        scribe: Scribe,
        times: &Retentions,
    ) -> Self {
        Book { store, clock, scribe, built_in: built_in(times), at_hand: Mutex::default() }
    }

    /// Every rule, in the order of a cycle.
    pub(super) async fn rules(&self) -> Result<Vec<Rule>> {
        let mut rules = self.built_in.clone();
        for record in self.records().await? {
            let name = &*record.key.id;
            // What cannot be read stands in the place of the built-in rule all the same: what it
            // would have kept must not go by another rule.
            rules.retain(|rule| rule.name != name);
            match serde_json::from_slice(&record.value) {
                Ok(Entry::Put(rule)) => {
                    rules.push(Rule { name: name.into(), origin: Origin::Put, ..rule });
                }
                Ok(Entry::Deleted) => {}
                Err(error) => tracing::error!(rule = name, %error, "a rule cannot be read"),
            }
        }
        rules.sort_by(|a, b| b.priority.cmp(&a.priority).then_with(|| a.name.cmp(&b.name)));
        *self.at_hand.lock() = Some((self.clock.tick(), rules.clone()));
        Ok(rules)
    }

    /// As [`rules`](Book::rules), a second old at most.
    pub(super) async fn recent_rules(&self) -> Result<Vec<Rule>> {
        let now = self.clock.tick();
        let known = self.at_hand.lock().clone();
        match known {
            Some((at, rules)) if now.since(at) < FRESH => Ok(rules),
            Some(_) | None => self.rules().await,
        }
    }

    async fn records(&self) -> Result<Vec<Record>> {
        let mut range = Range::new(Partition::FIRST, RULE, "");
        let mut records = Vec::new();
        loop {
            let page = self.store.scan(&range, MAX_PAGE).await?;
            records.extend(page.records);
            range.after = records.last().map(|record: &Record| record.key.id.to_string());
            if !page.more || records.len() > MAX_RULES + self.built_in.len() {
                return Ok(records);
            }
        }
    }

    pub(super) async fn put(&self, mut rule: Rule) -> Result<()> {
        rule.check()?;
        rule.applies_to = Some(rule.scopes());
        rule.origin = Origin::Put;
        let records = self.records().await?;
        let known = records.iter().any(|record| *record.key.id == *rule.name);
        if !known && records.len() >= MAX_RULES {
            let message = format!("there are {MAX_RULES} rules, which is as many as there may be");
            return Err(Error::new(ErrorKind::Busy, message));
        }
        let key = key_of(&rule.name);
        let value = encode(&Entry::Put(rule))?;
        let mut entry = trail::Entry::new("sweep-rule", &key.id, "put");
        entry.record = Some(&value);
        let entered = self.scribe.enter(&entry);
        let put = Write::Put { key: key.clone(), value, deadline: Deadline::Never };
        self.write(Vec::new(), put, entered).await.map(drop)
    }

    pub(super) async fn delete(&self, name: &str) -> Result<()> {
        let not_found = || Error::new(ErrorKind::NotFound, format!("there is no rule {name:?}"));
        if crate::name::check_name("rule name", name, 64).is_err() {
            return Err(not_found());
        }
        let key = key_of(name);
        let is_built_in = self.built_in.iter().any(|rule| rule.name == name);
        for _ in 0..TRIES {
            let read = self.store.get(std::slice::from_ref(&key)).await?;
            let record = read.records.into_iter().flatten().next();
            let entry =
                record.as_ref().map(|record| serde_json::from_slice::<Entry>(&record.value));
            let guard = match (&record, entry) {
                (_, Some(Ok(Entry::Deleted))) => return Err(not_found()),
                (None, _) if !is_built_in => return Err(not_found()),
                (None, _) => Guard::Absent(key.clone()),
                (Some(record), _) => Guard::RevisionIs(key.clone(), record.revision),
            };
            let write = match is_built_in {
                true => Write::Put {
                    key: key.clone(),
                    value: encode(&Entry::Deleted)?,
                    deadline: Deadline::Never,
                },
                false => Write::Delete { key: key.clone() },
            };
            let mut entry = trail::Entry::new("sweep-rule", name, "deleted");
            entry.previous = record.as_ref().map(|record| record.revision);
            let entered = self.scribe.enter(&entry);
            if let Reply::Committed { .. } = self.write(vec![guard], write, entered).await? {
                return Ok(());
            }
        }
        Err(Error::new(ErrorKind::Busy, format!("rule {name:?} changes too fast")))
    }

    async fn write(
        &self,
        guards: Vec<Guard>,
        write: Write,
        entered: Option<Write>,
    ) -> Result<Reply> {
        let key = write.key().clone();
        let writes = std::iter::once(write).chain(entered).collect();
        let commit = Commit::new(key.partition, guards, writes, vec![key])?;
        let reply = self.store.commit(&commit).await?;
        *self.at_hand.lock() = None;
        Ok(reply)
    }

    /// Where the next pass of a rule begins.
    pub(super) async fn place(&self, rule: &Rule, scope: Scope) -> Option<String> {
        let read = self.store.get(&[progress_key(rule, scope)]).await.ok()?;
        let record = read.records.into_iter().flatten().next()?;
        let known: Progress = serde_json::from_slice(&record.value).ok()?;
        let same = known.pattern == rule.pattern && known.ttl_us == micros(rule.ttl);
        same.then_some(known.place)
    }

    /// Remembers where the next pass begins, or that it begins anew. If that fails, it begins where
    /// this one did.
    pub(super) async fn remember(
        &self,
        rule: &Rule,
        scope: Scope,
        place: Option<String>,
        term: &Term,
    ) {
        let (pattern, ttl_us) = (rule.pattern.clone(), micros(rule.ttl));
        let key = progress_key(rule, scope);
        let guards = vec![Guard::Held(term.fence.clone())];
        let write =
            match place {
                None => Ok(Write::Delete { key }),
                Some(place) => encode(&Progress { pattern, ttl_us, place })
                    .map(|value| Write::Put { key, value, deadline: Deadline::Never }),
            };
        let commit =
            write.and_then(|write| Commit::new(Partition::FIRST, guards, vec![write], Vec::new()));
        let Ok(commit) = commit else { return };
        if let Err(error) = self.store.commit(&commit).await {
            tracing::debug!(rule = rule.name, %error, "progress of cleanup not remembered");
        }
    }
}

fn key_of(name: &str) -> Key {
    Key::new(Partition::FIRST, RULE, name)
}

fn progress_key(rule: &Rule, scope: Scope) -> Key {
    Key::new(Partition::FIRST, PROGRESS, format!("{}/{scope:?}", rule.name))
}

fn encode(content: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(content).map_err(|error| {
        Error::new(ErrorKind::Internal, "a record of cleanup has no JSON form").with_source(error)
    })
}
