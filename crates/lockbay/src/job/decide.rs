//! The job's record, and the whole decision of a claim as one pure function.
//!
//! All waiting is by the store's clock. A record has a deadline while it waits for somebody: a
//! *claimed* one lapses at it, a *failed* one may be tried again from it. What has ended has no
//! deadline: how long its result is kept and its key remembered counts from the commit that ended
//! it, whose time is its revision. So what is due is exactly the work that nobody serves.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::fingerprint::{Identity, ParameterDigest};
use super::list;
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::json::Json;
use crate::store::{Fence, Key, Kind, Partition, Record, Revision};

/// A job. Key: its id.
pub(crate) const JOB: Kind = Kind::new("job");
/// Jobs by status, in time. Key: status, time, job id. No value.
pub(crate) const JOB_LIST: Kind = Kind::index("job-list");

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobStatus {
    /// Somebody runs it, or did when it was last heard of.
    Claimed,
    /// It ran, and its outcome is remembered.
    Completed,
    /// Its last attempt failed.
    Failed,
    /// Somebody decided that it shall not run.
    Cancelled,
}

impl JobStatus {
    /// Its name in JSON and in listings.
    pub fn name(self) -> &'static str {
        match self {
            JobStatus::Claimed => "claimed",
            JobStatus::Completed => "completed",
            JobStatus::Failed => "failed",
            JobStatus::Cancelled => "cancelled",
        }
    }

    /// Reads a name.
    ///
    /// # Errors
    /// `Invalid` for any other word.
    pub fn parse(name: &str) -> Result<Self> {
        [JobStatus::Claimed, JobStatus::Completed, JobStatus::Failed, JobStatus::Cancelled]
            .into_iter()
            .find(|status| status.name() == name)
            .ok_or_else(|| {
                Error::invalid(format!(
                    "a job is claimed, completed, failed or cancelled, not {name:?}"
                ))
            })
    }
}

/// How long a job that comes without a record gets the same number of its execution. Nothing that
/// ended is deleted within twice this time.
pub(crate) const PERIOD: Duration = Duration::from_secs(12 * 3_600);

/// The number of an execution of which no record is there: when the present period began.
///
/// A job that the store has lost comes back soon, and gets the number that it had, so that the
/// receiver can still refuse the duplicate. One that was deleted after it was forgotten comes back
/// after two periods at least, and gets another, so that its new run is not taken for a duplicate:
/// unless clocks of machines are apart by more than a period.
pub(crate) fn first_execution(now: Timestamp) -> u64 {
    let period = crate::clock::micros(PERIOD);
    now.as_micros() / period * period
}

/// What is stored of a job. What follows from the id or from other fields is not stored: every
/// byte here is written twice per job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct JobRecord {
    pub(crate) job_type: String,
    pub(crate) job_key: String,
    pub(crate) parameters: Json,
    /// Set where the id does not say what the parameters were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) digest: Option<ParameterDigest>,
    pub(crate) status: JobStatus,
    /// Tells this execution from those before, of which nothing may be remembered: see
    /// [`first_execution`].
    pub(crate) execution: u64,
    pub(crate) attempt: u32,
    /// Attempts that reported failure; a lapsed claim is not one.
    pub(crate) failures: u32,
    pub(crate) max_retries: u32,
    pub(crate) holder: String,
    pub(crate) claim_token: String,
    /// The idempotency key of the request that claimed it, if it had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) claim_key: Option<String>,
    pub(crate) claim_ttl_us: u64,
    /// How long the result is kept, and how long the key is remembered, from the end of the job.
    pub(crate) result_ttl_us: u64,
    pub(crate) horizon_us: u64,
    /// Times of the machine that wrote them, for people.
    pub(crate) created_us: u64,
    pub(crate) claimed_us: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) scheduled_us: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) finished_us: Option<u64>,
    /// When it ended by the store's clock, where the record was put again since then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ended_us: Option<u64>,
    /// Of the leader under whose fence it must be completed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) leader: Option<LeaderFence>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) result: Option<Json>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    /// Set on a failure that may be tried again once the deadline has passed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) will_retry: bool,
}

/// A leader's fence as a job remembers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LeaderFence {
    service: String,
    token: u64,
}

impl LeaderFence {
    pub(crate) fn new(fence: &Fence) -> Self {
        LeaderFence { service: fence.key.id.to_string(), token: fence.token.number() }
    }

    pub(crate) fn fence(&self, kind: Kind) -> Fence {
        let key = Key::new(Partition::of(&self.service), kind, self.service.as_str());
        Fence { key, token: Revision::new(self.token) }
    }
}

