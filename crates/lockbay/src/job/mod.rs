//! Idempotent jobs: a job is claimed by one, runs once, and every duplicate gets its outcome.
//!
//! The service owns claims and outcomes. It refuses to know who leads: a job for the leader alone
//! comes with the leader's right. Its state is the job's record and one list entry, written in one
//! commit; the decision is [`decide`](decide::decide), a pure function.
//!
//! The way of a job through the files: [`claim`] or an answer, [`run`] of a handler, [`end`] of the
//! attempt; [`list`] to look at it, [`operate`] to decide about many, and [`retire`] what of it may go.
//!
//! # What holds
//! One attempt at most holds the claim; its token only grows, and a heartbeat, completion or
//! failure under an older or lapsed claim is refused as `Fenced`. An outcome is remembered for the
//! horizon, and a duplicate gets it instead of a second run. Said twice with the same claim token,
//! the end of an attempt is answered as the first time.
//!
//! # What does not
//! An attempt whose process died may have had its effect. The next attempt gets the same
//! idempotency token, so that the receiver can tell.

mod claim;
mod decide;
mod end;
mod fingerprint;
mod list;
mod live;
mod operate;
mod replay;
mod retire;
mod run;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::{Clock, Tick, Timestamp};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Bus;
use crate::json::Json;
use crate::keeper::{Keeper, Right};
use crate::metrics::{Metric, Metrics};
use crate::name::check_name;
use crate::scribe::Scribe;
use crate::store::{Key, Kind, Partition, Revision, Store};

pub use crate::config::{MAX_CLAIM_TTL, MAX_RETRIES};
pub use decide::{JobStatus, OnFailed};
pub use end::{Failed, Retry};
pub use fingerprint::Identity;
pub(crate) use list::matches;
pub use list::{JobFilter, JobInfo, JobPage};
pub use operate::{JobDecision, OperatedJobs};
pub use run::{JobContext, JobFailure, JobOutcome, JobSuccess, RunOptions};

use decide::{JOB, JobRecord};
use live::LiveClaims;
use replay::Replays;

/// The largest parameters and results, in bytes.
pub const MAX_PAYLOAD_BYTES: usize = 1024 * 1024;
/// The shortest claim.
pub const MIN_CLAIM_TTL: Duration = Duration::from_millis(100);

/// How often one call looks again because the job changed between its look and its commit.
const MAX_RACES: usize = 16;

/// How jobs of a namespace behave unless a request says otherwise.
#[derive(Debug, Clone)]
pub(crate) struct JobDefaults {
    pub(crate) claim_ttl: Duration,
    pub(crate) result_ttl: Duration,
    pub(crate) horizon: Duration,
    pub(crate) max_retries: u32,
    /// Who claims when the request does not say.
    pub(crate) holder: String,
}

/// What to do when somebody runs the job already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnInProgress {
    /// Say so at once.
    #[default]
    Reject,
    /// Wait this long at most for the outcome, or for the claim.
    Wait(Duration),
}

/// A wish to run a job.
#[derive(Debug, Clone)]
pub struct ClaimRequest {
    /// What kind of work. 1 to 128 bytes, no control characters.
    pub job_type: String,
    /// Which piece of work, in the caller's terms. 1 to 512 bytes, no control characters.
    pub job_key: String,
    /// What the handler gets.
    pub parameters: Json,
    /// What counts as the same job.
    pub identity: Identity,
    /// How long the claim lasts between heartbeats.
    pub claim_ttl: Option<Duration>,
    /// How often a failed attempt may be repeated.
    pub max_retries: Option<u32>,
    /// What to do when somebody runs it already.
    pub on_in_progress: OnInProgress,
    /// What to do when it has failed before.
    pub on_failed: OnFailed,
    /// Who claims, for people.
    pub holder: Option<String>,
    /// Names this request, so that it can be repeated after a lost reply: repeated while its claim
    /// is held, it gets that claim again.
    pub idempotency_key: Option<String>,
    /// When it was due, for people.
    pub scheduled_time: Option<Timestamp>,
    /// The right to lead, for a job that only the leader may run: the claim and the completion are
    /// committed under its fence, and the handler is told when it is lost.
    pub leader: Option<Right>,
}

impl ClaimRequest {
    /// A request with default policies.
    pub fn new(job_type: impl Into<String>, job_key: impl Into<String>, parameters: Json) -> Self {
        ClaimRequest {
            job_type: job_type.into(),
            job_key: job_key.into(),
            parameters,
            identity: Identity::default(),
            claim_ttl: None,
            max_retries: None,
            on_in_progress: OnInProgress::default(),
            on_failed: OnFailed::default(),
            holder: None,
            idempotency_key: None,
            scheduled_time: None,
            leader: None,
        }
    }
}

