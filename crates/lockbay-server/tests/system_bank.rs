//! A bank: escrows and cash-outs over four servers on one store, while servers die, freeze and
//! come back, and steps fail.
//!
//! Clients repeat a request with its key until they have a clear answer. At the end the balance of
//! every user is worked out again from nothing but what was asked for and how each saga ended.
//! `LOCKBAY_TEST_ORDERS` sets how many there are.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // a test fails by panicking, and says what it found

#[path = "../../lockbay/tests/support/mod.rs"]
mod stores;
mod support;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use lockbay::clock::Clock;
use serde_json::{Value, json};
use stores::redis::RedisServer;
use support::caller::Caller;
use support::sink::{Answer, Sink};
use support::{Server, breathe, eventually, eventually_within, size};

const ORDERS: usize = 2_000;
/// How many are begun in a second, over the whole of a run.
const PER_SECOND: u64 = 150;
const USERS: u64 = 50;
/// What each user begins with for each order that may come, in cents: some will not have enough.
const DEPOSIT: i64 = 900;
const SERVERS: usize = 4;
const CLIENTS: usize = 48;
/// How long a client waits for an answer before it turns to another server.
const ANSWER_WITHIN: Duration = Duration::from_millis(800);
const KILL_EVERY: Duration = Duration::from_secs(2);
/// Longer than a session lasts, so that what a frozen server executes is taken over.
const DOWN_FOR: Duration = Duration::from_millis(1_500);

/// What somebody wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Escrow,
    /// An escrow that is made of the same steps, and of one more that may fail.
    CheckedEscrow,
    Cashout,
}

#[derive(Debug, Clone, Copy)]
struct Order {
    number: usize,
    wish: Wish,
    user: u64,
    seller: u64,
    cents: i64,
}

impl Order {
    /// Spread evenly, without a pattern between the kinds, the users and the amounts.
    fn of(number: usize) -> Self {
        let n = (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16;
        let wish = [Wish::Escrow, Wish::CheckedEscrow, Wish::Cashout, Wish::Cashout][number % 4];
        let (user, cents) = (n % USERS, 100 + i64::try_from(n / 64 % 1_900).unwrap());
        Order { number, wish, user, seller: (user + 1 + n / 7 % (USERS - 1)) % USERS, cents }
    }

    fn key(&self) -> String {
        format!("order-{}", self.number)
    }

    fn path(&self) -> &'static str {
        match self.wish {
            Wish::Escrow => "/v1/sagas/escrow",
            Wish::CheckedEscrow => "/v1/sagas",
            Wish::Cashout => "/v1/sagas/cashout",
        }
    }

    fn body(&self) -> Value {
        let amount = text(self.cents);
        match self.wish {
            Wish::Escrow => json!({
                "buyer_id": self.user, "seller_id": self.seller, "amount": amount,
                "currency": "USD",
            }),
            Wish::Cashout => json!({
                "user_id": self.user, "amount": amount, "currency": "USD", "destination": "bank",
            }),
            Wish::CheckedEscrow => {
                let parameters = json!({
                    "user_id": self.user, "seller_id": self.seller, "amount": amount,
                    "currency": "USD",
                });
                let parts = ["validate_participants", "lock_funds", "create_escrow"];
                let step = |name: &str, handler: String| json!({"name": name, "handler": handler, "parameters": parameters});
                let mut steps: Vec<_> =
                    parts.iter().map(|part| step(part, format!("finance.{part}"))).collect();
                steps.push(step("check", "checker".into()));
                json!({"saga_name": "checked_escrow", "steps": steps})
            }
        }
    }
}

fn text(cents: i64) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}

fn cents(text: &Value) -> i64 {
    text.as_str().unwrap().replace('.', "").parse().unwrap()
}

/// Below `limit`, by chance.
fn dice(limit: u64) -> usize {
    usize::try_from(Clock::system().random() % limit).unwrap()
}

/// Refuses one call of ten for good, and is unwell at times.
fn checker() -> Sink {
    Sink::start(|call| async move {
        // Whatever came of the execution, there is nothing to undo.
        if call.json()["action"] == "compensate" {
            return Answer::Says(200, Value::Null);
        }
        match dice(100) {
            0..10 => Answer::Says(422, json!({"error": "the check failed"})),
            10..13 => Answer::Says(500, Value::Null),
            13..16 => Answer::HangsUp,
            _ => Answer::Says(200, json!({"checked": true})),
        }
    })
}

