//! What is stored of tokens and sessions, and how a token is shown.
//!
//! The deadline of a token's record is its end, by the store's clock: when it expires, or when it
//! was revoked. So whether it counts is one comparison, and what has ended is found in the order of
//! its end.

use serde::{Deserialize, Serialize};

use super::role::Role;
use super::secret::Hash;
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::hex::{hex, unhex};
use crate::store::{Key, Kind, Partition, Record};

/// A token. Key: its id.
pub(super) const TOKEN: Kind = Kind::new("token");
/// When a token was last used. Key: its id.
pub(super) const TOKEN_USE: Kind = Kind::new("token-use");
/// That the store is closed, and the revision of all admin tokens together. Key: `head`.
pub(super) const ACCESS_HEAD: Kind = Kind::new("access-head");
/// A session. Key: what SHA-256 makes of its secret.
pub(crate) const SESSION: Kind = Kind::new("access-session");

pub(super) fn token_key(id: &str) -> Key {
    Key::new(Partition::FIRST, TOKEN, id)
}

pub(super) fn use_key(id: &str) -> Key {
    Key::new(Partition::FIRST, TOKEN_USE, id)
}

pub(super) fn head_key() -> Key {
    Key::new(Partition::FIRST, ACCESS_HEAD, "head")
}

pub(super) fn session_key(id: &str) -> Key {
    Key::new(Partition::FIRST, SESSION, id)
}

/// What is stored of a token.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Stored {
    pub(super) name: String,
    pub(super) role: Role,
    /// What SHA-256 makes of the secret.
    sha256: String,
    pub(super) created_us: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) created_by: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) revoked: Option<Revoked>,
}

/// That a token was revoked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Revoked {
    pub(super) at_us: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) by: Option<String>,
    pub(super) reason: String,
    /// When it would have expired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) expires_us: Option<u64>,
}

impl Stored {
    pub(super) fn new(
        name: &str,
        role: Role,
        hash: &Hash,
        now: Timestamp,
        by: Option<String>,
    ) -> Self {
        Stored {
            name: name.to_owned(),
            role,
            sha256: hex(hash),
            created_us: now.as_micros(),
            created_by: by,
            revoked: None,
        }
    }

    /// What was kept of the secret. No secret has the hash that stands for one that is unreadable.
    pub(super) fn hash(&self) -> Hash {
        unhex(&self.sha256).unwrap_or([0; 32])
    }
}

/// What is stored of a session.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct StoredSession {
    pub(super) token_id: String,
}

/// When a token was used.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Used {
    pub(super) at_us: u64,
}

/// How a token stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenStatus {
    /// It counts.
    Active,
    /// Its time is over.
    Expired,
    /// Somebody ended it.
    Revoked,
}

impl TokenStatus {
    /// As it is written everywhere.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            TokenStatus::Active => "active",
            TokenStatus::Expired => "expired",
            TokenStatus::Revoked => "revoked",
        }
    }
}

/// A token as it is shown: everything but its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TokenInfo {
    /// What names it.
    pub token_id: String,
    /// The name that the audit trail shows.
    pub name: String,
    /// What whoever has it may do.
    pub role: Role,
    /// How it stands.
    pub status: TokenStatus,
    /// When it was made.
    pub created_at: Timestamp,
    /// Who made it, if that was said.
    pub created_by: Option<String>,
    /// When it expires; never if there is nothing.
    pub expires_at: Option<Timestamp>,
    /// When it was last used, to the minute; nothing if it never was.
    pub last_used_at: Option<Timestamp>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
    /// Who revoked it, if that was said.
    pub revoked_by: Option<String>,
    /// Why it was revoked.
    pub reason: Option<String>,
}

impl TokenInfo {
    /// How this record is shown at this moment.
    pub(super) fn of(record: &Record, used: Option<&Record>, now: Timestamp) -> Result<Self> {
        let stored: Stored = decode(record)?;
        let used: Option<Used> = used.map(decode).transpose()?;
        let status = match &stored.revoked {
            Some(_) => TokenStatus::Revoked,
            None if record.lapsed(now) => TokenStatus::Expired,
            None => TokenStatus::Active,
        };
        let expires_at = match &stored.revoked {
            Some(revoked) => revoked.expires_us.map(Timestamp::from_micros),
            None => record.deadline,
        };
        let revoked_at = stored.revoked.as_ref().map(|end| Timestamp::from_micros(end.at_us));
        let (revoked_by, reason) = match stored.revoked {
            Some(Revoked { by, reason, .. }) => (by, Some(reason)),
            None => (None, None),
        };
        Ok(TokenInfo {
            token_id: record.key.id.to_string(),
            name: stored.name,
            role: stored.role,
            status,
            created_at: Timestamp::from_micros(stored.created_us),
            created_by: stored.created_by,
            expires_at,
            last_used_at: used.map(|used| Timestamp::from_micros(used.at_us)),
            revoked_at,
            revoked_by,
            reason,
        })
    }
}

pub(super) fn decode<T: serde::de::DeserializeOwned>(record: &Record) -> Result<T> {
    serde_json::from_slice(&record.value).map_err(|error| {
        let message = format!("stored {} cannot be read", record.key);
        Error::new(ErrorKind::Internal, message).with_source(error)
    })
}

pub(super) fn encode(content: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(content).map_err(|error| {
        Error::new(ErrorKind::Internal, "a record of access has no JSON form").with_source(error)
    })
}
