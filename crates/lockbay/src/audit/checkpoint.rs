//! Checkpoints: what the leader says of the lines since the one before, signed.
//!
//! A checkpoint is JSON with its fields in one order and one way to write each, so that there is
//! one text for it; the signature is over that text without signatures. One that names another key
//! to follow is signed by that key, too: nobody can name a key that does not agree. Its hash is over
//! the whole text, and stands in the next one.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::key::{PublicKey, Signer};
use super::merkle::Hash;
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::hex::{hex, unhex};
use crate::store::{Key, Kind, Partition, Revision};

/// Checkpoints by their number, and which is the newest.
pub(crate) const CHECKPOINT: Kind = Kind::new("audit-checkpoint");
pub(crate) const HEAD: Kind = Kind::new("audit-head");

/// Stands before what is signed, so that a signature means nothing anywhere else.
const SIGNED: &[u8] = b"lockbay audit checkpoint\n";
/// Digits of a number in a key.
const DIGITS: usize = 12;

/// What is known of the lines up to some revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Its number, from 1 on.
    pub number: u64,
    /// The revision of its first line.
    pub first: Revision,
    /// The revision of its last line. It seals every line behind the checkpoint before, up to this.
    pub last: Revision,
    /// How many lines it seals.
    pub count: u64,
    /// How many lines were sealed since the log began, this included.
    pub total: u64,
    /// The root of the Merkle tree over its lines.
    pub root: Hash,
    /// The hash of the checkpoint before; zeros for the first.
    pub previous: Hash,
    /// When it was made, by the store's clock.
    pub at: Timestamp,
    /// What may be gone, because it was kept long enough.
    pub trimmed: Option<Trimmed>,
    /// What was found damaged when it was made, if something was.
    pub after_damage: Option<String>,
    /// The key that signed it.
    pub key: PublicKey,
    /// The key that signs from the next one on, if that changes.
    pub next_key: Option<PublicKey>,
    /// The signature of that key.
    pub next_signature: Option<[u8; 64]>,
    /// The signature.
    pub signature: [u8; 64],
}

/// The beginning of a log that may be gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trimmed {
    /// The last checkpoint that may be gone.
    pub number: u64,
    /// The last revision that it sealed.
    pub last: Revision,
    /// How many lines were sealed up to it.
    pub total: u64,
}

/// A checkpoint as it is written, with fields in this order.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    number: u64,
    first: String,
    last: String,
    count: u64,
    total: u64,
    root: String,
    previous: String,
    at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trimmed: Option<TrimmedText>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    after_damage: Option<String>,
    key: PublicKey,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next_key: Option<PublicKey>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next_signature: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signature: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TrimmedText {
    number: u64,
    last: String,
    total: u64,
}

impl Checkpoint {
    /// Signs it with the key that it names, and with the one that follows.
    pub(super) fn sign(mut self, signer: &Signer, next: Option<&Signer>) -> Result<Self> {
        debug_assert_eq!(self.key, signer.public(), "a checkpoint names the key that signs it");
        let signed = self.signed()?;
        self.signature = signer.sign(&signed);
        self.next_signature = next.map(|next| next.sign(&signed));
        Ok(self)
    }

    /// Whether its key has signed it, and the one that follows, if one does.
    pub fn is_signed(&self) -> bool {
        let Ok(signed) = self.signed() else { return false };
        let agreed = match (self.next_key, &self.next_signature) {
            (None, None) => true,
            (Some(next), Some(signature)) => next.verifies(&signed, signature),
            (Some(_), None) | (None, Some(_)) => false,
        };
        agreed && self.key.verifies(&signed, &self.signature)
    }

    /// The key by which the next one is signed.
    pub(super) fn follower(&self) -> PublicKey {
        self.next_key.unwrap_or(self.key)
    }

    fn signed(&self) -> Result<Vec<u8>> {
        let text = Text { signature: None, next_signature: None, ..self.text() };
        Ok([SIGNED, &write(&text)?].concat())
    }

