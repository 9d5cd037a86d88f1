//! Looking jobs up: one by id, many by status, type or business key.
//!
//! A job has one list entry, `status/time/id`, moved in the commit that changes its status. What is
//! still claimed is listed with the oldest first, because that is what an operator looks for; what
//! has ended is listed with the newest first.

use std::time::Duration;

use serde::Serialize;

use super::decide::{Found, JOB, JOB_LIST, JobRecord, JobStatus};
use super::fingerprint::key_prefix;
use super::{Jobs, job_key, not_found};
use crate::clock::Timestamp;
use crate::error::{Error, Result};
use crate::json::Json;
use crate::store::{Key, MAX_PAGE, Order, Partition, Range, Record};

/// How many list entries one call looks at before it returns what it has.
const MAX_LOOKED_AT: usize = 2 * MAX_PAGE;

/// How many jobs a health check looks at, of each sort.
const MAX_LAPSES_LOOKED_AT: usize = 100;
/// The least step of a search, so that a rare find does not cost a round trip per job.
const STEP: usize = 200;
/// Jobs read at once, and about the most bytes of a page: a job may have two megabytes.
const CHUNK: usize = 50;
const MAX_PAGE_BYTES: usize = 8 * 1024 * 1024;

/// The id of a job's list entry.
pub(super) fn entry(status: JobStatus, at: Timestamp, job_id: &str) -> String {
    let micros = match status {
        JobStatus::Claimed => at.as_micros(),
        JobStatus::Completed | JobStatus::Failed | JobStatus::Cancelled => {
            u64::MAX - at.as_micros()
        }
    };
    format!("{}/{micros:016x}/{job_id}", status.name())
}

/// Which jobs to list.
#[derive(Debug, Clone, Default)]
pub struct JobFilter {
    /// Only with this status.
    pub status: Option<JobStatus>,
    /// Only of this type.
    pub job_type: Option<String>,
    /// Only with this business key.
    pub job_key: Option<String>,
    /// Only those first claimed at this moment or later.
    pub created_after: Option<Timestamp>,
    /// Only those first claimed before this moment.
    pub created_before: Option<Timestamp>,
    /// From which end the list is gone through.
    pub order: Order,
}

/// A job as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs)] // the names say it; see ClaimRequest and Replayed
pub struct JobInfo {
    pub job_id: String,
    pub job_type: String,
    pub job_key: String,
    pub identity: super::Identity,
    pub parameters: Json,
    pub status: JobStatus,
    /// Whether a claimed job's claim has lapsed, so that the next claim takes it over.
    pub lapsed: bool,
    pub attempt: u32,
    pub failures: u32,
    pub max_retries: u32,
    pub holder: String,
    /// Of the last change of the job, as a string because it passes 2^53: while it is claimed, that
    /// of the claim.
    pub fencing_token: String,
    pub idempotency_token: String,
    pub created_at: Timestamp,
    pub claimed_at: Timestamp,
    pub claim_expires_at: Option<Timestamp>,
    pub scheduled_time: Option<Timestamp>,
    pub leader_only: bool,
    pub completed_at: Option<Timestamp>,
    pub result: Option<Json>,
    pub result_kept: bool,
    pub error: Option<String>,
    /// When the next attempt may begin, after a failure that may be tried again.
    pub next_retry_at: Option<Timestamp>,
}

/// A page of jobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobPage {
    /// The jobs.
    pub items: Vec<JobInfo>,
    /// Where to go on, if there may be more.
    pub next: Option<String>,
}

impl Jobs {
    /// A job as it stands.
    ///
    /// # Errors
    /// `NotFound` if there is none, or it is forgotten.
    pub async fn show(&self, job_id: &str) -> Result<JobInfo> {
        let read = self.0.store.get(&[job_key(job_id)?]).await?;
        let record = read.records.into_iter().flatten().next().ok_or_else(|| not_found(job_id))?;
        info(&record, read.now)
    }

