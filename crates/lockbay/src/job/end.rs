//! The end of an attempt, and what keeps it going: heartbeat, complete, fail, cancel, retry.
//!
//! Every end is a commit guarded by the claim, and for a leader's job by the leader's fence. What
//! was already recorded under the same claim token is confirmed, not refused: the first reply may
//! have been lost.

use std::sync::Arc;
use std::time::Duration;

use super::decide::{JOB_LIST, JobRecord, JobStatus, backoff};
use super::live::Live;
use super::operate::JobDecision;
use super::{
    Claim, ClaimRequest, JobSuccess, Jobs, MAX_RACES, Replayed, check_payload, fenced, job_key,
    lost_reply, not_found,
};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::json::Json;
use crate::metrics::Metric;
use crate::name::check_name;
use crate::scribe::Entry;
use crate::store::{Commit, Deadline, Effects, Fence, Guard, Key, Record, Reply, Revision, Write};

/// How much of an error message is kept.
const MAX_ERROR_CHARS: usize = 4_096;

/// How an attempt that failed leaves the job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// When the next attempt may begin; `None` if there will be none.
    pub retry_after: Option<Duration>,
    /// The attempt that failed.
    pub attempt: u32,
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
    Completed { result: Json, digest: [u8; 32] },
    Failed { error: String, retry_after: Option<Duration> },
    Cancelled(String),
    Reopened(String),
}

/// What is entered of an ending besides what its record says.
struct Told {
    action: &'static str,
    /// Of what a job returned.
    result: Option<[u8; 32]>,
    reason: Option<String>,
}

impl Told {
    fn of(ending: &Ending) -> Self {
        let (action, result, reason) = match ending {
            Ending::Completed { digest, .. } => ("completed", Some(*digest), None),
            Ending::Failed { .. } => ("failed", None, None),
            Ending::Cancelled(reason) => ("cancelled", None, Some(reason.clone())),
            Ending::Reopened(reason) => ("retried", None, Some(reason.clone())),
        };
        Told { action, result, reason }
    }

    fn entry<'a>(&'a self, job_id: &'a str, ended: &'a JobRecord) -> Entry<'a> {
        let by_worker = matches!(self.action, "completed" | "failed");
        let failed = self.action == "failed";
        let error = ended.error.as_deref().filter(|_| failed);
        let mut entry = Entry::new("job", job_id, self.action)
            .with("attempt", ended.attempt)
            .with_some("result", self.result)
            .with_some("error", error)
            .with_some("will_retry", failed.then_some(ended.will_retry));
        entry.worker = by_worker.then_some(&ended.holder);
        entry.reason = self.reason.as_deref();
        entry
    }
}

/// What became of a completion that carries effects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Completed {
    /// It is recorded, with its effects.
    Recorded,
    /// Nothing was written, because a guard of its effects does not hold; the claim is still held.
    EffectsTooLate,
}

/// When the end of an attempt was recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Recorded {
    Now,
    /// By an earlier copy of the same call, whose reply was lost.
    Before,
}

