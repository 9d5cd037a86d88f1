//! The part of `lockbay alerts` about what is judged: alerts, rules, and tests of rules.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use lockbay::monitor::alert::rule::Rule;
use lockbay::monitor::alert::testfile;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::client::{Client, Failure, Page};
use super::{Ended, output};

#[derive(Debug, Subcommand)]
pub(super) enum RulesCommand {
    /// Show a rule as JSON, as it can be put again
    Show {
        /// Its name
        name: String,
    },
    /// Put the rule of a JSON file, in the place of the one of its name
    Put {
        /// The file; it says the name
        file: PathBuf,
    },
    /// Delete a rule: what fires by it resolves; a built-in one stays deleted until one is put
    Delete {
        /// Its name
        name: String,
    },
    /// Say how often and when a rule would have fired lately
    Test {
        /// Its name
        name: String,
        /// Over so many minutes
        #[arg(long, value_name = "N", default_value_t = 1_440)]
        minutes: u32,
    },
}

#[derive(Deserialize)]
struct Alert {
    rule: String,
    severity: String,
    state: String,
    since: Option<String>,
    value: Option<f64>,
    operator: String,
    threshold: f64,
    summary: String,
}

#[derive(Deserialize)]
struct Backtest {
    times_fired: u64,
    evaluations: u64,
    firing_seconds: f64,
    transitions: Vec<Move>,
}

#[derive(Deserialize)]
struct Move {
    at: String,
    turn: String,
    summary: String,
}

/// Alerts and how they stand.
pub(super) async fn list(client: &Client, state: Option<String>) -> Result<Ended, Failure> {
    let query = [("state", state), ("page_size", Some("1000".to_owned()))];
    let url = client.address(&["v1", "alerts"], &query);
    let answer = client.get("list alerts", url).await?;
    if client.json {
        answer.show_raw();
        return Ok(Ended::Done);
    }
    let page: Page<Alert> = answer.read()?;
    page.tell_rest();
    let rows = page.items.into_iter().map(|alert| {
        vec![
            alert.rule,
            alert.severity,
            alert.state,
            alert.value.map_or("-".into(), output::number),
            format!("{} {}", alert.operator, alert.threshold),
            alert.since.unwrap_or_else(|| "-".into()),
            alert.summary,
        ]
    });
    let heading = ["RULE", "SEVERITY", "STATE", "VALUE", "FIRES IF", "SINCE", "SUMMARY"];
    output::table(&heading, rows.collect());
    Ok(Ended::Done)
}

/// Rules: all of them, or one.
pub(super) async fn rules(
    client: &Client,
    command: Option<RulesCommand>,
) -> Result<Ended, Failure> {
    match command {
        None => list_rules(client).await,
        Some(RulesCommand::Show { name }) => {
            let url = client.address(&["v1", "alerts", "rules", &name], &[]);
            client.get(&format!("show alert rule {name:?}"), url).await?.show_raw();
            Ok(Ended::Done)
        }
        Some(RulesCommand::Put { file }) => put(client, &file).await,
        Some(RulesCommand::Delete { name }) => delete(client, &name).await,
        Some(RulesCommand::Test { name, minutes }) => back_test(client, &name, minutes).await,
    }
}

async fn list_rules(client: &Client) -> Result<Ended, Failure> {
    let query = [("page_size", Some("1000".to_owned()))];
    let url = client.address(&["v1", "alerts", "rules"], &query);
    let answer = client.get("list alert rules", url).await?;
    if client.json {
        answer.show_raw();
        return Ok(Ended::Done);
    }
    let page: Page<Rule> = answer.read()?;
    page.tell_rest();
    let rows = page.items.into_iter().map(|rule| {
        let text = |value: Value| value.as_str().unwrap_or("-").to_owned();
        vec![
            rule.name.clone(),
            text(json!(rule.severity)),
            rule.aggregation().map_or("-".into(), |aggregation| aggregation.name().into()),
            rule.metric_path.clone(),
            format!("{} {}", rule.operator.sign(), rule.threshold),
            format!("{} min", rule.window_minutes),
            format!("{} s", rule.for_seconds),
            if rule.enabled { text(json!(rule.origin)) } else { "disabled".into() },
        ]
    });
    let heading = ["RULE", "SEVERITY", "WHAT", "METRIC", "FIRES IF", "WINDOW", "FOR", "ORIGIN"];
    output::table(&heading, rows.collect());
    Ok(Ended::Done)
}