    /// Jobs that match, at most `limit` of them, going on after `next` of an earlier page.
    ///
    /// By business key it is an indexed search. By type and by time it looks through the jobs of the
    /// status asked for, some thousands a call; a page may then hold fewer than there are, with
    /// `next` set.
    ///
    /// # Errors
    /// `Invalid` for a `next` that was never handed out.
    pub async fn list(
        &self,
        filter: &JobFilter,
        next: Option<String>,
        limit: usize,
    ) -> Result<JobPage> {
        let limit = limit.clamp(1, MAX_PAGE);
        let range = match (&filter.job_key, filter.status) {
            (Some(key), _) => Range::new(Partition::FIRST, JOB, key_prefix(key)),
            (None, Some(status)) => {
                Range::new(Partition::FIRST, JOB_LIST, format!("{}/", status.name()))
            }
            (None, None) => Range::new(Partition::FIRST, JOB_LIST, ""),
        };
        let range = Range { order: filter.order, ..range };
        if next.as_ref().is_some_and(|next| !next.starts_with(&range.prefix) || next.len() > 256) {
            return Err(Error::invalid("this page token does not belong to this list"));
        }
        let looks_through = filter.job_type.is_some()
            || filter.created_after.is_some()
            || filter.created_before.is_some();
        let step = match (&filter.job_key, looks_through) {
            (Some(_), _) => CHUNK,
            (None, true) => limit.max(STEP),
            (None, false) => limit,
        };
        let (mut after, mut looked_at, mut bytes) = (next, 0, 0);
        let mut items = Vec::new();
        loop {
            let page = self.0.store.scan(&range.clone().after(after), step).await?;
            looked_at += page.records.len();
            let last = page.records.last().map(|record| record.key.id.to_string());
            for places in page.records.chunks(CHUNK) {
                for (place, job) in self.jobs_of(places).await? {
                    if !matches(filter, &job) {
                        continue;
                    }
                    bytes += job.parameters.text().len()
                        + job.result.as_ref().map_or(0, |result| result.text().len());
                    items.push(job);
                    if items.len() == limit || bytes >= MAX_PAGE_BYTES {
                        let more = page.more || Some(&place) != last.as_ref();
                        return Ok(JobPage { items, next: more.then_some(place) });
                    }
                }
            }
            if !page.more || looked_at >= MAX_LOOKED_AT {
                return Ok(JobPage { items, next: last.filter(|_| page.more) });
            }
            after = last;
        }
    }

    /// The jobs with this business key that can be read; none if there are more than `most`.
    pub(crate) async fn few_of_key(&self, key: &str, most: usize) -> Result<Vec<JobInfo>> {
        let mut range = Range::new(Partition::FIRST, JOB, key_prefix(key));
        let (mut count, mut jobs) = (0, Vec::new());
        loop {
            let page = self.0.store.scan(&range, most + 1).await?;
            count += page.records.len();
            if count > most {
                return Ok(Vec::new());
            }
            for record in &page.records {
                match info(record, page.now) {
                    Ok(job) if job.job_key == key => jobs.push(job),
                    Ok(_) => {}
                    Err(error) => tracing::warn!(%error, "a job is passed over"),
                }
            }
            if !page.more {
                return Ok(jobs);
            }
            range = range.after(page.records.last().map(|record| record.key.id.to_string()));
        }
    }

    /// The jobs of these ids, of those that are there and can be read.
    pub(crate) async fn found(&self, ids: &[&str]) -> Result<Vec<Option<JobInfo>>> {
        let keys: Vec<Key> = ids.iter().map(|id| Key::new(Partition::of(id), JOB, *id)).collect();
        let mut found = Vec::with_capacity(keys.len());
        for keys in keys.chunks(CHUNK) {
            let read = self.0.store.get(keys).await?;
            for record in read.records {
                let job = record.map(|record| info(&record, read.now)).transpose();
                found.push(job.unwrap_or_else(|error| {
                    tracing::warn!(%error, "a job is passed over");
                    None
                }));
            }
        }
        Ok(found)
    }

