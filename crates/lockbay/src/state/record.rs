//! The records of state, and what may be put into one.
//!
//! A record of a key is a value or a lease to load one. When a value was written is the revision of
//! its record, and when it lapses is the record's deadline; neither is stored twice.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::json::Json;
use crate::name::check_name;
use crate::store::{Key, Kind, Partition, Record, Revision};

use std::time::Duration;

/// A value, or a lease to load one. Key: the key of the value.
pub(crate) const STATE: Kind = Kind::new("state");
/// The last invalidation of a tag. Key: the tag.
pub(super) const TAG: Kind = Kind::new("state-tag");
/// A rule: what is invalidated when a key of some name changes. Key: the rule's name.
pub(super) const RULE: Kind = Kind::new("state-rule");
/// What a key was made of. Key: that key.
pub(super) const DEPENDENCY: Kind = Kind::new("state-dependency");
/// The revision of all rules and dependencies together. One record.
pub(super) const HEAD: Kind = Kind::new("state-head");
/// An invalidation by pattern that has begun. Key: a random identity.
pub(super) const INTENT: Kind = Kind::new("state-intent");

/// All of state lives in one partition, because one commit may invalidate any of it.
pub(super) const HOME: Partition = Partition::FIRST;

/// The longest key, in bytes.
pub const MAX_KEY_BYTES: usize = 512;
/// The longest tag, in bytes.
pub const MAX_TAG_BYTES: usize = 128;
/// The most tags of a value.
pub const MAX_TAGS: usize = 32;
/// The longest name of a source, in bytes.
pub const MAX_SOURCE_BYTES: usize = 256;
/// The largest value, in bytes of its JSON text.
pub const MAX_VALUE_BYTES: usize = 1024 * 1024;
/// The longest time to live.
pub const MAX_TTL: Duration = Duration::from_secs(3_650 * 24 * 3_600);

/// What a record of a key holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Content {
    /// A value.
    Value {
        json: Json,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        tags: Vec<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        source: Option<String>,
        /// The revision of the lease under which it was loaded: what it was loaded from may be as
        /// old as that. Without one it is as of its own revision.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        as_of: Option<u64>,
    },
    /// Somebody loads the value of this key.
    Lease {
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        tags: Vec<String>,
        /// By what whoever took it knows it again, if the answer was lost.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<String>,
    },
}

impl Content {
    pub(super) fn of(record: &Record) -> Result<Content> {
        serde_json::from_slice(&record.value).map_err(|error| {
            let message = format!("the record {} cannot be read", record.key);
            Error::new(ErrorKind::Internal, message).with_source(error)
        })
    }

    pub(super) fn encode(&self) -> Result<Vec<u8>> {
        encode(self)
    }

    pub(super) fn tags(&self) -> &[String] {
        match self {
            Content::Value { tags, .. } | Content::Lease { tags, .. } => tags,
        }
    }

    /// The moment that this is at least as old as, of a record of this revision.
    pub(super) fn as_of(&self, revision: Revision) -> Revision {
        match self {
            Content::Value { as_of: Some(as_of), .. } => Revision::new(*as_of),
            Content::Value { as_of: None, .. } | Content::Lease { .. } => revision,
        }
    }
}

/// What a [`INTENT`] holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Intent {
    pub(super) pattern: String,
}

/// A value of state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StateEntry {
    /// Its key.
    pub key: String,
    /// The value, to the last digit as it was set.
    pub value: Json,
    /// Its version, as a string because it passes 2^53. Every change gives another, greater one.
    pub version: String,
    /// Its tags.
    pub tags: Vec<String>,
    /// Where it comes from, by the word of whoever set it.
    pub source: Option<String>,
    /// When it was set, by the store's clock.
    pub updated_at: Timestamp,
    /// When it lapses, by the store's clock, if ever.
    pub expires_at: Option<Timestamp>,
}

impl StateEntry {
    /// What a record says, unless it is a lease.
    pub(super) fn of(record: &Record, content: Content) -> Option<StateEntry> {
        let Content::Value { json, tags, source, .. } = content else { return None };
        Some(StateEntry {
            key: record.key.id.to_string(),
            value: json,
            version: record.revision.to_string(),
            tags,
            source,
            updated_at: record.revision.time(),
            expires_at: record.deadline,
        })
    }
}

pub(super) fn state_key(key: &str) -> Key {
    Key::new(HOME, STATE, key)
}

pub(super) fn tag_key(tag: &str) -> Key {
    Key::new(HOME, TAG, tag)
}

pub(super) fn head_key() -> Key {
    Key::new(HOME, HEAD, "head")
}

pub(super) fn encode(content: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(content).map_err(|error| {
        Error::new(ErrorKind::Internal, "a record of state has no JSON form").with_source(error)
    })
}

pub(super) fn check_key(key: &str) -> Result<()> {
    check_name("state key", key, MAX_KEY_BYTES)
}

pub(super) fn check_tag(tag: &str) -> Result<()> {
    check_name("tag", tag, MAX_TAG_BYTES)
}

/// Checks what a value comes with, and gives its tags each once and in order.
pub(super) fn check_tags(tags: &[String]) -> Result<Vec<String>> {
    tags.iter().try_for_each(|tag| check_tag(tag))?;
    let mut tags = tags.to_vec();
    tags.sort_unstable();
    tags.dedup();
    if tags.len() > MAX_TAGS {
        let count = tags.len();
        return Err(Error::invalid(format!(
            "a value has at most {MAX_TAGS} tags, this has {count}"
        )));
    }
    Ok(tags)
}

pub(super) fn check_source(source: Option<&str>) -> Result<()> {
    source.map_or(Ok(()), |source| check_name("source", source, MAX_SOURCE_BYTES))
}

pub(super) fn check_ttl(ttl: Option<Duration>) -> Result<()> {
    match ttl {
        Some(ttl) if ttl < Duration::from_micros(1) || ttl > MAX_TTL => Err(Error::invalid(
            format!("a time to live is more than zero and at most ten years, not {ttl:?}"),
        )),
        Some(_) | None => Ok(()),
    }
}

pub(super) fn check_value(key: &str, value: &Json) -> Result<()> {
    let length = value.text().len();
    if length > MAX_VALUE_BYTES {
        return Err(Error::invalid(format!(
            "a value has at most {MAX_VALUE_BYTES} bytes, that of {key:?} has {length}; nothing \
             was written"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_kept_to_the_last_digit_and_null_is_one() {
        for text in ["null", "9007199254740993", r#"{"a":1.50}"#] {
            let json = Json::parse(text).unwrap();
            let content = Content::Value { json, tags: vec![], source: None, as_of: Some(7) };
            let record = Record {
                key: state_key("k"),
                value: content.encode().unwrap(),
                revision: Revision::new(9),
                deadline: None,
            };
            let content = Content::of(&record).unwrap();
            assert_eq!(content.as_of(record.revision), Revision::new(7));
            let entry = StateEntry::of(&record, content).unwrap();
            assert_eq!((entry.value.text(), entry.version.as_str()), (text, "9"));
        }
    }
}
