//! What is stored of a schedule, and how a change of it is committed.
//!
//! One record holds everything: what the schedule is, what is due next, which ticks were begun and
//! are not known to have ended, how the last one ended, and counts. Whoever changes it does so under
//! its revision; the leader does so under its fence as well. Whoever else changes it rings a bell,
//! a record of its own, so that the leader need not read all schedules to learn that one changed.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::MAX_OPEN;
use super::decide::{Overlap, jitter};
use super::definition::Definition;
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::store::{Commit, Deadline, Guard, Key, Kind, Partition, Record, Revision, Write};

/// A schedule. Key: its job id.
pub(crate) const SCHEDULE: Kind = Kind::new("schedule");
/// What tells the leader that a schedule was changed. Key: `all`.
pub(crate) const SCHEDULE_BELL: Kind = Kind::new("schedule-bell");

/// How many definitions that were replaced may still be in use by ticks that were begun under them.
pub(super) const MAX_EARLIER: usize = 4;

/// Whether a schedule begins ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It does.
    Active,
    /// It waits to be resumed; ticks that have started go on.
    Paused,
    /// It is deleted, and goes when the ticks that have started have ended.
    Ending,
}

impl Standing {
    /// Its name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Standing::Active => "active",
            Standing::Paused => "paused",
            Standing::Ending => "ending",
        }
    }
}

/// Which tick of its schedule.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum TickId {
    /// The one that was due then.
    Due(u64),
    /// One that somebody asked for, under this name, then.
    Asked { name: String, at_us: u64 },
}

impl TickId {
    /// When it was due.
    pub(super) fn at(&self) -> Timestamp {
        match self {
            TickId::Due(at) | TickId::Asked { at_us: at, .. } => Timestamp::from_micros(*at),
        }
    }

    /// The key of its job.
    pub(super) fn job_key(&self, job_id: &str) -> String {
        match self {
            TickId::Due(at) => due_key(job_id, Timestamp::from_micros(*at)),
            TickId::Asked { name, .. } => asked_key(job_id, name),
        }
    }
}

/// The key of the job of the tick that was due then.
pub(super) fn due_key(job_id: &str, due: Timestamp) -> String {
    let micros = i64::try_from(due.as_micros()).unwrap_or(i64::MAX);
    match jiff::Timestamp::from_microsecond(micros) {
        Ok(due) => format!("{job_id}@{due}"),
        Err(_) => format!("{job_id}@{micros}"),
    }
}

/// The key of the job of a tick that was asked for under this name.
pub(super) fn asked_key(job_id: &str, name: &str) -> String {
    format!("{job_id}@now:{name}")
}

/// A tick that was begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Open {
    pub(super) tick: TickId,
    /// Under which definition.
    pub(super) version: u32,
}

/// A definition, numbered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Versioned {
    pub(super) version: u32,
    pub(super) definition: Definition,
}

/// How a tick ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TickOutcome {
    /// Its job is completed.
    Completed,
    /// Its last attempt failed.
    Failed,
    /// Somebody cancelled its job.
    Cancelled,
}

/// The tick that ended last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastRun {
    /// When it was due.
    pub scheduled_time: Timestamp,
    /// When it was found begun by the instance that saw its end.
    pub started_at: Timestamp,
    /// When its end was seen.
    pub ended_at: Timestamp,
    /// How it ended.
    pub outcome: TickOutcome,
    /// Why it failed or was cancelled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The key of its job.
    pub job_key: String,
}

/// How often what became of ticks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Ticks that were begun, those that were asked for included.
    pub begun: u64,
    /// Ticks whose job was completed.
    pub completed: u64,
    /// Ticks whose job failed for good or was cancelled.
    pub failed: u64,
    /// Ticks that did not run because the one before them still did, or because the schedule was
    /// paused or deleted before they started.
    pub skipped: u64,
    /// Ticks that did not run because they were too late; where very many were passed over at once,
    /// at least so many.
    pub misfired: u64,
}

/// What is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Content {
    pub(super) standing: Standing,
    /// The current definition is the last; those before it are in use by open ticks.
    pub(super) definitions: Vec<Versioned>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) next_due: Option<Timestamp>,
    pub(super) open: Vec<Open>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) last_run: Option<LastRun>,
    pub(super) counts: Counts,
    pub(super) created_at: Timestamp,
    pub(super) changed_at: Timestamp,
}

impl Content {
    /// A schedule that begins.
    pub(super) fn new(definition: Definition, next_due: Option<Timestamp>, now: Timestamp) -> Self {
        Content {
            standing: Standing::Active,
            definitions: vec![Versioned { version: 1, definition }],
            next_due,
            open: Vec::new(),
            last_run: None,
            counts: Counts::default(),
            created_at: now,
            changed_at: now,
        }
    }

    /// What it is now.
    pub(super) fn current(&self) -> &Versioned {
        self.definitions.last().expect("a schedule has a definition, as decode has checked")
    }

    /// The definition under which a tick was begun.
    pub(super) fn definition_of(&self, open: &Open) -> &Definition {
        let found = self.definitions.iter().find(|known| known.version == open.version);
        &found.unwrap_or(self.current()).definition
    }

