//! A sale: money in escrow, a delivery that fails and is undone, and the money back to its buyer.
//!
//! `cargo run -p lockbay --example escrow`
//!
//! All is kept in memory, so that each run begins anew. With `sqlite:` and a path it would be kept,
//! and after a crash the next run would go on with whatever had not ended.

#![allow(clippy::print_stdout)]

use std::time::Duration;

use async_trait::async_trait;
use lockbay::ledger::{Amount, Currency, UserId};
use lockbay::saga::{
    SagaRequest, SagaStatus, Step, StepContext, StepError, StepOutput, StepSpec, read_only,
};
use lockbay::{Config, Json, LockBay};

/// A step of our own: a courier who has no van at first.
struct Courier;

#[async_trait]
impl Step for Courier {
    /// May come again under the same idempotency key, which the courier's company is given.
    async fn execute(&self, order: StepContext) -> Result<StepOutput, StepError> {
        if order.attempt == 1 {
            println!("  courier: no van is free (attempt 1)");
            // Only because we know that nothing was picked up, and that nothing will be.
            return Err(StepError::retryable("no van is free"));
        }
        println!("  courier: picks up {} (attempt {})", order.parameters.text(), order.attempt);
        Ok(Json::parse(r#"{"tracking":"van-7"}"#)?.into())
    }

    /// May come again, too, and also when it is not known whether there is anything to undo.
    async fn compensate(&self, order: StepContext) -> Result<StepOutput, StepError> {
        match order.original_result {
            Some(picked_up) => println!("  courier: brings it back, {}", picked_up.text()),
            None => println!("  courier: looks {} up first", order.idempotency_key),
        }
        Ok(StepOutput::default())
    }
}

#[tokio::main]
async fn main() -> lockbay::Result<()> {
    let bay = LockBay::open(Config { store: "memory:".into(), ..Config::default() }).await?;
    // Registered before the start, so that sagas of a dead instance find their handlers here.
    bay.sagas().register("courier", Courier)?;
    let nobody_is_there = |_| async { Err(StepError::failed("nobody opens the door")) };
    bay.sagas().register("hand_over", read_only(nobody_is_there))?;
    bay.start();

    let (ann, bob) = (UserId::parse("ann")?, UserId::parse("bob")?);
    let usd = Currency::parse("USD")?;
    bay.ledger().deposit(&ann, &Amount::parse("100.00", usd)?, "deposit of ann").await?;
    show(&bay, "ann has paid in", usd).await?;

    // A saga that comes with LockBay. Its key makes it safe to ask again: there is one escrow.
    let price = Amount::parse("30.00", usd)?;
    let key = Some("order 17".to_owned());
    let escrow = bay.finance().escrow(&ann, &bob, &price, key.clone()).await?.saga_id;
    println!("escrow: {}", end_of(&bay, &escrow).await?.name());
    let again = bay.finance().escrow(&ann, &bob, &price, key).await?;
    println!("escrow, asked for again: the same saga is {}", again.saga_id == escrow);
    show(&bay, "the price is in escrow", usd).await?;

    // A saga of our own. Its first step fails once and is tried again; its second fails for good,
    // and so the first is undone.
    println!("delivery:");
    let parcel = Json::parse(r#"{"parcel":17}"#)?;
    let steps = vec![
        StepSpec::new("pick_up", "courier", parcel.clone()),
        StepSpec::new("hand_over", "hand_over", parcel),
    ];
    let (delivery, status) = bay.sagas().run(SagaRequest::new("delivery", steps)).await?;
    println!("delivery: {}; what happened:", status.name());
    for entry in bay.sagas().history(&delivery, None, 100).await?.items {
        let (step, error) = (entry.step.unwrap_or_default(), entry.error.unwrap_or_default());
        println!("  {} {:<17} {step:<9} {error}", entry.number, entry.event);
    }

    if status == SagaStatus::Compensated {
        let refund = bay.finance().refund(&escrow, None).await?.saga_id;
        println!("refund: {}", end_of(&bay, &refund).await?.name());
    }
    show(&bay, "the sale is off", usd).await?;
    bay.shutdown().await;
    Ok(())
}

/// Waits until a saga has ended or needs a person.
async fn end_of(bay: &LockBay, saga: &str) -> lockbay::Result<SagaStatus> {
    bay.sagas().wait(saga, Duration::from_secs(10)).await
}

/// Shows what both have, and where all the money is: the sum is always zero.
async fn show(bay: &LockBay, when: &str, usd: Currency) -> lockbay::Result<()> {
    let (ann, bob) = (UserId::parse("ann")?, UserId::parse("bob")?);
    let (ann, bob) =
        (bay.ledger().balance(&ann, usd).await?, bay.ledger().balance(&bob, usd).await?);
    println!("{when}: ann has {}, bob has {}", ann.available, bob.available);
    for total in bay.ledger().trial_balance().await?.totals {
        let (users, escrow) = (total.available, total.escrow);
        let (held, outside, sum) = (total.held, total.external, total.sum);
        println!("  users {users}, held {held}, escrow {escrow}, outside {outside}: sum {sum}");
    }
    Ok(())
}
