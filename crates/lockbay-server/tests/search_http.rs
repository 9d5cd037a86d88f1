//! Search and decisions about many jobs, over a real socket and from the command line.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::{Server, breathe, eventually, run};

fn server() -> Server {
    let server = Server::start(&["--store", "memory:"]);
    server.wait_until_leading();
    server
}

fn claim(server: &Server, job_type: &str, key: &str, user: &str) -> Value {
    let body = json!({ "job_type": job_type, "job_key": key, "parameters": { "user": user } });
    server.post("/v1/jobs/claim", &body.to_string()).ok()
}

/// What is created so far apart is in this order by everybody's clock: an instance knows that of the
/// store to some milliseconds.
const APART: Duration = Duration::from_millis(50);

fn start(server: &Server, name: &str, metadata: &Value) -> String {
    let body = json!({ "saga_name": name, "metadata": metadata, "defer_handlers": true,
        "steps": [{ "name": "pay", "handler": "nobody", "parameters": {} }] });
    let reply = server.post("/v1/sagas", &body.to_string());
    assert_eq!(reply.status, 202, "{}", reply.text());
    reply.json()["saga_id"].as_str().unwrap().to_owned()
}

fn ids(page: &Value, name: &str) -> Vec<String> {
    let items = page["items"].as_array().unwrap();
    items.iter().map(|item| item[name].as_str().unwrap().to_owned()).collect()
}

/// Waits until so many are found.
fn find(server: &Server, path: &str, count: usize) -> Value {
    eventually("it is indexed", || {
        let page = server.get(path).ok();
        (page["items"].as_array().unwrap().len() == count).then_some(page)
    })
}

#[test]
fn what_was_entered_is_found_by_its_words_in_search_and_in_the_lists() {
    let server = server();
    let first = claim(&server, "pay", "order-1", "ann lee")["job_id"].as_str().unwrap().to_owned();
    breathe(APART);
    let second = claim(&server, "refund", "order-2", "ann")["job_id"].as_str().unwrap().to_owned();
    breathe(APART);
    let saga = start(&server, "escrow", &json!({ "user": "ann", "key": "deal-7" }));
    let page = find(&server, "/v1/search?q=ann", 3);
    assert_eq!(ids(&page, "id"), [saga.clone(), second.clone(), first.clone()]);
    let item = &page["items"][0];
    assert_eq!(item["kind"], "saga");
    assert_eq!(item["name"], "escrow");
    assert_eq!(item["key"], "deal-7");
    assert_eq!(item["matched"], json!(["metadata.user"]));
    assert!(item["created_at"].as_str().unwrap().ends_with('Z'), "{item}");
    assert!(page["indexed_until"].as_str().unwrap().ends_with('Z'), "{page}");
    assert_eq!(page["truncated"], false);
    // Page by page.
    let one = server.get("/v1/search?q=ann&page_size=1").ok();
    assert_eq!(ids(&one, "id"), [saga.as_str()]);
    let token = one["next_page_token"].as_str().unwrap();
    let rest = server.get(&format!("/v1/search?q=ann&page_token={token}")).ok();
    assert_eq!(ids(&rest, "id"), [second.clone(), first.clone()]);
    assert_eq!(server.get(&format!("/v1/search?q=bob&page_token={token}")).status, 400);
    assert_eq!(ids(&server.get("/v1/search?q=ann&kind=saga").ok(), "id"), [saga.as_str()]);
    // The lists show what they always show.
    let jobs = server.get("/v1/jobs?q=ann&job_type=pay&status=claimed").ok();
    assert_eq!(ids(&jobs, "job_id"), [first.as_str()]);
    assert_eq!(jobs["items"][0]["parameters"]["user"], "ann lee");
    assert_eq!(ids(&server.get("/v1/sagas?q=esc").ok(), "saga_id"), [saga.as_str()]);
    assert_eq!(ids(&server.get("/v1/sagas?key=deal-7").ok(), "saga_id"), [saga]);
    for wrong in [
        "/v1/search",
        "/v1/search?q=",
        "/v1/search?q=ann&kind=lease",
        "/v1/search?q=ann&page_size=0",
        "/v1/jobs?q=a",
        "/v1/jobs?order=newest",
        "/v1/jobs?q=ann&status=claimed&order=oldest",
        "/v1/sagas?key=k&status=parked&order=newest",
        "/v1/jobs?created_after=yesterday",
    ] {
        assert_eq!(server.get(wrong).status, 400, "{wrong}");
    }
}

