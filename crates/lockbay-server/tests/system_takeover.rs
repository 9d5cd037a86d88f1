//! A server with very many unfinished sagas is killed, and the next one goes on with all of them.
//!
//! The sagas call a receiver in the test's own process, which holds its answers back until the
//! first server is dead. `LOCKBAY_TEST_SAGAS=1000` makes it quicker.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod support;

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lockbay::clock::{Clock, Tick};
use serde_json::json;
use support::caller::Caller;
use support::sink::{Answer, Call, Sink};
use support::{Server, eventually, eventually_within, size};
use tokio::sync::watch;

/// Enough to be more than any queue holds; as many as one store should bear in a release build.
const SAGAS: usize = if cfg!(debug_assertions) { 25_000 } else { 100_000 };
const CALLERS: usize = 64;
/// Sagas that are worked on at once, each with a call that is not answered.
const AT_ONCE: usize = 500;
/// No more than this is kept in memory of however many sagas, in MiB; SQLite's own pages, up to 64 of
/// each of its four connections, included. All of them at once would be more than 600.
const MEMORY: u64 = 520;

/// What the receiver has seen.
#[derive(Default)]
struct Seen {
    calls: usize,
    keys: HashSet<String>,
    /// When the first call came after it began to listen for one.
    first: Option<Tick>,
}

/// A receiver that answers nobody until the gate is open.
struct Receiver {
    seen: Arc<Mutex<Seen>>,
    gate: watch::Sender<bool>,
    sink: Sink,
}

impl Receiver {
    fn start() -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let gate = watch::Sender::new(false);
        let (noted, opened) = (Arc::clone(&seen), gate.subscribe());
        let sink = Sink::start(move |call| {
            note(&noted, &call);
            let mut opened = opened.clone();
            async move {
                let _ = opened.wait_for(|open| *open).await;
                Answer::Says(200, json!({"done": true}))
            }
        });
        Receiver { seen, gate, sink }
    }

    fn open(&self) {
        self.gate.send_replace(true);
        *self.seen.lock().unwrap() = Seen::default();
    }
}

fn note(seen: &Mutex<Seen>, call: &Call) {
    let key = call.json()["idempotency_key"].as_str().unwrap().to_owned();
    let mut seen = seen.lock().unwrap();
    seen.calls += 1;
    seen.keys.insert(key);
    seen.first.get_or_insert_with(|| Clock::system().tick());
}

/// Starts sagas over many connections, and gives their ids: all that were acknowledged.
fn start_sagas(server: &Server, count: usize) -> HashSet<String> {
    let step = json!({
        "name": "pay", "handler": "receiver", "parameters": {"amount": "10.00"},
        "timeout_seconds": 1_500,
    });
    let body = json!({"saga_name": "payment", "steps": [step]}).to_string();
    let ids = Mutex::new(HashSet::new());
    std::thread::scope(|scope| {
        for number in 0..CALLERS {
            let (ids, body, address) = (&ids, &body, server.address());
            scope.spawn(move || {
                let mut caller = Caller::new(address);
                for _ in (number..count).step_by(CALLERS) {
                    let (status, answer) = caller.post("/v1/sagas", body).unwrap();
                    assert_eq!(status, 202, "{answer}");
                    ids.lock().unwrap().insert(answer["saga_id"].as_str().unwrap().to_owned());
                }
            });
        }
    });
    ids.into_inner().unwrap()
}

#[test]
fn every_unfinished_saga_of_a_killed_server_ends_and_the_first_goes_on_within_a_second() {
    let count = size("LOCKBAY_TEST_SAGAS", SAGAS);
    let dir = tempfile::tempdir().unwrap();
    let store = format!("sqlite:{}", dir.path().join("sagas.db").display());
    let at_once = AT_ONCE.to_string();
    let start = |queue| {
        let settings = [
            ("LOCKBAY_HANDLERS_ALLOW_PRIVATE", "true"),
            ("LOCKBAY_SAGA_CONCURRENCY", &at_once),
            ("LOCKBAY_SAGA_QUEUE", queue),
        ];
        Server::start_with(&["--store", &store], &settings)
    };
    let receiver = Receiver::start();
    let mut server = start("1000000");
    let route = json!({"url": receiver.sink.url()}).to_string();
    server.put("/v1/handlers/receiver", &route).ok();
    let clock = Clock::system();

    let began = clock.tick();
    let ids = start_sagas(&server, count);
    let started = clock.tick().since(began);
    assert_eq!(ids.len(), count);
    eventually("as many calls are held as may be", || {
        (receiver.seen.lock().unwrap().calls == count.min(AT_ONCE)).then_some(())
    });
    let before = server.peak_memory_mib();
    server.kill9();
    receiver.open();

    let began = clock.tick();
    // What does not fit into its queue stays in the store until there is room.
    let server = start("1000");
    let first = eventually("the first step is resumed", || receiver.seen.lock().unwrap().first);
    let first = first.since(began);
    let patience =
        Duration::from_secs(60) + Duration::from_millis(10) * u32::try_from(count).unwrap();
    eventually_within(patience, Duration::from_millis(200), "every saga has ended", || {
        (server.saga_metric("sagas_completed") >= count as u64).then_some(())
    });
    let ended = clock.tick().since(began);
    let memory = server.peak_memory_mib();
    println!(
        "{count} sagas started in {started:.1?} ({before} MiB at most); after kill -9 the first \
         step was resumed {first:.0?} after the spawn of the next server, all had ended after \
         {ended:.1?} ({memory} MiB at most)"
    );
    for status in ["pending", "running", "compensating", "compensated", "parked", "abandoned"] {
        assert!(server.sagas(status).is_empty(), "{status}");
    }
    let done = &receiver.seen.lock().unwrap().keys;
    let lost: Vec<_> = ids.iter().filter(|id| !done.contains(&format!("{id}/pay"))).collect();
    assert!(lost.is_empty(), "acknowledged and not done: {} such as {:?}", lost.len(), lost[0]);
    let mut caller = Caller::new(server.address());
    for id in ids.iter().step_by(count.div_ceil(1_000)) {
        let (_, saga) = caller.get(&format!("/v1/sagas/{id}")).unwrap();
        assert_eq!(saga["status"], "completed", "{saga}");
    }
    assert!(first <= Duration::from_secs(1), "the first step was resumed after {first:?}");
    assert!(memory <= MEMORY, "{memory} MiB at most, {MEMORY} expected");
}
