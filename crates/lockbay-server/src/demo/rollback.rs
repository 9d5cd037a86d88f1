//! Act 7: a saga whose last step fails, and everything it did is undone.

use serde_json::Value;

use super::money::{self, Balance, balances, end_of, have, saga_of};
use super::stage::{Reply, Stage, text};
use super::tell::{Check, short};
use super::worker::{self, CHECK, ESCROW, LOCK, SHIP};

/// Who executes the saga, who serves its worker, and who is asked how things stand.
const EXECUTOR: usize = 0;
const WORKERS: usize = 1;
const OBSERVER: usize = 2;

const AMOUNT: &str = "25.00";

pub(super) async fn act(stage: &mut Stage) -> anyhow::Result<()> {
    stage.tell.heading(
        "A saga that fails is rolled back",
        &[
            "Money is set apart for an order, then a worker, which may be in any language, is to",
            "ship it, and cannot. Whatever was done before must be undone, the last first.",
        ],
    );
    let before = balances(stage, OBSERVER).await?;
    worker::turn_up(stage, WORKERS).await?;
    let saga = worker::order("order", AMOUNT, &[CHECK, LOCK, ESCROW, SHIP]);
    let what = format!("order: {AMOUNT} of {} set apart, then ship", money::BUYER);
    let started = stage.send(EXECUTOR, &["v1", "sagas"], None, saga, &what).await?;
    let id = saga_of(&started)?;
    let status = format!("saga {}: {}", short(&id), started.text("status"));
    stage.tell.answered(started.status, &status);
    let task = worker::take(stage, WORKERS).await?;
    let meanwhile = balances(stage, OBSERVER).await?;
    stage.tell.say(&money::in_words(&meanwhile));
    let failed = worker::fail(stage, WORKERS, &task, "the address does not exist").await?;
    stage.tell.answered(failed.status, &format!("task {}", failed.text("status")));

    let ended = end_of(stage, OBSERVER, &id).await?;
    let path = ["v1", "sagas", &id, "history"];
    let history = stage.get(OBSERVER, &path, &[("page_size", "100")]).await?;
    tell_history(stage, OBSERVER, &id, &history);
    let after = balances(stage, OBSERVER).await?;
    stage.tell.check(came_back(&ended));
    stage.tell.check(undone_in_reverse(&history));
    stage.tell.check(as_before(&before, &meanwhile, &after));
    Ok(())
}

/// The history of a saga, line by line.
pub(super) fn tell_history(stage: &Stage, at: usize, id: &str, history: &Reply) {
    let what = format!("GET /v1/sagas/{}/history", short(id));
    stage.tell.asked(stage.servers[at].name, &what);
    for entry in entries(history) {
        let member = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
        let mut detail = member("error");
        if let Some(actor) = entry["actor"].as_str() {
            detail = format!("by {}", stage.name_of(actor));
        }
        let number = text(&entry["number"]);
        let line = format!("{number:>2}  {:<18}{:<22}{detail}", member("event"), member("step"));
        stage.tell.say(&format!("      {}", crate::cli::output::shown(line.trim_end())));
    }
}

/// The entries of a history.
pub(super) fn entries(history: &Reply) -> &[Value] {
    history.body["items"].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// The steps that an event is told of, in order.
pub(super) fn steps_of<'a>(history: &'a Reply, event: &str) -> Vec<&'a str> {
    let told = entries(history).iter().filter(|entry| entry["event"] == event);
    told.filter_map(|entry| entry["step"].as_str()).collect()
}

fn came_back(ended: &Reply) -> Check {
    let held = ended.body["status"] == "compensated"
        && ended.body["reason"].as_str().is_some_and(|reason| reason.contains("address"));
    let seen = format!("{}: {}", ended.text("status"), last_part(&ended.text("reason")));
    Check::new("a saga that fails comes back by itself, and says why", held, seen)
}

/// The reason without the path to it.
fn last_part(reason: &str) -> &str {
    reason.rsplit(": ").next().unwrap_or(reason)
}

fn undone_in_reverse(history: &Reply) -> Check {
    let done = steps_of(history, "step_completed");
    let undone = steps_of(history, "step_compensated");
    let held = done.len() == 3 && undone.iter().eq(done.iter().rev());
    let seen = format!("undone: {}", undone.join(", "));
    Check::new("every step that was done is undone, the last first", held, seen)
}

fn as_before(before: &[Balance], meanwhile: &[Balance], after: &[Balance]) -> Check {
    let held = before == after && before != meanwhile && !before.is_empty();
    let seen = format!("{}; meanwhile {}", have(after), have(&meanwhile[..meanwhile.len().min(1)]));
    Check::new("everybody has what they had before", held, seen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn reply(body: Value) -> Reply {
        Reply { status: 200, replayed: false, body }
    }

    #[test]
    fn a_saga_that_is_stuck_or_completes_fails() {
        let ended =
            |status: &str, reason: Value| reply(json!({ "status": status, "reason": reason }));
        assert!(came_back(&ended("compensated", json!("failed: address unknown"))).held);
        assert!(!came_back(&ended("compensated", json!(null))).held);
        assert!(!came_back(&ended("parked", json!("address unknown"))).held);
        assert!(!came_back(&ended("completed", json!("address"))).held);
    }

    #[test]
    fn a_step_that_is_not_undone_or_out_of_order_fails() {
        let history = |undone: &[&str]| {
            let entry = |event: &str, step: &&str| json!({ "event": event, "step": step });
            let done = ["x", "y", "z"];
            let done = done.iter().map(|step| entry("step_completed", step));
            let undone = undone.iter().map(|step| entry("step_compensated", step));
            reply(json!({ "items": done.chain(undone).collect::<Vec<_>>() }))
        };
        assert!(undone_in_reverse(&history(&["z", "y", "x"])).held);
        assert!(!undone_in_reverse(&history(&["x", "y", "z"])).held);
        assert!(!undone_in_reverse(&history(&["z", "y"])).held);
        assert!(!undone_in_reverse(&history(&["z", "y", "x", "x"])).held);
        assert!(!undone_in_reverse(&reply(json!({}))).held);
    }

    #[test]
    fn money_that_did_not_come_back_or_never_moved_fails() {
        let has = |available: &str| {
            vec![Balance { user: "ada", available: available.into(), held: "0.00".into() }]
        };
        assert!(as_before(&has("60.00"), &has("35.00"), &has("60.00")).held);
        assert!(!as_before(&has("60.00"), &has("35.00"), &has("35.00")).held);
        assert!(!as_before(&has("60.00"), &has("60.00"), &has("60.00")).held);
        assert!(!as_before(&[], &has("35.00"), &[]).held);
    }
}
