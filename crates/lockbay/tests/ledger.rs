//! What the ledger promises, under a clock that the test steps. `tests/ledger_motion.rs` has the
//! promises that are tried by many at once, on SQLite too.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm)] // a test fails by panicking

mod support {
    pub mod stepped;
}

use std::time::Duration;

use lockbay::ledger::{
    Account, Amount, Currency, Escrow, Hold, Lapsed, Ledger, Movement, MovementKind, Prepared,
    UserId,
};
use lockbay::metrics::Metric;
use lockbay::store::{Commit, Deadline, Effects, Key, Kind, Partition, Reply, Write};
use lockbay::{ErrorKind, LockBay};
use support::stepped::World;

fn usd() -> Currency {
    Currency::parse("USD").unwrap()
}

fn amount(text: &str) -> Amount {
    Amount::parse(text, usd()).unwrap()
}

fn user(id: &str) -> UserId {
    UserId::parse(id).unwrap()
}

fn hold(id: &str, owner: &str, text: &str) -> Hold {
    Hold { id: id.into(), user: user(owner), amount: amount(text) }
}

fn kind<T: std::fmt::Debug>(result: lockbay::Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

async fn effects(ledger: &Ledger, movement: &Movement) -> Effects {
    match ledger.prepare(movement).await.unwrap() {
        Prepared::Ready(effects) => effects,
        Prepared::Already(info) => panic!("happened before: {info:?}"),
    }
}

async fn commit(bay: &LockBay, effects: Effects) -> Reply {
    let Effects { guards, writes } = effects;
    let commit = Commit::new(Partition::FIRST, guards, writes, Vec::new()).unwrap();
    bay.store().commit(&commit).await.unwrap()
}

/// What a user has: available and held.
async fn has(ledger: &Ledger, id: &str) -> (String, String) {
    let balance = ledger.balance(&user(id), usd()).await.unwrap();
    (balance.available.to_string(), balance.held.to_string())
}

fn texts(available: &str, held: &str) -> (String, String) {
    (available.into(), held.into())
}

/// Nothing in the store has changed since `revision`.
async fn revision(bay: &LockBay) -> u64 {
    bay.store().ping().await.unwrap().revision.number()
}

#[tokio::test]
async fn a_deposit_is_made_once_however_often_it_is_asked_for() {
    let world = World::new(1);
    let (a, b) = (world.instance().bay, world.instance().bay);
    let first = a.ledger().deposit(&user("alice"), &amount("10.50"), "k/1").await.unwrap();
    assert!(!first.replayed);
    assert_eq!(first.movement.kind, MovementKind::Deposit);
    assert_eq!(first.movement.legs.len(), 2);
    assert_eq!(first.movement.legs[1].balance.to_string(), "10.50");
    let again = b.ledger().deposit(&user("alice"), &amount("10.5"), "k/1").await.unwrap();
    assert_eq!((again.replayed, again.movement), (true, first.movement));
    for (to, much) in [("bob", "10.50"), ("alice", "10.51")] {
        let other = b.ledger().deposit(&user(to), &amount(much), "k/1").await;
        assert_eq!(kind(other), ErrorKind::KeyReused);
    }
    let euros = Amount::parse("10.50", Currency::parse("EUR").unwrap()).unwrap();
    let other = b.ledger().deposit(&user("alice"), &euros, "k/1").await;
    assert_eq!(kind(other), ErrorKind::KeyReused);
    assert_eq!(has(a.ledger(), "alice").await, texts("10.50", "0.00"));
    assert_eq!(has(a.ledger(), "nobody").await, texts("0.00", "0.00"));
}

#[tokio::test]
async fn an_escrow_goes_from_the_buyer_to_the_seller_and_all_the_way_back() {
    let world = World::new(2);
    let bay = world.instance().bay;
    let ledger = bay.ledger();
    ledger.deposit(&user("buyer"), &amount("100"), "k").await.unwrap();
    let held = hold("h", "buyer", "40");
    let escrow = Escrow { id: "e".into(), payer: user("buyer") };
    let of = |step: &str| format!("s1/{step}/do");

    ledger.apply(&Movement::lock(&of("lock"), &held).unwrap()).await.unwrap();
    assert_eq!(has(ledger, "buyer").await, texts("60.00", "40.00"));
    ledger.apply(&Movement::escrow(&of("escrow"), &held, "e").unwrap()).await.unwrap();
    assert_eq!(has(ledger, "buyer").await, texts("60.00", "0.00"));
    assert_eq!(ledger.hold("h", usd()).await.unwrap(), None);
    assert_eq!(ledger.escrow("e", usd()).await.unwrap().unwrap().amount, amount("40"));
    let release = Movement::release(&of("release"), &escrow, &user("seller"), &amount("40"));
    ledger.apply(&release.unwrap()).await.unwrap();
    assert_eq!(has(ledger, "seller").await, texts("40.00", "0.00"));
    assert_eq!(ledger.escrow("e", usd()).await.unwrap(), None);

    let undo = |step: &str| format!("s1/{step}/undo");
    let back =
        Movement::undo_release(&undo("release"), &escrow, &user("seller"), &amount("40")).unwrap();
    ledger.apply(&back).await.unwrap();
    ledger.apply(&Movement::undo_escrow(&undo("escrow"), &held, "e").unwrap()).await.unwrap();
    assert_eq!(has(ledger, "buyer").await, texts("60.00", "40.00"));
    ledger.apply(&Movement::void(&undo("lock"), &held).unwrap()).await.unwrap();
    assert_eq!(has(ledger, "buyer").await, texts("100.00", "0.00"));
    assert_eq!(has(ledger, "seller").await, texts("0.00", "0.00"));
    let again = ledger.apply(&back).await.unwrap();
    assert!(again.replayed, "a repetition is told whatever became of the accounts");
}

#[tokio::test]
async fn a_payout_that_comes_back_is_undone_or_returned() {
    let world = World::new(3);
    let bay = world.instance().bay;
    let ledger = bay.ledger();
    ledger.deposit(&user("u"), &amount("10"), "k").await.unwrap();
    let held = hold("h", "u", "4");
    ledger.apply(&Movement::reserve("r", &held).unwrap()).await.unwrap();
    ledger.apply(&Movement::payout("p1", &held, "bank").unwrap()).await.unwrap();
    assert_eq!(has(ledger, "u").await, texts("6.00", "0.00"));
    assert_eq!(
        kind(ledger.apply(&Movement::payout("p2", &held, "bank").unwrap()).await),
        ErrorKind::Refused
    );
    ledger.apply(&Movement::undo_payout("p1u", &held, "bank").unwrap()).await.unwrap();
    assert_eq!(has(ledger, "u").await, texts("6.00", "4.00"));
    ledger.apply(&Movement::payout("p3", &held, "bank").unwrap()).await.unwrap();
    let back = Movement::return_payout("p3r", "bank", &user("u"), &amount("4")).unwrap();
    ledger.apply(&back).await.unwrap();
    assert_eq!(has(ledger, "u").await, texts("10.00", "0.00"));
    let wrong = Movement::undo_deposit("d", "deposits", &user("u"), &amount("10.01")).unwrap();
    assert_eq!(kind(ledger.apply(&wrong).await), ErrorKind::Refused);
    let undo = Movement::undo_deposit("d", "deposits", &user("u"), &amount("10")).unwrap();
    ledger.apply(&undo).await.unwrap();
    assert_eq!(has(ledger, "u").await, texts("0.00", "0.00"));
    for provider in ["deposits", "bank", "ban"] {
        assert!(ledger.outside(provider, usd()).await.unwrap().is_zero(), "{provider}");
    }
    ledger.deposit(&user("u"), &amount("3"), "k2").await.unwrap();
    assert_eq!(ledger.outside("deposits", usd()).await.unwrap().to_string(), "-3.00");
}

#[tokio::test]
async fn what_the_business_refuses_writes_nothing() {
    let world = World::new(4);
    let bay = world.instance().bay;
    let ledger = bay.ledger();
    ledger.deposit(&user("u"), &amount("10"), "k").await.unwrap();
    ledger.deposit(&user("rich"), &amount("1e15"), "k2").await.unwrap();
    ledger.apply(&Movement::lock("l", &hold("h", "u", "4")).unwrap()).await.unwrap();
    ledger.apply(&Movement::lock("l2", &hold("h2", "u", "2")).unwrap()).await.unwrap();
    ledger.apply(&Movement::escrow("e", &hold("h2", "u", "2"), "e").unwrap()).await.unwrap();
    let escrow = |payer: &str| Escrow { id: "e".into(), payer: user(payer) };
    let before = revision(&bay).await;
    for (wish, words) in [
        (Movement::lock("x", &hold("new", "u", "4.01")), "4.00 of the 4.01"),
        (Movement::lock("x", &hold("h", "u", "1")), "open already"),
        (Movement::void("x", &hold("other", "u", "4")), "not open"),
        (Movement::void("x", &hold("h2", "u", "2")), "not open"),
        (Movement::void("x", &hold("h", "u", "3.99")), "holds 4.00"),
        (Movement::void("x", &hold("h", "thief", "4")), "not of user"),
        (Movement::payout("x", &hold("h", "thief", "4"), "bank"), "not of user"),
        (Movement::escrow("x", &hold("h", "u", "4"), "e"), "open already"),
        (Movement::undo_escrow("x", &hold("h2", "u", "1"), "e"), "holds 2.00"),
        (Movement::undo_escrow("x", &hold("h2", "thief", "2"), "e"), "not of user"),
        (Movement::release("x", &escrow("u"), &user("v"), &amount("2.01")), "2.00 of the 2.01"),
        (Movement::refund("x", &escrow("thief"), &amount("2")), "not of user"),
        (Movement::deposit("x", "bank", &user("rich"), &amount("0.01")), "more than"),
    ] {
        let wish = wish.unwrap();
        let error = ledger.apply(&wish).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
        assert!(error.message().contains(words), "{error}");
        assert_eq!(ledger.movement("x").await.unwrap(), None);
    }
    assert_eq!(revision(&bay).await, before);
}

#[tokio::test]
async fn what_is_no_movement_cannot_be_wished_for() {
    let long = "x".repeat(513);
    let fine = hold("h", "u", "1");
    for id in ["", "a\nb", long.as_str()] {
        assert_eq!(kind(Movement::lock(id, &fine)), ErrorKind::Invalid);
        let deposit = Movement::deposit(id, "bank", &user("u"), &amount("1"));
        assert_eq!(kind(deposit), ErrorKind::Invalid);
    }
    for id in ["", "a/b", "a\0b"] {
        assert_eq!(
            kind(Movement::lock("m", &Hold { id: id.into(), ..fine.clone() })),
            ErrorKind::Invalid
        );
        assert_eq!(kind(Movement::escrow("m", &fine, id)), ErrorKind::Invalid);
        assert_eq!(kind(Movement::payout("m", &fine, id)), ErrorKind::Invalid);
    }
    let lock = || Movement::lock("s1/lock/do", &fine).unwrap();
    assert!(lock().of_saga("s1", "lock").is_ok());
    for saga in ["s", "s2", "s1/lock", ""] {
        assert_eq!(kind(lock().of_saga(saga, "lock")), ErrorKind::Invalid, "{saga}");
    }
    for ttl in [Duration::ZERO, Duration::from_secs(367 * 24 * 3600)] {
        assert_eq!(kind(lock().lapsing_after(ttl)), ErrorKind::Invalid);
    }
    let void = Movement::void("m", &fine).unwrap();
    assert_eq!(kind(void.lapsing_after(Duration::from_secs(1))), ErrorKind::Invalid);
}

#[tokio::test]
async fn effects_prepared_twice_are_committed_once() {
    let world = World::new(5);
    let bay = world.instance().bay;
    let ledger = bay.ledger();
    ledger.deposit(&user("u"), &amount("10"), "k").await.unwrap();
    let lock = Movement::lock("s/lock/do", &hold("h", "u", "6")).unwrap();
    let lock = lock.of_saga("s", "lock").unwrap();
    let (one, two) = (effects(ledger, &lock).await, effects(ledger, &lock).await);
    assert!(matches!(commit(&bay, one).await, Reply::Committed { .. }));
    assert!(matches!(commit(&bay, two).await, Reply::Conflict { .. }));
    let Prepared::Already(info) = ledger.prepare(&lock).await.unwrap() else { panic!() };
    assert_eq!(info.reference.unwrap().saga_id, "s");
    let other = Movement::lock("s/lock/do", &hold("h", "u", "5")).unwrap();
    assert_eq!(kind(ledger.prepare(&other).await), ErrorKind::KeyReused);

    let more = Movement::lock("other", &hold("h2", "u", "4")).unwrap();
    let stale = effects(ledger, &more).await;
    ledger.deposit(&user("u"), &amount("1"), "k2").await.unwrap();
    assert!(matches!(commit(&bay, stale).await, Reply::Conflict { .. }), "the account changed");
    assert_eq!(has(ledger, "u").await, texts("5.00", "6.00"));
    let page = ledger.postings("s", None, 10).await.unwrap();
    assert_eq!((page.items.len(), page.next), (1, None));
    assert_eq!(page.items[0].movement_id, "s/lock/do");
    assert_eq!(page.items[0].legs[1].account, Account::Hold("h".into(), usd()));
}

#[tokio::test]
async fn a_hold_that_has_lapsed_is_voided_once_and_never_posted() {
    let world = World::new(6);
    let (bay, other) = (world.instance().bay, world.instance().bay);
    let ledger = bay.ledger();
    ledger.deposit(&user("u"), &amount("10"), "k").await.unwrap();
    let held = hold("h", "u", "6");
    let lock = Movement::lock("s/lock/do", &held).unwrap().of_saga("s", "lock").unwrap();
    ledger.apply(&lock.lapsing_after(Duration::from_secs(60)).unwrap()).await.unwrap();
    ledger.apply(&Movement::lock("l", &hold("lasting", "u", "1")).unwrap()).await.unwrap();
    let early = effects(ledger, &Movement::payout("early", &held, "bank").unwrap()).await;
    assert_eq!(ledger.lapse_due(10).await.unwrap(), Lapsed { voided: 0, more: false });
    world.clock.advance(Duration::from_secs(60));
    assert!(ledger.hold("h", usd()).await.unwrap().unwrap().lapsed);
    assert!(matches!(commit(&bay, early).await, Reply::Conflict { .. }), "prepared in time");
    let late = Movement::payout("late", &held, "bank").unwrap();
    assert_eq!(kind(ledger.prepare(&late).await), ErrorKind::Refused);
    let (a, b) = tokio::join!(ledger.lapse_due(10), other.ledger().lapse_due(10));
    assert_eq!(a.unwrap().voided + b.unwrap().voided, 1);
    assert_eq!(has(ledger, "u").await, texts("9.00", "1.00"));
    let page = ledger.postings("s", None, 10).await.unwrap();
    let kinds: Vec<_> = page.items.iter().map(|item| item.kind.name()).collect();
    assert_eq!(kinds, ["lapse", "lock"]);
    assert_eq!(kind(ledger.apply(&Movement::void("v", &held).unwrap()).await), ErrorKind::Refused);
}

#[tokio::test]
async fn a_hold_ends_once_whoever_ends_it_in_whichever_way() {
    let world = World::new(7);
    let bay = world.instance().bay;
    let ledger = bay.ledger();
    ledger.deposit(&user("u"), &amount("10"), "k").await.unwrap();
    let held = hold("h", "u", "6");
    let ends = [
        Movement::void("void", &held).unwrap(),
        Movement::payout("payout", &held, "bank").unwrap(),
        Movement::payout("payout2", &held, "bank").unwrap(),
        Movement::escrow("escrow", &held, "e").unwrap(),
    ];
    for first in 0..ends.len() {
        ledger.apply(&Movement::lock(&format!("l{first}"), &held).unwrap()).await.unwrap();
        let mut prepared = Vec::new();
        for end in &ends {
            match ledger.prepare(end).await.unwrap() {
                Prepared::Ready(effects) => prepared.push(effects),
                Prepared::Already(_) => {}
            }
        }
        let mut committed = 0;
        for effects in prepared {
            committed += u32::from(matches!(commit(&bay, effects).await, Reply::Committed { .. }));
        }
        assert_eq!(committed, 1);
        ledger.deposit(&user("u"), &amount("6"), &format!("more{first}")).await.unwrap();
    }
    assert_eq!(ledger.recount().await.unwrap(), []);
    assert!(ledger.trial_balance().await.unwrap().balanced());
}

#[tokio::test]
async fn damage_to_a_record_is_told_by_the_trial_balance_and_the_recount() {
    let world = World::new(8);
    let bay = world.instance().bay;
    let ledger = bay.ledger();
    ledger.deposit(&user("u"), &amount("10"), "k").await.unwrap();
    assert!(ledger.trial_balance().await.unwrap().balanced());
    let key = Key::new(Partition::FIRST, Kind::new("account"), "user/u/USD");
    let value = br#"{"balance":"10.01","held":"0.00"}"#.to_vec();
    let damage = Write::Put { key, value, deadline: Deadline::Never };
    let effects = Effects { guards: Vec::new(), writes: vec![damage] };
    assert!(matches!(commit(&bay, effects).await, Reply::Committed { .. }));
    let trial = ledger.trial_balance().await.unwrap();
    assert_eq!(trial.totals[0].sum.to_string(), "0.01");
    assert!(!trial.balanced());
    assert_eq!(bay.metrics().value(Metric::LedgerUnbalanced), 1);
    let differences = ledger.recount().await.unwrap();
    assert_eq!(differences.len(), 1);
    assert_eq!(differences[0].account, Account::User(user("u"), usd()));
    assert_eq!(differences[0].moved.to_string(), "10.00");
}
