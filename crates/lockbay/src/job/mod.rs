//! Idempotent jobs: a job is claimed by one, runs once, and every duplicate gets its outcome.
//!
//! The service owns claims and outcomes. It refuses to know who leads: a job for the leader alone
//! comes with the leader's fence. Its state is the job's record and one list entry, written in one
//! commit; the decision is [`decide`](decide::decide), a pure function.
//!
//! # What holds
//! One attempt at most holds the claim; its token only grows, and a heartbeat, completion or
//! failure under an older or lapsed claim is refused as `Fenced`. An outcome is remembered for the
//! horizon, and a duplicate gets it instead of a second run. Called twice, `complete` with the same
//! claim token answers as the first time.
//!
//! # What does not
//! An attempt whose process died may have had its effect. The next attempt gets the same
//! idempotency token, so that the receiver can tell.

mod decide;
mod fingerprint;
mod list;
mod replay;
mod run;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::{Clock, Tick, Timestamp, micros};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Bus, Event};
use crate::json::Json;
use crate::keeper::Keeper;
use crate::lease::check_name;
use crate::metrics::{Metric, Metrics};
use crate::store::{
    Commit, Deadline, Fence, Guard, Key, Kind, Partition, Range, Record, Reply, Revision, Store,
    Write,
};

pub use decide::{JobStatus, OnFailed};
pub use fingerprint::Identity;
pub use list::{JobFilter, JobInfo, JobPage};
pub use run::{JobContext, JobFailure, JobOutcome, RunOptions};

use decide::{Decision, Found, JOB, JOB_LIST, JobRecord, LeaderFence, backoff, decide};
use fingerprint::{ParameterDigest, job_id};
use replay::Replays;

/// The largest parameters and results, in bytes.
pub const MAX_PAYLOAD_BYTES: usize = 1024 * 1024;
/// The longest claim.
pub const MAX_CLAIM_TTL: Duration = Duration::from_secs(24 * 3600);
/// The shortest claim.
pub const MIN_CLAIM_TTL: Duration = Duration::from_millis(100);
/// The most retries.
pub const MAX_RETRIES: u32 = 1_000;

/// Claims of this process that are remembered so that completing them takes one round trip.
const MAX_LIVE: usize = 65_536;
/// How often one claim looks again because the job changed between its look and its commit.
const MAX_RACES: usize = 16;
/// How often a waiting claim looks without having got a hint.
const POLL: Duration = Duration::from_secs(1);

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
    /// When it was due, for people.
    pub scheduled_time: Option<Timestamp>,
    /// The leader's fence, for a job that only the leader may run: the claim and the completion
    /// are committed under it.
    pub leader: Option<Fence>,
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

/// How an attempt that failed leaves the job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// When the next attempt may begin; `None` if there will be none.
    pub retry_after: Option<Duration>,
    /// The attempt that failed.
    pub attempt: u32,
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
    live: Mutex<HashMap<String, Arc<Live>>>,
    replays: Replays,
    /// Handlers that run in this process.
    handlers: TaskTracker,
    /// Fires when handlers that still run must be cut off.
    cut_off: CancellationToken,
}

/// A claim granted through this process.
#[derive(Debug)]
struct Live {
    job: JobRecord,
    revision: Revision,
    since: Tick,
}

/// A claim request, checked and named.
struct Named {
    request: ClaimRequest,
    digest: ParameterDigest,
    key: Key,
}

