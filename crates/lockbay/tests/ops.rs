//! The files in `ops/` speak of metrics that exist, and every alert in them has its runbook.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use lockbay::metrics::{TABLE, Type};
use serde_json::Value;

fn file(name: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    fs::read_to_string(root.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The names under which samples are exported.
fn exported() -> BTreeSet<String> {
    let names = TABLE.iter().flat_map(|row| match row.kind {
        Type::Counter => vec![format!("{}_total", row.name)],
        Type::Gauge => vec![row.name.to_owned()],
        Type::Histogram => {
            ["_bucket", "_count", "_sum"].map(|part| format!("{}{part}", row.name)).to_vec()
        }
    });
    names.collect()
}

/// The words of a query that begin as our metrics do. What a recording rule made has colons.
fn metrics_in(query: &str) -> BTreeSet<String> {
    let is_of_word = |letter: char| letter.is_ascii_alphanumeric() || "_:".contains(letter);
    let ours = |word: &&str| word.starts_with("lockbay_") || word.starts_with("process_");
    query.split(|letter| !is_of_word(letter)).filter(ours).map(str::to_owned).collect()
}

fn assert_exported(whence: &str, query: &str) {
    let exported = exported();
    for name in metrics_in(query) {
        assert!(exported.contains(&name), "{whence}: there is no metric {name}");
    }
}

/// Every `expr` and `query` in a document.
fn queries(value: &Value, to: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                match value.as_str() {
                    Some(text) if ["expr", "query", "definition"].contains(&name.as_str()) => {
                        to.push(text.to_owned());
                    }
                    Some(_) | None => queries(value, to),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| queries(item, to)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn the_dashboard_parses_and_shows_only_metrics_that_exist() {
    let dashboard: Value = serde_json::from_str(&file("ops/grafana-dashboard.json")).unwrap();
    let mut found = Vec::new();
    queries(&dashboard, &mut found);
    assert!(found.len() > 60, "{} queries", found.len());
    found.iter().for_each(|query| assert_exported("ops/grafana-dashboard.json", query));
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let source = variables.iter().find(|variable| variable["type"] == "datasource").unwrap();
    assert_eq!(source["query"], "prometheus");
    let source = format!("${{{}}}", source["name"].as_str().unwrap());
    let panels = dashboard["panels"].as_array().unwrap();
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        assert_eq!(panel["datasource"]["uid"], source, "{}", panel["title"]);
    }
    let ids: BTreeSet<i64> = panels.iter().filter_map(|panel| panel["id"].as_i64()).collect();
    assert_eq!(ids.len(), panels.len(), "every panel has an id of its own");
}

#[test]
fn the_rules_judge_only_metrics_that_exist_and_every_alert_has_a_runbook() {
    let rules = file("ops/prometheus-rules.yml");
    let said: String = rules.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
    assert_exported("ops/prometheus-rules.yml", &said);
    assert!(metrics_in(&said).len() > 12);
    // What rules record is what other rules use.
    let recorded: BTreeSet<&str> =
        rules.lines().filter_map(|line| line.trim_start().strip_prefix("- record: ")).collect();
    let is_of_word = |letter: char| letter.is_ascii_alphanumeric() || "_:".contains(letter);
    for word in said.split(|letter| !is_of_word(letter)).filter(|word| word.starts_with("job:")) {
        assert!(recorded.contains(word), "nothing records {word}");
    }
    let operations = file("docs/operations.md");
    let alerts: Vec<&str> =
        rules.lines().filter_map(|line| line.trim_start().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() >= 10);
    for alert in alerts {
        let heading = format!("\n#### {alert}\n");
        assert!(operations.contains(&heading), "docs/operations.md has no heading {alert}");
        let runbook = format!("runbook: docs/operations.md#{}\n", alert.to_lowercase());
        assert!(rules.contains(&runbook), "{alert} does not name its runbook");
    }
}

#[test]
fn a_metric_that_does_not_exist_would_be_found() {
    let found = metrics_in("rate(lockbay_sagas_faild_total{a=\"b\"}[5m]) / lockbay_is_leader");
    assert_eq!(found.len(), 2);
    assert!(found.iter().any(|name| !exported().contains(name)));
}
