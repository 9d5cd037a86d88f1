//! How commits go out and answers come back: packed towards the script, RESP from it.
//!
//! Encoding is the caller's work, done before a commit joins the queue, so that the one task that
//! feeds the connection only strings finished pieces together.

use redis::Value;

use crate::clock::{Timestamp, micros};
use crate::error::{Error, ErrorKind, Result};
use crate::store::{Commit, Deadline, Guard, Key, Kind, Partition, Record, Reply, Revision, Write};

/// Stands where the place of a guard would, in the answer to a commit that was applied before.
const REPEATED: i64 = -1;
/// The same for one that arrived after it was answered or given up.
const STRAGGLER: i64 = -2;

/// A commit as the script takes it, without its [`values`], and behind whether it was sent before.
/// The layout stands in `redis_commit.lua`.
pub(super) fn encode(commit: &Commit) -> Vec<u8> {
    let keys = commit.guards.len() + commit.writes.len() + commit.hints.len();
    let mut body = Pack(Vec::with_capacity(128 * keys));
    commit.guards.iter().for_each(|guard| encode_guard(&mut body, guard));
    commit.writes.iter().for_each(|write| encode_write(&mut body, write));
    commit.hints.iter().for_each(|key| body.key(key));
    let mut out = Pack(Vec::with_capacity(64 + body.0.len()));
    out.short(commit.operation.slot.to_string().as_bytes());
    out.short(commit.operation.sequence.to_string().as_bytes());
    let counts = [commit.guards.len(), commit.writes.len(), commit.hints.len()];
    counts.into_iter().for_each(|count| out.count(count));
    out.count(values(commit).count());
    out.count(body.0.len());
    out.0.extend(body.0);
    out.0
}

/// What a commit writes, in the order of its writes.
pub(super) fn values(commit: &Commit) -> impl Iterator<Item = &[u8]> {
    commit.writes.iter().filter_map(|write| match write {
        Write::Put { value, .. } => Some(value.as_slice()),
        Write::Append { line, .. } => Some(line.as_slice()),
        Write::Touch { .. } | Write::Delete { .. } | Write::Mark { .. } => None,
    })
}

fn encode_guard(out: &mut Pack, guard: &Guard) {
    let (what, revision) = match guard {
        Guard::Absent(_) => (1, None),
        Guard::RevisionIs(_, revision) => (2, Some(revision)),
        Guard::Lapsed(_) => (3, None),
        Guard::Held(fence) => (4, Some(&fence.token)),
    };
    out.0.push(what);
    out.key(guard.key());
    // As text: the script compares it with the text in the record.
    out.short(revision.map(Revision::to_string).unwrap_or_default().as_bytes());
}

fn encode_write(out: &mut Pack, write: &Write) {
    let (what, ttl) = match write {
        Write::Put { deadline: Deadline::Never, .. } => (1, None),
        Write::Put { deadline: Deadline::After(ttl), .. } => (1, Some(*ttl)),
        Write::Touch { ttl, .. } => (2, Some(*ttl)),
        Write::Delete { key } if key.kind.is_index() => (6, None),
        Write::Delete { .. } => (3, None),
        Write::Mark { .. } => (4, None),
        Write::Append { .. } => (5, None),
    };
    out.0.push(what);
    out.key(write.key());
    let ttl = ttl.map_or(-1, |ttl| i64::try_from(micros(ttl)).unwrap_or(i64::MAX));
    out.0.extend_from_slice(&ttl.to_le_bytes());
}

/// Strings behind their lengths, and numbers, the lowest byte first.
struct Pack(Vec<u8>);

impl Pack {
    /// What has at most 255 bytes: numbers as text, and names of kinds.
    fn short(&mut self, bytes: &[u8]) {
        self.0.push(u8::try_from(bytes.len()).expect("numbers and names of kinds are short"));
        self.0.extend_from_slice(bytes);
    }

    fn key(&mut self, key: &Key) {
        self.short(key.kind.name().as_bytes());
        let length = u16::try_from(key.id.len()).expect("ids are bounded far below 64 KiB");
        self.0.extend_from_slice(&length.to_le_bytes());
        self.0.extend_from_slice(key.id.as_bytes());
    }

    fn count(&mut self, count: usize) {
        let count = u32::try_from(count).expect("commits are bounded far below 4 GB");
        self.0.extend_from_slice(&count.to_le_bytes());
    }
}

/// What the script said to a batch.
pub(super) enum Answer {
    /// Each commit was judged.
    Judged { judged: Judged, accepted: bool },
    /// Effects are halted, for this reason.
    Halted(String),
    /// The store was accepted as it is, under this generation.
    Adopt { revision: Revision, generation: String },
}

