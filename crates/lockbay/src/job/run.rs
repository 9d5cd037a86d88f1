//! Running a job in this process: claim, keep the claim, run the handler, record how it ended.
//!
//! The claim is renewed while the handler runs. If it is lost, the handler's cancellation fires
//! before the claim can lapse, and what it returns is discarded. A panic or a timeout is an attempt
//! that failed; a failed attempt is repeated after its backoff until the retries are used up.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;

use super::end::Completed;
use super::{
    Claim, ClaimRequest, ClaimedJob, InProgress, Jobs, OnFailed, OnInProgress, Replayed, Retry,
    job_key, shutting_down,
};
use crate::clock::Tick;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::json::Json;
use crate::keeper::Right;
use crate::store::{Effects, Fence, Revision};

/// How often a handler is asked anew because its effects came too late, before the attempt fails.
const MAX_ASKED_ANEW: u32 = 8;
/// About how long it waits before that, more each time, so that those who collide come apart.
const APART: Duration = Duration::from_millis(5);

/// What a handler gets.
#[derive(Debug, Clone)]
pub struct JobContext {
    /// As in the claim.
    pub parameters: Json,
    /// Which job.
    pub job_id: String,
    /// The same for all attempts: hand it to whoever can refuse duplicates.
    pub idempotency_token: String,
    /// The number of this attempt, from 1.
    pub attempt: u32,
    /// Grows with every claim: hand it to what the job writes to.
    pub fencing_token: Revision,
    /// When the attempt is cut off, on this process's monotonic clock.
    pub deadline: Option<Tick>,
    /// Fires when the claim is lost. Stop then: somebody else may have the job.
    pub cancelled: CancellationToken,
}

/// What a handler that is done returns.
#[derive(Debug, Clone, Default)]
pub struct JobSuccess {
    /// Recorded, and the answer to every duplicate.
    pub result: Json,
    /// Written in the commit that completes the job, so that they happen exactly once. If a guard
    /// of theirs does not hold, nothing is written and the handler is asked anew within the same
    /// attempt, and after that happened too often the attempt has failed.
    pub effects: Effects,
}

impl From<Json> for JobSuccess {
    fn from(result: Json) -> Self {
        JobSuccess { result, effects: Effects::default() }
    }
}

/// How a handler fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobFailure {
    /// Why.
    pub error: String,
    /// Whether another attempt may help.
    pub retry: Retry,
}

impl JobFailure {
    /// A failure after which another attempt may help.
    pub fn retryable(error: impl Into<String>) -> Self {
        JobFailure { error: error.into(), retry: Retry::Allowed }
    }

    /// A failure that another attempt would only repeat.
    pub fn permanent(error: impl Into<String>) -> Self {
        JobFailure { error: error.into(), retry: Retry::Never }
    }
}

impl<E: std::error::Error> From<E> for JobFailure {
    fn from(error: E) -> Self {
        JobFailure::retryable(error.to_string())
    }
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobOutcome {
    /// The handler ran here, and this is its recorded result.
    Completed(Json),
    /// It had ended before, here or elsewhere.
    Replayed(Replayed),
    /// The last attempt failed, and there will be no other.
    Failed(String),
    /// Somebody else runs it.
    InProgress(InProgress),
}

/// Limits of a run.
#[derive(Debug, Clone, Copy, Default)]
pub struct RunOptions {
    /// How long one attempt may take.
    pub timeout: Option<Duration>,
}

impl Jobs {
    /// Runs a job once, wherever and however often this is called.
    ///
    /// A failed attempt is repeated here after its backoff, unless `on_failed` is
    /// [`Replay`](OnFailed::Replay). Dropping the returned future drops the handler at its next
    /// await and leaves the claim to lapse.
    ///
    /// # Errors
    /// `Fenced` if the claim or the leadership was lost while the handler ran: its effect may have
    /// happened. `Unknown` if the handler ran and its outcome could not be recorded. `Unavailable`
    /// if this instance shuts down first, or the store is away before the handler ran. Others as
    /// [`claim`](Jobs::claim).
    pub async fn run<H, F>(
        &self,
        request: ClaimRequest,
        options: RunOptions,
        handler: H,
    ) -> Result<JobOutcome>
    where
        H: Fn(JobContext) -> F,
        F: Future<Output = std::result::Result<Json, JobFailure>>,
    {
        let handler = &handler;
        let done = |job| async move { handler(job).await.map(JobSuccess::from) };
        self.run_with_effects(request, options, done).await
    }

