//! `lockbay job`: finding jobs, and deciding about those that need a person.

use clap::{Args, Subcommand};
use reqwest::Method;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::client::{Client, Failure, Page};
use super::job_bulk::{self, BulkArgs};
use super::{Ended, output};

/// The reason of who gives none.
const UNSAID: &str = "no reason was given";

#[derive(Debug, Subcommand)]
pub(super) enum JobCommand {
    /// List jobs, status by status: claimed ones with the oldest first, ended ones with the newest
    List(ListArgs),
    /// Show one job
    Show {
        /// Its id
        id: String,
    },
    /// Decide that a job shall not run; its claim is fenced
    Cancel {
        /// Its id
        id: String,
        /// Why, for the record
        #[arg(long, default_value = UNSAID)]
        reason: String,
    },
    /// Let a job that failed or was cancelled run again
    Retry {
        /// Its id
        id: String,
        /// Why, for the record
        #[arg(long, default_value = UNSAID)]
        reason: String,
    },
    /// Decide about all jobs that match
    Bulk(BulkArgs),
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Only with this status
    #[arg(long, value_parser = ["claimed", "completed", "failed", "cancelled"])]
    status: Option<String>,
    /// Only of this type
    #[arg(long = "type", value_name = "TYPE")]
    job_type: Option<String>,
    /// Only with this business key
    #[arg(long = "key", value_name = "KEY")]
    job_key: Option<String>,
    /// How many at most, 1 to 1000
    #[arg(long, value_name = "N")]
    page_size: Option<u32>,
    /// Go on behind an earlier page
    #[arg(long, value_name = "TOKEN")]
    page_token: Option<String>,
}

#[derive(Deserialize)]
struct Job {
    job_id: String,
    job_type: String,
    job_key: String,
    status: String,
    lapsed: bool,
    attempt: u32,
    failures: u32,
    max_retries: u32,
    holder: String,
    fencing_token: String,
    idempotency_token: String,
    leader_only: bool,
    created_at: String,
    claimed_at: String,
    claim_expires_at: Option<String>,
    completed_at: Option<String>,
    next_retry_at: Option<String>,
    parameters: Box<RawValue>,
    result: Option<Box<RawValue>>,
    result_kept: bool,
    error: Option<String>,
}

impl Job {
    fn standing(&self) -> String {
        if self.lapsed { format!("{} (lapsed)", self.status) } else { self.status.clone() }
    }

    /// When it came to stand as it does.
    fn since(&self) -> String {
        self.completed_at.as_ref().unwrap_or(&self.claimed_at).clone()
    }
}

pub(super) async fn obey(client: &Client, command: JobCommand) -> Result<Ended, Failure> {
    match command {
        JobCommand::List(args) => list(client, args).await,
        JobCommand::Show { id } => show(client, &id).await,
        JobCommand::Cancel { id, reason } => {
            let question = format!("Cancel job {id}? Whoever runs it is fenced.");
            if !client.confirm(&question) {
                output::talk("nothing was done");
                return Ok(Ended::No);
            }
            operate(client, &id, "cancel", &reason, "is cancelled").await
        }
        JobCommand::Retry { id, reason } => {
            operate(client, &id, "retry", &reason, "may be claimed again").await
        }
        JobCommand::Bulk(args) => job_bulk::bulk(client, &args).await,
    }
}

async fn list(client: &Client, args: ListArgs) -> Result<Ended, Failure> {
    let query = [
        ("status", args.status),
        ("job_type", args.job_type),
        ("job_key", args.job_key),
        ("page_size", args.page_size.map(|n| n.to_string())),
        ("page_token", args.page_token),
    ];
    let answer = client.get("list jobs", client.address(&["v1", "jobs"], &query)).await?;
    if client.json {
        answer.show_raw();
        return Ok(Ended::Done);
    }
    let page: Page<Job> = answer.read()?;
    page.tell_rest();
    let rows = page.items.into_iter().map(|job| {
        let (standing, since) = (job.standing(), job.since());
        let attempt = job.attempt.to_string();
        vec![job.job_id, standing, job.job_type, job.job_key, attempt, job.holder, since]
    });
    let heading = ["JOB ID", "STATUS", "TYPE", "KEY", "ATTEMPT", "HOLDER", "SINCE"];
    output::table(&heading, rows.collect());
    Ok(Ended::Done)
}

async fn show(client: &Client, id: &str) -> Result<Ended, Failure> {
    let url = client.address(&["v1", "jobs", id], &[]);
    let answer = client.get(&format!("show job {id:?}"), url).await?;
    if client.json {
        answer.show_raw();
        return Ok(Ended::Done);
    }
    let job: Job = answer.read()?;
    let dash = |value: Option<String>| value.unwrap_or_else(|| "-".into());
    let result = match (&job.result, job.status.as_str()) {
        (Some(result), _) => result.get().to_owned(),
        (None, "completed") if !job.result_kept => "no longer kept".into(),
        (None, _) => "-".into(),
    };
    output::facts(vec![
        ("job id", job.job_id.clone()),
        ("type", job.job_type.clone()),
        ("key", job.job_key.clone()),
        ("status", job.standing()),
        ("attempt", job.attempt.to_string()),
        ("failures", format!("{}, {} retries allowed", job.failures, job.max_retries)),
        ("holder", job.holder),
        ("leader only", if job.leader_only { "yes" } else { "no" }.into()),
        ("fencing token", job.fencing_token),
        ("idempotency token", job.idempotency_token),
        ("created at", job.created_at),
        ("claimed at", job.claimed_at),
        ("claim expires at", dash(job.claim_expires_at)),
        ("ended at", dash(job.completed_at)),
        ("next retry at", dash(job.next_retry_at)),
        ("parameters", job.parameters.get().to_owned()),
        ("result", result),
        ("error", dash(job.error)),
    ]);
    Ok(Ended::Done)
}

async fn operate(
    client: &Client,
    id: &str,
    call: &str,
    reason: &str,
    done: &str,
) -> Result<Ended, Failure> {
    let url = client.address(&["v1", "jobs", id, call], &[]);
    let what = format!("{call} job {id:?}");
    let body = Some(json!({ "reason": reason }));
    let answer = client.change(&what, Method::POST, url, body).await?;
    if client.json {
        answer.show_raw();
    } else {
        output::data(&format!("job {id} {done}"));
    }
    Ok(Ended::Done)
}
