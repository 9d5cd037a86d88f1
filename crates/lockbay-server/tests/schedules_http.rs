//! `/v1/schedules` and `lockbay schedule` against a real server.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod support;

use serde_json::{Value, json};
use support::http::{JSON, Reply};
use support::{Server, eventually, run};

fn served() -> Server {
    let server = Server::start(&["--store", "memory:"]);
    server.wait_until_leading();
    server
}

fn body() -> Value {
    json!({ "job_type": "report", "schedule_expression": "@yearly", "handler": "report" })
}

fn put(server: &Server, name: &str, body: &Value) -> Reply {
    server.put(&format!("/v1/schedules/{name}"), &body.to_string())
}

#[test]
fn an_expression_is_previewed_before_anybody_puts_it() {
    let server = served();
    let preview = |query: &str| server.get(&format!("/v1/schedule-preview?{query}"));
    let found = preview("schedule_expression=0+0+1+1+*&time_zone=Europe/Berlin&count=2").ok();
    let due = found["due"].as_array().unwrap();
    assert_eq!(due.len(), 2);
    // New Year in Berlin is still the old year in UTC.
    assert!(due.iter().all(|at| at.as_str().unwrap().ends_with("-12-31T23:00:00.000000Z")));
    assert_eq!(found["time_zone"], "Europe/Berlin");
    assert_eq!(preview("schedule_expression=every+5m").ok()["due"].as_array().unwrap().len(), 10);
    let wrong = preview("schedule_expression=sometimes").problem(400, "invalid");
    assert!(wrong["detail"].as_str().unwrap().contains("examples are"), "{wrong}");
    preview("schedule_expression=@daily&time_zone=Mars/Base").problem(400, "invalid");
    preview("schedule_expression=@daily&count=0").problem(400, "invalid");
    preview("").problem(400, "invalid");
    assert_eq!(server.get("/v1/schedules").ok()["items"], json!([]), "nothing was put");
}

#[test]
fn a_schedule_is_put_shown_listed_changed_and_deleted() {
    let server = served();
    let mut wish = body();
    wish["parameters"] = json!({ "region": "eu" });
    wish["time_zone"] = json!("Europe/Berlin");
    let created = put(&server, "report", &wish);
    assert_eq!(created.status, 201, "{}", created.text());
    let schedule = created.json();
    assert_eq!(schedule["status"], "active");
    assert_eq!(schedule["misfire"], "run_once");
    assert_eq!(schedule["leader_only"], true);
    assert!(schedule["next_due"].as_str().unwrap().ends_with("-12-31T23:00:00.000000Z"));
    assert_eq!(put(&server, "report", &wish).status, 200, "the same again");
    assert_eq!(server.get("/v1/schedules/report").ok()["parameters"], json!({ "region": "eu" }));
    put(&server, "other", &body());
    let page = server.get("/v1/schedules?page_size=1").ok();
    assert_eq!(page["items"][0]["job_id"], "other");
    let token = page["next_page_token"].as_str().unwrap();
    let page = server.get(&format!("/v1/schedules?page_size=1&page_token={token}")).ok();
    assert_eq!(page["items"][0]["job_id"], "report");
    assert_eq!(server.post("/v1/schedules/report/pause", "").ok()["status"], "paused");
    let paused = server.get("/v1/schedules?status=paused").ok();
    assert_eq!(paused["items"].as_array().unwrap().len(), 1);
    assert_eq!(server.post("/v1/schedules/report/resume", "").ok()["status"], "active");
    let upcoming = server.get("/v1/schedules/report/upcoming?count=3").ok();
    assert_eq!(upcoming["due"].as_array().unwrap().len(), 3);
    assert_eq!(server.delete("/v1/schedules/report").ok()["deleted"], true);
    server.get("/v1/schedules/report").problem(404, "not-found");
    server.delete("/v1/schedules/report").problem(404, "not-found");
    server.post("/v1/schedules/report/run", "").problem(404, "not-found");
}

