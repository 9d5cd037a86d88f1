//! Whose turn it is, among the processes that share a file.
//!
//! SQLite's write lock goes to whoever asks at the right moment, and a process that commits without
//! pause asks right after it let go: the others starve. So whoever wants the write lock first takes
//! the turn, an advisory lock on a file of its own, and keeps it until the write lock is its. The
//! one that just committed then waits behind the one that waits.
//!
//! The turn is a courtesy and nothing rests on it. It dies with its process, and one that does not
//! come in time (its holder was stopped) is done without.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use crate::clock::{Clock, block_for};

const SHORTEST_WAIT: Duration = Duration::from_micros(200);
const LONGEST_WAIT: Duration = Duration::from_millis(2);
/// How long one waits for a turn before doing without.
const PATIENCE: Duration = Duration::from_millis(50);

/// The file of turns, if it can be had.
#[derive(Debug)]
pub(super) struct Turns(Option<File>);

/// A turn. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Turn<'a>(Option<&'a File>);

impl Turns {
    /// The one beside this database.
    pub(super) fn beside(database: &Path) -> Self {
        let path = super::beside(database, "-turn");
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o600);
        Turns(match file.open(&path) {
            Ok(file) => Some(file),
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "writers take no turns");
                None
            }
        })
    }

    /// Waits for a turn, but not for long.
    pub(super) fn take(&self, clock: &Clock) -> Turn<'_> {
        let Some(file) = &self.0 else { return Turn(None) };
        let mut waited = Duration::ZERO;
        while waited < PATIENCE {
            match file.try_lock() {
                Ok(()) => return Turn(Some(file)),
                Err(std::fs::TryLockError::WouldBlock) => waited += pause(clock),
                Err(std::fs::TryLockError::Error(_)) => break,
            }
        }
        Turn(None)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(file) = self.0 {
            // It also ends when the file is closed; there is nothing to do about an error.
            let _ = file.unlock();
        }
    }
}

/// Sleeps for a short random time and says how long.
pub(super) fn pause(clock: &Clock) -> Duration {
    let time = SHORTEST_WAIT + clock.jitter(LONGEST_WAIT - SHORTEST_WAIT);
    block_for(time);
    time
}
