//! Alerts over HTTP and on the command line: rules, states, back-tests, and tests in files.

mod support;

use std::process::Output;

use serde_json::{Value, json};
use support::{Server, run};

fn server() -> Server {
    let server = Server::start(&["--store", "memory:"]);
    server.wait_until_leading();
    server
}

/// The guide's rule.
fn guide() -> Value {
    json!({ "metric_path": "saga_metrics.sagas_failed", "operator": ">", "threshold": 5,
        "window_minutes": 10, "severity": "error" })
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

const RULE: &str = "/v1/alerts/rules/high_escrow_failure_rate";

#[test]
fn the_guides_rule_is_put_listed_back_tested_and_deleted() {
    let server = server();
    server.get(RULE).problem(404, "not-found");
    let put = server.put(RULE, &guide().to_string()).ok();
    assert_eq!(put["name"], "high_escrow_failure_rate");
    assert_eq!(server.get(RULE).ok(), put);
    server.put(RULE, &put.to_string()).ok();
    let rules = server.get("/v1/alerts/rules?page_size=1000").ok();
    let names: Vec<&str> = rules["items"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|r| r["name"].as_str())
        .collect();
    for name in ["high_escrow_failure_rate", "saga_parked", "saga_success_burn_fast"] {
        assert!(names.contains(&name), "{name} in {names:?}");
    }
    let alerts = server.get("/v1/alerts?state=inactive&page_size=1000").ok();
    let alert = alerts["items"].as_array().expect("a list").iter();
    assert_eq!(alert.filter(|a| a["rule"] == "high_escrow_failure_rate").count(), 1);
    let tested = server.post(&format!("{RULE}/test"), r#"{"minutes":10}"#).ok();
    assert_eq!((&tested["times_fired"], &tested["fires_now"]), (&json!(0), &json!(false)));
    assert_eq!(server.delete(RULE).ok()["deleted"], true);
    server.delete(RULE).problem(404, "not-found");
    // A definition can be tested without being stored.
    let body = json!({ "rule": guide() });
    server.post(&format!("{RULE}/test"), &body.to_string()).ok();
    server.get(RULE).problem(404, "not-found");
}

#[test]
fn a_built_in_rule_is_replaced_and_deleted_for_good() {
    let server = server();
    let path = "/v1/alerts/rules/saga_parked";
    let mut rule = server.get(path).ok();
    assert_eq!(rule["origin"], "built_in");
    rule["severity"] = json!("critical");
    assert_eq!(server.put(path, &rule.to_string()).ok()["origin"], "put");
    assert_eq!(server.get(path).ok()["severity"], "critical");
    server.delete(path).ok();
    server.get(path).problem(404, "not-found");
    server.delete(path).problem(404, "not-found");
}

#[test]
fn rules_that_cannot_be_meant_are_refused_and_nothing_is_stored() {
    let server = server();
    for (field, value, word) in [
        ("metric_path", json!("saga_metrics.saga_failed"), "saga_metrics.sagas_failed"),
        ("operator", json!("=>"), "operator"),
        ("threshold", json!("many"), "threshold"),
        ("window_minutes", json!(0), "window_minutes"),
        ("window_minutes", json!(20_000), "window_minutes"),
        ("severity", json!("fatal"), "severity"),
        ("aggregation", json!("last"), "increase"),
        ("quantile", json!(0.5), "quantile"),
        ("for_seconds", json!(-1), "for_seconds"),
        ("colour", json!("red"), "colour"),
        ("name", json!("another"), "another"),
    ] {
        let mut rule = guide();
        rule[field] = value;
        let problem = server.put(RULE, &rule.to_string()).problem(400, "invalid");
        let detail = problem["detail"].as_str().unwrap_or_default().to_owned();
        assert!(detail.contains(word), "{field}: {detail}");
    }
    server.get(RULE).problem(404, "not-found");
    server.get("/v1/alerts?state=loud").problem(400, "invalid");
    server.post("/v1/alerts/rules/saga_parked/test", r#"{"minutes":0}"#).problem(400, "invalid");
    server.post("/v1/alerts/rules/none/test", "{}").problem(404, "not-found");
}

#[test]
fn the_command_line_lists_puts_tests_and_deletes_rules() {
    let server = server();
    let list = stdout(&run(&server, &["alerts", "list"]));
    assert!(list.starts_with("RULE") && list.contains("saga_parked"), "{list}");
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("rule.json");
    let mut rule = guide();
    rule["name"] = json!("mine");
    std::fs::write(&file, rule.to_string()).expect("written");
    let path = file.to_str().expect("UTF-8");
    let put = run(&server, &["alerts", "rules", "put", path]);
    assert_eq!(put.status.code(), Some(0), "{put:?}");
    let shown = stdout(&run(&server, &["alerts", "rules", "show", "mine"]));
    assert!(shown.contains("saga_metrics.sagas_failed"), "{shown}");
    assert!(stdout(&run(&server, &["alerts", "rules"])).contains("mine"));
    let tested = stdout(&run(&server, &["alerts", "rules", "test", "mine"]));
    assert!(tested.contains("would have fired 0 times"), "{tested}");
    let deleted = run(&server, &["alerts", "rules", "delete", "mine", "--yes"]);
    assert_eq!(deleted.status.code(), Some(0), "{deleted:?}");
}

#[test]
fn the_shipped_tests_of_rules_pass_and_a_wrong_expectation_fails_with_a_diff() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../ops/alerts/built-in.test.toml");
    let passed = support::lockbay(&["alerts", "test", root]);
    assert_eq!(passed.status.code(), Some(0), "{}", stdout(&passed));
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("wrong.toml");
    let text = std::fs::read_to_string(root)
        .expect("the file")
        .replace("0s fired saga_parked", "10s fired saga_parked");
    std::fs::write(&file, text).expect("written");
    let failed = support::lockbay(&["alerts", "test", file.to_str().expect("UTF-8")]);
    assert_eq!(failed.status.code(), Some(1));
    let told = stdout(&failed);
    assert!(
        told.contains("- 10s fired saga_parked") && told.contains("+ 0s fired saga_parked"),
        "{told}"
    );
    std::fs::write(&file, "rule = 3").expect("written");
    let odd = support::lockbay(&["alerts", "test", file.to_str().expect("UTF-8")]);
    assert_eq!(odd.status.code(), Some(2));
}
