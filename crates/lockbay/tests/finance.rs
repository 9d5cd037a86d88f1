//! The financial sagas: money is where it belongs, whatever happens on the way.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod support {
    pub mod stepped;
}

use std::sync::Arc;
use std::time::Duration;

use lockbay::ErrorKind;
use lockbay::finance::Mischief;
use lockbay::ledger::{Amount, Currency, UserId};
use lockbay::saga::{Decision, SagaStatus};
use support::stepped::{Instance, World};

struct Bank {
    world: World,
    instance: Instance,
    usd: Currency,
}

impl Bank {
    async fn new() -> Bank {
        let world = World::new(7);
        let instance = world.instance();
        let bank = Bank { world, instance, usd: Currency::parse("USD").unwrap() };
        for user in ["ann", "bob"] {
            let (user, amount) = (bank.user(user), bank.amount("100.00"));
            bank.instance.bay.ledger().deposit(&user, &amount, user.as_str()).await.unwrap();
        }
        bank
    }

    fn user(&self, id: &str) -> UserId {
        UserId::parse(id).unwrap()
    }

    fn amount(&self, text: &str) -> Amount {
        Amount::parse(text, self.usd).unwrap()
    }

    async fn has(&self, user: &str) -> (String, String) {
        let ledger = self.instance.bay.ledger();
        let balance = ledger.balance(&self.user(user), self.usd).await.unwrap();
        (balance.available.to_string(), balance.held.to_string())
    }

    async fn ends(&self, id: &str) -> SagaStatus {
        let sagas = self.instance.bay.sagas();
        for _ in 0..400 {
            let status = sagas.status(id).await.unwrap();
            if status.is_terminal() || status == SagaStatus::Parked {
                return status;
            }
            self.world.pass(Duration::from_millis(100)).await;
        }
        panic!("saga {id} does not end: {:?}", sagas.show(id).await);
    }

    /// Payouts go wrong in this way from now on.
    fn misbehaves(&self, mischief: Mischief) {
        let bay = &self.instance.bay;
        let provider = bay.simulated_provider(mischief);
        bay.finance().pay_through(Arc::new(provider)).unwrap();
    }

    async fn balances(&self) {
        let ledger = self.instance.bay.ledger();
        let trial = ledger.trial_balance().await.unwrap();
        assert!(trial.balanced(), "{trial:?}");
        assert!(ledger.recount().await.unwrap().is_empty());
    }
}

fn own(pair: (&str, &str)) -> (String, String) {
    (pair.0.into(), pair.1.into())
}

#[tokio::test]
async fn an_escrow_holds_the_money_until_it_is_released_once() {
    let bank = Bank::new().await;
    let finance = bank.instance.bay.finance();
    let (ann, bob) = (bank.user("ann"), bank.user("bob"));
    let escrow = finance.escrow(&ann, &bob, &bank.amount("30.00"), None).await.unwrap();
    assert_eq!(bank.ends(&escrow.saga_id).await, SagaStatus::Completed);
    assert_eq!(bank.has("ann").await, own(("70.00", "0.00")));
    assert_eq!(bank.has("bob").await, own(("100.00", "0.00")));
    let release = finance.release(&escrow.saga_id, None).await.unwrap();
    assert_eq!(bank.ends(&release.saga_id).await, SagaStatus::Completed);
    assert_eq!(bank.has("bob").await, own(("130.00", "0.00")));
    let again = finance.release(&escrow.saga_id, None).await.unwrap();
    assert!(again.replayed);
    let refused = finance.refund(&escrow.saga_id, None).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Refused, "{refused}");
    assert_eq!(bank.has("bob").await, own(("130.00", "0.00")));
    bank.balances().await;
}

#[tokio::test]
async fn a_refund_gives_the_escrow_back_to_its_buyer() {
    let bank = Bank::new().await;
    let finance = bank.instance.bay.finance();
    let (ann, bob) = (bank.user("ann"), bank.user("bob"));
    let escrow = finance.escrow(&ann, &bob, &bank.amount("30.00"), None).await.unwrap();
    bank.ends(&escrow.saga_id).await;
    let refund = finance.refund(&escrow.saga_id, None).await.unwrap();
    assert_eq!(bank.ends(&refund.saga_id).await, SagaStatus::Completed);
    assert_eq!(bank.has("ann").await, own(("100.00", "0.00")));
    bank.balances().await;
}