#[test]
fn lists_are_filtered_and_ordered_by_time() {
    let server = server();
    let claims: Vec<Value> =
        (0..3).map(|n| claim(&server, "pay", &format!("k{n}"), "ann")).collect();
    let id = |n: usize| claims[n]["job_id"].as_str().unwrap().to_owned();
    let shown = server.get(&format!("/v1/jobs/{}", id(1))).ok();
    let created = shown["created_at"].as_str().unwrap();
    let list = |query: &str| ids(&server.get(&format!("/v1/jobs?{query}")).ok(), "job_id");
    assert_eq!(list(&format!("created_after={created}")), [id(1), id(2)]);
    assert_eq!(list(&format!("created_before={created}")), [id(0)]);
    assert_eq!(list("status=claimed&order=newest"), [id(2), id(1), id(0)]);
    assert_eq!(list("status=claimed&order=oldest&page_size=2"), [id(0), id(1)]);
    let sagas: Vec<String> = (0..2).map(|_| start(&server, "escrow", &Value::Null)).collect();
    let shown = server.get(&format!("/v1/sagas/{}", sagas[1])).ok();
    let created = shown["created_at"].as_str().unwrap();
    let list = |query: &str| ids(&server.get(&format!("/v1/sagas?{query}")).ok(), "saga_id");
    assert_eq!(list(&format!("created_after={created}")), [sagas[1].as_str()]);
    assert_eq!(list(&format!("created_before={created}")), [sagas[0].as_str()]);
}

#[test]
fn many_jobs_are_decided_upon_at_once_and_each_refusal_is_told() {
    let server = server();
    let ids: Vec<String> = (0..5)
        .map(|n| claim(&server, "pay", &format!("k{n}"), "ann"))
        .map(|job| job["job_id"].as_str().unwrap().to_owned())
        .collect();
    claim(&server, "other", "k", "ann");
    let bulk = |body: Value| server.post("/v1/jobs/bulk", &body.to_string());
    let filter = json!({ "job_type": "pay" });
    let dry =
        bulk(json!({ "decision": "cancel", "filter": filter, "reason": "r", "dry_run": true }));
    let dry = dry.ok();
    assert_eq!((&dry["matched"], dry["would_operate"].as_array().unwrap().len()), (&json!(5), 5));
    let job = server.get(&format!("/v1/jobs/{}", ids[0])).ok();
    assert_eq!(job["status"], "claimed", "nothing was done");
    // A retry of what runs is refused, one by one.
    let refused = bulk(json!({ "decision": "retry", "filter": filter, "reason": "r" })).ok();
    assert_eq!(refused["operated"], json!([]));
    let refusals = refused["refused"].as_array().unwrap();
    assert_eq!(refusals.len(), 5);
    assert!(refusals[0]["detail"].as_str().unwrap().contains("claimed"), "{refused}");
    let body = json!({ "decision": "retry", "filter": filter, "reason": "r", "dry_run": true });
    let dry = bulk(body).ok();
    assert_eq!((&dry["would_operate"], &dry["refused"]), (&json!([]), &refused["refused"]));
    let body = json!({ "decision": "cancel", "filter": filter, "reason": "r", "limit": 3 });
    let first = bulk(body).ok();
    assert_eq!(first["operated"].as_array().unwrap().len(), 3);
    assert_eq!(first["operated"][0]["status"], "cancelled");
    let all = server.get("/v1/jobs?status=cancelled").ok();
    assert_eq!(all["items"].as_array().unwrap().len(), 3);
    for wrong in [
        json!({ "decision": "cancel", "reason": "r" }),
        json!({ "decision": "cancel", "filter": filter, "reason": " " }),
        json!({ "decision": "run", "filter": filter, "reason": "r" }),
        json!({ "decision": "cancel", "filter": { "step": "x" }, "reason": "r" }),
        json!({ "decision": "cancel", "filter": filter, "reason": "r", "limit": 0 }),
        json!({ "decision": "cancel", "filter": { "status": "done" }, "reason": "r" }),
    ] {
        assert_eq!(bulk(wrong.clone()).status, 400, "{wrong}");
    }
}

