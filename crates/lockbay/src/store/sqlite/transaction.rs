//! What happens inside one transaction: guards, writes, and the standing of the store.
//!
//! It works on a connection whose transaction somebody else has begun and will commit. A commit
//! checks all its guards before its first write, so one that is refused has written nothing and
//! needs no savepoint. An error here is SQLite's, and dooms the whole transaction.

use rusqlite::{CachedStatement, Connection, OptionalExtension, params};

use super::queue::Job;
use super::{Shared, integer, reader};
use crate::clock::Timestamp;
use crate::error::{Error, Result};
use crate::store::operation::{self, Answers, straggler};
use crate::store::witness::{Standing, Verdict};
use crate::store::{Commit, Deadline, Guard, Key, Partition, Pong, Record, Reply, Revision, Write};

// NOT INDEXED: a record is found by its number. If SQLite looked at the index of what is due as well,
// which covers a part of the table, it would prepare the statement anew for each key.
const FIND: &str = "SELECT record, own_revision, coalesce(own_revision, revision), deadline \
     FROM key LEFT JOIN record NOT INDEXED ON number = record \
     WHERE key.space = ?1 AND key.kind = ?2 AND key.id = ?3";
const VALUE: &str = "SELECT coalesce(own_value, value) FROM key \
     LEFT JOIN record NOT INDEXED ON number = record \
     WHERE key.space = ?1 AND key.kind = ?2 AND key.id = ?3";
const LOCATE: &str =
    "SELECT record, own_revision FROM key WHERE space = ?1 AND kind = ?2 AND id = ?3";
const SET_KEY: &str = "INSERT INTO key (space, kind, id, record) VALUES (?1, ?2, ?3, ?4) \
     ON CONFLICT DO UPDATE SET record = excluded.record, own_revision = NULL, own_value = NULL";
const SET_OWN: &str = "INSERT INTO key (space, kind, id, own_revision, own_value) \
     VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO UPDATE SET record = NULL, \
     own_revision = excluded.own_revision, own_value = excluded.own_value";
const ADD_OWN: &str = "INSERT INTO key (space, kind, id, own_revision, own_value) \
     VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO NOTHING";
const MARK: &str = "INSERT INTO key (space, kind, id) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING";
const DELETE_KEY: &str = "DELETE FROM key WHERE space = ?1 AND kind = ?2 AND id = ?3";
/// Of an index entry, and of a key with its record beside it.
const DELETE_ALONE: &str =
    "DELETE FROM key WHERE space = ?1 AND kind = ?2 AND id = ?3 AND record IS NULL";
const ADD: &str = "INSERT INTO record (space, kind, id, revision, deadline, value) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
const CHANGE: &str = "UPDATE record SET revision = ?2, deadline = ?3, value = ?4 WHERE number = ?1";
const TOUCH: &str = "UPDATE record SET deadline = ?2 WHERE number = ?1";
const DELETE: &str = "DELETE FROM record WHERE number = ?1";
const SPACE: &str = "SELECT id, generation, revision, accepted, halted FROM space \
     WHERE namespace = ?1 AND partition = ?2";
const NEW_SPACE: &str = "INSERT INTO space (namespace, partition, generation, revision, accepted) \
     VALUES (?1, ?2, ?3, 0, 0)";
const KEEP_REVISION: &str = "UPDATE space SET revision = max(revision, ?2) WHERE id = ?1";
const HALT: &str =
    "UPDATE space SET halted = coalesce(halted, ?2), revision = max(revision, ?3) WHERE id = ?1";
const ACCEPT: &str =
    "UPDATE space SET generation = ?2, revision = ?3, accepted = 1, halted = NULL WHERE id = ?1";
const PARTITIONS: &str = "SELECT partition FROM space WHERE namespace = ?1";

/// The largest value that may stand beside its key. A row of about twice as many bytes would no
/// longer fit the pages of keys.
const MAX_OWN_BYTES: usize = 768;

/// What became of one job.
#[derive(Debug)]
pub(super) enum Outcome {
    Reply(Result<Reply>),
    Pong(Result<Pong>),
    Accepted,
}

/// What a transaction did.
#[derive(Debug)]
pub(super) struct Applied {
    /// For each job, in order.
    pub(super) outcomes: Vec<Outcome>,
    /// The partitions it touched.
    pub(super) spaces: Vec<Space>,
    /// Whether a new generation began.
    pub(super) accepted: bool,
}

impl Applied {
    /// Whether there is anything to lose.
    pub(super) fn wrote(&self) -> bool {
        self.accepted || self.spaces.iter().any(|space| space.changed)
    }

