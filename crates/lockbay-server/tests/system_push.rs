//! Steps that are done over HTTP by a receiver that misbehaves, on servers of which one is killed.
//!
//! The receiver keeps its effects by idempotency key alone, as the contract of a step asks of it:
//! an execution counts once, a compensation is final, and an execution that comes after it is
//! refused. Beyond that it does everything that is allowed to happen. What it does with a call
//! follows from the seed, the key and how often it was asked before, so that it does not depend on
//! the order in which calls come. `LOCKBAY_TEST_SEED` sets the seed.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod support;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use lockbay::clock::Clock;
use serde_json::{Value, json};
use sha2::Sha256;
use support::caller::Caller;
use support::sink::{Answer, Call, Sink};
use support::{Server, eventually, size};

const SAGAS: usize = 300;
const STEPS: [&str; 3] = ["reserve", "charge", "ship"];
/// How often one of the servers is killed.
const KILLS: usize = 5;
/// How long an attempt may take, and how late a late one acts.
const STEP_TIMEOUT: Duration = Duration::from_millis(500);
const LATE: Duration = Duration::from_millis(900);
const SECRET: &str = "a secret of the test";

/// What has become of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    Done,
    Undone,
}

/// What a receiver does with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Mood {
    Good,
    /// It processes the same call twice at once.
    Doubles,
    /// It acts, and closes the connection.
    LosesReply,
    /// It acts when nobody waits for it any more.
    Late,
    /// It closes the connection without having acted.
    Drops,
    /// It says that it has not acted, and that it may be asked again.
    Conflict,
    /// It says that it has not acted and will not.
    Refuses,
    /// It says that something is wrong, and has acted or not.
    Fails(bool),
}

impl Mood {
    /// Of a hundred.
    const SHARES: [(usize, Mood); 9] = [
        (52, Mood::Good),
        (8, Mood::Doubles),
        (9, Mood::LosesReply),
        (9, Mood::Late),
        (6, Mood::Drops),
        (5, Mood::Conflict),
        (3, Mood::Refuses),
        (4, Mood::Fails(true)),
        (4, Mood::Fails(false)),
    ];

    fn of(mut share: usize) -> Mood {
        for (size, mood) in Mood::SHARES {
            if share < size {
                return mood;
            }
            share -= size;
        }
        Mood::Good
    }
}

/// What the receiver knows.
#[derive(Default)]
struct Books {
    effects: HashMap<String, Effect>,
    /// How often it was asked to do what to which key.
    asked: HashMap<(String, String), usize>,
    /// The highest token that came with a saga.
    tokens: HashMap<String, u64>,
    moods: HashMap<Mood, usize>,
    /// Executions that came after the compensation of their key, and were refused.
    too_late: usize,
    /// Calls that would have been an effect for a second time.
    again: usize,
    wrong: Vec<String>,
}

impl Books {
    /// Does what is asked, by key alone. Returns whether it is done.
    fn act(&mut self, action: &str, key: &str) -> bool {
        let before = self.effects.get(key).copied();
        let after = match action {
            "execute" => Effect::Done,
            "compensate" => Effect::Undone,
            other => panic!("asked to {other}"),
        };
        match (before, after) {
            (Some(Effect::Undone), Effect::Done) => {
                self.too_late += 1;
                return false;
            }
            (Some(before), after) if before == after => self.again += 1,
            _ => {}
        }
        self.effects.insert(key.to_owned(), after);
        true
    }

    /// Notes that a call came, and gives how often the same came before.
    fn note(&mut self, call: &Call, asked: &Value) -> usize {
        let text = |name: &str| asked[name].as_str().unwrap().to_owned();
        let (saga, key) = (text("saga_id"), text("idempotency_key"));
        let token: u64 = text("fencing_token").parse().unwrap();
        let highest = self.tokens.entry(saga).or_default();
        if token < *highest {
            self.wrong.push(format!("{key}: token {token} after {highest}"));
        }
        *highest = token.max(*highest);
        let times = self.asked.entry((text("action"), key.clone())).or_default();
        *times += 1;
        let times = *times;
        if call.header("webhook-signature") != Some(&signature(call)) {
            self.wrong.push(format!("{key}: a wrong signature"));
        }
        times
    }
}