/// What a claim saw last of the job, and the commit that follows from it.
struct Attempt {
    commit: Commit,
    job: JobRecord,
    took_over: bool,
    started: Tick,
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
    ) -> Self {
        Jobs(Arc::new(Inner {
            store,
            clock,
            keeper,
            metrics,
            bus,
            defaults,
            leader_kind,
            live: Mutex::default(),
            replays: Replays::new(),
            handlers: TaskTracker::new(),
            cut_off: CancellationToken::new(),
        }))
    }

    /// Claims a job, or says who has it, or how it ended. One round trip, or none if the outcome
    /// is in the local cache; two when it takes over or runs again what failed.
    ///
    /// # Errors
    /// `KeyReused` if the key was used with other parameters under [`Identity::Key`]. `Fenced` if
    /// the leader's fence no longer holds. `Invalid` for a request outside the limits.
    pub async fn claim(&self, request: ClaimRequest) -> Result<Claim> {
        let named = self.name(request)?;
        let OnInProgress::Wait(limit) = named.request.on_in_progress else {
            return self.claim_once(&named).await;
        };
        let until = self.0.clock.tick() + limit;
        let range = Range::new(named.key.partition, JOB, &*named.key.id);
        let mut hints = None;
        loop {
            let claim = self.claim_once(&named).await?;
            let Claim::InProgress(progress) = &claim else { return Ok(claim) };
            let left = until.since(self.0.clock.tick());
            if left.is_zero() {
                return Ok(claim);
            }
            // Subscribed before the next look, so that the end of the job is not slept through.
            if hints.is_none() {
                hints = Some(self.0.store.watch(&range).await?);
                continue;
            }
            let lapse = progress.retry_after + Duration::from_millis(1);
            let pause = left.min(lapse).min(POLL);
            if let Some(hints) = &mut hints {
                self.0.clock.timeout(pause, hints.next()).await;
            }
        }
    }

    /// Several claims in one round trip where the store can; each has its own answer, and one that
    /// is refused does not hold up the others. Requests that ask to wait do not wait here.
    pub async fn claim_many(&self, requests: Vec<ClaimRequest>) -> Vec<Result<Claim>> {
        let attempts: Vec<Result<(Named, Option<Attempt>)>> = requests
            .into_iter()
            .map(|request| {
                let named = self.name(request)?;
                let attempt = self.first_attempt(&named)?;
                Ok((named, attempt))
            })
            .collect();
        let commits: Vec<Commit> = attempts
            .iter()
            .flatten()
            .filter_map(|(_, attempt)| attempt.as_ref().map(|attempt| attempt.commit.clone()))
            .collect();
        let mut replies = self.0.store.commit_all(&commits).await.into_iter();
        let mut claims = Vec::with_capacity(attempts.len());
        for attempt in attempts {
            claims.push(match attempt {
                Err(error) => Err(error),
                Ok((named, None)) => self.claim_once(&named).await,
                Ok((named, Some(attempt))) => match replies.next() {
                    Some(reply) => self.settle(&named, attempt, reply).await,
                    None => Err(lost_reply()),
                },
            });
        }
        claims
    }

    /// The commit of a claim that nothing is known about; `None` if its outcome is at hand.
    fn first_attempt(&self, named: &Named) -> Result<Option<Attempt>> {
        match self.replay(named)? {
            Some(_) => Ok(None),
            None => self.attempt(named, Decision::First, None).map(Some),
        }
    }

    async fn claim_once(&self, named: &Named) -> Result<Claim> {
        if let Some(replayed) = self.replay(named)? {
            self.0.metrics.count(Metric::DuplicatesPrevented);
            return Ok(Claim::Replayed(replayed));
        }
        let attempt = self.attempt(named, Decision::First, None)?;
        let reply = self.0.store.commit(&attempt.commit).await;
        self.settle(named, attempt, reply).await
    }

    /// Follows a claim's commit to its end: granted, answered, or tried again with what was found.
    async fn settle(
        &self,
        named: &Named,
        mut attempt: Attempt,
        mut reply: Result<Reply>,
    ) -> Result<Claim> {
        for _ in 0..MAX_RACES {
            let (guard, found, now) = match reply? {
                Reply::Committed { revision, now } => {
                    return Ok(Claim::Claimed(self.granted(named, attempt, revision, now)));
                }
                Reply::Conflict { guard, found, now } => (guard, found, now),
            };
            if *attempt.commit.guards[guard].key() != named.key {
                return Err(Error::new(
                    ErrorKind::Fenced,
                    "leadership is gone: the job was not claimed",
                ));
            }
            let job = found.as_ref().map(JobRecord::decode).transpose()?;
            let view = found.as_ref().zip(job.as_ref());
            let decision = decide(
                view.map(|(record, job)| Found { job, deadline: record.deadline, now }),
                &named.digest,
                named.request.on_failed,
            );
            let next = match (decision, view) {
                (Decision::KeyReused, _) => return Err(key_reused(named)),
                (Decision::InProgress(left), Some((_, job))) => {
                    self.0.metrics.count(Metric::CoordinationConflicts);
                    return Ok(Claim::InProgress(progress(named, job, left)));
                }
                (Decision::Replay { result_kept }, Some((record, job))) => {
                    return Ok(Claim::Replayed(self.replayed(
                        named,
                        record,
                        job,
                        result_kept,
                        now,
                    )));
                }
                (decision, view) => self.attempt(named, decision, view)?,
            };
            attempt = next;
            reply = self.0.store.commit(&attempt.commit).await;
        }
        Err(Error::new(ErrorKind::Busy, "this job changes faster than it can be claimed"))
    }

    /// Checks a request and gives it its key.
    fn name(&self, request: ClaimRequest) -> Result<Named> {
        check_name("job_type", &request.job_type, 128)?;
        check_name("job_key", &request.job_key, 512)?;
        if let Some(holder) = &request.holder {
            check_name("holder", holder, 256)?;
        }
        check_payload("parameters", &request.parameters)?;
        if let Some(ttl) = request.claim_ttl {
            check_claim_ttl(ttl)?;
        }
        if request.max_retries.is_some_and(|retries| retries > MAX_RETRIES) {
            return Err(Error::invalid(format!("max_retries is at most {MAX_RETRIES}")));
        }
        let digest = ParameterDigest::of(&request.parameters)?;
        let id = job_id(request.identity, &request.job_type, &request.job_key, &digest);
        let key = Key::new(Partition::of(&id), JOB, id);
        Ok(Named { request, digest, key })
    }

    /// The commit that claims a job as it was found.
    fn attempt(
        &self,
        named: &Named,
        decision: Decision,
        found: Option<(&Record, &JobRecord)>,
    ) -> Result<Attempt> {
        let Named { request, digest, key } = named;
        let defaults = &self.0.defaults;
        let now = self.0.clock.now();
        let claim_ttl = request.claim_ttl.unwrap_or(defaults.claim_ttl);
        let earlier = found.map(|(_, job)| job).filter(|_| decision != Decision::First);
        let listed = list::entry(JobStatus::Claimed, now, &key.id);
        let job = JobRecord {
            job_type: request.job_type.clone(),
            job_key: request.job_key.clone(),
            identity: request.identity,
            digest: digest.clone(),
            parameters: request.parameters.clone(),
            status: JobStatus::Claimed,
            attempt: earlier.map_or(0, |job| job.attempt) + 1,
            failures: earlier.map_or(0, |job| job.failures),
            max_retries: request.max_retries.unwrap_or(defaults.max_retries),
            holder: request.holder.clone().unwrap_or_else(|| defaults.holder.clone()),
            claim_token: self.0.clock.random_id(),
            idempotency_token: earlier.map_or_else(
                || format!("{}-{}", key.id, now.as_micros()),
                |job| job.idempotency_token.clone(),
            ),
            claim_ttl_us: micros(claim_ttl),
            result_ttl_us: micros(defaults.result_ttl),
            horizon_us: micros(defaults.horizon),
            created_at: earlier.map_or(now, |job| job.created_at),
            claimed_at: now,
            listed: listed.clone(),
            leader: request.leader.as_ref().map(LeaderFence::new),
            scheduled_time: request.scheduled_time,
            finished_at: None,
            result: None,
            error: None,
            will_retry: false,
        };
        let mut guards = match found {
            None => vec![Guard::Absent(key.clone())],
            // Heartbeats move the deadline and leave the revision: both are checked.
            Some((record, _)) => {
                vec![Guard::RevisionIs(key.clone(), record.revision), Guard::Lapsed(key.clone())]
            }
        };
        guards.extend(request.leader.clone().map(Guard::Held));
        let deadline = Deadline::After(claim_ttl);
        let mut writes = vec![Write::Put { key: key.clone(), value: job.encode()?, deadline }];
        writes.extend(found.map(|(_, job)| unlist(key.partition, job)));
        writes.push(Write::Mark { key: Key::new(key.partition, JOB_LIST, listed) });
        let commit = Commit::new(key.partition, guards, writes, Vec::new())?;
        let took_over = decision == Decision::TakeOver;
        Ok(Attempt { commit, job, took_over, started: self.0.clock.tick() })
    }

    fn granted(
        &self,
        named: &Named,
        attempt: Attempt,
        revision: Revision,
        now: Timestamp,
    ) -> ClaimedJob {
        let Attempt { job, took_over, started, .. } = attempt;
        self.0.metrics.count(Metric::JobsClaimed);
        if took_over {
            self.0.metrics.count(Metric::JobsTakenOver);
        }
        let claimed = ClaimedJob {
            job_id: named.key.id.to_string(),
            attempt: job.attempt,
            claim_token: job.claim_token.clone(),
            fencing_token: revision,
            idempotency_token: job.idempotency_token.clone(),
            expires_at: now + Duration::from_micros(job.claim_ttl_us),
        };
        self.remember_live(&claimed.job_id, Live { job, revision, since: started });
        claimed
    }

    /// Keeps a claim at hand; when there are too many, those that have lapsed go first.
    fn remember_live(&self, job_id: &str, claim: Live) {
        let now = self.0.clock.tick();
        let mut live = self.0.live.lock();
        if live.len() >= MAX_LIVE {
            live.retain(|_, live| {
                now.since(live.since) < Duration::from_micros(live.job.claim_ttl_us)
            });
        }
        if live.len() < MAX_LIVE {
            live.insert(job_id.into(), Arc::new(claim));
        }
    }

    /// The outcome, if it is in the local cache.
    fn replay(&self, named: &Named) -> Result<Option<Replayed>> {
        let tick = self.0.clock.tick();
        match self.0.replays.get(&named.key.id, tick) {
            None => Ok(None),
            Some((digest, _)) if digest != named.digest => Err(key_reused(named)),
            Some((_, replayed)) => Ok(Some(replayed)),
        }
    }

    fn replayed(
        &self,
        named: &Named,
        record: &Record,
        job: &JobRecord,
        result_kept: bool,
        now: Timestamp,
    ) -> Replayed {
        self.0.metrics.count(Metric::DuplicatesPrevented);
        let result_kept =
            result_kept && (job.result.is_some() || job.status != JobStatus::Completed);
        let replayed = Replayed {
            job_id: named.key.id.to_string(),
            status: job.status,
            attempt: job.attempt,
            result: job.result.clone().filter(|_| result_kept),
            result_kept,
            error: job.error.clone(),
            completed_at: job.finished_at,
        };
        if job.status == JobStatus::Completed && result_kept {
            let kept = record.deadline.map(|deadline| deadline.since(now)).unwrap_or_default();
            let until = self.0.clock.tick() + kept;
            self.0.replays.put(&named.key.id, &job.digest, replayed.clone(), until);
        }
        replayed
    }

    /// Extends a claim to its full length from now. One round trip.
    ///
    /// # Errors
    /// `Fenced` if the claim has lapsed, ended or moved on; `NotFound` if there is no such job.
    pub async fn heartbeat(&self, job_id: &str, claim_token: &str) -> Result<Timestamp> {
        let live = self.live(job_id, claim_token).await?;
        let fence = Fence { key: job_key(job_id)?, token: live.revision };
        let ttl = Duration::from_micros(live.job.claim_ttl_us);
        let touch = Write::Touch { key: fence.key.clone(), ttl };
        let partition = fence.key.partition;
        let commit = Commit::new(partition, vec![Guard::Held(fence)], vec![touch], Vec::new())?;
        match self.0.store.commit(&commit).await? {
            Reply::Committed { now, .. } => {
                let since = self.0.clock.tick();
                let renewed = Live { job: live.job.clone(), revision: live.revision, since };
                self.remember_live(job_id, renewed);
                Ok(now + ttl)
            }
            Reply::Conflict { .. } => Err(self.fenced(job_id)),
        }
    }

    /// Records the result of a claimed job. One round trip for a job claimed through this process.
    ///
    /// Called again with the same claim token after it succeeded, it succeeds again.
    ///
    /// # Errors
    /// `Fenced` if the claim has lapsed, or the leadership it was made under is gone. `NotFound` if
    /// there is no such job. `Invalid` if the result is over its limit.
    pub async fn complete(&self, job_id: &str, claim_token: &str, result: Json) -> Result<()> {
        match self.completion(job_id, claim_token, &result).await {
            Ok((live, ending)) => self.end(job_id, &live, ending).await,
            Err(error) => self.already(job_id, claim_token, JobStatus::Completed, error).await,
        }
    }

    /// Completes one job and claims another, in one round trip where the store can. Each has its
    /// own answer.
    ///
    /// # Errors
    /// Of each, as [`complete`](Jobs::complete) and [`claim`](Jobs::claim).
    pub async fn complete_and_claim(
        &self,
        job_id: &str,
        claim_token: &str,
        result: Json,
        next: ClaimRequest,
    ) -> (Result<()>, Result<Claim>) {
        let completion = self.completion(job_id, claim_token, &result).await;
        let named = self.name(next);
        let attempt = named.as_ref().ok().and_then(|named| self.first_attempt(named).transpose());
        if let (Ok((live, ending)), Ok(named), Some(Ok(attempt))) = (&completion, &named, attempt) {
            let commits = [ending.1.clone(), attempt.commit.clone()];
            let mut replies = self.0.store.commit_all(&commits).await.into_iter();
            let mut reply = || replies.next().unwrap_or_else(|| Err(lost_reply()));
            let completed = self.end_with(job_id, live, &ending.0, reply());
            return (completed, self.settle(named, attempt, reply()).await);
        }
        let completed = self.complete(job_id, claim_token, result).await;
        let claimed = match named {
            Ok(named) => self.claim_once(&named).await,
            Err(error) => Err(error),
        };
        (completed, claimed)
    }

    /// Several completions (job id, claim token, result) in one round trip where the store can;
    /// each has its own answer.
    pub async fn complete_many(&self, completions: Vec<(String, String, Json)>) -> Vec<Result<()>> {
        let mut ready = Vec::with_capacity(completions.len());
        for (job_id, claim_token, result) in &completions {
            ready.push(self.completion(job_id, claim_token, result).await);
        }
        let commits: Vec<Commit> =
            ready.iter().flatten().map(|(_, (_, commit))| commit.clone()).collect();
        let mut replies = self.0.store.commit_all(&commits).await.into_iter();
        let mut answers = Vec::with_capacity(completions.len());
        for ((job_id, claim_token, result), ready) in completions.into_iter().zip(ready) {
            answers.push(match ready {
                Ok((live, (ended, _))) => {
                    let reply = replies.next().unwrap_or_else(|| Err(lost_reply()));
                    self.end_with(&job_id, &live, &ended, reply)
                }
                // One that was not to be completed that way gets the whole answer.
                Err(_) => self.complete(&job_id, &claim_token, result).await,
            });
        }
        answers
    }

    /// The commit that completes a claimed job.
    async fn completion(
        &self,
        job_id: &str,
        claim_token: &str,
        result: &Json,
    ) -> Result<(Arc<Live>, (JobRecord, Commit))> {
        check_payload("result", result)?;
        let live = self.live(job_id, claim_token).await?;
        let ending = self.ending(job_id, &live, Ending::Completed(result.clone()))?;
        Ok((live, ending))
    }

    /// Records that the attempt failed, without effect as far as the caller knows.
    ///
    /// # Errors
    /// As [`complete`](Jobs::complete).
    pub async fn fail(
        &self,
        job_id: &str,
        claim_token: &str,
        error: &str,
        retry: Retry,
    ) -> Result<Failed> {
        let live = self.live(job_id, claim_token).await?;
        let error: String = error.chars().take(4_096).collect();
        let failures = live.job.failures + 1;
        let may_retry = retry == Retry::Allowed && failures <= live.job.max_retries;
        let retry_after = may_retry.then(|| backoff(failures, self.0.clock.random()));
        let ending =
            self.ending(job_id, &live, Ending::Failed { error: error.clone(), retry_after })?;
        self.end(job_id, &live, ending).await?;
        if retry_after.is_none() {
            let event = Event::JobFailed { job_id: job_id.into(), error };
            self.0.bus.tell(self.0.clock.now(), event);
        }
        Ok(Failed { retry_after, attempt: live.job.attempt })
    }

    /// Decides that a job shall not run: its claim is fenced, and later claims get this answer.
    ///
    /// # Errors
    /// `NotFound`; `Held` if it has completed already.
    pub async fn cancel(&self, job_id: &str, reason: &str) -> Result<()> {
        check_name("reason", reason, 1_024)?;
        self.operate(job_id, |job| match job.status {
            JobStatus::Completed => {
                Err(Error::new(ErrorKind::Held, format!("job {job_id} has completed already")))
            }
            JobStatus::Cancelled => Ok(None),
            JobStatus::Claimed | JobStatus::Failed => Ok(Some(Ending::Cancelled(reason.into()))),
        })
        .await
    }

    /// Lets a job that failed or was cancelled run again, with a fresh budget of retries.
    ///
    /// # Errors
    /// `NotFound`; `Held` if it is claimed or has completed.
    pub async fn retry(&self, job_id: &str) -> Result<()> {
        self.operate(job_id, |job| match job.status {
            JobStatus::Failed | JobStatus::Cancelled => Ok(Some(Ending::Reopened)),
            JobStatus::Claimed | JobStatus::Completed => Err(Error::new(
                ErrorKind::Held,
                format!(
                    "job {job_id} is {}: only a failed or cancelled job is retried",
                    job.status.name()
                ),
            )),
        })
        .await
    }

    /// Read, decide, commit against what was read, until nothing came between.
    async fn operate(
        &self,
        job_id: &str,
        decide: impl Fn(&JobRecord) -> Result<Option<Ending>>,
    ) -> Result<()> {
        for _ in 0..MAX_RACES {
            let record = self.read(job_id).await?;
            let job = JobRecord::decode(&record)?;
            let Some(ending) = decide(&job)? else { return Ok(()) };
            let cancelled = matches!(ending, Ending::Cancelled(_));
            let guards = vec![Guard::RevisionIs(record.key.clone(), record.revision)];
            let (_, commit) = self.write_ending(&record.key, &job, ending, guards)?;
            if let Reply::Committed { .. } = self.0.store.commit(&commit).await? {
                if cancelled {
                    self.0.metrics.count(Metric::JobsCancelled);
                }
                self.0.live.lock().remove(job_id);
                return Ok(());
            }
        }
        Err(Error::new(ErrorKind::Busy, format!("job {job_id} changes too fast")))
    }

    /// The claim with this token: from memory, or read.
    async fn live(&self, job_id: &str, claim_token: &str) -> Result<Arc<Live>> {
        if let Some(live) = self.0.live.lock().get(job_id)
            && live.job.claim_token == claim_token
        {
            return Ok(Arc::clone(live));
        }
        let record = self.read(job_id).await?;
        let job = JobRecord::decode(&record)?;
        if job.status != JobStatus::Claimed || job.claim_token != claim_token {
            return Err(self.fenced(job_id));
        }
        Ok(Arc::new(Live { job, revision: record.revision, since: self.0.clock.tick() }))
    }

    /// A repetition of what was already recorded succeeds again.
    async fn already(
        &self,
        job_id: &str,
        claim_token: &str,
        status: JobStatus,
        error: Error,
    ) -> Result<()> {
        if error.kind() != ErrorKind::Fenced {
            return Err(error);
        }
        let job = JobRecord::decode(&self.read(job_id).await?)?;
        let same = job.status == status && job.claim_token == claim_token;
        if same { Ok(()) } else { Err(error) }
    }

    async fn read(&self, job_id: &str) -> Result<Record> {
        let read = self.0.store.get(&[job_key(job_id)?]).await?;
        read.records.into_iter().flatten().next().ok_or_else(|| not_found(job_id))
    }

    fn ending(&self, job_id: &str, live: &Live, ending: Ending) -> Result<(JobRecord, Commit)> {
        let key = job_key(job_id)?;
        let mut guards = vec![Guard::Held(Fence { key: key.clone(), token: live.revision })];
        if let Some(leader) = &live.job.leader {
            guards.push(Guard::Held(leader.fence(self.0.leader_kind)));
        }
        self.write_ending(&key, &live.job, ending, guards)
    }

    /// The commit that ends an attempt, and the record it leaves.
    fn write_ending(
        &self,
        key: &Key,
        job: &JobRecord,
        ending: Ending,
        guards: Vec<Guard>,
    ) -> Result<(JobRecord, Commit)> {
        let now = self.0.clock.now();
        let mut ended = job.clone();
        ended.finished_at = Some(now);
        ended.will_retry = false;
        let horizon = Duration::from_micros(job.horizon_us);
        let kept = match ending {
            Ending::Completed(result) => {
                ended.status = JobStatus::Completed;
                ended.result = Some(result);
                ended.error = None;
                Duration::from_micros(job.result_ttl_us)
            }
            Ending::Failed { error, retry_after } => {
                ended.status = JobStatus::Failed;
                ended.error = Some(error);
                ended.failures += 1;
                ended.will_retry = retry_after.is_some();
                retry_after.unwrap_or(horizon)
            }
            Ending::Cancelled(reason) => {
                ended.status = JobStatus::Cancelled;
                ended.error = Some(format!("cancelled: {reason}"));
                horizon
            }
            Ending::Released => {
                ended.status = JobStatus::Failed;
                ended.error = Some("released at shutdown; its outcome is unknown".into());
                ended.will_retry = true;
                Duration::ZERO
            }
            Ending::Reopened => {
                ended.status = JobStatus::Failed;
                ended.failures = 0;
                ended.will_retry = true;
                Duration::ZERO
            }
        };
        ended.listed = list::entry(ended.status, now, &key.id);
        let value = ended.encode()?;
        let writes = vec![
            Write::Put { key: key.clone(), value, deadline: Deadline::After(kept) },
            unlist(key.partition, job),
            Write::Mark { key: Key::new(key.partition, JOB_LIST, ended.listed.as_str()) },
        ];
        let commit = Commit::new(key.partition, guards, writes, vec![key.clone()])?;
        Ok((ended, commit))
    }

    /// Commits the end of an attempt, and remembers the outcome.
    async fn end(
        &self,
        job_id: &str,
        live: &Live,
        (ended, commit): (JobRecord, Commit),
    ) -> Result<()> {
        let reply = self.0.store.commit(&commit).await;
        self.end_with(job_id, live, &ended, reply)
    }

    fn end_with(
        &self,
        job_id: &str,
        live: &Live,
        ended: &JobRecord,
        reply: Result<Reply>,
    ) -> Result<()> {
        match reply? {
            Reply::Committed { .. } => {
                self.0.live.lock().remove(job_id);
                self.ended(job_id, live, ended);
                Ok(())
            }
            Reply::Conflict { found, .. } => {
                self.0.live.lock().remove(job_id);
                // An earlier copy of this very call may have been applied.
                let job = found.as_ref().and_then(|record| JobRecord::decode(record).ok());
                let same = job.is_some_and(|job| {
                    job.claim_token == ended.claim_token
                        && job.status == ended.status
                        && job.status != JobStatus::Claimed
                });
                if same { Ok(()) } else { Err(self.fenced(job_id)) }
            }
        }
    }

    fn ended(&self, job_id: &str, live: &Live, ended: &JobRecord) {
        if ended.status == JobStatus::Failed {
            self.0.metrics.count(Metric::JobsFailed);
            return;
        }
        let now = self.0.clock.tick();
        self.0.metrics.count(Metric::JobsCompleted);
        self.0.metrics.observe(Metric::JobSeconds, now.since(live.since));
        let replayed = Replayed {
            job_id: job_id.into(),
            status: ended.status,
            attempt: ended.attempt,
            result: ended.result.clone(),
            result_kept: true,
            error: None,
            completed_at: ended.finished_at,
        };
        let until = now + Duration::from_micros(ended.result_ttl_us);
        self.0.replays.put(job_id, &ended.digest, replayed, until);
    }

    fn fenced(&self, job_id: &str) -> Error {
        self.0.metrics.count(Metric::ClaimsFenced);
        let message =
            format!("the claim of job {job_id} is gone: it lapsed, ended, or was taken over");
        Error::new(ErrorKind::Fenced, message)
    }
}

