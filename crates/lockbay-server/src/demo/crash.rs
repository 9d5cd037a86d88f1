//! Act 8: the leader, which also executes a saga, is killed in the middle of it.

use std::time::Duration;

use anyhow::Context;
use lockbay::clock::Tick;
use serde_json::json;

use super::leader::{token, told};
use super::money::{self, balances, end_of, saga_of};
use super::rollback::{entries, steps_of, tell_history};
use super::stage::{Reply, Stage};
use super::tell::{Check, short};
use super::worker::{self, CHECK, ESCROW, LOCK, SHIP};

const AMOUNT: &str = "10.00";

/// What was seen after the kill, and how long after.
#[derive(Default)]
struct Aftermath {
    leader: Option<(Reply, Duration)>,
    /// The instance that goes on with the saga.
    executor: Option<(String, Duration)>,
}

pub(super) async fn act(stage: &mut Stage) -> anyhow::Result<()> {
    stage.tell.heading(
        "A crash",
        &[
            "The instance that leads also executes a saga: money is on hold, a worker has a task.",
            "It is killed with SIGKILL, so it cannot tidy up. Another must lead, and one go on with",
            "the saga from where it was: the money is not locked twice, the task not given twice.",
        ],
    );
    let (place, old) = leading(stage).await?;
    let name = stage.servers[place].name;
    worker::turn_up(stage, place).await?;
    let saga = worker::order("order", AMOUNT, &[CHECK, LOCK, SHIP, ESCROW]);
    let what = format!("order: {AMOUNT} of {} locked, shipped, set apart", money::BUYER);
    let started = stage.send(place, &["v1", "sagas"], None, saga, &what).await?;
    let id = saga_of(&started)?;
    let status = format!("saga {}: {}", short(&id), started.text("status"));
    stage.tell.answered(started.status, &status);
    let task = worker::take(stage, place).await?;
    let meanwhile = balances(stage, place).await?;
    stage.tell.say(&money::in_words(&meanwhile));

    let dead = stage.servers.remove(place);
    let (dead_id, process) = (dead.instance_id.clone(), dead.process_id());
    let killed_at = stage.clock.tick();
    dead.kill();
    stage.tell.say(&format!("   kill -9 {process}: {name} is dead"));
    let aftermath = look_after(stage, &id, &old, killed_at).await?;
    tell_aftermath(stage, &aftermath);
    stage.tell.check(another_leads(&old, &aftermath, &dead_id));
    let survivors: Vec<&str> = stage.servers.iter().map(|one| &*one.instance_id).collect();
    let check = goes_on(&aftermath, &survivors, &stage.name_of(executor_of(&aftermath)));
    stage.tell.check(check);

    let given = worker::more(stage, 1).await?;
    stage.tell.check(given_once(given));
    let done = worker::complete(stage, 0, &task, json!({ "parcel": "p-1" })).await?;
    stage.tell.answered(done.status, &format!("task {}", done.text("status")));
    let ended = end_of(stage, 1, &id).await?;
    let path = ["v1", "sagas", &id, "history"];
    let history = stage.get(1, &path, &[("page_size", "100")]).await?;
    tell_history(stage, 1, &id, &history);
    stage.tell.check(completed_once(&done, &ended, &history));
    Ok(())
}

/// Which server leads, and what it says of that.
async fn leading(stage: &Stage) -> anyhow::Result<(usize, Reply)> {
    let seen = stage.watch(
        "one leads",
        async || stage.get(0, &["v1", "leader"], &[]).await,
        |reply: &Reply| reply.status == 200,
    );
    let reply = seen.await?;
    let place = stage.place_of(&reply.text("instance_id")).context("nobody leads")?;
    stage.tell.asked(stage.servers[0].name, "GET /v1/leader");
    stage.tell.answered(reply.status, &told(&reply));
    Ok((place, reply))
}

/// Looks at the survivors until one leads and one has taken the saga over.
async fn look_after(
    stage: &Stage,
    saga: &str,
    old: &Reply,
    killed_at: Tick,
) -> anyhow::Result<Aftermath> {
    let mut seen = Aftermath::default();
    let both = stage.watch(
        "another leads, and one goes on with the saga",
        async || {
            if seen.leader.is_none() {
                let reply = stage.get(0, &["v1", "leader"], &[]).await?;
                let after = stage.clock.tick().since(killed_at);
                seen.leader = (token(&reply) > token(old)).then_some((reply, after));
            }
            if seen.executor.is_none() {
                let path = ["v1", "sagas", saga, "history"];
                let history = stage.get(1, &path, &[("page_size", "100")]).await?;
                let after = stage.clock.tick().since(killed_at);
                seen.executor = taken_over_by(&history).map(|by| (by, after));
            }
            Ok(seen.leader.is_some() && seen.executor.is_some())
        },
        |both| *both,
    );
    both.await?;
    Ok(seen)
}

fn tell_aftermath(stage: &Stage, aftermath: &Aftermath) {
    let mut lines = Vec::new();
    if let Some((reply, when)) = &aftermath.leader {
        lines.push((when, told(reply)));
    }
    if let Some((by, when)) = &aftermath.executor {
        lines.push((when, format!("{} goes on with the saga", stage.name_of(by))));
    }
    lines.sort();
    for (when, line) in lines {
        stage.tell.say(&format!("   after {:.2} s: {line}", when.as_secs_f64()));
    }
}

fn executor_of(aftermath: &Aftermath) -> &str {
    aftermath.executor.as_ref().map_or("nobody", |(by, _)| by)
}

