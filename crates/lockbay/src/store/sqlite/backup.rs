//! A copy of a file that is in use, and whether a copy is whole.
//!
//! SQLite itself makes the copy, as of one moment and without keeping anybody from writing. It gets
//! a name of its own while it is made, and the wanted name only when it was checked and is on the
//! disk: a file of that name is whole, whenever the process or the machine ends.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use super::{SqliteStore, beside, schema};
use crate::error::{Error, ErrorKind, Result};

impl SqliteStore {
    /// As [`backup`](SqliteStore::backup), of a file that this process need not have opened. It
    /// gives the length of the copy.
    ///
    /// The copy is made as [`being_made`](SqliteStore::being_made) and checked before it gets its
    /// name. It is readable by its owner only. It blocks: call it from a blocking thread.
    ///
    /// # Errors
    /// `Invalid` if there is no store at `from`, or something at `to` or at the name of the copy
    /// that is being made; `Unavailable` if it cannot be written; `Internal` if it is not whole.
    /// Nothing is left at `to` then.
    pub fn copy(from: &Path, to: &Path) -> Result<u64> {
        if to.exists() {
            let message = format!("a backup does not replace a file: {}", to.display());
            return Err(Error::invalid(message));
        }
        let part = SqliteStore::being_made(to);
        let copied = Part::create(&part).and_then(|part| part.fill(from)?.name(to));
        copied.map_err(|error| {
            if matches!(error.kind(), ErrorKind::Invalid | ErrorKind::Internal) {
                return error;
            }
            Error::new(ErrorKind::Unavailable, format!("no backup of {}", from.display()))
                .with_source(error)
        })
    }

    /// The name that a copy has until it is whole: in the same directory, with `.part` behind it.
    pub fn being_made(to: &Path) -> PathBuf {
        beside(to, ".part")
    }

    /// Looks through a whole file that may be a copy, and gives its length. It changes nothing.
    ///
    /// # Errors
    /// `Invalid` if it is not a store of ours, `Internal` if SQLite finds it damaged.
    pub fn check(path: &Path) -> Result<u64> {
        if !path.is_file() {
            return Err(Error::invalid(format!("there is no file {}", path.display())));
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)
            .map_err(|error| schema::unavailable(path, "it cannot be opened", error))?;
        if schema::recognise(&connection, path)? == 0 {
            return Err(Error::invalid(format!("there is nothing in {}", path.display())));
        }
        let damage = connection
            .query_row("PRAGMA integrity_check(1)", [], |row| row.get::<_, String>(0))
            .map_err(|error| damaged(path, &schema::explain(&error)))?;
        if damage != "ok" {
            return Err(damaged(path, &damage));
        }
        drop(connection);
        fs::metadata(path).map(|found| found.len()).map_err(|error| {
            let message = format!("{} cannot be measured", path.display());
            Error::new(ErrorKind::Unavailable, message).with_source(error)
        })
    }
}

fn damaged(path: &Path, how: &str) -> Error {
    Error::new(ErrorKind::Internal, format!("{} is damaged: {how}", path.display()))
}

/// A copy that is being made. Dropped before it got its name, it goes.
struct Part(PathBuf);

impl Part {
    /// An empty file of its owner's, which nobody else makes at the same time.
    fn create(path: &Path) -> Result<Part> {
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|error| {
            let message = format!(
                "the backup cannot be begun as {}: {error}; if none is being made there, remove \
                 what an earlier one left",
                path.display()
            );
            Error::invalid(message).with_source(error)
        })?;
        Ok(Part(path.to_owned()))
    }

    /// Copies the file into it, checks it, and brings it to the disk.
    fn fill(self, from: &Path) -> Result<Part> {
        if !from.is_file() {
            return Err(Error::invalid(format!("there is no store at {}", from.display())));
        }
        let target = self.0.to_str().ok_or_else(|| {
            Error::invalid(format!("the path of a backup must be UTF-8: {}", self.0.display()))
        })?;
        let connection = schema::open_reader(from)?;
        if schema::recognise(&connection, from)? == 0 {
            return Err(Error::invalid(format!("there is nothing in {}", from.display())));
        }
        connection
            .pragma_update(None, "query_only", false)
            .and_then(|()| connection.execute("VACUUM INTO ?1", [target]))
            .map_err(|error| schema::unavailable(&self.0, "the backup cannot be written", error))?;
        drop(connection);
        SqliteStore::check(&self.0)?;
        synced(&self.0)?;
        Ok(self)
    }

    /// Gives it its name, which nothing has yet, and the length that it has.
    fn name(self, to: &Path) -> Result<u64> {
        let length = fs::metadata(&self.0).map_or(0, |found| found.len());
        // A link refuses a name that is taken; a renaming would replace what has it.
        fs::hard_link(&self.0, to).map_err(|error| {
            let message = format!("the backup cannot be named {}: {error}", to.display());
            Error::invalid(message).with_source(error)
        })?;
        drop(self);
        let directory = to.parent().filter(|parent| !parent.as_os_str().is_empty());
        synced(directory.unwrap_or(Path::new(".")))?;
        Ok(length)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "part of a backup left behind");
        }
    }
}

fn synced(path: &Path) -> Result<()> {
    File::open(path).and_then(|file| file.sync_all()).map_err(|error| {
        let message = format!("the backup cannot be synced: {}", path.display());
        Error::new(ErrorKind::Unavailable, message).with_source(error)
    })
}