impl JobRecord {
    pub(crate) fn decode(record: &Record) -> Result<JobRecord> {
        serde_json::from_slice(&record.value).map_err(|error| {
            let message = format!("stored job {} cannot be read", record.key.id);
            Error::new(ErrorKind::Internal, message).with_source(error)
        })
    }

    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|error| {
            Error::new(ErrorKind::Internal, "a job record has no JSON form").with_source(error)
        })
    }

    /// Under which identity it was claimed.
    pub(crate) fn identity(&self) -> Identity {
        if self.digest.is_some() { Identity::Key } else { Identity::Fingerprint }
    }

    /// The same over all attempts of one execution, and again the same should the store lose this
    /// record and the job run once more: so the receiver can still refuse the duplicate.
    pub(crate) fn idempotency_token(&self, job_id: &str) -> String {
        format!("{job_id}-{}", self.execution)
    }

    /// The id of its entry in the list.
    pub(crate) fn listed(&self, job_id: &str) -> String {
        let at = self.finished_us.unwrap_or(self.claimed_us);
        list::entry(self.status, Timestamp::from_micros(at), job_id)
    }

    /// When the record came to its status, by the store's clock.
    pub(crate) fn ended_at(&self, record: &Record) -> Timestamp {
        self.ended_us.map_or(record.revision.time(), Timestamp::from_micros)
    }

    /// Whether the holder of this claim has ended it.
    pub(crate) fn was_ended_under(&self, claim_token: &str) -> bool {
        let by_holder = matches!(self.status, JobStatus::Completed | JobStatus::Failed);
        by_holder && self.claim_token == claim_token
    }

    /// Whether it has ended for good.
    pub(crate) fn has_ended(&self) -> bool {
        self.status != JobStatus::Claimed && !self.will_retry
    }
}

/// What a claim finds under its key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found<'a> {
    pub(crate) job: &'a JobRecord,
    /// When it came to its status, by the store's clock.
    pub(crate) put_at: Timestamp,
    pub(crate) deadline: Option<Timestamp>,
    pub(crate) now: Timestamp,
}

impl<'a> Found<'a> {
    pub(crate) fn new(job: &'a JobRecord, record: &Record, now: Timestamp) -> Self {
        Found { job, put_at: job.ended_at(record), deadline: record.deadline, now }
    }

    /// Whether the result of a completed job is still kept.
    pub(crate) fn result_kept(&self) -> bool {
        self.now < self.put_at + Duration::from_micros(self.job.result_ttl_us)
    }

    /// Whether the key of an ended job is forgotten, so that it may run again as a new one.
    fn is_forgotten(&self) -> bool {
        self.job.has_ended() && self.now >= self.put_at + Duration::from_micros(self.job.horizon_us)
    }
}

/// What a failed job means to the next claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailed {
    /// Run it again, up to its `max_retries`, after its backoff.
    #[default]
    Rerun,
    /// Answer with the failure.
    Replay,
}

/// What to do about a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Nobody has run it, or so long ago that it is forgotten: the first attempt.
    First,
    /// The holder's claim has lapsed. Its outcome is unknown; the next attempt.
    TakeOver,
    /// It failed, may be tried again, and its backoff is over: the next attempt.
    Rerun,
    /// It has ended: answer with the outcome.
    Replay {
        /// Whether the payload is still kept.
        result_kept: bool,
    },
    /// Somebody runs it, or its backoff is not over. Ask again after this.
    InProgress(Duration),
    /// The key was used with other parameters.
    KeyReused,
}

/// The whole decision of a claim.
pub(crate) fn decide(
    found: Option<Found<'_>>,
    digest: &ParameterDigest,
    on_failed: OnFailed,
) -> Decision {
    let Some(found) = found else { return Decision::First };
    let Found { job, deadline, now, .. } = found;
    let left = deadline.map_or(Duration::ZERO, |deadline| deadline.since(now));
    let lapsed = left.is_zero();
    if found.is_forgotten() {
        return Decision::First;
    }
    // By fingerprint, other parameters are another id, and would not have been found.
    if job.digest.as_ref().is_some_and(|known| known != digest) {
        return Decision::KeyReused;
    }
    match job.status {
        JobStatus::Claimed if lapsed => Decision::TakeOver,
        JobStatus::Claimed => Decision::InProgress(left),
        JobStatus::Failed if job.will_retry && on_failed == OnFailed::Rerun => {
            if lapsed {
                Decision::Rerun
            } else {
                Decision::InProgress(left)
            }
        }
        JobStatus::Completed => Decision::Replay { result_kept: found.result_kept() },
        JobStatus::Failed | JobStatus::Cancelled => Decision::Replay { result_kept: true },
    }
}

