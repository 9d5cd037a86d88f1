//! The ledger while many move money at once: nothing is lost, nothing is below zero, and a trial
//! balance is right for the moment it names, whatever happens between its pages.
//!
//! Moves are drawn from a seed, inverses, repetitions and nonsense included. What a trial balance
//! says is compared with the movements themselves, added up here and not by the ledger.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm)] // a test fails by panicking

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use lockbay::clock::Clock;
use lockbay::config::Config;
use lockbay::ledger::{
    Amount, Currency, Escrow, Hold, Ledger, Movement, Prepared, TrialBalance, UserId,
};
use lockbay::store::memory::{Memory, MemoryStore};
use lockbay::store::{
    Commit, Description, Effects, Hints, Key, Kind, Page, Partition, Pong, Range, Read, Reply,
    Revision, Store, Upkeep,
};
use lockbay::{ErrorKind, LockBay, Result};

const POSTING: Kind = Kind::new("posting");
const ACCOUNT: Kind = Kind::new("account");

/// A store whose pages of accounts are small, and that lets others go first, or makes one commit,
/// between them.
struct Slow {
    inner: Arc<dyn Store>,
    page: usize,
    /// Scans of accounts so far.
    scans: AtomicUsize,
    /// A commit to make before the scan of accounts of this number, and a movement right after it.
    between: Option<(usize, Commit, Ledger, Movement)>,
}

impl Slow {
    fn bay(inner: Arc<dyn Store>, clock: &Clock, page: usize) -> LockBay {
        let slow = Slow { inner, page, scans: AtomicUsize::new(0), between: None };
        LockBay::with_store(Config::default(), Arc::new(slow), clock.clone())
    }
}

#[async_trait]
impl Store for Slow {
    async fn get(&self, keys: &[Key]) -> Result<Read> {
        self.inner.get(keys).await
    }
    async fn scan(&self, range: &Range, limit: usize) -> Result<Page> {
        tokio::task::yield_now().await;
        let mut limit = limit;
        if range.kind == ACCOUNT {
            limit = limit.min(self.page);
            let scan = self.scans.fetch_add(1, Ordering::Relaxed);
            if let Some((at, commit, ledger, next)) = &self.between
                && *at == scan
            {
                let reply = self.inner.commit(commit).await?;
                assert!(matches!(reply, Reply::Committed { .. }), "{reply:?}");
                ledger.apply(next).await?;
            }
        }
        self.inner.scan(range, limit).await
    }
    async fn due(&self, partition: Partition, kind: Kind, limit: usize) -> Result<Page> {
        self.inner.due(partition, kind, limit).await
    }
    async fn commit(&self, commit: &Commit) -> Result<Reply> {
        self.inner.commit(commit).await
    }
    async fn watch(&self, range: &Range) -> Result<Hints> {
        self.inner.watch(range).await
    }
    async fn ping(&self) -> Result<Pong> {
        self.inner.ping().await
    }
    fn describe(&self) -> Description {
        self.inner.describe()
    }
    fn upkeep(&self) -> &dyn Upkeep {
        self.inner.upkeep()
    }
    async fn accept(&self) -> Result<()> {
        self.inner.accept().await
    }
    async fn close(&self) {
        self.inner.close().await;
    }
}

fn currency(dice: &Dice) -> Currency {
    Currency::parse(if dice.below(4) == 0 { "JPY" } else { "USD" }).unwrap()
}

/// Numbers from a seed.
struct Dice(Clock);

impl Dice {
    fn below(&self, limit: u64) -> u64 {
        self.0.random() % limit
    }
    fn amount(&self, currency: Currency) -> Amount {
        let whole = self.below(40);
        let text = match currency.scale() {
            0 => format!("{}", whole + 1),
            _ => format!("{whole}.{:02}", self.below(99) + 1),
        };
        Amount::parse(&text, currency).unwrap()
    }
    fn user(&self) -> UserId {
        UserId::parse(&format!("u{}", self.below(5))).unwrap()
    }
}

