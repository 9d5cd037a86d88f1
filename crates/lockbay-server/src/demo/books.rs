//! Act 9: after all of that, money and work add up.

use serde_json::Value;

use super::money::CURRENCY;
use super::stage::{Reply, Stage, text};
use super::tell::Check;

/// Statuses of a saga that somebody still has to do something about.
const UNFINISHED: [&str; 4] = ["pending", "running", "compensating", "parked"];

/// How many there are of what has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Counts {
    unfinished: usize,
    completed: usize,
    compensated: usize,
    jobs: usize,
}

/// What the acts before have done: escrow, release, cash-out and the order that outlived a crash;
/// the order that was rolled back; the job.
const DONE: Counts = Counts { unfinished: 0, completed: 4, compensated: 1, jobs: 2 };

pub(super) async fn act(stage: &mut Stage) -> anyhow::Result<()> {
    stage.tell.heading(
        "The books",
        &[
            "Every movement has two sides, so all accounts together come to zero at any moment:",
            "after duplicates, a rollback and a crash, too. And nothing may be left half done.",
        ],
    );
    let trial = stage.get(0, &["v1", "ledger", "trial-balance"], &[]).await?;
    stage.tell.asked(stage.servers[0].name, "GET /v1/ledger/trial-balance");
    stage.tell.answered(trial.status, &format!("balanced: {}", trial.text("balanced")));
    for totals in currencies(&trial) {
        stage.tell.say(&format!("      {}", in_words(totals)));
    }
    stage.tell.check(comes_to_zero(&trial));
    stage.tell.check(accounted_for(&trial));
    stage.tell.check(no_hold(&trial));
    let counts = count(stage).await?;
    stage.tell.asked(stage.servers[1].name, "GET /v1/sagas, GET /v1/jobs, by status");
    stage.tell.say(&format!("      {}", counted(counts)));
    stage.tell.check(all_ended(counts));
    Ok(())
}

async fn count(stage: &Stage) -> anyhow::Result<Counts> {
    let mut unfinished = 0;
    for status in UNFINISHED {
        unfinished += listed(stage, "sagas", status).await?;
    }
    let completed = listed(stage, "sagas", "completed").await?;
    let compensated = listed(stage, "sagas", "compensated").await?;
    let jobs = listed(stage, "jobs", "completed").await?;
    Ok(Counts { unfinished, completed, compensated, jobs })
}

async fn listed(stage: &Stage, what: &str, status: &str) -> anyhow::Result<usize> {
    let reply = stage.get(1, &["v1", what], &[("status", status), ("page_size", "1000")]).await?;
    let items = reply.body["items"].as_array();
    let refused = || anyhow::anyhow!("cannot list {what} that are {status}: {}", reply.refusal());
    items.map(Vec::len).ok_or_else(refused)
}

fn currencies(trial: &Reply) -> &[Value] {
    trial.body["currencies"].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn in_words(totals: &Value) -> String {
    let part = |member: &str| text(&totals[member]);
    format!(
        "{}: users {} + holds {} + escrows {} + outside {} = {}",
        part("currency"),
        part("available"),
        part("held"),
        part("escrow"),
        part("external"),
        part("sum")
    )
}

fn counted(Counts { unfinished, completed, compensated, jobs }: Counts) -> String {
    format!(
        "sagas: {completed} completed, {compensated} rolled back, {unfinished} unfinished; jobs: {jobs}"
    )
}

fn is_zero(sum: &Value) -> bool {
    sum.as_str().is_some_and(|sum| !sum.is_empty() && sum.bytes().all(|b| matches!(b, b'0' | b'.')))
}

fn comes_to_zero(trial: &Reply) -> Check {
    let all = currencies(trial);
    let zero = !all.is_empty() && all.iter().all(|totals| is_zero(&totals["sum"]));
    let held = trial.status == 200 && trial.body["balanced"] == true && zero;
    let sums: Vec<String> = all
        .iter()
        .map(|totals| format!("{} {}", text(&totals["sum"]), text(&totals["currency"])))
        .collect();
    Check::new("all accounts together come to zero", held, sums.join(", "))
}

/// What came in is where the acts have put it, to the cent.
fn accounted_for(trial: &Reply) -> Check {
    let euros = currencies(trial).iter().find(|totals| totals["currency"] == CURRENCY);
    let held = euros.is_some_and(|totals| {
        totals["external"] == "-105.00"
            && totals["available"] == "95.00"
            && totals["escrow"] == "10.00"
    });
    let part = |member: &str| euros.map_or("nothing".into(), |totals| text(&totals[member]));
    let seen = format!(
        "{} with users, {} in escrow, {} outside",
        part("available"),
        part("escrow"),
        part("external")
    );
    Check::new("of 120.00 paid in, every cent is accounted for", held, seen)
}

fn no_hold(trial: &Reply) -> Check {
    let all = currencies(trial);
    let none = |totals: &Value| is_zero(&totals["held"]) && is_zero(&totals["held_by_users"]);
    let held = !all.is_empty() && all.iter().all(none);
    let sums: Vec<String> = all.iter().map(|totals| text(&totals["held"])).collect();
    Check::new("no money is left on hold", held, format!("{} on hold", sums.join(", ")))
}

fn all_ended(counts: Counts) -> Check {
    Check::new("everything that was begun has ended", counts == DONE, counted(counts))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn trial() -> Reply {
        let totals = json!({ "currency": "EUR", "sum": "0.00", "available": "95.00",
            "held": "0.00", "held_by_users": "0.00", "escrow": "10.00", "external": "-105.00" });
        let body = json!({ "balanced": true, "currencies": [totals] });
        Reply { status: 200, replayed: false, body }
    }

    fn with(member: &str, value: &str) -> Reply {
        let mut trial = trial();
        trial.body["currencies"][0][member] = value.into();
        trial
    }

    #[test]
    fn books_that_are_out_by_a_cent_fail() {
        assert!(comes_to_zero(&trial()).held);
        assert!(!comes_to_zero(&with("sum", "0.01")).held);
        assert!(!comes_to_zero(&with("sum", "-0.01")).held);
        let mut unbalanced = trial();
        unbalanced.body["balanced"] = false.into();
        assert!(!comes_to_zero(&unbalanced).held);
        let empty = Reply { body: json!({ "balanced": true, "currencies": [] }), ..trial() };
        for check in [comes_to_zero, accounted_for, no_hold] {
            assert!(!check(&empty).held, "no books are no balance");
        }
    }

    #[test]
    fn a_cent_that_went_elsewhere_fails() {
        assert!(accounted_for(&trial()).held);
        for (member, value) in
            [("available", "94.99"), ("escrow", "20.00"), ("external", "-220.00")]
        {
            assert!(!accounted_for(&with(member, value)).held, "{member}");
        }
    }

    #[test]
    fn a_hold_that_is_left_fails() {
        assert!(no_hold(&trial()).held);
        assert!(!no_hold(&with("held", "10.00")).held);
        assert!(!no_hold(&with("held_by_users", "10.00")).held);
    }

    #[test]
    fn work_that_is_unfinished_missing_or_done_twice_fails() {
        assert!(all_ended(DONE).held);
        assert!(!all_ended(Counts { unfinished: 1, ..DONE }).held);
        assert!(!all_ended(Counts { completed: 5, ..DONE }).held);
        assert!(!all_ended(Counts { compensated: 0, ..DONE }).held);
        assert!(!all_ended(Counts { jobs: 3, ..DONE }).held);
    }
}
