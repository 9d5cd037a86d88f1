//! Workers over real sockets: what they are given, what they say, and what becomes of a saga that
//! another process executes on the same store.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod support;

use std::io::Write;
use std::net::TcpStream;

use lockbay::config::Config;
use lockbay::saga::{HandlerCheck, SagaInfo, SagaRequest, SagaStatus, StepSpec};
use lockbay::{Json, LockBay};
use serde_json::{Value, json};
use support::{PATIENCE, Server, eventually};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// A store with an executor in this process and servers in others.
struct Setting {
    runtime: Runtime,
    bay: LockBay,
    servers: Vec<Server>,
    _folder: TempDir,
}

impl Setting {
    fn new(servers: usize) -> Setting {
        let folder = tempfile::tempdir().unwrap();
        let store = format!("sqlite:{}/store.db", folder.path().display());
        let runtime = Runtime::new().unwrap();
        let config = Config { store: store.clone(), ..Config::default() };
        let bay = runtime.block_on(LockBay::open(config)).unwrap();
        runtime.block_on(async { bay.start() });
        let servers = (0..servers).map(|_| Server::start(&["--store", &store])).collect();
        Setting { runtime, bay, servers, _folder: folder }
    }

    fn start(&self, steps: &[&str], check: HandlerCheck) -> String {
        let step = |name: &&str| {
            StepSpec::new(
                *name,
                "pay/out",
                Json::parse(r#"{"amount": 9007199254740993.10}"#).unwrap(),
            )
        };
        let mut request = SagaRequest::new("order", steps.iter().map(step).collect());
        request.context = Json::parse(r#"{"n": 1.50}"#).unwrap();
        request.handlers = check;
        self.runtime.block_on(self.bay.sagas().start(request)).unwrap().saga_id
    }

    fn show(&self, id: &str) -> SagaInfo {
        self.runtime.block_on(self.bay.sagas().show(id)).unwrap()
    }

    fn wait_for(&self, id: &str, status: SagaStatus) -> SagaInfo {
        eventually("the saga is where it should be", || {
            Some(self.show(id)).filter(|saga| saga.status == status)
        })
    }
}

fn poll_body(wait: f64) -> String {
    json!({ "handlers": ["other", "pay/out"], "holder": "w1", "wait_seconds": wait }).to_string()
}

fn poll(server: &Server, wait: f64) -> Vec<Value> {
    let reply = server.post("/v1/tasks/poll", &poll_body(wait)).ok();
    reply["tasks"].as_array().unwrap().clone()
}

fn task(server: &Server) -> Value {
    let mut tasks = poll(server, 20.0);
    assert_eq!(tasks.len(), 1, "{tasks:?}");
    tasks.remove(0)
}

fn path(task: &Value, verb: &str) -> String {
    format!("/v1/tasks/{}/{verb}", task["task_id"].as_str().unwrap())
}

fn complete(server: &Server, task: &Value, result: &str) {
    let body = format!(r#"{{"task_token":{},"result":{result}}}"#, task["task_token"]);
    let ended = server.post(&path(task, "complete"), &body).ok();
    assert_eq!(ended, json!({ "task_id": task["task_id"], "status": "completed" }));
}

#[test]
fn a_saga_of_one_process_is_done_by_workers_that_poll_another() {
    let setting = Setting::new(2);
    let [one, two] = setting.servers.as_slice() else { panic!("two servers") };
    assert!(poll(one, 0.0).is_empty());
    let id = setting.start(&["reserve", "charge"], HandlerCheck::AtStart);
    let reply = one.post("/v1/tasks/poll", &poll_body(20.0));
    let text = reply.text();
    assert!(text.contains(r#""parameters":{"amount": 9007199254740993.10}"#), "{text}");
    assert!(text.contains(r#""context":{"n":1.50}"#), "{text}");
    let reserve = reply.ok()["tasks"][0].clone();
    for (field, value) in [
        ("handler", json!("pay/out")),
        ("action", json!("execute")),
        ("saga_id", json!(id)),
        ("saga_name", json!("order")),
        ("step", json!("reserve")),
        ("original_result", json!(null)),
        ("idempotency_key", json!(format!("{id}/reserve"))),
        ("attempt", json!(1)),
    ] {
        assert_eq!(reserve[field], value, "{field}");
    }
    for field in ["task_token", "fencing_token", "deadline", "claim_expires_at"] {
        assert!(reserve[field].is_string(), "{field} in {reserve}");
    }
    assert!(poll(two, 0.0).is_empty(), "one worker has it");
    let beat = json!({ "task_token": reserve["task_token"] }).to_string();
    assert!(two.post(&path(&reserve, "heartbeat"), &beat).ok()["claim_expires_at"].is_string());
    // Ended through another server than it was given by.
    complete(two, &reserve, r#"{"hold":1.0}"#);
    let charge = task(two);
    assert_eq!(
        (&charge["step"], &charge["context"]["reserve_result"]["hold"]),
        (&json!("charge"), &json!(1.0))
    );
    complete(one, &charge, "7");
    setting.wait_for(&id, SagaStatus::Completed);
}

#[test]
fn a_failure_without_effect_turns_the_saga_and_the_compensation_gets_the_result() {
    let setting = Setting::new(1);
    let server = &setting.servers[0];
    let id = setting.start(&["reserve", "charge"], HandlerCheck::Deferred);
    let reserve = task(server);
    assert_eq!(reserve.get("is_completed"), None, "nothing is to be undone");
    complete(server, &reserve, r#""h1""#);
    let charge = task(server);
    let body = json!({ "task_token": charge["task_token"], "error": "card declined",
        "effect": "none", "retryable": false });
    for _ in 0..2 {
        let ended = server.post(&path(&charge, "fail"), &body.to_string()).ok();
        assert_eq!(ended["status"], "failed", "said twice, it is confirmed");
    }
    let other = json!({ "task_token": charge["task_token"], "result": 1 }).to_string();
    server.post(&path(&charge, "complete"), &other).problem(422, "key-reused");
    let undo = task(server);
    assert_eq!((&undo["action"], &undo["original_result"]), (&json!("compensate"), &json!("h1")));
    assert_eq!(undo["is_completed"], true);
    assert_eq!(undo["undo_key"], format!("{id}/reserve/undo"));
    complete(server, &undo, "null");
    let saga = setting.wait_for(&id, SagaStatus::Compensated);
    assert_eq!(saga.reason.as_deref(), Some("failed: step \"charge\": card declined"));
}

#[test]
fn a_worker_that_was_silent_too_long_is_fenced_and_another_goes_on_under_the_same_key() {
    let setting = Setting::new(1);
    let server = &setting.servers[0];
    let id = setting.start(&["charge"], HandlerCheck::Deferred);
    let short = json!({ "handlers": ["pay/out"], "holder": "w1", "wait_seconds": 20, "max": 5, "lease_seconds": 1 });
    let silent = server.post("/v1/tasks/poll", &short.to_string()).ok()["tasks"][0].clone();
    let again = task(server);
    assert_eq!(again["idempotency_key"], silent["idempotency_key"]);
    assert_eq!(again["attempt"], 2);
    let late = json!({ "task_token": silent["task_token"], "result": 1 }).to_string();
    server.post(&path(&silent, "complete"), &late).problem(409, "fenced");
    let beat = json!({ "task_token": silent["task_token"] }).to_string();
    server.post(&path(&silent, "heartbeat"), &beat).problem(409, "fenced");
    complete(server, &again, "1");
    setting.wait_for(&id, SagaStatus::Completed);
}

#[test]
fn a_worker_that_hung_up_while_it_waited_keeps_nothing_from_the_next() {
    let setting = Setting::new(1);
    let server = &setting.servers[0];
    let body = poll_body(30.0);
    let mut stream = TcpStream::connect(server.address()).unwrap();
    let head = format!(
        "POST /v1/tasks/poll HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    eventually("its handler is known", || {
        let handlers = setting.bay.sagas().handlers(None, 100);
        let (handlers, _) = setting.runtime.block_on(handlers).unwrap();
        handlers.iter().any(|handler| handler.name == "pay/out").then_some(())
    });
    drop(stream);
    let id = setting.start(&["charge"], HandlerCheck::AtStart);
    let given = task(server);
    assert_eq!(given["attempt"], 1, "it was not lost with the first worker");
    complete(server, &given, "1");
    setting.wait_for(&id, SagaStatus::Completed);
}

#[test]
fn a_server_that_is_told_to_end_lets_waiting_workers_go() {
    let mut setting = Setting::new(1);
    let server = setting.servers.remove(0);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| server.post("/v1/tasks/poll", &poll_body(60.0)));
        eventually("its handler is known", || {
            let handlers = setting.bay.sagas().handlers(None, 100);
            let (handlers, _) = setting.runtime.block_on(handlers).unwrap();
            handlers.iter().any(|handler| handler.name == "pay/out").then_some(())
        });
        server.sigterm();
        assert_eq!(waiting.join().unwrap().ok()["tasks"], json!([]));
    });
    let mut server = server;
    assert!(server.wait_exit(PATIENCE).success());
}

#[test]
fn wrong_polls_and_ends_are_clear_problems() {
    let server = Server::start(&["--store", "memory:"]);
    let many = vec!["h"; 65];
    for body in [
        json!({ "holder": "w" }),
        json!({ "handlers": [], "holder": "w" }),
        json!({ "handlers": many, "holder": "w" }),
        json!({ "handlers": [""], "holder": "w" }),
        json!({ "handlers": ["h"] }),
        json!({ "handlers": ["h"], "holder": "" }),
        json!({ "handlers": ["h"], "holder": "w", "max": 0 }),
        json!({ "handlers": ["h"], "holder": "w", "max": 101 }),
        json!({ "handlers": ["h"], "holder": "w", "wait_seconds": 61 }),
        json!({ "handlers": ["h"], "holder": "w", "lease_seconds": 0.5 }),
        json!({ "handlers": ["h"], "holder": "w", "lease_seconds": 3601 }),
        json!({ "handlers": ["h"], "holder": "w", "surprise": 1 }),
    ] {
        server.post("/v1/tasks/poll", &body.to_string()).problem(400, "invalid");
    }
    let nobody = "/v1/tasks/00112233445566778899aabbccddeeff";
    let end = |verb: &str, body: Value| server.post(&format!("{nobody}/{verb}"), &body.to_string());
    end("complete", json!({ "task_token": "1", "result": 1 })).problem(409, "fenced");
    end("fail", json!({ "task_token": "1", "error": "e" })).problem(409, "fenced");
    end("fail", json!({ "task_token": "1", "error": "e", "effect": "some" }))
        .problem(400, "invalid");
    end("complete", json!({ "task_token": "one", "result": 1 })).problem(400, "invalid");
    end("complete", json!({ "task_token": "1" })).problem(400, "invalid");
    let large = format!(r#"{{"task_token":"1","result":"{}"}}"#, "x".repeat(1024 * 1024));
    server.post(&format!("{nobody}/complete"), &large).problem(400, "invalid");
    let wrong_id = server.post("/v1/tasks/x/heartbeat", r#"{"task_token":"1"}"#);
    wrong_id.problem(400, "invalid");
}
