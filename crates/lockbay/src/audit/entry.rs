//! Entries as they are read, and those that the log makes of itself.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::scribe::audit_log;
use crate::store::{Partition, Revision, Write};

/// An entry of the audit trail.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AuditEntry {
    /// The commit of the change, as a string because it passes 2^53.
    #[serde(serialize_with = "text")]
    pub revision: Revision,
    /// Its place among the entries of that commit, from 0 on.
    pub index: u32,
    /// When, by the store's clock.
    pub at: Timestamp,
    /// What was changed: a kind and a name, with a slash between them.
    pub entity: String,
    /// What happened to it.
    pub action: String,
    /// Who did it.
    pub actor: String,
    /// Why, if that was said.
    pub reason: Option<String>,
    /// The request by which it was asked for.
    pub request_id: Option<String>,
    /// The commit of the entry before it about the same entity, where that is known.
    pub previous: Option<String>,
    /// SHA-256 of the record that the change left, where that stays as it is.
    pub digest: Option<String>,
    /// What else is known.
    pub detail: Option<serde_json::Value>,
    /// The checkpoint that seals it; nothing if none does yet.
    pub sealed_by: Option<u64>,
}

#[derive(Deserialize)]
struct Stored {
    entity: String,
    action: String,
    actor: String,
    reason: Option<String>,
    request_id: Option<String>,
    previous: Option<String>,
    digest: Option<String>,
    detail: Option<serde_json::Value>,
}

/// What is looked at of an entry before it is shown.
#[derive(Deserialize)]
pub(super) struct Glance<'a> {
    #[serde(borrow)]
    pub(super) entity: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    pub(super) action: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    pub(super) actor: std::borrow::Cow<'a, str>,
}

impl AuditEntry {
    /// Reads a line. One that is no entry is shown as what it is.
    pub(super) fn read(revision: Revision, index: u32, line: &[u8]) -> Self {
        let stored = serde_json::from_slice(line).unwrap_or_else(|_| Stored {
            entity: "audit/log".into(),
            action: "unreadable".into(),
            actor: String::new(),
            reason: None,
            request_id: None,
            previous: None,
            digest: None,
            detail: Some(String::from_utf8_lossy(line).into_owned().into()),
        });
        let Stored { entity, action, actor, reason, request_id, previous, digest, detail } = stored;
        AuditEntry {
            revision,
            index,
            at: revision.time(),
            entity,
            action,
            actor,
            reason,
            request_id,
            previous,
            digest,
            detail,
            sealed_by: None,
        }
    }
}

/// An entry that the log makes of itself.
pub(super) fn own(action: &str, actor: &str, detail: &serde_json::Value) -> Write {
    let line = serde_json::json!({
        "entity": "audit/log", "action": action, "actor": actor, "detail": detail,
    });
    Write::Append { key: audit_log(Partition::FIRST), line: line.to_string().into_bytes() }
}

fn text<S: serde::Serializer>(revision: &Revision, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(revision)
}
