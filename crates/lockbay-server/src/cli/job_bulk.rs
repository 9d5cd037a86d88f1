//! `lockbay job bulk`: one decision about all jobs that match; [`bulk`](super::bulk) carries it out.

use clap::{Args, ValueEnum};
use serde_json::{Map, json};

use super::Ended;
use super::bulk::Bulk;
use super::client::{Client, Failure};

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

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Verb {
    /// They shall not run; whoever runs one is fenced
    Cancel,
    /// Those that failed or were cancelled may run again
    Retry,
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
    let filter = json!({
        "status": args.status,
        "job_type": args.job_type,
        "job_key": args.job_key,
        "created_after": args.created_after,
        "created_before": args.created_before,
    });
    let body = Map::from_iter([
        ("filter".to_owned(), filter),
        ("reason".to_owned(), json!(args.reason)),
        ("all".to_owned(), json!(args.everything)),
    ]);
    let decision = args.decision.name();
    let bulk = Bulk { decision, noun: "job", path: &["v1", "jobs", "bulk"], body };
    if args.dry_run { bulk.look(client).await } else { bulk.decide(client).await }
}

impl Verb {
    fn name(self) -> &'static str {
        match self {
            Verb::Cancel => "cancel",
            Verb::Retry => "retry",
        }
    }
}
