//! Looking at schedules: one, many, and when one is due next.

use serde::Serialize;

use super::decide::{Misfire, Overlap};
use super::definition::TickPlace;
use super::expression::Expression;
use super::record::{Content, Counts, Found, LastRun, SCHEDULE, Standing};
use super::{Schedules, not_found};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::job::{JobFilter, JobInfo};
use crate::json::Json;
use crate::store::{MAX_PAGE, Partition, Range};

/// How many due times are told at once.
pub const MAX_UPCOMING: usize = 1_000;
/// How many schedules one call looks at before it returns what it has.
const MAX_LOOKED_AT: usize = 2 * MAX_PAGE;
/// Schedules read at once: each may have 64 KiB.
pub(super) const CHUNK: usize = 100;
/// Of how many ticks in progress the job is looked up.
const MAX_JOBS_SHOWN: usize = 8;

/// A tick that was begun and is not known to have ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OpenTick {
    /// When it was due.
    pub scheduled_time: Timestamp,
    /// The key of its job.
    pub job_key: String,
    /// Its job, where it was looked up and found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job_id: Option<String>,
    /// The attempt in progress, or the last that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// Why the last attempt failed, if the next is waited for; or why there is none, which only the
    /// instance knows where it is tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A schedule as it stands.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs)] // the names say it; see ScheduleRequest
pub struct ScheduleInfo {
    pub job_id: String,
    pub job_type: String,
    pub schedule_expression: String,
    pub time_zone: String,
    pub parameters: Json,
    pub handler: String,
    pub leader_only: bool,
    pub misfire: Misfire,
    pub misfire_grace_seconds: f64,
    pub jitter_seconds: f64,
    pub overlap: Overlap,
    pub max_retries: Option<u32>,
    pub timeout_seconds: Option<f64>,
    /// `active`, `paused`, `ending`.
    pub status: Standing,
    /// The next due time that is not decided; of a paused schedule the first that it passed over.
    pub next_due: Option<Timestamp>,
    /// Why it stands still, if its expression or zone cannot be read by this instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    pub in_progress: Vec<OpenTick>,
    pub last_run: Option<LastRun>,
    pub counts: Counts,
    pub created_at: Timestamp,
    /// When somebody last changed it.
    pub changed_at: Timestamp,
}

/// Which schedules to list.
#[derive(Debug, Clone, Default)]
pub struct ScheduleFilter {
    /// Only those that stand so.
    pub status: Option<Standing>,
    /// Only those of this job type.
    pub job_type: Option<String>,
    /// Only those with this handler.
    pub handler: Option<String>,
}

/// A page of schedules, in the order of their names.
#[derive(Debug, Clone, PartialEq)]
pub struct SchedulePage {
    /// The schedules.
    pub items: Vec<ScheduleInfo>,
    /// Where to go on, if there may be more.
    pub next: Option<String>,
}

/// When a schedule is due next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Upcoming {
    /// In UTC, the first at its next due time.
    pub due: Vec<Timestamp>,
    /// Where its expression is read.
    pub time_zone: String,
}

impl Expression {
    /// The next due times after a moment, at most `count` of them.
    pub fn upcoming(&self, after: Timestamp, count: usize) -> Vec<Timestamp> {
        let next = |due: &Timestamp| self.next_after(*due);
        std::iter::successors(self.next_after(after), next).take(count).collect()
    }
}

impl Schedules {
    /// A schedule as it stands, with the attempts of its ticks in progress.
    ///
    /// # Errors
    /// `NotFound` if there is none.
    pub async fn show(&self, job_id: &str) -> Result<ScheduleInfo> {
        let (found, _) = self.read(job_id).await?;
        let Some(found) = found else { return Err(not_found(job_id)) };
        let mut info = info(job_id, &found.content);
        for open in info.in_progress.iter_mut().take(MAX_JOBS_SHOWN) {
            match self.job(&open.job_key).await {
                Ok(Some(job)) => {
                    open.job_id = Some(job.job_id);
                    open.attempt = Some(job.attempt);
                    open.error = job.error;
                }
                Ok(None) => {}
                // It cannot be read, and that is what is to be seen.
                Err(error) if error.kind() == ErrorKind::Internal => {
                    open.error = Some(error.to_string());
                }
                Err(error) => return Err(error),
            }
        }
        let troubles = self.0.troubles.lock();
        for open in &mut info.in_progress {
            open.error = troubles.get(&open.job_key).cloned().or(open.error.take());
        }
        drop(troubles);
        Ok(info)
    }

