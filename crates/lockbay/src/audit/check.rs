//! Checking a log against its checkpoints, as they come: one pass, bounded memory, no I/O.
//!
//! Whoever reads a store or a file gives lines and checkpoints in their order: a checkpoint behind
//! the lines that it seals. The checker says what is wrong and where, and goes on, so that one
//! fault does not hide another.

use std::collections::BTreeMap;

use serde::Serialize;

use super::checkpoint::{self, Checkpoint, Trimmed};
use super::key::PublicKey;
use super::merkle::{self, Hash, Tree};
use crate::store::Revision;

/// How many problems are told; more are counted.
const MAX_PROBLEMS: usize = 1_000;

/// Something that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The commit of the line that it is about, or the last one known before it.
    #[serde(serialize_with = "text")]
    pub revision: Option<Revision>,
    /// The checkpoint that it is about.
    pub checkpoint: Option<u64>,
    /// What is wrong.
    pub problem: String,
}

/// A revision as a string, because it passes 2^53.
pub(super) fn text<S: serde::Serializer>(
    revision: &Option<Revision>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match revision {
        Some(revision) => serializer.collect_str(revision),
        None => serializer.serialize_none(),
    }
}

/// One pass over a log.
#[derive(Debug)]
pub(super) struct Checker {
    /// The checkpoint before, as far as it is known.
    before: Option<Before>,
    /// Its number and last revision, also where nothing else of it is known.
    place: (u64, Revision),
    /// The lines since then.
    tree: Tree,
    first: Option<Revision>,
    /// The last line.
    pub(super) last: Option<Revision>,
    /// Keys that have signed, and the first checkpoint that each did.
    keys: BTreeMap<PublicKey, u64>,
    pub(super) found: Found,
}

/// What the next checkpoint is held against.
#[derive(Debug)]
struct Before {
    hash: Hash,
    total: u64,
    follower: PublicKey,
    trimmed: Option<Trimmed>,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) entries: u64,
    pub(super) sealed: u64,
    pub(super) checkpoints: u64,
    pub(super) first: Option<Revision>,
    pub(super) last: Option<Revision>,
    pub(super) key: Option<PublicKey>,
    /// The first checkpoint that a trusted key has signed.
    pub(super) vouched_from: Option<u64>,
    pub(super) problems: Vec<Problem>,
    /// Those that are not in the list.
    pub(super) more: u64,
}

impl Found {
    pub(super) fn add(
        &mut self,
        revision: Option<Revision>,
        checkpoint: Option<u64>,
        problem: impl Into<String>,
    ) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(Problem { revision, checkpoint, problem: problem.into() });
        } else {
            self.more += 1;
        }
    }
}

impl Checker {
    /// Begins behind a checkpoint of this number that sealed lines up to this revision.
    pub(super) fn behind(number: u64, last: Revision) -> Self {
        Checker {
            before: None,
            place: (number, last),
            tree: Tree::default(),
            first: None,
            last: None,
            keys: BTreeMap::new(),
            found: Found::default(),
        }
    }

    /// The next line.
    pub(super) fn line(&mut self, revision: Revision, text: &[u8]) {
        if self.last.is_some_and(|last| revision < last) {
            self.found.add(Some(revision), None, "this entry stands behind a later one");
        }
        if revision <= self.place.1 {
            self.found.add(Some(revision), None, "this entry stands behind the seal of its time");
        }
        self.last = Some(revision);
        self.first.get_or_insert(revision);
        self.found.first.get_or_insert(revision);
        self.found.last = Some(revision);
        self.found.entries += 1;
        self.tree.push(merkle::leaf(revision, text));
    }

    /// Lines cannot be told here.
    pub(super) fn unreadable(&mut self, problem: impl Into<String>) {
        self.found.add(self.last, None, problem);
    }

    /// The next checkpoint as it is stored, under this number, behind the lines that it seals.
    pub(super) fn checkpoint(&mut self, number: u64, stored: &[u8]) {
        self.found.checkpoints += 1;
        let expected = self.place.0.saturating_add(1);
        if number != expected {
            let problem = match number > expected {
                true => format!("checkpoints {expected} to {} are missing", number - 1),
                false => format!("checkpoint {number} stands where {expected} is expected"),
            };
            self.found.add(self.last, Some(number), problem);
        }
        match Checkpoint::decode(stored) {
            Ok(read) => self.compare(number, expected, &read, stored),
            Err(error) => {
                self.found.add(self.last, Some(number), error.to_string());
                self.before = None;
                // Where it ended is not known: the lines so far stand unproved.
                self.place = (number, self.last.unwrap_or(self.place.1));
            }
        }
        self.tree = Tree::default();
        self.first = None;
    }

