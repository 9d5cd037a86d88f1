//! What a person decides about sagas with `lockbay saga`: one, one of its steps, or all that match.
//!
//! A decision that hurts is asked about first on a terminal. Many are decided upon a page at a
//! time, so that one request stays short and what came of it is known.

use clap::{Args, ValueEnum};
use lockbay::config::Span;
use reqwest::Url;
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;

use super::approval::told_to_wait;
use super::client::{Client, Failure};
use super::saga::STATUSES;
use super::{Ended, output};

/// How many sagas one request decides upon.
const AT_ONCE: usize = 100;

#[derive(Debug, Args)]
pub(super) struct DecideArgs {
    /// The id of the saga
    #[arg(required_unless_present = "all_matching", conflicts_with = "all_matching")]
    id: Option<String>,
    #[command(flatten)]
    why: Why,
    #[command(flatten)]
    many: Many,
}

#[derive(Debug, Args)]
struct Why {
    /// Why, for the record
    #[arg(long)]
    reason: String,
}

/// Which sagas are meant, if it is not one.
#[derive(Debug, Args)]
#[command(next_help_heading = "Many sagas")]
struct Many {
    /// Decide about all sagas that match, instead of one
    #[arg(long)]
    all_matching: bool,
    /// Only with this status
    #[arg(long, value_parser = STATUSES, requires = "all_matching")]
    status: Option<String>,
    /// Only of this name
    #[arg(long, requires = "all_matching")]
    name: Option<String>,
    /// Only those that are at this step, or are stuck in it
    #[arg(long, requires = "all_matching")]
    step: Option<String>,
    /// Only those that were started at least so long ago, such as 90s or 5m
    #[arg(long, value_name = "AGE", requires = "all_matching")]
    older_than: Option<Span>,
    /// Mean every saga, where nothing says which
    #[arg(long, requires = "all_matching")]
    everything: bool,
    /// Only show which sagas are meant
    #[arg(long, requires = "all_matching")]
    dry_run: bool,
}

