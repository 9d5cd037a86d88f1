//! Entries of the audit trail, written by those who make the change that an entry tells of.
//!
//! An entry is a line appended to one log, in the commit of the change itself, so that neither is
//! there without the other. The scribe knows how an entry reads and who asks; it does not know
//! what is sealed, verified or kept, which is the business of `audit`.

use std::sync::Arc;

use serde::Serialize;

use crate::store::{Key, Kind, Partition, Revision, Write};

/// The log of all entries.
pub(crate) const AUDIT: Kind = Kind::new("audit");

/// The log of all entries of a partition.
pub(crate) fn audit_log(partition: Partition) -> Key {
    Key::new(partition, AUDIT, "all")
}

tokio::task_local! {
    static CALLER: Caller;
}

/// Who asks for a change, as far as is known. What is done within [`scope`](Caller::scope) is
/// entered in this name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    /// A person or a service.
    pub actor: Option<String>,
    /// The request by which it was asked for.
    pub request_id: Option<String>,
}

impl Caller {
    /// Does this in the caller's name. Tasks that are spawned inside do not inherit it.
    pub async fn scope<F: Future>(self, work: F) -> F::Output {
        CALLER.scope(self, work).await
    }

    fn current() -> Caller {
        CALLER.try_with(Clone::clone).unwrap_or_default()
    }
}

/// Writes entries in the name of one instance. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Scribe(Option<Arc<str>>);

/// What is to be entered.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    /// What changes: the kind of thing and its name, such as `saga` and an id.
    pub(crate) entity: (&'static str, &'a str),
    /// What happens to it, in the past tense.
    pub(crate) action: &'static str,
    /// Who did it, if that is neither the caller nor this instance.
    pub(crate) actor: Option<&'a str>,
    pub(crate) reason: Option<&'a str>,
    /// The commit of the entry before it about the same entity, where that is known.
    pub(crate) previous: Option<Revision>,
    /// SHA-256 of the record that the change left, where that stays as it is.
    pub(crate) digest: Option<[u8; 32]>,
    /// What else is worth knowing, and no secret.
    pub(crate) detail: serde_json::Map<String, serde_json::Value>,
}

impl<'a> Entry<'a> {
    pub(crate) fn new(kind: &'static str, name: &'a str, action: &'static str) -> Self {
        Entry {
            entity: (kind, name),
            action,
            actor: None,
            reason: None,
            previous: None,
            digest: None,
            detail: serde_json::Map::new(),
        }
    }
}

/// An entry as it is stored.
#[derive(Serialize)]
struct Stored<'a> {
    entity: String,
    action: &'a str,
    actor: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    previous: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    #[serde(skip_serializing_if = "serde_json::Map::is_empty")]
    detail: &'a serde_json::Map<String, serde_json::Value>,
}

impl Scribe {
    /// One that writes in the name of this instance.
    pub(crate) fn new(instance: &str) -> Self {
        Scribe(Some(instance.into()))
    }

    /// One that writes nothing.
    pub(crate) fn silent() -> Self {
        Scribe(None)
    }

    /// The write that enters this, for the commit of the change; nothing if there is no audit.
    pub(crate) fn enter(&self, entry: &Entry<'_>) -> Option<Write> {
        let instance = self.0.as_deref()?;
        let caller = Caller::current();
        let (kind, name) = entry.entity;
        let stored = Stored {
            entity: format!("{kind}/{name}"),
            action: entry.action,
            actor: entry.actor.or(caller.actor.as_deref()).unwrap_or(instance),
            reason: entry.reason,
            request_id: caller.request_id.as_deref(),
            previous: entry.previous.map(|revision| revision.to_string()),
            digest: entry.digest.map(|digest| crate::hex::hex(&digest)),
            detail: &entry.detail,
        };
        let line = serde_json::to_vec(&stored).expect("texts and numbers become JSON");
        Some(Write::Append { key: audit_log(Partition::of(name)), line })
    }
}