#[tokio::test]
async fn a_cashout_pays_once_and_leaves_no_hold() {
    let bank = Bank::new().await;
    let finance = bank.instance.bay.finance();
    let key = Some("k".to_owned());
    let (ann, amount) = (bank.user("ann"), bank.amount("40.00"));
    let first = finance.cashout(&ann, &amount, "iban", key.clone()).await.unwrap();
    assert_eq!(bank.ends(&first.saga_id).await, SagaStatus::Completed);
    let again = finance.cashout(&ann, &amount, "iban", key).await.unwrap();
    assert_eq!((again.saga_id, again.replayed), (first.saga_id, true));
    assert_eq!(bank.has("ann").await, own(("60.00", "0.00")));
    bank.balances().await;
}

#[tokio::test]
async fn a_payout_that_the_bank_refuses_gives_the_money_back() {
    let bank = Bank::new().await;
    let bay = &bank.instance.bay;
    bank.misbehaves(Mischief { refused: 100.0, ..Mischief::default() });
    let (ann, amount) = (bank.user("ann"), bank.amount("40.00"));
    let cashout = bay.finance().cashout(&ann, &amount, "iban", None).await.unwrap();
    assert_eq!(bank.ends(&cashout.saga_id).await, SagaStatus::Compensated);
    assert_eq!(bank.has("ann").await, own(("100.00", "0.00")));
    bank.balances().await;
}

#[tokio::test]
async fn a_payout_whose_answer_stays_away_is_parked_with_its_hold_until_a_person_decides() {
    let bank = Bank::new().await;
    let bay = &bank.instance.bay;
    bank.misbehaves(Mischief { unknown: 100.0, ..Mischief::default() });
    let (ann, amount) = (bank.user("ann"), bank.amount("40.00"));
    let cashout = bay.finance().cashout(&ann, &amount, "iban", None).await.unwrap();
    let id = cashout.saga_id.as_str();
    bank.world.pass(Duration::from_secs(300)).await;
    assert_eq!(bank.ends(id).await, SagaStatus::Parked);
    assert_eq!(bank.has("ann").await, own(("60.00", "40.00")));
    let refused = bay.sagas().operate(id, &Decision::Cancel, "ann", "slow").await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Refused);
    let undone = Decision::ResolveUndone { step: "process_withdrawal".into() };
    bay.sagas().operate(id, &undone, "ops", "the bank says it never paid").await.unwrap();
    assert_eq!(bank.ends(id).await, SagaStatus::Compensated);
    assert_eq!(bank.has("ann").await, own(("100.00", "0.00")));
    bank.balances().await;
}

#[tokio::test]
async fn a_payout_that_a_person_says_was_made_is_posted_and_its_hold_is_not_passed_over() {
    let bank = Bank::new().await;
    let bay = &bank.instance.bay;
    bank.misbehaves(Mischief { unknown: 100.0, ..Mischief::default() });
    let (ann, amount) = (bank.user("ann"), bank.amount("40.00"));
    let cashout = bay.finance().cashout(&ann, &amount, "iban", None).await.unwrap();
    let id = cashout.saga_id.as_str();
    bank.world.pass(Duration::from_secs(300)).await;
    assert_eq!(bank.ends(id).await, SagaStatus::Parked);
    let step = || "process_withdrawal".to_owned();
    let skip = Decision::Skip { step: step() };
    let refused = bay.sagas().operate(id, &skip, "ops", "tired of it").await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Refused, "{refused}");
    let done = Decision::ResolveDone { step: step(), result: lockbay::Json::null() };
    bay.sagas().operate(id, &done, "ops", "the bank says it paid").await.unwrap();
    assert_eq!(bank.ends(id).await, SagaStatus::Completed);
    assert_eq!(bank.has("ann").await, own(("60.00", "0.00")));
    bank.balances().await;
}

#[tokio::test]
async fn what_cannot_be_paid_is_refused_before_anything_is_written() {
    let bank = Bank::new().await;
    let finance = bank.instance.bay.finance();
    let (ann, bob) = (bank.user("ann"), bank.user("bob"));
    let before = bank.instance.store.calls();
    let poor = finance.escrow(&ann, &bob, &bank.amount("100.01"), None).await.unwrap_err();
    assert_eq!(poor.kind(), ErrorKind::Refused, "{poor}");
    let same = finance.escrow(&ann, &ann, &bank.amount("1.00"), None).await.unwrap_err();
    assert_eq!(same.kind(), ErrorKind::Invalid, "{same}");
    let poor = finance.cashout(&ann, &bank.amount("100.01"), "iban", None).await.unwrap_err();
    assert_eq!(poor.kind(), ErrorKind::Refused, "{poor}");
    assert_eq!(bank.instance.store.calls() - before, 2, "two balances were read");
    bank.balances().await;
}