impl Jobs {
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
        // A leader's job is not kept alive for one who leads no longer.
        let leader = live.job.leader.as_ref().map(|leader| leader.fence(self.0.leader_kind));
        let guards = std::iter::once(fence).chain(leader).map(Guard::Held).collect();
        let commit = Commit::new(partition, guards, vec![touch], Vec::new())?;
        match self.0.store.commit(&commit).await? {
            Reply::Committed { now, .. } => {
                self.0.live.lock().renewed(job_id, self.0.clock.tick());
                Ok(now + ttl)
            }
            Reply::Conflict { found, .. } => {
                let job = found.as_ref().and_then(|record| JobRecord::decode(record).ok());
                Err(self.refuse(job_id, claim_token, job.as_ref()))
            }
        }
    }

    /// Records the result of a claimed job. One round trip for a job claimed through this process.
    ///
    /// Called again with the same claim token and result after it succeeded, it succeeds again.
    ///
    /// # Errors
    /// `KeyReused` if it was completed before with another result, which stays. `Fenced` if the
    /// claim has lapsed, or the leadership it was made under is gone. `NotFound` if there is no
    /// such job. `Invalid` if the result is over its limit, or readers would disagree about it.
    pub async fn complete(&self, job_id: &str, claim_token: &str, result: Json) -> Result<()> {
        self.complete_with(job_id, claim_token, &result.into()).await.map(drop)
    }

    /// Records the result of a claimed job together with its effects, or neither.
    pub(super) async fn complete_with(
        &self,
        job_id: &str,
        claim_token: &str,
        done: &JobSuccess,
    ) -> Result<Completed> {
        match self.completion(job_id, claim_token, &done.result, &done.effects).await {
            Ok((live, (ended, commit))) => {
                let reply = self.0.store.commit(&commit).await;
                if let Ok(Reply::Conflict { guard, .. }) = &reply
                    && *guard >= commit.guards.len() - done.effects.guards.len()
                {
                    return Ok(Completed::EffectsTooLate);
                }
                self.end_with(job_id, &live, &ended, reply).map(|_| Completed::Recorded)
            }
            Err(error) if error.kind() == ErrorKind::Fenced => {
                let record = self.read(job_id).await?;
                let job = JobRecord::decode(&record)?;
                confirm(&job, claim_token, JobStatus::Completed, Some(&done.result))
                    .unwrap_or(Err(error))
                    .map(|()| Completed::Recorded)
            }
            Err(error) => Err(error),
        }
    }

    /// Completes one job and claims another, in one round trip where the store can. Each has its
    /// own answer. A request that asks to wait does not wait here.
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
        let completion = self.completion(job_id, claim_token, &result, &Effects::default()).await;
        let named = self.name(next);
        let attempt = named.as_ref().ok().and_then(|named| self.first_attempt(named).transpose());
        if let (Ok((live, ending)), Ok(named), Some(Ok(attempt))) = (&completion, &named, attempt) {
            let commits = [ending.1.clone(), attempt.commit.clone()];
            let mut replies = self.0.store.commit_all(&commits).await.into_iter();
            let mut reply = || replies.next().unwrap_or_else(|| Err(lost_reply()));
            let completed = self.end_with(job_id, live, &ending.0, reply()).map(drop);
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
            ready.push(self.completion(job_id, claim_token, result, &Effects::default()).await);
        }
        let commits: Vec<Commit> =
            ready.iter().flatten().map(|(_, (_, commit))| commit.clone()).collect();
        let mut replies = self.0.store.commit_all(&commits).await.into_iter();
        let mut answers = Vec::with_capacity(completions.len());
        for ((job_id, claim_token, result), ready) in completions.into_iter().zip(ready) {
            answers.push(match ready {
                Ok((live, (ended, _))) => {
                    let reply = replies.next().unwrap_or_else(|| Err(lost_reply()));
                    self.end_with(&job_id, &live, &ended, reply).map(drop)
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
        effects: &Effects,
    ) -> Result<(Arc<Live>, (JobRecord, Commit))> {
        check_payload("result", result)?;
        // Refuses what readers would disagree about, as for parameters.
        let digest = result.digest()?;
        let live = self.live(job_id, claim_token).await?;
        let completed = Ending::Completed { result: result.clone(), digest };
        let ending = self.ending(job_id, &live, completed, effects)?;
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
        let live = match self.live(job_id, claim_token).await {
            Ok(live) => live,
            Err(refusal) if refusal.kind() == ErrorKind::Fenced => {
                return self.failed_before(job_id, claim_token, refusal).await;
            }
            Err(refusal) => return Err(refusal),
        };
        let error: String = error.chars().take(MAX_ERROR_CHARS).collect();
        let failures = live.job.failures + 1;
        let may_retry = retry == Retry::Allowed && failures <= live.job.max_retries;
        let retry_after = may_retry.then(|| backoff(failures, self.0.clock.random()));
        let failed = Ending::Failed { error: error.clone(), retry_after };
        let ending = self.ending(job_id, &live, failed, &Effects::default())?;
        if self.end(job_id, &live, ending).await? == Recorded::Before {
            let refusal = fenced(job_id);
            return self.failed_before(job_id, claim_token, refusal).await;
        }
        if retry_after.is_none() {
            let event = Event::JobFailed { job_id: job_id.into(), error };
            self.0.bus.tell(self.0.clock.now(), event);
        }
        Ok(Failed { retry_after, attempt: live.job.attempt })
    }

    /// Confirms a failure that was recorded under this claim token before.
    async fn failed_before(
        &self,
        job_id: &str,
        claim_token: &str,
        refusal: Error,
    ) -> Result<Failed> {
        let read = self.0.store.get(&[job_key(job_id)?]).await?;
        let record = read.records.into_iter().flatten().next().ok_or_else(|| not_found(job_id))?;
        let job = JobRecord::decode(&record)?;
        confirm(&job, claim_token, JobStatus::Failed, None).unwrap_or(Err(refusal))?;
        let left = record.deadline.map(|deadline| deadline.since(read.now)).unwrap_or_default();
        Ok(Failed { retry_after: job.will_retry.then_some(left), attempt: job.attempt })
    }

    /// Decides that a job shall not run: its claim is fenced, and later claims get this answer.
    ///
    /// # Errors
    /// `NotFound`; `Held` if it has completed already.
    pub async fn cancel(&self, job_id: &str, reason: &str) -> Result<()> {
        check_name("reason", reason, 1_024)?;
        self.operate(job_id, |job| {
            JobDecision::Cancel.check(job_id, job.status)?;
            let is_cancelled = job.status == JobStatus::Cancelled;
            Ok((!is_cancelled).then(|| Ending::Cancelled(reason.into())))
        })
        .await
    }

    /// Lets a job that failed or was cancelled run again, with a fresh budget of retries.
    ///
    /// # Errors
    /// `NotFound`; `Held` if it is claimed or has completed; `Invalid` without a reason.
    pub async fn retry(&self, job_id: &str, reason: &str) -> Result<()> {
        check_name("reason", reason, 1_024)?;
        self.operate(job_id, |job| {
            JobDecision::Retry.check(job_id, job.status)?;
            Ok(Some(Ending::Reopened(reason.into())))
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
            let from = (&job, record.revision);
            let (_, commit) = self.write_ending(&record.key, from, ending, guards, &[])?;
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
    pub(super) async fn live(&self, job_id: &str, claim_token: &str) -> Result<Arc<Live>> {
        if let Some(live) = self.0.live.lock().get(job_id)
            && live.job.claim_token == claim_token
        {
            return Ok(live);
        }
        let record = self.read(job_id).await?;
        let job = JobRecord::decode(&record)?;
        if job.status != JobStatus::Claimed || job.claim_token != claim_token {
            return Err(self.refuse(job_id, claim_token, Some(&job)));
        }
        let now = self.0.clock.tick();
        Ok(Arc::new(Live { job, revision: record.revision, since: now, renewed: now }))
    }

    async fn read(&self, job_id: &str) -> Result<Record> {
        let read = self.0.store.get(&[job_key(job_id)?]).await?;
        read.records.into_iter().flatten().next().ok_or_else(|| not_found(job_id))
    }

    /// The commit that ends an attempt under its claim; the guards of its effects are the last.
    fn ending(
        &self,
        job_id: &str,
        live: &Live,
        ending: Ending,
        effects: &Effects,
    ) -> Result<(JobRecord, Commit)> {
        let key = job_key(job_id)?;
        let mut guards = vec![Guard::Held(Fence { key: key.clone(), token: live.revision })];
        if let Some(leader) = &live.job.leader {
            guards.push(Guard::Held(leader.fence(self.0.leader_kind)));
        }
        guards.extend(effects.guards.iter().cloned());
        let from = (&live.job, live.revision);
        self.write_ending(&key, from, ending, guards, &effects.writes)
    }

    /// The commit that ends an attempt, and the record it leaves.
    fn write_ending(
        &self,
        key: &Key,
        (job, revision): (&JobRecord, Revision),
        ending: Ending,
        guards: Vec<Guard>,
        beside: &[Write],
    ) -> Result<(JobRecord, Commit)> {
        let mut ended = job.clone();
        ended.finished_us = Some(self.0.clock.now().as_micros());
        ended.ended_us = None;
        ended.will_retry = false;
        let told = Told::of(&ending);
        let deadline = match ending {
            Ending::Completed { result, .. } => {
                ended.status = JobStatus::Completed;
                ended.result = Some(result);
                ended.error = None;
                Deadline::Never
            }
            Ending::Failed { error, retry_after } => {
                ended.status = JobStatus::Failed;
                ended.error = Some(error);
                ended.failures += 1;
                ended.will_retry = retry_after.is_some();
                retry_after.map_or(Deadline::Never, Deadline::After)
            }
            Ending::Cancelled(reason) => {
                ended.status = JobStatus::Cancelled;
                ended.error = Some(format!("cancelled: {reason}"));
                Deadline::Never
            }
            Ending::Reopened(_) => {
                ended.status = JobStatus::Failed;
                ended.failures = 0;
                ended.will_retry = true;
                Deadline::After(Duration::ZERO)
            }
        };
        let value = ended.encode()?;
        let mut entry = told.entry(&key.id, &ended);
        entry.previous = Some(revision);
        entry.record = Some(&value);
        let entered = self.0.scribe.enter(&entry);
        let mut writes = vec![
            Write::Put { key: key.clone(), value, deadline },
            unlist(key, job),
            Write::Mark { key: Key::new(key.partition, JOB_LIST, ended.listed(&key.id)) },
        ];
        writes.extend(beside.iter().cloned());
        writes.extend(entered);
        let commit = Commit::new(key.partition, guards, writes, vec![key.clone()])?;
        Ok((ended, commit))
    }

    /// Commits the end of an attempt, and remembers the outcome.
    async fn end(
        &self,
        job_id: &str,
        live: &Live,
        (ended, commit): (JobRecord, Commit),
    ) -> Result<Recorded> {
        let reply = self.0.store.commit(&commit).await;
        self.end_with(job_id, live, &ended, reply)
    }

    fn end_with(
        &self,
        job_id: &str,
        live: &Live,
        ended: &JobRecord,
        reply: Result<Reply>,
    ) -> Result<Recorded> {
        match reply? {
            Reply::Committed { .. } => {
                self.0.live.lock().remove(job_id);
                self.ended(job_id, live, ended);
                Ok(Recorded::Now)
            }
            Reply::Conflict { found, .. } => {
                self.0.live.lock().remove(job_id);
                // An earlier copy of this very call may have been applied.
                let job = found.as_ref().and_then(|record| JobRecord::decode(record).ok());
                let token = &ended.claim_token;
                job.as_ref()
                    .and_then(|job| confirm(job, token, ended.status, ended.result.as_ref()))
                    .unwrap_or_else(|| Err(self.refuse(job_id, token, job.as_ref())))
                    .map(|()| Recorded::Before)
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
            completed_at: ended.finished_us.map(Timestamp::from_micros),
        };
        let until = now + Duration::from_micros(ended.result_ttl_us);
        self.0.replays.put(job_id, &ended.digest, replayed, until);
    }

    /// Lets a claim lapse now, for whoever was given it and cannot use it: the next attempt need
    /// not wait. Nothing is said of the outcome.
    ///
    /// # Errors
    /// As [`heartbeat`](Jobs::heartbeat).
    pub async fn give_back(&self, job_id: &str, claim_token: &str) -> Result<()> {
        let live = self.live(job_id, claim_token).await?;
        self.release(job_id, &live).await
    }

    /// Lets a claim lapse now, whose handler was cut off: its outcome is unknown, and the next
    /// attempt need not wait.
    pub(super) async fn release(&self, job_id: &str, live: &Live) -> Result<()> {
        let key = job_key(job_id)?;
        let guards = vec![Guard::Held(Fence { key: key.clone(), token: live.revision })];
        let mut entry = Entry::new("job", job_id, "released").with("attempt", live.job.attempt);
        entry.worker = Some(&live.job.holder);
        entry.previous = Some(live.revision);
        let mut writes = vec![Write::Touch { key: key.clone(), ttl: Duration::ZERO }];
        writes.extend(self.0.scribe.enter(&entry));
        let commit = Commit::new(key.partition, guards, writes, vec![key])?;
        self.0.live.lock().remove(job_id);
        self.0.store.commit(&commit).await.map(drop)
    }
}

/// Removes a job's entry from the list.
pub(super) fn unlist(key: &Key, job: &JobRecord) -> Write {
    Write::Delete { key: Key::new(key.partition, JOB_LIST, job.listed(&key.id)) }
}

/// What a repetition is answered, if the attempt with this token has ended like that; `None` if it
/// has not.
fn confirm(
    job: &JobRecord,
    claim_token: &str,
    status: JobStatus,
    result: Option<&Json>,
) -> Option<Result<()>> {
    if job.status != status || job.claim_token != claim_token {
        return None;
    }
    let other = result
        .zip(job.result.as_ref())
        .is_some_and(|(given, kept)| given != kept && given.digest().ok() != kept.digest().ok());
    if other {
        let message = "this attempt was completed before with another result, which stays";
        return Some(Err(Error::new(ErrorKind::KeyReused, message)));
    }
    Some(Ok(()))
}