    /// Writes back the revisions that were given out, and returns in how many partitions.
    pub(super) fn keep_revisions(&self, connection: &Connection) -> rusqlite::Result<usize> {
        let mut kept = 0;
        let mut keep = connection.prepare_cached(KEEP_REVISION)?;
        for space in self.spaces.iter().filter(|space| space.changed) {
            kept += keep.execute(params![space.id, integer(space.last)])?;
        }
        Ok(kept)
    }
}

/// A partition, as this transaction found it and moves it on.
#[derive(Debug)]
pub(super) struct Space {
    pub(super) partition: Partition,
    pub(super) generation: String,
    id: i64,
    last: u64,
    changed: bool,
    verdict: Verdict,
}

impl Space {
    /// Whether effects are allowed.
    pub(super) fn fine(&self) -> bool {
        self.verdict == Verdict::Fine
    }

    /// The last revision given out.
    pub(super) fn revision(&self) -> Revision {
        Revision::new(self.last)
    }

    /// What an operator has just accepted.
    pub(super) fn accepted(&self) -> Standing {
        let (generation, revision) = (self.generation.clone(), self.revision());
        Standing { generation, revision, accepted: true, halted: None }
    }

    fn refusal(&self) -> Option<Error> {
        self.verdict.clone().into_error()
    }
}

/// Applies a batch. The caller has begun the transaction, and commits it.
pub(super) fn apply(
    connection: &Connection,
    shared: &Shared,
    answers: &Answers<Reply>,
    batch: &[Job],
) -> rusqlite::Result<Applied> {
    let mut transaction = Transaction::new(connection, shared)?;
    let mut accepted = false;
    let mut outcomes = Vec::with_capacity(batch.len());
    for job in batch {
        outcomes.push(match job {
            Job::Commit(commit, _) => Outcome::Reply(transaction.commit(commit, answers)?),
            Job::Ping(_) => Outcome::Pong(transaction.ping()?),
            Job::Accept(_) => {
                transaction.accept()?;
                accepted = true;
                Outcome::Accepted
            }
        });
    }
    let applied = Applied { outcomes, spaces: transaction.spaces, accepted };
    applied.keep_revisions(connection)?;
    Ok(applied)
}

/// Looks at these partitions, and halts effects where data was lost.
pub(super) fn judge(
    connection: &Connection,
    shared: &Shared,
    partitions: &[Partition],
) -> rusqlite::Result<Applied> {
    let mut transaction = Transaction::new(connection, shared)?;
    for partition in partitions {
        transaction.space(*partition)?;
    }
    Ok(Applied { outcomes: Vec::new(), spaces: transaction.spaces, accepted: false })
}

struct Transaction<'a> {
    connection: &'a Connection,
    shared: &'a Shared,
    now: Timestamp,
    spaces: Vec<Space>,
    /// What was applied in this transaction: remembered for good only when it has committed.
    fresh: Answers<Reply>,
    statements: Statements<'a>,
}

impl<'a> Transaction<'a> {
    fn new(connection: &'a Connection, shared: &'a Shared) -> rusqlite::Result<Self> {
        Ok(Transaction {
            connection,
            shared,
            now: shared.clock.now(),
            spaces: Vec::new(),
            fresh: Answers::default(),
            statements: Statements::prepare(connection)?,
        })
    }

    /// The place of a partition in `spaces`: read, judged, and made if it is not there.
    fn space(&mut self, partition: Partition) -> rusqlite::Result<usize> {
        if let Some(at) = self.spaces.iter().position(|space| space.partition == partition) {
            return Ok(at);
        }
        let (id, standing) = match self.standing(partition)? {
            Some(found) => found,
            None => self.create(partition)?,
        };
        let mut last = standing.revision.number();
        let verdict = self.shared.witness.judge(partition, &standing);
        if let Verdict::RolledBack(reason) = &verdict {
            // Revisions go on above all that we have seen, for those who do not ask us.
            let floor = self.shared.witness.floor(partition).number();
            if standing.halted.is_none() || last < floor {
                tracing::error!(reason, "store rolled back");
                self.connection.execute(HALT, params![id, reason, integer(floor)])?;
                last = last.max(floor);
            }
        }
        let generation = standing.generation;
        self.spaces.push(Space { partition, generation, id, last, changed: false, verdict });
        Ok(self.spaces.len() - 1)
    }

