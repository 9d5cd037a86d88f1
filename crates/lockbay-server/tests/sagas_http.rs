//! Sagas over HTTP: starting, looking, waiting, and deciding about those that need a person.
//!
//! No handler answers here, so a saga whose handlers may come later is parked once its step has
//! waited for them in vain; from there every decision can be tried.

mod support;

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use lockbay::clock::{Clock, Timestamp};
use serde_json::{Value, json};
use support::http::{JSON, Reply};
use support::{Server, eventually};

const WHY: &str = r#"{"reason":"because","actor":"ann"}"#;

fn server() -> Server {
    Server::start(&["--store", "memory:"])
}

/// A saga of one step, whose handler may come later and is waited for as long as `timeout`.
fn waiting(name: &str, timeout: f64) -> String {
    json!({
        "saga_name": name, "defer_handlers": true,
        "steps": [{ "name": "pay out", "handler": "bank", "parameters": { "amount": "10.00" },
                    "timeout_seconds": timeout }],
    })
    .to_string()
}

#[track_caller]
fn accepted(reply: &Reply) -> String {
    assert_eq!(reply.status, 202, "{}", reply.text());
    reply.json()["saga_id"].as_str().expect("an id").to_owned()
}

fn start(server: &Server, body: &str) -> String {
    accepted(&server.post("/v1/sagas", body))
}

fn keyed(server: &Server, key: &str, body: &str) -> Reply {
    let headers = [JSON, ("Idempotency-Key", key)];
    server.send("POST", "/v1/sagas", &headers, body.as_bytes())
}

fn show(server: &Server, id: &str) -> Value {
    server.get(&format!("/v1/sagas/{id}?wait_seconds=10")).ok()
}

/// A saga that waits for a person.
fn parked(server: &Server, name: &str) -> String {
    let id = start(server, &waiting(name, 0.01));
    assert_eq!(show(server, &id)["status"], "parked");
    id
}

fn decide(server: &Server, id: &str, verb: &str, body: &str) -> Reply {
    server.post(&format!("/v1/sagas/{id}/{verb}"), body)
}

fn events(server: &Server, id: &str) -> Vec<String> {
    let history = server.get(&format!("/v1/sagas/{id}/history")).ok();
    let items = history["items"].as_array().expect("items");
    items.iter().map(|item| item["event"].as_str().expect("an event").to_owned()).collect()
}

fn ids(page: &Value) -> Vec<&str> {
    let items = page["items"].as_array().expect("items");
    items.iter().map(|item| item["saga_id"].as_str().expect("an id")).collect()
}

#[test]
fn a_saga_is_accepted_and_shown_with_every_step_and_every_digit() {
    let server = server();
    let body = r#"{"saga_name":"payout","defer_handlers":true,"timeout_seconds":60,
        "context":{"n":9007199254740993},"metadata":{"m":1.50},
        "steps":[
          {"name":"a","handler":"bank","parameters":{"x":123456789012345678901234567890.10}},
          {"name":"b/c","handler":"bank","compensation_handler":"undo","parameters":null,
           "max_retries":7,"compensation_max_retries":9,"timeout_seconds":1.5,"depends_on":["a"],
           "pivot":true,"idempotent":false}]}"#;
    let reply = server.post("/v1/sagas", body);
    let id = accepted(&reply);
    assert_eq!(reply.header("location"), Some(&*format!("/v1/sagas/{id}")));
    assert_eq!(reply.header("idempotency-replayed"), None);
    let reply = server.get(&format!("/v1/sagas/{id}"));
    for digits in ["9007199254740993", "1.50", "123456789012345678901234567890.10"] {
        assert!(reply.text().contains(digits), "{digits} in {}", reply.text());
    }
    let saga = reply.ok();
    assert_eq!(saga["saga_name"], "payout");
    assert_eq!(saga["status"], "running");
    assert!(saga["fencing_token"].is_string() && saga["deadline"].is_string());
    let second = &saga["steps"][1];
    for (member, value) in [
        ("name", json!("b/c")),
        ("status", json!("pending")),
        ("compensation_handler", json!("undo")),
        ("max_retries", json!(7)),
        ("compensation_max_retries", json!(9)),
        ("timeout_seconds", json!(1.5)),
        ("depends_on", json!(["a"])),
        ("pivot", json!(true)),
        ("idempotent", json!(false)),
        ("attempts", json!(0)),
        ("result", json!(null)),
        ("error", json!(null)),
        ("next_retry_at", json!(null)),
    ] {
        assert_eq!(second[member], value, "{member} in {second}");
    }
    let metrics = server.get("/api/advanced-state/metrics").ok();
    assert_eq!(metrics["saga_metrics"]["sagas_started"], 1);
    assert_eq!(metrics["saga_metrics"]["running_sagas"], 1);
}