/// The servers, as clients know them.
type Addresses = Vec<Mutex<SocketAddr>>;

/// What clients were told.
#[derive(Default)]
struct Told {
    /// Which saga does which order.
    accepted: HashMap<String, Order>,
    refused: usize,
    /// Of these, how many were asked for before without a clear answer.
    refused_later: usize,
}

/// Asks until there is a clear answer.
fn place(order: &Order, caller: &mut Caller, servers: &Addresses, told: &Mutex<Told>) {
    let (key, body) = (order.key(), order.body().to_string());
    let mut tries = 0;
    let patience = Duration::from_secs(60);
    eventually_within(patience, Duration::from_millis(5), "a clear answer comes", || {
        caller.turn_to(*servers[dice(SERVERS as u64)].lock().unwrap());
        tries += 1;
        match caller.post_once(order.path(), &key, &body) {
            Ok((202, answer)) => {
                let id = answer["saga_id"].as_str().unwrap().to_owned();
                let before = told.lock().unwrap().accepted.insert(id, *order);
                assert!(before.is_none(), "one saga for two orders: {answer}");
            }
            Ok((422, answer)) => {
                assert_eq!(answer["title"], "refused by the business", "{answer}");
                let mut told = told.lock().unwrap();
                told.refused += 1;
                told.refused_later += usize::from(tries > 1);
            }
            Ok((429 | 503 | 504, _)) | Err(_) => return None,
            Ok((status, answer)) => panic!("{order:?}: {status} {answer}"),
        }
        Some(())
    });
}

/// Places all orders over the whole of a run.
fn place_all(count: usize, servers: &Addresses, told: &Mutex<Told>) {
    let (clock, next) = (Clock::system(), AtomicUsize::new(0));
    let began = clock.tick();
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut caller = Caller::within(*servers[0].lock().unwrap(), ANSWER_WITHIN);
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    let due = began + Duration::from_millis(number as u64 * 1_000 / PER_SECOND);
                    breathe(due.since(clock.tick()));
                    place(&Order::of(number), &mut caller, servers, told);
                }
            });
        }
    });
}

/// What was done to the servers.
#[derive(Debug, Default)]
struct Havoc {
    killed: usize,
    frozen: usize,
    /// Sagas that went on elsewhere, as those that were killed later had counted them.
    taken_over: u64,
}

/// Kills a server, and starts it again a while later; every other time another one freezes
/// meanwhile. It thaws first, because it may have frozen while it held the lock of a SQLite file.
fn havoc(
    servers: &mut [Server],
    addresses: &Addresses,
    start: impl Fn() -> Server,
    over: &AtomicBool,
) -> Havoc {
    let mut havoc = Havoc::default();
    while !over.load(Ordering::Relaxed) {
        let victim = dice(SERVERS as u64);
        let other = (victim + 1 + dice(SERVERS as u64 - 1)) % SERVERS;
        let freezes = havoc.killed % 2 == 1;
        // Its numbers die with it.
        havoc.taken_over += servers[victim].saga_metric("sagas_taken_over");
        if freezes {
            servers[other].sigstop();
            havoc.frozen += 1;
        }
        servers[victim].kill9();
        havoc.killed += 1;
        breathe(DOWN_FOR);
        if freezes {
            servers[other].sigcont();
        }
        servers[victim] = start();
        *addresses[victim].lock().unwrap() = servers[victim].address();
        breathe(KILL_EVERY - DOWN_FOR);
    }
    havoc
}

/// Says that it is over when it is dropped, in a panic as well.
struct Until<'a>(&'a AtomicBool);

impl Drop for Until<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Takes trial balances of the ledger in motion; how many.
fn audit(addresses: &Addresses, over: &AtomicBool) -> usize {
    let mut balances = 0;
    let mut caller = Caller::within(*addresses[0].lock().unwrap(), Duration::from_secs(2));
    while !over.load(Ordering::Relaxed) {
        caller.turn_to(*addresses[dice(SERVERS as u64)].lock().unwrap());
        match caller.get("/v1/ledger/trial-balance") {
            Ok((200, trial)) => {
                assert_balanced(&trial);
                balances += 1;
            }
            Ok((429 | 503 | 504, _)) | Err(_) => {}
            Ok((status, answer)) => panic!("{status} {answer}"),
        }
        breathe(Duration::from_millis(100));
    }
    balances
}

