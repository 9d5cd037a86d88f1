//! Answers of a real server about itself are what its OpenAPI document says: health, metrics,
//! history, reports, alerts, notices, audit, cleanup and state.
//!
//! Each walk goes through all operations of its tags, and every answer on the way, refusals
//! included, is held against the document, as is every body that was accepted.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod support;

use std::collections::BTreeSet;

use serde_json::{Value, json};
use support::Server;
use support::openapi::Described;

fn described(environment: &[(&str, &str)]) -> Described {
    let server = Server::start_with(&["--store", "memory:"], environment);
    server.wait_until_leading();
    Described::new(server)
}

#[test]
fn health_metrics_history_and_reports_answer_as_described() {
    let mut api = described(&[("ADVANCED_MONITORING_INTERVAL", "1")]);
    let claim = json!({ "job_type": "pay", "job_key": "a", "parameters": {} }).to_string();
    api.ask("POST", "/v1/jobs/claim", &claim);
    for path in ["/health/live", "/health/ready", "/api/advanced-state/health", "/metrics"] {
        api.ask("GET", path, "");
    }
    assert_eq!(api.ask("GET", "/health/live?x=1", "").status, 400);
    let metrics = api.ask("GET", "/api/advanced-state/metrics", "").json();
    assert_eq!(metrics["job_idempotency_metrics"]["jobs_claimed"], 1);
    let paths = api.ask("GET", "/v1/metrics/paths", "").json();
    assert!(paths["items"].as_array().unwrap().len() > 50);
    let history = |path: &str| format!("/v1/metrics/history?path={path}&minutes=1&step_seconds=1");
    let is_measured = |member: &'static str| {
        move |told: &Value| told["points"].as_array().unwrap().iter().any(|p| p[member].is_number())
    };
    for (path, member) in [
        ("job_idempotency_metrics.jobs_claimed", "increase"),
        ("is_leader", "max"),
        ("system_metrics.commit_seconds", "p95"),
        ("system_metrics.commit_seconds.p95", "value"),
    ] {
        api.ask_until(&history(path), is_measured(member));
    }
    let instance = metrics["instance_id"].as_str().unwrap();
    api.ask("GET", &format!("{}&instance={instance}", history("is_leader")), "");
    assert_eq!(api.ask("GET", &history("no.such_metric"), "").status, 404);
    assert_eq!(api.ask("GET", "/v1/metrics/history?path=is_leader&minutes=0", "").status, 400);
    for query in ["", "?format=text", "?format=markdown", "?format=html", "?hours=720"] {
        let report = api.ask("GET", &format!("/api/advanced-state/report{query}"), "");
        assert_eq!(report.status, 200, "{query}");
    }
    assert_eq!(api.ask("GET", "/api/advanced-state/report?hours=721", "").status, 400);
    api.ask("GET", "/v1/trends", "");
    api.ask("GET", "/v1/trends?path=saga_metrics.step_seconds&hours=48", "");
    assert_eq!(api.ask("GET", "/v1/trends?path=no.such_metric", "").status, 404);
    assert_eq!(api.silent(&["monitoring"]), BTreeSet::new());
}

/// A rule that fires as soon as anything is measured.
fn fires_at_once() -> Value {
    json!({ "metric_path": "saga_metrics.running_sagas", "operator": ">", "threshold": -1,
        "window_minutes": 1, "severity": "critical", "labels": { "group": "books" },
        "runbook": "https://books.example/run", "description": "the books are open" })
}

