//! Claiming: the way from a request to a claim, an outcome, or the one who has it.
//!
//! The first commit assumes that nobody has claimed the job. If it is refused, what it found is
//! decided upon, and the next commit is guarded by what was found, until one settles it.

use std::time::Duration;

use super::decide::{
    Decision, Found, JOB, JOB_LIST, JobRecord, JobStatus, LeaderFence, decide, first_execution,
};
use super::fingerprint::{Identity, ParameterDigest, job_id};
use super::live::Live;
use super::{
    Claim, ClaimRequest, ClaimedJob, InProgress, Jobs, MAX_CLAIM_TTL, MAX_RACES, MAX_RETRIES,
    MIN_CLAIM_TTL, OnInProgress, Replayed, check_payload, end, lost_reply, shutting_down,
};
use crate::clock::{Tick, Timestamp, micros};
use crate::error::{Error, ErrorKind, Result};
use crate::metrics::Metric;
use crate::name::check_name;
use crate::scribe::Entry;
use crate::store::{
    Commit, Deadline, Guard, Hint, Hints, Key, Partition, Range, Record, Reply, Revision, Write,
};

/// How long those who wait spread out after a hint that says too little.
const CROWD: Duration = Duration::from_millis(30);
/// How often a waiting claim looks without having got a hint.
const POLL: Duration = Duration::from_secs(1);

/// A claim request, checked and named.
pub(super) struct Named {
    request: ClaimRequest,
    digest: ParameterDigest,
    key: Key,
}

/// What a claim saw last of the job, and the commit that follows from it.
pub(super) struct Attempt {
    pub(super) commit: Commit,
    job: JobRecord,
    took_over: bool,
    started: Tick,
}