#[test]
fn a_tick_that_is_asked_for_runs_and_the_same_request_is_the_same_tick() {
    let server = served();
    server.put("/v1/handlers/report", r#"{"pull":true}"#).ok();
    put(&server, "report", &body());
    let key = [JSON, ("Idempotency-Key", "by-hand")];
    let asked = server.send("POST", "/v1/schedules/report/run", &key, b"");
    assert_eq!(asked.status, 202, "{}", asked.text());
    assert_eq!(asked.json()["job_key"], "report@now:by-hand");
    let again = server.send("POST", "/v1/schedules/report/run", &key, b"");
    assert_eq!((again.status, again.header("idempotency-replayed")), (202, Some("true")));
    let poll = r#"{"handlers":["report"],"holder":"w","wait_seconds":20}"#;
    let task = server.post("/v1/tasks/poll", poll).ok()["tasks"][0].clone();
    assert_eq!((&task["action"], &task["step"]), (&json!("execute"), &json!("report")));
    assert_eq!(task["saga_name"], "report");
    assert!(task["scheduled_time"].is_string(), "{task}");
    let done = json!({ "task_token": task["task_token"], "result": {"rows": 7} }).to_string();
    let path = format!("/v1/tasks/{}/complete", task["task_id"].as_str().unwrap());
    server.post(&path, &done).ok();
    let last = eventually("the tick has ended", || {
        let schedule = server.get("/v1/schedules/report").ok();
        (!schedule["last_run"].is_null()).then(|| schedule["last_run"].clone())
    });
    assert_eq!(
        (&last["outcome"], &last["job_key"]),
        (&json!("completed"), &json!("report@now:by-hand"))
    );
    let jobs = server.get("/v1/jobs?job_key=report@now:by-hand").ok();
    assert_eq!(jobs["items"][0]["result"], json!({ "rows": 7 }));
}

#[test]
fn nonsense_is_refused_by_name_and_nothing_is_written() {
    let server = served();
    let long = "*".repeat(10 * 1024);
    for (member, value, word) in [
        ("schedule_expression", json!("61 * * * *"), "61"),
        ("schedule_expression", json!("* * * *"), "4 fields"),
        ("schedule_expression", json!(""), "empty"),
        ("schedule_expression", json!(long), "256"),
        ("schedule_expression", json!("0 0 30 2 *"), "never be due"),
        ("schedule_expression", json!("every 10ms"), "1s to 366d"),
        ("schedule_expression", json!(7), "string"),
        ("time_zone", json!("Mars/Olympus"), "Europe/Berlin"),
        ("jitter_seconds", json!(-1), "negative"),
        ("jitter_seconds", json!(1e12), "jitter"),
        ("misfire", json!("later"), "run_once"),
        ("overlap", json!("later"), "queue"),
        ("max_retries", json!(100_000), "max_retries"),
        ("timeout_seconds", json!(0), "timeout"),
        ("handler", json!(""), "handler"),
        ("surprise", json!(1), "surprise"),
    ] {
        let mut wish = body();
        wish[member] = value;
        let problem = put(&server, "s", &wish).problem(400, "invalid");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(word) && detail.len() < 1_000, "{member}: {detail}");
    }
    put(&server, "a@b", &body()).problem(400, "invalid");
    server.get("/v1/schedules/s/upcoming?count=0").problem(400, "invalid");
    server.get("/v1/schedules?status=odd").problem(400, "invalid");
    assert_eq!(server.get("/v1/schedules").ok()["items"], json!([]));
}

#[test]
fn the_command_line_puts_shows_and_deletes_schedules() {
    let server = served();
    let said = |args: &[&str]| {
        let output = run(&server, args);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let args = ["schedule", "put", "nightly", "30 2 * * *", "--handler", "report"];
    let more = ["--time-zone", "Europe/Berlin", "--misfire", "run-all", "--jitter", "5s"];
    let (code, out, err) = said(&[&args[..], &more[..]].concat());
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("\"nightly\" is active, next due"), "{out}");
    let (_, out, _) = said(&["schedule", "list"]);
    assert!(out.contains("nightly") && out.contains("30 2 * * *"), "{out}");
    let (_, out, _) = said(&["schedule", "pause", "nightly"]);
    assert!(out.contains("paused"), "{out}");
    let (_, out, _) = said(&["schedule", "show", "nightly"]);
    assert!(out.contains("run_all after 60 s") && out.contains("the leader alone"), "{out}");
    let (_, out, _) = said(&["schedule", "resume", "nightly", "--catch-up"]);
    assert!(out.contains("active"), "{out}");
    let (code, out, err) = said(&["schedule", "run", "nightly", "--idempotency-key", "x"]);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("`lockbay job list --key nightly@now:x`"), "{out}");
    let (code, _, err) = said(&["schedule", "put", "bad", "61 * * * *", "--handler", "report"]);
    assert!(code == Some(1) && err.contains("61"), "{err}");
    let (code, out, _) = said(&["schedule", "delete", "nightly", "--yes"]);
    assert!(code == Some(0) && out.contains("deleted"), "{out}");
    // Without a server.
    let (code, out, _) = said(&["schedule", "next", "0 0 29 2 *", "--count", "2"]);
    assert_eq!((code, out.lines().count()), (Some(0), 2), "{out}");
    let (code, _, err) = said(&["schedule", "next", "0 0 30 2 *"]);
    assert!(code == Some(2) && err.contains("never be due"), "{err}");
}
