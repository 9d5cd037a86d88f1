//! The store seam: ordered records, and one guarded, atomic, durable commit.
//!
//! All coordination is written once above this seam, and every backend below it is small.
//! The seam owns records, revisions, deadlines and guards. It refuses to know what a lease, a job
//! or a saga is: a record whose deadline has passed is still there, and what that means is the
//! business of the service that wrote it.
//!
//! # Contract
//!
//! 1. A [`Commit`] is all or nothing, and durable when it returns [`Reply::Committed`], as far as
//!    the backend's settings promise durability (`docs/semantics.md`).
//! 2. Guards are checked, and writes applied, as one step that no other commit can divide.
//! 3. Every commit that writes gets a [`Revision`] greater than all before it in its partition:
//!    `max(last + 1, the store's time in µs)`. It is stamped on every record it puts.
//! 4. Deadlines are stamped and judged by the store's clock. No client clock decides an expiry.
//! 5. An error of kind `Unknown` means: perhaps. The same [`Commit`] value may be committed again,
//!    and is applied once at most, because it carries its [`Operation`]. A copy of it that was held
//!    up somewhere and arrives after it was answered is refused.
//! 6. A client remembers the highest revision it has seen and the store's generation. A store that
//!    falls behind either has lost acknowledged data: every effect is refused with `RolledBack`,
//!    for all clients, until an operator [`accept`](Store::accept)s the store as it is.
//! 7. A hint of [`Store::watch`] may come late, twice, or never. Whoever waits also polls.
//! 8. A page ends at its limit, or with the record by which its values come to [`MAX_PAGE_BYTES`],
//!    whichever is first, and says whether there is more. So it may be shorter than asked for, and
//!    is never empty while there is more.
//! 9. Lines that commits [append](Write::Append) to a [log] are kept in the order of revisions,
//!    each with its own. Once a line was read, no other will ever stand before it.

#[cfg(any(test, feature = "test-util"))]
pub mod conformance;
#[cfg(any(test, feature = "test-util"))]
pub mod faulty;
mod hint;
pub mod log;
pub mod memory;
mod open;
mod operation;
mod range;
#[cfg(feature = "redis")]
pub mod redis;
#[cfg(feature = "sqlite")]
pub mod sqlite;
pub(crate) mod time;
mod upkeep;
mod witness;

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::clock::Timestamp;
use crate::error::{Error, Result};

pub use hint::{Hint, Hints};
pub use open::{namespace_of, open};
pub use operation::Operation;
pub use range::{Order, Range};
pub use upkeep::{Footprint, Foreign, ForeignRule, ForeignSwept, Reclaimed, Upkeep, Volume};

/// The longest id of a key, in bytes.
pub const MAX_KEY_BYTES: usize = 1_024;
/// The largest value of a record, in bytes.
pub const MAX_VALUE_BYTES: usize = 8 * 1024 * 1024;
/// The most records that one page of a scan returns.
pub const MAX_PAGE: usize = 1_000;
/// A page ends with the record by which its values come to so many bytes. So a reader holds less
/// than this and one value, whatever is stored.
pub const MAX_PAGE_BYTES: usize = 4 * 1024 * 1024;

/// A part of the namespace with its own revision counter; a commit never spans two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition(pub u16);

impl Partition {
    /// The first, and by default the only one.
    pub const FIRST: Partition = Partition(0);

    /// The partition in which this entity lives.
    pub fn of(_entity: &str) -> Partition {
        Partition::FIRST
    }
}

/// A kind of record, or of index entry: the first part of its key. All kinds stand in
/// `docs/store.md`.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// By this alone kinds are told apart.
    name: &'static str,
    index: bool,
}

impl PartialEq for Kind {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Kind {}

impl PartialOrd for Kind {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Kind {
    fn cmp(&self, other: &Self) -> Ordering {
        self.name.cmp(other.name)
    }
}

impl Hash for Kind {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl Kind {
    /// A kind of record of this name: lowercase letters and hyphens.
    pub const fn new(name: &'static str) -> Self {
        Kind { name, index: false }
    }