/// The signature that a call must have, worked out from what came.
fn signature(call: &Call) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    let (id, at) = (call.header("webhook-id").unwrap(), call.header("webhook-timestamp").unwrap());
    mac.update(format!("{id}.{at}.").as_bytes());
    mac.update(&call.body);
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

/// A receiver with its books.
struct Receiver {
    books: Arc<Mutex<Books>>,
    /// Calls that are being processed.
    open: Arc<AtomicUsize>,
    sink: Sink,
}

impl Receiver {
    fn start(seed: u64) -> Self {
        let books = Arc::new(Mutex::new(Books::default()));
        let open = Arc::new(AtomicUsize::new(0));
        let (noted, counted) = (Arc::clone(&books), Arc::clone(&open));
        let sink = Sink::start(move |call| {
            let asked = call.json();
            let times = noted.lock().unwrap().note(&call, &asked);
            let mood = mood_for(seed, &asked, times);
            *noted.lock().unwrap().moods.entry(mood).or_default() += 1;
            let (books, open) = (Arc::clone(&noted), Arc::clone(&counted));
            open.fetch_add(1, Ordering::SeqCst);
            async move {
                let answer = answer(&books, mood, &asked).await;
                open.fetch_sub(1, Ordering::SeqCst);
                answer
            }
        });
        Receiver { books, open, sink }
    }
}

/// What happens to a call, by the dice of its seed.
fn mood_for(seed: u64, asked: &Value, times: usize) -> Mood {
    let mut hasher = DefaultHasher::new();
    let label = asked["context"]["label"].as_u64();
    (seed, label, asked["step"].as_str(), asked["action"].as_str(), times).hash(&mut hasher);
    Mood::of(usize::try_from(hasher.finish() % 100).unwrap())
}

async fn answer(books: &Mutex<Books>, mood: Mood, asked: &Value) -> Answer {
    let (action, key) =
        (asked["action"].as_str().unwrap(), asked["idempotency_key"].as_str().unwrap());
    let act = || books.lock().unwrap().act(action, key);
    let told = |done: bool| match done {
        true => Answer::Says(200, json!({"key": key})),
        false => Answer::Says(422, json!({"error": "it was compensated before"})),
    };
    match mood {
        Mood::Good => told(act()),
        Mood::Doubles => {
            act();
            told(act())
        }
        Mood::LosesReply => {
            act();
            Answer::HangsUp
        }
        Mood::Late => {
            Clock::system().sleep(STEP_TIMEOUT + LATE).await;
            told(act())
        }
        Mood::Drops => Answer::HangsUp,
        Mood::Conflict => Answer::Says(409, json!({"error": "not now"})),
        Mood::Refuses => Answer::Says(422, json!({"error": "never"})),
        Mood::Fails(acts) => {
            if acts {
                act();
            }
            Answer::Says(500, json!("on fire"))
        }
    }
}

/// A saga of three steps; its label is its dice.
fn saga(label: usize) -> String {
    let timeout = STEP_TIMEOUT.as_secs_f64();
    let steps: Vec<_> = STEPS
        .map(|name| {
            json!({
                "name": name, "handler": "receiver", "parameters": {"of": label},
                "max_retries": 2, "compensation_max_retries": 2, "timeout_seconds": timeout,
            })
        })
        .into();
    json!({"saga_name": "order", "steps": steps, "context": {"label": label}}).to_string()
}

fn start_server(store: &str) -> Server {
    Server::start_with(&["--store", store], &[("LOCKBAY_HANDLERS_ALLOW_PRIVATE", "true")])
}