impl Jobs {
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
        let (mut hints, mut subscribed) = (None, false);
        loop {
            let claim = self.claim_once(&named).await?;
            let Claim::InProgress(progress) = &claim else { return Ok(claim) };
            let left = until.since(self.0.clock.tick());
            if left.is_zero() {
                return Ok(claim);
            }
            // Subscribed before the next look, so that the end of the job is not slept through.
            if !subscribed {
                subscribed = true;
                // Without hints it polls.
                hints = self
                    .0
                    .clock
                    .timeout(left, self.0.store.watch(&range))
                    .await
                    .and_then(Result::ok);
                continue;
            }
            let lapse = progress.retry_after + Duration::from_millis(1);
            let pause = left.min(lapse).min(POLL);
            let woken = self.0.closing.run_until_cancelled(self.wait(pause, &mut hints)).await;
            if woken.is_none() {
                return Err(shutting_down());
            }
        }
    }

    /// Waits for a hint, or for this long.
    async fn wait(&self, pause: Duration, hints: &mut Option<Hints>) {
        let clock = &self.0.clock;
        let Some(hints) = hints else { return clock.sleep(pause).await };
        if clock.timeout(pause, hints.next()).await == Some(Hint::Anything) {
            // Most likely something else has changed: not everybody needs to look at once.
            clock.sleep(clock.jitter(CROWD)).await;
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
    pub(super) fn first_attempt(&self, named: &Named) -> Result<Option<Attempt>> {
        match self.replay(named)? {
            Some(_) => Ok(None),
            None => self.attempt(named, Decision::First, None).map(Some),
        }
    }

    pub(super) async fn claim_once(&self, named: &Named) -> Result<Claim> {
        if let Some(replayed) = self.replay(named)? {
            self.0.metrics.count(Metric::DuplicatesPrevented);
            return Ok(Claim::Replayed(replayed));
        }
        let attempt = self.attempt(named, Decision::First, None)?;
        let reply = self.0.store.commit(&attempt.commit).await;
        self.settle(named, attempt, reply).await
    }

    /// Follows a claim's commit to its end: granted, answered, or tried again with what was found.
    pub(super) async fn settle(
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
            if attempt.commit.guards.get(guard).is_none_or(|guard| *guard.key() != named.key) {
                return Err(Error::new(
                    ErrorKind::Fenced,
                    "leadership is gone: the job was not claimed",
                ));
            }
            let job = found.as_ref().map(JobRecord::decode).transpose()?;
            let view = found.as_ref().zip(job.as_ref());
            let decision = decide(
                view.map(|(record, job)| Found::new(job, record, now)),
                &named.digest,
                named.request.on_failed,
            );
            let next = match (decision, view) {
                (Decision::KeyReused, _) => return Err(key_reused(named)),
                (Decision::InProgress(left), Some((record, job))) => {
                    if let Some(again) = self.granted_before(named, record, job) {
                        return Ok(Claim::Claimed(again));
                    }
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
    pub(super) fn name(&self, request: ClaimRequest) -> Result<Named> {
        check_name("job_type", &request.job_type, 128)?;
        check_name("job_key", &request.job_key, 512)?;
        if let Some(holder) = &request.holder {
            check_name("holder", holder, 256)?;
        }
        if let Some(key) = &request.idempotency_key {
            check_name("idempotency key", key, 255)?;
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
        if self.0.closing.is_cancelled() {
            return Err(shutting_down());
        }
        let key = &named.key;
        let job = self.claimed_record(named, &decision, found.map(|(_, job)| job));
        let mut guards = match found {
            None => vec![Guard::Absent(key.clone())],
            Some((record, job)) if job.has_ended() => {
                vec![Guard::RevisionIs(key.clone(), record.revision)]
            }
            // Heartbeats move the deadline and leave the revision: both are checked.
            Some((record, _)) => {
                vec![Guard::RevisionIs(key.clone(), record.revision), Guard::Lapsed(key.clone())]
            }
        };
        guards.extend(named.request.leader.iter().map(|right| Guard::Held(right.fence().clone())));
        let deadline = Deadline::After(Duration::from_micros(job.claim_ttl_us));
        let value = job.encode()?;
        let entry = entry(named, &job, &decision, found.map(|(record, _)| record), &value);
        let mut writes: Vec<Write> = self.0.scribe.enter(&entry).into_iter().collect();
        writes.push(Write::Put { key: key.clone(), value, deadline });
        writes.extend(found.map(|(_, job)| end::unlist(key, job)));
        writes.push(Write::Mark { key: Key::new(key.partition, JOB_LIST, job.listed(&key.id)) });
        let commit = Commit::new(key.partition, guards, writes, Vec::new())?;
        let took_over = decision == Decision::TakeOver;
        Ok(Attempt { commit, job, took_over, started: self.0.clock.tick() })
    }

    /// The record of a job that is being claimed; it goes on from `earlier` unless that is
    /// forgotten.
    fn claimed_record(
        &self,
        named: &Named,
        decision: &Decision,
        earlier: Option<&JobRecord>,
    ) -> JobRecord {
        let (request, defaults) = (&named.request, &self.0.defaults);
        let now = self.0.clock.now().as_micros();
        let execution = match (earlier, decision) {
            (None, _) => first_execution(Timestamp::from_micros(now)),
            // It runs again after it was forgotten.
            (Some(job), Decision::First) => job.execution + 1,
            (Some(job), _) => job.execution,
        };
        let earlier = earlier.filter(|_| *decision != Decision::First);
        JobRecord {
            job_type: request.job_type.clone(),
            job_key: request.job_key.clone(),
            parameters: request.parameters.clone(),
            digest: match request.identity {
                Identity::Fingerprint => None,
                Identity::Key => Some(named.digest.clone()),
            },
            status: JobStatus::Claimed,
            execution,
            attempt: earlier.map_or(0, |job| job.attempt) + 1,
            failures: earlier.map_or(0, |job| job.failures),
            max_retries: request.max_retries.unwrap_or(defaults.max_retries),
            holder: request.holder.clone().unwrap_or_else(|| defaults.holder.clone()),
            claim_token: self.0.clock.random_id(),
            claim_key: request.idempotency_key.clone(),
            claim_ttl_us: micros(request.claim_ttl.unwrap_or(defaults.claim_ttl)),
            result_ttl_us: micros(defaults.result_ttl),
            horizon_us: micros(defaults.horizon),
            created_us: earlier.map_or(now, |job| job.created_us),
            claimed_us: now,
            scheduled_us: request.scheduled_time.map(Timestamp::as_micros),
            finished_us: None,
            ended_us: None,
            leader: request.leader.as_ref().map(|right| LeaderFence::new(right.fence())),
            result: None,
            error: None,
            will_retry: false,
        }
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
            idempotency_token: job.idempotency_token(&named.key.id),
            expires_at: now + Duration::from_micros(job.claim_ttl_us),
            replayed: false,
            since: started,
        };
        let live = Live { job, revision, since: started, renewed: started };
        self.0.live.lock().insert(&claimed.job_id, live, self.0.clock.tick());
        claimed
    }

    /// The claim that this very request was granted before, if its key says so: its reply was lost.
    fn granted_before(
        &self,
        named: &Named,
        record: &Record,
        job: &JobRecord,
    ) -> Option<ClaimedJob> {
        let key = named.request.idempotency_key.as_ref()?;
        if job.status != JobStatus::Claimed || job.claim_key.as_ref() != Some(key) {
            return None;
        }
        Some(ClaimedJob {
            job_id: named.key.id.to_string(),
            attempt: job.attempt,
            claim_token: job.claim_token.clone(),
            fencing_token: record.revision,
            idempotency_token: job.idempotency_token(&named.key.id),
            expires_at: record.deadline?,
            replayed: true,
            // Nothing is known of when it began: whoever renews it counts from its renewal.
            since: Tick::default(),
        })
    }

    /// The outcome, if it is in the local cache.
    fn replay(&self, named: &Named) -> Result<Option<Replayed>> {
        let tick = self.0.clock.tick();
        match self.0.replays.get(&named.key.id, tick) {
            None => Ok(None),
            Some((known, _)) if known.as_ref().is_some_and(|known| *known != named.digest) => {
                Err(key_reused(named))
            }
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
            completed_at: job.finished_us.map(Timestamp::from_micros),
        };
        if job.status == JobStatus::Completed && result_kept {
            let end = job.ended_at(record) + Duration::from_micros(job.result_ttl_us);
            let kept = end.since(now);
            let until = self.0.clock.tick() + kept;
            self.0.replays.put(&named.key.id, &job.digest, replayed.clone(), until);
        }
        replayed
    }
}

/// What is entered of a claim: not the parameters, but their digest when they come in.
fn entry<'a>(
    named: &'a Named,
    job: &'a JobRecord,
    decision: &Decision,
    found: Option<&Record>,
    value: &'a [u8],
) -> Entry<'a> {
    let took_over = *decision == Decision::TakeOver;
    let action = if took_over { "taken_over" } else { "claimed" };
    let first = (job.attempt == 1).then_some(&named.digest);
    let mut entry = Entry::new("job", &named.key.id, action)
        .with("type", job.job_type.as_str())
        .with("key", job.job_key.as_str())
        .with("attempt", job.attempt)
        .with("holder", job.holder.as_str())
        .with_some("parameters", first.map(ParameterDigest::told));
    entry.worker = Some(&job.holder);
    entry.previous = found.map(|record| record.revision);
    entry.record = Some(value);
    entry
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

fn check_claim_ttl(ttl: Duration) -> Result<()> {
    if (MIN_CLAIM_TTL..=MAX_CLAIM_TTL).contains(&ttl) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "a claim lasts from {MIN_CLAIM_TTL:?} to {MAX_CLAIM_TTL:?} between heartbeats, not {ttl:?}"
    )))
}
