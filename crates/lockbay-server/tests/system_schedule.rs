//! A schedule of every second over three server processes whose leader is killed and resigns, again
//! and again, about the moment at which a tick is due.
//!
//! `LOCKBAY_HANDOVERS=100` does it so often; by default it is twenty times.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // a test fails by panicking, and tells its figures

#[path = "../../lockbay/tests/support/mod.rs"]
mod stores;
mod support;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lockbay::clock::{Clock, Timestamp};
use serde_json::{Value, json};
use stores::redis::RedisServer;
use support::sink::{Answer, Call, Sink};
use support::{Server, breathe, eventually, eventually_within, size};

/// The schedule under test.
const ID: &str = "heartbeat";
/// About a second: so long ticks stand still when a leader is killed.
const TTL: &str = "1";

/// What the receiver saw: of each idempotency key the due time, and how often it came.
type Seen = Arc<Mutex<BTreeMap<String, (String, u32)>>>;

/// Servers on one store, of which one is dead now and then.
struct Cluster {
    store: String,
    servers: Vec<Server>,
    clock: Clock,
}

impl Cluster {
    fn start(store: &str) -> Self {
        let servers = (0..3).map(|_| server(store)).collect();
        Cluster { store: store.into(), servers, clock: Clock::system() }
    }

    /// Waits until there is a leader whose token is above `above`.
    fn leader(&self, above: u64) -> (usize, u64) {
        eventually("another leads", || {
            self.servers.iter().enumerate().find_map(|(place, server)| {
                let leader = server.leader()?;
                let token: u64 = leader["fencing_token"].as_str()?.parse().ok()?;
                (leader["is_self"] == true && token > above).then_some((place, token))
            })
        })
    }

    /// How many elections there have been.
    fn term(&self) -> u64 {
        eventually("somebody leads", || self.servers[0].leader()?["term"].as_u64())
    }

    /// Waits until so many milliseconds from the next border between two seconds.
    fn wait_for_border(&self, offset_ms: i64) {
        let border = self.clock.now().as_micros() / 1_000_000 + 1;
        let moment = i64::try_from(border * 1_000).unwrap() + offset_ms;
        loop {
            let now = i64::try_from(self.clock.now().as_micros() / 1_000).unwrap();
            if now >= moment {
                return;
            }
            breathe(Duration::from_millis(u64::try_from((moment - now).min(20)).unwrap()));
        }
    }

    fn kill(&mut self, place: usize) {
        let mut old = self.servers.remove(place);
        old.kill9();
        self.servers.push(server(&self.store));
    }
}

fn server(store: &str) -> Server {
    let environment =
        [("REDIS_LEADER_ELECTION_TTL", TTL), ("LOCKBAY_HANDLERS_ALLOW_PRIVATE", "true")];
    Server::start_with(&["--store", store], &environment)
}

/// A receiver that notes what comes, and takes its time now and then.
fn receiver(seen: &Seen) -> Sink {
    let seen = Arc::clone(seen);
    Sink::start(move |call: Call| {
        let body = call.json();
        let text = |member: &str| body[member].as_str().unwrap_or_default().to_owned();
        assert_eq!((text("action"), text("step")), ("execute".into(), "beat".into()), "{body}");
        assert_eq!(call.header("idempotency-key"), body["idempotency_key"].as_str());
        let count = {
            let mut seen = seen.lock().unwrap();
            let entry = seen.entry(text("idempotency_key")).or_default();
            entry.0 = text("scheduled_time");
            entry.1 += 1;
            seen.len()
        };
        async move {
            // One in four is in the middle for a while.
            let pause = if count % 4 == 0 { 150 } else { 0 };
            Clock::system().sleep(Duration::from_millis(pause)).await;
            Answer::Says(200, json!({ "count": count }))
        }
    })
}

/// All jobs of the schedule: key and status.
fn jobs(server: &Server) -> Vec<(String, String, String)> {
    let (mut jobs, mut token) = (Vec::new(), String::new());
    loop {
        let page = server.get(&format!("/v1/jobs?job_type=beat&page_size=1000{token}")).ok();
        for job in page["items"].as_array().unwrap() {
            let text = |member: &str| job[member].as_str().unwrap().to_owned();
            jobs.push((text("job_key"), text("status"), text("idempotency_token")));
        }
        let Some(next) = page["next_page_token"].as_str() else { return jobs };
        token = format!("&page_token={next}");
    }
}

