//! How a file is opened: created with the right settings, or refused with the reason.
//!
//! It owns the pragmas and the schema version. Nothing is written to a file before it has proved
//! to be empty or ours, and no setting is trusted before it was read back.
//!
//! The database file is never opened here except through SQLite: closing any descriptor of a file
//! drops every POSIX lock that this process holds on it, SQLite's among them. The one descriptor
//! of our own is the one that creates a new file, while nobody else here can be opening it.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::turn;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};

const SCHEMA: &str = include_str!("schema.sql");
const SCHEMA_VERSION: i64 = 1;
/// "LkBy": marks the file as ours, for `file(1)` and for us.
const APPLICATION_ID: i64 = 0x4c6b_4279;
/// How long SQLite itself waits for locks where our own loop does not: opening, and reads.
pub(super) const LOCK_WAIT: Duration = Duration::from_secs(10);
/// Pages in the write-ahead log, 64 MB, before a commit also copies them into the file. The more
/// there are, the more changes of a page are copied as one.
const CHECKPOINT_PAGES: u32 = 16_000;
/// What a log that had grown is cut back to. Above what it has at a checkpoint: a log of steady
/// length is written over, which is cheaper than one that grows anew.
const LOG_LIMIT_BYTES: u32 = 128 * 1024 * 1024;
const CACHE_KIB: i32 = 64 * 1024;
/// More than the writer has, so that none is ever prepared anew.
const STATEMENTS: usize = 64;

/// One opening at a time in this process, so that creating a file cannot drop another's locks.
static OPENING: Mutex<()> = Mutex::new(());

/// Which file a path leads to. Two files of one name at different times differ in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    /// Of the file that is there now, if there is one.
    pub(super) fn of(path: &Path) -> Option<Identity> {
        let found = fs::metadata(path).ok()?;
        Some(Identity { device: found.dev(), inode: found.ino() })
    }
}

/// An error of SQLite as one of ours, when nothing was written.
pub(super) fn unavailable(path: &Path, doing: &str, error: rusqlite::Error) -> Error {
    let message = format!("{}: {doing}: {path}", explain(&error), path = path.display());
    Error::new(ErrorKind::Unavailable, message).with_source(error)
}

/// What an error of SQLite means for the person who has to act on it.
pub(super) fn explain(error: &rusqlite::Error) -> String {
    if is_busy(error) {
        return "another process holds the file".into();
    }
    if error.sqlite_error_code() == Some(ErrorCode::DiskFull) {
        return "the disk is full".into();
    }
    error.to_string()
}

/// Whether somebody else has the lock we want.
pub(super) fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseBusy | ErrorCode::FileLockingProtocolFailed)
    )
}

/// Opens the connection that writes, creating directory, file and tables as needed.
pub(super) fn open_writer(path: &Path, clock: &Clock) -> Result<(Connection, Identity)> {
    let _one_at_a_time = OPENING.lock();
    create(path)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)
        .map_err(|error| unavailable(path, "the file cannot be opened", error))?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    let identity = Identity::of(path)
        .ok_or_else(|| refuse(path, "the file went away while it was opened".into()))?;
    let version = recognise(&connection, path)?;
    refuse_read_only(&connection, path)?;
    settle(&connection, path, version, clock)?;
    if version == 0 {
        create_tables(&connection).map_err(|error| unavailable(path, "creating tables", error))?;
    }
    Ok((connection, identity))
}

/// Opens a connection that reads.
pub(super) fn open_reader(path: &Path) -> Result<Connection> {
    let open = || {
        // Opened for writing, as a reader of a write-ahead log takes part in its bookkeeping.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(LOCK_WAIT)?;
        connection.pragma_update(None, "query_only", true)?;
        Ok(connection)
    };
    open().map_err(|error| unavailable(path, "a reader cannot be opened", error))
}

fn refuse(path: &Path, why: String) -> Error {
    Error::invalid(format!("{why}: {}", path.display()))
}

/// Makes the directory and an empty file that only its owner may read.
fn create(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Err(refuse(path, "the store is a file, and this is a directory".into()));
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent).map_err(|error| {
            refuse(parent, format!("the directory cannot be created: {error}")).with_source(error)
        })?;
    }
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => {
            Err(refuse(path, format!("the file cannot be created: {error}")).with_source(error))
        }
    }
}

