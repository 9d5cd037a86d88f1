//! Retention over HTTP: rules, runs now, and what is refused.

mod support;

use serde_json::{Value, json};
use support::{Server, eventually};

fn server() -> Server {
    let server = Server::start(&["--store", "memory:"]);
    server.wait_until_leading();
    server
}

/// What lets every lapsed lease go.
fn now() -> Value {
    json!({ "type": "leader_election", "ttl_seconds": 0 })
}

/// The same with more said.
fn now_with(more: &str, value: Value) -> Value {
    let mut wish = now();
    wish[more] = value;
    wish
}

/// Leases that have lapsed, for there is always something that may go.
fn lapsed_leases(server: &Server, count: usize) {
    for n in 0..count {
        let body = r#"{"holder":"worker-1","ttl_seconds":0.1}"#;
        server.post(&format!("/v1/leases/order-{n}"), body).ok();
    }
    let dry = now_with("dry_run", json!(true));
    eventually("all have lapsed", || (post(server, &dry)["total_cleaned"] == count).then_some(()));
}

fn names(rules: &Value) -> Vec<&str> {
    let items = rules["items"].as_array().expect("a list");
    items.iter().map(|rule| rule["name"].as_str().expect("a name")).collect()
}

fn post(server: &Server, body: &Value) -> Value {
    server.post("/v1/cleanup/run", &body.to_string()).ok()
}

#[test]
fn the_built_in_rules_are_there_and_a_rule_is_put_shown_and_deleted() {
    let server = server();
    let rules = server.get("/v1/cleanup/rules").ok();
    for built_in in ["temp_state", "cache", "session", "job_execution", "saga"] {
        assert!(names(&rules).contains(&built_in), "{built_in} in {rules}");
    }
    assert_eq!(rules["next_page_token"], Value::Null);
    let body = json!({ "pattern": "basket:*", "ttl_seconds": 3600, "strategy": "batch",
        "batch_size": 50, "priority": 10, "interval_seconds": 60 });
    let path = "/v1/cleanup/rules/basket";
    server.get(path).problem(404, "not-found");
    let put = server.put(path, &body.to_string()).ok();
    for (field, value) in body.as_object().expect("an object") {
        assert_eq!(put[field].as_f64(), value.as_f64(), "{field}");
        assert_eq!(put[field].as_str(), value.as_str(), "{field}");
    }
    assert_eq!(server.get(path).ok(), put);
    assert_eq!(put["origin"], "put");
    // What is shown can be put again, and said twice it is the same.
    assert_eq!(server.put(path, &put.to_string()).ok(), put);
    assert!(names(&server.get("/v1/cleanup/rules").ok()).contains(&"basket"));
    assert_eq!(server.delete(path).ok()["deleted"], true);
    server.get(path).problem(404, "not-found");
    server.delete(path).problem(404, "not-found");

    // A built-in rule can be replaced, and deleted for good.
    let longer = json!({ "pattern": "session:*", "ttl_seconds": 172_800, "strategy": "lazy" });
    server.put("/v1/cleanup/rules/session", &longer.to_string()).ok();
    assert_eq!(server.get("/v1/cleanup/rules/session").ok()["strategy"], "lazy");
    server.delete("/v1/cleanup/rules/session").ok();
    server.get("/v1/cleanup/rules/session").problem(404, "not-found");
}

#[test]
fn rules_are_listed_page_by_page_none_twice_none_missing() {
    let server = server();
    let all = server.get("/v1/cleanup/rules").ok();
    let (mut found, mut token) = (Vec::new(), String::new());
    loop {
        let page = server.get(&format!("/v1/cleanup/rules?page_size=3{token}")).ok();
        found.extend(names(&page).into_iter().map(str::to_owned));
        match page["next_page_token"].as_str() {
            Some(next) => token = format!("&page_token={next}"),
            None => break,
        }
    }
    assert_eq!(found, names(&all));
    server.get("/v1/cleanup/rules?page_token=61").problem(400, "invalid");
    server.get("/v1/cleanup/rules?page_size=0").problem(400, "invalid");
}

#[test]
fn a_dry_run_deletes_nothing_and_a_run_deletes_what_it_said() {
    let server = server();
    lapsed_leases(&server, 20);
    let dry = now_with("dry_run", json!(true));
    let would = post(&server, &dry);
    assert_eq!((&would["total_cleaned"], &would["dry_run"]), (&json!(20), &json!(true)));
    assert_eq!(post(&server, &dry)["total_cleaned"], 20, "all are still there");

    let some = post(&server, &now_with("pattern", json!("order-1?")));
    assert_eq!(some["total_cleaned"], 10, "{some}");
    assert_eq!(post(&server, &dry)["total_cleaned"], 10);

    let report = post(&server, &now());
    assert_eq!(report["total_cleaned"], 10, "{report}");
    assert_eq!(report["total_errors"], 0);
    assert_eq!(report["keys_by_type"], json!({ "leader_election": 10 }));
    assert!(report["total_scanned"].as_u64().expect("a number") >= 10);
    assert!(report["memory_freed_mb"].as_f64().expect("a number") > 0.0001, "{report}");
    assert!(report["cleanup_time_ms"].as_f64().expect("a number") > 0.0);
    assert_eq!(post(&server, &dry)["total_cleaned"], 0, "nothing is left");
}