    fn standing(&self, partition: Partition) -> rusqlite::Result<Option<(i64, Standing)>> {
        let mut find = self.connection.prepare_cached(SPACE)?;
        find.query_row(params![self.shared.namespace, partition.0], |row| {
            let revision: i64 = row.get(2)?;
            Ok((
                row.get(0)?,
                Standing {
                    generation: row.get(1)?,
                    revision: Revision::new(u64::try_from(revision).unwrap_or(0)),
                    accepted: row.get(3)?,
                    halted: row.get(4)?,
                },
            ))
        })
        .optional()
    }

    fn create(&self, partition: Partition) -> rusqlite::Result<(i64, Standing)> {
        let generation = self.shared.clock.random_id();
        self.connection
            .execute(NEW_SPACE, params![self.shared.namespace, partition.0, generation])?;
        let revision = Revision::ZERO;
        let standing = Standing { generation, revision, accepted: false, halted: None };
        Ok((self.connection.last_insert_rowid(), standing))
    }

    fn commit(
        &mut self,
        commit: &Commit,
        answers: &Answers<Reply>,
    ) -> rusqlite::Result<Result<Reply>> {
        let at = self.space(commit.partition)?;
        let space = &mut self.spaces[at];
        if let Some(refusal) = space.refusal() {
            return Ok(Err(refusal));
        }
        for known in [answers, &self.fresh] {
            match known.look(&commit.operation) {
                operation::Seen::New => {}
                operation::Seen::Repeated(reply) => return Ok(Ok(reply)),
                operation::Seen::Straggler => return Ok(Err(straggler())),
            }
        }
        let now = self.now;
        let new_record = new_record(commit);
        let (guards, last_guard) = match (&new_record, commit.guards.split_last()) {
            (Some(_), Some((last, others))) => (others, Some(last)),
            (Some(_) | None, _) => (commit.guards.as_slice(), None),
        };
        let mut places = Vec::with_capacity(guards.len());
        for (guard_place, guard) in guards.iter().enumerate() {
            match self.statements.check(space.id, guard, now)? {
                Checked::Holds(place) => places.push((guard.key(), place)),
                Checked::Refused(found) => {
                    return Ok(Ok(Reply::Conflict { guard: guard_place, found, now }));
                }
            }
        }
        let revision = Revision::new((space.last + 1).max(now.as_micros()));
        let mut writes = commit.writes.as_slice();
        if let (Some((key, value)), Some(guard)) = (new_record, last_guard) {
            // Checked and written at once. If it is not new, nothing has been written yet.
            if self.statements.add_own(space.id, key, value, revision)? {
                writes = &writes[1..];
            } else if let Checked::Refused(found) = self.statements.check(space.id, guard, now)? {
                return Ok(Ok(Reply::Conflict { guard: guards.len(), found, now }));
            }
        }
        space.last = revision.number();
        space.changed = true;
        for write in writes {
            // What a guard has found holds until the first write of that key.
            let known = places.iter().position(|(key, _)| *key == write.key());
            let known = known.map(|at| places.swap_remove(at).1);
            self.statements.write(space.id, write, known, revision, now)?;
        }
        let reply = Reply::Committed { revision, now };
        self.fresh.remember(&commit.operation, reply.clone());
        Ok(Ok(reply))
    }

    fn ping(&mut self) -> rusqlite::Result<Result<Pong>> {
        let at = self.space(Partition::FIRST)?;
        let space = &self.spaces[at];
        Ok(match space.refusal() {
            Some(refusal) => Err(refusal),
            None => Ok(Pong { now: self.now, revision: space.revision(), warnings: Vec::new() }),
        })
    }

