//! One tick whose moment has come: waiting for a turn, and running its job until that has ended.
//!
//! The job's key is the due time, so whoever leads runs the same job: it is claimed by one, and a
//! tick that was done is replayed. A claim that a dead leader left behind lapses within the TTL of
//! leadership, and is waited for.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::Schedules;
use super::definition::{Definition, TickPlace};
use super::handler::{Tick, TickAttempt};
use super::record::{Open, TickOutcome};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind};
use crate::job::{
    ClaimRequest, Identity, JobContext, JobFailure, JobOutcome, JobStatus, JobSuccess,
    OnInProgress, RunOptions,
};
use crate::keeper::Right;
use crate::metrics::Metric;

/// How long one call waits for a claim that somebody else has; then it asks again.
const WAIT: Duration = Duration::from_secs(30);
/// The first pause before what failed without an outcome is tried again, and the longest.
const AGAIN: Duration = Duration::from_millis(50);
const LONGEST_AGAIN: Duration = Duration::from_secs(1);
/// From which failure without an outcome on it is told.
const TOLD_FROM: u32 = 5;

/// How much is kept of the error of a tick, in characters.
const MAX_ERROR_CHARS: usize = 4_096;

/// How a tick ended.
#[derive(Debug, Clone)]
pub(super) struct Ended {
    pub(super) outcome: TickOutcome,
    pub(super) error: Option<String>,
    pub(super) started_at: Timestamp,
}

/// A tick that is run.
pub(super) struct Run {
    pub(super) schedules: Schedules,
    pub(super) job_id: String,
    pub(super) open: Open,
    pub(super) definition: Definition,
    /// By how much it is late already.
    pub(super) late: Duration,
    pub(super) right: Right,
    /// The attempt that was made last, until its outcome is known to be recorded.
    pub(super) made: Mutex<Option<(u32, Arc<dyn TickAttempt>)>>,
}

impl Run {
    /// Runs it until its job has ended; `None` if this instance is not to go on with it.
    pub(super) async fn run(self) -> Option<Ended> {
        let inner = &self.schedules.0;
        let turn = tokio::select! {
            biased;
            () = inner.closing.cancelled() => return None,
            // It is not started yet, so the next leader does it wherever it may run.
            () = self.right.lost().cancelled() => return None,
            turn = inner.turns.acquire() => turn,
        };
        let started_at = inner.time.now();
        inner.metrics.observe(Metric::TickLateness, self.late);
        let trouble = Trouble::of(&self.schedules, self.job_key());
        let (mut pause, mut failures) = (AGAIN, 0);
        let (outcome, error) = loop {
            let options = RunOptions { timeout: Some(self.limit()) };
            match inner
                .jobs
                .run_with_effects(self.request(), options, |job| self.attempt(job))
                .await
            {
                Ok(JobOutcome::Completed(_)) => break (TickOutcome::Completed, None),
                Ok(JobOutcome::Failed(error)) => break (TickOutcome::Failed, Some(error)),
                Ok(JobOutcome::Replayed(before)) => match before.status {
                    JobStatus::Completed => break (TickOutcome::Completed, None),
                    JobStatus::Cancelled => break (TickOutcome::Cancelled, before.error),
                    JobStatus::Failed | JobStatus::Claimed => {
                        break (TickOutcome::Failed, before.error);
                    }
                },
                Ok(JobOutcome::InProgress(_)) => {}
                Err(error) if is_final(&error) => {
                    break (TickOutcome::Failed, Some(error.to_string()));
                }
                Err(error) => {
                    failures += 1;
                    trouble.is(&error, failures);
                    self.may_go_on().then_some(())?;
                    let slept = inner.clock.sleep(pause);
                    inner.closing.run_until_cancelled(slept).await?;
                    pause = (pause * 2).min(LONGEST_AGAIN);
                }
            }
            self.may_go_on().then_some(())?;
        };
        drop((turn, trouble));
        self.recorded(u32::MAX).await;
        let error = error.map(|error| error.chars().take(MAX_ERROR_CHARS).collect());
        Some(Ended { outcome, error, started_at })
    }

