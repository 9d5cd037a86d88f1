//! `lockbay job bulk`: one decision about all jobs that match.
//!
//! Many are decided upon a page at a time, so that one request stays short and what came of it is
//! known.

use clap::{Args, ValueEnum};
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::client::{Client, Failure};
use super::{Ended, output};

/// How many jobs one request decides upon.
const AT_ONCE: usize = 100;

#[derive(Debug, Args)]
pub(super) struct BulkArgs {
    /// What to decide
    decision: Verb,
    /// Why, for the record
    #[arg(long)]
    reason: String,
    /// Only with this status
    #[arg(long, value_parser = ["claimed", "completed", "failed", "cancelled"])]
    status: Option<String>,
    /// Only of this type
    #[arg(long = "type", value_name = "TYPE")]
    job_type: Option<String>,
    /// Only with this business key
    #[arg(long = "key", value_name = "KEY")]
    job_key: Option<String>,
    /// Only those first claimed at this time or later, such as 2026-11-30T08:00:00Z
    #[arg(long, value_name = "TIME")]
    created_after: Option<String>,
    /// Only those first claimed before this time
    #[arg(long, value_name = "TIME")]
    created_before: Option<String>,
    /// Mean every job, where nothing says which
    #[arg(long)]
    everything: bool,
    /// Only show which jobs are meant
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verb {
    /// They shall not run; whoever runs one is fenced
    Cancel,
    /// Those that failed or were cancelled may run again
    Retry,
}

/// What is done about jobs that match.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Look,
    Decide,
}

/// What came of a decision about many, as the server tells it page by page.
#[derive(Default, Serialize, Deserialize)]
struct Bulk {
    matched: usize,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    would_operate: Vec<Standing>,
    operated: Vec<Standing>,
    refused: Vec<RefusedOne>,
    #[serde(skip_serializing)]
    next_page_token: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Standing {
    job_id: String,
    status: String,
}

#[derive(Serialize, Deserialize)]
struct RefusedOne {
    job_id: String,
    detail: String,
}

pub(super) async fn bulk(client: &Client, args: &BulkArgs) -> Result<Ended, Failure> {
    let chooses = [&args.status, &args.job_type, &args.job_key]
        .into_iter()
        .chain([&args.created_after, &args.created_before])
        .any(Option::is_some);
    if !chooses && !args.everything {
        return Err(Failure::Usage(
            "say which jobs: --status, --type, --key, --created-after or --created-before; or \
             --everything"
                .into(),
        ));
    }
    if args.dry_run {
        let (all, failure) = all_pages(client, args, Mode::Look).await;
        show(client, &all, failure.is_some())?;
        return failure.map_or(Ok(Ended::Done), Err);
    }
    let first = page(client, args, Mode::Look, None).await?;
    let more = if first.next_page_token.is_some() { " or more" } else { "" };
    let verb = args.decision.name();
    if !client.confirm(&format!("{verb} {}{more} jobs?", first.matched)) {
        output::talk("nothing was done");
        return Ok(Ended::No);
    }
    let (all, failure) = all_pages(client, args, Mode::Decide).await;
    show(client, &all, failure.is_some())?;
    if let Some(failure) = failure {
        return Err(failure);
    }
    Ok(if all.refused.is_empty() { Ended::Done } else { Ended::No })
}

impl Verb {
    fn name(self) -> &'static str {
        match self {
            Verb::Cancel => "cancel",
            Verb::Retry => "retry",
        }
    }
}

/// Goes on page by page until there is no more, or one fails: what came of those before is told
/// all the same.
async fn all_pages(client: &Client, args: &BulkArgs, mode: Mode) -> (Bulk, Option<Failure>) {
    let mut all = Bulk::default();
    let mut next = None;
    loop {
        let page = match page(client, args, mode, next).await {
            Ok(page) => page,
            Err(failure) => return (all, Some(failure)),
        };
        all.matched += page.matched;
        all.would_operate.extend(page.would_operate);
        all.operated.extend(page.operated);
        all.refused.extend(page.refused);
        next = page.next_page_token;
        if next.is_none() {
            return (all, None);
        }
        if mode == Mode::Decide {
            output::talk(&format!("{} so far", all.matched));
        }
    }
}

async fn page(
    client: &Client,
    args: &BulkArgs,
    mode: Mode,
    page_token: Option<String>,
) -> Result<Bulk, Failure> {
    let body = json!({
        "decision": args.decision,
        "filter": {
            "status": args.status,
            "job_type": args.job_type,
            "job_key": args.job_key,
            "created_after": args.created_after,
            "created_before": args.created_before,
        },
        "reason": args.reason,
        "limit": AT_ONCE,
        "page_token": page_token,
        "all": args.everything,
        "dry_run": mode == Mode::Look,
    });
    let url = client.address(&["v1", "jobs", "bulk"], &[]);
    let what = format!("{} all jobs that match", args.decision.name());
    client.change(&what, Method::POST, url, Some(body)).await?.read()
}

fn show(client: &Client, all: &Bulk, is_cut_off: bool) -> Result<(), Failure> {
    if is_cut_off && all.matched == 0 {
        return Ok(());
    }
    if client.json {
        let text = serde_json::to_string(all).map_err(|error| Failure::Failed(error.into()))?;
        output::data(&text);
        return Ok(());
    }
    if all.matched == 0 {
        output::talk("no job matches");
        return Ok(());
    }
    let stands = |job: &Standing| vec![job.job_id.clone(), job.status.clone(), String::new()];
    let refused =
        |job: &RefusedOne| vec![job.job_id.clone(), "refused".to_owned(), job.detail.clone()];
    let rows = all.would_operate.iter().chain(&all.operated).map(stands);
    let rows = rows.chain(all.refused.iter().map(refused)).collect();
    output::table(&["JOB ID", "STATUS", "DETAIL"], rows);
    Ok(())
}
