//! Invalidating many: keys with what depends on them, tags, patterns.
//!
//! Keys and tags go in one commit. A pattern is an intent that is committed first and then applied
//! key by key: whatever is as of a moment before the intent is deleted, and what was set after it
//! stays. A load that began before it loses its lease by that, so it cannot store what it loaded.
//! What depends on these keys goes when all of them are gone, so that it is not made of them again.
//! Only when all of it is applied is the invalidation acknowledged; if whoever applies it dies, the
//! intent is still there, and the instance that leads applies it again.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Serialize;

use super::State;
use super::read::SCAN_PAGE;
use super::record::{
    Content, HOME, INTENT, Intent, STATE, check_key, check_tag, encode, state_key, tag_key,
};
use super::rule::Plan;
use super::write::MAX_RACES;
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::glob::Glob;
use crate::metrics::Metric;
use crate::scribe::Entry;
use crate::store::{Commit, Deadline, Guard, Key, MAX_PAGE, Range, Record, Reply, Revision, Write};

/// The most keys, and the most tags, of one call.
const MAX_NAMED: usize = 1_000;
/// Keys that are deleted in one commit.
const BATCH: usize = 1_000;
/// Values that are read at once to count them: they may be large.
const COUNTED_AT_ONCE: usize = 32;
/// How long an intent is left to whoever began it.
const PATIENCE: Duration = Duration::from_secs(5);
/// Intents of others that are finished in one call.
const MAX_FINISHED: u64 = 100;
/// How often keys of one batch may change under it before it gives up and leaves the intent.
const MAX_BATCH_RACES: usize = 10_000;

/// What shall be invalidated. Everything that is named is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Invalidation {
    /// These keys, and what depends on them.
    pub keys: Vec<String>,
    /// Every value that has one of these tags.
    pub tags: Vec<String>,
    /// Every key that this glob means, and what depends on it.
    pub pattern: Option<String>,
    /// What follows, by rules and dependencies, when the application changes something of this
    /// name; and the value of that key itself.
    pub updated_key: Option<String>,
    /// Why, for the audit trail.
    pub reason: Option<String>,
}

/// What was invalidated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Invalidated {
    /// Keys that had a value and have none now, and tags. The values of a tag are not counted,
    /// because they are not looked at.
    pub invalidated: u64,
    /// Keys that had a value and have none now.
    pub keys: u64,
    /// Tags.
    pub tags: u64,
    /// Patterns that were applied, those of rules included.
    pub patterns: u64,
}

/// What is entered of a wish; not what followed from it.
fn entry(wish: &Invalidation) -> Entry<'_> {
    let keys = Some(wish.keys.as_slice()).filter(|keys| !keys.is_empty());
    let tags = Some(wish.tags.as_slice()).filter(|tags| !tags.is_empty());
    let mut entry = Entry::new("state", "values", "invalidated")
        .with_some("keys", keys)
        .with_some("tags", tags)
        .with_some("pattern", wish.pattern.as_deref())
        .with_some("updated_key", wish.updated_key.as_deref());
    entry.reason = wish.reason.as_deref();
    entry
}

/// Whether somebody waits for a hint of it: neither for intents nor for entries.
fn is_seen(write: &Write) -> bool {
    write.key().kind != INTENT && !matches!(write, Write::Append { .. })
}

/// An intent that is to be applied.
pub(super) struct Applied {
    pub(super) id: String,
    pub(super) pattern: Glob,
    pub(super) revision: Revision,
}

/// A record that may have to go: its key and its revision, or nothing where none is now.
type Doomed = (Key, Option<Revision>);

impl State {
    /// Invalidates keys, tags, a pattern, and whatever follows. One commit for keys and tags, one
    /// read more to count the keys; a pattern reads all keys that begin as it does.
    ///
    /// Called twice, it invalidates twice. When it returns, no read that begins on this instance
    /// sees what was before, nor on any other after a second; a load that began before does not
    /// store what it loaded. If it fails, some of it may have happened; a pattern that was begun is
    /// finished by the instance that leads.
    ///
    /// # Errors
    /// `Invalid` if nothing is named, too much is, or the pattern is none.
    pub async fn invalidate(&self, wish: &Invalidation) -> Result<Invalidated> {
        let pattern = check(wish)?;
        for _ in 0..MAX_RACES {
            // Nothing, if the rules are others now.
            if let Some(mut done) = self.try_invalidate(wish, pattern.as_ref()).await? {
                self.count(Metric::StateInvalidated, done.keys + done.tags);
                done.invalidated = done.keys + done.tags;
                return Ok(done);
            }
        }
        Err(Error::new(ErrorKind::Busy, "the rules changed too often meanwhile; try again"))
    }

