//! Act 10: an alert fires over what every instance did, and the audit trail of the whole tour is
//! verified.

use reqwest::Method;
use serde_json::json;

use super::job::{CLAIM, request};
use super::stage::{Reply, Stage};
use super::tell::Check;

const ASKED: usize = 0;
const OTHER: usize = 1;

const NAME: &str = "duplicates";
const RULE: [&str; 4] = ["v1", "alerts", "rules", NAME];
/// The tour has done at least so much that is entered.
const ENTRIES: u64 = 40;

pub(super) async fn act(stage: &mut Stage) -> anyhow::Result<()> {
    stage.tell.heading(
        "Knowing what happened",
        &[
            "What is measured is kept in the store, so a rule counts what all instances did, not one.",
            "What was changed is entered in the commit of the change, and sealed.",
        ],
    );
    let rule = json!({ "metric_path": "job_idempotency_metrics.duplicates_prevented", "operator": ">",
        "threshold": 1, "window_minutes": 60, "severity": "warning" });
    let what = "more than one in an hour";
    let put = stage.send_as(Method::PUT, ASKED, &RULE, None, rule, what).await?;
    stage.tell.answered(put.status, &put.refusal());
    for at in [ASKED, OTHER] {
        let again = stage.send(at, &CLAIM, None, request(), "that payout again").await?;
        stage.tell.answered(again.status, &again.text("outcome"));
    }
    let query = [("state", "firing")];
    let look = async || stage.get(OTHER, &["v1", "alerts"], &query).await;
    let alerts = stage.watch("the alert fires", look, |reply| value_of(reply).is_some()).await?;
    stage.tell.check(fired(&alerts));

    stage.tell.asked(stage.servers[OTHER].name, "GET /v1/audit/verify");
    let look = async || stage.get(OTHER, &["v1", "audit", "verify"], &[]).await;
    let sealed = |verdict: &Reply| verdict.body["sealed"].as_u64() >= Some(ENTRIES);
    let verdict = stage.watch("the trail is sealed", look, sealed).await?;
    stage.tell.answered(
        verdict.status,
        &format!("{} entries, {} sealed", verdict.text("entries"), verdict.text("sealed")),
    );
    stage.tell.check(untouched(&verdict));
    Ok(())
}

/// What the rule saw, if it fires.
fn value_of(alerts: &Reply) -> Option<f64> {
    let mut items = alerts.body["items"].as_array()?.iter();
    items.find(|alert| alert["rule"] == NAME)?["value"].as_f64()
}

fn fired(alerts: &Reply) -> Check {
    let value = value_of(alerts);
    let seen = value.map_or_else(|| "it does not fire".to_owned(), |value| format!("{value} seen"));
    Check::new("an alert fires over what all instances did", value >= Some(2.0), seen)
}

fn untouched(verdict: &Reply) -> Check {
    let held = verdict.status == 200
        && verdict.body["ok"] == true
        && verdict.body["sealed"].as_u64() >= Some(ENTRIES);
    let problems = verdict.body["problems"].as_array().map_or(0, Vec::len);
    let seen = format!("{} entries sealed, {problems} problems", verdict.text("sealed"));
    Check::new("the audit trail of everything above is sealed and whole", held, seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(body: serde_json::Value) -> Reply {
        Reply { status: 200, replayed: false, body }
    }

    #[test]
    fn an_alert_that_is_silent_or_counts_wrong_fails() {
        let seen = |value: f64| reply(json!({ "items": [{ "rule": NAME, "value": value }] }));
        assert!(fired(&seen(2.0)).held);
        assert!(!fired(&seen(1.0)).held);
        assert!(!fired(&reply(json!({ "items": [{ "rule": "other", "value": 2.0 }] }))).held);
    }

    #[test]
    fn a_trail_that_is_broken_or_not_sealed_fails() {
        let verdict = |ok: bool, sealed: u64| reply(json!({ "ok": ok, "sealed": sealed }));
        assert!(untouched(&verdict(true, ENTRIES)).held);
        assert!(!untouched(&verdict(false, ENTRIES)).held);
        assert!(!untouched(&verdict(true, 0)).held);
    }
}
