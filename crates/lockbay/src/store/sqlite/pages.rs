//! What the file holds, and how free pages go back to the file system.
//!
//! Everything is counted in pages of the database. The write-ahead log is not: it is a working area
//! whose length is bounded, and what stands in it is counted as the pages that it will become.
//! Measuring reads; giving back is done by the writer, on its connection.

use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};

use super::reader::{Readers, space};
use super::{Shared, schema};
use crate::clock::Clock;
use crate::error::Result;
use crate::store::{Footprint, Key, Kind, Partition};

/// The most pages of one piece, and how long it may look for them.
const PAGES_A_PIECE: u32 = 1_024;
const LONGEST_PIECE: Duration = Duration::from_millis(4);

const COUNT: &str = "SELECT count(*) FROM key WHERE space = ?1 AND kind = ?2";
const WEIGH: &str = "SELECT length(value), deadline IS NOT NULL FROM key \
     LEFT JOIN record NOT INDEXED ON number = record \
     WHERE key.space = ?1 AND key.kind = ?2 AND key.id = ?3";

/// As [`Upkeep::count`](crate::store::Upkeep::count).
pub(super) async fn count(shared: &Arc<Shared>, partition: Partition, kind: Kind) -> Result<u64> {
    Readers::run(shared, move |connection, shared| {
        let Some(space) = space(connection, &shared.namespace, partition)? else { return Ok(0) };
        let mut count = connection.prepare_cached(COUNT)?;
        count.query_row(params![space, kind.name()], |row| row.get(0).map(natural))
    })
    .await
}

/// As [`Upkeep::weigh`](crate::store::Upkeep::weigh).
pub(super) async fn weigh(shared: &Arc<Shared>, keys: &[Key]) -> Result<u64> {
    let keys = keys.to_vec();
    Readers::run(shared, move |connection, shared| {
        let Some(first) = keys.first() else { return Ok(0) };
        let Some(space) = space(connection, &shared.namespace, first.partition)? else {
            return Ok(0);
        };
        let page = pragma(connection, "page_size")?;
        let mut weigh = connection.prepare_cached(WEIGH)?;
        let mut bytes = 0;
        for key in &keys {
            let row = weigh.query_row(params![space, key.kind.name(), &*key.id], |row| {
                Ok((row.get::<_, Option<i64>>(0)?, row.get::<_, bool>(1)?))
            });
            if let Some((value, deadline)) = row.optional()? {
                bytes += weight(key, value.map(natural), deadline, page);
            }
        }
        Ok(bytes)
    })
    .await
}

/// As [`Upkeep::footprint`](crate::store::Upkeep::footprint).
pub(super) async fn footprint(shared: &Arc<Shared>) -> Result<Footprint> {
    Readers::run(shared, |connection, _| {
        let page = pragma(connection, "page_size")?;
        let (all, free) = (pragma(connection, "page_count")?, free(connection)?);
        Ok(Footprint { used_bytes: all.saturating_sub(free) * page, free_bytes: free * page })
    })
    .await
}

/// As [`Upkeep::advice`](crate::store::Upkeep::advice): a file that somebody made without our
/// settings keeps its free pages for ever.
pub(super) async fn advice(shared: &Arc<Shared>) -> Result<Vec<String>> {
    Readers::run(shared, |connection, shared| {
        if gives_back(connection)? {
            return Ok(Vec::new());
        }
        let path = shared.path.display();
        Ok(vec![format!(
            "the file never shrinks, for its auto_vacuum is not incremental: stop every process \
             that uses it, then run: sqlite3 {path} 'PRAGMA auto_vacuum=INCREMENTAL; VACUUM;'"
        )])
    })
    .await
}

/// Free pages of the file.
pub(super) fn free(connection: &Connection) -> rusqlite::Result<u64> {
    pragma(connection, "freelist_count")
}

/// Whether the file can be shortened while it is in use.
pub(super) fn gives_back(connection: &Connection) -> rusqlite::Result<bool> {
    Ok(pragma(connection, "auto_vacuum")? == 2)
}

/// Takes some free pages off the end of the database, in the transaction that the caller has begun,
/// and returns how many bytes that were.
pub(super) fn give_back(connection: &Connection, clock: &Clock) -> rusqlite::Result<u64> {
    let (page, before) = (pragma(connection, "page_size")?, pragma(connection, "page_count")?);
    let began = clock.tick();
    {
        let vacuum = format!("PRAGMA incremental_vacuum({PAGES_A_PIECE})");
        let mut vacuum = connection.prepare(&vacuum)?;
        let mut pages = vacuum.query([])?;
        // Each step takes one page off, and moves what stood there to a free one before it.
        while pages.next()?.is_some() && clock.tick().since(began) < LONGEST_PIECE {}
    }
    Ok(before.saturating_sub(pragma(connection, "page_count")?) * page)
}

/// Copies the log into the file, which cuts the file to its pages, and empties the log. Says whether
/// it is empty; where others use the log, that comes later, by itself.
pub(super) fn empty_log(connection: &Connection) -> rusqlite::Result<bool> {
    // Somebody who reads must not hold up everybody who writes.
    connection.busy_timeout(Duration::ZERO)?;
    let checkpoint = "PRAGMA wal_checkpoint(TRUNCATE)";
    let busy = connection.query_row(checkpoint, [], |row| row.get::<_, i64>(0));
    connection.busy_timeout(schema::LOCK_WAIT)?;
    Ok(busy? == 0)
}

fn pragma(connection: &Connection, name: &str) -> rusqlite::Result<u64> {
    connection.pragma_query_value(None, name, |row| row.get(0).map(natural))
}

/// A count or a length, which is never negative.
fn natural(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// What a key occupies, with its record if it has one: its cells in the pages of `key`, `record`
/// and `record_due`. Room that a page leaves free between its cells is not in it.
fn weight(key: &Key, value: Option<u64>, deadline: bool, page: u64) -> u64 {
    let (kind, id) = (key.kind.name().len() as u64, key.id.len() as u64);
    let index_inline = (page - 12) * 64 / 255 - 23;
    let mut bytes = cell(13 + kind + id, index_inline, page);
    if let Some(value) = value {
        let stamps = if deadline { 16 } else { 8 };
        bytes += cell(16 + kind + id + stamps + value, page - 35, page);
    }
    if deadline {
        bytes += cell(21 + kind, index_inline, page);
    }
    bytes
}

/// What a cell of so much content occupies: what does not fit `inline` goes to pages of its own
/// (<https://www.sqlite.org/fileformat2.html#cell_payload>).
fn cell(content: u64, inline: u64, page: u64) -> u64 {
    if content <= inline {
        return content;
    }
    let least = (page - 12) * 32 / 255 - 23;
    let most = least + (content - least) % (page - 4);
    let kept = if most <= inline { most } else { least };
    kept + (content - kept).div_ceil(page - 4) * page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_that_overflows_takes_whole_pages() {
        assert_eq!(cell(4_061, 4_061, 4_096), 4_061);
        let over = cell(4_062, 4_061, 4_096);
        assert!((4_096..2 * 4_096).contains(&over), "{over}");
        let large = cell(1_000_000, 4_061, 4_096);
        assert!((1_000_000..1_006_000).contains(&large), "{large}");
    }
}
