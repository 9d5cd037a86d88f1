//! What may be done to a schedule, from any instance: put, pause, resume, delete, run now.
//!
//! Each reads, decides, and commits under the revision that was read; the leader's own commits may
//! come between, and then it reads again. The same commit rings the bell that the leader hears.

use super::definition::{Definition, ScheduleRequest, check_jitter, check_job_id};
use super::list::{CHUNK, ScheduleInfo, info};
use super::record::{self, Content, Found, Open, SCHEDULE, Standing, TickId, asked_key};
use super::{MAX_ASKED, MAX_SCHEDULES, Schedules, not_found, trail};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::name::check_name;
use crate::store::{Commit, Partition, Range, Reply, Revision};

/// How often a change is decided anew because the schedule changed meanwhile.
const MAX_RACES: usize = 32;
/// How often a commit whose outcome is unknown is sent again.
const MAX_REPEATS: usize = 3;

/// What a put did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Putting {
    /// There was none, or it was about to go.
    Created,
    /// It was another.
    Replaced,
    /// It was the same already.
    Unchanged,
}

/// A schedule that was put.
#[derive(Debug, Clone, PartialEq)]
pub struct Put {
    /// What that did.
    pub putting: Putting,
    /// As it stands.
    pub schedule: ScheduleInfo,
}

/// What is done about ticks that were due while a schedule was paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Resume {
    /// None of them runs.
    #[default]
    FromNow,
    /// They are late, and the grace and the misfire policy decide.
    CatchUp,
}

/// A tick that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The name under which it was asked for.
    pub name: String,
    /// The key of its job.
    pub job_key: String,
    /// Whether it had been asked for under that name before.
    pub replayed: bool,
}

/// What a change comes to.
enum Change<T> {
    /// Nothing is to be written.
    Keep(T, Content),
    /// This is to be written.
    Write(T, Content),
    /// The record is to go.
    Remove(T),
}

impl Schedules {
    /// Creates a schedule, or replaces its definition. The same definition again changes nothing.
    ///
    /// With another expression or time zone it is due next as they say, counted from now. Ticks that
    /// were begun go on as they were. A paused schedule stays paused.
    ///
    /// # Errors
    /// `Invalid` for a request outside the limits, with what would be right; nothing is written.
    /// `Busy` if there are too many schedules, or ticks in progress under too many definitions.
    pub async fn put(&self, request: &ScheduleRequest) -> Result<Put> {
        let (definition, expression) = Definition::of(request)?;
        let is_new = self.read(&request.job_id).await?.0.is_none();
        if is_new && self.count().await? >= MAX_SCHEDULES {
            let message = format!("there are {MAX_SCHEDULES} schedules, which is the most");
            return Err(Error::new(ErrorKind::Busy, message));
        }
        let changed = self.change(&request.job_id, |found, now| {
            let next_due = expression.next_after(now);
            let Some(mut content) = found else {
                check_jitter(&expression, request.jitter, now)?;
                let content = Content::new(definition.clone(), next_due, now);
                return Ok(Change::Write(Putting::Created, content));
            };
            let current = &content.current().definition;
            let ending = content.standing == Standing::Ending;
            if *current == definition && !ending {
                return Ok(Change::Keep(Putting::Unchanged, content));
            }
            check_jitter(&expression, request.jitter, now)?;
            let same_times = current.schedule_expression == definition.schedule_expression
                && current.time_zone == definition.time_zone;
            content.redefine(definition.clone())?;
            if ending {
                content.standing = Standing::Active;
            }
            if ending || !same_times {
                content.next_due = next_due;
            }
            let putting = if ending { Putting::Created } else { Putting::Replaced };
            Ok(Change::Write(putting, content))
        });
        let (putting, content) = changed.await?;
        tracing::info!(schedule = request.job_id, ?putting, "schedule_put");
        let content = content.ok_or_else(|| not_found(&request.job_id))?;
        Ok(Put { putting, schedule: info(&request.job_id, &content) })
    }

