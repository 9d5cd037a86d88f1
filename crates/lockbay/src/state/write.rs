//! Changing one key: set, compare and set, delete. One commit each, under the rules of its moment.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::State;
use super::invalidate::Applied;
use super::local::Entry;
use super::read::Sight;
use super::record::{
    Content, HOME, check_key, check_source, check_tags, check_ttl, check_value, state_key, tag_key,
};
use super::rule::Plan;
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::json::Json;
use crate::metrics::Metric;
use crate::store::{Commit, Deadline, Fence, Guard, Reply, Revision, Write};

/// How often a commit whose outcome is unknown is sent.
const MAX_SENDS: usize = 3;
/// How often a change is worked out anew because something changed meanwhile.
pub(super) const MAX_RACES: usize = 32;

/// What a value comes with.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SetOptions {
    /// How long it lives; for ever if nothing is said.
    pub ttl: Option<Duration>,
    /// By what else it can be invalidated.
    pub tags: Vec<String>,
    /// Where it comes from; for people.
    pub source: Option<String>,
    /// What must be there.
    pub if_version: IfVersion,
}

/// What must be there for a value to be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IfVersion {
    /// Anything or nothing.
    #[default]
    Any,
    /// No value: none was set, or it lapsed, or a tag of it was invalidated.
    Absent,
    /// The value of this version.
    Is(Revision),
}

/// A value that was set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Written {
    /// Its key.
    pub key: String,
    /// Its version.
    pub version: String,
    /// When it was set.
    pub updated_at: Timestamp,
    /// When it lapses, if ever.
    pub expires_at: Option<Timestamp>,
}

impl State {
    /// Sets the value of a key and invalidates what depends on it. One round trip, and one read
    /// more for `if_version` with a version that is not at hand; patterns of rules that match are
    /// invalidated before it answers.
    ///
    /// Called twice, it sets twice, the second time under another version. If it fails with
    /// `Unknown`, or while patterns are being invalidated, the value may be set; what was begun is
    /// finished by the instance that leads.
    ///
    /// # Errors
    /// `Invalid` for a key, value, tag or time beyond its limit, or if more than 256 patterns follow
    /// by rules; `Fenced` if `if_version` does not hold, with the version that is there: read again
    /// and decide anew.
    pub async fn set(&self, key: &str, value: Json, options: SetOptions) -> Result<Written> {
        check_key(key)?;
        check_value(key, &value)?;
        check_ttl(options.ttl)?;
        check_source(options.source.as_deref())?;
        let tags = check_tags(&options.tags)?;
        let content = Content::Value { json: value, tags, source: options.source, as_of: None };
        let value = content.encode()?;
        let mut met = Met::Nothing;
        for _ in 0..MAX_RACES {
            let guards = match self.guards_of(key, options.if_version, met).await? {
                Ok(guards) => guards,
                Err(present) => {
                    return Err(self.version_conflict(key, options.if_version, present));
                }
            };
            let deadline = options.ttl.map_or(Deadline::Never, Deadline::After);
            let put = Write::Put { key: state_key(key), value: value.clone(), deadline };
            let tried = self.change(key, guards, put).await?;
            let (revision, now) = match tried {
                Tried::Done { revision, now } => (revision, now),
                Tried::Moved => continue,
                Tried::InTheWay => {
                    met = Met::Something;
                    continue;
                }
            };
            self.count(Metric::StateWritten, 1);
            return Ok(Written {
                key: key.to_owned(),
                version: revision.to_string(),
                updated_at: revision.time(),
                expires_at: options.ttl.map(|ttl| now + ttl),
            });
        }
        Err(too_many_races(key))
    }

    /// Removes the value of a key, and invalidates what depends on it; says whether there was one.
    /// A load that is under way is void. One read and one commit.
    ///
    /// Of several that delete one value at once, one is told that it was there.
    ///
    /// # Errors
    /// `Invalid` for a key that cannot be one; others as [`set`](State::set).
    pub async fn delete(&self, key: &str) -> Result<bool> {
        check_key(key)?;
        for _ in 0..MAX_RACES {
            let (guard, was_there) = match self.look(key, &[]).await?.sight {
                Sight::Fresh(entry) => (Guard::RevisionIs(state_key(key), entry.revision), true),
                Sight::Free(guard) => (guard, false),
                // Whoever loads may store at any moment; then look again.
                Sight::Leased { revision, .. } => {
                    (Guard::RevisionIs(state_key(key), revision), false)
                }
            };
            let delete = Write::Delete { key: state_key(key) };
            match self.change(key, vec![guard], delete).await? {
                Tried::Done { .. } => {
                    self.count(Metric::StateInvalidated, u64::from(was_there));
                    return Ok(was_there);
                }
                Tried::Moved | Tried::InTheWay => {}
            }
        }
        Err(too_many_races(key))
    }

