//! Act 5: a schedule whose run is asked for twice runs once, and a rule of cleanup is tried before
//! it deletes.

use reqwest::Method;
use serde_json::{Value, json};

use super::stage::{Reply, Stage};
use super::tell::Check;
use super::worker::{self, SHIP};

/// Anybody may be asked: the leader does it.
const ASKED: usize = 1;
const OTHER: usize = 2;

const SCHEDULE: [&str; 3] = ["v1", "schedules", "new-years-books"];
const RULE: [&str; 4] = ["v1", "cleanup", "rules", "drafts"];
const RUN: [&str; 3] = ["v1", "cleanup", "run"];
/// How many keys the rule is to find.
const DRAFTS: u64 = 3;

pub(super) async fn act(stage: &mut Stage) -> anyhow::Result<()> {
    stage.tell.heading(
        "Work by the clock, and cleaning up",
        &[
            "Schedules and cleanup are the leader's work, whoever is asked. Each tick is a job of",
            "its own, so it runs once even if leadership moves at that moment.",
        ],
    );
    scheduled(stage).await?;
    cleaned(stage).await
}

async fn scheduled(stage: &mut Stage) -> anyhow::Result<()> {
    worker::turn_up(stage, ASKED).await?;
    let schedule = json!({ "job_type": "books", "schedule_expression": "0 0 1 1 *",
        "time_zone": "Europe/Berlin", "parameters": { "year": 2026 }, "handler": SHIP });
    let what = "each New Year in Berlin";
    let put = stage.send_as(Method::PUT, ASKED, &SCHEDULE, None, schedule, what).await?;
    stage.tell.answered(put.status, &format!("next due {}", put.text("next_due")));

    let path = [SCHEDULE[0], SCHEDULE[1], SCHEDULE[2], "run"];
    for at in [ASKED, OTHER] {
        let run = stage.send(at, &path, Some("run-1"), json!({}), "now, and once only").await?;
        stage.tell.answered(run.status, &run.refusal());
    }
    let task = worker::take(stage, OTHER).await?;
    let more = worker::more(stage, ASKED).await?;
    worker::complete(stage, ASKED, &task, json!({ "closed": 2026 })).await?;
    stage.tell.check(once(more));

    let query = [("job_type", "books"), ("status", "completed")];
    let look = async || stage.get(OTHER, &["v1", "jobs"], &query).await;
    let done = |jobs: &Reply| jobs.body["items"].as_array().is_some_and(|items| !items.is_empty());
    let jobs = stage.watch("the tick is recorded", look, done).await?;
    stage.tell.check(recorded(&jobs));
    Ok(())
}

async fn cleaned(stage: &mut Stage) -> anyhow::Result<()> {
    for draft in 1..=DRAFTS {
        let key = format!("draft:{draft}");
        let body = json!({ "value": draft });
        stage.send_as(Method::PUT, ASKED, &["v1", "state", &key], None, body, "a draft").await?;
    }
    let rule = json!({ "pattern": "draft:*", "ttl_seconds": 0, "strategy": "lazy" });
    let what = "drafts go when they are asked to";
    let put = stage.send_as(Method::PUT, ASKED, &RULE, None, rule, what).await?;
    stage.tell.answered(put.status, &put.refusal());

    let tried = run(stage, json!({ "type": "drafts", "dry_run": true }), "only try").await?;
    let kept = stage.get(OTHER, &["v1", "state", "draft:1"], &[]).await?;
    stage.tell.check(only_tried(&tried, &kept));
    let real = run(stage, json!({ "type": "drafts" }), "for real").await?;
    let look = async || stage.get(OTHER, &["v1", "state", "draft:1"], &[]).await;
    let gone = stage.watch("the drafts are gone", look, |reply| reply.status == 404).await?;
    stage.tell.check(really_gone(&real, &gone));
    Ok(())
}

async fn run(stage: &Stage, body: Value, what: &str) -> anyhow::Result<Reply> {
    let reply = stage.send(ASKED, &RUN, None, body, what).await?;
    let (scanned, cleaned) = (reply.text("total_scanned"), reply.text("total_cleaned"));
    stage.tell.answered(reply.status, &format!("{scanned} scanned, {cleaned} cleaned"));
    Ok(reply)
}

fn once(more: Option<usize>) -> Check {
    let seen = more.map_or_else(|| "no answer".to_owned(), |more| format!("{more} more tasks"));
    Check::new("a run that is asked for twice under one key happens once", more == Some(0), seen)
}

fn recorded(jobs: &Reply) -> Check {
    let count = jobs.body["items"].as_array().map_or(0, Vec::len);
    let seen = format!("{count} completed job of the schedule");
    Check::new("a tick is a job like any other", count == 1, seen)
}

fn only_tried(tried: &Reply, kept: &Reply) -> Check {
    let held = tried.status == 200 && tried.body["total_cleaned"] == DRAFTS && kept.status == 200;
    let seen = format!("{} would go, the first is still there", tried.text("total_cleaned"));
    Check::new("a dry run counts and deletes nothing", held, seen)
}

fn really_gone(real: &Reply, gone: &Reply) -> Check {
    let held = real.status == 200
        && real.body["total_cleaned"] == DRAFTS
        && real.body["total_errors"] == 0
        && gone.status == 404;
    let seen =
        format!("{} cleaned, {} errors", real.text("total_cleaned"), real.text("total_errors"));
    Check::new("the real run deletes exactly what was counted", held, seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: u16, body: Value) -> Reply {
        Reply { status, replayed: false, body }
    }

    #[test]
    fn a_run_that_happens_twice_fails() {
        assert!(once(Some(0)).held);
        assert!(!once(Some(1)).held);
        assert!(!once(None).held);
        assert!(recorded(&reply(200, json!({ "items": [1] }))).held);
        assert!(!recorded(&reply(200, json!({ "items": [1, 2] }))).held);
        assert!(!recorded(&reply(200, json!({ "items": [] }))).held);
    }

    #[test]
    fn a_cleanup_that_deletes_too_much_or_nothing_fails() {
        let (shown, gone) = (reply(200, json!({})), reply(404, json!({})));
        let counted = reply(200, json!({ "total_cleaned": DRAFTS, "total_errors": 0 }));
        assert!(only_tried(&counted, &shown).held);
        assert!(!only_tried(&counted, &gone).held, "a dry run that deletes");
        assert!(really_gone(&counted, &gone).held);
        assert!(!really_gone(&counted, &shown).held, "a run that only says so");
        let fewer = reply(200, json!({ "total_cleaned": 2, "total_errors": 0 }));
        assert!(!only_tried(&fewer, &shown).held);
        assert!(!really_gone(&fewer, &gone).held);
    }
}
