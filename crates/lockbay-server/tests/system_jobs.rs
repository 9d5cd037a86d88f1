//! Jobs over several server processes: many callers, and processes that die.
//!
//! The effects of jobs are counted here, outside the system under test: a caller that was given a
//! claim adds a line to a file of the test's own.

#![allow(clippy::unwrap_used)] // a test fails by panicking

#[path = "../../lockbay/tests/support/mod.rs"]
mod stores;
mod support;

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use stores::redis::RedisServer;
use support::caller::Caller;
use support::{Server, eventually, lockbay};

/// A build with optimizations has some hundred thousand requests done in a minute, one without in
/// four.
const KEYS: usize = if cfg!(debug_assertions) { 2_000 } else { 10_000 };
const CALLERS: usize = 64;

fn servers(store: &str, count: usize, environment: &[(&str, &str)]) -> Vec<Server> {
    (0..count).map(|_| Server::start_with(&["--store", store], environment)).collect()
}

fn claim(key: &str) -> String {
    let parameters = json!({"user_id": 12_345, "amount": 1_000.0, "currency": "USD"});
    json!({"job_type": "payment", "job_key": key, "parameters": parameters}).to_string()
}

/// A test's record of what was done, outside the system.
struct Effects(Mutex<File>);

impl Effects {
    fn at(path: &Path) -> Self {
        Effects(Mutex::new(File::create(path).unwrap()))
    }

    fn add(&self, key: &str) {
        writeln!(self.0.lock().unwrap(), "{key}").unwrap();
    }

    /// How often each key had its effect.
    fn count(path: &Path) -> HashMap<String, usize> {
        let mut counts = HashMap::new();
        for line in std::fs::read_to_string(path).unwrap().lines() {
            *counts.entry(line.to_owned()).or_default() += 1;
        }
        counts
    }
}

/// Every caller wants every key, all in the same order, so that they meet at each.
fn every_key_is_executed_once(store: &str) {
    let servers = servers(store, 4, &[]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("effects");
    let effects = Effects::at(&path);
    let results: Vec<Mutex<Option<Value>>> = (0..KEYS).map(|_| Mutex::default()).collect();
    let (replayed, in_progress) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for number in 0..CALLERS {
            let address = servers[number % servers.len()].address();
            let (effects, results) = (&effects, &results);
            let (replayed, in_progress) = (&replayed, &in_progress);
            scope.spawn(move || {
                let mut caller = Caller::new(address);
                for (n, expected) in results.iter().enumerate() {
                    let key = format!("key-{n}");
                    let (status, answer) = caller.post("/v1/jobs/claim", &claim(&key)).unwrap();
                    match (status, answer["outcome"].as_str()) {
                        (200, Some("claimed")) => {
                            effects.add(&key);
                            let result = json!({"transaction": format!("{number}-{n}")});
                            finish(&mut caller, &answer, &result);
                            same(expected, &result, &key);
                        }
                        (200, Some("replayed")) => {
                            assert_eq!(answer["status"], "completed", "{answer}");
                            same(expected, &answer["result"], &key);
                            replayed.fetch_add(1, Ordering::Relaxed);
                        }
                        (409, _) => {
                            assert_eq!(answer["type"], "/problems/held", "{answer}");
                            assert!(answer["retry_after_ms"].as_u64().unwrap() > 0, "{answer}");
                            in_progress.fetch_add(1, Ordering::Relaxed);
                        }
                        _ => panic!("{key}: {status} {answer}"),
                    }
                }
            });
        }
    });
    let counts = Effects::count(&path);
    let twice: Vec<_> = counts.iter().filter(|(_, count)| **count != 1).collect();
    assert!(twice.is_empty(), "executed more than once: {twice:?}");
    assert_eq!(counts.len(), KEYS, "every key was executed");
    let answers = replayed.into_inner() + in_progress.into_inner() + KEYS;
    assert_eq!(answers, KEYS * CALLERS, "every caller got an answer for every key");
}