    /// Stops beginning ticks until it is resumed. Those that have started go on; one that was begun
    /// and has no job yet is let go by the leader, and counted as skipped. Done twice, it changes
    /// nothing.
    ///
    /// # Errors
    /// `NotFound` if there is none, or it is about to go.
    pub async fn pause(&self, job_id: &str) -> Result<ScheduleInfo> {
        self.operate(job_id, |content, _| {
            let change = content.standing != Standing::Paused;
            content.standing = Standing::Paused;
            Ok(change)
        })
        .await
    }

    /// Goes on with a paused schedule. Done twice, it changes nothing.
    ///
    /// # Errors
    /// As [`pause`](Schedules::pause).
    pub async fn resume(&self, job_id: &str, resume: Resume) -> Result<ScheduleInfo> {
        self.operate(job_id, |content, now| {
            if content.standing != Standing::Paused {
                return Ok(false);
            }
            content.standing = Standing::Active;
            match resume {
                Resume::FromNow => {
                    let expression = content.current().definition.expression()?;
                    content.next_due = expression.next_after(now);
                }
                Resume::CatchUp => {}
            }
            Ok(true)
        })
        .await
    }

    /// Deletes a schedule: no tick is begun or started any more, and what has a job already is
    /// finished first, during which it is shown as ending.
    ///
    /// # Errors
    /// `NotFound` if there is none.
    pub async fn delete(&self, job_id: &str) -> Result<()> {
        let changed = self.change(job_id, |found, _| {
            let Some(mut content) = found else { return Err(not_found(job_id)) };
            if content.open.is_empty() {
                return Ok(Change::Remove(()));
            }
            if content.standing == Standing::Ending {
                return Ok(Change::Keep((), content));
            }
            content.standing = Standing::Ending;
            content.next_due = None;
            Ok(Change::Write((), content))
        });
        changed.await?;
        tracing::info!(schedule = job_id, "schedule_deleted");
        Ok(())
    }

    /// Asks for a tick now, also of a schedule that is paused. The leader runs it within a second,
    /// after those that run unless ticks may overlap.
    ///
    /// Asked again under the same name, it is the same tick, as long as its job is remembered.
    ///
    /// # Errors
    /// `NotFound` if there is no such schedule, or it is about to go. `Busy` if too many were asked
    /// for. `Invalid` for a name outside the limits.
    pub async fn run_now(&self, job_id: &str, name: Option<&str>) -> Result<Asked> {
        check_job_id(job_id)?;
        let name = name.map_or_else(|| self.0.clock.random_id(), str::to_owned);
        check_name("idempotency key", &name, 255)?;
        let job_key = asked_key(job_id, &name);
        for _ in 0..MAX_RACES {
            let (found, now) = self.read(job_id).await?;
            let found = found.filter(|found| found.content.standing != Standing::Ending);
            let Some(Found { revision, mut content }) = found else {
                return Err(not_found(job_id));
            };
            let is_open = content.open.iter().any(|open| open.tick.job_key(job_id) == job_key);
            // One that has ended was claimed before it was let go.
            if is_open || self.has_job(&job_key).await? {
                return Ok(Asked { name, job_key, replayed: true });
            }
            let asked = |open: &&Open| matches!(open.tick, TickId::Asked { .. });
            if content.open.iter().filter(asked).count() >= MAX_ASKED {
                let message =
                    format!("{MAX_ASKED} ticks of schedule {job_id:?} were asked for and wait");
                return Err(Error::new(ErrorKind::Busy, message));
            }
            let version = content.current().version;
            let tick = TickId::Asked { name: name.clone(), at_us: now.as_micros() };
            content.open.push(Open { tick, version });
            content.counts.begun += 1;
            let entered = trail::asked(&self.0.scribe, job_id, revision, &job_key);
            let commit = record::change(job_id, Some(revision), Some(&content), entered)?;
            if self.committed(&commit).await? {
                tracing::info!(schedule = job_id, job_key, "schedule_tick_asked_for");
                return Ok(Asked { name, job_key, replayed: false });
            }
        }
        Err(changes_too_fast(job_id))
    }

