//! Reads: a few connections of their own, each read one transaction, so that it is of one moment.
//!
//! Reading never waits for the writer and never makes it wait. It runs on the runtime's blocking
//! threads. A read does not judge the store: what a rolled back store still holds may be looked at.

use std::sync::Arc;

use parking_lot::Mutex;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, OptionalExtension, Row, ToSql, params};
use tokio::sync::Semaphore;

use super::queue::closed;
use super::{Shared, integer, schema};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::store::range::End;
use crate::store::{
    Key, Kind, MAX_PAGE, MAX_PAGE_BYTES, Order, Page, Partition, Range, Read, Record, Revision,
};

/// Reads that run at once.
const READERS: usize = 3;

const SPACE: &str = "SELECT id FROM space WHERE namespace = ?1 AND partition = ?2";
const GET: &str = "SELECT key.id, revision, deadline, value FROM key \
     CROSS JOIN record NOT INDEXED ON number = record \
     WHERE key.space = ?1 AND key.kind = ?2 AND key.id = ?3";
const SCAN: &str = "SELECT key.id, coalesce(revision, 0), deadline, value FROM key \
     LEFT JOIN record NOT INDEXED ON number = record \
     WHERE key.space = ?1 AND key.kind = ?2 AND key.id >= ?3 AND key.id < ?4 \
     ORDER BY key.id LIMIT ?5";
const SCAN_BACK: &str = "SELECT key.id, coalesce(revision, 0), deadline, value FROM key \
     LEFT JOIN record NOT INDEXED ON number = record \
     WHERE key.space = ?1 AND key.kind = ?2 AND key.id >= ?3 AND key.id < ?4 \
     ORDER BY key.id DESC LIMIT ?5";
// Numbers first: records of one deadline have to be sorted, and their values may be large.
const DUE: &str = "SELECT number FROM record INDEXED BY record_due \
     WHERE space = ?1 AND kind = ?2 AND deadline <= ?3 ORDER BY deadline, id LIMIT ?4";
const RECORD: &str = "SELECT id, revision, deadline, value FROM record WHERE number = ?1";

/// The connections that read, opened when they are first needed.
#[derive(Debug)]
pub(super) struct Readers {
    room: Arc<Semaphore>,
    idle: Mutex<Vec<(Connection, u64)>>,
}

impl Readers {
    pub(super) fn new() -> Self {
        Readers { room: Arc::new(Semaphore::new(READERS)), idle: Mutex::default() }
    }

    /// Lets go of the connections; later reads are refused.
    pub(super) fn close(&self) {
        self.room.close();
        self.idle.lock().clear();
    }

    /// Runs a read in one transaction.
    pub(super) async fn run<T: Send + 'static>(
        shared: &Arc<Shared>,
        read: impl FnOnce(&Connection, &Shared) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        let room = Arc::clone(&shared.readers.room);
        let permit = room.acquire_owned().await.map_err(|_| closed())?;
        let shared = Arc::clone(shared);
        let work = move || {
            let readers = &shared.readers;
            let (connection, epoch) = readers.connection(&shared)?;
            let result = transaction(&connection, || read(&connection, &shared));
            // A connection that failed is not used again: it may be the cause.
            let value = result.map_err(|e| schema::unavailable(&shared.path, "reading", e))?;
            if !readers.room.is_closed() {
                readers.idle.lock().push((connection, epoch));
            }
            // Held until here even if the caller has gone, so that threads stay bounded.
            drop(permit);
            Ok(value)
        };
        tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Unavailable, "the runtime is shutting down"))
        })
    }

    fn connection(&self, shared: &Shared) -> Result<(Connection, u64)> {
        let current = shared.epoch();
        loop {
            let Some((connection, epoch)) = self.idle.lock().pop() else {
                return Ok((schema::open_reader(&shared.path)?, current));
            };
            if epoch == current {
                return Ok((connection, epoch));
            }
        }
    }
}

fn transaction<T>(
    connection: &Connection,
    read: impl FnOnce() -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    connection.prepare_cached("BEGIN")?.execute([])?;
    let value = read()?;
    connection.prepare_cached("COMMIT")?.execute([])?;
    Ok(value)
}

/// As [`Store::get`](crate::store::Store::get).
pub(super) async fn get(shared: &Arc<Shared>, keys: &[Key]) -> Result<Read> {
    let keys = keys.to_vec();
    let partition = keys.first().map_or(Partition::FIRST, |key| key.partition);
    Readers::run(shared, move |connection, shared| {
        let space = space(connection, &shared.namespace, partition)?;
        let now = shared.clock.now();
        let Some(space) = space else {
            return Ok(Read { records: keys.iter().map(|_| None).collect(), now });
        };
        let mut get = connection.prepare_cached(GET)?;
        let mut records = Vec::with_capacity(keys.len());
        for key in &keys {
            let found = get.query_row(params![space, key.kind.name(), &*key.id], |row| {
                record(row, partition, key.kind)
            });
            records.push(found.optional()?);
        }
        Ok(Read { records, now })
    })
    .await
}