#[test]
fn alerts_silences_and_notices_answer_as_described() {
    let mut api = described(&[
        ("ADVANCED_MONITORING_INTERVAL", "1"),
        ("LOCKBAY_ALERT_INTERVAL", "1"),
        ("LOCKBAY_ALERT_GROUP_WAIT", "0"),
    ]);
    let rules = "/v1/alerts/rules";
    assert_eq!(api.ask("PUT", &format!("{rules}/open"), &fires_at_once().to_string()).status, 200);
    // Everything that a rule may have.
    let whole = json!({ "name": "slow", "metric_path": "saga_metrics.step_seconds", "operator": ">=",
        "threshold": 0.5, "window_minutes": 10, "severity": "info", "for_seconds": 5,
        "keep_firing_for_seconds": 5, "cooldown_minutes": 1, "aggregation": "quantile",
        "quantile": 0.99, "on_no_data": "keep", "confirm_window_minutes": 5, "enabled": false,
        "origin": "put", "divide_by": null });
    let put = api.ask("PUT", &format!("{rules}/slow"), &whole.to_string()).json();
    assert_eq!(api.ask("PUT", &format!("{rules}/slow"), &put.to_string()).json(), put);
    let ratio = json!({ "metric_path": "saga_metrics.sagas_failed", "operator": ">",
        "threshold": 0.1, "window_minutes": 10, "severity": "warning",
        "divide_by": { "metric_path": "saga_metrics.sagas_started", "minimum": 10 } });
    api.ask("PUT", &format!("{rules}/ratio"), &ratio.to_string());
    assert_eq!(api.ask("PUT", &format!("{rules}/wrong"), r#"{"operator":">"}"#).status, 400);
    api.ask("GET", &format!("{rules}?page_size=2"), "");
    api.ask("GET", &format!("{rules}/ratio"), "");
    assert_eq!(api.ask("GET", &format!("{rules}/none"), "").status, 404);
    api.ask("POST", &format!("{rules}/open/test"), "");
    let tried = json!({ "minutes": 5, "rule": fires_at_once() }).to_string();
    let tried = api.ask("POST", &format!("{rules}/tried/test"), &tried).json();
    assert_eq!(tried["rule"], "tried");
    assert_eq!(api.ask("POST", &format!("{rules}/none/test"), "").status, 404);

    let told = "/v1/alerts/notifications";
    let delivered = format!("{told}?status=delivered");
    let page = api.ask_until(&delivered, |page| page["items"][0].is_object());
    api.ask_until("/v1/alerts?state=firing", |page| page["items"][0]["rule"] == "open");
    let id = page["items"][0]["notice"]["id"].as_str().unwrap().to_owned();
    api.ask("GET", &format!("{told}/{id}"), "");
    assert_eq!(api.ask("GET", &format!("{told}/none"), "").status, 404);
    let again = api.ask("POST", &format!("{told}/{id}/retry"), r#"{"actor":"anna"}"#);
    assert!([409, 422].contains(&again.status), "{}", again.text());
    assert_eq!(
        api.ask("POST", &format!("{told}/test"), "").json()["channels"][0]["delivered"],
        true
    );

    let silences = "/v1/alerts/silences";
    let body = json!({ "rules": "more", "duration_seconds": 3600, "actor": "anna",
        "reason": "the bank is away", "severities": ["critical"] });
    let silence = api.ask("POST", silences, &body.to_string());
    assert_eq!(silence.status, 201, "{}", silence.text());
    let id = silence.json()["id"].as_str().unwrap().to_owned();
    let window = json!({ "actor": "anna", "reason": "nightly work", "rules": "books_*",
        "window": { "schedule_expression": "0 3 * * *", "duration_seconds": 600 } });
    let nightly = api.ask("POST", silences, &window.to_string()).json();
    assert_eq!(api.ask("POST", silences, r#"{"actor":"a","reason":"b"}"#).status, 400);
    // What fires and is silenced is held back.
    api.ask("PUT", &format!("{rules}/more"), &fires_at_once().to_string());
    let held = format!("{told}?status=held");
    api.ask_until(&held, |page| page["items"][0]["rule"] == "more");
    api.ask("GET", &format!("{silences}?page_size=1"), "");
    api.ask("GET", &format!("{silences}/{id}"), "");
    let ended = api.ask("DELETE", &format!("{silences}/{id}?actor=anna"), "").json();
    assert_eq!((&ended["state"], &ended["ended_by"]), (&json!("ended"), &json!("anna")));
    let nightly = nightly["id"].as_str().unwrap();
    assert_eq!(api.ask("DELETE", &format!("{silences}?id={nightly}"), "").status, 200);
    assert_eq!(api.ask("DELETE", &format!("{silences}?id=none"), "").status, 404);
    // A notice is retried only where a channel gave it up, which the test of webhooks shows.
    assert_eq!(api.ask("DELETE", &format!("{rules}/slow"), "").json()["deleted"], true);
    assert_eq!(api.ask("DELETE", &format!("{rules}/slow"), "").status, 404);
    assert_eq!(api.silent(&["alerts"]), BTreeSet::from(["retry_notice".to_owned()]));
}

#[test]
fn the_audit_trail_answers_as_described() {
    let mut api = described(&[("LOCKBAY_AUDIT_SEAL_INTERVAL", "200ms")]);
    let put = r#"{"update_pattern":"a:{id}","invalidate_patterns":["b:{id}"]}"#;
    let actor = [("X-Actor", "anna"), ("X-Request-Id", "req-1")];
    api.ask_with("PUT", "/v1/state-rules/a", &actor, put);
    let lease = json!({ "holder": "web-1", "ttl_seconds": 60 }).to_string();
    api.ask("POST", "/v1/leases/nightly", &lease);
    let entries = "/v1/audit?actor=anna&page_size=1";
    let page = api.ask_until(entries, |page| page["items"][0]["sealed_by"].is_number());
    let entry = &page["items"][0];
    let (revision, entity) =
        (entry["revision"].as_str().unwrap(), entry["entity"].as_str().unwrap());
    assert_eq!(entry["request_id"], "req-1");
    api.ask("GET", "/v1/audit?order=oldest&from=2026-01-01T00:00:00Z&page_size=2", "");
    assert_eq!(api.ask("GET", "/v1/audit?from=yesterday", "").status, 400);
    assert_eq!(api.ask("GET", "/v1/audit?order=sideways", "").status, 400);
    api.ask("GET", &format!("/v1/audit/history?entity={}", entity.replace('/', "%2F")), "");
    let proof = api.ask("GET", &format!("/v1/audit/proof?revision={revision}"), "").json();
    assert_eq!(proof["revision"], revision);
    assert_eq!(api.ask("GET", "/v1/audit/proof?revision=1", "").status, 404);
    assert_eq!(api.ask("GET", "/v1/audit/proof?revision=x", "").status, 400);
    api.ask("GET", "/v1/audit/checkpoints?page_size=1", "");
    assert_eq!(api.ask("GET", "/v1/audit/verify?records=true", "").json()["ok"], true);
    let export = api.ask("GET", "/v1/audit/export?from=2026-01-01T00:00:00Z", "");
    assert!(export.text().lines().count() > 2, "{}", export.text());
    assert!(api.ask("GET", "/v1/audit/key", "").json()["public_key"].is_string());
    assert_eq!(api.silent(&["audit"]), BTreeSet::new());
}

#[test]
fn cleanup_answers_as_described() {
    let mut api = described(&[]);
    let rules = "/v1/cleanup/rules";
    let rule = json!({ "name": "basket", "pattern": "basket:*", "ttl_seconds": 60.5,
        "strategy": "lazy", "batch_size": 10, "priority": -5, "interval_seconds": 30,
        "applies_to": ["state_keys"], "expiring": "include", "origin": "put" });
    let put = api.ask("PUT", &format!("{rules}/basket"), &rule.to_string()).json();
    assert_eq!(put, rule);
    let least = r#"{"pattern":"cart:*","ttl_seconds":60}"#;
    api.ask("PUT", &format!("{rules}/cart"), least);
    assert_eq!(api.ask("PUT", &format!("{rules}/cart"), r#"{"pattern":"a[b]"}"#).status, 400);
    api.ask("GET", &format!("{rules}?page_size=3"), "");
    api.ask("GET", rules, "");
    api.ask("GET", &format!("{rules}/basket"), "");
    assert_eq!(api.ask("GET", &format!("{rules}/none"), "").status, 404);
    api.ask("PUT", "/v1/state/cart:1", r#"{"value":1}"#);
    let run = json!({ "type": "cart", "pattern": "cart:*", "dry_run": false, "ttl_seconds": 0 });
    let report = api.ask("POST", "/v1/cleanup/run", &run.to_string()).json();
    assert_eq!(report["keys_by_type"]["cart"], 1, "{report}");
    api.ask("POST", "/v1/cleanup/run", "");
    assert_eq!(api.ask("POST", "/v1/cleanup/run", r#"{"type":"none"}"#).status, 400);
    api.ask(
        "PUT",
        &format!("{rules}/never"),
        r#"{"pattern":"*","ttl_seconds":1,"strategy":"never"}"#,
    );
    assert_eq!(api.ask("POST", "/v1/cleanup/run", r#"{"type":"never"}"#).status, 422);
    api.ask("POST", "/v1/cleanup/optimize-memory", "");
    assert_eq!(api.ask("DELETE", &format!("{rules}/basket"), "").json()["deleted"], true);
    assert_eq!(api.ask("DELETE", &format!("{rules}/basket"), "").status, 404);
    assert_eq!(api.silent(&["cleanup"]), BTreeSet::new());
}

#[test]
fn state_answers_as_described() {
    let mut api = described(&[]);
    let value = json!({ "value": { "n": [1, null, "x"] }, "ttl_seconds": 60.5, "tags": ["t"],
        "source": "books", "if_version": "0" })
    .to_string();
    let path = "/v1/state/user%2F1";
    let written = api.ask("PUT", path, &value).json();
    assert_eq!(api.ask("PUT", path, &value).status, 409, "there is one now");
    let version = &written["version"];
    api.ask("PUT", path, &json!({ "value": null, "if_version": version }).to_string());
    for wrong in [r#"{"value":1,"if_version":null}"#, r#"{"tags":[]}"#, r#"{"value":1,"x":1}"#] {
        assert_eq!(api.ask("PUT", path, wrong).status, 400, "{wrong}");
    }
    assert_eq!(api.ask("GET", path, "").json()["value"], Value::Null);
    api.ask("GET", &format!("{path}?max_stale_seconds=5.5"), "");
    assert_eq!(api.ask("GET", "/v1/state/none", "").status, 404);
    api.ask("GET", "/v1/state?prefix=user&page_size=1", "");
    for path in ["/v1/state/invalidate", "/v1/state/other"] {
        api.ask("PUT", path, r#"{"value":1}"#);
        api.ask("GET", path, "");
        assert_eq!(api.ask("DELETE", path, "").json()["deleted"], true);
    }
    let wish = json!({ "keys": ["a"], "tags": ["t"], "pattern": "user*", "updated_key": "b" });
    let told = api.ask("POST", "/v1/state/invalidate", &wish.to_string()).json();
    assert_eq!(told["keys"], 1, "{told}");
    let rule = json!({ "update_pattern": "order:{id}", "invalidate_patterns": ["order:{id}:*"] });
    api.ask("PUT", "/v1/state-rules/order", &rule.to_string());
    api.ask("GET", "/v1/state-rules?page_size=2", "");
    api.ask("GET", "/v1/state-rules/order", "");
    assert_eq!(api.ask("DELETE", "/v1/state-rules/order", "").json()["deleted"], true);
    assert_eq!(api.ask("GET", "/v1/state-rules/order", "").status, 404);
    let made = "/v1/state-dependencies/report";
    api.ask("PUT", made, r#"{"depends_on":["order:1"]}"#);
    assert_eq!(api.ask("GET", made, "").json()["depends_on"], json!(["order:1"]));
    assert_eq!(api.ask("DELETE", made, "").json()["deleted"], true);
    assert_eq!(api.ask("GET", made, "").status, 404);
    assert_eq!(api.silent(&["state"]), BTreeSet::new());
}

#[test]
fn the_page_of_the_document_asks_nobody_but_its_own_server() {
    let mut api = described(&[]);
    let page = api.ask("GET", "/docs", "");
    let policy = page.header("content-security-policy").unwrap();
    for part in ["default-src 'none'", "script-src 'self'", "connect-src 'self'"] {
        assert!(policy.contains(part), "{policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    let text = page.text();
    assert!(!text.contains("<style") && !text.contains("style="), "nothing that the policy stops");
    let mut names: Vec<String> = text.split("\"docs/").skip(1).map(name_of).collect();
    assert!(names.len() >= 2, "{text}");
    let mut seen = 0;
    while let Some(name) = names.get(seen).cloned() {
        seen += 1;
        let file = api.ask("GET", &format!("/docs/{name}"), "");
        assert_eq!(file.status, 200, "{name}");
        assert!(file.header("content-security-policy").is_some(), "{name}");
        let text = file.text();
        for part in ["http://", "https://", " url(", "@import", "innerHTML", "eval("] {
            assert!(!text.contains(part), "{name} has {part}");
        }
        let imports = text.split("from \"./").skip(1).map(name_of);
        names.extend(imports.filter(|name| !names.contains(name)).collect::<Vec<_>>());
    }
    assert!(!text.contains("=\"/") && !text.contains("//"), "addresses are relative: {text}");
    assert_eq!(seen, 5, "all files of the page are reached: {names:?}");
    for missing in ["none.js", "..%2FCargo.toml", "..%2Fsrc%2Fmain.rs", "docs.rs"] {
        assert_eq!(api.ask("GET", &format!("/docs/{missing}"), "").status, 404, "{missing}");
    }
}

fn name_of(rest: &str) -> String {
    rest.split('"').next().unwrap_or_default().to_owned()
}
