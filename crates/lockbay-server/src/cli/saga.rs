//! `lockbay saga`: starting sagas, finding them, and showing how they stand.
//!
//! What a person may decide about them is in [`saga_operate`](super::saga_operate).

use std::io::Read;
use std::time::Duration;

use clap::{Args, Subcommand};
use lockbay::clock::Clock;
use lockbay::config::Span;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::client::{Answer, Client, Failure, Page};
use super::saga_operate::{self, DecideArgs, ResolveArgs, RetryArgs, SkipArgs};
use super::saga_watch::{self, WatchArgs};
use super::{Ended, output};

/// Every status of a saga, as the server names them.
pub(super) const STATUSES: [&str; 7] =
    ["pending", "running", "completed", "compensating", "compensated", "parked", "abandoned"];
/// How long one request waits at most; a longer wait is made of several.
const WAIT_AT_ONCE: Duration = Duration::from_secs(20);
/// The pause between two of them, should the server answer early.
const PAUSE: Duration = Duration::from_millis(250);
/// How much of a file is read: more than the server takes, so that it can say so.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;
/// How much of a step's result stands in a table.
const SHOWN_CHARS: usize = 60;

#[derive(Debug, Subcommand)]
pub(super) enum SagaCommand {
    /// List sagas, status by status: ended ones with the newest first, others with the oldest of
    /// each server first
    List(ListArgs),
    /// Show one saga with its steps
    Show {
        /// Its id
        id: String,
        /// Wait for so long until it has ended or needs a person
        #[arg(long, value_name = "SECONDS")]
        wait: Option<Span>,
    },
    /// Show what happened to a saga, in order
    History {
        /// Its id
        id: String,
        /// How many entries at most, 1 to 1000
        #[arg(long, value_name = "N")]
        page_size: Option<u32>,
        /// Go on behind an earlier page
        #[arg(long, value_name = "TOKEN")]
        page_token: Option<String>,
    },
    /// Start a saga
    ///
    /// With --wait, exit code 0 means that it is completed.
    Start {
        /// The JSON body of POST /v1/sagas; - is stdin
        file: String,
        /// Wait for so long until it has ended or needs a person, and show it
        #[arg(long, value_name = "SECONDS")]
        wait: Option<Span>,
        /// Names this request: said again with the same key, it gives the same saga
        #[arg(long, value_name = "KEY")]
        idempotency_key: Option<String>,
    },
    /// Tell what happens to a saga as it happens, until it comes to rest
    Watch(WatchArgs),
    /// Let sagas go back: what was done is compensated
    Cancel(DecideArgs),
    /// Try again what is stuck in parked sagas, with fresh budgets
    Resume(DecideArgs),
    /// Decide that nothing more is done about sagas; what was done stays as it is
    Abandon(DecideArgs),
    /// Try one step again, perhaps with other parameters
    Retry(RetryArgs),
    /// Go on without a step that is parked
    Skip(SkipArgs),
    /// Say whether the effect of a step that is parked is there
    Resolve(ResolveArgs),
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Only with this status
    #[arg(long, value_parser = STATUSES)]
    status: Option<String>,
    /// Only of this name
    #[arg(long)]
    name: Option<String>,
    /// Only those that are at this step, or are stuck in it
    #[arg(long)]
    step: Option<String>,
    /// Only those that were started at least so long ago, such as 90s or 5m
    #[arg(long, value_name = "AGE")]
    older_than: Option<Span>,
    /// How many at most, 1 to 1000
    #[arg(long, value_name = "N")]
    page_size: Option<u32>,
    /// Go on behind an earlier page
    #[arg(long, value_name = "TOKEN")]
    page_token: Option<String>,
}

#[derive(Deserialize)]
struct Saga {
    saga_id: String,
    saga_name: String,
    status: String,
    reason: Option<String>,
    steps: Vec<Step>,
    context: Box<RawValue>,
    metadata: Box<RawValue>,
    created_at: String,
    updated_at: String,
    deadline: String,
    ended_at: Option<String>,
    fencing_token: String,
    session: String,
}