    /// A kind of index entry: it has no records, so a store need not look for one.
    pub const fn index(name: &'static str) -> Self {
        Kind { name, index: true }
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        self.name
    }

    /// Whether it is one of index entries.
    pub const fn is_index(self) -> bool {
        self.index
    }
}

/// Where a record lives. Ordered by partition, kind, and the bytes of its id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The partition of the entity.
    pub partition: Partition,
    /// The kind of record.
    pub kind: Kind,
    /// What tells it from others of its kind.
    pub id: Box<str>,
}

impl Key {
    /// The key of a record of this kind.
    pub fn new(partition: Partition, kind: Kind, id: impl Into<Box<str>>) -> Self {
        Key { partition, kind, id: id.into() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.name, self.id)
    }
}

/// The number of a commit: grows without end within a partition. Also the fencing token of
/// whatever right that commit granted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(u64);

impl Revision {
    /// Before every commit.
    pub const ZERO: Revision = Revision(0);

    /// A revision by its number.
    pub const fn new(number: u64) -> Self {
        Revision(number)
    }

    /// Its number.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The store's time of that commit, or later: exact unless commits came faster than one a
    /// microsecond, or the store's clock was set back.
    pub const fn time(self) -> Timestamp {
        Timestamp::from_micros(self.0)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}", self.0)
    }
}

/// What is stored under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Where it lives.
    pub key: Key,
    /// Its content. Empty for an index entry ([`Write::Mark`]).
    pub value: Vec<u8>,
    /// The commit that put it. Zero for an index entry.
    pub revision: Revision,
    /// When it lapses, by the store's clock. The store itself never acts on it.
    pub deadline: Option<Timestamp>,
}

impl Record {
    /// Whether its deadline has passed at `now`. A record without one never lapses.
    pub fn lapsed(&self, now: Timestamp) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }
}

/// A right that a write is made under: the record is unchanged since `token`, and not lapsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    /// The record that grants the right.
    pub key: Key,
    /// The revision at which it was granted.
    pub token: Revision,
}

/// What must hold for a commit to be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Guard {
    /// There is no record.
    Absent(Key),
    /// The record is the one put at this revision.
    RevisionIs(Key, Revision),
    /// There is no record, or its deadline has passed.
    Lapsed(Key),
    /// The right is still held: same revision, deadline not passed.
    Held(Fence),
}

impl Guard {
    /// The key it looks at.
    pub fn key(&self) -> &Key {
        match self {
            Guard::Absent(key) | Guard::RevisionIs(key, _) | Guard::Lapsed(key) => key,
            Guard::Held(fence) => &fence.key,
        }
    }

    /// Whether it holds for the record that is there. The one definition, for every backend
    /// that is written in Rust.
    pub fn holds(&self, found: Option<&Record>, now: Timestamp) -> bool {
        match (self, found) {
            (Guard::Absent(_), found) => found.is_none(),
            (Guard::Lapsed(_), None) => true,
            (Guard::Lapsed(_), Some(record)) => record.lapsed(now),
            (Guard::RevisionIs(..) | Guard::Held(_), None) => false,
            (Guard::RevisionIs(_, revision), Some(record)) => record.revision == *revision,
            (Guard::Held(fence), Some(record)) => {
                record.revision == fence.token && !record.lapsed(now)
            }
        }
    }
}

/// When a record lapses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deadline {
    /// Never: unfinished work does not expire.
    Never,
    /// This long after the commit, by the store's clock.
    After(Duration),
}

/// One change of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Creates or replaces a record. The value is not empty.
    Put {
        /// Where.
        key: Key,
        /// What.
        value: Vec<u8>,
        /// Until when.
        deadline: Deadline,
    },
    /// Moves the deadline of a record and leaves its value and revision as they are, so that a
    /// lease keeps its fencing token. Does nothing if there is no record: guard it.
    Touch {
        /// Which record.
        key: Key,
        /// How long from now.
        ttl: Duration,
    },
    /// Removes a record or an index entry, if it is there.
    Delete {
        /// Which.
        key: Key,
    },
    /// Adds an index entry: a key without value, revision or deadline. Seen by scans only. Its kind
    /// is one [of index entries](Kind::index), which has no other write but this and `Delete`.
    Mark {
        /// The entry.
        key: Key,
    },
    /// Adds a line to a [log]. Two of them do not undo each other.
    Append {
        /// The log. There is no record of this key: lines stand in records behind it.
        key: Key,
        /// What it says: no newline.
        line: Vec<u8>,
    },
}

