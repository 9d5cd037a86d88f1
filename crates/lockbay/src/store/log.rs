//! Logs: lines that commits append, kept in the order of their revisions.
//!
//! A log has a key of its own, and its lines stand in records behind it: the id of such a record
//! is the log's id, a slash, and the revision of its last line in 16 hexadecimal digits, so that
//! records are in the order of lines. Which lines share a record is the backend's business: those
//! of commits that were applied together, as one record for many lines costs little more than a
//! record for one. The lines of one commit are never parted.
//!
//! A line is stored behind its revision, a space before it and a newline after it.

use super::{Key, MAX_KEY_BYTES, Range, Record, Revision, Write};
use crate::error::{Error, ErrorKind, Result};

/// The longest line, in bytes.
pub const MAX_LINE_BYTES: usize = 64 * 1024;
/// The most bytes that one commit may append, stamps included. So a record of lines stays below
/// this and 512 KiB together, and that is below the largest value.
pub const MAX_COMMIT_BYTES: usize = 4 * 1024 * 1024;
/// A record of lines ends with the commit by which it comes to so many bytes.
/// `redis_commit.lua` has the same number.
#[cfg(feature = "sqlite")]
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

/// The same records backwards, from the last one whose last line is before this revision; from the
/// very last for nothing.
pub fn backwards(log: &Key, before: Option<Revision>) -> Range {
    let range = Range::new(log.partition, log.kind, format!("{}/", log.id)).backwards();
    range.after(before.map(|before| record_key(log, before).id.into()))
}

/// The lines of a record.
///
/// # Errors
/// `Internal` if the record is not to the last byte as a store writes it, its key and stamps
/// included: lines in the order of revisions, and the revision of the last one in the key.
pub fn lines(record: &Record) -> Result<Vec<Line<'_>>> {
    let broken = |what: &str| {
        let key = &record.key;
        Error::new(ErrorKind::Internal, format!("this record of a log {what}: {key}"))
    };
    let Some(inside) = record.value.strip_suffix(b"\n") else {
        return Err(broken("does not end with a line"));
    };
    let mut lines: Vec<Line<'_>> = Vec::new();
    for raw in inside.split(|byte| *byte == b'\n') {
        let line = line(raw).ok_or_else(|| broken("has a line that cannot be read"))?;
        if lines.last().is_some_and(|before| before.revision > line.revision) {
            return Err(broken("has lines out of order"));
        }
        lines.push(line);
    }
    let last = lines.last().map_or(Revision::ZERO, |line| line.revision);
    let named = record.key.id.rsplit_once('/').map(|(_, last)| last);
    if named != Some(stamp(last).as_str()) {
        return Err(broken("has another last line than its key says"));
    }
    if record.revision != last || record.deadline.is_some() {
        return Err(broken("was written by something else than the commit of its last line"));
    }
    Ok(lines)
}

/// One line as it is stored, without its newline: there is one way to write it.
fn line(raw: &[u8]) -> Option<Line<'_>> {
    let (digits, text) = raw.split_at_checked(DIGITS)?;
    let text = text.strip_prefix(b" ").filter(|text| !text.is_empty())?;
    let digits = std::str::from_utf8(digits).ok()?;
    let revision = Revision::new(u64::from_str_radix(digits, 16).ok()?);
    (stamp(revision) == digits).then_some(Line { revision, text })
}

/// A revision as it stands before a line and in a key.
fn stamp(revision: Revision) -> String {
    format!("{:016x}", revision.number())
}

/// The key of a record of a log whose last line has this revision.
pub(super) fn record_key(log: &Key, last: Revision) -> Key {
    Key::new(log.partition, log.kind, format!("{}/{}", log.id, stamp(last)))
}

/// Adds a line as it is stored.
pub(super) fn append(stored: &mut Vec<u8>, revision: Revision, text: &[u8]) {
    stored.extend_from_slice(stamp(revision).as_bytes());
    stored.push(b' ');
    stored.extend_from_slice(text);
    stored.push(b'\n');
}

/// What is wrong with the lines that a commit appends, if anything.
pub(super) fn check(writes: &[Write]) -> Result<()> {
    let mut bytes = 0;
    for write in writes {
        let Write::Append { key, line } = write else { continue };
        let length = line.len();
        if line.is_empty() || length > MAX_LINE_BYTES || line.contains(&b'\n') {
            return Err(Error::invalid(format!(
                "a line has 1 to {MAX_LINE_BYTES} bytes and no newline, {key} was given {length} \
                 bytes"
            )));
        }
        if key.id.len() + 1 + DIGITS > MAX_KEY_BYTES {
            return Err(Error::invalid(format!("the key of a log is too long: {key}")));
        }
        bytes += DIGITS + 2 + length;
    }
    if bytes > MAX_COMMIT_BYTES {
        return Err(Error::invalid(format!(
            "a commit appends {MAX_COMMIT_BYTES} bytes at most, not {bytes}"
        )));
    }
    Ok(())
}
