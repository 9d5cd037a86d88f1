//! How commits go out and answers come back: MessagePack towards the script, RESP from it.
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

/// A commit as the script takes it, without its [`values`]. The layout stands in
/// `redis_commit.lua`.
pub(super) fn encode(commit: &Commit) -> Vec<u8> {
    let keys = commit.guards.len() + commit.writes.len() + commit.hints.len();
    let mut out = Pack(Vec::with_capacity(64 + 128 * keys));
    out.array(6);
    out.bytes(commit.operation.slot.to_string().as_bytes());
    out.bytes(commit.operation.sequence.to_string().as_bytes());
    out.number(u64::try_from(values(commit).count()).unwrap_or(u64::MAX));
    out.array(commit.guards.len() * 4);
    commit.guards.iter().for_each(|guard| encode_guard(&mut out, guard));
    out.array(commit.writes.len() * 4);
    commit.writes.iter().for_each(|write| encode_write(&mut out, write));
    out.array(commit.hints.len() * 2);
    commit.hints.iter().for_each(|key| out.key(key));
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
    out.number(what);
    out.key(guard.key());
    // As text: the script compares it with the text in the record.
    out.bytes(revision.map(Revision::to_string).unwrap_or_default().as_bytes());
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
    out.number(what);
    out.key(write.key());
    match ttl {
        Some(ttl) => out.number(micros(ttl)),
        None => out.minus_one(),
    }
}

/// As much of MessagePack as a commit needs.
struct Pack(Vec<u8>);

impl Pack {
    fn array(&mut self, items: usize) {
        self.head(items, 15, 0x90, [None, Some(0xdc), Some(0xdd)]);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.head(bytes.len(), 31, 0xa0, [Some(0xd9), Some(0xda), Some(0xdb)]);
        self.0.extend_from_slice(bytes);
    }

    /// A length: in the first byte where it fits, else in 1, 2 or 4 bytes behind their mark.
    fn head(&mut self, length: usize, most: u8, short: u8, marks: [Option<u8>; 3]) {
        let [one, two, four] = marks;
        match (u8::try_from(length), u16::try_from(length), u32::try_from(length)) {
            (Ok(length), _, _) if length <= most => self.0.push(short | length),
            (Ok(length), _, _) if one.is_some() => {
                self.0.extend(one);
                self.0.push(length);
            }
            (_, Ok(length), _) => {
                self.0.extend(two);
                self.0.extend_from_slice(&length.to_be_bytes());
            }
            (_, _, length) => {
                let length = length.expect("values and commits are bounded far below 4 GB");
                self.0.extend(four);
                self.0.extend_from_slice(&length.to_be_bytes());
            }
        }
    }

    fn number(&mut self, number: u64) {
        match u8::try_from(number) {
            Ok(small) if small < 0x80 => self.0.push(small),
            Ok(_) | Err(_) => {
                self.0.push(0xcf);
                self.0.extend_from_slice(&number.to_be_bytes());
            }
        }
    }

    fn minus_one(&mut self) {
        self.0.push(0xff);
    }

    fn key(&mut self, key: &Key) {
        self.bytes(key.kind.name().as_bytes());
        self.bytes(key.id.as_bytes());
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