#[track_caller]
fn assert_balanced(trial: &Value) {
    assert_eq!(trial["balanced"], true, "{trial}");
    for currency in trial["currencies"].as_array().unwrap() {
        assert_eq!(cents(&currency["sum"]), 0, "{trial}");
    }
}

/// What each user begins with.
fn deposit(orders: usize) -> i64 {
    DEPOSIT * i64::try_from(orders).unwrap() / i64::try_from(USERS).unwrap()
}

fn deposit_everything(server: &Server, each: i64) {
    let mut caller = Caller::new(server.address());
    for user in 0..USERS {
        let body = json!({"user_id": user, "amount": text(each), "currency": "USD"});
        let key = format!("first-{user}");
        let (status, answer) =
            caller.post_once("/v1/ledger/deposits", &key, &body.to_string()).unwrap();
        assert_eq!(status, 201, "{answer}");
    }
}

/// What a saga must have posted, by how it ended.
fn expected_kinds(order: &Order, status: &str, found: &[&str]) -> bool {
    let mut found = found.to_vec();
    found.sort_unstable();
    match (order.wish, status) {
        (Wish::Cashout, "completed") => found == ["payout", "reserve"],
        (Wish::Cashout, "compensated") => found.is_empty() || found == ["reserve", "void"],
        (_, "completed") => found == ["escrow", "lock"],
        (_, "compensated") => {
            found.is_empty()
                || found == ["lock", "void"]
                || found == ["escrow", "lock", "undo_escrow", "void"]
        }
        _ => false,
    }
}

/// Every saga as its server tells it, with its order: by what it is asked to do.
fn ended_sagas(server: &Server, told: &Told) -> Vec<(Order, Value)> {
    let mut sagas = Vec::new();
    for status in ["completed", "compensated", "abandoned"] {
        sagas.extend(server.sagas(status));
    }
    let ids: HashSet<_> = sagas.iter().map(|saga| saga["saga_id"].as_str().unwrap()).collect();
    let lost: Vec<_> = told.accepted.keys().filter(|id| !ids.contains(id.as_str())).collect();
    assert!(lost.is_empty(), "acknowledged and not ended: {lost:?}");
    let unasked = ids.len() - told.accepted.len();
    assert!(unasked <= told.refused_later, "{unasked} sagas that nobody was told of");
    let with_order = |saga: Value| {
        let given = &saga["steps"][0]["parameters"];
        let name = saga["saga_name"].as_str().unwrap();
        let wish = match name {
            "cashout" => Wish::Cashout,
            "escrow" => Wish::Escrow,
            "checked_escrow" => Wish::CheckedEscrow,
            other => panic!("{other}: {saga}"),
        };
        let user = given["user_id"].to_string().trim_matches('"').parse().unwrap();
        let (number, seller) = (usize::MAX, u64::MAX);
        let found = Order { number, wish, user, seller, cents: cents(&given["amount"]) };
        let order = told.accepted.get(saga["saga_id"].as_str().unwrap()).copied().unwrap_or(found);
        let same = (order.wish, order.user, order.cents) == (wish, user, found.cents);
        assert!(same, "{order:?} became {saga}");
        (order, saga)
    };
    sagas.into_iter().map(with_order).collect()
}

/// Checks postings and balances against what was asked for and how it ended.
fn recount(server: &Server, each: i64, sagas: &[(Order, Value)]) {
    let mut caller = Caller::new(server.address());
    let mut balances: HashMap<u64, i64> = (0..USERS).map(|user| (user, each)).collect();
    let mut movements = HashSet::new();
    for (order, saga) in sagas {
        let (id, status) = (saga["saga_id"].as_str().unwrap(), saga["status"].as_str().unwrap());
        let (_, page) = caller.get(&format!("/v1/ledger/postings?saga_id={id}")).unwrap();
        let postings = page["items"].as_array().unwrap();
        let kinds: Vec<_> =
            postings.iter().map(|posting| posting["kind"].as_str().unwrap()).collect();
        assert!(expected_kinds(order, status, &kinds), "{status} {order:?} posted {kinds:?}");
        for posting in postings {
            let sum: i64 =
                posting["legs"].as_array().unwrap().iter().map(|leg| cents(&leg["amount"])).sum();
            assert_eq!(sum, 0, "{posting}");
            let id = posting["movement_id"].as_str().unwrap().to_owned();
            assert!(movements.insert(id), "posted twice: {posting}");
        }
        if status == "completed" {
            *balances.get_mut(&order.user).unwrap() -= order.cents;
        }
    }
    for (user, expected) in balances {
        let (_, account) = caller.get(&format!("/v1/ledger/accounts/{user}?currency=USD")).unwrap();
        assert_eq!(cents(&account["available"]), expected, "{account}");
        assert_eq!(cents(&account["held"]), 0, "{account}");
    }
}