    fn compare(&mut self, number: u64, expected: u64, read: &Checkpoint, stored: &[u8]) {
        let mut wrong: Vec<String> = Vec::new();
        let gap = number != expected || (self.before.is_none() && self.found.checkpoints > 1);
        if read.number != number {
            wrong.push(format!("it says that it is checkpoint {}", read.number));
        }
        if !read.is_signed() {
            wrong.push("its signature is not that of its key".into());
        }
        // Behind a checkpoint that is missing, the lines of that one are not told from these.
        if !gap || self.first == Some(read.first) {
            self.compare_lines(read, &mut wrong);
        }
        match &self.before {
            Some(before) if number == expected => follow(before, read, &mut wrong),
            Some(_) => {}
            None if number == 1 && (read.previous != [0; 32] || read.total != read.count) => {
                wrong.push("it is the first, and says that there were others".into());
            }
            None => {}
        }
        if self.found.key.is_none() || wrong.is_empty() {
            self.found.key = Some(read.follower());
        }
        if let Some(damage) = &read.after_damage {
            wrong.push(format!("it was made after damage: {damage}"));
        }
        if read.is_signed() {
            for key in [read.key, read.follower()] {
                self.keys.entry(key).or_insert(number);
            }
        }
        for problem in wrong {
            self.found.add(Some(read.last), Some(number), problem);
        }
        self.found.sealed += self.tree.count();
        self.place = (number, read.last);
        self.before = Some(Before {
            hash: checkpoint::hash_of(stored),
            total: read.total,
            follower: read.follower(),
            trimmed: read.trimmed,
        });
    }

    fn compare_lines(&self, read: &Checkpoint, wrong: &mut Vec<String>) {
        let (first, last) = (read.first, read.last);
        if read.count != self.tree.count() {
            let (count, there) = (read.count, self.tree.count());
            wrong.push(format!(
                "it seals {count} entries from {first} to {last}, there are {there}"
            ));
        }
        if read.root != self.tree.root() {
            wrong.push(format!("the entries from {first} to {last} are not those that it sealed"));
        }
        let ends = (self.first.unwrap_or(self.place.1), self.last.unwrap_or(self.place.1));
        if self.tree.count() > 0 && ends != (first, last) {
            let (from, to) = ends;
            wrong.push(format!("it seals {first} to {last}, the entries go from {from} to {to}"));
        }
    }

    /// The lines so far are not sealed by anything. A trusted key vouches from the first checkpoint
    /// on that it has signed.
    pub(super) fn end(&mut self, trusted: &[PublicKey]) {
        self.found.vouched_from =
            trusted.iter().filter_map(|key| self.keys.get(key)).min().copied();
        let known = self.found.vouched_from.is_some();
        if !trusted.is_empty() && self.found.checkpoints > 0 && !known {
            let keys: Vec<String> = trusted.iter().map(PublicKey::to_string).collect();
            let keys = keys.join(" or ");
            self.found.add(
                self.last,
                Some(self.place.0),
                format!("nothing is signed by key {keys}"),
            );
        }
    }

    /// The last checkpoint and its hash, as far as it could be read.
    pub(super) fn newest(&self) -> (u64, Option<Hash>) {
        (self.place.0, self.before.as_ref().map(|before| before.hash))
    }
}

/// Whether a checkpoint follows the one before.
fn follow(before: &Before, read: &Checkpoint, wrong: &mut Vec<String>) {
    if read.previous != before.hash {
        wrong.push("it follows another checkpoint than the one before it".into());
    }
    let expected = before.total.saturating_add(read.count);
    if read.total != expected {
        let total = read.total;
        wrong.push(format!("it counts {total} entries since the beginning, there were {expected}"));
    }
    if read.key != before.follower {
        wrong.push(format!("it is signed by key {}, which no checkpoint named", read.key));
    }
    let trimmed = |trimmed: Option<Trimmed>| trimmed.map_or(0, |trimmed| trimmed.number);
    let (now, then) = (trimmed(read.trimmed), trimmed(before.trimmed));
    if now < then || now >= read.number {
        wrong.push(format!("it says that checkpoints up to {now} may be gone, not {then} or more"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::key::Signer;
    use crate::clock::Clock;

    #[test]
    fn a_key_that_was_named_to_follow_vouches_only_if_it_agreed() {
        let clock = Clock::manual(1);
        let (throwaway, real) = (Signer::make(&clock), Signer::make(&clock));
        let named = Checkpoint {
            number: 1,
            first: Revision::ZERO,
            last: Revision::ZERO,
            count: 0,
            total: 0,
            root: Tree::default().root(),
            previous: [0; 32],
            at: clock.now(),
            trimmed: None,
            after_damage: None,
            key: throwaway.public(),
            next_key: Some(real.public()),
            next_signature: None,
            signature: [0; 64],
        };
        for (next, vouched) in [(None, None), (Some(&throwaway), None), (Some(&real), Some(1))] {
            let text = named.clone().sign(&throwaway, next).unwrap().encode().unwrap();
            let mut checker = Checker::behind(0, Revision::ZERO);
            checker.checkpoint(1, &text);
            checker.end(&[real.public()]);
            assert_eq!(checker.found.vouched_from, vouched);
            assert_eq!(checker.found.problems.is_empty(), vouched.is_some());
        }
    }
}
