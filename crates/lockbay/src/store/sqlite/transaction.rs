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
use crate::store::{
    Commit, Deadline, Guard, Key, Partition, Pong, Record, Reply, Revision, Write, log,
};

// NOT INDEXED: a record is found by its number. If SQLite looked at the index of what is due as well,
// which covers a part of the table, it would prepare the statement anew for each key.
const FIND: &str = "SELECT number, revision, deadline, value FROM key \
     LEFT JOIN record NOT INDEXED ON number = record \
     WHERE key.space = ?1 AND key.kind = ?2 AND key.id = ?3";
const LOCATE: &str = "SELECT record FROM key WHERE space = ?1 AND kind = ?2 AND id = ?3";
const SET_KEY: &str = "INSERT INTO key (space, kind, id, record) VALUES (?1, ?2, ?3, ?4) \
     ON CONFLICT DO UPDATE SET record = excluded.record";
const MARK: &str = "INSERT INTO key (space, kind, id) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING";
const DELETE_KEY: &str = "DELETE FROM key WHERE space = ?1 AND kind = ?2 AND id = ?3";
const DELETE_ENTRY: &str =
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

/// What became of one job.
#[derive(Debug)]
pub(super) enum Outcome {
    Reply(Result<Reply>),
    Pong(Result<Pong>),
    Accepted,
    /// It is not part of a transaction, and is done beside it.
    Chore,
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
            Job::Reclaim(_) => Outcome::Chore,
        });
    }
    transaction.write_lines()?;
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
    /// Lines of logs that wait to be written together.
    lines: Vec<Lines>,
    statements: Statements<'a>,
}

/// Lines of one log, as they are stored.
struct Lines {
    space: i64,
    log: Key,
    last: Revision,
    stored: Vec<u8>,
}