/// As [`Store::scan`](crate::store::Store::scan).
pub(super) async fn scan(shared: &Arc<Shared>, range: &Range, limit: usize) -> Result<Page> {
    let limit = limit.clamp(1, MAX_PAGE);
    let (partition, kind) = (range.partition, range.kind);
    let (from, to) = range.bounds();
    let sql = match range.order {
        Order::Forwards => SCAN,
        Order::Backwards => SCAN_BACK,
    };
    page(shared, partition, limit, move |connection, space, _, page| {
        let mut scan = connection.prepare_cached(sql)?;
        let mut rows = scan.query(params![space, kind.name(), from, to, rows_of(limit)])?;
        while let Some(row) = rows.next()? {
            if !page.take(|| record(row, partition, kind))? {
                break;
            }
        }
        Ok(())
    })
    .await
}

/// As [`Store::due`](crate::store::Store::due).
pub(super) async fn due(
    shared: &Arc<Shared>,
    partition: Partition,
    kind: Kind,
    limit: usize,
) -> Result<Page> {
    let limit = limit.clamp(1, MAX_PAGE);
    page(shared, partition, limit, move |connection, space, now, page| {
        let now = integer(now.as_micros());
        let mut due = connection.prepare_cached(DUE)?;
        let mut find = connection.prepare_cached(RECORD)?;
        let mut rows = due.query(params![space, kind.name(), now, rows_of(limit)])?;
        while let Some(row) = rows.next()? {
            let number: i64 = row.get(0)?;
            let read = || find.query_row([number], |row| record(row, partition, kind));
            if !page.take(read)? {
                break;
            }
        }
        Ok(())
    })
    .await
}

/// A page that is being filled.
struct Filling {
    records: Vec<Record>,
    limit: usize,
    bytes: usize,
    more: bool,
}

impl Filling {
    /// Reads one more record if it fits, and says whether it did. One that does not fit is not
    /// read, and shows that there is more.
    fn take(&mut self, read: impl FnOnce() -> rusqlite::Result<Record>) -> rusqlite::Result<bool> {
        self.more = self.records.len() >= self.limit || self.bytes >= MAX_PAGE_BYTES;
        if !self.more {
            let record = read()?;
            self.bytes += record.value.len();
            self.records.push(record);
        }
        Ok(!self.more)
    }
}

async fn page(
    shared: &Arc<Shared>,
    partition: Partition,
    limit: usize,
    fill: impl FnOnce(&Connection, i64, Timestamp, &mut Filling) -> rusqlite::Result<()>
    + Send
    + 'static,
) -> Result<Page> {
    Readers::run(shared, move |connection, shared| {
        let space = space(connection, &shared.namespace, partition)?;
        let now = shared.clock.now();
        let mut page = Filling { records: Vec::new(), limit, bytes: 0, more: false };
        if let Some(space) = space {
            fill(connection, space, now, &mut page)?;
        }
        Ok(Page { records: page.records, more: page.more, now })
    })
    .await
}

/// One row more than a page holds tells whether there are more.
fn rows_of(limit: usize) -> i64 {
    i64::try_from(limit + 1).unwrap_or(i64::MAX)
}

pub(super) fn space(
    connection: &Connection,
    namespace: &str,
    partition: Partition,
) -> rusqlite::Result<Option<i64>> {
    let mut space = connection.prepare_cached(SPACE)?;
    space.query_row(params![namespace, partition.0], |row| row.get(0)).optional()
}

fn record(row: &Row<'_>, partition: Partition, kind: Kind) -> rusqlite::Result<Record> {
    let id: Box<str> = row.get_ref(0)?.as_str()?.into();
    let (revision, deadline) = stamps(row, 1)?;
    let value = row.get::<_, Option<Vec<u8>>>(3)?.unwrap_or_default();
    Ok(Record { key: Key { partition, kind, id }, value, revision, deadline })
}

/// The revision and the deadline of a row, which stand side by side.
pub(super) fn stamps(row: &Row<'_>, at: usize) -> rusqlite::Result<(Revision, Option<Timestamp>)> {
    let revision: i64 = row.get(at)?;
    let deadline: Option<i64> = row.get(at + 1)?;
    let number = |stored: i64| u64::try_from(stored).unwrap_or(0);
    Ok((
        Revision::new(number(revision)),
        deadline.map(|deadline| Timestamp::from_micros(number(deadline))),
    ))
}

impl ToSql for End {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            End::Before(id) => ToSqlOutput::from(id.as_str()),
            // SQLite orders every blob behind every text.
            End::Nowhere => ToSqlOutput::Borrowed(ValueRef::Blob(&[])),
        })
    }
}
