//! `lockbay schedule`: what is due when, and what a person may do about it.

use clap::{Args, Subcommand, ValueEnum};
use lockbay::clock::Clock;
use lockbay::config::Span;
use lockbay::schedule::Expression;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::client::{Client, Failure, Page};
use super::saga::read;
use super::{Ended, Shared, output};

#[derive(Debug, Subcommand)]
pub(super) enum ScheduleCommand {
    /// List schedules
    List {
        /// Only those that stand so: active, paused or ending
        #[arg(long)]
        status: Option<String>,
        /// Only those with this handler
        #[arg(long)]
        handler: Option<String>,
        /// How many at most, 1 to 1000
        #[arg(long, value_name = "N")]
        page_size: Option<u32>,
        /// Go on behind an earlier page
        #[arg(long, value_name = "TOKEN")]
        page_token: Option<String>,
    },
    /// Show one schedule, what is in progress, and how it went last
    Show {
        /// Its name
        job_id: String,
    },
    /// Create a schedule, or replace what it is
    Put(PutArgs),
    /// Delete a schedule; what was begun is finished
    Delete {
        /// Its name
        job_id: String,
    },
    /// Begin no more ticks until it is resumed
    Pause {
        /// Its name
        job_id: String,
    },
    /// Go on with a paused schedule
    Resume {
        /// Its name
        job_id: String,
        /// Let the misfire policy decide about what was due meanwhile, instead of passing it over
        #[arg(long)]
        catch_up: bool,
    },
    /// Run a tick now
    Run {
        /// Its name
        job_id: String,
        /// A name for this wish, under which it may be repeated
        #[arg(long, value_name = "KEY")]
        idempotency_key: Option<String>,
    },
    /// Say when an expression is due, without a server: try a cron expression out
    Next {
        /// Such as "*/15 * * * *", "@hourly" or "every 30s"
        expression: String,
        /// Where its times are read
        #[arg(long, default_value = "UTC")]
        time_zone: String,
        /// How many times
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
        count: u16,
    },
}

