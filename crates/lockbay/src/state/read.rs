//! Reading: what is at hand, else the store; and looking keys up.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::local::{Entry, Moment};
use super::record::{Content, HOME, STATE, StateEntry, check_key, state_key, tag_key};
use super::{Found, ServeStale, State};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::metrics::Metric;
use crate::store::{Guard, Key, Page, Range, Record, Revision};

/// How often a read is repeated because the tags of the value changed meanwhile.
const MAX_LOOKS: usize = 8;
/// Records that one scan reads: values may be large.
pub(super) const SCAN_PAGE: usize = 100;

/// The oldest value that is served in place of an error, however old the caller would take.
const MAX_STALE: Duration = Duration::from_secs(24 * 3_600);

/// What the store says of a key.
pub(super) struct Look {
    pub(super) sight: Sight,
    /// Of every tag that was asked for, what its record says.
    pub(super) tags: BTreeMap<String, Option<Revision>>,
    pub(super) moment: Moment,
}

/// How a key stands.
pub(super) enum Sight {
    /// There is a value, and it is not stale.
    Fresh(Arc<Entry>),
    /// Somebody loads it under this lease, and has this long.
    Leased { revision: Revision, left: Duration },
    /// There is no value. The guard holds as long as it stays so.
    Free(Guard),
}

/// A key in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ListedState {
    /// The key.
    pub key: String,
    /// Its version.
    pub version: String,
    /// How large its value is, in bytes of JSON text.
    pub bytes: u64,
    /// Its tags.
    pub tags: Vec<String>,
    /// Where it comes from.
    pub source: Option<String>,
    /// When it was set.
    pub updated_at: Timestamp,
    /// When it lapses, if ever.
    pub expires_at: Option<Timestamp>,
}

/// A page of keys, and where the next one begins.
pub type StatePage = (Vec<ListedState>, Option<String>);

impl State {
    /// The value of a key, or nothing. From what is at hand if that was verified within the last
    /// second, else by one read, or two for a value with tags that was not at hand.
    ///
    /// A value whose time to live has passed, or whose tag was invalidated, is nothing.
    ///
    /// # Errors
    /// `Invalid` for a key that cannot be one; `Unavailable` if the store does not answer, and
    /// others as the store has them.
    pub async fn get(&self, key: &str) -> Result<Option<Found>> {
        self.get_with(key, ServeStale::Never).await
    }

    /// As [`get`](State::get), and says whether an older value is better than an error.
    ///
    /// # Errors
    /// As [`get`](State::get).
    pub async fn get_with(&self, key: &str, stale: ServeStale) -> Result<Option<Found>> {
        check_key(key)?;
        if let Some(entry) = self.at_hand_of(key) {
            return Ok(Some(entry));
        }
        self.count(Metric::StateMisses, 1);
        match self.look(key, &[]).await {
            Ok(look) => Ok(match look.sight {
                Sight::Fresh(entry) => Some(Found { entry: entry.state.clone(), stale: false }),
                Sight::Leased { .. } | Sight::Free(_) => None,
            }),
            Err(error) => self.instead_of(error, key, stale).map(Some),
        }
    }

    /// The value of a key as it is in the store now, or nothing; whatever is at hand. One read, or
    /// two for a value with tags that was not at hand.
    ///
    /// For loaders that make a value of other keys: what [`get`](State::get) gives may be a second
    /// old, and what is made of it would be kept.
    ///
    /// # Errors
    /// As [`get`](State::get).
    pub async fn get_latest(&self, key: &str) -> Result<Option<Found>> {
        check_key(key)?;
        self.count(Metric::StateMisses, 1);
        Ok(match self.look(key, &[]).await?.sight {
            Sight::Fresh(entry) => Some(Found { entry: entry.state.clone(), stale: false }),
            Sight::Leased { .. } | Sight::Free(_) => None,
        })
    }

    /// What is at hand and may be served.
    pub(super) fn at_hand_of(&self, key: &str) -> Option<Found> {
        let entry = self.0.local.get(key)?;
        self.count(Metric::StateHits, 1);
        Some(Found { entry: entry.state.clone(), stale: false })
    }

    /// An older value in place of an error, if that is allowed and there is one.
    pub(super) fn instead_of(&self, error: Error, key: &str, stale: ServeStale) -> Result<Found> {
        let ServeStale::UpTo(age) = stale else { return Err(error) };
        let age = age.min(MAX_STALE);
        let Some(entry) = self.0.local.get_stale(key, age) else { return Err(error) };
        tracing::debug!(key, %error, "an older value is served");
        self.count(Metric::StateStaleServed, 1);
        Ok(Found { entry: entry.state.clone(), stale: true })
    }

    /// Asks the store how a key stands, and what the records of these tags say, all of one moment.
    /// A fresh value is then at hand.
    pub(super) async fn look(&self, key: &str, tags: &[String]) -> Result<Look> {
        let local = &self.0.local;
        let mut asked: Vec<String> = tags.to_vec();
        if let Some(entry) = local.peek(key) {
            asked.extend(entry.state.tags.iter().cloned());
        }
        for _ in 0..MAX_LOOKS {
            asked.sort_unstable();
            asked.dedup();
            let keys: Vec<Key> = std::iter::once(state_key(key))
                .chain(asked.iter().map(|tag| tag_key(tag)))
                .collect();
            let moment = local.begin();
            let read = self.0.store.get(&keys).await?;
            let mut records = read.records.into_iter();
            let record = records.next().flatten();
            let revisions = records.map(|record| record.map(|record| record.revision));
            let seen: BTreeMap<String, Option<Revision>> =
                asked.iter().cloned().zip(revisions).collect();
            match self.judge(key, record, &seen, read.now, moment)? {
                Ok(sight) => return Ok(Look { sight, tags: seen, moment }),
                Err(missing) => asked.extend(missing),
            }
        }
        let message = format!("state key {key:?} changes faster than it can be read");
        Err(Error::new(ErrorKind::Busy, message))
    }