    async fn try_invalidate(
        &self,
        wish: &Invalidation,
        pattern: Option<&Glob>,
    ) -> Result<Option<Invalidated>> {
        let (head, plan, order) = self
            .with_book(|book| {
                let mut plan = Plan::default();
                if let Some(updated) = &wish.updated_key {
                    plan = book.plan(updated)?;
                }
                let named = wish.keys.iter().chain(&wish.updated_key).map(String::as_str);
                plan.keys.extend(book.closure(named));
                let order = book.sources_first(&plan.keys);
                Ok((book.guard(), plan, order))
            })
            .await?;
        let Plan { keys, mut patterns, mut texts } = plan;
        patterns.extend(pattern.cloned());
        texts.extend(wish.pattern.clone());
        let counted = self.count_values(&keys).await?;
        let intents = self.intents(&texts)?;
        let tags: BTreeSet<&String> = wish.tags.iter().collect();
        let mut writes: Vec<Write> = intents.iter().map(|(_, write)| write.clone()).collect();
        writes.extend(tags.iter().map(|tag| Write::Put {
            key: tag_key(tag),
            value: b"{}".to_vec(),
            deadline: Deadline::Never,
        }));
        writes.extend(self.0.scribe.enter(&entry(wish)));
        let first = self.commit_all_of(&head, writes, &order).await;
        // Also what failed may have been applied.
        self.0.local.void_keys(keys.iter().map(String::as_str));
        self.0.local.void_tags(tags.iter().map(|tag| tag.as_str()));
        let Some(revision) = first? else { return Ok(None) };
        let begun = intents.into_iter().zip(patterns);
        let begun = begun.map(|((id, _), pattern)| Applied { id, pattern, revision });
        let begun: Vec<Applied> = begun.collect();
        let patterns = begun.len() as u64;
        let removed = self.apply_all(begun).await?;
        let tags = tags.len() as u64;
        Ok(Some(Invalidated { invalidated: 0, keys: counted + removed, tags, patterns }))
    }

    /// Commits these writes and the deletion of these keys, the writes with the first keys. They
    /// come with sources first, so that nothing is made again of what is not gone yet. The revision of
    /// the first commit, or nothing if the rules are others now.
    async fn commit_all_of(
        &self,
        head: &Guard,
        writes: Vec<Write>,
        keys: &[String],
    ) -> Result<Option<Revision>> {
        let keys: Vec<Key> = keys.iter().map(|key| state_key(key)).collect();
        let mut batches = keys.chunks(BATCH);
        let mut writes = writes;
        let mut first = None;
        loop {
            let batch = batches.next().unwrap_or_default();
            if first.is_some() && batch.is_empty() {
                return Ok(first);
            }
            let mut hints = batch.to_vec();
            hints.extend(writes.iter().filter(|write| is_seen(write)).map(Write::key).cloned());
            writes.extend(batch.iter().map(|key| Write::Delete { key: key.clone() }));
            let commit = Commit::new(HOME, vec![head.clone()], std::mem::take(&mut writes), hints)?;
            match self.commit_surely(&commit).await {
                Ok(Reply::Committed { revision, .. }) => {
                    first.get_or_insert(revision);
                }
                Ok(Reply::Conflict { .. }) => {
                    self.forget_book(head);
                    return Ok(None);
                }
                Err(error) if first.is_some() => return Err(begun(error)),
                Err(error) => return Err(error),
            }
        }
    }

    /// How many of these keys have a value.
    async fn count_values(&self, keys: &BTreeSet<String>) -> Result<u64> {
        let keys: Vec<Key> = keys.iter().map(|key| state_key(key)).collect();
        let mut values = 0;
        for some in keys.chunks(COUNTED_AT_ONCE) {
            let read = self.0.store.get(some).await?;
            let living = read.records.iter().flatten().filter(|record| !record.lapsed(read.now));
            for record in living {
                // One that cannot be read goes as well, and is none that anybody could see.
                values += u64::from(matches!(Content::of(record), Ok(Content::Value { .. })));
            }
        }
        Ok(values)
    }

    /// The writes that begin invalidations by these patterns, with their ids.
    pub(super) fn intents(&self, patterns: &[String]) -> Result<Vec<(String, Write)>> {
        let intent = |pattern: &String| {
            let id = self.0.clock.random_id();
            let key = Key::new(HOME, INTENT, id.as_str());
            let value = encode(&Intent { pattern: pattern.clone() })?;
            Ok((id, Write::Put { key, value, deadline: Deadline::Never }))
        };
        patterns.iter().map(intent).collect()
    }