/// Who took a saga over last, if anybody did.
fn taken_over_by(history: &Reply) -> Option<String> {
    let mut taken = entries(history).iter().filter(|entry| entry["event"] == "taken_over");
    taken.next_back()?["actor"].as_str().map(str::to_owned)
}

fn another_leads(old: &Reply, aftermath: &Aftermath, dead: &str) -> Check {
    const PROMISE: &str = "another leads, in a new term, with a larger token";
    let Some((new, after)) = &aftermath.leader else {
        return Check::new(PROMISE, false, "nobody leads");
    };
    let held = new.status == 200
        && new.body["instance_id"].is_string()
        && new.body["instance_id"] != dead
        && new.body["term"].as_u64() > old.body["term"].as_u64()
        && token(new).is_some()
        && token(new) > token(old);
    let [name, term] = ["instance_name", "term"].map(|member| new.text(member));
    Check::new(
        PROMISE,
        held,
        format!("{name} leads in term {term} after {:.2} s", after.as_secs_f64()),
    )
}

fn goes_on(aftermath: &Aftermath, survivors: &[&str], name: &str) -> Check {
    const PROMISE: &str = "another instance goes on with the saga";
    let Some((by, after)) = &aftermath.executor else {
        return Check::new(PROMISE, false, "nobody does");
    };
    let held = survivors.contains(&&**by);
    Check::new(PROMISE, held, format!("{name} does after {:.2} s", after.as_secs_f64()))
}

/// Nobody else is given what a worker is still at, though its executor is dead.
fn given_once(more: Option<usize>) -> Check {
    let seen = more.map_or("no answer".into(), |more| format!("{more} tasks for another worker"));
    Check::new("the worker keeps its task, alone", more == Some(0), seen)
}

/// The worker's word counted, and every step was done exactly once.
fn completed_once(done: &Reply, ended: &Reply, history: &Reply) -> Check {
    let mut steps = steps_of(history, "step_completed");
    let told = steps.len();
    steps.sort_unstable();
    steps.dedup();
    let shipped = ended.body["steps"].as_array().into_iter().flatten();
    let mut shipped = shipped.filter(|step| step["name"] == SHIP);
    let counted = shipped.next().is_some_and(|step| step["result"]["parcel"] == "p-1");
    let held = done.status == 200
        && ended.body["status"] == "completed"
        && told == 4
        && steps.len() == 4
        && steps_of(history, "step_compensated").is_empty()
        && counted;
    let seen = format!("{}: {told} steps, {} names", ended.text("status"), steps.len());
    Check::new("the saga completes, each of its steps done once", held, seen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn reply(body: Value) -> Reply {
        Reply { status: 200, replayed: false, body }
    }

    fn leader(id: &str, term: u64, token: &str) -> Reply {
        reply(
            json!({ "instance_id": id, "instance_name": id, "term": term, "fencing_token": token }),
        )
    }

    fn after(leader: Reply) -> Aftermath {
        Aftermath { leader: Some((leader, Duration::ZERO)), executor: None }
    }

    #[test]
    fn a_leader_that_is_dead_or_not_newer_fails() {
        let old = leader("a", 1, "100");
        let judge = |new: Reply| another_leads(&old, &after(new), "a").held;
        assert!(judge(leader("b", 2, "101")));
        assert!(!judge(leader("a", 2, "101")));
        assert!(!judge(leader("b", 1, "101")));
        assert!(!judge(leader("b", 2, "100")));
        assert!(!judge(leader("b", 2, "99")), "numbers are compared, not texts");
        assert!(!judge(leader("b", 2, "none")));
        assert!(!another_leads(&old, &Aftermath::default(), "a").held);
    }

    #[test]
    fn a_saga_that_nobody_or_the_dead_one_goes_on_with_fails() {
        let by =
            |who: &str| Aftermath { leader: None, executor: Some((who.into(), Duration::ZERO)) };
        assert!(goes_on(&by("b"), &["b", "c"], "b").held);
        assert!(!goes_on(&by("a"), &["b", "c"], "a").held);
        assert!(!goes_on(&Aftermath::default(), &["b", "c"], "").held);
        let none = reply(json!({ "items": [{ "event": "step_completed", "step": "x" }] }));
        assert_eq!(taken_over_by(&none), None);
    }

    #[test]
    fn a_task_that_is_given_twice_fails() {
        assert!(given_once(Some(0)).held);
        assert!(!given_once(Some(1)).held);
        assert!(!given_once(None).held);
    }

    #[test]
    fn a_step_that_ran_twice_or_was_lost_fails() {
        let history = |steps: &[&str]| {
            let entry = |step: &&str| json!({ "event": "step_completed", "step": step });
            reply(json!({ "items": steps.iter().map(entry).collect::<Vec<_>>() }))
        };
        let ended = |status: &str, parcel: &str| {
            let ship = json!({ "name": SHIP, "result": { "parcel": parcel } });
            reply(json!({ "status": status, "steps": [ship] }))
        };
        let done = reply(json!({ "status": "completed" }));
        let fine = history(&["w", "x", "y", "z"]);
        assert!(completed_once(&done, &ended("completed", "p-1"), &fine).held);
        assert!(!completed_once(&done, &ended("running", "p-1"), &fine).held);
        assert!(!completed_once(&done, &ended("completed", "p-2"), &fine).held);
        let fenced = Reply { status: 409, ..done.clone() };
        assert!(!completed_once(&fenced, &ended("completed", "p-1"), &fine).held);
        for wrong in [&["w", "x", "y"][..], &["w", "x", "x", "z"], &["w", "x", "y", "z", "z"]] {
            assert!(!completed_once(&done, &ended("completed", "p-1"), &history(wrong)).held);
        }
    }
}
