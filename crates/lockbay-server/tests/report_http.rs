//! The report and the trends over HTTP and on the command line: the guide's fields, every format,
//! and an answer whatever the state of the service.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod support;

use serde_json::{Value, json};
use support::{Server, eventually, run};

fn work(server: &Server) {
    for key in ["a", "b", "c"] {
        let body = json!({ "job_type": "t", "job_key": key, "parameters": {} });
        let job = server.post("/v1/jobs/claim", &body.to_string()).ok();
        let path = format!("/v1/jobs/{}/complete", job["job_id"].as_str().unwrap());
        let body = json!({ "claim_token": job["claim_token"], "result": {} });
        server.post(&path, &body.to_string()).ok();
    }
}

#[track_caller]
fn has_the_guides_fields(report: &Value) {
    for field in [
        "timestamp",
        "instance_id",
        "overall_status",
        "system_uptime",
        "leader_status",
        "performance_summary",
        "system_load",
        "health_issues",
        "trends",
        "baselines",
        "active_alerts",
    ] {
        assert!(!report[field].is_null(), "{field} in {report}");
    }
    for field in ["job_processing", "saga_processing", "cleanup_efficiency"] {
        assert!(report["performance_summary"].get(field).is_some(), "{field} in {report}");
    }
}

#[test]
fn a_report_has_every_field_in_every_format() {
    let server = Server::start(&["--store", "memory:", "--instance-name", "web-1"]);
    server.wait_until_leading();
    work(&server);
    let report = server.get("/api/advanced-state/report").ok();
    has_the_guides_fields(&report);
    assert_eq!(report["overall_status"], "healthy", "{report}");
    let jobs = &report["performance_summary"]["job_processing"];
    assert_eq!(jobs["this_instance"]["completed"], 3.0, "{report}");
    assert_eq!(report["trends"][0]["label"], "insufficient_data");
    for (format, kind, begin) in [
        ("text", "text/plain; charset=utf-8", "lockbay is healthy (web-1"),
        ("markdown", "text/markdown; charset=utf-8", "# lockbay is healthy (web-1"),
        ("html", "text/html; charset=utf-8", "<!doctype html>"),
    ] {
        let reply = server.get(&format!("/api/advanced-state/report?format={format}&hours=2"));
        assert_eq!((reply.status, reply.header("content-type")), (200, Some(kind)));
        assert!(reply.text().starts_with(begin), "{}", reply.text());
        assert!(!reply.text().contains("<script"));
        assert!(reply.header("content-security-policy").unwrap().contains("default-src 'none'"));
        let shown = run(&server, &["report", "--format", format]);
        assert!(shown.status.success() && shown.stdout.starts_with(begin.as_bytes()), "{shown:?}");
    }
    for wrong in ["format=pdf", "hours=0", "hours=721", "hours=x", "day=1"] {
        server.get(&format!("/api/advanced-state/report?{wrong}")).problem(400, "invalid");
    }
}

#[test]
fn trends_are_told_by_path_and_a_path_that_names_nothing_is_not_found() {
    let server = Server::start(&["--store", "memory:"]);
    let all = server.get("/v1/trends").ok();
    let paths: Vec<_> =
        all["items"].as_array().unwrap().iter().map(|t| t["path"].clone()).collect();
    for path in ["job_idempotency_metrics.jobs_completed", "saga_error_ratio"] {
        assert!(paths.contains(&json!(path)), "{all}");
    }
    let one = server.get("/v1/trends?path=saga_metrics.step_seconds&hours=48").ok();
    let trend = &one["items"][0];
    assert_eq!(
        (&trend["goodness"], &trend["unit"]),
        (&json!("lower_is_better"), &json!("seconds"))
    );
    assert_eq!(trend["window_hours"], 48);
    server.get("/v1/trends?path=saga_metrics.sagas_faild").problem(404, "not-found");
    server.get("/v1/trends?hours=0").problem(400, "invalid");
}

#[test]
fn a_report_is_made_without_monitoring() {
    let server = Server::start_with(&["--store", "memory:"], &[("LOCKBAY_MONITORING", "false")]);
    let report = server.get("/api/advanced-state/report").ok();
    has_the_guides_fields(&report);
    assert!(report["notes"][0].as_str().unwrap().starts_with("monitoring is off"), "{report}");
}

#[test]
fn health_names_its_checks_on_the_command_line() {
    let server = Server::start(&["--store", "memory:"]);
    server.wait_until_leading();
    let health = eventually("the server is well", || {
        let health = server.get("/api/advanced-state/health").json();
        (health["status"] == "healthy").then_some(health)
    });
    let names: Vec<_> =
        health["checks"].as_array().unwrap().iter().map(|check| check["name"].clone()).collect();
    for name in ["store", "leader_election", "schedules", "clock", "disk"] {
        assert!(names.contains(&json!(name)), "{health}");
    }
    let shown = run(&server, &["health"]);
    assert!(shown.status.success(), "{shown:?}");
}
