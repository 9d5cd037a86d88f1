//! `lockbay metrics`: what a server has done, and how a metric went.

use clap::Args;
use serde::Deserialize;
use serde_json::Value;

use super::client::{Client, Failure};
use super::{Ended, output};

/// Arguments of `lockbay metrics`.
#[derive(Debug, Args)]
pub(super) struct MetricsArgs {
    /// Show how this metric went, such as saga_metrics.sagas_failed or saga_metrics.step_seconds.p95
    #[arg(long)]
    path: Option<String>,
    /// How far back
    #[arg(long, requires = "path", value_parser = clap::value_parser!(u32).range(1..=43_200))]
    minutes: Option<u32>,
    /// The time from one point to the next, in seconds [default: as fits]
    #[arg(long, requires = "path")]
    step: Option<f64>,
    /// Only this instance
    #[arg(long, requires = "path")]
    instance: Option<String>,
    /// Show which metrics have a history
    #[arg(long, conflicts_with = "path")]
    paths: bool,
    /// Show them as a scraper of Prometheus gets them
    #[arg(long, conflicts_with_all = ["path", "paths", "json"])]
    prometheus: bool,
}

pub(super) async fn obey(client: &Client, args: MetricsArgs) -> Result<Ended, Failure> {
    if args.paths {
        return paths(client).await;
    }
    if args.prometheus {
        let url = client.address(&["metrics"], &[]);
        output::data(client.get_text("read metrics", url).await?.trim_end());
        return Ok(Ended::Done);
    }
    match &args.path {
        Some(path) => history(client, path, &args).await,
        None => all(client).await,
    }
}

#[derive(Deserialize)]
struct Chart {
    path: String,
    #[serde(rename = "type")]
    kind: String,
    unit: String,
    step_seconds: f64,
    points: Vec<serde_json::Map<String, Value>>,
}

async fn history(client: &Client, path: &str, args: &MetricsArgs) -> Result<Ended, Failure> {
    let query = [
        ("path", Some(path.to_owned())),
        ("minutes", args.minutes.map(|minutes| minutes.to_string())),
        ("step_seconds", args.step.map(|step| step.to_string())),
        ("instance", args.instance.clone()),
    ];
    let url = client.address(&["v1", "metrics", "history"], &query);
    let answer = client.get("read the history", url).await?;
    if client.json {
        answer.show_raw();
        return Ok(Ended::Done);
    }
    let chart: Chart = answer.read()?;
    let columns: &[&str] = match chart.points.first() {
        Some(point) if point.contains_key("rate") => &["increase", "rate"],
        Some(point) if point.contains_key("p50") => &["count", "p50", "p95", "p99"],
        Some(point) if point.contains_key("min") => &["value", "min", "max"],
        Some(_) | None => &["value"],
    };
    let shown = *columns.last().filter(|_| columns.len() == 4).unwrap_or(&columns[0]);
    let values: Vec<Option<f64>> =
        chart.points.iter().map(|point| point.get(shown).and_then(Value::as_f64)).collect();
    output::facts(vec![
        ("path", chart.path),
        ("type", chart.kind),
        ("unit", chart.unit),
        ("step", format!("{} s", chart.step_seconds)),
        (shown, line(&values)),
    ]);
    let mut heading = vec!["AT"];
    let capitals: Vec<String> = columns.iter().map(|column| column.to_uppercase()).collect();
    heading.extend(capitals.iter().map(String::as_str));
    let rows = chart.points.iter().map(|point| {
        let at = point.get("at").and_then(Value::as_str).unwrap_or("-").to_owned();
        let cell =
            |name: &&str| point.get(*name).and_then(Value::as_f64).map_or("-".into(), number);
        std::iter::once(at).chain(columns.iter().map(cell)).collect()
    });
    output::table(&heading, rows.collect());
    Ok(Ended::Done)
}

/// How many letters a line of a metric has.
const LINE_WIDTH: usize = 60;

