//! The store in memory: the oracle that other backends are compared with, and a store for tests.
//!
//! Several clients may share one [`Memory`], as processes share a server. Nothing survives the
//! process. It can be emptied or set back to an earlier [`Snapshot`], which is how tests lose data.

use std::collections::{BTreeMap, btree_map};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use parking_lot::Mutex;

use super::hint::Hub;
use super::log;
use super::operation::{Answers, Seen, straggler};
use super::range::End;
use super::witness::{Standing, Verdict, Witness};
use super::{
    Commit, Deadline, Description, Footprint, Foreign, Hints, Key, Kind, MAX_PAGE, MAX_PAGE_BYTES,
    Order, Page, Partition, Pong, Range, Read, Reclaimed, Record, Reply, Revision, Store, Upkeep,
    Write,
};
use crate::clock::{Clock, Timestamp};
use crate::error::{Error, ErrorKind, Result};

/// What the clients of a [`MemoryStore`] share.
#[derive(Debug)]
pub struct Memory {
    clock: Clock,
    spaces: Mutex<BTreeMap<Partition, Space>>,
    hub: Hub,
}

/// One partition.
#[derive(Debug, Clone)]
struct Space {
    standing: Standing,
    /// Each kind by itself, as a store has many and a scan goes through one.
    records: BTreeMap<Kind, Slots>,
    answers: Arc<Mutex<Answers<Reply>>>,
}

type Slots = BTreeMap<Key, Slot>;

#[derive(Debug, Clone)]
enum Slot {
    Record(Record),
    Mark,
}

/// The content of a [`Memory`] at some moment.
#[derive(Debug, Clone)]
pub struct Snapshot(BTreeMap<Partition, Space>);

impl Snapshot {
    /// Every record in it, of every kind. Index entries have none.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        let slots = self.0.values().flat_map(Space::slots);
        slots.filter_map(|(_, slot)| slot.record())
    }

    /// Puts a record as it is, in the place of what is there: for tests that tamper with a store.
    pub fn put(&mut self, record: Record) {
        if let Some(space) = self.0.get_mut(&record.key.partition) {
            space.put(record.key.clone(), Slot::Record(record));
        }
    }

    /// Removes a record, as above.
    pub fn remove(&mut self, key: &Key) {
        if let Some(space) = self.0.get_mut(&key.partition) {
            space.remove(key);
        }
    }

    /// Every key in it, of records and of index entries.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.0.values().flat_map(Space::slots).map(|(key, _)| key)
    }
}

impl Memory {
    /// An empty one that tells the time by this clock.
    pub fn new(clock: Clock) -> Arc<Self> {
        Arc::new(Memory { clock, spaces: Mutex::default(), hub: Hub::default() })
    }

    /// A client of it, with its own memory of what it has seen.
    pub fn client(self: &Arc<Self>) -> MemoryStore {
        MemoryStore {
            memory: Arc::clone(self),
            witness: Witness::default(),
            closed: AtomicBool::new(false),
        }
    }

    /// Its content now.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot(self.spaces.lock().clone())
    }

    /// Sets it back, as an operator does who restores an old backup.
    pub fn restore(&self, snapshot: &Snapshot) {
        *self.spaces.lock() = snapshot.0.clone();
    }

    /// Empties it, counters included.
    pub fn clear(&self) {
        self.spaces.lock().clear();
    }
}

/// A client of a [`Memory`].
#[derive(Debug)]
pub struct MemoryStore {
    memory: Arc<Memory>,
    witness: Witness,
    closed: AtomicBool,
}

impl MemoryStore {
    /// A store of its own.
    pub fn new(clock: Clock) -> Self {
        Memory::new(clock).client()
    }

    fn with<T>(
        &self,
        partition: Partition,
        act: impl FnOnce(&mut Space, Timestamp) -> Result<T>,
    ) -> Result<T> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::new(ErrorKind::Unavailable, "the store is closed"));
        }
        let now = self.memory.clock.now();
        let mut spaces = self.memory.spaces.lock();
        let space = spaces.entry(partition).or_insert_with(|| Space {
            standing: Standing {
                generation: self.memory.clock.random_id(),
                revision: Revision::ZERO,
                accepted: false,
                halted: None,
            },
            records: BTreeMap::new(),
            answers: Arc::default(),
        });
        act(space, now)
    }

    /// Refuses, and halts everybody, if the store has lost what this client has seen.
    fn check(&self, partition: Partition, space: &mut Space) -> Result<()> {
        let verdict = self.witness.judge(partition, &space.standing);
        if let Verdict::RolledBack(reason) = &verdict {
            space.standing.halted.get_or_insert_with(|| reason.clone());
            space.standing.revision = space.standing.revision.max(self.witness.floor(partition));
        }
        verdict.into_error().map_or(Ok(()), Err)
    }
}