    /// The jobs behind list entries or records, each with its place in the list.
    async fn jobs_of(&self, places: &[Record]) -> Result<Vec<(String, JobInfo)>> {
        let keys: Vec<Key> = places.iter().map(job_behind).collect();
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let read = self.0.store.get(&keys).await?;
        let found = places.iter().zip(read.records);
        found
            .filter_map(|(place, record)| record.map(|record| (place.key.id.to_string(), record)))
            .map(|(place, record)| Ok((place, info(&record, read.now)?)))
            .collect()
    }

    /// How long the longest lapsed claim has waited for somebody to take it over, if any has.
    ///
    /// Looks at what has been due for longest, and at the oldest claims: failed jobs that nobody
    /// tries again are due too, and long jobs are old too, but hardly both at once.
    pub(crate) async fn oldest_lapse(&self) -> Result<Option<Duration>> {
        let due = self.0.store.due(Partition::FIRST, JOB, MAX_LAPSES_LOOKED_AT).await?;
        let claimed = format!("{}/", JobStatus::Claimed.name());
        let range = Range::new(Partition::FIRST, JOB_LIST, claimed);
        let oldest = self.0.store.scan(&range, MAX_LAPSES_LOOKED_AT).await?;
        let keys: Vec<Key> = oldest.records.iter().map(job_behind).collect();
        let oldest = match keys.is_empty() {
            true => Vec::new(),
            false => self.0.store.get(&keys).await?.records,
        };
        let mut longest = None;
        for record in due.records.iter().chain(oldest.iter().flatten()) {
            if record.lapsed(due.now) && JobRecord::decode(record)?.status == JobStatus::Claimed {
                longest = longest.max(record.deadline.map(|deadline| due.now.since(deadline)));
            }
        }
        Ok(longest)
    }
}

/// The job that a list entry, or its own record, stands for.
fn job_behind(place: &Record) -> Key {
    let id = place.key.id.rsplit('/').next().unwrap_or(&place.key.id);
    Key::new(Partition::of(id), JOB, id)
}

/// Whether a job is one of those asked for.
pub(crate) fn matches(filter: &JobFilter, job: &JobInfo) -> bool {
    filter.status.is_none_or(|status| status == job.status)
        && filter.job_type.as_ref().is_none_or(|wanted| *wanted == job.job_type)
        && filter.job_key.as_ref().is_none_or(|wanted| *wanted == job.job_key)
        && filter.created_after.is_none_or(|after| job.created_at >= after)
        && filter.created_before.is_none_or(|before| job.created_at < before)
}

fn info(record: &Record, now: Timestamp) -> Result<JobInfo> {
    let job = JobRecord::decode(record)?;
    let claimed = job.status == JobStatus::Claimed;
    let kept = Found::new(&job, record, now).result_kept();
    let result_kept = job.status == JobStatus::Completed && job.result.is_some() && kept;
    Ok(JobInfo {
        job_id: record.key.id.to_string(),
        identity: job.identity(),
        idempotency_token: job.idempotency_token(&record.key.id),
        job_type: job.job_type,
        job_key: job.job_key,
        parameters: job.parameters,
        status: job.status,
        lapsed: claimed && record.lapsed(now),
        attempt: job.attempt,
        failures: job.failures,
        max_retries: job.max_retries,
        holder: job.holder,
        fencing_token: record.revision.to_string(),
        created_at: Timestamp::from_micros(job.created_us),
        claimed_at: Timestamp::from_micros(job.claimed_us),
        claim_expires_at: record.deadline.filter(|_| claimed),
        scheduled_time: job.scheduled_us.map(Timestamp::from_micros),
        leader_only: job.leader.is_some(),
        completed_at: job.finished_us.map(Timestamp::from_micros),
        result: job.result.filter(|_| result_kept),
        result_kept,
        error: job.error,
        next_retry_at: record.deadline.filter(|_| job.will_retry),
    })
}