fn read(file: &Path) -> Result<String, Failure> {
    let shown = file.display();
    let size = std::fs::metadata(file).map(|found| found.len()).unwrap_or_default();
    if usize::try_from(size).unwrap_or(usize::MAX) > testfile::MAX_FILE_BYTES {
        return Err(Failure::Usage(format!("{shown} is larger than a file of rules may be")));
    }
    std::fs::read_to_string(file)
        .map_err(|error| Failure::Usage(format!("cannot read {shown}: {error}")))
}

async fn put(client: &Client, file: &Path) -> Result<Ended, Failure> {
    let text = read(file)?;
    let odd = |error: String| Failure::Usage(format!("{} is no rule: {error}", file.display()));
    let rule: Rule = serde_json::from_str(&text).map_err(|error| odd(error.to_string()))?;
    if rule.name.is_empty() {
        return Err(odd("it has no name".into()));
    }
    let url = client.address(&["v1", "alerts", "rules", &rule.name], &[]);
    let what = format!("put alert rule {:?}", rule.name);
    let answer = client.change(&what, Method::PUT, url, Some(json!(rule))).await?;
    if client.json {
        answer.show_raw();
        return Ok(Ended::Done);
    }
    let rule: Rule = answer.read()?;
    let (name, sign, threshold) = (&rule.name, rule.operator.sign(), rule.threshold);
    output::data(&format!("rule {name:?}: fires if {} {sign} {threshold}", rule.metric_path));
    Ok(Ended::Done)
}

async fn delete(client: &Client, name: &str) -> Result<Ended, Failure> {
    if !client.confirm(&format!("Delete alert rule {name:?}? Nobody is told by it any more.")) {
        output::talk("nothing was done");
        return Ok(Ended::No);
    }
    let url = client.address(&["v1", "alerts", "rules", name], &[]);
    let what = format!("delete alert rule {name:?}");
    let answer = client.change(&what, Method::DELETE, url, None).await?;
    match client.json {
        true => answer.show_raw(),
        false => output::data(&format!("rule {name:?} is deleted")),
    }
    Ok(Ended::Done)
}

async fn back_test(client: &Client, name: &str, minutes: u32) -> Result<Ended, Failure> {
    let url = client.address(&["v1", "alerts", "rules", name, "test"], &[]);
    let body = json!({ "minutes": minutes });
    let what = format!("test alert rule {name:?}");
    let answer = client.change(&what, Method::POST, url, Some(body)).await?;
    if client.json {
        answer.show_raw();
        return Ok(Ended::Done);
    }
    let tested: Backtest = answer.read()?;
    for moved in &tested.transitions {
        let summary = output::shown(&moved.summary);
        output::data(&format!("{} {} {summary}", moved.at, moved.turn));
    }
    output::data(&format!(
        "{name} would have fired {} times in {minutes} min, for {:.0} s altogether; judged {} times",
        tested.times_fired, tested.firing_seconds, tested.evaluations
    ));
    Ok(Ended::Done)
}

/// Runs the tests of a file, here, without a server.
pub(super) fn test(client: &Client, file: &Path) -> Result<Ended, Failure> {
    let outcomes = testfile::run(&read(file)?)
        .map_err(|error| Failure::Usage(format!("{}: {error}", file.display())))?;
    let failed = outcomes.iter().filter(|outcome| !outcome.differences.is_empty()).count();
    if client.json {
        let told: Vec<Value> = outcomes
            .iter()
            .map(|outcome| {
                let passed = outcome.differences.is_empty();
                json!({ "name": outcome.name, "passed": passed, "differences": outcome.differences })
            })
            .collect();
        output::data(&json!({ "tests": told, "failed": failed }).to_string());
    } else {
        for outcome in &outcomes {
            let passed = outcome.differences.is_empty();
            let verdict = if passed { "passed" } else { "FAILED" };
            output::data(&format!("{verdict}  {}", output::shown(&outcome.name)));
            for line in &outcome.differences {
                output::data(&format!("    {}", output::shown(line)));
            }
        }
        output::data(&format!("{} tests, {failed} failed", outcomes.len()));
    }
    Ok(if failed == 0 { Ended::Done } else { Ended::No })
}