impl Slot {
    fn record(&self) -> Option<&Record> {
        match self {
            Slot::Record(record) => Some(record),
            Slot::Mark => None,
        }
    }
}

impl Space {
    fn slot(&self, key: &Key) -> Option<(&Key, &Slot)> {
        self.records.get(&key.kind)?.get_key_value(key)
    }

    fn record(&self, key: &Key) -> Option<&Record> {
        self.slot(key)?.1.record()
    }

    fn slots(&self) -> impl Iterator<Item = (&Key, &Slot)> {
        self.records.values().flatten()
    }

    fn put(&mut self, key: Key, slot: Slot) {
        self.records.entry(key.kind).or_default().insert(key, slot);
    }

    fn remove(&mut self, key: &Key) {
        self.records.get_mut(&key.kind).and_then(|slots| slots.remove(key));
    }

    /// What is in a range, the least first.
    fn within(&self, range: &Range) -> Option<btree_map::Range<'_, Key, Slot>> {
        let key = |id: String| Key::new(range.partition, range.kind, id);
        let (first, end) = range.bounds();
        let first = key(first);
        let end = match end {
            End::Before(id) => Bound::Excluded(key(id)),
            End::Nowhere => Bound::Unbounded,
        };
        // Such bounds are refused, and hold nothing.
        let is_empty = matches!(&end, Bound::Excluded(end) if *end < first);
        let slots = self.records.get(&range.kind).filter(|_| !is_empty)?;
        Some(slots.range((Bound::Included(first), end)))
    }

    fn apply(&mut self, write: &Write, revision: Revision, now: Timestamp) {
        match write {
            Write::Put { key, value, deadline } => {
                let deadline = match deadline {
                    Deadline::Never => None,
                    Deadline::After(ttl) => Some(now + *ttl),
                };
                let record = Record { key: key.clone(), value: value.clone(), revision, deadline };
                self.put(key.clone(), Slot::Record(record));
            }
            Write::Touch { key, ttl } => {
                let slots = self.records.get_mut(&key.kind);
                if let Some(Slot::Record(record)) = slots.and_then(|slots| slots.get_mut(key)) {
                    record.deadline = Some(now + *ttl);
                }
            }
            Write::Delete { key } => {
                self.remove(key);
            }
            Write::Mark { key } => {
                self.put(key.clone(), Slot::Mark);
            }
            Write::Append { key, line } => {
                let key = log::record_key(key, revision);
                let slots = self.records.entry(key.kind).or_default();
                let slot = slots.entry(key.clone()).or_insert_with(|| {
                    Slot::Record(Record { key, value: Vec::new(), revision, deadline: None })
                });
                if let Slot::Record(record) = slot {
                    log::append(&mut record.value, revision, line);
                }
            }
        }
    }
}

/// About what a key occupies: its id, and of a record its value and two numbers.
fn weight(key: &Key, slot: &Slot) -> u64 {
    let content = match slot {
        Slot::Record(record) => record.value.len() + 16,
        Slot::Mark => 0,
    };
    (key.id.len() + content) as u64
}

/// The first of these records that fit on a page.
fn page(all: impl Iterator<Item = Record>, limit: usize, now: Timestamp) -> Page {
    let (mut all, mut records, mut bytes) = (all, Vec::new(), 0);
    while records.len() < limit && bytes < MAX_PAGE_BYTES {
        let Some(record) = all.next() else { break };
        bytes += record.value.len();
        records.push(record);
    }
    Page { more: all.next().is_some(), records, now }
}

#[async_trait]
impl Store for MemoryStore {
    async fn get(&self, keys: &[Key]) -> Result<Read> {
        let partition = keys.first().map_or(Partition::FIRST, |key| key.partition);
        self.with(partition, |space, now| {
            let records = keys.iter().map(|key| space.record(key).cloned()).collect();
            Ok(Read { records, now })
        })
    }

