//! Act 2: a named lease lapses, another gets it, and the old holder is told that it is too late.

use reqwest::Method;
use serde_json::json;

use super::leader::token;
use super::stage::{Answered, Reply, Stage};
use super::tell::Check;

/// How long the first holder may have it. Long enough that a busy machine does not take it away
/// before the second has asked.
const TTL_SECONDS: u64 = 2;

const PATH: [&str; 3] = ["v1", "leases", "printer"];

pub(super) async fn act(stage: &mut Stage) -> anyhow::Result<()> {
    stage.tell.heading(
        "A holder that comes back too late",
        &[
            "A lease is a lock with a deadline: who holds it may pause, and must not go on as if",
            "nothing had happened. Every grant has a larger token, and whoever sees a smaller one",
            "than before refuses it. Here the first holder stops renewing, and then wakes up.",
        ],
    );
    let first = acquire(stage, 0, "first").await?;
    stage.tell.answered(first.status, &told(&first));
    let early = acquire(stage, 1, "second").await?;
    stage.tell.answered(early.status, &told(&early));
    stage.tell.check(refused(&first, &early));

    stage.tell.asked(stage.servers[1].name, "the same, until it is granted");
    let granted = stage.watch(
        "the lease has lapsed",
        async || stage.post(1, &PATH, wish("second")).await,
        |reply: &Reply| reply.status == 200,
    );
    let second = granted.await?;
    stage.tell.answered(second.status, &told(&second));
    stage.tell.check(larger(&first, &second));

    let body = json!({ "holder": "first", "fencing_token": first.body["fencing_token"],
        "ttl_seconds": TTL_SECONDS });
    let what = format!("first renews under token {}", first.text("fencing_token"));
    let late = stage.send_as(Method::PUT, 2, &PATH, None, body, &what).await?;
    stage.tell.answered(late.status, &told(&late));
    stage.tell.check(fenced(&late));
    Ok(())
}

async fn acquire(stage: &Stage, at: usize, holder: &str) -> Answered {
    let what = format!("{holder} wants it for {TTL_SECONDS} s");
    stage.send(at, &PATH, None, wish(holder), &what).await
}

fn wish(holder: &str) -> serde_json::Value {
    json!({ "holder": holder, "ttl_seconds": TTL_SECONDS })
}

fn told(reply: &Reply) -> String {
    match reply.status {
        200 => {
            format!("{} holds it under token {}", reply.text("holder"), reply.text("fencing_token"))
        }
        _ => reply.refusal(),
    }
}

fn refused(first: &Reply, early: &Reply) -> Check {
    let held = first.status == 200
        && early.status == 409
        && early.body["type"] == "/problems/held"
        && early.body["holder"] == "first";
    let seen = format!("{}, held by {}", early.status, early.text("holder"));
    Check::new("a lease that is held is refused to others", held, seen)
}

fn larger(first: &Reply, second: &Reply) -> Check {
    let held = second.status == 200
        && second.body["holder"] == "second"
        && token(first).is_some()
        && token(second) > token(first);
    let seen = format!("{} holds it", second.text("holder"));
    Check::new("once it has lapsed another gets it, with a larger token", held, seen)
}

fn fenced(late: &Reply) -> Check {
    let held = late.status == 409 && late.body["type"] == "/problems/fenced";
    let seen = format!("{} {}", late.status, late.text("type"));
    Check::new("a holder that comes back too late is refused", held, seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted(holder: &str, token: &str) -> Reply {
        let body = json!({ "holder": holder, "fencing_token": token });
        Reply { status: 200, replayed: false, body }
    }

    fn problem(kind: &str) -> Reply {
        let body = json!({ "type": format!("/problems/{kind}"), "holder": "first" });
        Reply { status: 409, replayed: false, body }
    }

    #[test]
    fn a_lease_that_two_hold_fails() {
        let first = granted("first", "100");
        assert!(refused(&first, &problem("held")).held);
        assert!(!refused(&first, &granted("second", "101")).held);
        assert!(!refused(&first, &problem("busy")).held);
        assert!(!refused(&problem("held"), &problem("held")).held);
    }

    #[test]
    fn a_token_that_does_not_grow_fails() {
        let first = granted("first", "100");
        assert!(larger(&first, &granted("second", "101")).held);
        assert!(!larger(&first, &granted("second", "100")).held);
        assert!(!larger(&first, &granted("second", "99")).held, "numbers are compared, not texts");
        assert!(!larger(&first, &granted("first", "101")).held);
        assert!(!larger(&first, &problem("held")).held);
    }

    #[test]
    fn a_late_holder_that_is_let_in_fails() {
        assert!(fenced(&problem("fenced")).held);
        assert!(!fenced(&problem("held")).held);
        assert!(!fenced(&granted("first", "100")).held);
    }
}