impl Write {
    /// The key it changes.
    pub fn key(&self) -> &Key {
        match self {
            Write::Put { key, .. }
            | Write::Touch { key, .. }
            | Write::Delete { key }
            | Write::Mark { key }
            | Write::Append { key, .. } => key,
        }
    }
}

/// Guards and writes that somebody else puts into a commit of their own: what must hold for them
/// to be right, and what they change. A conflict on one of these guards means that the world has
/// moved on, and whoever made them is asked again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Effects {
    /// What must hold.
    pub guards: Vec<Guard>,
    /// What to change.
    pub writes: Vec<Write>,
}

impl Effects {
    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.guards.is_empty() && self.writes.is_empty()
    }

    /// Both together. They must not write to the same key, unless they append: the later write would
    /// undo the earlier.
    #[must_use]
    pub fn join(mut self, other: Effects) -> Self {
        self.guards.extend(other.guards);
        self.writes.extend(other.writes);
        self
    }
}

/// Guards and writes that happen together or not at all. Cheap to clone; a clone is the same
/// commit and is applied once at most.
#[derive(Clone)]
pub struct Commit(Arc<CommitBody>);

/// What a [`Commit`] holds.
#[derive(Debug)]
pub struct CommitBody {
    /// Where all its keys live.
    pub partition: Partition,
    /// Its identity, by which a repetition is told from a new commit.
    pub operation: Operation,
    /// What must hold.
    pub guards: Vec<Guard>,
    /// What to change.
    pub writes: Vec<Write>,
    /// Whom to wake: watchers of these keys get a hint.
    pub hints: Vec<Key>,
}

impl Commit {
    /// A commit with its own new [`Operation`].
    ///
    /// # Errors
    /// `Invalid` if a key or value is over its limit, or a value is empty, or a key lies in
    /// another partition, or a kind does not hold what is written. Nothing was sent.
    pub fn new(
        partition: Partition,
        guards: Vec<Guard>,
        writes: Vec<Write>,
        hints: Vec<Key>,
    ) -> Result<Self> {
        for key in guards.iter().map(Guard::key).chain(writes.iter().map(Write::key)).chain(&hints)
        {
            check_key(key, partition)?;
        }
        for write in &writes {
            check_kind(write)?;
            if let Write::Put { key, value, .. } = write {
                check_value(key, value)?;
            }
        }
        log::check(&writes)?;
        let operation = Operation::begin();
        Ok(Commit(Arc::new(CommitBody { partition, operation, guards, writes, hints })))
    }
}

impl std::ops::Deref for Commit {
    type Target = CommitBody;
    fn deref(&self) -> &CommitBody {
        &self.0
    }
}

impl fmt::Debug for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

fn check_key(key: &Key, partition: Partition) -> Result<()> {
    if key.partition != partition {
        return Err(Error::invalid(format!("a commit spans partitions: {key}")));
    }
    if key.id.is_empty() || key.id.len() > MAX_KEY_BYTES {
        let length = key.id.len();
        return Err(Error::invalid(format!(
            "a key has 1 to {MAX_KEY_BYTES} bytes after its kind, this {} has {length}",
            key.kind.name()
        )));
    }
    Ok(())
}

/// A kind holds either records or index entries.
fn check_kind(write: &Write) -> Result<()> {
    let key = write.key();
    let fits = match write {
        Write::Delete { .. } => true,
        Write::Mark { .. } => key.kind.index,
        Write::Put { .. } | Write::Touch { .. } | Write::Append { .. } => !key.kind.index,
    };
    if fits {
        return Ok(());
    }
    let holds = if key.kind.index { "index entries" } else { "records" };
    let kind = key.kind.name;
    Err(Error::invalid(format!("{kind:?} is a kind of {holds}, and {key} would be another thing")))
}