fn finish(caller: &mut Caller, claimed: &Value, result: &Value) {
    let job = claimed["job_id"].as_str().unwrap();
    let body = json!({"claim_token": claimed["claim_token"], "result": result}).to_string();
    let (status, answer) = caller.post(&format!("/v1/jobs/{job}/complete"), &body).unwrap();
    assert_eq!(status, 200, "{answer}");
}

/// Everybody who learns a result of a key learns the same.
fn same(known: &Mutex<Option<Value>>, result: &Value, key: &str) {
    let mut known = known.lock().unwrap();
    let known = known.get_or_insert_with(|| result.clone());
    assert_eq!(known, result, "{key}");
}

#[test]
fn every_key_times_64_callers_over_four_servers_on_redis_runs_once() {
    let redis = RedisServer::start();
    every_key_is_executed_once(&redis.url());
}

#[test]
fn every_key_times_64_callers_over_four_servers_on_sqlite_runs_once() {
    let dir = tempfile::tempdir().unwrap();
    every_key_is_executed_once(&format!("sqlite:{}", dir.path().join("jobs.db").display()));
}

#[test]
fn a_job_whose_holder_was_killed_is_taken_over_and_its_late_completion_is_fenced() {
    let redis = RedisServer::start();
    let dir = tempfile::tempdir().unwrap();
    let sqlite = format!("sqlite:{}", dir.path().join("jobs.db").display());
    for store in [redis.url(), sqlite] {
        let mut servers = servers(&store, 2, &[]);
        let claim_for = |seconds: u64| {
            let mut claim: Value = serde_json::from_str(&claim("k")).unwrap();
            claim["claim_ttl_seconds"] = seconds.into();
            claim
        };
        let first = servers[0].post("/v1/jobs/claim", &claim_for(3).to_string()).ok();
        servers[0].kill9();
        let survivor = &servers[1];
        survivor.post("/v1/jobs/claim", &claim("k")).problem(409, "held");
        let mut wait = claim_for(60);
        wait["on_in_progress"] = "wait".into();
        wait["wait_seconds"] = 10.into();
        let second = survivor.post("/v1/jobs/claim", &wait.to_string()).ok();
        assert_eq!((&second["outcome"], &second["attempt"]), (&json!("claimed"), &json!(2)));
        assert_eq!(second["idempotency_token"], first["idempotency_token"]);
        let complete = |claimed: &Value, result: u64| {
            let job = claimed["job_id"].as_str().unwrap();
            let body = json!({"claim_token": claimed["claim_token"], "result": result});
            survivor.post(&format!("/v1/jobs/{job}/complete"), &body.to_string())
        };
        complete(&first, 1).problem(409, "fenced");
        complete(&second, 2).ok();
        complete(&first, 1).problem(409, "fenced");
        assert_eq!(survivor.post("/v1/jobs/claim", &claim("k")).ok()["result"], 2);
    }
}

#[test]
fn nothing_acknowledged_is_lost_when_redis_is_killed_and_every_client_goes_on_by_itself() {
    let mut redis = RedisServer::start();
    let servers = servers(&redis.url(), 2, &[("REDIS_JOB_CLAIM_TTL", "2")]);
    let acknowledged = Mutex::new(HashMap::new());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for number in 0..8 {
            let address = servers[number % 2].address();
            let (acknowledged, stop) = (&acknowledged, &stop);
            scope.spawn(move || {
                let mut caller = Caller::new(address);
                let mut n = 0;
                while !stop.load(Ordering::Relaxed) {
                    let key = format!("{number}-{n}");
                    n += 1;
                    if let Some(result) = work_through_an_outage(&mut caller, &key) {
                        acknowledged.lock().unwrap().insert(key, result);
                    }
                }
            });
        }
        for _ in 0..5 {
            let before = acknowledged.lock().unwrap().len();
            eventually("work goes on by itself", || {
                (acknowledged.lock().unwrap().len() > before + 50).then_some(())
            });
            redis.kill9();
            redis.restart();
        }
        let before = acknowledged.lock().unwrap().len();
        eventually("work goes on by itself", || {
            (acknowledged.lock().unwrap().len() > before + 50).then_some(())
        });
        stop.store(true, Ordering::Relaxed);
    });
    let acknowledged = acknowledged.into_inner().unwrap();
    // A server that never saw these jobs knows nothing but the store.
    let witness = Server::start(&["--store", &redis.url()]);
    let mut caller = Caller::new(witness.address());
    for (key, result) in &acknowledged {
        let (_, answer) = caller.post("/v1/jobs/claim", &claim(key)).unwrap();
        assert_eq!(answer["outcome"], "replayed", "{key} was acknowledged and is lost: {answer}");
        assert_eq!(&answer["result"], result, "{key}");
    }
    for server in &servers {
        eventually("the server is healthy", || {
            let health = server.get("/api/advanced-state/health");
            (health.status == 200).then_some(())
        });
    }
}

