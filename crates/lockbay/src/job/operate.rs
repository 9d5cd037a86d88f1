//! What a person decides about many jobs at once: cancel, retry.

use futures_util::{StreamExt, stream};

use super::list::{JobFilter, JobInfo};
use super::{JobStatus, Jobs};
use crate::error::{Error, ErrorKind, Result};
use crate::name::check_name;

/// How many of many jobs are decided upon at once.
const AT_ONCE: usize = 16;

/// What is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobDecision {
    /// It shall not run: its claim is fenced.
    Cancel,
    /// One that failed or was cancelled may run again.
    Retry,
}

impl JobDecision {
    /// Whether it can be decided of a job that stands so.
    ///
    /// # Errors
    /// `Held` if it cannot.
    pub fn check(self, job_id: &str, status: JobStatus) -> Result<()> {
        match (self, status) {
            (JobDecision::Cancel, JobStatus::Completed) => {
                Err(Error::new(ErrorKind::Held, format!("job {job_id} has completed already")))
            }
            (JobDecision::Retry, JobStatus::Claimed | JobStatus::Completed) => Err(Error::new(
                ErrorKind::Held,
                format!(
                    "job {job_id} is {}: only a failed or cancelled job is retried",
                    status.name()
                ),
            )),
            (
                JobDecision::Cancel,
                JobStatus::Claimed | JobStatus::Failed | JobStatus::Cancelled,
            )
            | (JobDecision::Retry, JobStatus::Failed | JobStatus::Cancelled) => Ok(()),
        }
    }

    /// Whether nothing is left to decide of a job that many are looked through for. One that was
    /// let run again stands among those that failed, where a list may come to it a second time.
    pub fn passes_over(self, job: &JobInfo) -> bool {
        self == JobDecision::Retry && job.status == JobStatus::Failed && job.failures == 0
    }
}

/// What one decision led to for many jobs.
#[derive(Debug)]
pub struct OperatedJobs {
    /// Each job that was found, and where it stands now or why nothing was done.
    pub items: Vec<(String, Result<JobStatus>)>,
    /// Where to go on, if there may be more.
    pub next: Option<String>,
}

impl Jobs {
    /// Carries out one decision for at most `limit` jobs that a filter matches, going on after
    /// `next` of an earlier call, and says for each what came of it. All are found before the first
    /// is decided upon; one that a person has let run again already is passed over by a retry.
    ///
    /// # Errors
    /// `Invalid` without a reason, and for a `next` that was never handed out.
    pub async fn operate_all(
        &self,
        filter: &JobFilter,
        next: Option<String>,
        limit: usize,
        decision: JobDecision,
        reason: &str,
    ) -> Result<OperatedJobs> {
        check_name("reason", reason.trim(), 1_024)?;
        let found = self.list(filter, next, limit).await?;
        let operate = |job: JobInfo| async move {
            let operated = match decision {
                JobDecision::Cancel => {
                    self.cancel(&job.job_id, reason).await.map(|()| JobStatus::Cancelled)
                }
                JobDecision::Retry => {
                    self.retry(&job.job_id, reason).await.map(|()| JobStatus::Failed)
                }
            };
            (job.job_id, operated)
        };
        let meant = found.items.into_iter().filter(|job| !decision.passes_over(job));
        let items = stream::iter(meant).map(operate).buffered(AT_ONCE).collect().await;
        Ok(OperatedJobs { items, next: found.next })
    }
}