#[derive(Debug, Args)]
pub(super) struct RetryArgs {
    /// The id of the saga
    id: String,
    /// The name of the step
    step: String,
    #[command(flatten)]
    why: Why,
    /// What the step gets from now on
    #[arg(long, value_name = "JSON")]
    parameters: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct SkipArgs {
    /// The id of the saga
    id: String,
    /// The name of the step
    step: String,
    #[command(flatten)]
    why: Why,
}

#[derive(Debug, Args)]
pub(super) struct ResolveArgs {
    /// The id of the saga
    id: String,
    /// The name of the step
    step: String,
    /// Whether the effect of the step is there
    #[arg(long)]
    outcome: Outcome,
    /// What the step would have returned
    #[arg(long, value_name = "JSON")]
    result: Option<String>,
    #[command(flatten)]
    why: Why,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    /// It is there
    Done,
    /// It is not there
    Undone,
}

/// What is posted with a decision about one saga.
#[derive(Serialize)]
struct Body {
    reason: String,
    actor: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<Outcome>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<Box<RawValue>>,
}

impl Body {
    fn of(client: &Client, why: &Why) -> Self {
        let (reason, actor) = (why.reason.clone(), client.actor.clone());
        Body { reason, actor, parameters: None, outcome: None, result: None }
    }
}

#[derive(Serialize, Deserialize)]
struct Standing {
    saga_id: String,
    status: String,
}

pub(super) async fn decide(
    client: &Client,
    verb: &str,
    args: DecideArgs,
) -> Result<Ended, Failure> {
    let Some(id) = &args.id else { return decide_all(client, verb, &args).await };
    let question = match verb {
        "cancel" => format!("Cancel saga {id}? What it has done is compensated."),
        "abandon" => format!("Abandon saga {id}? What it has done stays, and nothing follows."),
        _ => String::new(),
    };
    if !question.is_empty() && !client.confirm(&question) {
        return Ok(nothing_was_done());
    }
    let url = client.address(&["v1", "sagas", id, verb], &[]);
    post(client, &format!("{verb} saga {id:?}"), url, &Body::of(client, &args.why)).await
}

pub(super) async fn retry(client: &Client, args: RetryArgs) -> Result<Ended, Failure> {
    let RetryArgs { id, step, why, parameters } = args;
    let parameters = json_of("--parameters", parameters)?;
    let body = Body { parameters, ..Body::of(client, &why) };
    let url = client.address(&["v1", "sagas", &id, "steps", &step, "retry"], &[]);
    post(client, &format!("retry step {step:?} of saga {id:?}"), url, &body).await
}

pub(super) async fn skip(client: &Client, args: SkipArgs) -> Result<Ended, Failure> {
    let SkipArgs { id, step, why } = args;
    if !client.confirm(&format!("Skip step {step:?} of saga {id}? The saga goes on without it.")) {
        return Ok(nothing_was_done());
    }
    let url = client.address(&["v1", "sagas", &id, "steps", &step, "skip"], &[]);
    post(client, &format!("skip step {step:?} of saga {id:?}"), url, &Body::of(client, &why)).await
}

pub(super) async fn resolve(client: &Client, args: ResolveArgs) -> Result<Ended, Failure> {
    let ResolveArgs { id, step, outcome, result, why } = args;
    let result = json_of("--result", result)?;
    let there = if outcome == Outcome::Done { "is" } else { "is not" };
    let question = format!("Say that the effect of step {step:?} of saga {id} {there} there?");
    if !client.confirm(&question) {
        return Ok(nothing_was_done());
    }
    let body = Body { outcome: Some(outcome), result, ..Body::of(client, &why) };
    let url = client.address(&["v1", "sagas", &id, "steps", &step, "resolve"], &[]);
    post(client, &format!("resolve step {step:?} of saga {id:?}"), url, &body).await
}

fn nothing_was_done() -> Ended {
    output::talk("nothing was done");
    Ended::No
}

/// An argument that is JSON, to the last digit.
fn json_of(name: &str, text: Option<String>) -> Result<Option<Box<RawValue>>, Failure> {
    let parse = |text: String| {
        RawValue::from_string(text).map_err(|error| {
            Failure::Usage(format!("{name} is JSON, such as {{\"n\": 1}}: {error}"))
        })
    };
    text.map(parse).transpose()
}

async fn post(client: &Client, what: &str, url: Url, body: &Body) -> Result<Ended, Failure> {
    let body = serde_json::to_vec(body).map_err(|error| Failure::Failed(error.into()))?;
    let answer = client.post_exactly(what, url, body, None).await?;
    if client.json {
        answer.show_raw();
        return Ok(Ended::Done);
    }
    if told_to_wait(&answer) {
        return Ok(Ended::Done);
    }
    let Standing { saga_id, status } = answer.read()?;
    output::data(&format!("saga {saga_id} is {status}"));
    Ok(Ended::Done)
}

/// What is done about sagas that match.
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
struct RefusedOne {
    saga_id: String,
    detail: String,
}

async fn decide_all(client: &Client, verb: &str, args: &DecideArgs) -> Result<Ended, Failure> {
    let many = &args.many;
    let chooses = many.status.is_some()
        || many.name.is_some()
        || many.step.is_some()
        || many.older_than.is_some();
    if !chooses && !many.everything {
        return Err(Failure::Usage(
            "say which sagas: --status, --name, --step or --older-than; or --everything".into(),
        ));
    }
    if many.dry_run {
        let all = all_pages(client, verb, args, Mode::Look).await?;
        show_all(client, &all)?;
        return Ok(Ended::Done);
    }
    let first = page(client, verb, args, Mode::Look, None).await?;
    let more = if first.next_page_token.is_some() { " or more" } else { "" };
    let question = format!("{verb} {}{more} sagas?", first.matched);
    if !client.confirm(&question) {
        return Ok(nothing_was_done());
    }
    let all = all_pages(client, verb, args, Mode::Decide).await?;
    show_all(client, &all)?;
    Ok(if all.refused.is_empty() { Ended::Done } else { Ended::No })
}

/// Goes on page by page until there is no more.
async fn all_pages(
    client: &Client,
    verb: &str,
    args: &DecideArgs,
    mode: Mode,
) -> Result<Bulk, Failure> {
    let mut all = Bulk::default();
    let mut next = None;
    loop {
        let page = page(client, verb, args, mode, next).await?;
        all.matched += page.matched;
        all.would_operate.extend(page.would_operate);
        all.operated.extend(page.operated);
        all.refused.extend(page.refused);
        next = page.next_page_token;
        if next.is_none() {
            return Ok(all);
        }
        if mode == Mode::Decide {
            output::talk(&format!("{} so far", all.matched));
        }
    }
}

async fn page(
    client: &Client,
    verb: &str,
    args: &DecideArgs,
    mode: Mode,
    page_token: Option<String>,
) -> Result<Bulk, Failure> {
    let many = &args.many;
    let body = json!({
        "decision": verb,
        "filter": {
            "status": many.status,
            "saga_name": many.name,
            "step": many.step,
            "older_than_seconds": many.older_than.map(|Span(age)| age.as_secs_f64()),
        },
        "reason": args.why.reason,
        "actor": client.actor,
        "limit": AT_ONCE,
        "page_token": page_token,
        "all": many.everything,
        "dry_run": mode == Mode::Look,
    });
    let url = client.address(&["v1", "sagas", "bulk"], &[]);
    let what = format!("{verb} all sagas that match");
    client.change(&what, reqwest::Method::POST, url, Some(body)).await?.read()
}

fn show_all(client: &Client, all: &Bulk) -> Result<(), Failure> {
    if client.json {
        let text = serde_json::to_string(all).map_err(|error| Failure::Failed(error.into()))?;
        output::data(&text);
        return Ok(());
    }
    if all.matched == 0 {
        output::talk("no saga matches");
        return Ok(());
    }
    let stands = |saga: &Standing| vec![saga.saga_id.clone(), saga.status.clone(), String::new()];
    let refused =
        |saga: &RefusedOne| vec![saga.saga_id.clone(), "refused".to_owned(), saga.detail.clone()];
    let rows = all.would_operate.iter().chain(&all.operated).map(stands);
    let rows = rows.chain(all.refused.iter().map(refused)).collect();
    output::table(&["SAGA ID", "STATUS", "DETAIL"], rows);
    Ok(())
}