#[derive(Deserialize)]
struct Step {
    name: String,
    handler: String,
    status: String,
    attempts: u32,
    compensation_attempts: u32,
    result: Option<Box<RawValue>>,
    in_doubt: bool,
    error: Option<String>,
    next_retry_at: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Standing {
    saga_id: String,
    pub(super) status: String,
}

#[derive(Deserialize)]
pub(super) struct Happened {
    pub(super) number: u64,
    at: String,
    event: String,
    step: Option<String>,
    result: Option<Box<RawValue>>,
    error: Option<String>,
    next_retry_at: Option<String>,
    actor: Option<String>,
    reason: Option<String>,
}

pub(super) async fn obey(client: &Client, command: SagaCommand) -> Result<Ended, Failure> {
    match command {
        SagaCommand::List(args) => list(client, args).await,
        SagaCommand::Show { id, wait } => {
            let (answer, _) = look(client, &id, wait).await?;
            show(client, &answer)?;
            Ok(Ended::Done)
        }
        SagaCommand::History { id, page_size, page_token } => {
            history(client, &id, page_size, page_token).await
        }
        SagaCommand::Start { file, wait, idempotency_key } => {
            start(client, &file, wait, idempotency_key.as_deref()).await
        }
        SagaCommand::Watch(args) => saga_watch::watch(client, args).await,
        SagaCommand::Cancel(args) => saga_operate::decide(client, "cancel", args).await,
        SagaCommand::Resume(args) => saga_operate::decide(client, "resume", args).await,
        SagaCommand::Abandon(args) => saga_operate::decide(client, "abandon", args).await,
        SagaCommand::Retry(args) => saga_operate::retry(client, args).await,
        SagaCommand::Skip(args) => saga_operate::skip(client, args).await,
        SagaCommand::Resolve(args) => saga_operate::resolve(client, args).await,
    }
}

async fn list(client: &Client, args: ListArgs) -> Result<Ended, Failure> {
    let query = [
        ("status", args.status),
        ("saga_name", args.name),
        ("step", args.step),
        ("older_than_seconds", args.older_than.map(|Span(age)| age.as_secs_f64().to_string())),
        ("page_size", args.page_size.map(|n| n.to_string())),
        ("page_token", args.page_token),
    ];
    let answer = client.get("list sagas", client.address(&["v1", "sagas"], &query)).await?;
    if client.json {
        answer.show_raw();
        return Ok(Ended::Done);
    }
    let page: Page<Saga> = answer.read()?;
    page.tell_rest();
    let rows = page.items.into_iter().map(|saga| {
        let (at, since) = (saga.place(), saga.updated_at);
        vec![saga.saga_id, saga.status, saga.saga_name, at, since, saga.reason.unwrap_or_default()]
    });
    output::table(&["SAGA ID", "STATUS", "NAME", "AT", "SINCE", "REASON"], rows.collect());
    Ok(Ended::Done)
}

impl Saga {
    /// The steps that are being worked on, or wait for a person.
    fn place(&self) -> String {
        let busy = ["running", "unknown", "compensating", "parked"];
        let steps = self.steps.iter().filter(|step| busy.contains(&&*step.status));
        let names: Vec<&str> = steps.map(|step| &*step.name).collect();
        if names.is_empty() { "-".into() } else { names.join(", ") }
    }
}

/// The saga as it stands, perhaps after a wait, and its status.
async fn look(client: &Client, id: &str, wait: Option<Span>) -> Result<(Answer, String), Failure> {
    let clock = Clock::system();
    let until = clock.tick() + wait.map_or(Duration::ZERO, |Span(wait)| wait);
    loop {
        let left = until.since(clock.tick());
        let ask = (!left.is_zero()).then(|| left.min(WAIT_AT_ONCE).as_secs_f64().to_string());
        let url = client.address(&["v1", "sagas", id], &[("wait_seconds", ask)]);
        let answer = client.get(&format!("show saga {id:?}"), url).await?;
        let Standing { status, .. } = answer.read()?;
        if has_come_to_rest(&status) || until.since(clock.tick()).is_zero() {
            return Ok((answer, status));
        }
        clock.sleep(PAUSE.min(until.since(clock.tick()))).await;
    }
}

pub(super) fn has_come_to_rest(status: &str) -> bool {
    matches!(status, "completed" | "compensated" | "parked" | "abandoned")
}

fn show(client: &Client, answer: &Answer) -> Result<(), Failure> {
    if client.json {
        answer.show_raw();
        return Ok(());
    }
    let saga: Saga = answer.read()?;
    let dash = |value: Option<String>| value.unwrap_or_else(|| "-".into());
    output::facts(vec![
        ("saga id", saga.saga_id),
        ("name", saga.saga_name),
        ("status", saga.status),
        ("reason", dash(saga.reason)),
        ("created at", saga.created_at),
        ("updated at", saga.updated_at),
        ("deadline", saga.deadline),
        ("ended at", dash(saga.ended_at)),
        ("fencing token", saga.fencing_token),
        ("session", saga.session),
        ("context", saga.context.get().to_owned()),
        ("metadata", saga.metadata.get().to_owned()),
    ]);
    output::data("");
    let rows = saga.steps.into_iter().map(|step| {
        let doubt = if step.in_doubt { " (in doubt)" } else { "" };
        let result = step.result.map(|result| cut(result.get()));
        vec![
            step.name,
            format!("{}{doubt}", step.status),
            step.handler,
            step.attempts.to_string(),
            step.compensation_attempts.to_string(),
            dash(step.next_retry_at),
            dash(result),
            dash(step.error),
        ]
    });
    let heading =
        ["STEP", "STATUS", "HANDLER", "ATTEMPTS", "UNDOS", "NEXT RETRY", "RESULT", "ERROR"];
    output::table(&heading, rows.collect());
    Ok(())
}

impl Happened {
    /// Whatever it tells beside what and when.
    fn detail(&self) -> String {
        let again = self.next_retry_at.as_ref().map(|at| format!("again at {at}"));
        let result = self.result.as_ref().map(|result| cut(result.get()));
        let parts = [self.actor.clone(), self.reason.clone(), self.error.clone(), again, result];
        parts.into_iter().flatten().collect::<Vec<_>>().join(": ")
    }