    pub(super) async fn has_job(&self, job_key: &str) -> Result<bool> {
        Ok(self.job(job_key).await?.is_some())
    }

    async fn operate(
        &self,
        job_id: &str,
        change: impl Fn(&mut Content, Timestamp) -> Result<bool>,
    ) -> Result<ScheduleInfo> {
        let changed = self.change(job_id, |found, now| {
            let found = found.filter(|content| content.standing != Standing::Ending);
            let Some(mut content) = found else { return Err(not_found(job_id)) };
            match change(&mut content, now)? {
                true => Ok(Change::Write((), content)),
                false => Ok(Change::Keep((), content)),
            }
        });
        let ((), content) = changed.await?;
        let content = content.ok_or_else(|| not_found(job_id))?;
        tracing::info!(schedule = job_id, standing = content.standing.name(), "schedule_changed");
        Ok(info(job_id, &content))
    }

    /// Reads, decides and commits until nothing came between.
    async fn change<T>(
        &self,
        job_id: &str,
        decide: impl Fn(Option<Content>, Timestamp) -> Result<Change<T>>,
    ) -> Result<(T, Option<Content>)> {
        check_job_id(job_id)?;
        for _ in 0..MAX_RACES {
            let (found, now) = self.read(job_id).await?;
            let from = found.as_ref().map(|found| (found.revision, found.content.standing));
            let revision: Option<Revision> = from.map(|(revision, _)| revision);
            let (told, content) = match decide(found.map(|found| found.content), now)? {
                Change::Keep(told, content) => return Ok((told, Some(content))),
                Change::Write(told, content) => {
                    (told, Some(Content { changed_at: now, ..content }))
                }
                Change::Remove(told) => (told, None),
            };
            let entered = trail::change(&self.0.scribe, job_id, from, content.as_ref());
            let commit = record::change(job_id, revision, content.as_ref(), entered)?;
            if self.committed(&commit).await? {
                return Ok((told, content));
            }
        }
        Err(changes_too_fast(job_id))
    }

    /// Whether a commit was applied; one whose answer was lost is sent again.
    async fn committed(&self, commit: &Commit) -> Result<bool> {
        let mut unknown = None;
        for _ in 0..=MAX_REPEATS {
            match self.0.store.commit(commit).await {
                Ok(Reply::Committed { .. }) => return Ok(true),
                Ok(Reply::Conflict { .. }) => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Unknown => unknown = Some(error),
                // It is not known what became of the first sending.
                Err(error) if unknown.is_some() => {
                    let message = error.message().to_owned();
                    return Err(Error::new(ErrorKind::Unknown, message).with_source(error));
                }
                Err(error) => return Err(error),
            }
        }
        Err(unknown.unwrap_or_else(|| Error::new(ErrorKind::Internal, "no commit was sent")))
    }

    /// A schedule as it is, and the store's time.
    pub(super) async fn read(&self, job_id: &str) -> Result<(Option<Found>, Timestamp)> {
        check_job_id(job_id)?;
        let read = self.0.store.get(&[record::key(job_id)]).await?;
        let record = read.records.into_iter().flatten().next();
        Ok((record.map(|record| Found::of(&record)).transpose()?, read.now))
    }

    /// How many schedules there are, counted up to the most that there may be.
    async fn count(&self) -> Result<usize> {
        let (mut count, mut after) = (0, None);
        loop {
            let range = Range::new(Partition::FIRST, SCHEDULE, "").after(after);
            let page = self.0.store.scan(&range, CHUNK).await?;
            count += page.records.len();
            if !page.more || count >= MAX_SCHEDULES {
                return Ok(count);
            }
            after = page.records.last().map(|record| record.key.id.to_string());
        }
    }
}

fn changes_too_fast(job_id: &str) -> Error {
    Error::new(ErrorKind::Busy, format!("schedule {job_id:?} changes too fast; nothing was done"))
}