    /// Begins a new generation in every partition of the namespace.
    fn accept(&mut self) -> rusqlite::Result<()> {
        let generation = self.shared.clock.random_id();
        self.space(Partition::FIRST)?;
        let partitions: Vec<u16> = self
            .connection
            .prepare_cached(PARTITIONS)?
            .query_map([&self.shared.namespace], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        for partition in partitions.into_iter().map(Partition) {
            let at = self.space(partition)?;
            let space = &mut self.spaces[at];
            let above = space.last.max(self.shared.witness.floor(partition).number());
            space.last = (above + 1).max(self.now.as_micros());
            space.generation.clone_from(&generation);
            space.changed = true;
            self.connection.execute(ACCEPT, params![space.id, generation, integer(space.last)])?;
            // The witness is told when this has committed.
            space.verdict = Verdict::Fine;
        }
        Ok(())
    }
}

/// The first write of a commit, if it may stand beside its key and the last guard asks that there
/// is nothing under that key: then one statement does both.
fn new_record(commit: &Commit) -> Option<(&Key, &[u8])> {
    match (commit.guards.last(), commit.writes.first()) {
        (Some(Guard::Absent(absent)), Some(Write::Put { key, value, deadline }))
            if key == absent && may_be_own(key, value, *deadline) =>
        {
            Some((key, value))
        }
        (Some(_) | None, _) => None,
    }
}

/// Whether a record may stand beside its key.
fn may_be_own(key: &Key, value: &[u8], deadline: Deadline) -> bool {
    deadline == Deadline::Never && key.kind.comes_in_order() && value.len() <= MAX_OWN_BYTES
}

/// What a guard says to a commit.
enum Checked {
    Holds(Place),
    Refused(Option<Record>),
}

/// Where what belongs to a key is.
#[derive(Clone, Copy)]
enum Place {
    Nowhere,
    /// It is an index entry, and has no record.
    Entry,
    /// Its record stands beside it.
    Own,
    Record(i64),
}

impl Place {
    /// Of a key that is there: its first two columns are the number of its record and the revision
    /// of its own.
    fn of(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        Ok(match (row.get(0)?, row.get::<_, Option<i64>>(1)?) {
            (Some(number), _) => Place::Record(number),
            (None, Some(_)) => Place::Own,
            (None, None) => Place::Entry,
        })
    }

    /// Whether there is a record.
    fn has_record(&self) -> bool {
        matches!(self, Place::Own | Place::Record(_))
    }
}

/// A record as a guard has found it.
struct Seen {
    space: i64,
    key: Key,
    place: Place,
    revision: Revision,
    deadline: Option<Timestamp>,
}

/// The statements of a transaction, prepared once for all its commits.
struct Statements<'c> {
    connection: &'c Connection,
    /// The record that a guard was last checked on, unless it was written since: an executor guards
    /// commit after commit by the same one.
    last_guarded: Option<Seen>,
    find: CachedStatement<'c>,
    value: CachedStatement<'c>,
    locate: CachedStatement<'c>,
    set_key: CachedStatement<'c>,
    set_own: CachedStatement<'c>,
    add_own: CachedStatement<'c>,
    mark: CachedStatement<'c>,
    delete_key: CachedStatement<'c>,
    delete_alone: CachedStatement<'c>,
    add: CachedStatement<'c>,
    change: CachedStatement<'c>,
    touch: CachedStatement<'c>,
    delete: CachedStatement<'c>,
}

impl<'c> Statements<'c> {
    fn prepare(connection: &'c Connection) -> rusqlite::Result<Self> {
        Ok(Statements {
            connection,
            last_guarded: None,
            find: connection.prepare_cached(FIND)?,
            value: connection.prepare_cached(VALUE)?,
            locate: connection.prepare_cached(LOCATE)?,
            set_key: connection.prepare_cached(SET_KEY)?,
            set_own: connection.prepare_cached(SET_OWN)?,
            add_own: connection.prepare_cached(ADD_OWN)?,
            mark: connection.prepare_cached(MARK)?,
            delete_key: connection.prepare_cached(DELETE_KEY)?,
            delete_alone: connection.prepare_cached(DELETE_ALONE)?,
            add: connection.prepare_cached(ADD)?,
            change: connection.prepare_cached(CHANGE)?,
            touch: connection.prepare_cached(TOUCH)?,
            delete: connection.prepare_cached(DELETE)?,
        })
    }

    fn check(&mut self, space: i64, guard: &Guard, now: Timestamp) -> rusqlite::Result<Checked> {
        let key = guard.key();
        if let Some(seen) = &self.last_guarded
            && seen.space == space
            && seen.key == *key
        {
            let (revision, deadline) = (seen.revision, seen.deadline);
            let record = Record { key: key.clone(), value: Vec::new(), revision, deadline };
            if guard.holds(Some(&record), now) {
                return Ok(Checked::Holds(seen.place));
            }
        }
        let mut rows = self.find.query(params![space, key.kind.name(), &*key.id])?;
        let row = rows.next()?;
        let place = row.map_or(Ok(Place::Nowhere), Place::of)?;
        let Some(row) = row.filter(|_| place.has_record()) else {
            let holds = guard.holds(None, now);
            return Ok(if holds { Checked::Holds(place) } else { Checked::Refused(None) });
        };
        let (revision, deadline) = reader::stamps(row, 2)?;
        // No guard looks at the value; it is read only to be shown.
        let mut record = Record { key: key.clone(), value: Vec::new(), revision, deadline };
        if guard.holds(Some(&record), now) {
            self.last_guarded = Some(Seen { space, key: record.key, place, revision, deadline });
            return Ok(Checked::Holds(place));
        }
        drop(rows);
        record.value =
            self.value.query_row(params![space, key.kind.name(), &*key.id], |row| row.get(0))?;
        Ok(Checked::Refused(Some(record)))
    }