    async fn scan(&self, range: &Range, limit: usize) -> Result<Page> {
        let limit = limit.clamp(1, MAX_PAGE);
        self.with(range.partition, |space, now| {
            let found = space.within(range).into_iter().flatten();
            let found: Box<dyn Iterator<Item = _> + '_> = match range.order {
                Order::Forwards => Box::new(found),
                Order::Backwards => Box::new(found.rev()),
            };
            let records = found.map(|(key, slot)| match slot {
                Slot::Record(record) => record.clone(),
                Slot::Mark => Record {
                    key: key.clone(),
                    value: Vec::new(),
                    revision: Revision::ZERO,
                    deadline: None,
                },
            });
            Ok(page(records, limit, now))
        })
    }

    async fn due(&self, partition: Partition, kind: Kind, limit: usize) -> Result<Page> {
        let limit = limit.clamp(1, MAX_PAGE);
        self.with(partition, |space, now| {
            let slots = space.records.get(&kind).into_iter().flat_map(BTreeMap::values);
            let records = slots.filter_map(Slot::record);
            let mut due: Vec<&Record> = records.filter(|record| record.lapsed(now)).collect();
            due.sort_by(|a, b| (a.deadline, &a.key).cmp(&(b.deadline, &b.key)));
            Ok(page(due.into_iter().cloned(), limit, now))
        })
    }

    async fn commit(&self, commit: &Commit) -> Result<Reply> {
        let partition = commit.partition;
        let reply = self.with(partition, |space, now| {
            self.check(partition, space)?;
            let answers = Arc::clone(&space.answers);
            let mut answers = answers.lock();
            match answers.look(&commit.operation) {
                Seen::New => {}
                Seen::Repeated(reply) => return Ok(reply),
                Seen::Straggler => return Err(straggler()),
            }
            for (at, guard) in commit.guards.iter().enumerate() {
                let found = space.record(guard.key());
                if !guard.holds(found, now) {
                    return Ok(Reply::Conflict { guard: at, found: found.cloned(), now });
                }
            }
            let last = space.standing.revision.number();
            let revision = Revision::new((last + 1).max(now.as_micros()));
            for write in &commit.writes {
                space.apply(write, revision, now);
            }
            space.standing.revision = revision;
            self.witness.acknowledge(partition, revision);
            let reply = Reply::Committed { revision, now };
            answers.remember(&commit.operation, reply.clone());
            Ok(reply)
        })?;
        if matches!(reply, Reply::Committed { .. }) {
            commit.hints.iter().for_each(|key| self.memory.hub.tell(key));
        }
        Ok(reply)
    }

    async fn watch(&self, range: &Range) -> Result<Hints> {
        Ok(self.memory.hub.watch(range, None))
    }

    async fn ping(&self) -> Result<Pong> {
        self.with(Partition::FIRST, |space, now| {
            self.check(Partition::FIRST, space)?;
            Ok(Pong { now, revision: space.standing.revision, warnings: Vec::new() })
        })
    }

    fn upkeep(&self) -> &dyn Upkeep {
        self
    }

    fn describe(&self) -> Description {
        Description {
            backend: "memory",
            durability: "none".into(),
            version: env!("CARGO_PKG_VERSION").into(),
        }
    }

    async fn accept(&self) -> Result<()> {
        let now = self.memory.clock.now();
        let generation = self.memory.clock.random_id();
        self.with(Partition::FIRST, |_, _| Ok(()))?;
        for space in self.memory.spaces.lock().values_mut() {
            let last = space.standing.revision.number();
            space.standing = Standing {
                generation: generation.clone(),
                revision: Revision::new((last + 1).max(now.as_micros())),
                accepted: true,
                halted: None,
            };
        }
        Ok(())
    }

    async fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }
}

#[async_trait]
impl Upkeep for MemoryStore {
    async fn count(&self, partition: Partition, kind: Kind) -> Result<u64> {
        self.with(
            partition,
            |space, _| Ok(space.records.get(&kind).map_or(0, BTreeMap::len) as u64),
        )
    }

    async fn weigh(&self, keys: &[Key]) -> Result<u64> {
        let partition = keys.first().map_or(Partition::FIRST, |key| key.partition);
        self.with(partition, |space, _| {
            let found = keys.iter().filter_map(|key| space.slot(key));
            Ok(found.map(|(key, slot)| weight(key, slot)).sum())
        })
    }

    async fn footprint(&self) -> Result<Footprint> {
        self.with(Partition::FIRST, |_, _| Ok(()))?;
        let spaces = self.memory.spaces.lock();
        let slots = spaces.values().flat_map(Space::slots);
        let used_bytes = slots.map(|(key, slot)| weight(key, slot)).sum();
        Ok(Footprint { used_bytes, free_bytes: 0 })
    }

    async fn reclaim(&self) -> Result<Reclaimed> {
        Ok(Reclaimed::default())
    }

    fn foreign(&self) -> Option<&dyn Foreign> {
        None
    }
}
