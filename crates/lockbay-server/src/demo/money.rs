//! Act 6: deposits, an escrow and its release, a payout; and what later acts need to know of money.

use anyhow::Context;
use serde_json::{Value, json};

use super::stage::{Reply, Stage};
use super::tell::{Check, short};

/// The users of the tour, and their currency.
pub(super) const BUYER: &str = "ada";
pub(super) const SELLER: &str = "ben";
pub(super) const CURRENCY: &str = "EUR";

/// How long one request waits for the end of a saga.
const WAIT_SECONDS: &str = "15";

/// What somebody has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Balance {
    pub(super) user: &'static str,
    pub(super) available: String,
    pub(super) held: String,
}

pub(super) async fn act(stage: &mut Stage) -> anyhow::Result<()> {
    stage.tell.heading(
        "Money",
        &[
            "Every request for money carries a key, so it may be sent again after a lost answer.",
            "An escrow is a saga of three steps. Each step is committed with the money it moves.",
        ],
    );
    let body = deposit_of(BUYER, "100.00");
    let (path, key) = (["v1", "ledger", "deposits"], Some("deposit-ada"));
    let what = format!("{BUYER} pays in 100.00 {CURRENCY}, key deposit-ada");
    let first = stage.send(0, &path, key, body.clone(), &what).await?;
    stage.tell.answered(first.status, &told(&first));
    let again = stage.send(1, &path, key, body, "the same, as if the answer had been lost").await?;
    stage.tell.answered(again.status, &told(&again));
    stage.tell.check(booked_once(&first, &again));
    let what = format!("{SELLER} pays in 20.00 {CURRENCY}");
    let body = deposit_of(SELLER, "20.00");
    let other = stage.send(2, &path, Some("deposit-ben"), body, &what).await?;
    stage.tell.answered(other.status, &told(&other));

    let body =
        json!({ "buyer_id": BUYER, "seller_id": SELLER, "amount": "40.00", "currency": CURRENCY });
    let what = format!("40.00 {CURRENCY} of {BUYER}, set apart for {SELLER}");
    let path = ["v1", "sagas", "escrow"];
    let started = stage.send(1, &path, Some("escrow-1"), body, &what).await?;
    let escrow = saga_of(&started)?;
    let ended = end_of(stage, 1, &escrow).await?;
    stage
        .tell
        .answered(started.status, &format!("saga {}: {}", short(&escrow), ended.text("status")));
    let balances = balances(stage, 2).await?;
    stage.tell.say(&in_words(&balances));
    let expected = expected("60.00", "20.00");
    let promise = "an escrow sets money apart, all of it or none";
    stage.tell.check(moved(promise, &ended, &balances, &expected));

    let path = ["v1", "sagas", "release"];
    let body = json!({ "escrow_id": escrow });
    let started = stage.send(2, &path, Some("release-1"), body, "the goods have come: pay").await?;
    let release = saga_of(&started)?;
    let ended = end_of(stage, 2, &release).await?;
    stage
        .tell
        .answered(started.status, &format!("saga {}: {}", short(&release), ended.text("status")));
    let balances = self::balances(stage, 0).await?;
    stage.tell.say(&in_words(&balances));
    let expected = self::expected("60.00", "60.00");
    stage.tell.check(moved("a release pays the seller, once", &ended, &balances, &expected));
    pay_out(stage).await
}

/// Pays out what the seller has, and sends the request twice.
async fn pay_out(stage: &mut Stage) -> anyhow::Result<()> {
    let (path, key) = (["v1", "sagas", "cashout"], Some("cashout-1"));
    let body = json!({ "user_id": SELLER, "amount": "15.00", "currency": CURRENCY,
        "destination": "DE00 1234" });
    let what = format!("pay 15.00 {CURRENCY} out to {SELLER}, by a provider that only pretends");
    let first = stage.send(0, &path, key, body.clone(), &what).await?;
    let saga = saga_of(&first)?;
    stage.tell.answered(first.status, &format!("saga {}", short(&saga)));
    let again = stage.send(1, &path, key, body, "the same, as if the answer had been lost").await?;
    let ended = end_of(stage, 1, &saga).await?;
    let what = format!("the same saga {}: {}", short(&again.text("saga_id")), ended.text("status"));
    stage.tell.answered(again.status, &what);
    let balances = balances(stage, 2).await?;
    stage.tell.say(&in_words(&balances));
    let expected = expected("60.00", "45.00");
    let promise = "a payout that is asked for twice is one saga";
    let mut check = moved(promise, &ended, &balances, &expected);
    check.held &= same_saga(&first, &again);
    stage.tell.check(check);
    Ok(())
}

fn deposit_of(user: &str, amount: &str) -> Value {
    json!({ "user_id": user, "amount": amount, "currency": CURRENCY })
}