#[derive(Debug, Args)]
pub(super) struct PutArgs {
    /// Its name
    job_id: String,
    /// When it is due: "*/15 * * * *", "0 30 2 * * *", "@hourly", "every 30s"
    expression: String,
    /// Who does it
    #[arg(long)]
    handler: String,
    /// The type of its jobs; its name if it is not given
    #[arg(long)]
    job_type: Option<String>,
    /// Where its times are read, such as Europe/Berlin
    #[arg(long, default_value = "UTC")]
    time_zone: String,
    /// A file with the parameters as JSON; - is stdin
    #[arg(long, value_name = "FILE")]
    parameters: Option<String>,
    /// Let a tick that was begun go on where it is when another instance leads
    #[arg(long)]
    where_begun: bool,
    /// What becomes of ticks that are too late
    #[arg(long, value_enum)]
    misfire: Option<MisfireArg>,
    /// How late a tick may be and still run as if it were not
    #[arg(long, value_name = "SECONDS")]
    misfire_grace: Option<Span>,
    /// By how much a tick may begin after it is due
    #[arg(long, value_name = "SECONDS")]
    jitter: Option<Span>,
    /// What becomes of a tick that is due while the one before it still runs
    #[arg(long, value_enum)]
    overlap: Option<OverlapArg>,
    /// How often a failed attempt is repeated
    #[arg(long, value_name = "N")]
    max_retries: Option<u32>,
    /// How long one attempt may take
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<Span>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum MisfireArg {
    RunOnce,
    RunAll,
    Skip,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum OverlapArg {
    Queue,
    Skip,
    Allow,
}

#[derive(Deserialize)]
struct Schedule {
    job_id: String,
    job_type: String,
    schedule_expression: String,
    time_zone: String,
    handler: String,
    leader_only: bool,
    misfire: String,
    misfire_grace_seconds: f64,
    jitter_seconds: f64,
    overlap: String,
    status: String,
    next_due: Option<String>,
    problem: Option<String>,
    in_progress: Vec<InProgress>,
    last_run: Option<LastRun>,
    counts: Counts,
}

impl Schedule {
    /// When it is due next, if it is active: one that is paused only knows what it passed over.
    fn next(&self) -> String {
        let next = self.next_due.clone().filter(|_| self.status == "active");
        next.unwrap_or_else(|| "-".into())
    }
}

#[derive(Deserialize)]
struct InProgress {
    scheduled_time: String,
    attempt: Option<u32>,
    error: Option<String>,
}

#[derive(Deserialize)]
struct LastRun {
    scheduled_time: String,
    ended_at: String,
    outcome: String,
    error: Option<String>,
}

#[derive(Deserialize)]
struct Counts {
    begun: u64,
    completed: u64,
    failed: u64,
    skipped: u64,
    misfired: u64,
}

#[derive(Deserialize)]
struct Asked {
    job_key: String,
}

pub(super) async fn obey(shared: &Shared, command: ScheduleCommand) -> Result<Ended, Failure> {
    if let ScheduleCommand::Next { expression, time_zone, count } = command {
        return next(shared, &expression, &time_zone, count.into());
    }
    let client = &Client::new(shared)?;
    match command {
        ScheduleCommand::List { status, handler, page_size, page_token } => {
            let page_size = page_size.map(|n| n.to_string());
            let query = [
                ("status", status),
                ("handler", handler),
                ("page_size", page_size),
                ("page_token", page_token),
            ];
            list(client, &query).await
        }
        ScheduleCommand::Show { job_id } => show(client, &job_id).await,
        ScheduleCommand::Put(args) => put(client, args).await,
        ScheduleCommand::Delete { job_id } => delete(client, &job_id).await,
        ScheduleCommand::Pause { job_id } => operate(client, &job_id, "pause", None).await,
        ScheduleCommand::Resume { job_id, catch_up } => {
            let missed = catch_up.then(|| "catch_up".to_owned());
            operate(client, &job_id, "resume", missed).await
        }
        ScheduleCommand::Run { job_id, idempotency_key } => {
            run(client, &job_id, idempotency_key.as_deref()).await
        }
        ScheduleCommand::Next { .. } => Ok(Ended::Done), // answered above, without a server
    }
}

/// Answered here: it needs nothing but the expression.
fn next(
    shared: &Shared,
    expression: &str,
    time_zone: &str,
    count: usize,
) -> Result<Ended, Failure> {
    let read = Expression::parse(expression, time_zone);
    let read = read.map_err(|error| Failure::Usage(error.message().to_owned()))?;
    let due = read.upcoming(Clock::system().now(), count);
    let due: Vec<String> = due.iter().map(ToString::to_string).collect();
    match shared.json {
        true => output::data(&json!({ "due": due, "time_zone": time_zone }).to_string()),
        false => output::data(&due.join("\n")),
    }
    Ok(Ended::Done)
}

async fn list(client: &Client, query: &[(&str, Option<String>)]) -> Result<Ended, Failure> {
    let url = client.address(&["v1", "schedules"], query);
    let answer = client.get("list schedules", url).await?;
    if client.json {
        answer.show_raw();
        return Ok(Ended::Done);
    }
    let page: Page<Schedule> = answer.read()?;
    page.tell_rest();
    let rows = page.items.into_iter().map(|schedule| {
        let next = schedule.next();
        let last = schedule.last_run.map_or("-".into(), |last| last.outcome);
        vec![
            schedule.job_id,
            schedule.schedule_expression,
            schedule.time_zone,
            schedule.handler,
            schedule.status,
            next,
            schedule.in_progress.len().to_string(),
            last,
        ]
    });
    let heading = ["NAME", "WHEN", "ZONE", "HANDLER", "STATUS", "NEXT", "RUNNING", "LAST"];
    output::table(&heading, rows.collect());
    Ok(Ended::Done)
}

async fn show(client: &Client, job_id: &str) -> Result<Ended, Failure> {
    let url = client.address(&["v1", "schedules", job_id], &[]);
    let answer = client.get(&format!("show schedule {job_id:?}"), url).await?;
    if client.json {
        answer.show_raw();
        return Ok(Ended::Done);
    }
    let schedule: Schedule = answer.read()?;
    let next = schedule.next();
    let last = schedule.last_run.map_or("-".into(), |last| {
        let LastRun { scheduled_time, ended_at, outcome, error } = last;
        let why = error.map(|error| format!(": {error}")).unwrap_or_default();
        format!("due {scheduled_time}, {outcome} at {ended_at}{why}")
    });
    let Counts { begun, completed, failed, skipped, misfired } = schedule.counts;
    let place = if schedule.leader_only { "the leader alone" } else { "where it was begun" };
    let mut facts = vec![
        ("name", schedule.job_id),
        ("job type", schedule.job_type),
        ("when", format!("{} ({})", schedule.schedule_expression, schedule.time_zone)),
        ("handler", schedule.handler),
        ("runs on", place.into()),
        ("status", schedule.status),
        ("next due", next),
        ("misfire", format!("{} after {} s", schedule.misfire, schedule.misfire_grace_seconds)),
        ("overlap", schedule.overlap),
        ("jitter", format!("{} s", schedule.jitter_seconds)),
        ("last run", last),
        (
            "ticks",
            format!(
                "{begun} begun, {completed} completed, {failed} failed, {skipped} skipped, \
                 {misfired} misfired"
            ),
        ),
    ];
    facts.extend(schedule.problem.map(|problem| ("stands still", problem)));
    facts.extend(schedule.in_progress.into_iter().map(|tick| {
        let attempt = tick.attempt.map(|n| format!(", attempt {n}")).unwrap_or_default();
        let error = tick.error.map(|error| format!(": {error}")).unwrap_or_default();
        ("in progress", format!("due {}{attempt}{error}", tick.scheduled_time))
    }));
    output::facts(facts);
    Ok(Ended::Done)
}

async fn put(client: &Client, args: PutArgs) -> Result<Ended, Failure> {
    let parameters = match args.parameters.as_deref() {
        Some(file) => String::from_utf8(read(file)?)
            .ok()
            .and_then(|text| lockbay::Json::parse(text.trim()).ok())
            .ok_or_else(|| Failure::Usage(format!("what is in {file:?} is not JSON")))?,
        None => lockbay::Json::null(),
    };
    let seconds = |span: Option<Span>| span.map(|Span(time)| time.as_secs_f64());
    let name = |value: &dyn std::fmt::Debug| snake(&format!("{value:?}"));
    let given = [
        ("job_type", json!(args.job_type.as_ref().unwrap_or(&args.job_id))),
        ("schedule_expression", json!(args.expression)),
        ("time_zone", json!(args.time_zone)),
        ("handler", json!(args.handler)),
        ("leader_only", json!(!args.where_begun)),
        ("misfire", json!(args.misfire.map(|misfire| name(&misfire)))),
        ("misfire_grace_seconds", json!(seconds(args.misfire_grace))),
        ("jitter_seconds", json!(seconds(args.jitter))),
        ("overlap", json!(args.overlap.map(|overlap| name(&overlap)))),
        ("max_retries", json!(args.max_retries)),
        ("timeout_seconds", json!(seconds(args.timeout))),
    ];
    let given = given.iter().filter(|(_, value)| !value.is_null());
    let mut members: Vec<String> =
        given.map(|(name, value)| format!("{}:{value}", Value::from(*name))).collect();
    // By its own text, so that no digit is lost.
    members.push(format!("\"parameters\":{}", parameters.text()));
    let body = format!("{{{}}}", members.join(","));
    let url = client.address(&["v1", "schedules", &args.job_id], &[]);
    let what = format!("put schedule {:?}", args.job_id);
    let answer = client.put_exactly(&what, url, body.into_bytes()).await?;
    if client.json {
        answer.show_raw();
        return Ok(Ended::Done);
    }
    let schedule: Schedule = answer.read()?;
    let next = schedule.next();
    output::data(&format!("schedule {:?} is {}, next due {next}", args.job_id, schedule.status));
    Ok(Ended::Done)
}

async fn delete(client: &Client, job_id: &str) -> Result<Ended, Failure> {
    if !client.confirm(&format!("Delete schedule {job_id:?}?")) {
        output::talk("nothing was done");
        return Ok(Ended::No);
    }
    let url = client.address(&["v1", "schedules", job_id], &[]);
    let what = format!("delete schedule {job_id:?}");
    let answer = client.change(&what, Method::DELETE, url, None).await?;
    match client.json {
        true => answer.show_raw(),
        false => output::data(&format!("schedule {job_id:?} is deleted")),
    }
    Ok(Ended::Done)
}

async fn operate(
    client: &Client,
    job_id: &str,
    verb: &str,
    missed: Option<String>,
) -> Result<Ended, Failure> {
    let url = client.address(&["v1", "schedules", job_id, verb], &[("missed", missed)]);
    let what = format!("{verb} schedule {job_id:?}");
    let answer = client.change(&what, Method::POST, url, None).await?;
    if client.json {
        answer.show_raw();
        return Ok(Ended::Done);
    }
    let schedule: Schedule = answer.read()?;
    let next = schedule.next();
    output::data(&format!("schedule {job_id:?} is {}, next due {next}", schedule.status));
    Ok(Ended::Done)
}

async fn run(client: &Client, job_id: &str, key: Option<&str>) -> Result<Ended, Failure> {
    let url = client.address(&["v1", "schedules", job_id, "run"], &[]);
    let answer = client.ask_under(key, Method::POST, url, None).await?;
    let replayed = answer.replayed;
    let answer = answer.accepted(&format!("run schedule {job_id:?}"))?;
    if client.json {
        answer.show_raw();
        return Ok(Ended::Done);
    }
    let Asked { job_key } = answer.read()?;
    let said = if replayed { "was asked for before" } else { "is run" };
    let key = output::shell_word(&job_key);
    output::data(&format!("a tick of {job_id:?} {said}: `lockbay job list --key {key}`"));
    Ok(Ended::Done)
}

/// The name of a variant as JSON has it.
fn snake(variant: &str) -> String {
    let mut name = variant.to_owned();
    if let Some(at) = name.rfind(char::is_uppercase).filter(|at| *at > 0) {
        name.insert(at, '_');
    }
    name.to_lowercase()
}