/// Makes one move that is drawn; what the rules forbid does not happen.
async fn make_a_move(ledger: &Ledger, dice: &Dice, id: &str) {
    if dice.below(16) == 0 {
        ledger.lapse_due(5).await.unwrap();
        return;
    }
    let movement = draw(ledger, dice, id).await;
    for _ in 0..=dice.below(2) {
        match ledger.apply(&movement).await {
            Ok(applied) => assert_eq!(applied.movement.movement_id, movement.id()),
            Err(error) => assert!(
                matches!(error.kind(), ErrorKind::Refused | ErrorKind::KeyReused | ErrorKind::Busy),
                "{error:?}"
            ),
        }
    }
}

async fn draw(ledger: &Ledger, dice: &Dice, id: &str) -> Movement {
    let currency = currency(dice);
    let (user, amount) = (dice.user(), dice.amount(currency));
    let (hold_id, escrow_id) = (format!("h{}", dice.below(8)), format!("e{}", dice.below(4)));
    let any = Hold { id: hold_id.clone(), user: user.clone(), amount };
    let hold = ledger.hold(&hold_id, currency).await.unwrap().map_or(any, |open| open.hold);
    let open = ledger.escrow(&escrow_id, currency).await.unwrap();
    let (escrow, inside) = match open {
        Some(open) => (open.escrow, open.amount),
        None => (Escrow { id: escrow_id.clone(), payer: user.clone() }, amount),
    };
    let whole = Hold { id: hold_id, user: escrow.payer.clone(), amount: inside };
    let part = if dice.below(2) == 0 { inside } else { amount };
    match dice.below(18) {
        0..=2 => Movement::deposit(id, "bank", &user, &amount),
        3 => Movement::undo_deposit(id, "bank", &user, &amount),
        4 | 5 => Movement::lock(id, &hold),
        6 => Movement::reserve(id, &hold)
            .and_then(|movement| movement.lapsing_after(Duration::from_millis(1 + dice.below(9)))),
        7 => Movement::void(id, &hold),
        8 | 9 => Movement::escrow(id, &hold, &escrow_id),
        10 => Movement::undo_escrow(id, &whole, &escrow_id),
        11 | 12 => Movement::release(id, &escrow, &user, &part),
        13 => Movement::refund(id, &escrow, &part),
        14 => Movement::undo_release(id, &escrow, &user, &amount),
        15 => Movement::payout(id, &hold, "bank"),
        16 => Movement::undo_payout(id, &hold, "bank"),
        _ => Movement::return_payout(id, "bank", &user, &amount),
    }
    .unwrap()
}

/// By currency: available, held, escrow and external, in the smallest unit.
type Sums = BTreeMap<String, [i128; 4]>;

/// What the movements up to a commit come to, added up from the records themselves.
async fn moved(store: &Arc<dyn Store>, as_of: Revision) -> Sums {
    let mut sums = Sums::new();
    let mut after = None;
    loop {
        let range = Range::new(Partition::FIRST, POSTING, "").after(after);
        let page = store.scan(&range, 1_000).await.unwrap();
        for record in page.records.iter().filter(|record| record.revision <= as_of) {
            let posting: serde_json::Value = serde_json::from_slice(&record.value).unwrap();
            let sums = sums.entry(posting["currency"].as_str().unwrap().to_owned()).or_default();
            for entry in posting["entries"].as_array().unwrap() {
                let account = entry["account"].as_str().unwrap();
                let class = ["user/", "hold/", "escrow/", "external/"]
                    .iter()
                    .position(|class| account.starts_with(class));
                sums[class.unwrap()] += minor(entry["amount"].as_str().unwrap());
            }
        }
        after = page.records.last().map(|last| last.key.id.to_string());
        if !page.more {
            return sums;
        }
    }
}

fn minor(text: &str) -> i128 {
    text.replace('.', "").parse().unwrap()
}

async fn check(store: &Arc<dyn Store>, trial: &TrialBalance, context: &str) {
    assert!(trial.balanced(), "{context}: {trial:?}");
    let told: Sums = trial
        .totals
        .iter()
        .map(|totals| {
            let sums = [totals.available, totals.held, totals.escrow, totals.external];
            (totals.currency.to_string(), sums.map(|sum| minor(&sum.to_string())))
        })
        .filter(|(_, sums)| *sums != [0; 4])
        .collect();
    let mut moved = moved(store, trial.as_of).await;
    moved.retain(|_, sums| *sums != [0; 4]);
    assert_eq!(told, moved, "{context}");
}