    /// Applies intents that were committed, and says how many values they removed.
    ///
    /// # Errors
    /// `Unknown`, because what they were committed with is done.
    pub(super) async fn apply_all(&self, intents: Vec<Applied>) -> Result<u64> {
        let mut removed = 0;
        for intent in intents {
            removed += self.apply(&intent).await.map_err(begun)?;
        }
        Ok(removed)
    }

    async fn apply(&self, intent: &Applied) -> Result<u64> {
        let mut removed = 0;
        let mut after = None;
        loop {
            let range = Range::new(HOME, STATE, intent.pattern.prefix()).after(after.take());
            let page = self.0.store.scan(&range, SCAN_PAGE).await?;
            after = page.records.last().map(|record| record.key.id.to_string());
            let meant = |record: &Record| intent.pattern.matches(&record.key.id);
            let found = page.records.into_iter().filter(meant).collect();
            removed += self.remove_older(found, page.now, intent.revision).await?;
            if !page.more {
                break;
            }
        }
        let dependents = self
            .with_book(|book| Ok(book.sources_first(&book.dependents_of_pattern(&intent.pattern))))
            .await?;
        for some in dependents.chunks(BATCH) {
            removed += self.remove_dependents(some, intent.revision).await?;
        }
        self.0.local.void_keys(dependents.iter().map(String::as_str));
        self.0.local.void_pattern(&intent.pattern);
        let key = Key::new(HOME, INTENT, intent.id.as_str());
        let guards = vec![Guard::RevisionIs(key.clone(), intent.revision)];
        let commit = Commit::new(HOME, guards, vec![Write::Delete { key }], Vec::new())?;
        // One that is gone was finished by somebody else; one that stays is applied once more.
        if let Err(error) = self.commit_surely(&commit).await {
            tracing::debug!(intent = intent.id, %error, "a finished invalidation stays for now");
        }
        Ok(removed)
    }

    /// Deletes those of these records that are as of before this revision, and says how many of
    /// them were values.
    async fn remove_older(
        &self,
        found: Vec<Record>,
        now: Timestamp,
        than: Revision,
    ) -> Result<u64> {
        let mut values = 0;
        let mut doomed: Vec<Doomed> = Vec::with_capacity(found.len());
        for record in found.into_iter().filter(|record| is_older(record, than)) {
            values += u64::from(is_value(&record, now));
            doomed.push((record.key, Some(record.revision)));
        }
        let judge = |found: Option<Record>| match found {
            Some(record) if is_older(&record, than) => Some(Some(record.revision)),
            Some(_) | None => None,
        };
        self.remove(doomed, judge).await.map(|()| values)
    }

    /// Deletes, in one commit, what depends on keys of a pattern that are gone, and says how many of
    /// them were values. What was loaded goes whenever that was, and so does what is being loaded:
    /// it may have been made of a key that was not gone yet. What was set after this revision stays.
    async fn remove_dependents(&self, keys: &[String], than: Revision) -> Result<u64> {
        let goes = |record: &Record| match Content::of(record) {
            Ok(Content::Value { as_of: Some(_), .. } | Content::Lease { .. }) => true,
            Ok(Content::Value { as_of: None, .. }) | Err(_) => is_older(record, than),
        };
        let keys: Vec<Key> = keys.iter().map(|key| state_key(key)).collect();
        let mut values = 0;
        let mut doomed: Vec<Doomed> = Vec::with_capacity(keys.len());
        for some in keys.chunks(COUNTED_AT_ONCE) {
            let read = self.0.store.get(some).await?;
            for (key, record) in some.iter().zip(read.records) {
                match record {
                    Some(record) if goes(&record) => {
                        values += u64::from(is_value(&record, read.now));
                        doomed.push((record.key, Some(record.revision)));
                    }
                    Some(_) => {}
                    // A load of it may begin before the others are gone.
                    None => doomed.push((key.clone(), None)),
                }
            }
        }
        let judge = |found: Option<Record>| match found {
            Some(record) if goes(&record) => Some(Some(record.revision)),
            Some(_) => None,
            None => Some(None),
        };
        self.remove(doomed, judge).await.map(|()| values)
    }