fn told(reply: &Reply) -> String {
    if !matches!(reply.status, 200 | 201) {
        return reply.refusal();
    }
    let before = if reply.replayed { "replayed, not booked again: " } else { "booked: " };
    format!("{before}{} has {} {CURRENCY}", reply.text("user_id"), reply.text("available"))
}

/// The saga that an answer is about.
pub(super) fn saga_of(reply: &Reply) -> anyhow::Result<String> {
    let id = reply.body["saga_id"].as_str();
    id.map(str::to_owned).with_context(|| format!("the saga was not started: {}", reply.refusal()))
}

/// A saga once it has come to rest, or as it stands after a long wait.
pub(super) async fn end_of(stage: &Stage, at: usize, saga: &str) -> anyhow::Result<Reply> {
    let wait = [("wait_seconds", WAIT_SECONDS)];
    let seen = stage.watch(
        "the saga has ended",
        async || stage.get(at, &["v1", "sagas", saga], &wait).await,
        |_| true,
    );
    seen.await
}

/// What the users of the tour have.
pub(super) async fn balances(stage: &Stage, at: usize) -> anyhow::Result<Vec<Balance>> {
    let mut found = Vec::new();
    for user in [BUYER, SELLER] {
        let path = ["v1", "ledger", "accounts", user];
        let reply = stage.get(at, &path, &[("currency", CURRENCY)]).await?;
        let (available, held) = (reply.text("available"), reply.text("held"));
        found.push(Balance { user, available, held });
    }
    Ok(found)
}

fn expected(buyer: &str, seller: &str) -> Vec<Balance> {
    let of =
        |user, available: &str| Balance { user, available: available.into(), held: "0.00".into() };
    vec![of(BUYER, buyer), of(SELLER, seller)]
}

/// Balances in a line of the tour.
pub(super) fn in_words(balances: &[Balance]) -> String {
    format!("      {}", have(balances))
}

pub(super) fn have(balances: &[Balance]) -> String {
    let one = |Balance { user, available, held }: &Balance| match &**held {
        "0.00" => format!("{user} has {available}"),
        held => format!("{user} has {available} and {held} on hold"),
    };
    balances.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn booked_once(first: &Reply, again: &Reply) -> Check {
    let held = first.status == 201
        && !first.replayed
        && again.status == 200
        && again.replayed
        && first.body["available"] == "100.00"
        && again.body == first.body;
    let seen = format!("{}, then {}", first.text("available"), again.text("available"));
    Check::new("a deposit that is sent twice is booked once", held, seen)
}

fn same_saga(first: &Reply, again: &Reply) -> bool {
    first.body["saga_id"].is_string()
        && first.body["saga_id"] == again.body["saga_id"]
        && !first.replayed
        && again.replayed
}

fn moved(promise: &'static str, saga: &Reply, found: &[Balance], expected: &[Balance]) -> Check {
    let held = saga.body["status"] == "completed" && found == expected;
    Check::new(promise, held, format!("{}: {}", saga.text("status"), have(found)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deposit_that_is_booked_twice_or_not_at_all_fails() {
        let body = |available: &str| json!({ "available": available, "movement_id": "m" });
        let first = Reply { status: 201, replayed: false, body: body("100.00") };
        let again = Reply { status: 200, replayed: true, body: body("100.00") };
        assert!(booked_once(&first, &again).held);
        assert!(!booked_once(&first, &first).held);
        let twice = Reply { body: body("200.00"), ..again.clone() };
        assert!(!booked_once(&first, &twice).held);
        assert!(!booked_once(&Reply { body: body("0.00"), ..first }, &again).held);
    }

    #[test]
    fn a_request_that_starts_a_second_saga_fails() {
        let started =
            |id: &str, replayed| Reply { status: 202, replayed, body: json!({ "saga_id": id }) };
        assert!(same_saga(&started("s", false), &started("s", true)));
        assert!(!same_saga(&started("s", false), &started("t", true)));
        assert!(!same_saga(&started("s", false), &started("s", false)));
        let refused = Reply { status: 422, replayed: false, body: json!({}) };
        assert!(!same_saga(&refused, &refused));
    }

    #[test]
    fn a_wrong_balance_or_an_unfinished_saga_fails() {
        let saga = |status: &str| Reply {
            status: 200,
            replayed: false,
            body: json!({ "status": status }),
        };
        let fine = expected("60.00", "20.00");
        assert!(moved("p", &saga("completed"), &fine, &fine).held);
        assert!(!moved("p", &saga("running"), &fine, &fine).held);
        assert!(!moved("p", &saga("completed"), &expected("60.00", "60.00"), &fine).held);
        let mut hold_left = fine.clone();
        hold_left[0].held = "40.00".into();
        assert!(!moved("p", &saga("completed"), &hold_left, &fine).held);
    }
}