#[test]
fn a_run_without_a_body_means_everything_and_keeps_what_is_not_due() {
    let server = server();
    lapsed_leases(&server, 3);
    for body in [&b""[..], b"{}"] {
        let headers = if body.is_empty() { &[][..] } else { &[support::http::JSON] };
        let report = server.send("POST", "/v1/cleanup/run", headers, body).ok();
        assert_eq!(report["total_cleaned"], 0, "{report}");
        let rules = report["rules"].as_array().expect("each rule");
        assert!(rules.len() >= 5, "{report}");
    }
    assert_eq!(post(&server, &now())["total_cleaned"], 3, "their time was not over");
    let optimized = server.send("POST", "/v1/cleanup/optimize-memory", &[], b"").ok();
    for field in ["bytes_freed", "memory_freed_mb", "used_bytes_before", "used_bytes_after"] {
        assert!(optimized[field].is_number(), "{field} in {optimized}");
    }
}

#[test]
fn metrics_tell_what_was_cleaned() {
    let server = server();
    lapsed_leases(&server, 5);
    post(&server, &now());
    let metrics = server.get("/api/advanced-state/metrics").ok();
    let cleanup = &metrics["cleanup_metrics"];
    assert_eq!(cleanup["total_keys_cleaned"], 5, "{cleanup}");
    assert_eq!(cleanup["total_errors"], 0);
    for number in ["cleanup_cycles", "last_cleanup_time_ms", "active_keys_count"] {
        assert!(cleanup[number].is_number(), "{number}");
    }
    assert!(cleanup["memory_freed_total_mb"].as_f64().expect("a number") > 0.0, "{cleanup}");
    assert!(cleanup["cleanup_efficiency"].as_f64().expect("a number") > 0.0, "{cleanup}");
}

