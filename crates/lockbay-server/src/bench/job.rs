//! Claim and complete, by the job service and by hand.
//!
//! Run means: by a handler that does nothing, with no parameters and no result.
//! By hand means: the same two commits, with as many guards, writes and bytes, given to the store
//! without fingerprints, decisions, records or caches.

use lockbay::job::{Claim, ClaimRequest, JobOutcome, RunOptions};
use lockbay::store::{Commit, Deadline, Fence, Guard, Key, Kind, Partition, Reply, Write};
use lockbay::{Json, LockBay, Placement};

use super::load::{self, Measured};

pub(super) const RAW: Kind = Kind::new("bench-raw");
pub(super) const RAW_LIST: Kind = Kind::index("bench-raw-list");

const PARAMETERS: &str = r#"{"user_id":12345,"amount":1000.0,"currency":"USD"}"#;
const RESULT: &str = r#"{"transaction_id":"txn_12345"}"#;
const HOUR: std::time::Duration = std::time::Duration::from_secs(3_600);

pub(super) async fn ours(
    bay: &LockBay,
    concurrency: usize,
    count: usize,
) -> anyhow::Result<Measured> {
    let run = bay.clock().random_id();
    let (parameters, result) = (Json::parse(PARAMETERS)?, Json::parse(RESULT)?);
    let bay = bay.clone();
    load::run(concurrency, count, move |n| {
        let (bay, parameters, result) = (bay.clone(), parameters.clone(), result.clone());
        let key = format!("user_{n}_{run}");
        async move {
            let request = ClaimRequest::new("payment_processing", key, parameters);
            match bay.jobs().claim(request).await? {
                Claim::Claimed(job) => {
                    Ok(bay.jobs().complete(&job.job_id, &job.claim_token, result).await?)
                }
                other @ (Claim::Replayed(_) | Claim::InProgress(_)) => {
                    anyhow::bail!("a new job was not claimed: {other:?}")
                }
            }
        }
    })
    .await
}

pub(super) async fn run(
    bay: &LockBay,
    concurrency: usize,
    count: usize,
) -> anyhow::Result<Measured> {
    let run = bay.clock().random_id();
    let bay = bay.clone();
    load::run(concurrency, count, move |n| {
        let (bay, key) = (bay.clone(), format!("user_{n}_{run}"));
        async move {
            let request = ClaimRequest::new("nothing", key, Json::null());
            let nothing = |_| async { Ok(Json::null()) };
            let options = RunOptions::default();
            match bay.run_job(request, Placement::Anywhere, options, nothing).await? {
                JobOutcome::Completed(_) => Ok(()),
                other @ (JobOutcome::Failed(_)
                | JobOutcome::Replayed(_)
                | JobOutcome::InProgress(_)) => {
                    anyhow::bail!("a new job did not complete: {other:?}")
                }
            }
        }
    })
    .await
}

pub(super) async fn raw(
    bay: &LockBay,
    concurrency: usize,
    count: usize,
) -> anyhow::Result<Measured> {
    let (store, clock) = (bay.store().clone(), bay.clock().clone());
    let (claimed_bytes, completed_bytes) = record_sizes(bay).await?;
    load::run(concurrency, count, move |_| {
        let (store, clock) = (store.clone(), clock.clone());
        // As random as a fingerprint: where keys fall decides how many pages a commit touches.
        let id = format!("{}{}", clock.random_id(), clock.random_id());
        async move {
            let key = Key::new(Partition::FIRST, RAW, id.as_str());
            // In time, as the service lists jobs; ended ones with the newest first.
            let entry = |status: &str, micros: u64| {
                let id = format!("{status}/{micros:016x}/{id}");
                Key::new(Partition::FIRST, RAW_LIST, id)
            };
            let put = |bytes: usize, deadline| Write::Put {
                key: key.clone(),
                value: vec![b'x'; bytes],
                deadline,
            };
            let claimed_at = clock.now().as_micros();
            let claim = Commit::new(
                Partition::FIRST,
                vec![Guard::Absent(key.clone())],
                vec![
                    put(claimed_bytes, Deadline::After(HOUR)),
                    Write::Mark { key: entry("claimed", claimed_at) },
                ],
                vec![],
            )?;
            let token = match store.commit(&claim).await? {
                Reply::Committed { revision, .. } => revision,
                conflict @ Reply::Conflict { .. } => anyhow::bail!("refused: {conflict:?}"),
            };
            let complete = Commit::new(
                Partition::FIRST,
                vec![Guard::Held(Fence { key: key.clone(), token })],
                vec![
                    put(completed_bytes, Deadline::Never),
                    Write::Delete { key: entry("claimed", claimed_at) },
                    Write::Mark { key: entry("completed", u64::MAX - clock.now().as_micros()) },
                ],
                vec![key.clone()],
            )?;
            match store.commit(&complete).await? {
                Reply::Committed { .. } => Ok(()),
                conflict @ Reply::Conflict { .. } => anyhow::bail!("refused: {conflict:?}"),
            }
        }
    })
    .await
}

/// How many bytes the service stores of a job like those of [`ours`], claimed and completed.
async fn record_sizes(bay: &LockBay) -> anyhow::Result<(usize, usize)> {
    let key = format!("user_0_{}", bay.clock().random_id());
    let request = ClaimRequest::new("payment_processing", key, Json::parse(PARAMETERS)?);
    let Claim::Claimed(job) = bay.jobs().claim(request).await? else {
        anyhow::bail!("a new job was not claimed");
    };
    let size = async || -> anyhow::Result<usize> {
        let key = Key::new(Partition::FIRST, Kind::new("job"), job.job_id.as_str());
        let read = bay.store().get(&[key]).await?;
        Ok(read.records.first().and_then(Option::as_ref).map_or(0, |record| record.value.len()))
    };
    let claimed = size().await?;
    bay.jobs().complete(&job.job_id, &job.claim_token, Json::parse(RESULT)?).await?;
    Ok((claimed, size().await?))
}
