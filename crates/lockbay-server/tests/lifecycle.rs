//! A server begins with one line or one reason, and ends in time with everything handed over.

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::Duration;

use lockbay::clock::Clock;
use support::{Server, eventually, lockbay};

const FIVE_SECONDS: Duration = Duration::from_secs(5);

struct Shared {
    _directory: tempfile::TempDir,
    store: String,
}

/// A SQLite file for several servers.
fn shared_store() -> Shared {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = format!("sqlite:{}", directory.path().join("data/lockbay.db").display());
    Shared { _directory: directory, store }
}

/// Runs `serve` where it must fail, and gives what it said.
fn refused_start(args: &[&str], environment: &[(&str, &str)]) -> String {
    let mut command = lockbay();
    command.arg("serve").args(args).envs(environment.iter().copied()).stdin(Stdio::null());
    let output = command.output().expect("the binary runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    let said = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(said.trim_end().lines().count(), 1, "one line: {said}");
    said
}

#[test]
fn sigterm_ends_within_five_seconds_and_hands_leadership_over() {
    let shared = shared_store();
    let long = [("REDIS_LEADER_ELECTION_TTL", "60")];
    let mut first = Server::start_with(&["--store", &shared.store], &long);
    first.wait_until_leading();
    let second = Server::start_with(&["--store", &shared.store], &long);
    let clock = Clock::system();
    let asked = clock.tick();
    first.sigterm();
    eventually("the other leads", || second.leader().filter(|leader| leader["is_self"] == true));
    let took = clock.tick().since(asked);
    assert!(took < FIVE_SECONDS, "handed over, not lapsed: {took:?}");
    let status = first.wait_exit(FIVE_SECONDS);
    assert_eq!(status.code(), Some(0), "{}", first.log());
}

#[test]
fn a_killed_leader_is_replaced_when_its_lease_lapses() {
    let shared = shared_store();
    let short = [("REDIS_LEADER_ELECTION_TTL", "1")];
    let mut first = Server::start_with(&["--store", &shared.store], &short);
    first.wait_until_leading();
    let second = Server::start_with(&["--store", &shared.store], &short);
    let before = first.leader().unwrap()["term"].as_u64();
    first.kill9();
    second.wait_until_leading();
    assert!(second.leader().unwrap()["term"].as_u64() > before);
}

#[test]
fn what_was_acknowledged_is_there_after_a_kill() {
    let shared = shared_store();
    let mut server = Server::start(&["--store", &shared.store]);
    let body = r#"{"job_type":"t","job_key":"k","parameters":{}}"#;
    let job = server.post("/v1/jobs/claim", body).ok();
    server.kill9();
    let server = Server::start(&["--store", &shared.store]);
    let problem = server.post("/v1/jobs/claim", body).problem(409, "held");
    assert_eq!(problem["job_id"], job["job_id"]);
    let complete = format!("/v1/jobs/{}/complete", job["job_id"].as_str().unwrap());
    let done = serde_json::json!({ "claim_token": job["claim_token"], "result": 1 });
    server.post(&complete, &done.to_string()).ok();
}

#[test]
fn sigterm_answers_a_claim_that_waits_and_does_not_wait_for_idle_connections() {
    let mut server = Server::start(&["--store", "memory:"]);
    let body = r#"{"job_type":"t","job_key":"k","parameters":{},"on_in_progress":"wait"}"#;
    server.post("/v1/jobs/claim", body).ok();
    let mut idle = TcpStream::connect(server.address()).unwrap();
    idle.write_all(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    assert!(idle.read(&mut [0; 1_024]).unwrap() > 0);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| server.post("/v1/jobs/claim", body));
        eventually("the claim waits", || {
            let metrics = server.get("/api/advanced-state/metrics").ok();
            (metrics["job_idempotency_metrics"]["coordination_conflicts"] != 0).then_some(())
        });
        server.sigterm();
        waiter.join().expect("the waiter ends").problem(504, "unknown-outcome");
    });
    assert_eq!(server.wait_exit(FIVE_SECONDS).code(), Some(0), "{}", server.log());
}

#[test]
fn a_second_signal_ends_at_once() {
    let mut server = Server::start(&["--store", "memory:"]);
    // A request that never ends keeps the first signal busy.
    let mut slow = TcpStream::connect(server.address()).unwrap();
    slow.write_all(
        b"POST /v1/jobs/claim HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
          Content-Length: 100\r\n\r\n{",
    )
    .unwrap();
    server.get("/health/live").ok();
    server.sigterm();
    eventually("the first signal is seen", || server.log().contains("stopping").then_some(()));
    server.sigterm();
    let status = server.wait_exit(Duration::from_millis(1_000));
    assert_eq!(status.code(), Some(130), "{}", server.log());
}

#[test]
fn the_listening_line_tells_address_store_and_instance_without_a_password() {
    let server = Server::start(&["--store", "memory:?namespace=pay"]);
    let log = server.log();
    let line = log.lines().find(|line| line.starts_with("lockbay listening")).unwrap();
    assert!(line.contains(&server.url()), "{line}");
    assert!(line.contains("store=memory:?namespace=pay"), "{line}");
    assert!(line.contains(&server.instance_id()), "{line}");
    assert!(!log.contains('\u{1b}'), "colours in a log that is no terminal: {log}");
}

#[test]
fn what_prevents_a_start_is_one_clear_line() {
    let server = Server::start(&["--store", "memory:"]);
    let taken = server.address().to_string();
    let said = refused_start(&["--store", "memory:", "--listen", &taken], &[]);
    assert!(said.contains(&taken) && said.contains("in use"), "{said}");

    let free = "127.0.0.1:0";
    let said = refused_start(&["--store", "sqlite:/proc/nowhere/x.db", "--listen", free], &[]);
    assert!(said.contains("/proc/nowhere"), "{said}");
    let url = "redis://user:secret@127.0.0.1:1/0";
    let said = refused_start(&["--store", url, "--listen", free], &[]);
    assert!(said.contains("redis://127.0.0.1:1/0") && !said.contains("secret"), "{said}");
    let said = refused_start(&["--listen", "0.0.0.0:0"], &[]);
    assert!(said.contains("--insecure"), "{said}");
    let said = refused_start(&["--listen", "nonsense"], &[]);
    assert!(said.contains("nonsense"), "{said}");
    let said = refused_start(&["--store", "mysql://x", "--listen", free], &[]);
    assert!(said.contains("mysql"), "{said}");
    let said = refused_start(&[], &[("LOCKBAY_MAX_IN_FLIGHT", "many")]);
    assert!(said.contains("LOCKBAY_MAX_IN_FLIGHT"), "{said}");
}

#[test]
fn flags_come_before_the_environment_and_that_before_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("lockbay.toml");
    std::fs::write(&file, "store = \"memory:\"\nservice = \"file\"\ninstance_name = \"file\"\n")
        .unwrap();
    let file = file.to_str().unwrap();
    let environment = [("LOCKBAY_SERVICE", "env"), ("LOCKBAY_INSTANCE_NAME", "env")];
    let server = Server::start_with(&["--config", file, "--instance-name", "flag"], &environment);
    server.wait_until_leading();
    let leader = server.leader().unwrap();
    assert_eq!(leader["service"], "env");
    assert_eq!(leader["instance_name"], "flag");
}
