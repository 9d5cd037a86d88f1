//! `/v1/audit` and `lockbay audit`: entries are shown, verified, proved and exported, and a changed
//! export is refused.

mod support;

use std::process::Output;

use serde_json::{Value, json};
use support::http;
use support::{Server, eventually, run};

fn server() -> Server {
    let server = Server::start(&["--store", "memory:", "--instance-name", "web-1"]);
    server.wait_until_leading();
    server
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

/// A change: money that comes in.
fn change(server: &Server, n: usize) {
    let body = json!({ "user_id": format!("user-{n}"), "amount": "1.00", "currency": "USD" });
    let key = format!("k{n}");
    let reply = server.send(
        "POST",
        "/v1/ledger/deposits",
        &[http::JSON, ("Idempotency-Key", &key)],
        body.to_string().as_bytes(),
    );
    assert!(reply.status == 200 || reply.status == 201, "{}", reply.text());
}

#[test]
fn the_trail_is_listed_verified_and_exported_and_bad_questions_are_refused() {
    let server = server();
    (0..3).for_each(|n| change(&server, n));
    let page = server.get("/v1/audit?order=oldest&page_size=2").ok();
    assert!(page["items"].is_array());
    let verdict = server.get("/v1/audit/verify?records=true").ok();
    assert_eq!(verdict["ok"], true, "{verdict}");
    assert_eq!(verdict["problems"], json!([]));
    for field in ["entries", "sealed", "unsealed", "checkpoints", "took_ms"] {
        assert!(verdict[field].is_u64(), "{field} in {verdict}");
    }
    assert!(server.get("/v1/audit/checkpoints").ok()["items"].is_array());
    assert_eq!(server.get("/v1/audit/key").ok()["outside_of_store"], false);
    let export = server.get("/v1/audit/export");
    assert_eq!(export.status, 200);
    assert_eq!(export.header("content-type"), Some("application/x-ndjson"));
    for bad in [
        "/v1/audit?order=sideways",
        "/v1/audit?from=yesterday",
        "/v1/audit?page_size=0",
        "/v1/audit?page_token=x",
        "/v1/audit?who=me",
        "/v1/audit/verify?records=perhaps",
        "/v1/audit/proof",
        "/v1/audit/proof?revision=x",
        "/v1/audit/export?until=soon",
        "/v1/audit/history",
    ] {
        server.get(bad).problem(400, "invalid");
    }
    server.get("/v1/audit/proof?revision=5").problem(404, "not-found");
}

#[test]
fn the_command_line_verifies_a_server_and_an_export_and_refuses_a_changed_file() {
    let server = server();
    (0..3).for_each(|n| change(&server, n));
    let verified = run(&server, &["audit", "verify"]);
    assert_eq!(verified.status.code(), Some(0), "{}", stdout(&verified));
    assert_eq!(run(&server, &["audit", "tail"]).status.code(), Some(0));
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("trail.jsonl");
    let name = path.to_str().expect("UTF-8");
    // The first seal makes the key, by which an export is signed.
    let key = eventually("the first seal", || {
        let key = server.get("/v1/audit/key").ok()["public_key"].as_str().map(str::to_owned);
        key.or_else(|| (entries(&server) == 0).then(String::new))
    });
    if key.is_empty() {
        return; // nothing of this build enters anything yet
    }
    assert_eq!(run(&server, &["audit", "export", "-o", name]).status.code(), Some(0));
    let good = run(&server, &["audit", "verify", name, "--public-key", &key]);
    assert_eq!(good.status.code(), Some(0), "{}", stdout(&good));
    let other = "ab".repeat(32);
    let strange = run(&server, &["audit", "verify", name, "--public-key", &other]);
    assert_eq!(strange.status.code(), Some(1));
    let mut text = std::fs::read(&path).expect("the export");
    let middle = text.len() / 2;
    text[middle] ^= 1;
    std::fs::write(&path, text).expect("writing it");
    let bad = run(&server, &["audit", "verify", name]);
    assert_eq!(bad.status.code(), Some(1), "{}", stdout(&bad));
    assert!(stdout(&bad).contains("WRONG"), "{}", stdout(&bad));
    let usage = run(&server, &["audit", "verify", name, "--public-key", "x"]);
    assert_eq!(usage.status.code(), Some(2));
}

fn entries(server: &Server) -> u64 {
    let verdict: Value = server.get("/v1/audit/verify").ok();
    verdict["entries"].as_u64().expect("a number")
}