/// Some move money while others add it up.
async fn in_motion(store: Arc<dyn Store>, movers: u64, trials: usize, seed: u64) {
    let clock = Clock::system();
    let done = Arc::new(AtomicBool::new(false));
    let moves = Arc::new(AtomicU64::new(0));
    let tasks: Vec<_> = (0..movers)
        .map(|mover| {
            let bay = LockBay::with_store(Config::default(), Arc::clone(&store), clock.clone());
            let (done, moves) = (Arc::clone(&done), Arc::clone(&moves));
            tokio::spawn(async move {
                let dice = Dice(Clock::manual(seed * 100 + mover));
                let mut number = 0;
                while !done.load(Ordering::Relaxed) {
                    // Now and then an id that was used before.
                    number += u64::from(dice.below(20) > 0);
                    let id = format!("m{mover}/{number}");
                    make_a_move(bay.ledger(), &dice, &id).await;
                    moves.fetch_add(1, Ordering::Relaxed);
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    let mut last = Revision::ZERO;
    for trial in 0..trials {
        let before = moves.load(Ordering::Relaxed);
        while moves.load(Ordering::Relaxed) < before + 20 {
            tokio::task::yield_now().await;
        }
        // Larger than what the movers add meanwhile, or the end would never be reached.
        let page = 10 + 5 * (trial % 7);
        let bay = Slow::bay(Arc::clone(&store), &clock, page);
        let balance = bay.ledger().trial_balance().await.unwrap();
        assert!(balance.as_of > last);
        last = balance.as_of;
        check(&store, &balance, &format!("seed {seed}, trial {trial}, pages of {page}")).await;
    }
    done.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.unwrap();
    }
    let bay = Slow::bay(Arc::clone(&store), &clock, 5);
    assert_eq!(bay.ledger().recount().await.unwrap(), []);
    check(&store, &bay.ledger().trial_balance().await.unwrap(), "at rest").await;
}

#[tokio::test]
async fn a_trial_balance_is_right_for_its_moment_while_money_moves_in_memory() {
    for seed in 1..=3 {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new(Clock::system()));
        in_motion(store, 6, 15, seed).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trial_balance_is_right_for_its_moment_while_money_moves_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("ledger.db").display());
    let store = lockbay::store::open(&url, &Clock::system()).await.unwrap();
    in_motion(store, 4, 25, 5).await;
}

#[tokio::test]
async fn any_sequence_of_moves_keeps_every_account_at_zero_or_above() {
    for seed in 0..40 {
        let clock = Clock::manual(seed);
        let bay = LockBay::with_store(
            Config::default(),
            Arc::new(MemoryStore::new(clock.clone())),
            clock.clone(),
        );
        let dice = Dice(Clock::manual(seed));
        for number in 0..150 {
            let id = format!("m/{}", number - dice.below(2) * dice.below(number + 1));
            make_a_move(bay.ledger(), &dice, &id).await;
            clock.advance(Duration::from_millis(dice.below(4)));
        }
        let mut after = None;
        loop {
            let range = Range::new(Partition::FIRST, ACCOUNT, "").after(after);
            let page = bay.store().scan(&range, 1_000).await.unwrap();
            for record in &page.records {
                let account: serde_json::Value = serde_json::from_slice(&record.value).unwrap();
                let balance = minor(account["balance"].as_str().unwrap());
                let is = |class: &str| record.key.id.starts_with(class);
                assert!(balance >= 0 || is("external/"), "seed {seed}: {} {account}", record.key);
                assert!(balance != 0 || is("user/"), "seed {seed}: {} stays", record.key);
            }
            after = page.records.last().map(|last| last.key.id.to_string());
            if !page.more {
                break;
            }
        }
        assert_eq!(bay.ledger().recount().await.unwrap(), [], "seed {seed}");
        let trial = bay.ledger().trial_balance().await.unwrap();
        check(bay.store(), &trial, &format!("seed {seed}")).await;
    }
}

/// Movements that were prepared long ago are committed between any two pages of a trial balance,
/// where the list of movements is not looked at so far back any more. A movement of the same money
/// follows at once, and what it found is not how things were.
#[tokio::test]
async fn a_movement_that_is_committed_long_after_it_was_prepared_is_not_missed() {
    let usd = Currency::parse("USD").unwrap();
    let amount = |text: &str| Amount::parse(text, usd).unwrap();
    let user = |id: &str| UserId::parse(id).unwrap();
    let hold = |id: &str| Hold { id: id.into(), user: user("m"), amount: amount("3") };
    let escrow = |id: &str| Escrow { id: id.into(), payer: user("m") };
    let late = [
        Movement::deposit("late", "bank", &user("m"), &amount("5")),
        Movement::lock("late", &hold("new")),
        Movement::void("late", &hold("h1")),
        Movement::escrow("late", &hold("h1"), "aa"),
        Movement::escrow("late", &hold("h1"), "zz"),
        Movement::undo_escrow("late", &hold("h0"), "e1"),
        Movement::release("late", &escrow("e1"), &user("a"), &amount("3")),
        Movement::release("late", &escrow("e1"), &user("z"), &amount("1")),
        Movement::undo_release("late", &escrow("e2"), &user("m"), &amount("1")),
        Movement::payout("late", &hold("h1"), "bank"),
    ];
    // The user before whom the others stand in the order of accounts, and somebody else.
    let next = ["m", "z"].map(|id| Movement::deposit("next", "bank", &user(id), &amount("1")));
    let next = next.map(Result::unwrap);
    let cases = late.iter().flat_map(|late| next.iter().map(move |next| (late, next)));
    for (number, (late, next)) in cases.enumerate() {
        let late = late.as_ref().unwrap();
        for at in 0..36 {
            let clock = Clock::manual(7);
            let memory = Memory::new(clock.clone());
            let store: Arc<dyn Store> = Arc::new(memory.client());
            let bay = LockBay::with_store(Config::default(), Arc::clone(&store), clock.clone());
            let ledger = bay.ledger();
            for id in ["a", "m", "z"] {
                ledger.deposit(&user(id), &amount("50"), id).await.unwrap();
            }
            for id in 0..10 {
                let other = user(&format!("{id}{id}"));
                ledger.deposit(&other, &amount("1"), &format!("other{id}")).await.unwrap();
            }
            for id in ["e1", "e2", "h1", "h2"] {
                let lock = Movement::lock(&format!("{id}/lock"), &hold(id)).unwrap();
                ledger.apply(&lock).await.unwrap();
            }
            for id in ["e1", "e2"] {
                let become_escrow = Movement::escrow(&format!("{id}/escrow"), &hold(id), id);
                ledger.apply(&become_escrow.unwrap()).await.unwrap();
            }
            let Prepared::Ready(Effects { guards, writes }) = ledger.prepare(late).await.unwrap()
            else {
                panic!()
            };
            let commit = Commit::new(Partition::FIRST, guards, writes, Vec::new()).unwrap();
            clock.advance(Duration::from_secs(60));
            let slow = Slow {
                inner: Arc::clone(&store),
                page: 1,
                scans: AtomicUsize::new(0),
                between: Some((at, commit, ledger.clone(), next.clone())),
            };
            let other = LockBay::with_store(Config::default(), Arc::new(slow), clock.clone());
            let trial = other.ledger().trial_balance().await.unwrap();
            check(&store, &trial, &format!("movement {number} before scan {at}")).await;
        }
    }
}

/// Two stores on one file are to SQLite what two processes are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deposits_of_one_key_from_everywhere_are_made_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    let usd = Currency::parse("USD").unwrap();
    let (user, amount) = (UserId::parse("u").unwrap(), Amount::parse("1.00", usd).unwrap());
    let mut tasks = Vec::new();
    for _ in 0..2 {
        let url = format!("sqlite:{}", path.display());
        let store = lockbay::store::open(&url, &Clock::system()).await.unwrap();
        let bay = LockBay::with_store(Config::default(), store, Clock::system());
        for _ in 0..4 {
            let (bay, user) = (bay.clone(), user.clone());
            tasks.push(tokio::spawn(async move {
                let mut made = 0;
                for key in 0..20 {
                    let key = format!("k{key}");
                    let deposit = bay.ledger().deposit(&user, &amount, &key).await.unwrap();
                    made += u32::from(!deposit.replayed);
                }
                (made, bay)
            }));
        }
    }
    let (mut made, mut bays) = (0, Vec::new());
    for task in tasks {
        let (some, bay) = task.await.unwrap();
        made += some;
        bays.push(bay);
    }
    assert_eq!(made, 20);
    let balance = bays[0].ledger().balance(&user, usd).await.unwrap();
    assert_eq!(balance.available.to_string(), "20.00");
}