/// The answer to a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// It is yours: run it.
    Claimed(ClaimedJob),
    /// It has ended before: here is how.
    Replayed(Replayed),
    /// Somebody runs it, or it waits for its next attempt.
    InProgress(InProgress),
}

/// A claim that was granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimedJob {
    /// Which job.
    pub job_id: String,
    /// The number of this attempt, from 1.
    pub attempt: u32,
    /// What the holder shows to complete it. A secret between the holder and the service.
    pub claim_token: String,
    /// Grows with every claim of this job; hand it to what the job writes to.
    pub fencing_token: Revision,
    /// The same for all attempts; hand it to whoever can refuse duplicates.
    pub idempotency_token: String,
    /// When the claim lapses unless it is renewed, by the store's clock.
    pub expires_at: Timestamp,
    /// Whether it was granted before, to the same request.
    pub replayed: bool,
    /// When the call that granted it began.
    pub(crate) since: Tick,
}

/// The outcome of a job that ended before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replayed {
    /// Which job.
    pub job_id: String,
    /// Completed, failed or cancelled.
    pub status: JobStatus,
    /// The attempt that ended it.
    pub attempt: u32,
    /// What it returned, while that is kept.
    pub result: Option<Json>,
    /// Whether the result is still kept.
    pub result_kept: bool,
    /// Why it failed or was cancelled.
    pub error: Option<String>,
    /// When it ended.
    pub completed_at: Option<Timestamp>,
}

/// A job that somebody runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InProgress {
    /// Which job.
    pub job_id: String,
    /// Who runs it.
    pub holder: String,
    /// The attempt in progress, or the last that failed.
    pub attempt: u32,
    /// When to ask again.
    pub retry_after: Duration,
}

/// All jobs of a namespace. Cheap to clone.
#[derive(Clone)]
pub struct Jobs(Arc<Inner>);

struct Inner {
    store: Arc<dyn Store>,
    clock: Clock,
    keeper: Keeper,
    metrics: Arc<Metrics>,
    bus: Bus,
    defaults: JobDefaults,
    /// The kind of the leader's lease, for fences that come back from a record.
    leader_kind: Kind,
    scribe: Scribe,
    /// Claims granted here, so that ending them takes one round trip.
    live: Mutex<LiveClaims>,
    replays: Replays,
    /// Handlers that run in this process.
    handlers: TaskTracker,
    /// Fires when no more jobs are to be claimed.
    closing: CancellationToken,
    /// Fires when handlers that still run must be cut off.
    cut_off: CancellationToken,
}

impl Jobs {
    #[allow(clippy::too_many_arguments)] // built once, by LockBay
    pub(crate) fn new(
        store: Arc<dyn Store>,
        clock: Clock,
        keeper: Keeper,
        metrics: Arc<Metrics>,
        bus: Bus,
        defaults: JobDefaults,
        leader_kind: Kind,
        scribe: Scribe,
    ) -> Self {
        Jobs(Arc::new(Inner {
            store,
            clock,
            keeper,
            metrics,
            bus,
            defaults,
            leader_kind,
            scribe,
            live: Mutex::default(),
            replays: Replays::new(),
            handlers: TaskTracker::new(),
            closing: CancellationToken::new(),
            cut_off: CancellationToken::new(),
        }))
    }

    /// Refuses what was done under a claim that is gone. A holder that has ended its job itself is
    /// no stale one, so what it repeats, or sent at the same time, is not counted.
    fn refuse(&self, job_id: &str, claim_token: &str, found: Option<&JobRecord>) -> Error {
        if !found.is_some_and(|job| job.was_ended_under(claim_token)) {
            self.0.metrics.count(Metric::ClaimsFenced);
        }
        fenced(job_id)
    }
}

fn fenced(job_id: &str) -> Error {
    let message = format!("the claim of job {job_id} is gone: it lapsed, ended, or was taken over");
    Error::new(ErrorKind::Fenced, message)
}

fn job_key(job_id: &str) -> Result<Key> {
    check_name("job id", job_id, 128)?;
    Ok(Key::new(Partition::of(job_id), JOB, job_id))
}

fn not_found(job_id: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no job {job_id:?}"))
}

fn lost_reply() -> Error {
    Error::new(ErrorKind::Internal, "the store answered fewer commits than it was given")
}

fn shutting_down() -> Error {
    Error::new(ErrorKind::Unavailable, "this instance shuts down and claims no more jobs")
}

fn check_payload(what: &str, payload: &Json) -> Result<()> {
    let length = payload.text().len();
    if length <= MAX_PAYLOAD_BYTES {
        return Ok(());
    }
    Err(Error::invalid(format!("{what} has {length} bytes, at most {MAX_PAYLOAD_BYTES} are taken")))
}