/// Whether a failed attempt may be repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Retry {
    /// Up to the job's `max_retries`.
    #[default]
    Allowed,
    /// The failure is final.
    Never,
}

/// How an attempt ends.
#[derive(Debug, Clone)]
enum Ending {
    Completed(Json),
    Failed {
        error: String,
        retry_after: Option<Duration>,
    },
    Cancelled(String),
    Reopened,
    /// The process ends before the handler has: somebody else may go on at once.
    Released,
}

fn unlist(partition: Partition, job: &JobRecord) -> Write {
    Write::Delete { key: Key::new(partition, JOB_LIST, job.listed.as_str()) }
}

fn job_key(job_id: &str) -> Result<Key> {
    check_name("job id", job_id, 128)?;
    Ok(Key::new(Partition::of(job_id), JOB, job_id))
}

fn lost_reply() -> Error {
    Error::new(ErrorKind::Internal, "the store answered fewer commits than it was given")
}

fn not_found(job_id: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no job {job_id:?}"))
}

fn key_reused(named: &Named) -> Error {
    let Named { request, key, .. } = named;
    Error::new(
        ErrorKind::KeyReused,
        format!(
            "job key {:?} of type {:?} was used before with other parameters: job {}",
            request.job_key, request.job_type, key.id
        ),
    )
}

fn progress(named: &Named, job: &JobRecord, retry_after: Duration) -> InProgress {
    InProgress {
        job_id: named.key.id.to_string(),
        holder: job.holder.clone(),
        attempt: job.attempt,
        retry_after,
    }
}

fn check_payload(what: &str, payload: &Json) -> Result<()> {
    let length = payload.text().len();
    if length <= MAX_PAYLOAD_BYTES {
        return Ok(());
    }
    Err(Error::invalid(format!("{what} has {length} bytes, at most {MAX_PAYLOAD_BYTES} are taken")))
}

fn check_claim_ttl(ttl: Duration) -> Result<()> {
    if (MIN_CLAIM_TTL..=MAX_CLAIM_TTL).contains(&ttl) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "a claim lasts from {MIN_CLAIM_TTL:?} to {MAX_CLAIM_TTL:?} between heartbeats, not {ttl:?}"
    )))
}