/// Checks that the totals are what the sagas come to.
fn check_totals(server: &Server, each: i64, sagas: &[(Order, Value)]) {
    let trial = server.get("/v1/ledger/trial-balance").ok();
    assert_balanced(&trial);
    let total = &trial["currencies"][0];
    let completed = |cashouts: bool| -> i64 {
        let meant = sagas.iter().filter(|(order, saga)| {
            saga["status"] == "completed" && (order.wish == Wish::Cashout) == cashouts
        });
        meant.map(|(order, _)| order.cents).sum()
    };
    assert_eq!((cents(&total["held"]), cents(&total["held_by_users"])), (0, 0), "{trial}");
    assert_eq!(cents(&total["escrow"]), completed(false), "{trial}");
    let all = i64::try_from(USERS).unwrap() * each;
    assert_eq!(cents(&total["external"]), completed(true) - all, "{trial}");
}

fn the_books_are_right_whatever_dies(store: &str) {
    let count = size("LOCKBAY_TEST_ORDERS", ORDERS);
    let start = || {
        let settings = [
            ("LOCKBAY_HANDLERS_ALLOW_PRIVATE", "true"),
            ("LOCKBAY_SESSION_TTL", "1"),
            ("LOCKBAY_PAYOUT_PROVIDER", "simulated:refused=10,unknown=5,delay_ms=100"),
        ];
        Server::start_with(&["--store", store], &settings)
    };
    let checker = checker();
    let mut servers: Vec<_> = (0..SERVERS).map(|_| start()).collect();
    let route = json!({"url": checker.url()}).to_string();
    servers[0].put("/v1/handlers/checker", &route).ok();
    let each = deposit(count);
    deposit_everything(&servers[0], each);
    let addresses: Addresses = servers.iter().map(|server| Mutex::new(server.address())).collect();
    let (told, over, clock) =
        (Mutex::new(Told::default()), AtomicBool::new(false), Clock::system());

    let began = clock.tick();
    let (mut havoc, balances) = std::thread::scope(|scope| {
        let auditor = scope.spawn(|| audit(&addresses, &over));
        let havoc = scope.spawn(|| havoc(&mut servers, &addresses, start, &over));
        let until_placed = Until(&over);
        place_all(count, &addresses, &told);
        drop(until_placed);
        (havoc.join().unwrap(), auditor.join().unwrap())
    });
    let placed = clock.tick().since(began);
    let resumed = servers[0].bring_sagas_to_an_end(Duration::from_secs(60));
    let ended = clock.tick().since(began);

    for server in &servers {
        havoc.taken_over += server.saga_metric("sagas_taken_over");
    }
    let told = told.into_inner().unwrap();
    assert_eq!(told.accepted.len() + told.refused, count, "every order has a clear answer");
    let sagas = ended_sagas(&servers[0], &told);
    let mut ends: HashMap<(&str, &str), usize> = HashMap::new();
    for (_, saga) in &sagas {
        let of = (saga["saga_name"].as_str().unwrap(), saga["status"].as_str().unwrap());
        *ends.entry(of).or_default() += 1;
    }
    println!(
        "{count} orders placed in {placed:.1?} and ended after {ended:.1?}, {havoc:?}, {balances} \
         trial balances in motion; {} refused at once, {resumed} resumed by hand; {ends:?}",
        told.refused
    );
    eventually("every server takes part again", || {
        servers.iter().all(|server| server.get("/health/ready").status == 200).then_some(())
    });
    recount(&servers[1], each, &sagas);
    check_totals(&servers[2], each, &sagas);
    let happened = balances > 10 && havoc.killed >= 3 && havoc.taken_over > 0;
    assert!(happened, "the test showed nothing: {havoc:?}");
}

#[test]
fn the_books_are_right_on_redis_although_servers_die_and_freeze_and_steps_fail() {
    let redis = RedisServer::start();
    the_books_are_right_whatever_dies(&redis.url());
}

#[test]
fn the_books_are_right_on_sqlite_although_servers_die_and_freeze_and_steps_fail() {
    let dir = tempfile::tempdir().unwrap();
    the_books_are_right_whatever_dies(&format!("sqlite:{}", dir.path().join("bank.db").display()));
}