#[test]
fn a_bulk_retry_without_a_status_lets_each_job_run_again_once() {
    let server = server();
    for n in 0..3 {
        let id = claim(&server, "pay", &format!("k{n}"), "ann")["job_id"].clone();
        let path = format!("/v1/jobs/{}/cancel", id.as_str().unwrap());
        server.post(&path, r#"{"reason":"r"}"#).ok();
    }
    let (mut operated, mut token) = (0, Value::Null);
    loop {
        let body = json!({ "decision": "retry", "filter": { "job_type": "pay" }, "reason": "r",
            "limit": 1, "page_token": token });
        let page = server.post("/v1/jobs/bulk", &body.to_string()).ok();
        operated += page["operated"].as_array().unwrap().len();
        token = page["next_page_token"].clone();
        if token.is_null() {
            break;
        }
    }
    assert_eq!(operated, 3);
}

#[test]
fn the_command_line_searches_and_decides_about_many() {
    let server = server();
    for n in 0..3 {
        claim(&server, "pay", &format!("order-{n}"), "ann");
    }
    find(&server, "/v1/search?q=ann", 3);
    let done = |args: &[&str], code: i32| {
        let output = run(&server, args);
        let said = String::from_utf8(output.stdout).unwrap();
        let talk = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}{talk}");
        format!("{said}{talk}")
    };
    let table = done(&["search", "ann", "order"], 0);
    assert_eq!(table.matches("order-").count(), 3, "{table}");
    assert!(done(&["search", "nobody"], 0).contains("nothing matches"));
    let page: Value = serde_json::from_str(&done(&["search", "order-1", "--json"], 0)).unwrap();
    assert_eq!(page["items"][0]["key"], "order-1");
    assert!(done(&["job", "bulk", "cancel", "--reason", "r"], 2).contains("--everything"));
    let dry = ["job", "bulk", "cancel", "--reason", "r", "--type", "pay", "--dry-run"];
    assert_eq!(done(&dry, 0).matches("claimed").count(), 3);
    let cancel = ["job", "bulk", "cancel", "--reason", "r", "--type", "pay", "--yes"];
    assert_eq!(done(&cancel, 0).matches("cancelled").count(), 3);
    assert!(done(&cancel, 0).contains("cancelled"), "said again, nothing changes");
    let retry =
        ["job", "bulk", "retry", "--reason", "r", "--status", "cancelled", "--yes", "--json"];
    let bulk: Value = serde_json::from_str(&done(&retry, 0)).unwrap();
    assert_eq!(bulk["operated"].as_array().unwrap().len(), 3);
}

#[test]
fn search_that_is_off_says_so() {
    let server = Server::start_with(&["--store", "memory:"], &[("LOCKBAY_SEARCH", "false")]);
    let reply = server.get("/v1/search?q=word");
    assert_eq!(reply.status, 422);
    assert!(reply.text().contains("search = true"), "{}", reply.text());
    let saga = start(&server, "escrow", &json!({ "key": "deal-7" }));
    assert_eq!(ids(&server.get("/v1/sagas?key=deal-7").ok(), "saga_id"), [saga]);
}