/// A metric as one line of letters, from zero to its highest value; a gap is a blank.
pub(super) fn line(values: &[Option<f64>]) -> String {
    const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let known = || values.iter().flatten().copied();
    // From zero, so that what does not move is not taken for nothing.
    let (low, high) = (known().fold(0.0, f64::min), known().fold(0.0, f64::max));
    let share = |value: f64| if high > low { (value - low) / (high - low) } else { 0.0 };
    // Several steps share a letter, which shows the highest of them: a peak is not lost.
    let group = values.len().div_ceil(LINE_WIDTH).max(1);
    let letter = |group: &[Option<f64>]| {
        let highest = group.iter().flatten().copied().reduce(f64::max)?;
        LEVELS.iter().enumerate().rev().find(|(at, _)| share(highest) * 7.0 >= *at as f64)
    };
    values.chunks(group).map(|group| letter(group).map_or(' ', |(_, letter)| *letter)).collect()
}

pub(super) fn number(value: f64) -> String {
    let text = format!("{value:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

async fn paths(client: &Client) -> Result<Ended, Failure> {
    let url = client.address(&["v1", "metrics", "paths"], &[]);
    let answer = client.get("read the paths of metrics", url).await?;
    if client.json {
        answer.show_raw();
        return Ok(Ended::Done);
    }
    let told: Value = answer.read()?;
    let text = |item: &Value, name: &str| item[name].as_str().unwrap_or("-").to_owned();
    let row = |item: &Value| ["path", "type", "unit", "help"].map(|name| text(item, name)).to_vec();
    let rows = told["items"].as_array().map(|items| items.iter().map(row).collect());
    output::table(&["PATH", "TYPE", "UNIT", "HELP"], rows.unwrap_or_default());
    Ok(Ended::Done)
}

/// Every number of the metrics document, by its path.
async fn all(client: &Client) -> Result<Ended, Failure> {
    let url = client.address(&["api", "advanced-state", "metrics"], &[]);
    let answer = client.get("read metrics", url).await?;
    if client.json {
        answer.show_raw();
        return Ok(Ended::Done);
    }
    let mut rows = Vec::new();
    flatten(String::new(), &answer.read()?, &mut rows);
    output::table(&["METRIC", "VALUE"], rows);
    Ok(Ended::Done)
}

fn flatten(path: String, value: &Value, rows: &mut Vec<Vec<String>>) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                let dot = if path.is_empty() { "" } else { "." };
                flatten(format!("{path}{dot}{name}"), value, rows);
            }
        }
        Value::String(text) => rows.push(vec![path, text.clone()]),
        Value::Null => rows.push(vec![path, "-".into()]),
        Value::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                let name = item["name"].as_str().map_or_else(|| at.to_string(), str::to_owned);
                flatten(format!("{path}.{name}"), item, rows);
            }
        }
        Value::Number(number) => {
            let fraction = number.as_f64().filter(|_| number.is_f64());
            rows.push(vec![path, fraction.map_or_else(|| number.to_string(), output::number)]);
        }
        Value::Bool(_) => rows.push(vec![path, value.to_string()]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_shows_peaks_and_gaps() {
        assert_eq!(line(&[Some(0.0), Some(7.0), None, Some(3.5)]), "▁█ ▄");
        assert_eq!(line(&[Some(5.0); 3]), "███");
        assert_eq!(line(&[Some(0.0); 3]), "▁▁▁");
        assert_eq!(line(&[]), "");
        let mut long = vec![Some(0.0); 600];
        long[301] = Some(1.0);
        assert_eq!(line(&long).chars().filter(|letter| *letter == '█').count(), 1);
    }

    #[test]
    fn lists_are_rows_by_name_or_place() {
        let told =
            serde_json::json!({ "checks": [{ "name": "store", "ok": true }], "n": [1, 0.1] });
        let mut rows = Vec::new();
        flatten(String::new(), &told, &mut rows);
        let rows: Vec<String> = rows.iter().map(|row| row.join(" ")).collect();
        let all = ["checks.store.name store", "checks.store.ok true", "n.0 1", "n.1 0.1"];
        assert_eq!(rows, all);
    }

    #[test]
    fn numbers_are_short() {
        for (value, text) in [(0.0, "0"), (12.5, "12.5"), (100.0, "100"), (1e-9, "0")] {
            assert_eq!(number(value), text);
        }
    }
}
