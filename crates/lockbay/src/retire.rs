//! What services say of records that they no longer need.
//!
//! The language between those who know what their records mean and the sweeper, which deletes them.
//! A service finds and judges; it says what must still hold when a record goes, and what goes with
//! it. It deletes nothing itself, and the sweeper knows nothing of what it deletes.

use std::time::Duration;

use async_trait::async_trait;

use crate::clock::Timestamp;
use crate::error::Result;
use crate::store::{Fence, Guard, Key, Write};

/// How much of what is due is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pass {
    /// What is due first, which the sweeper then deletes: the next look finds what is due then.
    Due,
    /// Everything, in the order of its index, whether it is deleted meanwhile or not.
    Full,
}

/// What the sweeper asks.
#[derive(Debug, Clone)]
pub(crate) struct Ask<'a> {
    /// Where an earlier look, or an earlier pass, came to.
    pub(crate) place: Option<&'a str>,
    /// How long things are kept.
    pub(crate) ttl: Duration,
    /// By the store's clock, when the pass began.
    pub(crate) now: Timestamp,
    /// How many are looked at, at most.
    pub(crate) limit: usize,
    pub(crate) pass: Pass,
    /// How the names begin that are asked for, where names are in the order of an index.
    pub(crate) prefix: &'a str,
}

impl Ask<'_> {
    /// What happened later than this is kept.
    pub(crate) fn cutoff(&self) -> Timestamp {
        self.now - self.ttl
    }
}

/// Where to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Next {
    /// From this place.
    At(String),
    /// From the start, as long as something was deleted.
    Again,
    /// That was all. The next pass may begin at this place, if there is one.
    End(Option<String>),
}

/// What a look found.
#[derive(Debug)]
pub(crate) struct Look {
    pub(crate) scanned: u64,
    pub(crate) doomed: Vec<Doomed>,
    /// What stays: why, once for each.
    pub(crate) kept: Vec<&'static str>,
    /// What could not be read or judged, in words.
    pub(crate) broken: Vec<String>,
    pub(crate) next: Next,
}

impl Look {
    pub(crate) fn new() -> Self {
        Look {
            scanned: 0,
            doomed: Vec::new(),
            kept: Vec::new(),
            broken: Vec::new(),
            next: Next::End(None),
        }
    }
}

/// One thing that may go.
#[derive(Debug)]
pub(crate) struct Doomed {
    /// By which patterns tell it from others; some have none.
    pub(crate) name: Option<String>,
    /// What must still hold.
    pub(crate) guards: Vec<Guard>,
    /// What goes.
    pub(crate) writes: Vec<Write>,
    /// Who is told.
    pub(crate) hints: Vec<Key>,
    /// What goes in commits of its own afterwards, if it is too much for one.
    pub(crate) rest: Option<Rest>,
    pub(crate) weight: Weight,
}

impl Doomed {
    /// Something that goes at once.
    pub(crate) fn new(guards: Vec<Guard>, writes: Vec<Write>) -> Self {
        let weight = Weight::Measure(writes.iter().map(|write| write.key().clone()).collect());
        Doomed { name: None, guards, writes, hints: Vec::new(), rest: None, weight }
    }

    pub(crate) fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }
}

/// How many bytes become free.
#[derive(Debug, Clone)]
pub(crate) enum Weight {
    /// What the store measures of these records.
    Measure(Vec<Key>),
    /// So many.
    Known(u64),
}

/// What is left of something after its first commit, in order. It counts as gone with the last.
#[derive(Debug)]
pub(crate) struct Rest {
    /// The record that says that the rest is to go. It stays as it is until the last commit.
    pub(crate) anchor: Key,
    pub(crate) commits: Vec<Vec<Write>>,
}

/// A service that has something to let go.
#[async_trait]
pub(crate) trait Retire: Send + Sync {
    /// Looks at some of what may be due, and judges it.
    async fn look(&self, ask: &Ask<'_>) -> Result<Look>;
}

/// Work that a service does itself, when the leader asks it to.
#[async_trait]
pub(crate) trait Errand: Send + Sync {
    /// Does some of it, about `budget` records, under the leader's fence where it deletes.
    async fn work(&self, fence: &Fence, budget: usize) -> Result<Worked>;
}

/// What an errand came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Worked {
    pub(crate) scanned: u64,
    pub(crate) cleaned: u64,
    pub(crate) bytes: u64,
    /// Whether there is more to do at once.
    pub(crate) more: bool,
}
