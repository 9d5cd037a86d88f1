//! Identities of commits, so that a commit with an unknown outcome may be sent again.
//!
//! A client has a random number and a set of slots. An operation takes the lowest free slot and
//! the next number of the client's sequence; the slot is free again when the operation is dropped,
//! which is after its caller has its answer or has given up. A backend therefore needs to remember
//! one answer per slot, and a slot holds a lower sequence number than the newcomer, the same (a
//! repetition), or a higher one (a straggler, to be refused). Memory is bounded by the number of
//! commits that were ever in flight at once.

use std::collections::BTreeSet;
use std::sync::OnceLock;
#[cfg(feature = "redis")]
use std::sync::atomic::AtomicBool;

use parking_lot::Mutex;

use crate::clock::Clock;

/// The identity of one commit. See the module's first paragraph.
#[derive(Debug)]
pub struct Operation {
    /// The random number of this process.
    pub client: u64,
    /// Its slot.
    pub slot: u32,
    /// Its place in the client's sequence.
    pub sequence: u64,
    /// Whether a server was asked for it before, whatever came of that.
    #[cfg(feature = "redis")]
    pub(super) was_sent: AtomicBool,
}

/// The slots of this process. A process that was forked off begins anew, as another client.
#[derive(Default)]
struct Allocator {
    process: u32,
    client: u64,
    free: BTreeSet<u32>,
    slots: u32,
    sequence: u64,
}

fn allocator() -> &'static Mutex<Allocator> {
    static ALLOCATOR: OnceLock<Mutex<Allocator>> = OnceLock::new();
    ALLOCATOR.get_or_init(Mutex::default)
}

impl Operation {
    fn new(client: u64, slot: u32, sequence: u64) -> Operation {
        Operation {
            client,
            slot,
            sequence,
            #[cfg(feature = "redis")]
            was_sent: AtomicBool::new(false),
        }
    }

    /// A new identity, unlike every other of this and any other process.
    pub(super) fn begin() -> Operation {
        let mut allocator = allocator().lock();
        let process = std::process::id();
        if allocator.process != process {
            let client = Clock::system().random();
            *allocator = Allocator { process, client, ..Allocator::default() };
        }
        allocator.sequence += 1;
        let slot = allocator.free.pop_first().unwrap_or_else(|| {
            allocator.slots += 1;
            allocator.slots - 1
        });
        Operation::new(allocator.client, slot, allocator.sequence)
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        let mut allocator = allocator().lock();
        // The slots of another client, from before a fork, are not ours to free.
        if allocator.client == self.client {
            allocator.free.insert(self.slot);
        }
    }
}

/// What a backend remembers of the operations of this process: the last answer per slot.
///
/// Enough for backends inside the process (memory, SQLite): only this process repeats its own
/// operations, so what dies with it is needed by nobody.
#[derive(Debug)]
pub(super) struct Answers<T>(std::collections::HashMap<(u64, u32), (u64, T)>);

/// How an operation compares with what its slot holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen<T> {
    /// Not seen before.
    New,
    /// Applied before, with this answer.
    Repeated(T),
    /// Its slot has been used by a later one: its caller is gone.
    Straggler,
}

/// The answer to a commit that arrives after its slot was used again: nobody waits for it.
pub(super) fn straggler() -> crate::Error {
    let kind = crate::ErrorKind::Unknown;
    crate::Error::new(kind, "this commit was answered or given up before it arrived")
}

impl<T> Default for Answers<T> {
    fn default() -> Self {
        Answers(std::collections::HashMap::new())
    }
}

impl<T: Clone> Answers<T> {
    pub(super) fn look(&self, operation: &Operation) -> Seen<T> {
        match self.0.get(&(operation.client, operation.slot)) {
            Some((sequence, answer)) if *sequence == operation.sequence => {
                Seen::Repeated(answer.clone())
            }
            Some((sequence, _)) if *sequence > operation.sequence => Seen::Straggler,
            Some(_) | None => Seen::New,
        }
    }

    pub(super) fn remember(&mut self, operation: &Operation, answer: T) {
        self.0.insert((operation.client, operation.slot), (operation.sequence, answer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(sequence: u64) -> Operation {
        Operation::new(1, 0, sequence)
    }

    #[test]
    fn a_reused_slot_tells_repetition_from_straggler() {
        let mut answers = Answers::default();
        let first = operation(7);
        assert_eq!(answers.look(&first), Seen::New);
        answers.remember(&first, "done");
        assert_eq!(answers.look(&first), Seen::Repeated("done"));
        let second = operation(8);
        assert_eq!(answers.look(&second), Seen::New);
        answers.remember(&second, "done too");
        assert_eq!(answers.look(&first), Seen::Straggler);
        // These were made by hand; their slots are not the allocator's to get back.
        std::mem::forget((first, second));
    }

    #[test]
    fn live_operations_never_share_a_slot() {
        let live: Vec<_> = (0..100).map(|_| Operation::begin()).collect();
        let slots: std::collections::HashSet<_> = live.iter().map(|op| op.slot).collect();
        assert_eq!(slots.len(), live.len());
    }
}
