//! Logs: lines that commits append, kept in the order of their revisions.
//!
//! A log has a key of its own, and its lines stand in records behind it: the id of such a record
//! is the log's id, a slash, and the revision of its last line in 16 hexadecimal digits, so that
//! records are in the order of lines. Which lines share a record is the backend's business: those
//! of commits that were applied together, as one record for many lines costs little more than a
//! record for one. The lines of one commit are never parted.
//!
//! A line is stored behind its revision, a space before it and a newline after it.

use super::{Key, Partition, Range, Record, Revision};
use crate::error::{Error, ErrorKind, Result};

/// The longest line, in bytes.
pub const MAX_LINE_BYTES: usize = 64 * 1024;
/// A record of lines ends with the commit by which it comes to so many bytes.
pub(super) const MAX_RECORD_BYTES: usize = 512 * 1024;
/// Digits of a revision.
const DIGITS: usize = 16;

/// One line of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// The commit that appended it.
    pub revision: Revision,
    /// What it says.
    pub text: &'a [u8],
}

/// The records of a log behind the line of this revision; all of them for zero.
///
/// The first record may begin with lines that are not behind it.
pub fn range(log: &Key, after: Revision) -> Range {
    let range = Range::new(log.partition, log.kind, format!("{}/", log.id));
    range.after((after > Revision::ZERO).then(|| record_key(log, after).id.into()))
}

/// The lines of a record.
///
/// # Errors
/// `Internal` if the record is not as a store writes it.
pub fn lines(record: &Record) -> Result<Vec<Line<'_>>> {
    let broken = || {
        Error::new(
            ErrorKind::Internal,
            format!("this record of a log cannot be read: {}", record.key),
        )
    };
    let Some(inside) = record.value.strip_suffix(b"\n") else { return Err(broken()) };
    let line = |line: &'_ [u8]| {
        let (stamp, text) = line.split_at_checked(DIGITS)?;
        let revision = u64::from_str_radix(std::str::from_utf8(stamp).ok()?, 16).ok()?;
        Some((Revision::new(revision), text.len().checked_sub(1)?))
    };
    inside
        .split(|byte| *byte == b'\n')
        .map(|raw| {
            let (revision, length) = line(raw).ok_or_else(broken)?;
            Ok(Line { revision, text: &raw[raw.len() - length..] })
        })
        .collect()
}

/// The key of a record of a log whose last line has this revision.
pub(super) fn record_key(log: &Key, last: Revision) -> Key {
    Key::new(log.partition, log.kind, format!("{}/{:016x}", log.id, last.number()))
}

/// Adds a line as it is stored.
pub(super) fn append(stored: &mut Vec<u8>, revision: Revision, text: &[u8]) {
    stored.extend_from_slice(format!("{:016x} ", revision.number()).as_bytes());
    stored.extend_from_slice(text);
    stored.push(b'\n');
}

/// What is wrong with a line, if anything.
pub(super) fn check(log: &Key, partition: Partition, line: &[u8]) -> Result<()> {
    debug_assert_eq!(log.partition, partition, "keys are checked before lines");
    if line.is_empty() || line.len() > MAX_LINE_BYTES || line.contains(&b'\n') {
        let length = line.len();
        return Err(Error::invalid(format!(
            "a line has 1 to {MAX_LINE_BYTES} bytes and no newline, {log} was given {length} bytes"
        )));
    }
    Ok(())
}