    /// One try at a change of a key with all that follows from it.
    async fn change(&self, key: &str, own: Vec<Guard>, write: Write) -> Result<Tried> {
        let (head, plan) = self.with_book(|book| Ok((book.guard(), book.plan(key)?))).await?;
        let Plan { keys, patterns, texts } = plan;
        let mut hints = vec![state_key(key)];
        hints.extend(keys.iter().map(|key| state_key(key)));
        let deletes = keys.iter().map(|key| Write::Delete { key: state_key(key) });
        let mut writes: Vec<Write> = std::iter::once(write).chain(deletes).collect();
        let intents = self.intents(&texts)?;
        writes.extend(intents.iter().map(|(_, write)| write.clone()));
        let guards = std::iter::once(head.clone()).chain(own).collect();
        let commit = Commit::new(HOME, guards, writes, hints)?;
        let reply = self.commit_surely(&commit).await;
        let touched = || std::iter::once(key).chain(keys.iter().map(String::as_str));
        match reply {
            Ok(Reply::Committed { revision, now }) => {
                self.0.local.void_keys(touched());
                let intents = intents.into_iter().map(|(id, _)| id).zip(patterns);
                let begun = intents.map(|(id, pattern)| Applied { id, pattern, revision });
                let removed = self.apply_all(begun.collect()).await?;
                self.count(Metric::StateInvalidated, removed);
                Ok(Tried::Done { revision, now })
            }
            Ok(Reply::Conflict { guard: 0, .. }) => {
                self.forget_book(&head);
                Ok(Tried::Moved)
            }
            Ok(Reply::Conflict { .. }) => Ok(Tried::InTheWay),
            Err(error) => {
                // It may be applied, now or later.
                self.0.local.void_keys(touched());
                Err(error)
            }
        }
    }

    /// The guards of a wish about a version, or the version that is in its way.
    async fn guards_of(
        &self,
        key: &str,
        wanted: IfVersion,
        met: Met,
    ) -> Result<Result<Vec<Guard>, Option<Revision>>> {
        match (wanted, met) {
            (IfVersion::Any, _) => Ok(Ok(Vec::new())),
            (IfVersion::Absent, Met::Nothing) => Ok(Ok(vec![Guard::Lapsed(state_key(key))])),
            (IfVersion::Absent, Met::Something) => match self.look(key, &[]).await?.sight {
                Sight::Fresh(entry) => Ok(Err(Some(entry.revision))),
                Sight::Free(guard) => Ok(Ok(vec![guard])),
                // A load is no value; this one replaces it.
                Sight::Leased { revision, .. } => {
                    Ok(Ok(vec![Guard::RevisionIs(state_key(key), revision)]))
                }
            },
            (IfVersion::Is(revision), met) => {
                let seen = self.0.local.peek(key).filter(|seen| seen.revision == revision);
                if let (Some(entry), Met::Nothing) = (seen, met) {
                    return Ok(Ok(guards_of_entry(key, &entry)));
                }
                match self.look(key, &[]).await?.sight {
                    Sight::Fresh(entry) if entry.revision == revision => {
                        Ok(Ok(guards_of_entry(key, &entry)))
                    }
                    Sight::Fresh(entry) => Ok(Err(Some(entry.revision))),
                    Sight::Leased { .. } | Sight::Free(_) => Ok(Err(None)),
                }
            }
        }
    }

    fn version_conflict(&self, key: &str, wanted: IfVersion, present: Option<Revision>) -> Error {
        self.count(Metric::StateConflicts, 1);
        let wanted = match wanted {
            IfVersion::Any | IfVersion::Absent => "0".to_owned(),
            IfVersion::Is(revision) => revision.to_string(),
        };
        let present = present.unwrap_or_default();
        let message = format!(
            "state key {key:?} is not at version {wanted}: read it again and decide anew; its \
             version is {present}"
        );
        Error::new(ErrorKind::Fenced, message)
    }

    /// Commits, and sends the same commit again while its outcome is unknown.
    pub(super) async fn commit_surely(&self, commit: &Commit) -> Result<Reply> {
        let mut last = None;
        for _ in 0..MAX_SENDS {
            match self.0.store.commit(commit).await {
                Err(error) if error.kind() == ErrorKind::Unknown => last = Some(error),
                // It is not known what became of the first sending.
                Err(error) if last.is_some() => {
                    let message = error.message().to_owned();
                    return Err(Error::new(ErrorKind::Unknown, message).with_source(error));
                }
                other => return other,
            }
        }
        Err(last.unwrap_or_else(|| Error::new(ErrorKind::Internal, "no commit was sent")))
    }
}

/// What became of one try at a change.
enum Tried {
    Done {
        revision: Revision,
        now: Timestamp,
    },
    /// The rules are others now.
    Moved,
    /// Something else is there than should be.
    InTheWay,
}

/// Whether something was met that should not be there.
#[derive(Debug, Clone, Copy)]
enum Met {
    Nothing,
    Something,
}

/// Holds as long as this value is there, has not lapsed, and none of its tags was invalidated.
fn guards_of_entry(key: &str, entry: &Arc<Entry>) -> Vec<Guard> {
    let held = Guard::Held(Fence { key: state_key(key), token: entry.revision });
    let tags = entry.state.tags.iter().zip(entry.tags.iter());
    std::iter::once(held).chain(tags.map(|(tag, revision)| tag_guard(tag, *revision))).collect()
}

/// Holds as long as a tag is not invalidated again.
pub(super) fn tag_guard(tag: &str, revision: Option<Revision>) -> Guard {
    let key = tag_key(tag);
    match revision {
        Some(revision) => Guard::RevisionIs(key, revision),
        None => Guard::Absent(key),
    }
}

fn too_many_races(key: &str) -> Error {
    let message = format!("state key {key:?} changed {MAX_RACES} times meanwhile; try again");
    Error::new(ErrorKind::Busy, message)
}