    /// As [`run`](Jobs::run), for a handler whose effects inside of LockBay are to happen exactly
    /// once: they are written in the commit that completes the job.
    ///
    /// # Errors
    /// As [`run`](Jobs::run).
    pub async fn run_with_effects<H, F>(
        &self,
        request: ClaimRequest,
        options: RunOptions,
        handler: H,
    ) -> Result<JobOutcome>
    where
        H: Fn(JobContext) -> F,
        F: Future<Output = std::result::Result<JobSuccess, JobFailure>>,
    {
        let mut request = request;
        // A run is no repetition of a lost request: it must not join an attempt that is running.
        request.idempotency_key = None;
        loop {
            let claimed = match self.claim(request.clone()).await? {
                Claim::Claimed(claimed) => claimed,
                Claim::Replayed(replayed) => return Ok(JobOutcome::Replayed(replayed)),
                Claim::InProgress(progress) => return Ok(JobOutcome::InProgress(progress)),
            };
            let pause = match self.run_claimed(&request, options, &claimed, &handler).await? {
                Ended::Completed(result) => return Ok(JobOutcome::Completed(result)),
                Ended::Failed { error, retry_after: None } => return Ok(JobOutcome::Failed(error)),
                Ended::Failed { error, .. } if request.on_failed == OnFailed::Replay => {
                    return Ok(JobOutcome::Failed(error));
                }
                Ended::Failed { retry_after: Some(pause), .. } => pause,
            };
            let sleep = self.0.clock.sleep(pause);
            if self.0.closing.run_until_cancelled(sleep).await.is_none() {
                return Err(shutting_down());
            }
            // Whoever claims it first runs the next attempt; we want its outcome.
            if request.on_in_progress == OnInProgress::Reject {
                request.on_in_progress = OnInProgress::Wait(Duration::from_secs(1));
            }
        }
    }