    /// As it is stored and exported.
    ///
    /// # Errors
    /// None that can be met.
    pub fn encode(&self) -> Result<Vec<u8>> {
        write(&self.text())
    }

    /// Reads what [`encode`](Checkpoint::encode) wrote, to the last byte.
    ///
    /// # Errors
    /// `Invalid` for anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let wrong = || Error::invalid("it cannot be read as a checkpoint");
        let text: Text = serde_json::from_slice(bytes).map_err(|_| wrong())?;
        let read = Self::from_text(text).ok_or_else(wrong)?;
        if read.encode()? != bytes {
            return Err(Error::invalid("it is not written as checkpoints are"));
        }
        Ok(read)
    }

    fn text(&self) -> Text {
        Text {
            number: self.number,
            first: self.first.to_string(),
            last: self.last.to_string(),
            count: self.count,
            total: self.total,
            root: hex(&self.root),
            previous: hex(&self.previous),
            at: self.at,
            trimmed: self.trimmed.map(|trimmed| TrimmedText {
                number: trimmed.number,
                last: trimmed.last.to_string(),
                total: trimmed.total,
            }),
            after_damage: self.after_damage.clone(),
            key: self.key,
            next_key: self.next_key,
            next_signature: self.next_signature.as_ref().map(|signature| hex(signature)),
            signature: Some(hex(&self.signature)),
        }
    }

    fn from_text(text: Text) -> Option<Self> {
        let trimmed = match text.trimmed {
            None => None,
            Some(trimmed) => Some(Trimmed {
                number: trimmed.number,
                last: revision(&trimmed.last)?,
                total: trimmed.total,
            }),
        };
        let next_signature = match text.next_signature {
            None => None,
            Some(signature) => Some(unhex(&signature)?),
        };
        Some(Checkpoint {
            number: text.number,
            first: revision(&text.first)?,
            last: revision(&text.last)?,
            count: text.count,
            total: text.total,
            root: unhex(&text.root)?,
            previous: unhex(&text.previous)?,
            at: text.at,
            trimmed,
            after_damage: text.after_damage,
            key: text.key,
            next_key: text.next_key,
            next_signature,
            signature: unhex(&text.signature?)?,
        })
    }
}

/// The hash of a checkpoint as it is stored.
pub fn hash_of(stored: &[u8]) -> Hash {
    Sha256::digest(stored).into()
}

/// Which checkpoint is the newest, and what it comes to: enough to go on behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) number: u64,
    pub(super) hash: Hash,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HeadText {
    number: u64,
    hash: String,
}

impl Head {
    pub(super) fn encode(&self) -> Result<Vec<u8>> {
        write(&HeadText { number: self.number, hash: hex(&self.hash) })
    }

    /// Nothing if it is not to the last byte as it was written.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let text: HeadText = serde_json::from_slice(bytes).ok()?;
        let head = Head { number: text.number, hash: unhex(&text.hash)? };
        (head.encode().ok()? == bytes).then_some(head)
    }
}

pub(super) fn checkpoint_key(number: u64) -> Key {
    Key::new(Partition::FIRST, CHECKPOINT, format!("{number:0DIGITS$}"))
}

/// The number in a key, if it is one of ours.
pub(super) fn number_of(key: &Key) -> Option<u64> {
    let number = key.id.parse().ok()?;
    (checkpoint_key(number) == *key).then_some(number)
}

pub(super) fn head_key() -> Key {
    Key::new(Partition::FIRST, HEAD, "head")
}

/// A revision in decimal digits, written in the one way.
pub(super) fn revision(text: &str) -> Option<Revision> {
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text).then_some(Revision::new(number))
}

pub(super) fn write<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|error| {
        Error::new(ErrorKind::Internal, "a record of the audit trail cannot be written")
            .with_source(error)
    })
}