/// Claims and completes a job; its result if that was acknowledged.
fn work_through_an_outage(caller: &mut Caller, key: &str) -> Option<Value> {
    let (status, claimed) = caller.post("/v1/jobs/claim", &claim(key)).ok()?;
    if status != 200 || claimed["outcome"] != "claimed" {
        return None;
    }
    let result = json!({"key": key});
    let body = json!({"claim_token": claimed["claim_token"], "result": result}).to_string();
    let job = claimed["job_id"].as_str()?;
    let (status, _) = caller.post(&format!("/v1/jobs/{job}/complete"), &body).ok()?;
    (status == 200).then_some(result)
}

#[test]
fn a_redis_that_lost_data_halts_every_effect_until_an_operator_accepts_it() {
    let mut redis = RedisServer::start();
    let url = redis.url();
    // Whoever waits for a leader that the loss took away waits for a whole lease.
    let start = || Server::start_with(&["--store", &url], &[("REDIS_LEADER_ELECTION_TTL", "2")]);
    let first = start();
    first.post("/v1/jobs/claim", &claim("before")).ok();
    let backup = redis.backup();
    first.post("/v1/jobs/claim", &claim("after")).ok();
    first.wait_until_leading();
    let mut last = first.leader().unwrap()["fencing_token"].as_str().unwrap().to_owned();
    for how in ["emptied", "restored to an older state"] {
        match how {
            "emptied" => redis.flush_all(),
            _ => redis.restore(&backup),
        }
        let refused = eventually("the loss is found out", || {
            let reply = first.post("/v1/jobs/claim", &claim("new"));
            (reply.status == 503 && reply.json()["type"] == "/problems/rolled-back")
                .then_some(reply)
        });
        let detail = refused.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains("--accept-store"), "{how}: what to do next is missing: {detail}");
        let health = eventually("health says so", || {
            let reply = first.get("/api/advanced-state/health");
            (reply.status == 503).then(|| reply.json())
        });
        let issues = health["issues"].to_string();
        assert!(issues.contains("lost acknowledged data"), "{how}: {issues}");
        assert_eq!(first.get("/health/ready").status, 503);
        assert_eq!(first.get("/health/live").status, 200);
        let newcomer = start();
        newcomer.post("/v1/jobs/claim", &claim("new")).problem(503, "rolled-back");

        let accept = ["doctor", "--store", &url, "--accept-store", "--yes"];
        let accepted = lockbay().args(accept).output().unwrap();
        assert!(accepted.status.success(), "{accepted:?}");
        for server in [&first, &newcomer] {
            eventually("effects resume", || {
                let key = format!("again-{how}-{}", server.address());
                (server.post("/v1/jobs/claim", &claim(&key)).status == 200).then_some(())
            });
            eventually("the server is healthy", || {
                (server.get("/api/advanced-state/health").status == 200).then_some(())
            });
        }
        // The store may show the lease of its old state until somebody is elected.
        let number = |token: &str| token.parse::<u64>().unwrap();
        last = eventually("somebody leads by a token that is greater than all before", || {
            let token = first.leader()?["fencing_token"].as_str().unwrap().to_owned();
            (number(&token) > number(&last)).then_some(token)
        });
    }
}

