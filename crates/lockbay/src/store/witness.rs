//! What this client has seen of a store, and so what the store may not take back.
//!
//! Every commit and read is answered together with the store's generation and last revision.
//! A generation that is not ours, or a revision below one that we have seen, means that the store
//! has lost acknowledged data. The witness remembers; the backend refuses.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use super::{Partition, Revision};
use crate::error::{Error, ErrorKind};

/// The standing of a partition as the store tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Standing {
    /// Random identity of the store's content, made when it was empty or when it was accepted.
    pub(super) generation: String,
    /// The last commit.
    pub(super) revision: Revision,
    /// Whether an operator began this generation, knowing that data was lost.
    pub(super) accepted: bool,
    /// Why effects are halted, if they are.
    pub(super) halted: Option<String>,
}

/// What a witness says to a standing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// As it should be.
    Fine,
    /// Data was lost: halt all effects, and tell the others.
    RolledBack(String),
    /// Effects were halted by somebody, for this reason.
    Halted(String),
}

impl Verdict {
    pub(super) fn into_error(self) -> Option<Error> {
        match self {
            Verdict::Fine => None,
            Verdict::RolledBack(reason) | Verdict::Halted(reason) => Some(rolled_back(&reason)),
        }
    }
}

/// The error that every effect gets while the store is rolled back.
pub(super) fn rolled_back(reason: &str) -> Error {
    Error::new(
        ErrorKind::RolledBack,
        format!(
            "the store has lost acknowledged data and effects are halted; restore it, or accept it \
             with `lockbay doctor --accept-store`: {reason}"
        ),
    )
}

/// The memory of one client.
#[derive(Debug, Default)]
pub(super) struct Witness(Mutex<BTreeMap<Partition, Seen>>);

#[derive(Debug, Clone)]
struct Seen {
    generation: String,
    floor: Revision,
}

impl Witness {
    #[cfg(feature = "redis")]
    /// The generation and the floor to send along, if this partition was seen before.
    pub(super) fn expectation(&self, partition: Partition) -> Option<(String, Revision)> {
        let seen = self.0.lock();
        seen.get(&partition).map(|seen| (seen.generation.clone(), seen.floor))
    }

    /// Judges what the store says of itself before a commit, and remembers it if it is fine.
    pub(super) fn judge(&self, partition: Partition, standing: &Standing) -> Verdict {
        let mut all = self.0.lock();
        if let Some(seen) = all.get_mut(&partition) {
            let known = seen.generation == standing.generation;
            if !known && !standing.accepted {
                return Verdict::RolledBack(format!(
                    "it was emptied or replaced: generation was {}, is {}",
                    seen.generation, standing.generation
                ));
            }
            // Also of an accepted generation: a later one goes on above all that was seen, so one
            // that is below is an older one, restored.
            if standing.revision < seen.floor {
                return Verdict::RolledBack(format!(
                    "it went back from revision {} to {}",
                    seen.floor, standing.revision
                ));
            }
        }
        if let Some(reason) = &standing.halted {
            return Verdict::Halted(reason.clone());
        }
        match all.get_mut(&partition) {
            Some(seen) if seen.generation == standing.generation => {
                seen.floor = seen.floor.max(standing.revision);
            }
            Some(_) | None => {
                let generation = standing.generation.clone();
                all.insert(partition, Seen { generation, floor: standing.revision });
            }
        }
        Verdict::Fine
    }

    /// Remembers a revision that the store has acknowledged.
    pub(super) fn acknowledge(&self, partition: Partition, revision: Revision) {
        if let Some(seen) = self.0.lock().get_mut(&partition) {
            seen.floor = seen.floor.max(revision);
        }
    }

    /// The highest revision seen, to be handed to whoever accepts the store.
    pub(super) fn floor(&self, partition: Partition) -> Revision {
        self.0.lock().get(&partition).map_or(Revision::ZERO, |seen| seen.floor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(generation: &str, revision: u64, accepted: bool) -> Standing {
        let revision = Revision::new(revision);
        Standing { generation: generation.into(), revision, accepted, halted: None }
    }

    #[test]
    fn a_store_that_falls_behind_is_rolled_back() {
        let witness = Witness::default();
        let judge = |s: &Standing| witness.judge(Partition::FIRST, s);
        assert_eq!(judge(&standing("a", 5, false)), Verdict::Fine);
        witness.acknowledge(Partition::FIRST, Revision::new(9));
        assert_eq!(judge(&standing("a", 9, false)), Verdict::Fine);
        assert!(matches!(judge(&standing("a", 8, false)), Verdict::RolledBack(_)));
        assert!(matches!(judge(&standing("b", 99, false)), Verdict::RolledBack(_)));
        assert_eq!(judge(&standing("c", 30, true)), Verdict::Fine, "an accepted one is taken on");
        assert_eq!(judge(&standing("c", 31, true)), Verdict::Fine);
        assert!(matches!(judge(&standing("c", 30, true)), Verdict::RolledBack(_)));
        let older = judge(&standing("b", 20, true));
        assert!(matches!(older, Verdict::RolledBack(_)), "an older accepted one, restored");
    }

    #[test]
    fn a_halted_store_is_halted_for_a_newcomer_too() {
        let mut halted = standing("a", 5, false);
        halted.halted = Some("seen by another".into());
        let verdict = Witness::default().judge(Partition::FIRST, &halted);
        assert!(matches!(verdict, Verdict::Halted(_)));
    }
}
