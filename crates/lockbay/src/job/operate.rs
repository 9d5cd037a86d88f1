//! What a person decides about many jobs at once: cancel, retry.

use futures_util::{StreamExt, stream};

use super::list::{JobFilter, JobInfo};
use super::{JobStatus, Jobs};
use crate::error::Result;
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
    /// is decided upon.
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
                JobDecision::Retry => self.retry(&job.job_id).await.map(|()| JobStatus::Failed),
            };
            (job.job_id, operated)
        };
        let items = stream::iter(found.items).map(operate).buffered(AT_ONCE).collect().await;
        Ok(OperatedJobs { items, next: found.next })
    }
}