/// A batch that was run.
pub(super) struct Judged {
    /// The store's generation.
    pub(super) generation: String,
    /// The server's time.
    pub(super) now: Timestamp,
    /// The last commit of the partition.
    pub(super) revision: Revision,
    /// One for each commit, see [`reply`].
    pub(super) replies: Vec<Value>,
}

/// Reads the script's reply to a batch.
pub(super) fn answer(value: Value) -> Result<Answer> {
    let mut parts = items(value)?.into_iter();
    let mut next = || parts.next().unwrap_or_default();
    let status = number(&next())?;
    let now = Timestamp::from_micros(number(&next())?);
    let revision = Revision::new(number(&next())?);
    let words = text(next())?;
    match status {
        0 => {
            let accepted = number(&next())? == 1;
            let replies = parts.collect();
            let judged = Judged { generation: words, now, revision, replies };
            Ok(Answer::Judged { judged, accepted })
        }
        1 => Ok(Answer::Halted(words)),
        2 => Ok(Answer::Adopt { revision, generation: words }),
        _ => Err(garbled("status")),
    }
}

/// Reads the answer to one commit of a batch. `None`: it was a straggler.
pub(super) fn reply(commit: &Commit, value: Value, now: Timestamp) -> Result<Option<Reply>> {
    if let Value::Int(_) = value {
        let revision = Revision::new(number(&value)?);
        return Ok(Some(Reply::Committed { revision, now }));
    }
    let mut parts = items(value)?.into_iter();
    let mut next = || parts.next().unwrap_or_default();
    let Value::Int(place) = next() else { return Err(garbled("answer")) };
    if place == STRAGGLER {
        return Ok(None);
    }
    if place == REPEATED {
        let revision = Revision::new(number(&next())?);
        let now = Timestamp::from_micros(number(&next())?);
        return Ok(Some(Reply::Committed { revision, now }));
    }
    let guard = usize::try_from(place).map_err(|_| garbled("guard"))?;
    let key = commit.guards.get(guard).ok_or_else(|| garbled("guard"))?.key();
    let found = record(key.clone(), next(), next(), next())?;
    Ok(Some(Reply::Conflict { guard, found, now }))
}

/// What `read.lua` found: the server's time, whether a page has more behind it, and for each id its
/// record, or nothing.
pub(super) struct Found {
    pub(super) now: Timestamp,
    pub(super) more: bool,
    pub(super) records: Vec<(Key, Option<Record>)>,
}

/// Reads the reply of `read.lua`; `kind` says of which kind the record at this place is.
pub(super) fn found(
    value: Value,
    partition: Partition,
    kind: impl Fn(usize) -> Option<Kind>,
) -> Result<Found> {
    let mut parts = items(value)?.into_iter();
    let now = Timestamp::from_micros(number(&parts.next().unwrap_or_default())?);
    let more = number(&parts.next().unwrap_or_default())? == 1;
    let mut records = Vec::with_capacity(parts.len() / 4);
    while let Some(id) = parts.next() {
        let mut next = || parts.next().unwrap_or_default();
        let kind = kind(records.len()).ok_or_else(|| garbled("records"))?;
        let key = Key::new(partition, kind, text(id)?);
        let record = record(key.clone(), next(), next(), next())?;
        records.push((key, record));
    }
    Ok(Found { now, more, records })
}

fn record(key: Key, value: Value, revision: Value, deadline: Value) -> Result<Option<Record>> {
    let revision = text(revision)?;
    if revision.is_empty() {
        return Ok(None);
    }
    let Value::BulkString(value) = value else { return Err(garbled("value")) };
    let revision = Revision::new(revision.parse().map_err(|_| garbled("revision"))?);
    let deadline = match text(deadline)? {
        none if none.is_empty() => None,
        micros => Some(Timestamp::from_micros(micros.parse().map_err(|_| garbled("deadline"))?)),
    };
    Ok(Some(Record { key, value, revision, deadline }))
}

pub(super) fn items(value: Value) -> Result<Vec<Value>> {
    if let Value::Array(items) = value { Ok(items) } else { Err(garbled("array")) }
}

pub(super) fn number(value: &Value) -> Result<u64> {
    if let Value::Int(number) = value {
        u64::try_from(*number).map_err(|_| garbled("number"))
    } else {
        Err(garbled("number"))
    }
}

pub(super) fn text(value: Value) -> Result<String> {
    if let Value::BulkString(bytes) = value {
        String::from_utf8(bytes).map_err(|_| garbled("text"))
    } else {
        Err(garbled("text"))
    }
}

/// The server answered in another form than our script does.
pub(super) fn garbled(what: &'static str) -> Error {
    Error::new(ErrorKind::Internal, format!("redis answered in an unexpected form: {what}"))
}