    #[tracing::instrument(
        level = "debug",
        name = "job",
        skip_all,
        fields(job_id = %claimed.job_id, attempt = claimed.attempt)
    )]
    async fn run_claimed<H, F>(
        &self,
        request: &ClaimRequest,
        options: RunOptions,
        claimed: &ClaimedJob,
        handler: &H,
    ) -> Result<Ended>
    where
        H: Fn(JobContext) -> F,
        F: Future<Output = std::result::Result<JobSuccess, JobFailure>>,
    {
        let inner = &self.0;
        let _running = inner.handlers.token();
        let fence = Fence { key: job_key(&claimed.job_id)?, token: claimed.fencing_token };
        let ttl = request.claim_ttl.unwrap_or(inner.defaults.claim_ttl);
        // Given up, and the handler's tasks told, on every way out of here, also by a drop.
        let right = Kept { right: inner.keeper.keep(fence, ttl, claimed.since), jobs: self };
        if !right.right.is_held() {
            // The answer came so late that trust has ended, or this instance is closing.
            drop(right);
            return Err(self.cut(claimed, Cut::TooLate).await);
        }
        let lost = right.right.lost();
        let leader_lost = follow_leader(request.leader.as_ref(), lost);
        let context = JobContext {
            parameters: request.parameters.clone(),
            job_id: claimed.job_id.clone(),
            idempotency_token: claimed.idempotency_token.clone(),
            attempt: claimed.attempt,
            fencing_token: claimed.fencing_token,
            deadline: options.timeout.map(|timeout| inner.clock.tick() + timeout),
            cancelled: leader_lost.clone(),
        };
        let mut asked_anew = 0;
        let cut = loop {
            let deadline = context.deadline;
            // Called inside the future, so that a panic of the call itself is caught as well.
            let asked = async { handler(context.clone()).await };
            tokio::select! {
                biased;
                outcome = self.supervise(deadline, asked) => {
                    match self.record(claimed, outcome, asked_anew).await {
                        Ok(Some(ended)) => return Ok(ended),
                        Ok(None) => {}
                        // It ended because it was told that leadership is gone: the claim is still
                        // ours, and the next leader need not wait for it.
                        Err(error)
                            if error.kind() == ErrorKind::Fenced
                                && leader_lost.is_cancelled()
                                && !lost.is_cancelled() =>
                        {
                            break Cut::LeadershipLost;
                        }
                        Err(error) => return Err(error),
                    }
                    asked_anew += 1;
                    inner.clock.sleep(inner.clock.jitter(APART * asked_anew)).await;
                }
                () = lost.cancelled() => break Cut::ClaimLost,
                () = leader_lost.cancelled() => break Cut::LeadershipLost,
                () = inner.cut_off.cancelled() => break Cut::Shutdown,
            }
        };
        drop(right);
        Err(self.cut(claimed, cut).await)
    }

    /// What becomes of a claim whose handler was cut off. Its outcome is unknown; where the claim
    /// is still ours it is let lapse at once, so that the next attempt need not wait.
    async fn cut(&self, claimed: &ClaimedJob, cut: Cut) -> Error {
        let job_id = &claimed.job_id;
        if cut == Cut::ClaimLost {
            let event = Event::ClaimLost { job_id: job_id.clone() };
            self.0.bus.tell(self.0.clock.now(), event);
            return super::fenced(job_id);
        }
        let released = async {
            let live = self.live(job_id, &claimed.claim_token).await?;
            self.release(job_id, &live).await
        };
        if let Err(error) = released.await {
            tracing::warn!(job = %job_id, %error, "claim not released, it lapses by itself");
        }
        let why = match cut {
            Cut::ClaimLost | Cut::LeadershipLost => "leadership was lost",
            Cut::Shutdown => "this instance shuts down",
            Cut::TooLate => "the claim was granted too late to be trusted; nothing was run",
        };
        Error::new(ErrorKind::Fenced, format!("job {job_id} was cut off: {why}"))
    }

    /// Claims no more, waits for the handlers that run here, at most for `grace`, then cuts the
    /// rest off and releases their claims.
    pub(crate) async fn drain(&self, grace: Duration) {
        let inner = &self.0;
        inner.closing.cancel();
        inner.handlers.close();
        if inner.clock.timeout(grace, inner.handlers.wait()).await.is_none() {
            inner.cut_off.cancel();
            inner.handlers.wait().await;
        }
    }

    /// The handler's outcome; a panic and a timeout are failures like any other.
    async fn supervise<F>(
        &self,
        deadline: Option<Tick>,
        handler: F,
    ) -> std::result::Result<JobSuccess, JobFailure>
    where
        F: Future<Output = std::result::Result<JobSuccess, JobFailure>>,
    {
        let guarded = AssertUnwindSafe(handler).catch_unwind();
        let clock = &self.0.clock;
        let outcome = match deadline {
            None => Some(guarded.await),
            Some(deadline) => clock.timeout(deadline.since(clock.tick()), guarded).await,
        };
        match outcome {
            Some(Ok(outcome)) => outcome,
            Some(Err(panic)) => {
                let text = panic
                    .downcast_ref::<&str>()
                    .map(ToString::to_string)
                    .or_else(|| panic.downcast_ref::<String>().cloned());
                let text = text.unwrap_or_else(|| "no message".into());
                Err(JobFailure::retryable(format!("the handler panicked: {text}")))
            }
            None => Err(JobFailure::retryable("the handler took longer than its timeout")),
        }
    }

    /// Records how an attempt ended; `None` if its effects came too late and it is to be asked
    /// anew.
    async fn record(
        &self,
        claimed: &ClaimedJob,
        outcome: std::result::Result<JobSuccess, JobFailure>,
        asked_anew: u32,
    ) -> Result<Option<Ended>> {
        let ClaimedJob { job_id, claim_token, .. } = claimed;
        let failure = match outcome {
            Ok(done) => {
                match self.persist(|| self.complete_with(job_id, claim_token, &done)).await {
                    Ok(Completed::Recorded) => return Ok(Some(Ended::Completed(done.result))),
                    Ok(Completed::EffectsTooLate) if asked_anew < MAX_ASKED_ANEW => {
                        return Ok(None);
                    }
                    Ok(Completed::EffectsTooLate) => JobFailure::retryable(
                        "what its effects rest on changed each time before they were written",
                    ),
                    // The effect has happened, and another attempt would return the same.
                    Err(error) if error.kind() == ErrorKind::Invalid => {
                        let why = format!("the handler returned a result that is refused: {error}");
                        JobFailure::permanent(why)
                    }
                    Err(error) => return Err(error),
                }
            }
            Err(failure) => failure,
        };
        let JobFailure { error, retry } = failure;
        let failed = self.persist(|| self.fail(job_id, claim_token, &error, retry)).await?;
        Ok(Some(Ended::Failed { error, retry_after: failed.retry_after }))
    }

    /// Repeats the recording of an outcome over a short outage: the claim is still being renewed,
    /// and recording twice is harmless. The handler has run, so what cannot be recorded is not
    /// undone but unknown.
    async fn persist<T, F: Future<Output = Result<T>>>(&self, record: impl Fn() -> F) -> Result<T> {
        let mut pause = Duration::from_millis(50);
        for _ in 0..8 {
            match record().await {
                Err(error) if may_not_be_recorded(&error) => {
                    self.0.clock.sleep(pause).await;
                    pause *= 2;
                }
                other => return other,
            }
        }
        record().await.map_err(|error| {
            if !may_not_be_recorded(&error) {
                return error;
            }
            let message = "the job ran, and its outcome could not be recorded";
            Error::new(ErrorKind::Unknown, message).with_source(error)
        })
    }
}

fn may_not_be_recorded(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Unknown | ErrorKind::Busy)
}

enum Ended {
    Completed(Json),
    Failed { error: String, retry_after: Option<Duration> },
}

/// Why a handler was cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    ClaimLost,
    LeadershipLost,
    Shutdown,
    TooLate,
}

/// A claim that is renewed until this goes out of scope.
struct Kept<'a> {
    right: Right,
    jobs: &'a Jobs,
}

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        self.jobs.0.keeper.let_go(&self.right);
    }
}

/// What fires when the claim is lost, and for a leader's job also when the leadership is. It fires
/// even while the handler keeps its thread busy.
fn follow_leader(leader: Option<&Right>, claim_lost: &CancellationToken) -> CancellationToken {
    let either = claim_lost.child_token();
    if let Some(leader) = leader {
        let (leader_lost, both) = (leader.lost().clone(), either.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = leader_lost.cancelled() => both.cancel(),
                () = both.cancelled() => {} // the attempt is over
            }
        });
    }
    either
}