#[test]
fn the_same_request_with_its_key_gives_the_same_saga_and_another_request_is_refused() {
    let server = server();
    let first = keyed(&server, "k1", &waiting("t", 0.01));
    let id = accepted(&first);
    assert_eq!(first.header("idempotency-replayed"), None);
    show(&server, &id);
    let again = keyed(&server, "k1", &waiting("t", 0.01));
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!((accepted(&again), &again.json()["status"]), (id.clone(), &json!("parked")));
    keyed(&server, "k1", &waiting("other", 0.01)).problem(422, "key-reused");
    assert_ne!(accepted(&keyed(&server, "k2", &waiting("t", 0.01))), id);
    assert_ne!(start(&server, &waiting("t", 0.01)), id);
}

#[test]
fn a_request_is_replayed_after_its_deadline_has_passed_and_its_handler_has_gone() {
    let server = server();
    server.put("/v1/handlers/bank", r#"{"pull":true}"#).ok();
    let clock = Clock::system();
    let deadline = clock.now() + Duration::from_secs(4);
    let body = json!({ "saga_name": "t", "deadline": deadline,
        "steps": [{ "name": "s", "handler": "bank", "parameters": {} }] });
    let id = accepted(&keyed(&server, "k", &body.to_string()));
    let shown: Timestamp = show(&server, &id)["deadline"].as_str().unwrap().parse().unwrap();
    assert_eq!(shown, deadline);
    server.delete("/v1/handlers/bank").ok();
    eventually("the deadline has passed", || (clock.now() > deadline).then_some(()));
    assert_eq!(accepted(&keyed(&server, "k", &body.to_string())), id);
    keyed(&server, "new", &body.to_string()).problem(400, "invalid");
}

#[test]
fn a_definition_that_cannot_be_is_refused_and_writes_nothing() {
    let server = server();
    let step = |name: &str, more: &str| {
        format!(r#"{{"name":"{name}","handler":"h","parameters":{{}}{more}}}"#)
    };
    let saga = |steps: &[String], more: &str| {
        let steps = steps.join(",");
        format!(r#"{{"saga_name":"t","defer_handlers":true,"steps":[{steps}]{more}}}"#)
    };
    let many: Vec<String> = (0..10_000).map(|n| step(&format!("s{n}"), "")).collect();
    let one = || [step("a", "")];
    let past = r#","deadline":"2020-01-01T00:00:00Z""#;
    let both = r#","deadline":"2999-01-01T00:00:00Z","timeout_seconds":5"#;
    let with = |more: &str| saga(&[step("a", more)], "");
    let cases = [
        ("1000 steps, not 10000", saga(&many, "")),
        ("1 to 1000 steps, not 0", saga(&[], "")),
        ("two steps have the name", saga(&[step("a", ""), step("a", "")], "")),
        (
            "circle",
            saga(&[step("a", r#","depends_on":["b"]"#), step("b", r#","depends_on":["a"]"#)], ""),
        ),
        ("there is no such step", with(r#","depends_on":["z"]"#)),
        ("circle", with(r#","depends_on":["a"]"#)),
        (
            "longer than the whole saga",
            saga(&[step("a", r#","timeout_seconds":9"#)], r#","timeout_seconds":5"#),
        ),
        ("has passed", saga(&one(), past)),
        ("not both", saga(&one(), both)),
        ("RFC 3339", saga(&one(), r#","deadline":"tomorrow""#)),
        ("negative", with(r#","timeout_seconds":-1"#)),
        ("1 ms", with(r#","timeout_seconds":0"#)),
        ("ten years", saga(&one(), r#","timeout_seconds":1e12"#)),
        ("1e300", saga(&one(), r#","timeout_seconds":1e300"#)),
        ("invalid value", with(r#","max_retries":-1"#)),
        ("at most 1000 retries", with(r#","max_retries":4000000000"#)),
        ("at most 1000 retries", with(r#","compensation_max_retries":1001"#)),
        ("surprise", with(r#","surprise":1"#)),
        ("surprise", saga(&one(), r#","surprise":1"#)),
        ("JSON object", saga(&one(), r#","context":[1]"#)),
        (
            "missing field `parameters`",
            r#"{"saga_name":"t","steps":[{"name":"a","handler":"h"}]}"#.into(),
        ),
        ("missing field `steps`", r#"{"saga_name":"t"}"#.into()),
        ("step name", saga(&[step("", "")], "")),
        (
            "nobody is known to handle \"h\"",
            saga(&one(), "").replace(r#""defer_handlers":true"#, r#""defer_handlers":false"#),
        ),
    ];
    for (part, body) in &cases {
        let shown: String = body.chars().take(160).collect();
        let problem = server.post("/v1/sagas", body).problem(400, "invalid");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(part), "{part:?} in {detail:?} of {shown}");
    }
    let large = format!(r#"{{"saga_name":"{}"}}"#, "x".repeat(2 * 1024 * 1024));
    server.post("/v1/sagas", &large).problem(413, "invalid");
    server.post("/v1/sagas?x=1", &saga(&one(), "")).problem(400, "invalid");
    assert_eq!(ids(&server.get("/v1/sagas").ok()).len(), 0);
}

/// The check of the way around every pivot takes no time that a caller can drive up.
#[test]
fn hundreds_of_pivots_that_depend_on_all_before_them_are_checked_at_once() {
    let server = server();
    let steps: Vec<Value> = (0..500)
        .map(|n| {
            let before: Vec<String> = (0..n).map(|n| format!("{n}")).collect();
            json!({ "name": format!("{n}"), "handler": "h", "parameters": 0, "pivot": true,
                "depends_on": before })
        })
        .collect();
    let body = json!({ "saga_name": "t", "defer_handlers": true, "steps": steps });
    let clock = Clock::system();
    let began = clock.tick();
    start(&server, &body.to_string());
    let took = clock.tick().since(began);
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn a_saga_whose_handler_does_not_come_is_parked_and_goes_on_by_every_decision() {
    let server = server();
    let text = |reply: &Reply| reply.problem(422, "invalid")["detail"].as_str().unwrap().to_owned();
    let step = "steps/pay%20out";

    let retried = parked(&server, "t");
    let saga = show(&server, &retried);
    assert_eq!(saga["steps"][0]["status"], "parked");
    assert!(saga["reason"].as_str().unwrap().contains("nobody is known to handle"), "{saga}");
    let body = r#"{"reason":"a typo","actor":"ann","parameters":{"n":9007199254740993}}"#;
    let reply = decide(&server, &retried, &format!("{step}/retry"), body);
    assert_eq!(reply.ok(), json!({ "saga_id": retried, "status": "running" }));
    assert_eq!(show(&server, &retried)["status"], "parked");
    let shown = server.get(&format!("/v1/sagas/{retried}")).text();
    assert!(shown.contains(r#""parameters":{"n":9007199254740993}"#), "{shown}");
    assert_eq!(decide(&server, &retried, "resume", WHY).ok()["status"], "running");
    assert_eq!(show(&server, &retried)["status"], "parked");
    assert_eq!(
        events(&server, &retried),
        ["parked", "step_retried", "parked", "resumed", "parked"]
    );

    let skipped = parked(&server, "t");
    decide(&server, &skipped, &format!("{step}/skip"), WHY).ok();
    let saga = show(&server, &skipped);
    assert_eq!(
        (&saga["status"], &saga["steps"][0]["status"]),
        (&json!("completed"), &json!("skipped"))
    );

    let done = parked(&server, "t");
    let body = r#"{"reason":"seen at the bank","outcome":"done","result":{"x":1.50}}"#;
    decide(&server, &done, &format!("{step}/resolve"), body).ok();
    assert_eq!(show(&server, &done)["status"], "completed");
    let history = server.get(&format!("/v1/sagas/{done}/history"));
    assert!(history.text().contains(r#""result":{"x":1.50}"#), "{}", history.text());
    let last = &history.ok()["items"][1];
    assert_eq!((&last["event"], &last["actor"]), (&json!("step_resolved_done"), &json!("http")));

    let undone = parked(&server, "t");
    let body = r#"{"reason":"not at the bank","outcome":"undone"}"#;
    decide(&server, &undone, &format!("{step}/resolve"), body).ok();
    assert_eq!(show(&server, &undone)["status"], "compensated");

    let cancelled = parked(&server, "t");
    decide(&server, &cancelled, "cancel", WHY).ok();
    let saga = show(&server, &cancelled);
    assert_eq!(saga["status"], "compensated");
    assert_eq!(saga["reason"], "cancelled by ann: because");

    let abandoned = parked(&server, "t");
    assert_eq!(decide(&server, &abandoned, "abandon", WHY).ok()["status"], "abandoned");
    for (verb, body) in [("cancel", WHY), ("resume", WHY), ("abandon", WHY)] {
        assert!(text(&decide(&server, &abandoned, verb, body)).contains("ended"));
    }
    let metrics = server.get("/api/advanced-state/metrics").ok()["saga_metrics"].clone();
    assert_eq!(metrics["sagas_started"], 6);
    assert_eq!(metrics["sagas_parked"], 8);
    assert_eq!(metrics["sagas_abandoned"], 1);
    assert_eq!(metrics["sagas_completed"], 2);
    assert_eq!(metrics["sagas_compensated"], 2);
    eventually("nothing runs", || {
        let metrics = server.get("/api/advanced-state/metrics").ok();
        (metrics["saga_metrics"]["running_sagas"] == 0).then_some(())
    });
}

#[test]
fn a_decision_that_does_not_fit_is_refused_and_says_what_the_saga_is() {
    let server = server();
    let id = start(&server, &waiting("t", 60.0));
    for verb in ["resume", "steps/pay%20out/retry", "steps/pay%20out/skip"] {
        let detail = decide(&server, &id, verb, WHY).problem(422, "invalid")["detail"].clone();
        let detail = detail.as_str().unwrap();
        assert!(detail.contains("parked") || detail.contains("stuck"), "{verb}: {detail}");
    }
    let resolve = |body: &str| decide(&server, &id, "steps/pay%20out/resolve", body);
    resolve(r#"{"reason":"x","outcome":"done"}"#).problem(422, "invalid");
    for body in [
        r#"{"reason":"x"}"#,
        r#"{"reason":"x","outcome":"maybe"}"#,
        r#"{"reason":"x","outcome":"undone","result":1}"#,
        r#"{"outcome":"done"}"#,
    ] {
        resolve(body).problem(400, "invalid");
    }
    let verbs = ["cancel", "resume", "abandon", "steps/s/retry", "steps/s/skip"];
    for verb in verbs {
        for body in [
            "",
            "{}",
            r#"{"reason":" "}"#,
            r#"{"reason":"a\nb"}"#,
            r#"{"reason":"x","y":1}"#,
            r#"{"reason":"x","actor":""}"#,
            r#"{"reason":"x","actor":"a\u0000"}"#,
        ] {
            decide(&server, &id, verb, body).problem(400, "invalid");
        }
        decide(&server, "nope", verb, WHY).problem(404, "not-found");
    }
    for verb in ["steps/nope/retry", "steps/%2F/skip"] {
        decide(&server, &id, verb, WHY).problem(404, "not-found");
    }
    for path in ["steps/%ff/skip", "steps/%00%ff/retry"] {
        decide(&server, &id, path, WHY).problem(400, "invalid");
    }
    assert_eq!(show_now(&server, &id)["status"], "running");
    decide(&server, &id, "cancel", WHY).ok();
    assert_eq!(show(&server, &id)["status"], "compensated");
}

fn show_now(server: &Server, id: &str) -> Value {
    server.get(&format!("/v1/sagas/{id}")).ok()
}

#[test]
fn a_call_waits_for_the_end_for_as_long_as_it_says_and_no_longer_than_the_server_lives() {
    let mut server = server();
    let id = start(&server, &waiting("t", 300.0));
    let soon = server.get(&format!("/v1/sagas/{id}?wait_seconds=0.05")).ok();
    assert_eq!(soon["status"], "running");
    for wait in ["61", "-1", "NaN", "inf", "x", "", "1&wait_seconds=2"] {
        server.get(&format!("/v1/sagas/{id}?wait_seconds={wait}")).problem(400, "invalid");
    }
    server.get("/v1/sagas/nope?wait_seconds=5").problem(404, "not-found");
    std::thread::scope(|scope| {
        let early = scope.spawn(|| show_waiting(&server, &id));
        decide(&server, &id, "cancel", WHY).ok();
        assert_eq!(early.join().unwrap()["status"], "compensated");
    });
    let id = start(&server, &waiting("t", 300.0));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| show_waiting(&server, &id));
        eventually("it waits", || {
            let metrics = server.get("/api/advanced-state/metrics").ok();
            (metrics["system_metrics"]["requests_in_flight"] == 2).then_some(())
        });
        server.sigterm();
        assert_eq!(waiting.join().unwrap()["status"], "running");
    });
    server.wait_exit(Duration::from_secs(8));
}

fn show_waiting(server: &Server, id: &str) -> Value {
    server.get(&format!("/v1/sagas/{id}?wait_seconds=60")).ok()
}

#[test]
fn those_who_wait_do_not_keep_out_those_who_would_end_the_wait() {
    let server = Server::start_with(&["--store", "memory:"], &[("LOCKBAY_MAX_IN_FLIGHT", "2")]);
    let id = start(&server, &waiting("t", 300.0));
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            // The one place may just be taken by a look at whether it is.
            eventually("the waiter gets a place", || {
                let reply = server.get(&format!("/v1/sagas/{id}?wait_seconds=60"));
                (reply.status != 429).then(|| reply.ok())
            })
        });
        let busy = eventually("as many wait as may", || {
            let reply = server.get(&format!("/v1/sagas/{id}?wait_seconds=0.001"));
            (reply.status == 429).then_some(reply)
        });
        busy.problem(429, "busy");
        decide(&server, &id, "cancel", WHY).ok();
        assert_eq!(waiter.join().unwrap()["status"], "compensated");
    });
}

#[test]
fn sagas_are_listed_by_status_name_step_and_age_page_by_page() {
    let server = server();
    let first = parked(&server, "a");
    let second = parked(&server, "a");
    let third = parked(&server, "b");
    let running = start(&server, &waiting("b", 60.0));
    let list = |query: &str| server.get(&format!("/v1/sagas?{query}")).ok();
    assert_eq!(ids(&list("")).len(), 4);
    let runs = || (ids(&list("status=running")) == [running.as_str()]).then_some(());
    support::eventually("the fourth runs", runs);
    assert_eq!(ids(&list("status=parked&saga_name=b")), [&third]);
    assert_eq!(ids(&list("step=pay%20out")).len(), 4);
    assert_eq!(ids(&list("step=other")).len(), 0);
    assert_eq!(ids(&list("older_than_seconds=3600")).len(), 0);
    assert_eq!(ids(&list("older_than_seconds=0")).len(), 4);
    let mut seen = Vec::new();
    let mut token = String::new();
    loop {
        let page = list(&format!("status=parked&page_size=1{token}"));
        seen.extend(ids(&page).iter().map(ToString::to_string));
        match page["next_page_token"].as_str() {
            Some(next) => token = format!("&page_token={next}"),
            None => break,
        }
    }
    assert_eq!(seen, [&*first, &second, &third]);
    for query in [
        "status=lost",
        "surprise=1",
        "page_size=0",
        "page_size=1001",
        "page_token=zz",
        "older_than_seconds=-1",
        "older_than_seconds=old",
        "step=%ff",
        &token[1..],
    ] {
        server.get(&format!("/v1/sagas?{query}")).problem(400, "invalid");
    }
}

#[test]
fn an_ended_saga_is_as_old_as_its_start() {
    let server = server();
    let id = parked(&server, "t");
    decide(&server, &id, "abandon", WHY).ok();
    eventually("it is old enough", || {
        let list = server.get("/v1/sagas?status=abandoned&older_than_seconds=0.8").ok();
        (ids(&list) == [&*id]).then_some(())
    });
}

#[test]
fn a_history_is_read_page_by_page() {
    let server = server();
    let id = parked(&server, "t");
    decide(&server, &id, "resume", WHY).ok();
    show(&server, &id);
    let page = |query: &str| server.get(&format!("/v1/sagas/{id}/history?{query}"));
    let first = page("page_size=2").ok();
    assert_eq!(first["items"][0]["number"], 1);
    assert_eq!(first["items"][1]["event"], "resumed");
    assert_eq!(first["items"][1]["actor"], "ann");
    assert_eq!(first["items"][1]["reason"], "because");
    let token = first["next_page_token"].as_str().unwrap();
    let rest = page(&format!("page_size=2&page_token={token}")).ok();
    assert_eq!(rest["items"].as_array().unwrap().len(), 1);
    assert_eq!(rest["next_page_token"], json!(null));
    page("page_size=0").problem(400, "invalid");
    page("x=1").problem(400, "invalid");
    server.get(&format!("/v1/sagas/other/history?page_token={token}")).problem(400, "invalid");
    server.get("/v1/sagas/nope/history").problem(404, "not-found");
}

#[test]
fn many_sagas_are_decided_upon_at_once_and_a_dry_run_decides_nothing() {
    let server = server();
    let ours = [parked(&server, "ours"), parked(&server, "ours"), parked(&server, "ours")];
    let theirs = parked(&server, "theirs");
    let bulk = |body: Value| server.post("/v1/sagas/bulk", &body.to_string());
    let filter = json!({ "status": "parked", "saga_name": "ours" });
    let dry =
        bulk(json!({ "decision": "abandon", "filter": filter, "reason": "x", "dry_run": true }))
            .ok();
    assert_eq!(dry["matched"], 3);
    assert_eq!(dry["would_operate"].as_array().unwrap().len(), 3);
    assert_eq!((&dry["operated"], &dry["refused"]), (&json!([]), &json!([])));
    assert_eq!(show_now(&server, &ours[0])["status"], "parked");

    let part =
        bulk(json!({ "decision": "abandon", "filter": filter, "reason": "x", "limit": 2 })).ok();
    assert_eq!(part["matched"], 2);
    assert_eq!(part["operated"][0], json!({ "saga_id": ours[0], "status": "abandoned" }));
    let rest = bulk(json!({ "decision": "abandon", "filter": filter, "reason": "x", "limit": 2,
        "page_token": part["next_page_token"] }))
    .ok();
    assert_eq!(rest["operated"][0]["saga_id"], ours[2]);
    assert_eq!(rest["next_page_token"], json!(null));

    let step = json!({ "decision": "skip", "step": "pay out", "filter": { "step": "pay out" },
        "reason": "x", "actor": "ann" });
    assert_eq!(bulk(step).ok()["operated"][0]["saga_id"], theirs);
    assert_eq!(show(&server, &theirs)["status"], "completed");
    let all = bulk(json!({ "decision": "cancel", "all": true, "reason": "x" })).ok();
    assert_eq!(all["matched"], 4);
    assert_eq!(all["refused"].as_array().unwrap().len(), 4);
    assert!(all["refused"][0]["detail"].as_str().unwrap().contains("ended"), "{all}");
}

#[test]
fn a_decision_about_many_says_what_it_is_about() {
    let server = server();
    let id = parked(&server, "t");
    for body in [
        json!({ "decision": "cancel", "reason": "x" }),
        json!({ "decision": "cancel", "filter": {}, "reason": "x" }),
        json!({ "decision": "resolve", "filter": { "step": "s" }, "reason": "x" }),
        json!({ "decision": "retry", "filter": { "step": "s" }, "reason": "x" }),
        json!({ "decision": "cancel", "step": "s", "filter": { "step": "s" }, "reason": "x" }),
        json!({ "decision": "cancel", "filter": { "status": "lost" }, "reason": "x" }),
        json!({ "decision": "cancel", "filter": { "surprise": 1 }, "reason": "x" }),
        json!({ "decision": "cancel", "filter": { "older_than_seconds": -1 }, "reason": "x" }),
        json!({ "decision": "cancel", "all": true }),
        json!({ "decision": "cancel", "all": true, "reason": "" }),
        json!({ "decision": "cancel", "all": true, "reason": "x", "actor": "" }),
        json!({ "decision": "cancel", "all": true, "reason": "x", "limit": 0 }),
        json!({ "decision": "cancel", "all": true, "reason": "x", "limit": 1001 }),
        json!({ "decision": "cancel", "all": true, "reason": "x", "page_token": "zz" }),
    ] {
        let reply = server.post("/v1/sagas/bulk", &body.to_string());
        assert_eq!(reply.status, 400, "{body}: {}", reply.text());
        reply.problem(400, "invalid");
    }
    assert_eq!(show_now(&server, &id)["status"], "parked");
}

#[test]
fn a_client_that_goes_away_leaves_no_saga_behind_that_nobody_executes() {
    let server = server();
    let body = waiting("t", 0.01);
    let knock = || {
        let mut client = TcpStream::connect(server.address()).unwrap();
        let head =
            "POST /v1/sagas HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
        write!(client, "{head}Content-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    };
    (0..20).for_each(|_| knock());
    let list = |query: &str| ids(&server.get(&format!("/v1/sagas{query}")).ok()).len();
    eventually("all that were accepted have come to rest", || {
        let all = list("");
        if all == 0 {
            knock(); // all before may have gone before they were heard
        }
        (all > 0 && list("?status=parked") == all).then_some(())
    });
}

#[test]
fn handlers_are_put_listed_and_deleted_and_their_secrets_never_shown() {
    let server = server();
    let bank = "/v1/handlers/bank%2Fpay";
    let put = server
        .put(bank, r#"{"url":"https://bank.example/pay","secret":"hush","timeout_seconds":2.5}"#);
    let shown = json!({ "name": "bank/pay", "kind": "push", "url": "https://bank.example/pay",
        "signed": true, "timeout_seconds": 2.5 });
    assert_eq!(put.ok(), shown);
    assert_eq!(server.put("/v1/handlers/worker", r#"{"pull":true}"#).ok()["kind"], "pull");
    let list = server.get("/v1/handlers");
    let (mut all, mut token) = (Vec::new(), String::new());
    loop {
        let page = server.get(&format!("/v1/handlers?page_size=2{token}")).ok();
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= 2, "{page}");
        all.extend(items.iter().cloned());
        let Some(next) = page["next_page_token"].as_str() else { break };
        token = format!("&page_token={next}");
    }
    assert_eq!(list.ok()["items"], json!(all), "page by page");
    let ours: Vec<Value> = all.into_iter().filter(|handler| handler["kind"] != "local").collect();
    let worker = json!({ "name": "worker", "kind": "pull", "signed": false });
    assert_eq!(json!(ours), json!([shown, worker]));
    assert!(!list.text().contains("hush") && !put.text().contains("hush"));
    assert!(!server.log().contains("hush"));
    let metrics = server.get("/api/advanced-state/metrics").ok();
    assert_eq!(metrics["saga_metrics"]["registered_handlers"], 11);

    assert_eq!(server.delete(bank).ok(), json!({ "name": "bank/pay", "deleted": true }));
    server.delete(bank).problem(404, "not-found");
    for body in [
        "{}",
        r#"{"pull":false}"#,
        r#"{"pull":true,"url":"https://x.example"}"#,
        r#"{"pull":true,"secret":"x"}"#,
        r#"{"url":""}"#,
        r#"{"url":"bank"}"#,
        r#"{"url":"ftp://bank.example"}"#,
        r#"{"url":"/pay"}"#,
        r#"{"url":"https://user:pass@bank.example"}"#,
        r#"{"url":"https://bank.example/\u0000"}"#,
        r#"{"url":"https://bank.example","secret":""}"#,
        r#"{"url":"https://bank.example","timeout_seconds":0}"#,
        r#"{"url":"https://bank.example","timeout_seconds":1e15}"#,
        r#"{"url":"https://bank.example","surprise":1}"#,
    ] {
        let reply = server.put(bank, body);
        assert_eq!(reply.status, 400, "{body}: {}", reply.text());
    }
    server
        .put(&format!("/v1/handlers/{}", "x".repeat(129)), r#"{"pull":true}"#)
        .problem(400, "invalid");
    server.get("/v1/handlers?page_token=zz").problem(400, "invalid");
}

#[test]
fn parked_sagas_are_a_warning_of_health_and_no_issue() {
    let server = server();
    parked(&server, "t");
    let health = eventually("health has looked again", || {
        let health = server.get("/api/advanced-state/health").ok();
        (health["warnings"] != json!([])).then_some(health)
    });
    assert_eq!(health["saga_coordination_healthy"], true);
    assert_eq!(health["overall_healthy"], true);
    let warning = health["warnings"][0].as_str().unwrap();
    assert!(warning.contains("sagas: 1 parked, see `lockbay saga list"), "{warning}");
}