/// Starts a saga at one of the servers, or at the other; its id.
fn start_saga(servers: &[Server], label: usize) -> String {
    let (key, body) = (format!("order-{label}"), saga(label));
    let mut turn = label;
    eventually("a server accepts a saga", || {
        turn += 1;
        let mut caller = Caller::new(servers[turn % servers.len()].address());
        match caller.post_once("/v1/sagas", &key, &body) {
            Ok((202, answer)) => Some(answer["saga_id"].as_str().unwrap().to_owned()),
            Ok((429 | 503 | 504, _)) | Err(_) => None,
            Ok((status, answer)) => panic!("{status} {answer}"),
        }
    })
}

/// Checks a saga that has ended against the books; its status.
fn check(books: &Books, saga: &Value) -> String {
    let (id, status) = (saga["saga_id"].as_str().unwrap(), saga["status"].as_str().unwrap());
    for step in STEPS {
        let effect = books.effects.get(&format!("{id}/{step}"));
        match status {
            "completed" => assert_eq!(effect, Some(&Effect::Done), "{step} of {saga}"),
            "compensated" => assert_ne!(effect, Some(&Effect::Done), "{step} of {saga}"),
            other => panic!("{other}: {saga}"),
        }
    }
    status.to_owned()
}

#[test]
fn a_receiver_that_knows_keys_alone_has_every_effect_of_a_saga_or_none_whatever_happens() {
    let seed = size("LOCKBAY_TEST_SEED", 1) as u64;
    println!("LOCKBAY_TEST_SEED={seed}");
    let dir = tempfile::tempdir().unwrap();
    let store = format!("sqlite:{}", dir.path().join("sagas.db").display());
    let receiver = Receiver::start(seed);
    let mut servers = vec![start_server(&store), start_server(&store)];
    let route = json!({"url": receiver.sink.url(), "secret": SECRET}).to_string();
    servers[0].put("/v1/handlers/receiver", &route).ok();

    let mut ids = Vec::new();
    for round in 0..=KILLS {
        let share = SAGAS * (round + 1) / (KILLS + 1);
        ids.extend((ids.len()..share).map(|label| start_saga(&servers, label)));
        if round == KILLS {
            break;
        }
        let before = servers[0].saga_metric("sagas_taken_over");
        eventually("the next victim works", || {
            (servers[1].saga_metric("running_sagas") > 0).then_some(())
        });
        servers[1].kill9();
        eventually("the other server takes over", || {
            (servers[0].saga_metric("sagas_taken_over") > before).then_some(())
        });
        servers[1] = start_server(&store);
    }
    let resumed = servers[0].bring_sagas_to_an_end(Duration::from_secs(120));
    eventually("no late call is left", || {
        (receiver.open.load(Ordering::SeqCst) == 0).then_some(())
    });

    let books = receiver.books.lock().unwrap();
    let mut ends: HashMap<String, usize> = HashMap::new();
    for id in &ids {
        let saga = servers[1].get(&format!("/v1/sagas/{id}")).ok();
        *ends.entry(check(&books, &saga)).or_default() += 1;
    }
    println!(
        "{SAGAS} sagas ended as {ends:?}, {resumed} resumed by hand; of {} calls {:?}; {} came \
         again, {} came after their compensation and were refused",
        books.moods.values().sum::<usize>(),
        books.moods,
        books.again,
        books.too_late
    );
    assert!(books.wrong.is_empty(), "{:?}", books.wrong);
    assert_eq!(ends.values().sum::<usize>(), SAGAS);
    assert!(Mood::SHARES.iter().all(|(_, mood)| books.moods.contains_key(mood)), "not all moods");
    let happened = [ends["completed"], ends["compensated"], books.too_late, books.again];
    assert!(happened.iter().all(|count| *count > 0), "{happened:?}: the test showed nothing");
    assert!(resumed > 0, "the test showed nothing");
}