    /// Deletes these records in one commit. Of one that has changed `judge` says under which
    /// revision it goes all the same.
    async fn remove(
        &self,
        mut doomed: Vec<Doomed>,
        judge: impl Fn(Option<Record>) -> Option<Option<Revision>>,
    ) -> Result<()> {
        for _ in 0..MAX_BATCH_RACES {
            if doomed.iter().all(|(_, revision)| revision.is_none()) {
                return Ok(());
            }
            let guard = |(key, revision): &Doomed| match revision {
                Some(revision) => Guard::RevisionIs(key.clone(), *revision),
                None => Guard::Absent(key.clone()),
            };
            let there = || doomed.iter().filter(|(_, revision)| revision.is_some());
            let writes = there().map(|(key, _)| Write::Delete { key: key.clone() }).collect();
            let hints = there().map(|(key, _)| key.clone()).collect();
            let guards = doomed.iter().map(guard).collect();
            let commit = Commit::new(HOME, guards, writes, hints)?;
            match self.commit_surely(&commit).await? {
                Reply::Committed { .. } => return Ok(()),
                Reply::Conflict { guard, found, .. } => match judge(found) {
                    Some(revision) => doomed[guard].1 = revision,
                    None => drop(doomed.swap_remove(guard)),
                },
            }
        }
        let message =
            "the keys of the pattern change all the time; the instance that leads goes on";
        Err(Error::new(ErrorKind::Busy, message))
    }

    /// Applies invalidations by pattern that somebody began and did not finish within 5 s, as when
    /// the process died; says how many, at most 100 in one call. For the instance that leads, every
    /// few seconds; harmless on any other.
    ///
    /// # Errors
    /// As the store has them: the first, after all others were tried. What is not finished yet is
    /// left for the next time.
    pub async fn finish_intents(&self) -> Result<u64> {
        let page = self.0.store.scan(&Range::new(HOME, INTENT, ""), MAX_PAGE).await?;
        let now = page.now;
        let left = |record: &Record| now.since(record.revision.time()) >= PATIENCE;
        let left: Vec<Record> = page.records.into_iter().filter(left).collect();
        if left.is_empty() {
            return Ok(0);
        }
        // What depends on what is as it was when they were committed, or as it is now.
        self.refresh_book().await?;
        let mut finished = 0;
        let mut failed = None;
        for record in left {
            if finished == MAX_FINISHED {
                break;
            }
            match self.finish(&record).await {
                Ok(()) => finished += 1,
                Err(error) => {
                    tracing::debug!(intent = %record.key, %error, "an invalidation is not finished");
                    failed.get_or_insert(error);
                }
            }
        }
        failed.map_or(Ok(finished), Err)
    }

    async fn finish(&self, record: &Record) -> Result<()> {
        let intent: Intent = serde_json::from_slice(&record.value).map_err(|error| {
            let message = format!("the record {} cannot be read", record.key);
            Error::new(ErrorKind::Internal, message).with_source(error)
        })?;
        let pattern = Glob::parse_filled(&intent.pattern)?;
        let id = record.key.id.to_string();
        self.apply(&Applied { id, pattern, revision: record.revision }).await.map(drop)
    }
}

/// Whether a record is as of before this revision. One that cannot be read is as of its own.
fn is_older(record: &Record, than: Revision) -> bool {
    match Content::of(record) {
        Ok(content) => content.as_of(record.revision) < than,
        Err(_) if record.revision < than => true,
        Err(error) => {
            tracing::warn!(%error, "a record of state was passed over by an invalidation");
            false
        }
    }
}

fn is_value(record: &Record, now: Timestamp) -> bool {
    !record.lapsed(now) && matches!(Content::of(record), Ok(Content::Value { .. }))
}

/// Some of it is done, whatever the rest failed of.
fn begun(error: Error) -> Error {
    let message = "it was begun, and patterns that are not applied yet will be by the instance \
                   that leads";
    Error::new(ErrorKind::Unknown, message).with_source(error)
}

fn check(wish: &Invalidation) -> Result<Option<Glob>> {
    let Invalidation { keys, tags, pattern, updated_key, .. } = wish;
    if keys.is_empty() && tags.is_empty() && pattern.is_none() && updated_key.is_none() {
        let message = "name what shall be invalidated: keys, tags, pattern or updated_key";
        return Err(Error::invalid(message));
    }
    if keys.len() > MAX_NAMED || tags.len() > MAX_NAMED {
        let (keys, tags) = (keys.len(), tags.len());
        return Err(Error::invalid(format!(
            "one call names at most {MAX_NAMED} keys and {MAX_NAMED} tags, this names {keys} and \
             {tags}"
        )));
    }
    keys.iter().chain(updated_key).try_for_each(|key| check_key(key))?;
    tags.iter().try_for_each(|tag| check_tag(tag))?;
    pattern.as_deref().map(Glob::parse).transpose()
}