fn every_due_second_is_done_once(store: &str, handovers: usize) {
    let seen = Seen::default();
    let sink = receiver(&seen);
    let mut cluster = Cluster::start(store);
    let (_, mut token) = cluster.leader(0);
    let first = &cluster.servers[0];
    first.put("/v1/handlers/beat", &json!({ "url": sink.url() }).to_string()).ok();
    let wish = json!({ "job_type": "beat", "schedule_expression": "* * * * * *", "handler": "beat",
        "misfire": "run_all", "misfire_grace_seconds": 3600, "max_retries": 50,
        "timeout_seconds": 10, "parameters": {"amount": "9007199254740993.10"} });
    let put = first.put(&format!("/v1/schedules/{ID}"), &wish.to_string());
    assert_eq!(put.status, 201, "{}", put.text());
    let from: Timestamp = put.json()["next_due"].as_str().unwrap().parse().unwrap();
    let first_term = cluster.term();
    let (mut killed, mut resigned) = (0, 0);
    for round in 0..handovers {
        // From a little before a border to a little behind it, each in turn.
        let offsets = [-120, -40, -15, -5, 0, 2, 5, 10, 20, 40, 80, 160];
        cluster.wait_for_border(offsets[(round / 2) % offsets.len()]);
        let (place, held) = cluster.leader(token - 1);
        if round % 2 == 0 {
            cluster.kill(place);
            killed += 1;
        } else {
            let reply = cluster.servers[place].post("/v1/leader/resign", "");
            assert!([200, 409].contains(&reply.status), "{}", reply.text());
            resigned += 1;
        }
        (_, token) = cluster.leader(held);
    }
    let server = &cluster.servers[0];
    let path = format!("/v1/schedules/{ID}");
    let patience = Duration::from_secs(60);
    let rested =
        eventually_within(patience, Duration::from_millis(100), "it is up to date", || {
            let now = cluster.clock.now();
            let schedule = server.get(&path).ok();
            let next: Timestamp = schedule["next_due"].as_str()?.parse().ok()?;
            let paused = schedule["status"] == "paused";
            let is_idle = schedule["in_progress"].as_array()?.is_empty();
            // A tick that is begun and not yet a job would be dropped by a pause.
            if !paused && is_idle && next > now + Duration::from_millis(300) {
                server.post(&format!("{path}/pause"), "").ok();
            }
            (paused && is_idle).then_some(schedule)
        });
    let until: Timestamp = rested["next_due"].as_str().unwrap().parse().unwrap();
    let elections = cluster.term() - first_term;
    assert!(elections >= killed + resigned, "{elections} elections");
    let report = check(server, &seen, &rested, (from, until), elections);
    println!("{killed} leaders killed, {resigned} resigned: {report}");
}

/// Every second from `from` to before `until` has exactly one job, which is completed; the receiver
/// saw each under its key, and again only as often as a leadership ended in the middle of it.
fn check(
    server: &Server,
    seen: &Seen,
    schedule: &Value,
    (from, until): (Timestamp, Timestamp),
    elections: u64,
) -> String {
    let mut by_key: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for (key, status, token) in jobs(server) {
        by_key.entry(key).or_default().push((status, token));
    }
    let seen = seen.lock().unwrap().clone();
    let (mut due, mut count, mut wrong) = (from, 0usize, Vec::new());
    while due < until {
        let key = format!("{ID}@{}", due.to_string().replace(".000000", ""));
        let found = by_key.remove(&key).unwrap_or_default();
        let done = found.len() == 1 && found[0].0 == "completed";
        let came = found.first().and_then(|(_, token)| seen.get(token));
        if !done || came.is_none_or(|(time, _)| *time != due.to_string()) {
            wrong.push(format!("{key}: {found:?}, came as {came:?}"));
        }
        count += 1;
        due = due + Duration::from_secs(1);
    }
    assert!(wrong.is_empty(), "of {count} due seconds:\n{}", wrong.join("\n"));
    assert!(by_key.is_empty(), "ticks that were never due: {by_key:?}");
    assert_eq!(seen.len(), count, "a key for each due second and no other");
    let counts = &schedule["counts"];
    assert_eq!(counts["completed"].as_u64(), Some(count as u64), "{counts}");
    assert_eq!(counts["misfired"], 0, "{counts}");
    let again = seen.values().filter(|(_, came)| *came > 1).count();
    let most = seen.values().map(|(_, came)| *came).max().unwrap_or_default();
    // Ticks wait for each other, so the end of a leadership is in the middle of one at most.
    let repeated: u64 = seen.values().map(|(_, came)| u64::from(came - 1)).sum();
    assert!(repeated <= elections, "{repeated} repetitions over {elections} elections");
    format!("{count} due seconds, each done once; {again} came again, {most} times at most")
}

#[test]
fn every_due_second_is_done_once_over_killed_and_resigned_leaders_on_sqlite() {
    let dir = tempfile::tempdir().unwrap();
    let store = format!("sqlite:{}", dir.path().join("schedule.db").display());
    every_due_second_is_done_once(&store, size("LOCKBAY_HANDOVERS", 20));
}

#[test]
fn every_due_second_is_done_once_over_killed_and_resigned_leaders_on_redis() {
    let redis = RedisServer::start();
    every_due_second_is_done_once(&redis.url(), size("LOCKBAY_HANDOVERS", 8));
}
