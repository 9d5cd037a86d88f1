//! Upkeep: what a store occupies, and how it gives space back. Beside the seam, for whoever cleans
//! up; nothing that must be right rests on it.
//!
//! It also knows of keys that are not ours: on a Redis that LockBay shares with an application,
//! some of the application's keys may be swept by rule. Keys of LockBay, of every namespace, are
//! never shown to it and never deleted by it.

use std::time::Duration;

use async_trait::async_trait;

use super::{Fence, Key, Kind, Partition};
use crate::error::Result;

/// Measures a store, and gives space back.
///
/// # Errors
/// Every method may fail with `Unavailable`, `RolledBack` or `Internal`, as those of the
/// [`Store`](super::Store).
#[async_trait]
pub trait Upkeep: Send + Sync {
    /// How many keys of a kind there are, index entries included. It may take time in proportion
    /// to them.
    async fn count(&self, partition: Partition, kind: Kind) -> Result<u64>;

    /// How many bytes these records and index entries of one partition occupy, as near as the
    /// backend can measure. Missing ones count as nothing.
    async fn weigh(&self, keys: &[Key]) -> Result<u64>;

    /// What the store occupies.
    async fn footprint(&self) -> Result<Footprint>;

    /// Gives a bounded piece of unused space back to the machine, in a few milliseconds. The next
    /// records would have used that space: call it after much was deleted, until there is no more.
    async fn reclaim(&self) -> Result<Reclaimed>;

    /// What keeps the store from being measured or from giving space back, each with what to
    /// change.
    async fn advice(&self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// The volume on which the store's file lies, if it is a file of this machine.
    async fn volume(&self) -> Result<Option<Volume>> {
        Ok(None)
    }

    /// The keys of others on the same server, where there can be any.
    fn foreign(&self) -> Option<&dyn Foreign>;
}

/// What a store occupies, as it measures it itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Footprint {
    /// Bytes that hold data: file pages in use, or the memory of the server. What others keep in
    /// the same file or server is in it.
    pub used_bytes: u64,
    /// Bytes that are held and hold nothing: free pages of the file, or memory that the server has
    /// not given back.
    pub free_bytes: u64,
}

/// A volume with a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Volume {
    /// What this process may still use of it.
    pub free_bytes: u64,
    /// All of it.
    pub total_bytes: u64,
}

/// What one piece of [`Upkeep::reclaim`] came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reclaimed {
    /// Bytes given back to the machine.
    pub bytes: u64,
    /// Whether another piece may give back more.
    pub more: bool,
}

/// Keys of others on the same server.
#[async_trait]
pub trait Foreign: Send + Sync {
    /// Some keys that match a glob of Redis, from a cursor on; zero begins. Also the cursor to go
    /// on from, zero at the end. A key may be shown twice, and one that is there all the time is
    /// shown at least once. `count` is how many keys of the server are looked at, about.
    ///
    /// # Errors
    /// `Invalid` for a glob that would keep this version of the server for ever. `Unauthorized` if
    /// it forbids us to look.
    async fn keys(&self, glob: &str, cursor: u64, count: usize) -> Result<(u64, Vec<Vec<u8>>)>;

    /// Deletes those of these keys that the rule lets go, each checked and deleted in one step.
    /// Keys of LockBay among them are passed over. Best is not much more than a hundred at a time:
    /// of more, the server may do the first ones only, and the next call tells why.
    ///
    /// # Errors
    /// `Fenced` if the right is gone; then nothing was deleted. `Invalid` if the server does not
    /// tell how long keys are idle, or not for so long. `Unauthorized` if it forbids us to ask or
    /// to delete. `Unavailable` if no answer came: some of the keys may be gone.
    async fn sweep(&self, keys: &[Vec<u8>], rule: &ForeignRule) -> Result<ForeignSwept>;
}

/// Which keys of others may go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignRule {
    /// Only keys that were neither read nor written for this long. Servers tell this in whole
    /// seconds.
    pub idle: Duration,
    /// Whether a key with an expiry may go too, if that is farther off than `idle`. One whose
    /// expiry is nearer is left to the server.
    pub expiring: bool,
    /// Count and measure only.
    pub dry_run: bool,
    /// Delete only while this right is held.
    pub fence: Fence,
}

/// What became of some keys of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ForeignSwept {
    /// Keys that are gone, or would be in a dry run.
    pub cleaned: u64,
    /// Keys that were left because they have an expiry.
    pub expiring: u64,
    /// Keys that were left because they were used not long ago.
    pub young: u64,
    /// What the cleaned keys occupied, measured at the server.
    pub bytes: u64,
}