    /// How many of its ticks run at once.
    pub(super) fn at_once(&self) -> usize {
        match self.current().definition.overlap {
            Overlap::Allow => MAX_OPEN,
            Overlap::Queue | Overlap::Skip => 1,
        }
    }

    /// When a tick that is open starts at the earliest.
    pub(super) fn moment(&self, job_id: &str, open: &Open) -> Timestamp {
        let at = open.tick.at();
        match open.tick {
            TickId::Due(_) => {
                let most = Duration::from_micros(self.definition_of(open).jitter_us);
                at + jitter(job_id, at, most)
            }
            TickId::Asked { .. } => at,
        }
    }

    /// Ticks that do not start any more, if they have not. What was asked for runs also while the
    /// schedule is paused.
    pub(super) fn unwanted(&self) -> impl Iterator<Item = &TickId> {
        self.open.iter().map(|open| &open.tick).filter(|tick| match self.standing {
            Standing::Active => false,
            Standing::Paused => matches!(tick, TickId::Due(_)),
            Standing::Ending => true,
        })
    }

    /// Lets go what does not start any more, as if it had not been begun but skipped, and returns
    /// how many that were.
    pub(super) fn let_go(&mut self, not_started: &[TickId]) -> u64 {
        let before = self.open.len();
        self.open.retain(|open| !not_started.contains(&open.tick));
        let dropped = (before - self.open.len()) as u64;
        self.counts.begun = self.counts.begun.saturating_sub(dropped);
        self.counts.skipped += dropped;
        dropped
    }

    /// Puts another definition in the place of the current one.
    ///
    /// # Errors
    /// `Busy` if ticks are in progress under too many others.
    pub(super) fn redefine(&mut self, definition: Definition) -> Result<()> {
        let version = self.current().version + 1;
        self.forget_unused();
        let unused = !self.open.iter().any(|open| open.version == self.current().version);
        if unused {
            self.definitions.pop();
        }
        if self.definitions.len() > MAX_EARLIER {
            return Err(Error::new(
                ErrorKind::Busy,
                format!(
                    "ticks are in progress under {} earlier definitions of this schedule; change \
                     it when they have ended",
                    self.definitions.len()
                ),
            ));
        }
        self.definitions.push(Versioned { version, definition });
        Ok(())
    }

    /// Forgets earlier definitions that no tick needs.
    pub(super) fn forget_unused(&mut self) {
        let current = self.current().version;
        let open = &self.open;
        self.definitions.retain(|known| {
            known.version == current || open.iter().any(|open| open.version == known.version)
        });
    }
}

/// A schedule as it was read.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) revision: Revision,
    pub(super) content: Content,
}

impl Found {
    pub(super) fn of(record: &Record) -> Result<Self> {
        let unreadable = |why: String| {
            let message = format!("stored {} cannot be read: {why}", record.key);
            Error::new(ErrorKind::Internal, message)
        };
        let content: Content =
            serde_json::from_slice(&record.value).map_err(|error| unreadable(error.to_string()))?;
        if content.definitions.is_empty() {
            return Err(unreadable("it has no definition".into()));
        }
        Ok(Found { revision: record.revision, content })
    }
}

pub(super) fn key(job_id: &str) -> Key {
    Key::new(Partition::FIRST, SCHEDULE, job_id)
}

pub(super) fn bell() -> Key {
    Key::new(Partition::FIRST, SCHEDULE_BELL, "all")
}

fn put(job_id: &str, content: &Content) -> Result<Write> {
    let value = serde_json::to_vec(content).map_err(|error| {
        Error::new(ErrorKind::Internal, "a schedule has no JSON form").with_source(error)
    })?;
    Ok(Write::Put { key: key(job_id), value, deadline: Deadline::Never })
}

/// The commit of the leader that goes on with a schedule, or lets it go.
pub(super) fn advance(
    job_id: &str,
    from: Revision,
    leader: Guard,
    content: Option<&Content>,
    entered: Vec<Write>,
) -> Result<Commit> {
    let write = match content {
        Some(content) => put(job_id, content)?,
        None => Write::Delete { key: key(job_id) },
    };
    let guards = vec![Guard::RevisionIs(key(job_id), from), leader];
    let writes = std::iter::once(write).chain(entered).collect();
    Commit::new(Partition::FIRST, guards, writes, Vec::new())
}

/// The commit of whoever changes a schedule for a person.
pub(super) fn change(
    job_id: &str,
    from: Option<Revision>,
    content: Option<&Content>,
    entered: Option<Write>,
) -> Result<Commit> {
    let guard = match from {
        Some(revision) => Guard::RevisionIs(key(job_id), revision),
        None => Guard::Absent(key(job_id)),
    };
    let write = match content {
        Some(content) => put(job_id, content)?,
        None => Write::Delete { key: key(job_id) },
    };
    let rung = serde_json::to_vec(job_id).map_err(|error| {
        Error::new(ErrorKind::Internal, "a name has no JSON form").with_source(error)
    })?;
    let ring = Write::Put { key: bell(), value: rung, deadline: Deadline::Never };
    let writes = [write, ring].into_iter().chain(entered).collect();
    Commit::new(Partition::FIRST, vec![guard], writes, vec![bell()])
}
