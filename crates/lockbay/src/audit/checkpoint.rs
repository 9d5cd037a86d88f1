//! Checkpoints: what the leader says of the lines since the one before, signed.
//!
//! A checkpoint is JSON with its fields in one order and one way to write each, so that there is
//! one text for it; the signature is over that text without the signature. Its hash is over the
//! whole text, and stands in the next one.

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
    /// The key that signed it.
    pub key: PublicKey,
    /// The key that signs from the next one on, if that changes.
    pub next_key: Option<PublicKey>,
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
    key: PublicKey,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next_key: Option<PublicKey>,
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
    /// Signs it with the key that it names.
    pub(super) fn sign(mut self, signer: &Signer) -> Result<Self> {
        debug_assert_eq!(self.key, signer.public(), "a checkpoint names the key that signs it");
        self.signature = signer.sign(&self.signed()?);
        Ok(self)
    }

    /// Whether its key has signed it.
    pub fn is_signed(&self) -> bool {
        self.signed().is_ok_and(|signed| self.key.verifies(&signed, &self.signature))
    }

    fn signed(&self) -> Result<Vec<u8>> {
        let text = Text { signature: None, ..self.text() };
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
            key: self.key,
            next_key: self.next_key,
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
            key: text.key,
            next_key: text.next_key,
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
