//! Who asks, and by which request: in answers, in the log, and in the audit trail.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod support;
#[path = "../../lockbay/tests/support/trail.rs"]
mod trail;

use std::path::Path;
use std::process::Stdio;

use lockbay::clock::Clock;
use serde_json::json;
use support::http::JSON;
use support::{Server, lockbay};
use trail::{Entry, entries};

fn server(dir: &Path) -> (Server, String) {
    let store = format!("sqlite:{}", dir.join("s.db").display());
    (Server::start_with(&["--store", &store], &[("LOCKBAY_INSTANCE_NAME", "web-1")]), store)
}

/// What stands in the trail, read as any other process would.
fn read(store: &str) -> Vec<Entry> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = lockbay::store::open(store, &Clock::system()).await.unwrap();
        let entries = entries(&*store, 0).await;
        store.close().await;
        entries
    })
}

fn of<'a>(entries: &'a [Entry], entity: &str, action: &str) -> &'a Entry {
    entries.iter().find(|entry| entry.is(entity, action)).unwrap_or_else(|| {
        panic!("no {entity} {action}: {entries:#?}");
    })
}

#[test]
fn every_answer_names_its_request_by_the_name_it_came_with_or_a_fresh_one() {
    let dir = tempfile::tempdir().unwrap();
    let (server, _) = server(dir.path());
    let with = |id: &str| server.send("GET", "/v1/leases", &[("X-Request-Id", id)], b"");
    assert_eq!(with("r-1.a:b/c").header("x-request-id"), Some("r-1.a:b/c"));
    for not_a_name in ["", "a b", "ü", &"x".repeat(129)] {
        let reply = with(not_a_name);
        let id = reply.header("x-request-id").unwrap().to_owned();
        assert_eq!((reply.status, id.len()), (200, 32), "{not_a_name:?}: {id}");
        assert_ne!(with(not_a_name).header("x-request-id"), Some(&*id));
    }
    let problem = server.send("GET", "/v1/nothing", &[("X-Request-Id", "lost")], b"");
    assert_eq!(problem.header("x-request-id"), Some("lost"));
    assert_eq!(problem.problem(404, "not-found")["request_id"], "lost");
    let problem = server.send("POST", "/v1/leases/l", &[JSON], b"{");
    let id = problem.header("x-request-id").unwrap().to_owned();
    assert_eq!(problem.problem(400, "invalid")["request_id"], id);
    let probe = server.get("/health/live");
    assert!(probe.header("x-request-id").is_some());
}

#[test]
fn what_a_request_changes_is_entered_in_the_name_of_who_asks() {
    let dir = tempfile::tempdir().unwrap();
    let (server, store) = server(dir.path());
    let ask = |id: &str, method: &str, path: &str, body: &serde_json::Value| {
        let headers = [JSON, ("X-Actor", "änn"), ("X-Request-Id", id)];
        server.send(method, path, &headers, body.to_string().as_bytes())
    };
    // Each of these is seen through in a task of its own.
    let lease = json!({ "holder": "h", "ttl_seconds": 60 });
    let reply = ask("r1", "POST", "/v1/leases/l", &lease);
    assert!(reply.status < 300, "{}", reply.text());
    let job = json!({ "job_type": "t", "job_key": "k", "parameters": {}, "holder": "h" });
    let reply = ask("r2", "POST", "/v1/jobs/claim", &job);
    assert!(reply.status < 300, "{}", reply.text());
    let saga = json!({ "saga_name": "s", "defer_handlers": true, "steps": [
        { "name": "a", "handler": "nobody", "parameters": {}, "timeout_seconds": 60 }] });
    let id = ask("r3", "POST", "/v1/sagas", &saga).json()["saga_id"].as_str().unwrap().to_owned();
    let because = json!({ "reason": "because" });
    ask("r4", "POST", &format!("/v1/sagas/{id}/cancel"), &because).ok();
    let deposit = json!({ "user_id": "u", "amount": "1.00", "currency": "USD" });
    let headers = [JSON, ("X-Actor", "änn"), ("X-Request-Id", "r5"), ("Idempotency-Key", "k")];
    let body = deposit.to_string();
    let reply = server.send("POST", "/v1/ledger/deposits", &headers, body.as_bytes());
    assert!(reply.status < 300, "{}", reply.text());
    for wrong in ["", &"x".repeat(257), "a\tb"] {
        let headers = [JSON, ("X-Actor", wrong)];
        let body = lease.to_string();
        let reply = server.send("POST", "/v1/leases/other", &headers, body.as_bytes());
        reply.problem(400, "invalid");
    }
    let entries = read(&store);
    let expected = [
        ("lease/l", "granted", "r1"),
        ("job/", "claimed", "r2"),
        ("saga/", "started", "r3"),
        ("saga/", "cancelled", "r4"),
        ("movement/", "committed", "r5"),
    ];
    for (entity, action, request) in expected {
        let entry = of(&entries, entity, action);
        let told = (&*entry.actor, &entry.json["request_id"]);
        assert_eq!(told, ("änn", &json!(request)), "{entity} {action}");
    }
    assert_eq!(of(&entries, "saga/", "cancelled").json["reason"], "because");
    assert!(!entries.iter().any(|entry| entry.entity == "lease/other"));
    assert_eq!(of(&entries, "leader/", "elected").actor, "web-1");
    assert_eq!(of(&entries, "session/", "opened").actor, "web-1");
}

#[test]
fn the_command_line_names_its_user_or_another() {
    let dir = tempfile::tempdir().unwrap();
    let (server, store) = server(dir.path());
    let run = |args: &[&str], actor: Option<&str>| {
        let mut command = lockbay();
        command.args(args).env("LOCKBAY_URL", server.url()).env("USER", "zoe");
        command.stdin(Stdio::null());
        if let Some(actor) = actor {
            command.env("LOCKBAY_ACTOR", actor);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    server.wait_until_leading();
    run(&["leader", "resign", "--yes"], None);
    run(&["handler", "put", "a", "--pull"], Some("deploy"));
    run(&["handler", "put", "b", "--pull", "--actor", "bob"], Some("deploy"));
    drop(server);
    // Without it nobody knows here whether the store has lost something.
    drop(std::fs::remove_file(format!("{}-floor", store.trim_start_matches("sqlite:"))));
    let mut doctor = lockbay();
    doctor.args(["doctor", "--accept-store", "--yes", "--store", &store, "--actor", "ops"]);
    assert!(doctor.stdin(Stdio::null()).output().unwrap().status.success());
    let entries = read(&store);
    let expected = [
        ("leader/", "resigned", "zoe"),
        ("handler/a", "put", "deploy"),
        ("handler/b", "put", "bob"),
        ("store/", "accepted", "ops"),
    ];
    for (entity, action, actor) in expected {
        let entry = of(&entries, entity, action);
        assert_eq!(entry.actor, actor, "{entity} {action}");
        let named = entry.json.get("request_id").is_some();
        assert_eq!(named, action != "accepted", "{entity} {action}");
    }
}