impl<'a> Transaction<'a> {
    fn new(connection: &'a Connection, shared: &'a Shared) -> rusqlite::Result<Self> {
        Ok(Transaction {
            connection,
            shared,
            now: shared.clock.now(),
            spaces: Vec::new(),
            fresh: Answers::default(),
            lines: Vec::new(),
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
        let mut places = Vec::with_capacity(commit.guards.len());
        for (guard_place, guard) in commit.guards.iter().enumerate() {
            match self.statements.check(space.id, guard, now)? {
                Checked::Holds(place) => places.push((guard.key(), place)),
                Checked::Refused(found) => {
                    return Ok(Ok(Reply::Conflict { guard: guard_place, found, now }));
                }
            }
        }
        space.last = (space.last + 1).max(now.as_micros());
        space.changed = true;
        let revision = space.revision();
        let id = space.id;
        for write in &commit.writes {
            // What a guard has found holds until the first write of that key.
            let known = places.iter().position(|(key, _)| *key == write.key());
            let known = known.map(|at| places.swap_remove(at).1);
            let statements = &mut self.statements;
            statements.forget(id, write.key());
            match write {
                Write::Put { key, value, deadline } => {
                    let stamps = (revision, until(*deadline, now));
                    statements.put(id, key, value, known, stamps)?;
                }
                Write::Touch { key, ttl } => statements.touch(id, key, known, now + *ttl)?,
                Write::Delete { key } => statements.delete(id, key)?,
                Write::Mark { key } => statements.mark(id, key)?,
                Write::Append { key, line } => append(&mut self.lines, id, key, revision, line),
            }
        }
        if self.lines.iter().any(|lines| lines.stored.len() >= log::MAX_RECORD_BYTES) {
            self.write_lines()?;
        }
        let reply = Reply::Committed { revision, now };
        self.fresh.remember(&commit.operation, reply.clone());
        Ok(Ok(reply))
    }

    /// Writes the lines that wait, one record for each log.
    fn write_lines(&mut self) -> rusqlite::Result<()> {
        for Lines { space, log, last, stored } in self.lines.drain(..) {
            let key = log::record_key(&log, last);
            self.statements.put(space, &key, &stored, Some(Place::Nowhere), (last, None))?;
        }
        Ok(())
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

/// The deadline that a write sets.
fn until(deadline: Deadline, now: Timestamp) -> Option<Timestamp> {
    match deadline {
        Deadline::Never => None,
        Deadline::After(ttl) => Some(now + ttl),
    }
}

/// Adds a line to those of its log that wait.
fn append(waiting: &mut Vec<Lines>, space: i64, log: &Key, revision: Revision, line: &[u8]) {
    let place = waiting.iter().position(|lines| lines.space == space && lines.log == *log);
    let place = place.unwrap_or_else(|| {
        waiting.push(Lines { space, log: log.clone(), last: revision, stored: Vec::new() });
        waiting.len() - 1
    });
    waiting[place].last = revision;
    log::append(&mut waiting[place].stored, revision, line);
}

/// What a guard says to a commit.
enum Checked {
    Holds(Place),
    Refused(Option<Record>),
}

/// Where what belongs to a key is.
enum Place {
    Nowhere,
    /// It is an index entry, and has no record.
    Entry,
    Record(i64),
}

impl Place {
    /// Of a key that is there, from the number of its record.
    fn of(number: Option<i64>) -> Self {
        number.map_or(Place::Entry, Place::Record)
    }
}

/// A record as a guard has found it.
struct Seen {
    space: i64,
    key: Key,
    number: i64,
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
    locate: CachedStatement<'c>,
    set_key: CachedStatement<'c>,
    mark: CachedStatement<'c>,
    delete_key: CachedStatement<'c>,
    delete_entry: CachedStatement<'c>,
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
            locate: connection.prepare_cached(LOCATE)?,
            set_key: connection.prepare_cached(SET_KEY)?,
            mark: connection.prepare_cached(MARK)?,
            delete_key: connection.prepare_cached(DELETE_KEY)?,
            delete_entry: connection.prepare_cached(DELETE_ENTRY)?,
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
                return Ok(Checked::Holds(Place::Record(seen.number)));
            }
        }
        let mut rows = self.find.query(params![space, key.kind.name(), &*key.id])?;
        let row = rows.next()?;
        let place = row.map_or(Ok(Place::Nowhere), |row| row.get(0).map(Place::of))?;
        let (Some(row), Place::Record(number)) = (row, &place) else {
            let holds = guard.holds(None, now);
            return Ok(if holds { Checked::Holds(place) } else { Checked::Refused(None) });
        };
        let (revision, deadline) = reader::stamps(row, 1)?;
        // No guard looks at the value; it is read only to be shown.
        let mut record = Record { key: key.clone(), value: Vec::new(), revision, deadline };
        if guard.holds(Some(&record), now) {
            let (key, number) = (record.key, *number);
            self.last_guarded = Some(Seen { space, key, number, revision, deadline });
            return Ok(Checked::Holds(place));
        }
        record.value = row.get(3)?;
        Ok(Checked::Refused(Some(record)))
    }

    fn locate(&mut self, space: i64, key: &Key) -> rusqlite::Result<Place> {
        let mut rows = self.locate.query(params![space, key.kind.name(), &*key.id])?;
        rows.next()?.map_or(Ok(Place::Nowhere), |row| row.get(0).map(Place::of))
    }

    /// What was seen of a key that is written to holds no longer.
    fn forget(&mut self, space: i64, key: &Key) {
        if self.last_guarded.as_ref().is_some_and(|seen| seen.space == space && seen.key == *key) {
            self.last_guarded = None;
        }
    }

    /// Puts a record, at a place that is perhaps known already, with its revision and deadline.
    fn put(
        &mut self,
        space: i64,
        key: &Key,
        value: &[u8],
        known: Option<Place>,
        (revision, deadline): (Revision, Option<Timestamp>),
    ) -> rusqlite::Result<()> {
        let revision = integer(revision.number());
        let deadline = deadline.map(|deadline| integer(deadline.as_micros()));
        let place = known.map_or_else(|| self.locate(space, key), Ok)?;
        if let Place::Record(number) = place
            && self.change.execute(params![number, revision, deadline, value])? > 0
        {
            return Ok(());
        }
        let (kind, id) = (key.kind.name(), &*key.id);
        self.add.execute(params![space, kind, id, revision, deadline, value])?;
        let number = self.connection.last_insert_rowid();
        self.set_key.execute(params![space, kind, id, number])?;
        Ok(())
    }

    fn touch(
        &mut self,
        space: i64,
        key: &Key,
        known: Option<Place>,
        deadline: Timestamp,
    ) -> rusqlite::Result<()> {
        let place = known.map_or_else(|| self.locate(space, key), Ok)?;
        if let Place::Record(number) = place {
            self.touch.execute(params![number, integer(deadline.as_micros())])?;
        }
        Ok(())
    }

    fn delete(&mut self, space: i64, key: &Key) -> rusqlite::Result<()> {
        let (kind, id) = (key.kind.name(), &*key.id);
        if self.delete_entry.execute(params![space, kind, id])? > 0 {
            return Ok(());
        }
        if let Place::Record(number) = self.locate(space, key)? {
            self.delete_key.execute(params![space, kind, id])?;
            self.delete.execute([number])?;
        }
        Ok(())
    }

    fn mark(&mut self, space: i64, key: &Key) -> rusqlite::Result<()> {
        let (kind, id) = (key.kind.name(), &*key.id);
        if self.mark.execute(params![space, kind, id])? == 0
            && let Place::Record(number) = self.locate(space, key)?
        {
            self.delete.execute([number])?;
            self.set_key.execute(params![space, kind, id, None::<i64>])?;
        }
        Ok(())
    }
}
