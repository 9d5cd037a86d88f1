//! What a person decides about sagas with `lockbay saga`: one, one of its steps, or all that match.
//!
//! A decision that hurts is asked about first on a terminal. One about many is carried out by
//! [`bulk`](super::bulk).

use clap::{Args, ValueEnum};
use lockbay::config::Span;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, json};

use super::approval::told_to_wait;
use super::bulk::Bulk;
use super::client::{Address, Client, Failure};
use super::saga::STATUSES;
use super::{Ended, output};

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

async fn post(client: &Client, what: &str, url: Address, body: &Body) -> Result<Ended, Failure> {
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
    let filter = json!({
        "status": many.status,
        "saga_name": many.name,
        "step": many.step,
        "older_than_seconds": many.older_than.map(|Span(age)| age.as_secs_f64()),
    });
    let body = Map::from_iter([
        ("filter".to_owned(), filter),
        ("reason".to_owned(), json!(args.why.reason)),
        ("actor".to_owned(), json!(client.actor)),
        ("all".to_owned(), json!(many.everything)),
    ]);
    let path = &["v1", "sagas", "bulk"];
    let bulk = Bulk { decision: verb, noun: "saga", path, body };
    if many.dry_run { bulk.look(client).await } else { bulk.decide(client).await }
}
