//! `lockbay cleanup`: what is kept for how long, cleaning up now, and giving memory back.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use lockbay::config::Span;
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::client::{Address, Answer, Client, Failure, Page};
use super::{Ended, output};

/// How long a run may take, and a little more, so that the server says first that it is too long.
const RUN_WITHIN: Duration = Duration::from_secs(11 * 60);

#[derive(Debug, Subcommand)]
pub(super) enum CleanupCommand {
    /// Clean up now: delete what the rules let go, and say what that came to
    ///
    /// Exit code 1 if something could not be read or deleted.
    Run(RunArgs),
    /// List the rules, in the order in which they are gone through
    Rules {
        /// How many at most, 1 to 1000
        #[arg(long, value_name = "N")]
        page_size: Option<u32>,
        /// Go on behind an earlier page
        #[arg(long, value_name = "TOKEN")]
        page_token: Option<String>,
    },
    /// Show a rule as JSON
    ShowRule {
        /// Its name
        name: String,
    },
    /// Put a rule, in the place of the one of its name
    PutRule(PutArgs),
    /// Delete a rule; a built-in one stays deleted until one of its name is put
    DeleteRule {
        /// Its name
        name: String,
    },
    /// Run the rules that wait to be asked, and give unused space back to the machine
    OptimizeMemory,
}

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// Delete nothing, and say what would go
    #[arg(long)]
    dry_run: bool,
    /// Only the rule of this name
    #[arg(long = "type", value_name = "RULE")]
    rule: Option<String>,
    /// Only what this matches too: * is any text, ? any character
    #[arg(long)]
    pattern: Option<String>,
    /// How long things are kept, in place of what the rules say, such as 90s or 5m
    #[arg(long, value_name = "TIME")]
    ttl: Option<Span>,
}