    fn locate(&mut self, space: i64, key: &Key) -> rusqlite::Result<Place> {
        let mut rows = self.locate.query(params![space, key.kind.name(), &*key.id])?;
        rows.next()?.map_or(Ok(Place::Nowhere), Place::of)
    }

    /// Does one write, on a key of which `known` may already tell where it leads.
    fn write(
        &mut self,
        space: i64,
        write: &Write,
        known: Option<Place>,
        revision: Revision,
        now: Timestamp,
    ) -> rusqlite::Result<()> {
        let key = write.key();
        if self.last_guarded.as_ref().is_some_and(|seen| seen.space == space && seen.key == *key) {
            self.last_guarded = None;
        }
        let (kind, id) = (key.kind.name(), &*key.id);
        match write {
            Write::Put { value, deadline, .. } => {
                let place = known.map_or_else(|| self.locate(space, key), Ok)?;
                let own = may_be_own(key, value, *deadline) && !matches!(place, Place::Record(_));
                let number = integer(revision.number());
                if own {
                    self.set_own.execute(params![space, kind, id, number, value])?;
                    return Ok(());
                }
                let deadline = match deadline {
                    Deadline::Never => None,
                    Deadline::After(ttl) => Some(now + *ttl),
                };
                self.put(space, key, place, revision, deadline, value)?;
            }
            Write::Touch { ttl, .. } => {
                match known.map_or_else(|| self.locate(space, key), Ok)? {
                    Place::Nowhere | Place::Entry => {}
                    Place::Record(number) => {
                        let deadline = integer((now + *ttl).as_micros());
                        self.touch.execute(params![number, deadline])?;
                    }
                    // Beside its key it has no deadline.
                    Place::Own => self.move_out(space, key, now + *ttl)?,
                }
            }
            Write::Delete { .. } => {
                if self.delete_alone.execute(params![space, kind, id])? > 0 {
                    return Ok(());
                }
                if let Place::Record(number) = self.locate(space, key)? {
                    self.delete_key.execute(params![space, kind, id])?;
                    self.delete.execute([number])?;
                }
            }
            Write::Mark { .. } => {
                if self.mark.execute(params![space, kind, id])? > 0 {
                    return Ok(());
                }
                let place = self.locate(space, key)?;
                if let Place::Record(number) = place {
                    self.delete.execute([number])?;
                }
                if place.has_record() {
                    self.set_key.execute(params![space, kind, id, None::<i64>])?;
                }
            }
        }
        Ok(())
    }

    /// Adds a record beside its key, and says whether it did: not if the key is there.
    fn add_own(
        &mut self,
        space: i64,
        key: &Key,
        value: &[u8],
        revision: Revision,
    ) -> rusqlite::Result<bool> {
        let number = integer(revision.number());
        let row = params![space, key.kind.name(), &*key.id, number, value];
        Ok(self.add_own.execute(row)? > 0)
    }

    /// Puts a record into the table of records.
    fn put(
        &mut self,
        space: i64,
        key: &Key,
        place: Place,
        revision: Revision,
        deadline: Option<Timestamp>,
        value: &[u8],
    ) -> rusqlite::Result<()> {
        let (kind, id, revision) = (key.kind.name(), &*key.id, integer(revision.number()));
        let deadline = deadline.map(|deadline| integer(deadline.as_micros()));
        if let Place::Record(number) = place
            && self.change.execute(params![number, revision, deadline, value])? > 0
        {
            return Ok(());
        }
        self.add.execute(params![space, kind, id, revision, deadline, value])?;
        let number = self.connection.last_insert_rowid();
        self.set_key.execute(params![space, kind, id, number])?;
        Ok(())
    }

    /// Moves a record from beside its key into the table of records, as it is, with a deadline.
    fn move_out(&mut self, space: i64, key: &Key, deadline: Timestamp) -> rusqlite::Result<()> {
        let place = params![space, key.kind.name(), &*key.id];
        let revision: i64 = self.locate.query_row(place, |row| row.get(1))?;
        let value: Vec<u8> = self.value.query_row(place, |row| row.get(0))?;
        let revision = Revision::new(u64::try_from(revision).unwrap_or(0));
        self.put(space, key, Place::Own, revision, Some(deadline), &value)
    }
}