fn check_value(key: &Key, value: &[u8]) -> Result<()> {
    if value.is_empty() || value.len() > MAX_VALUE_BYTES {
        let length = value.len();
        return Err(Error::invalid(format!(
            "a record has 1 to {MAX_VALUE_BYTES} bytes, {key} has {length}"
        )));
    }
    Ok(())
}

/// What became of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Applied, and durable.
    Committed {
        /// Its number; the fencing token of what it granted.
        revision: Revision,
        /// The store's time of it.
        now: Timestamp,
    },
    /// Not applied, because a guard did not hold.
    Conflict {
        /// Which guard: its place in the commit.
        guard: usize,
        /// The record that guard looked at, as it is.
        found: Option<Record>,
        /// The store's time.
        now: Timestamp,
    },
}

/// The answer to [`Store::get`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// For each key, in order, the record or nothing.
    pub records: Vec<Option<Record>>,
    /// The store's time.
    pub now: Timestamp,
}

/// The answer to [`Store::scan`] and [`Store::due`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The records, in order.
    pub records: Vec<Record>,
    /// Whether there are more behind the last one.
    pub more: bool,
    /// The store's time.
    pub now: Timestamp,
}

/// The answer to [`Store::ping`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pong {
    /// The store's time.
    pub now: Timestamp,
    /// The revision of the last commit in the first partition.
    pub revision: Revision,
    /// Settings that break a promise of `docs/semantics.md`, each with what to change.
    pub warnings: Vec<String>,
}

/// What a store is, in words fit for `lockbay doctor` and benchmarks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// `memory`, `sqlite`, `redis`.
    pub backend: &'static str,
    /// What is done before a commit is acknowledged, such as `full`.
    pub durability: String,
    /// Version of the engine.
    pub version: String,
}

/// A place that keeps records. See the [module](self) for the contract.
///
/// # Errors
/// Every method may fail with `Unavailable` (nothing was done), `RolledBack` (see the contract),
/// or `Internal`; `commit` also with `Unknown`.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Reads records of one partition, as they are at one moment. Index entries are not found.
    async fn get(&self, keys: &[Key]) -> Result<Read>;

    /// Reads a page of at most `limit` records in the order of the range, `limit` capped at [`MAX_PAGE`] and
    /// the whole at [`MAX_PAGE_BYTES`].
    async fn scan(&self, range: &Range, limit: usize) -> Result<Page>;

    /// Reads at most `limit` records of a kind whose deadline has passed, the longest passed first,
    /// capped as a [`scan`](Store::scan) is.
    async fn due(&self, partition: Partition, kind: Kind, limit: usize) -> Result<Page>;

    /// Applies a commit, or says which guard did not hold and what is there instead.
    async fn commit(&self, commit: &Commit) -> Result<Reply>;

    /// Several independent commits, each with its own answer, in one round trip where the backend
    /// can.
    async fn commit_all(&self, commits: &[Commit]) -> Vec<Result<Reply>> {
        futures_util::future::join_all(commits.iter().map(|commit| self.commit(commit))).await
    }

    /// Hints about keys in this range. Subscribed when it returns; see [`Hints`].
    async fn watch(&self, range: &Range) -> Result<Hints>;

    /// One round trip that proves the store answers, with what is wrong with its settings.
    async fn ping(&self) -> Result<Pong>;

    /// What it is.
    fn describe(&self) -> Description;

    /// For whoever cleans up: what it occupies, and how space is given back.
    fn upkeep(&self) -> &dyn Upkeep;

    /// An operator accepts the store as it is, after it was found rolled back: a new generation
    /// begins, revisions go on above every one that any client reported, and effects resume.
    /// Harmless when nothing was wrong.
    async fn accept(&self) -> Result<()>;

    /// Finishes what was sent and lets go of files and connections. Later calls are `Unavailable`.
    async fn close(&self);
}