#[derive(Debug, Args)]
pub(super) struct PutArgs {
    /// Its name
    name: String,
    /// Which things, by name: * is any text, ? any character
    #[arg(long)]
    pattern: String,
    /// How long they are kept, such as 90s or 24h
    #[arg(long, value_name = "TIME")]
    ttl: Span,
    /// When the work is done [default: batch]
    #[arg(long)]
    strategy: Option<Strategy>,
    /// The most that one commit deletes
    #[arg(long, value_name = "N")]
    batch_size: Option<u32>,
    /// Rules with a higher one come first
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    priority: Option<i32>,
    /// The time between two cycles of a batch rule
    #[arg(long, value_name = "TIME")]
    interval: Option<Span>,
    /// What it is about, such as state_keys; may be given several times [default: state keys and
    /// keys of others]
    #[arg(long, value_name = "SCOPE", value_delimiter = ',')]
    applies_to: Vec<String>,
    /// Delete keys of others that have an expiry too, where it is farther off than the time they
    /// are kept
    #[arg(long)]
    include_expiring: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
enum Strategy {
    /// Within a second of the moment at which something may go
    Immediate,
    /// At the rule's interval
    Batch,
    /// Only when it is asked to
    Lazy,
    /// Never
    Never,
}

#[derive(Deserialize)]
struct Rule {
    name: String,
    pattern: String,
    ttl_seconds: f64,
    strategy: String,
    batch_size: u32,
    priority: i32,
    interval_seconds: Option<f64>,
    applies_to: Option<Vec<String>>,
    #[serde(default)]
    origin: String,
}

#[derive(Deserialize)]
struct Report {
    total_scanned: u64,
    total_cleaned: u64,
    total_errors: u64,
    cleanup_time_ms: f64,
    memory_freed_mb: f64,
    dry_run: bool,
    rules: Vec<RuleReport>,
}

#[derive(Deserialize)]
struct RuleReport {
    rule: String,
    scanned: u64,
    cleaned: u64,
    errors: u64,
    bytes_freed: u64,
    kept: BTreeMap<String, u64>,
    messages: Vec<String>,
}

#[derive(Deserialize)]
struct Optimized {
    memory_freed_mb: f64,
    pieces: u64,
    more: bool,
    time_ms: f64,
    used_bytes_before: u64,
    used_bytes_after: u64,
    cleanup: Report,
}

pub(super) async fn obey(client: &Client, command: CleanupCommand) -> Result<Ended, Failure> {
    match command {
        CleanupCommand::Run(args) => run(client, args).await,
        CleanupCommand::Rules { page_size, page_token } => {
            rules(client, page_size, page_token).await
        }
        CleanupCommand::ShowRule { name } => {
            let url = client.address(&["v1", "cleanup", "rules", &name], &[]);
            client.get(&format!("show cleanup rule {name:?}"), url).await?.show_raw();
            Ok(Ended::Done)
        }
        CleanupCommand::PutRule(args) => put(client, args).await,
        CleanupCommand::DeleteRule { name } => delete(client, &name).await,
        CleanupCommand::OptimizeMemory => optimize(client).await,
    }
}

async fn run(client: &Client, args: RunArgs) -> Result<Ended, Failure> {
    if !args.dry_run {
        let which = match (&args.rule, &args.pattern) {
            (Some(rule), _) => format!("what the rule {rule:?} lets go"),
            (None, Some(pattern)) => format!("what matches {pattern:?} and a rule lets go"),
            (None, None) => "everything that the rules let go".into(),
        };
        if !client.confirm(&format!("Delete {which}? --dry-run shows what that would be.")) {
            output::talk("nothing was done");
            return Ok(Ended::No);
        }
    }
    let body = json!({ "type": args.rule, "pattern": args.pattern, "dry_run": args.dry_run,
        "ttl_seconds": seconds(args.ttl) });
    let url = client.address(&["v1", "cleanup", "run"], &[]);
    let answer = patiently(client, "clean up", url, body).await?;
    let report: Report = answer.read()?;
    match client.json {
        true => answer.show_raw(),
        false => show(&report),
    }
    Ok(if report.total_errors == 0 { Ended::Done } else { Ended::No })
}

/// Waits for as long as a run may take, and says on a terminal that it waits.
async fn patiently(
    client: &Client,
    what: &str,
    url: Address,
    body: Value,
) -> Result<Answer, Failure> {
    let _progress = output::Progress::waiting("the leader cleans up");
    client.change_within(RUN_WITHIN, what, Method::POST, url, Some(body)).await
}

fn seconds(time: Option<Span>) -> Option<f64> {
    time.map(|Span(time)| time.as_secs_f64())
}

fn show(report: &Report) {
    let row = |rule: &RuleReport| {
        let kept = rule.kept.iter().map(|(why, many)| format!("{many} {why}"));
        let kept = kept.collect::<Vec<_>>().join(", ");
        vec![
            rule.rule.clone(),
            rule.scanned.to_string(),
            rule.cleaned.to_string(),
            rule.errors.to_string(),
            megabytes(rule.bytes_freed),
            if kept.is_empty() { "-".into() } else { kept },
        ]
    };
    let cleaned = if report.dry_run { "WOULD GO" } else { "CLEANED" };
    let heading = ["TYPE", "SCANNED", cleaned, "ERRORS", "FREED", "KEPT"];
    output::table(&heading, report.rules.iter().map(row).collect());
    let done = if report.dry_run { "would go" } else { "cleaned" };
    output::data(&format!(
        "{} {done} of {} looked at, {:.1} MiB, in {:.1} s",
        report.total_cleaned,
        report.total_scanned,
        report.memory_freed_mb,
        report.cleanup_time_ms / 1e3
    ));
    for rule in &report.rules {
        for message in &rule.messages {
            let (rule, message) = (output::shown(&rule.rule), output::shown(message));
            output::talk(&format!("error: {rule}: {message}"));
        }
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / 1_048_576.0)
}

async fn rules(
    client: &Client,
    page_size: Option<u32>,
    page_token: Option<String>,
) -> Result<Ended, Failure> {
    let query = [("page_size", page_size.map(|n| n.to_string())), ("page_token", page_token)];
    let url = client.address(&["v1", "cleanup", "rules"], &query);
    let answer = client.get("list cleanup rules", url).await?;
    if client.json {
        answer.show_raw();
        return Ok(Ended::Done);
    }
    let page: Page<Rule> = answer.read()?;
    page.tell_rest();
    let rows = page.items.into_iter().map(|rule| {
        let every = rule.interval_seconds.map_or("-".into(), period);
        let about = rule.applies_to.map_or("-".into(), |scopes| scopes.join(", "));
        vec![
            rule.name,
            rule.pattern,
            kept_for(rule.ttl_seconds, &rule.origin),
            rule.strategy,
            every,
            rule.batch_size.to_string(),
            rule.priority.to_string(),
            about,
            rule.origin,
        ]
    });
    let heading = [
        "TYPE", "PATTERN", "KEPT FOR", "STRATEGY", "EVERY", "BATCH", "PRIORITY", "ABOUT", "ORIGIN",
    ];
    output::table(&heading, rows.collect());
    Ok(Ended::Done)
}

/// How long a rule keeps things. A rule of the server without a time is of what has its own.
fn kept_for(seconds: f64, origin: &str) -> String {
    if seconds <= 0.0 && origin != "put" { "as each says".into() } else { period(seconds) }
}

/// A time in the largest unit of which it is a whole number.
fn period(seconds: f64) -> String {
    let units = [(86_400.0, "d"), (3_600.0, "h"), (60.0, "min")];
    let whole = |unit: f64| seconds >= unit && seconds % unit == 0.0;
    match units.into_iter().find(|(unit, _)| whole(*unit)) {
        Some((unit, name)) => format!("{} {name}", seconds / unit),
        None => format!("{seconds} s"),
    }
}

async fn put(client: &Client, args: PutArgs) -> Result<Ended, Failure> {
    let mut body = json!({ "pattern": args.pattern, "ttl_seconds": args.ttl.0.as_secs_f64(),
        "strategy": args.strategy, "batch_size": args.batch_size, "priority": args.priority,
        "interval_seconds": seconds(args.interval) });
    if !args.applies_to.is_empty() {
        body["applies_to"] = json!(args.applies_to);
    }
    if args.include_expiring {
        body["expiring"] = json!("include");
    }
    let url = client.address(&["v1", "cleanup", "rules", &args.name], &[]);
    let what = format!("put cleanup rule {:?}", args.name);
    let answer = client.change(&what, Method::PUT, url, Some(body)).await?;
    if client.json {
        answer.show_raw();
        return Ok(Ended::Done);
    }
    let Rule { name, pattern, ttl_seconds, strategy, .. } = answer.read()?;
    let kept = period(ttl_seconds);
    output::data(&format!("rule {name:?}: {pattern:?} is kept for {kept}, {strategy}"));
    Ok(Ended::Done)
}

async fn delete(client: &Client, name: &str) -> Result<Ended, Failure> {
    let question = format!("Delete rule {name:?}? What it would clean up stays.");
    if !client.confirm(&question) {
        output::talk("nothing was done");
        return Ok(Ended::No);
    }
    let url = client.address(&["v1", "cleanup", "rules", name], &[]);
    let what = format!("delete cleanup rule {name:?}");
    let answer = client.change(&what, Method::DELETE, url, None).await?;
    match client.json {
        true => answer.show_raw(),
        false => output::data(&format!("rule {name:?} is deleted")),
    }
    Ok(Ended::Done)
}

async fn optimize(client: &Client) -> Result<Ended, Failure> {
    let question = "Delete what the lazy rules let go, and give unused space back to the machine?";
    if !client.confirm(question) {
        output::talk("nothing was done");
        return Ok(Ended::No);
    }
    let url = client.address(&["v1", "cleanup", "optimize-memory"], &[]);
    let answer = patiently(client, "optimize memory", url, json!({})).await?;
    let optimized: Optimized = answer.read()?;
    if client.json {
        answer.show_raw();
    } else {
        let Optimized { memory_freed_mb, pieces, more, time_ms, cleanup, .. } = &optimized;
        let more = if *more { "; there is more, ask again" } else { "" };
        output::facts(vec![
            ("given back", format!("{memory_freed_mb:.1} MiB in {pieces} pieces{more}")),
            ("in use before", megabytes(optimized.used_bytes_before)),
            ("in use after", megabytes(optimized.used_bytes_after)),
            ("cleaned", cleanup.total_cleaned.to_string()),
            ("took", format!("{:.1} s", time_ms / 1e3)),
        ]);
    }
    Ok(if optimized.cleanup.total_errors == 0 { Ended::Done } else { Ended::No })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_in_the_largest_unit_that_fits() {
        for (seconds, text) in [
            (34_560_000.0, "400 d"),
            (86_400.0, "1 d"),
            (90_000.0, "25 h"),
            (300.0, "5 min"),
            (90.0, "90 s"),
            (0.5, "0.5 s"),
        ] {
            assert_eq!(kept_for(seconds, "built_in"), text);
        }
        assert_eq!(kept_for(0.0, "built_in"), "as each says");
        assert_eq!(kept_for(0.0, "put"), "0 s");
    }
}