    pub(super) async fn job(&self, job_key: &str) -> Result<Option<JobInfo>> {
        let filter = JobFilter { job_key: Some(job_key.to_owned()), ..JobFilter::default() };
        Ok(self.0.jobs.list(&filter, None, 1).await?.items.into_iter().next())
    }

    /// Schedules that match, in the order of their names, at most `limit` of them, going on after
    /// `next` of an earlier page. A page may hold fewer than there are, with `next` set.
    ///
    /// # Errors
    /// `Internal` for one that cannot be read.
    pub async fn list(
        &self,
        filter: &ScheduleFilter,
        next: Option<String>,
        limit: usize,
    ) -> Result<SchedulePage> {
        let limit = limit.clamp(1, MAX_PAGE);
        let (mut items, mut after, mut looked_at) = (Vec::new(), next, 0);
        loop {
            let range = Range::new(Partition::FIRST, SCHEDULE, "").after(after);
            let page = self.0.store.scan(&range, CHUNK.min(limit)).await?;
            looked_at += page.records.len();
            let last = page.records.last().map(|record| record.key.id.to_string());
            for record in &page.records {
                let schedule = info(&record.key.id, &Found::of(record)?.content);
                if matches(filter, &schedule) {
                    items.push(schedule);
                }
                if items.len() == limit {
                    let place = record.key.id.to_string();
                    let more = page.more || Some(&place) != last.as_ref();
                    return Ok(SchedulePage { items, next: more.then_some(place) });
                }
            }
            if !page.more || looked_at >= MAX_LOOKED_AT {
                return Ok(SchedulePage { items, next: last.filter(|_| page.more) });
            }
            after = last;
        }
    }

    /// When a schedule is due next: the next `count` times, at most 1,000, from its next due time
    /// on. A paused schedule is told as if it were resumed now.
    ///
    /// # Errors
    /// `NotFound` if there is none, `Invalid` for a count outside the limit.
    pub async fn upcoming(&self, job_id: &str, count: usize) -> Result<Upcoming> {
        if !(1..=MAX_UPCOMING).contains(&count) {
            return Err(Error::invalid(format!("count is from 1 to {MAX_UPCOMING}, not {count}")));
        }
        let (found, now) = self.read(job_id).await?;
        let Some(Found { content, .. }) = found else { return Err(not_found(job_id)) };
        let definition = &content.current().definition;
        let expression = definition.expression()?;
        let due = match (content.standing, content.next_due) {
            (Standing::Active, Some(first)) => {
                let mut due = vec![first];
                due.extend(expression.upcoming(first, count - 1));
                due
            }
            (Standing::Active, None) | (Standing::Ending, _) => Vec::new(),
            (Standing::Paused, _) => expression.upcoming(now, count),
        };
        Ok(Upcoming { due, time_zone: definition.time_zone.clone() })
    }
}

fn matches(filter: &ScheduleFilter, schedule: &ScheduleInfo) -> bool {
    filter.status.is_none_or(|status| status == schedule.status)
        && filter.job_type.as_ref().is_none_or(|wanted| *wanted == schedule.job_type)
        && filter.handler.as_ref().is_none_or(|wanted| *wanted == schedule.handler)
}

/// A schedule as it is shown.
pub(super) fn info(job_id: &str, content: &Content) -> ScheduleInfo {
    let definition = content.current().definition.clone();
    let problem = definition.expression().err().map(|error| error.to_string());
    let seconds = |micros: u64| std::time::Duration::from_micros(micros).as_secs_f64();
    let open = content.open.iter().map(|open| OpenTick {
        scheduled_time: open.tick.at(),
        job_key: open.tick.job_key(job_id),
        job_id: None,
        attempt: None,
        error: None,
    });
    ScheduleInfo {
        job_id: job_id.to_owned(),
        job_type: definition.job_type,
        schedule_expression: definition.schedule_expression,
        time_zone: definition.time_zone,
        parameters: definition.parameters,
        handler: definition.handler,
        leader_only: definition.place == TickPlace::LeaderOnly,
        misfire: definition.misfire,
        misfire_grace_seconds: seconds(definition.misfire_grace_us),
        jitter_seconds: seconds(definition.jitter_us),
        overlap: definition.overlap,
        max_retries: definition.max_retries,
        timeout_seconds: definition.timeout_us.map(seconds),
        status: content.standing,
        next_due: content.next_due,
        problem,
        in_progress: open.collect(),
        last_run: content.last_run.clone(),
        counts: content.counts,
        created_at: content.created_at,
        changed_at: content.changed_at,
    }
}
