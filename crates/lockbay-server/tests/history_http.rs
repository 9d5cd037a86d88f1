//! History over HTTP and on the command line, and the export for Prometheus.

mod support;

use serde_json::Value;
use support::{Server, eventually, run};

fn server() -> Server {
    let server = Server::start_with(
        &["--store", "memory:", "--instance-name", "web-1"],
        &[("ADVANCED_MONITORING_INTERVAL", "1")],
    );
    server.wait_until_leading();
    server
}

fn history(server: &Server, query: &str) -> Value {
    server.get(&format!("/v1/metrics/history?{query}")).ok()
}

fn claim(server: &Server) {
    let body = r#"{"job_type":"pay","job_key":"a","parameters":{}}"#;
    server.post("/v1/jobs/claim", body).ok();
}

/// The sum of the increases, once it is this one.
fn wait_for_claims(server: &Server, claims: f64) -> Value {
    eventually("the claim is in the history", || {
        let told = history(server, "path=job_idempotency_metrics.jobs_claimed&minutes=1");
        let points = told["points"].as_array().expect("points");
        let sum: f64 = points.iter().filter_map(|point| point["increase"].as_f64()).sum();
        (sum == claims).then_some(told.clone())
    })
}

#[test]
fn a_counter_a_gauge_and_a_histogram_are_told_by_their_type() {
    let server = server();
    claim(&server);
    let told = wait_for_claims(&server, 1.0);
    assert_eq!((&told["type"], &told["unit"]), (&"counter".into(), &"none".into()));
    assert_eq!(told["instances"], serde_json::json!(["web-1"]));
    assert_eq!(told["resolution_seconds"], 1.0);
    assert!(told["from"].as_str() < told["to"].as_str());
    assert!(told["points"][0]["increase"].is_null(), "nothing was measured before it was there");
    eventually("it has led for the whole of a step", || {
        let told = history(&server, "path=is_leader&minutes=1&step_seconds=1");
        assert_eq!(told["type"], "gauge");
        let last = told["points"].as_array().and_then(|points| points.last()).expect("a point");
        (last["value"] == 1.0 && last["max"] == 1.0).then_some(())
    });
    let told = history(&server, "path=system_metrics.commit_seconds&minutes=1");
    assert_eq!((&told["type"], &told["unit"]), (&"histogram".into(), &"seconds".into()));
    let observed = |point: &&Value| point["p95"].as_f64().is_some_and(|p95| p95 > 0.0);
    let points = told["points"].as_array().expect("points");
    assert!(points.iter().any(|point| observed(&point)), "{told}");
    let told = history(&server, "path=system_metrics.commit_seconds.p95&minutes=1&instance=web-1");
    let points = told["points"].as_array().expect("points");
    assert!(points.iter().any(|point| point["value"].as_f64().is_some()), "{told}");
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let server = server();
    let path = "/v1/metrics/history?path=saga_metrics.saga_failed";
    let problem = server.get(path).problem(404, "not-found");
    assert!(problem["detail"].as_str().unwrap_or_default().contains("sagas_failed"), "{problem}");
    let good = "/v1/metrics/history?path=saga_metrics.sagas_failed";
    for wrong in [
        "&minutes=0",
        "&minutes=43201",
        "&minutes=-1",
        "&minutes=1.5",
        "&minutes=soon",
        "&step_seconds=0",
        "&step_seconds=-1",
        "&step_seconds=nan",
        "&minutes=43200&step_seconds=1",
        "&colour=red",
    ] {
        server.get(&format!("{good}{wrong}")).problem(400, "invalid");
    }
    server.get("/v1/metrics/history").problem(400, "invalid");
    server.get(&format!("{good}&instance=nobody")).problem(404, "not-found");
    server.get(&format!("{good}&minutes=43200")).ok();
}

/// What the metrics document shows as a number, history knows by that path.
#[test]
fn every_number_of_the_metrics_document_has_a_history_at_its_path() {
    let server = server();
    let paths = server.get("/v1/metrics/paths").ok();
    let items = paths["items"].as_array().expect("items");
    let known: Vec<&str> = items.iter().filter_map(|item| item["path"].as_str()).collect();
    let mut numbers = Vec::new();
    gather(String::new(), &server.get("/api/advanced-state/metrics").ok(), &mut numbers);
    assert!(numbers.len() > 60, "{numbers:?}");
    for path in numbers {
        // About the leader and not this instance.
        let told = path.starts_with("leader_info.") || path == "health_status.store_round_trip_ms";
        assert!(told || known.contains(&path.as_str()), "{path} has no history");
    }
}

#[test]
fn every_metric_stands_at_its_path_in_the_document() {
    let document = server().get("/api/advanced-state/metrics").ok();
    for row in lockbay::metrics::TABLE {
        let found = row.path.split('.').try_fold(&document, |inside, name| inside.get(name));
        assert!(found.is_some(), "{}", row.path);
    }
}

fn gather(path: String, value: &Value, to: &mut Vec<String>) {
    if let Some(members) = value.as_object() {
        for (name, value) in members {
            let dot = if path.is_empty() { "" } else { "." };
            gather(format!("{path}{dot}{name}"), value, to);
        }
    } else if value.is_number() {
        to.push(path);
    }
}

#[test]
fn the_command_line_shows_a_line_and_a_table() {
    let server = server();
    claim(&server);
    wait_for_claims(&server, 1.0);
    let path = "job_idempotency_metrics.jobs_claimed";
    let shown = |args: &[&str]| {
        let output = run(&server, &[&["metrics"], args].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let table = shown(&["--path", path, "--minutes", "1"]);
    assert!(table.contains("INCREASE") && table.contains('█'), "{table}");
    let json: Value = serde_json::from_str(&shown(&["--path", path, "--json"])).expect("JSON");
    assert_eq!(json["path"], path);
    assert!(shown(&["--paths"]).contains("saga_metrics.step_seconds.p95"));
    assert!(shown(&[]).contains("system_metrics.commit_seconds.p99"));
    let wrong = run(&server, &["metrics", "--path", "nothing.here"]);
    assert_eq!(wrong.status.code(), Some(1));
    assert_eq!(run(&server, &["metrics", "--minutes", "5"]).status.code(), Some(2));
}

#[test]
fn prometheus_gets_the_format_that_it_asks_for() {
    let server = server();
    let accept = [("accept", "text/plain;version=0.0.4")];
    let old = server.send("GET", "/metrics", &accept, b"");
    assert_eq!(old.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert!(old.text().contains("# TYPE lockbay_jobs_claimed_total counter"));
    let new = server.get("/metrics");
    assert!(new.header("content-type").unwrap_or_default().starts_with("application/openmetrics"));
    for name in
        ["process_resident_memory_bytes ", "process_cpu_seconds_total ", "process_open_fds "]
    {
        assert!(new.text().contains(&format!("\n{name}")), "{name}");
    }
    assert!(new.text().contains("# UNIT lockbay_commit_seconds seconds"));
}