    /// What a record means beside the records of tags, or the tags that are missing to say so.
    ///
    /// All of it must be of one moment: the record of a tag is removed once nothing is stale by it.
    pub(super) fn judge(
        &self,
        key: &str,
        record: Option<Record>,
        tags: &BTreeMap<String, Option<Revision>>,
        now: Timestamp,
        moment: Moment,
    ) -> Result<Result<Sight, Vec<String>>> {
        let local = &self.0.local;
        let Some(record) = record else {
            local.gone(key);
            return Ok(Ok(Sight::Free(Guard::Lapsed(state_key(key)))));
        };
        if record.lapsed(now) {
            return Ok(Ok(Sight::Free(Guard::Lapsed(record.key))));
        }
        let content = Content::of(&record)?;
        let missing: Vec<String> =
            content.tags().iter().filter(|tag| !tags.contains_key(*tag)).cloned().collect();
        if !missing.is_empty() {
            return Ok(Err(missing));
        }
        let revisions: Arc<[Option<Revision>]> =
            content.tags().iter().map(|tag| tags.get(tag).copied().flatten()).collect();
        let as_of = content.as_of(record.revision);
        if revisions.iter().flatten().any(|invalidated| *invalidated > as_of) {
            local.remove(key);
            let guard = Guard::RevisionIs(record.key, record.revision);
            return Ok(Ok(Sight::Free(guard)));
        }
        let left = record.deadline.map(|deadline| deadline.since(now));
        let revision = record.revision;
        let Some(state) = StateEntry::of(&record, content) else {
            local.gone(key);
            let left = left.unwrap_or_default();
            return Ok(Ok(Sight::Leased { revision, left }));
        };
        // From the beginning of the read on, so that it ends here before it ends there.
        let expires = left.map(|left| moment.tick + left);
        let entry = Entry::new(Arc::new(state), revision, revisions, moment, expires);
        let entry = Arc::new(entry);
        local.put(Arc::clone(&entry));
        Ok(Ok(Sight::Fresh(entry)))
    }

    /// The keys that begin like this, in order, after `after`, without their values; and where the
    /// next page begins. Values that are stale or loading are left out, so that a page may have
    /// fewer items than `limit`, even none, and still have a next one.
    ///
    /// # Errors
    /// As the store has them.
    pub async fn list(
        &self,
        prefix: &str,
        after: Option<String>,
        limit: usize,
    ) -> Result<StatePage> {
        let mut items = Vec::new();
        let mut after = after;
        let mut left = limit;
        while left > 0 {
            let range = Range::new(HOME, STATE, prefix).after(after.clone());
            let page = self.0.store.scan(&range, left.min(SCAN_PAGE)).await?;
            left -= page.records.len().min(left);
            let last = page.records.last().map(|record| record.key.id.to_string());
            let more = page.more;
            items.extend(self.listed(page).await?);
            if !more {
                return Ok((items, None));
            }
            after = last.or(after);
        }
        Ok((items, after))
    }

    async fn listed(&self, page: Page) -> Result<Vec<ListedState>> {
        let now = page.now;
        let mut items = Vec::new();
        for record in page.records.into_iter().filter(|record| !record.lapsed(now)) {
            let content = Content::of(&record)?;
            let as_of = content.as_of(record.revision);
            items.extend(StateEntry::of(&record, content).map(|state| (as_of, state)));
        }
        let tags = self.tags_of(items.iter().flat_map(|(_, state)| &state.tags)).await?;
        let stale = |as_of: &Revision, state: &StateEntry| {
            state.tags.iter().any(|tag| tags.get(tag).is_some_and(|revision| revision > as_of))
        };
        let fresh = items.into_iter().filter(|(as_of, state)| !stale(as_of, state));
        Ok(fresh
            .map(|(_, state)| ListedState {
                bytes: state.value.text().len() as u64,
                key: state.key,
                version: state.version,
                tags: state.tags,
                source: state.source,
                updated_at: state.updated_at,
                expires_at: state.expires_at,
            })
            .collect())
    }

    /// When each of these tags was last invalidated, of those that were.
    pub(super) async fn tags_of<'a>(
        &self,
        tags: impl Iterator<Item = &'a String>,
    ) -> Result<BTreeMap<String, Revision>> {
        let names: std::collections::BTreeSet<&String> = tags.collect();
        if names.is_empty() {
            return Ok(BTreeMap::new());
        }
        let keys: Vec<Key> = names.iter().map(|tag| tag_key(tag)).collect();
        let read = self.0.store.get(&keys).await?;
        let found = names.into_iter().zip(read.records);
        Ok(found.filter_map(|(tag, record)| Some((tag.clone(), record?.revision))).collect())
    }
}