/// How long to wait before the next attempt: doubling from one second to a minute, ±20 %.
pub(crate) fn backoff(failures: u32, random: u64) -> Duration {
    let seconds = 1u64 << failures.saturating_sub(1).min(6);
    let millis = seconds.min(60) * 1_000;
    Duration::from_millis(millis * 8 / 10 + random % (millis * 4 / 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000_000;

    fn job(status: JobStatus, will_retry: bool) -> JobRecord {
        JobRecord {
            job_type: "t".into(),
            job_key: "k".into(),
            digest: ParameterDigest::of(&Json::null()).ok(),
            parameters: Json::null(),
            status,
            execution: 1,
            attempt: 1,
            failures: 0,
            max_retries: 3,
            holder: "h".into(),
            claim_token: "c".into(),
            claim_key: None,
            claim_ttl_us: HOUR,
            result_ttl_us: HOUR,
            horizon_us: 7 * 24 * HOUR,
            created_us: 0,
            claimed_us: 0,
            scheduled_us: None,
            finished_us: None,
            ended_us: None,
            leader: None,
            result: None,
            error: None,
            will_retry,
        }
    }

    /// Every status × deadline before, at and after now × age × same or other parameters × policy:
    /// no state lets two run at once, forgets too early, or waits for nothing.
    #[test]
    fn every_state_of_a_job_has_one_safe_answer() {
        let same = ParameterDigest::of(&Json::null()).unwrap();
        let other = ParameterDigest::of(&Json::parse("1").unwrap()).unwrap();
        let hours = |hours: u64| Timestamp::from_micros(hours * HOUR);
        let now = hours(1_000);
        let states = [
            (JobStatus::Claimed, false),
            (JobStatus::Completed, false),
            (JobStatus::Failed, false),
            (JobStatus::Failed, true),
            (JobStatus::Cancelled, false),
        ];
        let mut seen = std::collections::HashSet::new();
        for (status, will_retry) in states {
            let job = job(status, will_retry);
            for put_at in [1_000, 999, 998, 1_000 - 7 * 24, 1].map(hours) {
                for deadline in [999, 1_000, 1_001].map(hours) {
                    let deadline = (!job.has_ended()).then_some(deadline);
                    for digest in [&same, &other] {
                        for policy in [OnFailed::Rerun, OnFailed::Replay] {
                            let found = Found { job: &job, put_at, deadline, now };
                            let decision = decide(Some(found), digest, policy);
                            seen.insert(std::mem::discriminant(&decision));
                            check(&decision, &found, *digest == same);
                        }
                    }
                }
            }
        }
        assert_eq!(seen.len(), 6, "every decision was made");
    }

    fn check(decision: &Decision, found: &Found<'_>, same: bool) {
        let Found { job, put_at, deadline, now } = found;
        let lapsed = deadline.is_none_or(|deadline| deadline <= *now);
        let age = now.since(*put_at);
        let context = format!("{decision:?} for {found:?}");
        match decision {
            Decision::First => {
                assert!(job.has_ended(), "{context}");
                assert!(age >= Duration::from_micros(job.horizon_us), "too early: {context}");
            }
            Decision::TakeOver => {
                assert!(job.status == JobStatus::Claimed && lapsed && same, "{context}");
            }
            Decision::Rerun => assert!(job.will_retry && lapsed && same, "{context}"),
            Decision::Replay { result_kept } => {
                assert!(job.status != JobStatus::Claimed && same, "{context}");
                let kept = age < Duration::from_micros(job.result_ttl_us);
                assert!(job.status != JobStatus::Completed || *result_kept == kept, "{context}");
            }
            Decision::InProgress(left) => {
                assert!(!left.is_zero() && !lapsed && same, "waits for nothing: {context}");
            }
            Decision::KeyReused => assert!(!same, "{context}"),
        }
    }

    #[test]
    fn backoff_doubles_is_capped_and_varies() {
        assert!(backoff(1, 0) >= Duration::from_millis(800));
        assert!(backoff(1, u64::MAX) < Duration::from_millis(1_200));
        assert!(backoff(3, 0) >= Duration::from_millis(3_200));
        assert!(backoff(1_000, u64::MAX) <= Duration::from_secs(72));
    }
}
