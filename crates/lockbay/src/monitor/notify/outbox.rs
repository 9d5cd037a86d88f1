//! How notices are kept: one record each, and entries of an index that say what is to be done.
//!
//! A record is written in the commit of the moves that it tells of, with one entry `todo/` for each
//! channel. What a channel has come to is written into the record, and its entry goes. When none is
//! left, the notice moves from those that are pending to those that are delivered, or to the dead
//! letters if a channel gave it up.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::lane::{Progress, Standing};
use super::notice::Notice;
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::store::{Deadline, Key, Kind, Partition, Record, Revision, Write};

/// A notice and how far it has come. Key: its id.
pub(super) const NOTICE: Kind = Kind::new("alert-notice");
/// What is to be delivered, and the notices by how they stand.
pub(super) const NOTICE_LIST: Kind = Kind::index("alert-notice-list");
/// How entries begin that say what a channel is to deliver.
pub(super) const WAITING: &str = "todo/";

/// How a notice stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoticeStatus {
    /// Some channel is still to deliver it.
    Pending,
    /// Every channel has delivered it.
    Delivered,
    /// Some channel gave it up, and none is to deliver it any more: a dead letter.
    Dead,
}

impl NoticeStatus {
    /// All of them.
    pub const ALL: [NoticeStatus; 3] =
        [NoticeStatus::Pending, NoticeStatus::Delivered, NoticeStatus::Dead];

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            NoticeStatus::Pending => "pending",
            NoticeStatus::Delivered => "delivered",
            NoticeStatus::Dead => "dead",
        }
    }
}

/// A notice as it is stored and shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// What is told.
    pub notice: Notice,
    /// How it stands.
    pub status: NoticeStatus,
    /// By channel, how far it has come.
    pub channels: BTreeMap<String, Progress>,
    /// Its place among all notices.
    #[serde(default)]
    pub(super) order: u64,
    /// When it came to stand as it does.
    pub changed_at: Timestamp,
}

impl Kept {
    /// One that nobody has delivered yet.
    pub(super) fn new(notice: Notice, order: u64, channels: &[String]) -> Self {
        let at = notice.at;
        let begun = |name: &String| (name.clone(), Progress::new(at));
        let channels = channels.iter().map(begun).collect();
        Kept { notice, status: NoticeStatus::Pending, channels, order, changed_at: at }
    }

    pub(super) fn decode(record: &Record) -> Result<Self> {
        serde_json::from_slice(&record.value).map_err(|error| {
            let message = format!("this notice cannot be read: {}", record.key);
            Error::new(ErrorKind::Internal, message).with_source(error)
        })
    }

    fn put(&self) -> Result<Write> {
        let value = serde_json::to_vec(self).map_err(|error| {
            Error::new(ErrorKind::Internal, "a notice has no JSON form").with_source(error)
        })?;
        Ok(Write::Put { key: key(&self.notice.id), value, deadline: Deadline::Never })
    }

    /// The writes that put it where nobody knows of it yet.
    pub(super) fn begin(&self) -> Result<Vec<Write>> {
        let mut writes = vec![self.put()?, Write::Mark { key: self.place() }];
        writes.extend(self.channels.keys().map(|channel| Write::Mark { key: self.todo(channel) }));
        Ok(writes)
    }

    /// What an attempt on a channel has come to.
    pub(super) fn came_to(&mut self, channel: &str, progress: Progress) {
        self.channels.insert(channel.to_owned(), progress);
    }

    /// The writes of what has been entered since it was read, at this moment.
    pub(super) fn settle(&mut self, now: Timestamp) -> Result<Vec<Write>> {
        let waits = |progress: &Progress| progress.next().is_some();
        let mut writes: Vec<Write> = self
            .channels
            .iter()
            .filter(|(_, progress)| !waits(progress))
            .map(|(channel, _)| Write::Delete { key: self.todo(channel) })
            .collect();
        if !self.channels.values().any(waits) {
            writes.push(Write::Delete { key: self.place() });
            let dead = |progress: &Progress| matches!(progress.standing, Standing::Dead { .. });
            self.status = match self.channels.values().any(dead) {
                true => NoticeStatus::Dead,
                false => NoticeStatus::Delivered,
            };
            self.changed_at = now;
            writes.push(Write::Mark { key: self.place() });
        }
        writes.push(self.put()?);
        Ok(writes)
    }

    /// Tries the channels again that gave it up. The writes of it; none if there are no such.
    pub(super) fn revive(&mut self, now: Timestamp) -> Result<Vec<Write>> {
        if self.status != NoticeStatus::Dead {
            return Ok(Vec::new());
        }
        let mut writes = vec![Write::Delete { key: self.place() }];
        for (channel, progress) in &mut self.channels {
            if matches!(progress.standing, Standing::Dead { .. }) {
                *progress = Progress::new(now);
                writes.push(Write::Mark { key: todo(channel, self.order, &self.notice.id) });
            }
        }
        (self.status, self.changed_at) = (NoticeStatus::Pending, now);
        writes.extend([Write::Mark { key: self.place() }, self.put()?]);
        Ok(writes)
    }

    /// Every write that lets nothing of it stay.
    pub(super) fn forget(&self) -> Vec<Write> {
        let deleted = |key| Write::Delete { key };
        let todo = self.channels.keys().map(|channel| deleted(self.todo(channel)));
        todo.chain([deleted(self.place()), deleted(key(&self.notice.id))]).collect()
    }

    /// The entry that says that this channel is to deliver it.
    pub(super) fn todo(&self, channel: &str) -> Key {
        todo(channel, self.order, &self.notice.id)
    }

    /// Where it stands among those that stand alike: the latest first.
    fn place(&self) -> Key {
        let name = self.status.name();
        let place = places(self.status, self.changed_at);
        debug_assert!(place.starts_with(name));
        list(format!("{place}/{}", self.notice.id))
    }
}

/// How the places begin of notices that came to stand like this at this moment.
pub(super) fn places(status: NoticeStatus, at: Timestamp) -> String {
    format!("{}/{:016x}", status.name(), u64::MAX - at.as_micros())
}

pub(super) fn key(id: &str) -> Key {
    Key::new(Partition::FIRST, NOTICE, id)
}

pub(super) fn list(id: String) -> Key {
    Key::new(Partition::FIRST, NOTICE_LIST, id)
}

/// The entry that says that a channel is to deliver a notice; entries of a channel are in the
/// order of notices.
pub(super) fn todo(channel: &str, order: u64, id: &str) -> Key {
    list(format!("{WAITING}{channel}/{order:016x}/{id}"))
}

/// The notice behind an entry.
pub(super) fn behind(entry: &str) -> &str {
    entry.rsplit('/').next().unwrap_or(entry)
}

/// A notice as it was read.
#[derive(Debug, Clone)]
pub(super) struct Loaded {
    pub(super) kept: Kept,
    pub(super) revision: Revision,
}

impl Loaded {
    pub(super) fn of(record: &Record) -> Result<Self> {
        Ok(Loaded { kept: Kept::decode(record)?, revision: record.revision })
    }
}