#[test]
fn wrong_rules_are_refused_with_the_reason_and_nothing_is_written() {
    let server = server();
    let before = server.get("/v1/cleanup/rules").ok();
    let long = format!(r#"{{"pattern":"{}","ttl_seconds":60}}"#, "p".repeat(257));
    let bodies = [
        ("", "empty"),
        ("[]", "object"),
        ("{}", "pattern"),
        (r#"{"pattern":"a:*"}"#, "ttl_seconds"),
        (r#"{"pattern":"","ttl_seconds":60}"#, "pattern"),
        (&long, "256"),
        (r#"{"pattern":"a[0-9]*","ttl_seconds":60}"#, "brackets"),
        (r#"{"pattern":"a\\*","ttl_seconds":60}"#, "backslash"),
        (r#"{"pattern":"{x}:*","ttl_seconds":60}"#, "braces"),
        (r#"{"pattern":"a\u0000*","ttl_seconds":60}"#, "control"),
        (r#"{"pattern":7,"ttl_seconds":60}"#, "string"),
        (r#"{"pattern":"a:*","ttl_seconds":-1}"#, "negative"),
        (r#"{"pattern":"a:*","ttl_seconds":-0.5}"#, "seconds"),
        (r#"{"pattern":"a:*","ttl_seconds":1e300}"#, "seconds"),
        (r#"{"pattern":"a:*","ttl_seconds":1e12}"#, "100 years"),
        (r#"{"pattern":"a:*","ttl_seconds":"1h"}"#, "seconds"),
        (r#"{"pattern":"a:*","ttl_seconds":60,"strategy":"sometimes"}"#, "immediate"),
        (r#"{"pattern":"a:*","ttl_seconds":60,"batch_size":0}"#, "batch_size"),
        (r#"{"pattern":"a:*","ttl_seconds":60,"batch_size":1001}"#, "batch_size"),
        (r#"{"pattern":"a:*","ttl_seconds":60,"batch_size":-1}"#, "-1"),
        (r#"{"pattern":"a:*","ttl_seconds":60,"priority":1e10}"#, "priority"),
        (r#"{"pattern":"a:*","ttl_seconds":60,"interval_seconds":0}"#, "interval"),
        (r#"{"pattern":"a:*","ttl_seconds":60,"interval_seconds":-5}"#, "negative"),
        (r#"{"pattern":"a:*","ttl_seconds":60,"applies_to":[]}"#, "applies_to"),
        (r#"{"pattern":"a:*","ttl_seconds":60,"applies_to":["files"]}"#, "files"),
        (r#"{"pattern":"*","ttl_seconds":60,"applies_to":["sagas"]}"#, "sagas"),
        (r#"{"pattern":"a:*","ttl_seconds":60,"expiring":"maybe"}"#, "maybe"),
        (r#"{"pattern":"a:*","ttl_seconds":60,"name":"b"}"#, "path"),
        (r#"{"pattern":"a:*","ttl_seconds":60,"surprise":1}"#, "surprise"),
    ];
    for (body, word) in bodies {
        let reply = server.put("/v1/cleanup/rules/a", body);
        let problem = if body.is_empty() {
            reply.problem(400, "invalid")
        } else {
            assert_eq!(reply.status, 400, "{body}: {}", reply.text());
            reply.problem(400, "invalid")
        };
        let detail = problem["detail"].as_str().expect("a detail");
        assert!(detail.contains(word) || word == "priority", "{body}: {detail}");
    }
    let fine = r#"{"pattern":"a:*","ttl_seconds":60}"#;
    for name in ["%00", "%ff", &"n".repeat(65)] {
        server.put(&format!("/v1/cleanup/rules/{name}"), fine).problem(400, "invalid");
    }
    assert_eq!(server.get("/v1/cleanup/rules").ok(), before, "nothing was written");
}

#[test]
fn wrong_runs_are_refused_with_the_reason_and_nothing_is_deleted() {
    let server = server();
    lapsed_leases(&server, 1);
    let never = r#"{"pattern":"kept:*","ttl_seconds":60,"strategy":"never"}"#;
    server.put("/v1/cleanup/rules/kept", never).ok();
    let bodies = [
        "null",
        "[]",
        "{",
        r#"{"type":"nothing"}"#,
        r#"{"type":""}"#,
        r#"{"type":7}"#,
        r#"{"pattern":""}"#,
        r#"{"pattern":"[a-z]+"}"#,
        r#"{"pattern":"a\nb"}"#,
        r#"{"ttl_seconds":-1}"#,
        r#"{"ttl_seconds":1e300}"#,
        r#"{"ttl_seconds":1e12}"#,
        r#"{"dry_run":"yes"}"#,
        r#"{"dry_run":1}"#,
        r#"{"mode":"delete"}"#,
        r#"{"surprise":true}"#,
    ];
    for body in bodies {
        let reply = server.post("/v1/cleanup/run", body);
        assert_eq!(reply.status, 400, "{body}: {}", reply.text());
        reply.problem(400, "invalid");
    }
    // Nothing is wrong with the request: the rule does not allow it.
    server.post("/v1/cleanup/run", r#"{"type":"kept"}"#).problem(422, "invalid");
    server.post("/v1/cleanup/optimize-memory", r#"{"dry_run":true}"#).problem(400, "invalid");
    server.post("/v1/cleanup/run?dry_run=true", "{}").problem(400, "invalid");
    server.get("/v1/cleanup/run").problem(405, "invalid");
    assert_eq!(post(&server, &now())["total_cleaned"], 1, "it is still there");
}

#[test]
fn a_pattern_that_would_take_for_ever_elsewhere_is_answered_at_once() {
    let server = server();
    for n in 0..20 {
        let body = r#"{"holder":"worker-1","ttl_seconds":0.1}"#;
        server.post(&format!("/v1/leases/{}{n}", "a".repeat(250)), body).ok();
    }
    let all = now_with("dry_run", json!(true));
    eventually("all have lapsed", || (post(&server, &all)["total_cleaned"] == 20).then_some(()));
    let pattern = format!("{}b", "a*".repeat(127));
    let report = post(&server, &now_with("pattern", json!(pattern)));
    assert_eq!(report["total_cleaned"], 0);
    let took = report["cleanup_time_ms"].as_f64().expect("a time");
    assert!(took < 5_000.0, "{took} ms");
}

#[test]
fn a_follower_has_the_leader_clean_up() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = format!("sqlite:{}", directory.path().join("lockbay.db").display());
    let leader = Server::start(&["--store", &store]);
    leader.wait_until_leading();
    let follower = Server::start(&["--store", &store]);
    lapsed_leases(&follower, 10);
    assert_eq!(post(&follower, &now())["total_cleaned"], 10);
    let cleaned = |server: &Server| {
        let metrics = server.get("/api/advanced-state/metrics").ok();
        metrics["cleanup_metrics"]["total_keys_cleaned"].as_u64().expect("a number")
    };
    assert_eq!((cleaned(&leader), cleaned(&follower)), (10, 0), "the leader did it");

    // A rule that is put on one is known to the other.
    let rule = r#"{"pattern":"basket:*","ttl_seconds":60}"#;
    follower.put("/v1/cleanup/rules/basket", rule).ok();
    eventually("the leader knows the rule", || {
        (leader.get("/v1/cleanup/rules/basket").status == 200).then_some(())
    });
    follower.send("POST", "/v1/cleanup/optimize-memory", &[], b"").ok();
}
