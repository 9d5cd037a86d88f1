//! Proof that one entry is in the log: its way to the root of a signed checkpoint, and the chain
//! from there to a later one that the asker trusts. Checked without a store.

use serde::{Deserialize, Serialize};

use super::Audit;
use super::checkpoint::{self, Checkpoint};
use super::key::PublicKey;
use super::merkle::{self, Hash};
use super::verify::hash_text;
use crate::error::{Error, ErrorKind, Result};
use crate::hex::{hex, unhex};
use crate::store::Revision;

/// The longest chain of a proof.
const MAX_CHAIN: u64 = 1_000;

/// Proof that an entry was sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    /// The commit of the entry.
    pub revision: String,
    /// What the entry says, to the byte.
    pub entry: String,
    /// Its place among the entries of its checkpoint.
    pub leaf: u64,
    /// The hashes that lead from it to the root, from below.
    pub path: Vec<String>,
    /// The checkpoint that seals it, as it is stored.
    pub checkpoint: String,
    /// Those that follow it, up to the one that was asked for.
    pub chain: Vec<String>,
}

/// What a proof proves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Proved {
    /// The checkpoint that seals the entry.
    pub checkpoint: u64,
    /// The last one of the chain, and its hash.
    pub trusted: u64,
    /// See `trusted`.
    pub trusted_hash: String,
    /// The key that signed that one.
    pub public_key: PublicKey,
}

impl Proof {
    /// Checks it: by the key that signs, or by the hash of the last checkpoint of its chain, or
    /// both. With neither it is only shown to be of one piece, under the key that it names.
    ///
    /// # Errors
    /// `Invalid`, with what does not fit.
    pub fn check(&self, key: Option<PublicKey>, hash: Option<Hash>) -> Result<Proved> {
        let wrong = |what: String| Error::invalid(format!("the proof does not hold: {what}"));
        let revision = checkpoint::revision(&self.revision);
        let revision = revision.ok_or_else(|| wrong("its revision cannot be read".into()))?;
        let path: Option<Vec<Hash>> = self.path.iter().map(|hash| unhex(hash)).collect();
        let path = path.ok_or_else(|| wrong("a hash of its path cannot be read".into()))?;
        let seal = Checkpoint::decode(self.checkpoint.as_bytes())?;
        let leaf = merkle::leaf(revision, self.entry.as_bytes());
        if merkle::climb(leaf, self.leaf, seal.count, &path) != Some(seal.root) {
            return Err(wrong(format!("the entry does not lead to checkpoint {}", seal.number)));
        }
        if revision < seal.first || revision > seal.last || !seal.is_signed() {
            return Err(wrong(format!("checkpoint {} does not seal it", seal.number)));
        }
        let (mut last, mut text) = (seal.clone(), self.checkpoint.as_bytes());
        let mut keys = vec![last.key];
        for next_text in &self.chain {
            let next = Checkpoint::decode(next_text.as_bytes())?;
            let follows = Some(next.number) == last.number.checked_add(1)
                && next.previous == checkpoint::hash_of(text)
                && next.key == last.next_key.unwrap_or(last.key)
                && next.is_signed();
            if !follows {
                let (this, before) = (next.number, last.number);
                return Err(wrong(format!("checkpoint {this} does not follow {before}")));
            }
            keys.push(next.key);
            (last, text) = (next, next_text.as_bytes());
        }
        if key.is_some_and(|key| !keys.contains(&key)) {
            return Err(wrong("it is signed by another key".into()));
        }
        if hash.is_some_and(|hash| hash != checkpoint::hash_of(text)) {
            return Err(wrong("its last checkpoint is not the one that is trusted".into()));
        }
        Ok(Proved {
            checkpoint: seal.number,
            trusted: last.number,
            trusted_hash: hash_text(text),
            public_key: last.key,
        })
    }
}

impl Audit {
    /// Proof of the entry at this place of a commit, up to the checkpoint of number `to`.
    ///
    /// # Errors
    /// `NotFound` if there is no such entry, `Held` if it is not sealed yet, `Invalid` if `to` is no
    /// later checkpoint, or more than a thousand later.
    pub async fn proof(&self, revision: Revision, index: u32, to: Option<u64>) -> Result<Proof> {
        let none = || {
            let message = format!("there is no entry {index} of revision {revision}");
            Error::new(ErrorKind::NotFound, message)
        };
        if self.at(revision).await?.len() <= usize::try_from(index).unwrap_or(usize::MAX) {
            return Err(none());
        }
        let unsealed = || {
            let message = format!("the entries of revision {revision} are not sealed yet");
            Error::new(ErrorKind::Held, message)
        };
        let newest = self.newest().await?.ok_or_else(unsealed)?;
        let number = self.sealing(revision, newest.number).await?.ok_or_else(unsealed)?;
        let to = to.unwrap_or(number);
        if to < number || to > newest.number || to - number > MAX_CHAIN {
            return Err(Error::invalid(format!(
                "a chain leads from checkpoint {number} to one of the next {MAX_CHAIN}, not to {to}"
            )));
        }
        let stored = self.record(checkpoint::checkpoint_key(number)).await?.ok_or_else(none)?;
        let seal = Checkpoint::decode(&stored.value)?;
        let lines = self.lines_of(&seal).await?;
        let first = lines.iter().position(|(at, _)| *at == revision).ok_or_else(none)?;
        let leaf = first + usize::try_from(index).unwrap_or(usize::MAX);
        let leaves: Vec<Hash> =
            lines.iter().map(|(revision, text)| merkle::leaf(*revision, text)).collect();
        let entry = String::from_utf8(lines[leaf].1.clone()).map_err(|_| {
            Error::new(ErrorKind::Internal, format!("the entry of {revision} is no text"))
        })?;
        let mut chain = Vec::new();
        for number in number + 1..=to {
            let record = self.record(checkpoint::checkpoint_key(number)).await?.ok_or_else(none)?;
            chain.push(String::from_utf8_lossy(&record.value).into_owned());
        }
        Ok(Proof {
            revision: revision.to_string(),
            entry,
            leaf: leaf as u64,
            path: merkle::path(&leaves, leaf).iter().map(|hash| hex(hash)).collect(),
            checkpoint: String::from_utf8_lossy(&stored.value).into_owned(),
            chain,
        })
    }
}
