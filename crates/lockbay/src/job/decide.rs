//! The job's record, and the whole decision of a claim as one pure function.
//!
//! Deadlines do all the waiting, by the store's clock. The deadline of the record means, by status:
//! *claimed*: when the claim lapses; *failed*: when the next attempt may begin, or, after the last,
//! when the failure may be forgotten; *completed*: until when the result is kept; *cancelled*: when
//! it may be forgotten.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::fingerprint::{Identity, ParameterDigest};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::json::Json;
use crate::store::{Fence, Key, Kind, Partition, Record, Revision};

/// A job. Key: its id.
pub(crate) const JOB: Kind = Kind::new("job");
/// Jobs by status, in time. Key: status, time, job id. No value.
pub(crate) const JOB_LIST: Kind = Kind::new("job-list");

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

/// What is stored of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct JobRecord {
    pub(crate) job_type: String,
    pub(crate) job_key: String,
    pub(crate) identity: Identity,
    pub(crate) digest: ParameterDigest,
    pub(crate) parameters: Json,
    pub(crate) status: JobStatus,
    pub(crate) attempt: u32,
    /// Attempts that reported failure; a lapsed claim is not one.
    pub(crate) failures: u32,
    pub(crate) max_retries: u32,
    pub(crate) holder: String,
    pub(crate) claim_token: String,
    /// Stable over all attempts of this execution.
    pub(crate) idempotency_token: String,
    pub(crate) claim_ttl_us: u64,
    /// How long the result is kept, and how long the key is remembered, from the end of the job.
    pub(crate) result_ttl_us: u64,
    pub(crate) horizon_us: u64,
    pub(crate) created_at: Timestamp,
    pub(crate) claimed_at: Timestamp,
    /// The id of its entry in the list.
    pub(crate) listed: String,
    /// Of the leader under whose fence it must be completed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) leader: Option<LeaderFence>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) scheduled_time: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) finished_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) result: Option<Json>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    /// Set on a failure that may be tried again once the deadline has passed.
    #[serde(default)]
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

    /// Whether the key of an ended job may be forgotten, so that it may run again as a new one.
    ///
    /// The deadline of an ended job was stamped when it ended, `kept` after that moment.
    fn is_forgotten(&self, deadline: Timestamp, now: Timestamp) -> bool {
        let kept = match self.status {
            JobStatus::Completed => Duration::from_micros(self.result_ttl_us),
            JobStatus::Failed | JobStatus::Cancelled | JobStatus::Claimed => {
                Duration::from_micros(self.horizon_us)
            }
        };
        now >= (deadline - kept) + Duration::from_micros(self.horizon_us)
    }
}

/// What a claim finds under its key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found<'a> {
    pub(crate) job: &'a JobRecord,
    pub(crate) deadline: Option<Timestamp>,
    pub(crate) now: Timestamp,
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
    let Some(Found { job, deadline, now }) = found else { return Decision::First };
    let left = deadline.map_or(Duration::ZERO, |deadline| deadline.since(now));
    let lapsed = left.is_zero();
    let ended = job.status != JobStatus::Claimed && !job.will_retry;
    if ended && deadline.is_some_and(|deadline| job.is_forgotten(deadline, now)) {
        return Decision::First;
    }
    if job.digest != *digest {
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
        JobStatus::Completed => Decision::Replay { result_kept: !lapsed },
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
            identity: Identity::Fingerprint,
            digest: ParameterDigest::of(&Json::null()).unwrap(),
            parameters: Json::null(),
            status,
            attempt: 1,
            failures: 0,
            max_retries: 3,
            holder: "h".into(),
            claim_token: "c".into(),
            idempotency_token: "i".into(),
            claim_ttl_us: HOUR,
            result_ttl_us: HOUR,
            horizon_us: 7 * 24 * HOUR,
            created_at: Timestamp::from_micros(0),
            claimed_at: Timestamp::from_micros(0),
            listed: "l".into(),
            leader: None,
            scheduled_time: None,
            finished_at: None,
            result: None,
            error: None,
            will_retry,
        }
    }

    /// Every status × lapsed or not × forgotten or not × same or other parameters × policy: no
    /// state lets two run at once, and none refuses for ever.
    #[test]
    fn every_state_of_a_job_has_one_safe_answer() {
        let same = ParameterDigest::of(&Json::null()).unwrap();
        let other = ParameterDigest::of(&Json::parse("1").unwrap()).unwrap();
        let now = Timestamp::from_micros(1_000 * HOUR);
        let statuses =
            [JobStatus::Claimed, JobStatus::Completed, JobStatus::Failed, JobStatus::Cancelled];
        for status in statuses {
            for will_retry in [false, true] {
                for offset in [-900i64, -2, -1, 0, 1, 2] {
                    for digest in [&same, &other] {
                        for policy in [OnFailed::Rerun, OnFailed::Replay] {
                            if will_retry && status != JobStatus::Failed {
                                continue;
                            }
                            let hours = 1_000i64 + offset;
                            let micros = u64::try_from(hours).unwrap() * HOUR;
                            let deadline = Timestamp::from_micros(micros);
                            let job = job(status, will_retry);
                            let found = Found { job: &job, deadline: Some(deadline), now };
                            let decision = decide(Some(found), digest, policy);
                            check(&decision, &job, deadline, now, *digest == same);
                        }
                    }
                }
            }
        }
    }

    fn check(
        decision: &Decision,
        job: &JobRecord,
        deadline: Timestamp,
        now: Timestamp,
        same: bool,
    ) {
        let lapsed = deadline <= now;
        let context = format!("{decision:?} for {:?}, deadline {deadline}", job.status);
        match decision {
            Decision::First => {
                assert!(job.status != JobStatus::Claimed && !job.will_retry, "{context}");
                assert!(lapsed, "an outcome was forgotten while it was kept: {context}");
            }
            Decision::TakeOver => {
                assert!(job.status == JobStatus::Claimed && lapsed && same, "{context}");
            }
            Decision::Rerun => assert!(job.will_retry && lapsed && same, "{context}"),
            Decision::Replay { .. } => {
                assert!(job.status != JobStatus::Claimed && same, "{context}")
            }
            Decision::InProgress(left) => {
                assert!(!left.is_zero() && !lapsed && same, "waits for nothing: {context}");
            }
            Decision::KeyReused => assert!(!same, "{context}"),
        }
    }

    #[test]
    fn a_duplicate_after_the_payload_is_gone_learns_that_and_does_not_run() {
        let now = Timestamp::from_micros(1_000 * HOUR);
        let job = job(JobStatus::Completed, false);
        let deadline = Some(now - Duration::from_micros(24 * HOUR));
        let decision =
            decide(Some(Found { job: &job, deadline, now }), &job.digest, OnFailed::Rerun);
        assert_eq!(decision, Decision::Replay { result_kept: false });
    }

    #[test]
    fn backoff_doubles_is_capped_and_varies() {
        assert!(backoff(1, 0) >= Duration::from_millis(800));
        assert!(backoff(1, u64::MAX) < Duration::from_millis(1_200));
        assert!(backoff(3, 0) >= Duration::from_millis(3_200));
        assert!(backoff(1_000, u64::MAX) <= Duration::from_secs(72));
    }
}