#[test]
fn health_and_metrics_answer_while_jobs_run() {
    let dir = tempfile::tempdir().unwrap();
    let store = format!("sqlite:{}", dir.path().join("jobs.db").display());
    let server = Server::start(&["--store", &store]);
    server.wait_until_leading();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for number in 0..8 {
            let (stop, address) = (&stop, server.address());
            scope.spawn(move || {
                let mut caller = Caller::new(address);
                let mut n = 0;
                while !stop.load(Ordering::Relaxed) {
                    n += 1;
                    let (_, claimed) =
                        caller.post("/v1/jobs/claim", &claim(&format!("{number}-{n}"))).unwrap();
                    finish(&mut caller, &claimed, &json!(n));
                }
            });
        }
        let done = || {
            let metrics = server.get("/api/advanced-state/metrics").ok();
            metrics["job_idempotency_metrics"]["jobs_completed"].as_u64().unwrap()
        };
        let mut last = 0;
        for _ in 0..20 {
            let health = server.get("/api/advanced-state/health").ok();
            assert_eq!(health["overall_healthy"], true, "{health}");
            assert_eq!(health["issues"], json!([]));
            last = eventually("the counter moves", || Some(done()).filter(|done| *done > last));
        }
        let text = server.get("/metrics").text();
        assert!(text.contains("lockbay_jobs_completed_total"), "{text}");
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_claim_waits_as_long_as_it_was_told_and_no_longer() {
    let server = Server::start(&["--store", "memory:"]);
    server.post("/v1/jobs/claim", &claim("k")).ok();
    let mut wait: Value = serde_json::from_str(&claim("k")).unwrap();
    wait["on_in_progress"] = "wait".into();
    wait["wait_seconds"] = json!(0.2);
    let clock = lockbay::clock::Clock::system();
    let began = clock.tick();
    server.post("/v1/jobs/claim", &wait.to_string()).problem(409, "held");
    let took = clock.tick().since(began);
    assert!(took >= Duration::from_millis(200), "{took:?}");
}

#[test]
fn a_client_that_goes_away_before_its_answer_leaves_no_lease_and_no_claim_behind() {
    let redis = RedisServer::start();
    let server = Server::start(&["--store", &redis.url()]);
    server.post("/v1/leases/warm", r#"{"holder":"up","ttl_seconds":0.1}"#).ok();
    redis.pause();
    let clients: Vec<TcpStream> = (0..20)
        .map(|n| {
            let (path, body) = match n % 2 {
                0 => (format!("/v1/leases/{n}"), r#"{"holder":"h","ttl_seconds":86400}"#.into()),
                _ => ("/v1/jobs/claim".to_owned(), claim(&n.to_string())),
            };
            let mut client = TcpStream::connect(server.address()).unwrap();
            let length = body.len();
            let kind = "Content-Type: application/json";
            write!(client, "POST {path} HTTP/1.1\r\nHost: localhost\r\n{kind}\r\nContent-Length: {length}\r\n\r\n{body}")
                .unwrap();
            client
        })
        .collect();
    // Time for the server to begin with each of them, also where the machine is busy.
    std::thread::park_timeout(Duration::from_secs(1));
    drop(clients);
    std::thread::park_timeout(Duration::from_millis(300));
    redis.resume();
    let claims =
        || server.get("/api/advanced-state/metrics").json()["job_idempotency_metrics"].clone();
    eventually("the claims were granted", || (claims()["jobs_claimed"] == 10).then_some(()));
    eventually("what was granted to nobody is given back", || {
        let leases = server.get("/v1/leases").ok()["items"].as_array()?.len();
        let jobs = server.get("/v1/jobs?status=claimed").ok();
        let held = jobs["items"].as_array()?.iter().filter(|job| job["lapsed"] == false).count();
        (leases == 0 && held == 0).then_some(())
    });
}