    /// Whether this instance goes on with it: where it runs on the leader alone, while it leads.
    fn may_go_on(&self) -> bool {
        let leads = match self.definition.place {
            TickPlace::LeaderOnly => self.right.is_held(),
            TickPlace::WhereBegun => true,
        };
        leads && !self.schedules.0.closing.is_cancelled()
    }

    fn job_key(&self) -> String {
        self.open.tick.job_key(&self.job_id)
    }

    fn limit(&self) -> Duration {
        let given = self.definition.timeout_us.map(Duration::from_micros);
        given.unwrap_or(self.schedules.0.defaults.timeout)
    }

    fn request(&self) -> ClaimRequest {
        let definition = &self.definition;
        let key = self.job_key();
        let parameters = definition.parameters.clone();
        let mut request = ClaimRequest::new(definition.job_type.clone(), key, parameters);
        request.identity = Identity::Key;
        request.claim_ttl = Some(self.schedules.0.defaults.leader_ttl.min(super::LONGEST_CLAIM));
        request.max_retries = definition.max_retries;
        request.on_in_progress = OnInProgress::Wait(WAIT);
        request.scheduled_time = Some(self.open.tick.at());
        request.leader = match definition.place {
            TickPlace::LeaderOnly => Some(self.right.clone()),
            TickPlace::WhereBegun => None,
        };
        request
    }

    /// One attempt.
    async fn attempt(&self, job: JobContext) -> Result<JobSuccess, JobFailure> {
        let inner = &self.schedules.0;
        self.recorded(job.attempt).await;
        let name = &self.definition.handler;
        let limit = self.limit();
        let tick = Tick {
            schedule: self.job_id.clone(),
            job_type: self.definition.job_type.clone(),
            job_id: job.job_id,
            scheduled_time: self.open.tick.at(),
            parameters: job.parameters,
            idempotency_token: job.idempotency_token,
            attempt: job.attempt,
            fencing_token: job.fencing_token,
            deadline: job.deadline.unwrap_or(inner.clock.tick() + limit),
            limit,
            cancelled: job.cancelled,
        };
        let found = inner.handlers.find(name, tick).await.map_err(|error| {
            JobFailure::retryable(format!("handler {name:?} could not be looked up: {error}"))
        })?;
        let attempt = found.ok_or_else(|| {
            JobFailure::retryable(format!(
                "nobody is known to handle {name:?}: register it on every instance, or put a \
                 handler of that name"
            ))
        })?;
        *self.made.lock() = Some((job.attempt, Arc::clone(&attempt)));
        attempt.make().await
    }

    /// Tells who made the last attempt that it is recorded, if it came before this one.
    async fn recorded(&self, attempt: u32) {
        let made = self.made.lock().take_if(|(made, _)| *made < attempt);
        if let Some((_, made)) = made {
            made.recorded().await;
        }
    }
}

/// Why a tick that is open does not get on here, shown until it does or has ended.
pub(super) struct Trouble {
    schedules: Schedules,
    job_key: String,
}

impl Trouble {
    pub(super) fn of(schedules: &Schedules, job_key: String) -> Self {
        Trouble { schedules: schedules.clone(), job_key }
    }

    pub(super) fn show(&self, told: String) {
        self.schedules.0.troubles.lock().insert(self.job_key.clone(), told);
    }

    fn is(&self, error: &Error, failures: u32) {
        let job_key = &self.job_key;
        if failures < TOLD_FROM {
            tracing::debug!(job_key, %error, "a tick is run again");
            return;
        }
        tracing::warn!(job_key, failures, %error, "a tick does not get on");
        self.show(format!("tried {failures} times: {error}"));
    }
}

impl Drop for Trouble {
    fn drop(&mut self) {
        self.schedules.0.troubles.lock().remove(&self.job_key);
    }
}

/// Whether asking again would only be answered the same.
fn is_final(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Invalid | ErrorKind::KeyReused)
}