    /// All of it in one line.
    pub(super) fn line(&self) -> String {
        let step = self.step.as_deref().unwrap_or("-");
        format!("{}  {}  {step}  {}", self.at, self.event, self.detail()).trim_end().to_owned()
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

async fn history(
    client: &Client,
    id: &str,
    page_size: Option<u32>,
    page_token: Option<String>,
) -> Result<Ended, Failure> {
    let query = [("page_size", page_size.map(|n| n.to_string())), ("page_token", page_token)];
    let url = client.address(&["v1", "sagas", id, "history"], &query);
    let answer = client.get(&format!("show the history of saga {id:?}"), url).await?;
    if client.json {
        answer.show_raw();
        return Ok(Ended::Done);
    }
    let page: Page<Happened> = answer.read()?;
    page.tell_rest();
    let rows = page.items.into_iter().map(|entry| {
        let step = entry.step.clone().unwrap_or_else(|| "-".into());
        let detail = entry.detail();
        vec![entry.number.to_string(), entry.at, entry.event, step, detail]
    });
    output::table(&["NUMBER", "AT", "EVENT", "STEP", "DETAIL"], rows.collect());
    Ok(Ended::Done)
}

async fn start(
    client: &Client,
    file: &str,
    wait: Option<Span>,
    idempotency_key: Option<&str>,
) -> Result<Ended, Failure> {
    let body = read(file)?;
    let url = client.address(&["v1", "sagas"], &[]);
    let answer = client.post_exactly("start the saga", url, body, idempotency_key).await?;
    let Standing { saga_id, status } = answer.read()?;
    if answer.replayed {
        output::talk("the same request had started it before");
    }
    if wait.is_none() {
        match client.json {
            true => answer.show_raw(),
            false => output::data(&format!("saga {saga_id} is {status}")),
        }
        return Ok(Ended::Done);
    }
    output::talk(&format!("saga {saga_id} is {status}"));
    let (answer, status) = look(client, &saga_id, wait).await?;
    show(client, &answer)?;
    Ok(ended_as(&status))
}

/// A saga that was waited for is done if it is completed.
pub(super) fn ended_as(status: &str) -> Ended {
    if status == "completed" { Ended::Done } else { Ended::No }
}

/// What a file holds; `-` is stdin.
pub(super) fn read(file: &str) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    let read = match file {
        "-" => std::io::stdin().lock().take(MAX_FILE_BYTES).read_to_end(&mut body),
        path => std::fs::File::open(path)
            .and_then(|file| file.take(MAX_FILE_BYTES).read_to_end(&mut body)),
    };
    match read {
        Ok(_) => Ok(body),
        Err(error) => Err(Failure::Usage(format!("cannot read {file:?}: {error}"))),
    }
}
