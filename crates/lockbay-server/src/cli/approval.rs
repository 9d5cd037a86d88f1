//! `lockbay approval`: what waits for a second person, and answering.

use clap::{Args, Subcommand};
use reqwest::Method;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::client::{Answer, Client, Failure, Page};
use super::{Ended, output};

#[derive(Debug, Subcommand)]
pub(super) enum ApprovalCommand {
    /// List approvals, the newest first
    List {
        /// Only those that stand so: waiting, approved, done, failed, rejected or expired
        #[arg(long, value_name = "STATUS")]
        status: Option<String>,
        /// How many at most, 1 to 1000
        #[arg(long, value_name = "N")]
        page_size: Option<u32>,
        /// Go on behind an earlier page
        #[arg(long, value_name = "TOKEN")]
        page_token: Option<String>,
    },
    /// Show one approval: what will be done, who asked, who answered
    Show {
        /// Its id
        id: String,
    },
    /// Allow what somebody else asked for, which is then done
    Approve(AnswerArgs),
    /// Refuse what was asked for
    Reject(AnswerArgs),
}

#[derive(Debug, Args)]
pub(super) struct AnswerArgs {
    /// The id of the approval
    id: String,
    /// Why, for the audit trail
    #[arg(long)]
    reason: String,
}

#[derive(Deserialize)]
struct Approval {
    approval_id: String,
    status: String,
    verb: String,
    subject: String,
    amount: String,
    currency: String,
    /// Everything that will be done.
    request: Box<RawValue>,
    asked_by: String,
    reason: Option<String>,
    asked_at: String,
    expires_at: String,
    decided_by: Option<String>,
    decision_reason: Option<String>,
    outcome: Option<String>,
}

/// What a server says of a change that waits for somebody else.
#[derive(Deserialize)]
struct Waiting {
    approval_id: String,
    expires_at: String,
}

/// Tells of a change that was not made, because somebody else has to allow it.
pub(super) fn told_to_wait(answer: &Answer) -> bool {
    let Ok(waiting) = answer.read::<Waiting>() else { return false };
    let Waiting { approval_id: id, expires_at: until } = waiting;
    let (id, until) = (output::shown(&id), output::shown(&until));
    output::data(&format!("approval {id} waits until {until}"));
    output::talk(&format!("somebody else has to run: lockbay approval approve {id} --reason WHY"));
    true
}

pub(super) async fn obey(client: &Client, command: ApprovalCommand) -> Result<Ended, Failure> {
    match command {
        ApprovalCommand::List { status, page_size, page_token } => {
            let size = page_size.map(|n| n.to_string());
            let query = [("status", status), ("page_size", size), ("page_token", page_token)];
            list(client, &query).await
        }
        ApprovalCommand::Show { id } => {
            let answer = read(client, "show", &id).await?;
            show(client, &answer)
        }
        ApprovalCommand::Approve(args) => approve(client, args).await,
        ApprovalCommand::Reject(args) => send(client, "reject", args).await,
    }
}

async fn list(client: &Client, query: &[(&str, Option<String>)]) -> Result<Ended, Failure> {
    let url = client.address(&["v1", "approvals"], query);
    let answer = client.get("list approvals", url).await?;
    if client.json {
        answer.show_raw();
        return Ok(Ended::Done);
    }
    let page: Page<Approval> = answer.read()?;
    page.tell_rest();
    let row = |one: Approval| {
        let money = format!("{} {}", one.amount, one.currency);
        vec![one.approval_id, one.status, one.verb, one.subject, money, one.asked_by, one.asked_at]
    };
    let heading = ["ID", "STATUS", "WHAT", "OF", "AMOUNT", "ASKED BY", "ASKED AT"];
    output::table(&heading, page.items.into_iter().map(row).collect());
    Ok(Ended::Done)
}

async fn read(client: &Client, verb: &str, id: &str) -> Result<Answer, Failure> {
    let url = client.address(&["v1", "approvals", id], &[]);
    client.get(&format!("{verb} approval {id:?}"), url).await
}

fn show(client: &Client, answer: &Answer) -> Result<Ended, Failure> {
    if client.json {
        answer.show_raw();
        return Ok(Ended::Done);
    }
    let one: Approval = answer.read()?;
    let mut facts = vec![
        ("id", one.approval_id),
        ("status", one.status),
        ("what", format!("{} {}", one.verb, one.subject)),
        ("amount", format!("{} {}", one.amount, one.currency)),
        ("will be done", one.request.get().to_owned()),
        ("asked by", one.asked_by),
        ("asked at", one.asked_at),
        ("expires at", one.expires_at),
    ];
    let rest = [
        ("reason", one.reason),
        ("answered by", one.decided_by),
        ("answer", one.decision_reason),
        ("outcome", one.outcome),
    ];
    facts.extend(rest.into_iter().filter_map(|(name, value)| Some((name, value?))));
    output::facts(facts);
    Ok(Ended::Done)
}

async fn approve(client: &Client, args: AnswerArgs) -> Result<Ended, Failure> {
    let one: Approval = read(client, "approve", &args.id).await?.read()?;
    let question = format!(
        "Let this happen, as {} asked: {} {} of {} {}, {}?",
        output::shown(&one.asked_by),
        output::shown(&one.verb),
        output::shown(&one.subject),
        output::shown(&one.amount),
        output::shown(&one.currency),
        output::shown(one.request.get())
    );
    if !client.confirm(&question) {
        output::talk("nothing was done");
        return Ok(Ended::No);
    }
    send(client, "approve", args).await
}

async fn send(client: &Client, verb: &str, args: AnswerArgs) -> Result<Ended, Failure> {
    let AnswerArgs { id, reason } = args;
    let url = client.address(&["v1", "approvals", &id, verb], &[]);
    let body = json!({ "reason": reason });
    let what = format!("{verb} approval {id:?}");
    let answer = client.change(&what, Method::POST, url, Some(body)).await?;
    let one: Approval = answer.read()?;
    let failed = one.status == "failed";
    if client.json {
        answer.show_raw();
    } else {
        let outcome = one.outcome.map_or_else(String::new, |outcome| format!(": {outcome}"));
        let (id, outcome) = (output::shown(&one.approval_id), output::shown(&outcome));
        output::data(&format!("approval {id} is {}{outcome}", output::shown(&one.status)));
    }
    Ok(if failed { Ended::No } else { Ended::Done })
}
