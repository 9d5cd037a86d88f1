//! Act 3: a job is claimed, its duplicate is refused, and later gets the outcome.

use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};

use super::stage::{Reply, Stage};
use super::tell::{Check, short};

/// Who asks first, who asks for the same, and who is told of the end.
const FIRST: usize = 0;
const DUPLICATE: usize = 1;
const LAST: usize = 2;

pub(super) const CLAIM: [&str; 3] = ["v1", "jobs", "claim"];

pub(super) async fn act(stage: &mut Stage) -> anyhow::Result<()> {
    stage.tell.heading(
        "A job runs once",
        &[
            "The same payout is asked for twice, as happens when a client loses an answer.",
            "One claim gets it. The other is told to wait, and later what came of it: no second run.",
        ],
    );
    let what = "payout of order-17, 25.00 EUR";
    let first = stage.send(FIRST, &CLAIM, None, request(), what).await?;
    stage.tell.answered(first.status, &told(&first));
    stage.tell.check(claimed(&first));

    let early = stage.send(DUPLICATE, &CLAIM, None, request(), "the same").await?;
    stage.tell.answered(early.status, &told(&early));
    stage.tell.check(refused(&first, &early));

    let id = first.body["job_id"].as_str().context("the claim has no job_id")?;
    let result = json!({ "payout": "po_1" });
    let body = json!({ "claim_token": first.body["claim_token"], "result": result });
    let path = ["v1", "jobs", id, "complete"];
    let ended = stage.send(LAST, &path, None, body, "it is paid: po_1").await?;
    stage.tell.answered(ended.status, &told(&ended));

    let late = stage.send(DUPLICATE, &CLAIM, None, request(), "the same once more").await?;
    stage.tell.answered(late.status, &told(&late));
    stage.tell.check(given_the_outcome(&first, &late, &result));
    Ok(())
}

/// The payout that is asked for again and again.
pub(super) fn request() -> Value {
    json!({
        "job_type": "payout", "job_key": "order-17", "claim_ttl_seconds": 60,
        "parameters": { "amount": "25.00", "currency": "EUR" },
    })
}

/// An answer about a job in short.
fn told(reply: &Reply) -> String {
    let id = short(&reply.text("job_id"));
    match (reply.body["outcome"].as_str(), reply.body["retry_after_ms"].as_u64()) {
        (Some("replayed"), _) => format!(
            "replayed: job {id} {} in attempt {}, result {}",
            reply.text("status"),
            reply.text("attempt"),
            reply.body["result"]
        ),
        (Some(outcome), _) => format!("{outcome}: job {id}, attempt {}", reply.text("attempt")),
        (None, Some(millis)) => {
            let left = Duration::from_millis(millis).as_secs_f64();
            format!("held: job {id} is in progress, for {left:.1} s at most unless it is renewed")
        }
        (None, None) if reply.status == 200 => format!("job {id} is {}", reply.text("status")),
        (None, None) => reply.refusal(),
    }
}

fn claimed(first: &Reply) -> Check {
    let held = first.status == 200
        && first.body["outcome"] == "claimed"
        && first.body["attempt"] == 1
        && first.body["claim_token"].is_string();
    Check::new(
        "the first claim gets the job",
        held,
        format!("{}, attempt {}", first.text("outcome"), first.text("attempt")),
    )
}

fn refused(first: &Reply, early: &Reply) -> Check {
    let held = early.status == 409
        && early.body["type"] == "/problems/held"
        && early.body["job_id"] == first.body["job_id"]
        && early.body.get("claim_token").is_none();
    let seen = format!("{}, at another instance", early.status);
    Check::new("a duplicate is refused while the job runs", held, seen)
}

fn given_the_outcome(first: &Reply, late: &Reply, result: &Value) -> Check {
    let held = late.status == 200
        && late.replayed
        && late.body["outcome"] == "replayed"
        && late.body["status"] == "completed"
        && late.body["job_id"] == first.body["job_id"]
        && late.body["attempt"] == 1
        && late.body["result"] == *result;
    let seen = format!(
        "{}, attempt {}: {}",
        late.text("outcome"),
        late.text("attempt"),
        late.body["result"]
    );
    Check::new("a late duplicate gets the outcome, and runs nothing", held, seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: u16, replayed: bool, body: Value) -> Reply {
        Reply { status, replayed, body }
    }

    /// The body with one member changed.
    fn with(reply: &Reply, member: &str, value: Value) -> Reply {
        let mut changed = reply.clone();
        changed.body[member] = value;
        changed
    }

    #[test]
    fn a_claim_that_was_not_the_first_fails() {
        let fine =
            reply(200, false, json!({ "outcome": "claimed", "attempt": 1, "claim_token": "t" }));
        assert!(claimed(&fine).held);
        assert!(!claimed(&with(&fine, "outcome", json!("replayed"))).held);
        assert!(!claimed(&with(&fine, "attempt", json!(2))).held);
        assert!(!claimed(&reply(503, false, fine.body)).held);
    }

    #[test]
    fn a_duplicate_that_is_let_in_fails() {
        let first = reply(200, false, json!({ "job_id": "j", "claim_token": "t" }));
        let fine = reply(409, false, json!({ "type": "/problems/held", "job_id": "j" }));
        assert!(refused(&first, &fine).held);
        assert!(!refused(&first, &first).held);
        assert!(!refused(&first, &with(&fine, "job_id", json!("other"))).held);
        assert!(!refused(&first, &with(&fine, "type", json!("/problems/fenced"))).held);
    }

    #[test]
    fn a_second_run_or_another_outcome_fails() {
        let result = json!({ "payout": "po_1" });
        let first = reply(200, false, json!({ "job_id": "j" }));
        let fine = reply(
            200,
            true,
            json!({ "outcome": "replayed", "status": "completed",
            "job_id": "j", "attempt": 1, "result": result }),
        );
        assert!(given_the_outcome(&first, &fine, &result).held);
        for (member, value) in [
            ("outcome", json!("claimed")),
            ("status", json!("failed")),
            ("job_id", json!("k")),
            ("attempt", json!(2)),
            ("result", json!(null)),
        ] {
            assert!(!given_the_outcome(&first, &with(&fine, member, value), &result).held);
        }
        assert!(!given_the_outcome(&first, &reply(200, false, fine.body), &result).held);
    }
}
