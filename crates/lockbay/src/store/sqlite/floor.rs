//! The floor file: what was acknowledged, kept beside the database, so that an old backup that was
//! restored while nothing ran is noticed by whoever opens it next.
//!
//! It holds generation and revision per namespace and partition. It is written about once a second
//! and at close, and may lag; it never runs ahead. Losing it loses only this one protection.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::store::{Partition, Revision};

/// One line of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Floor {
    namespace: String,
    pub(super) partition: u16,
    pub(super) generation: String,
    pub(super) revision: u64,
}

/// The file, and what this process will write to it next.
#[derive(Debug)]
pub(super) struct FloorFile {
    path: PathBuf,
    namespace: String,
    ours: Vec<Floor>,
    changed: bool,
}

impl FloorFile {
    /// The one beside this database.
    pub(super) fn beside(database: &Path, namespace: &str) -> Self {
        let path = super::beside(database, "-floor");
        FloorFile { path, namespace: namespace.into(), ours: Vec::new(), changed: false }
    }

    /// What was acknowledged in this namespace before this process came.
    pub(super) fn recall(&self) -> Vec<Floor> {
        let mut floors = self.load();
        floors.retain(|floor| floor.namespace == self.namespace);
        floors
    }

    /// Takes note of a revision that was acknowledged.
    pub(super) fn note(&mut self, partition: Partition, generation: &str, revision: Revision) {
        let revision = revision.number();
        match self.ours.iter_mut().find(|floor| floor.partition == partition.0) {
            Some(floor) if floor.generation == generation && floor.revision == revision => return,
            Some(floor) => {
                floor.revision = revision;
                if floor.generation != generation {
                    floor.generation = generation.into();
                }
            }
            None => self.ours.push(Floor {
                namespace: self.namespace.clone(),
                partition: partition.0,
                generation: generation.into(),
                revision,
            }),
        }
        self.changed = true;
    }

    /// Whether something was noted since it was last written.
    pub(super) fn changed(&self) -> bool {
        self.changed
    }

    /// Writes what was noted, beside what other processes and namespaces wrote.
    pub(super) fn write(&mut self) {
        let mut floors = self.load();
        for ours in &self.ours {
            let same = |floor: &&mut Floor| {
                floor.namespace == ours.namespace && floor.partition == ours.partition
            };
            match floors.iter_mut().find(same) {
                Some(floor) if floor.generation == ours.generation => {
                    floor.revision = floor.revision.max(ours.revision);
                }
                Some(floor) => *floor = ours.clone(),
                None => floors.push(ours.clone()),
            }
        }
        match self.replace(&floors) {
            Ok(()) => self.changed = false,
            Err(error) => tracing::warn!(%error, path = %self.path.display(), "floor not written"),
        }
    }

    fn load(&self) -> Vec<Floor> {
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
            Err(error) => {
                tracing::warn!(%error, path = %self.path.display(), "floor not read");
                return Vec::new();
            }
        };
        serde_json::from_slice(&text).unwrap_or_else(|error| {
            tracing::warn!(%error, path = %self.path.display(), "floor not understood");
            Vec::new()
        })
    }

    fn replace(&self, floors: &[Floor]) -> std::io::Result<()> {
        let mut text = serde_json::to_vec_pretty(floors)?;
        text.push(b'\n');
        let fresh = super::beside(&self.path, &format!("-{}", std::process::id()));
        fs::write(&fresh, text)?;
        fs::rename(&fresh, &self.path)
    }
}