/// The schema version of the file, zero if it is empty. Refuses what is not ours.
pub(super) fn recognise(connection: &Connection, path: &Path) -> Result<i64> {
    let read = || {
        connection.busy_timeout(LOCK_WAIT)?;
        // At one moment: another process may be making the tables just now.
        let transaction = connection.unchecked_transaction()?;
        let tables: i64 =
            transaction.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        let version: i64 = pragma(&transaction, "user_version")?;
        let application: i64 = pragma(&transaction, "application_id")?;
        transaction.finish()?;
        Ok((version, application, tables))
    };
    let (version, application, tables) =
        read().map_err(|error: rusqlite::Error| match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase) => {
                refuse(path, "this file is not a database, and was left as it is".into())
            }
            _ => unavailable(path, "the file cannot be read", error),
        })?;
    if tables > 0 && application != APPLICATION_ID {
        let why = "this is the database of another program, and was left as it is";
        return Err(refuse(path, why.into()));
    }
    if version > SCHEMA_VERSION {
        return Err(refuse(
            path,
            format!(
                "the file was written by a newer LockBay: its schema is version {version}, this \
                 one knows {SCHEMA_VERSION}"
            ),
        ));
    }
    Ok(version)
}

fn refuse_read_only(connection: &Connection, path: &Path) -> Result<()> {
    match connection.is_readonly("main") {
        Ok(false) => Ok(()),
        Ok(true) => Err(refuse(path, "the file is read-only".into())),
        Err(error) => Err(unavailable(path, "the file cannot be read", error)),
    }
}

fn pragma<T: rusqlite::types::FromSql>(connection: &Connection, name: &str) -> rusqlite::Result<T> {
    connection.pragma_query_value(None, name, |row| row.get(0))
}

/// Sets what durability and space depend on, and reads it back.
fn settle(connection: &Connection, path: &Path, version: i64, clock: &Clock) -> Result<()> {
    let apply = || {
        if version == 0 {
            // Only an empty file takes this, and only before the log is switched on.
            connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
        }
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
        connection.pragma_update(None, "journal_size_limit", LOG_LIMIT_BYTES)?;
        connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
        let journal: String = pragma(connection, "journal_mode")?;
        let synchronous: i64 = pragma(connection, "synchronous")?;
        Ok((journal, synchronous))
    };
    // Of two that switch the log on at one moment, SQLite refuses one without any wait: each holds
    // what the other needs.
    let began = clock.tick();
    let (journal, synchronous) = loop {
        match apply() {
            Ok(read_back) => break read_back,
            Err(error) if is_busy(&error) && clock.tick().since(began) < LOCK_WAIT => {
                turn::pause(clock);
            }
            Err(error) => return Err(unavailable(path, "its settings cannot be made", error)),
        }
    };
    if journal != "wal" {
        let why = format!("journal_mode must be wal and stays {journal}: use a local file system");
        return Err(refuse(path, why));
    }
    if synchronous != 2 {
        return Err(refuse(path, format!("synchronous must be 2 (full) and stays {synchronous}")));
    }
    Ok(())
}

/// Makes the tables, unless another process was faster.
fn create_tables(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch("BEGIN IMMEDIATE")?;
    let create = || {
        if pragma::<i64>(connection, "user_version")? == 0 {
            connection.execute_batch(SCHEMA)?;
            connection.pragma_update(None, "application_id", APPLICATION_ID)?;
            connection.pragma_update(None, "user_version", SCHEMA_VERSION)?;
        }
        connection.execute_batch("COMMIT")
    };
    let created = create();
    if created.is_err() {
        // The connection is dropped by the caller, which rolls back in any case.
        let _ = connection.execute_batch("ROLLBACK");
    }
    created
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_whose_tables_another_process_is_making_is_never_taken_for_that_of_another_program() {
        let directory = tempfile::tempdir().unwrap();
        for round in 0..60 {
            let path = directory.path().join(format!("{round}.db"));
            create(&path).unwrap();
            let other = path.clone();
            let maker = std::thread::spawn(move || {
                let connection = Connection::open(&other).unwrap();
                let version = recognise(&connection, &other).unwrap();
                settle(&connection, &other, version, &Clock::system()).unwrap();
                create_tables(&connection).unwrap();
            });
            let connection = Connection::open(&path).unwrap();
            while recognise(&connection, &path).unwrap() == 0 {}
            maker.join().unwrap();
        }
    }
    #[test]
    fn processes_that_open_a_new_file_at_one_moment_all_get_it() {
        let directory = tempfile::tempdir().unwrap();
        for round in 0..30 {
            let path = directory.path().join(format!("{round}.db"));
            create(&path).unwrap();
            let start = std::sync::Barrier::new(4);
            std::thread::scope(|threads| {
                for _ in 0..4 {
                    threads.spawn(|| {
                        let connection = Connection::open(&path).unwrap();
                        start.wait();
                        let version = recognise(&connection, &path).unwrap();
                        settle(&connection, &path, version, &Clock::system()).unwrap();
                        create_tables(&connection).unwrap();
                    });
                }
            });
        }
    }
}
