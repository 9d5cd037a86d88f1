//! Defects of the saga engine, each as the scenario that showed it. See docs/reliability.md.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod support {
    pub mod script;
    pub mod stepped;
}

use std::sync::Arc;
use std::time::Duration;

use lockbay::clock::Clock;
use lockbay::config::Config;
use lockbay::saga::{
    Decision, SagaRequest, SagaStatus, StepContext, StepError, StepOutput, step_fn,
};
use lockbay::store::faulty::{Cut, Faults, Faulty};
use lockbay::store::{Deadline, Effects, Key, Kind, Partition, Write};
use lockbay::{Json, LockBay};
use parking_lot::Mutex;
use support::script::{Does, Script, step_after, steps};
use support::stepped::World;

/// A value that no store takes.
fn refused_by_every_store(context: &StepContext) -> Result<StepOutput, StepError> {
    let key = Key::new(Partition::FIRST, Kind::new("test"), &*context.saga_id);
    let put = Write::Put { key, value: Vec::new(), deadline: Deadline::Never };
    let effects = Effects { guards: Vec::new(), writes: vec![put] };
    Ok(StepOutput { result: Json::null(), effects })
}

#[tokio::test]
async fn effects_that_no_store_takes_do_not_make_their_step_run_again_and_again() {
    let world = World::new(3);
    let instance = world.instance();
    let script = Script::new(&world.clock);
    script.register(&instance.bay);
    let calls = Arc::new(Mutex::new(Vec::new()));
    let (forward, back) = (Arc::clone(&calls), Arc::clone(&calls));
    let step = step_fn(
        move |context: StepContext| {
            forward.lock().push("execute");
            async move { refused_by_every_store(&context) }
        },
        move |context: StepContext| {
            back.lock().push("compensate");
            async move { refused_by_every_store(&context) }
        },
    );
    instance.bay.sagas().register("poison", step).unwrap();
    let mut request = SagaRequest::new("t", steps(2));
    request.steps[1].handler = "poison".into();
    request.steps[1].max_retries = Some(2);
    request.steps[1].compensation_max_retries = Some(2);
    let id = instance.bay.sagas().start(request).await.unwrap().saga_id;
    world.pass_by(Duration::from_millis(20), Duration::from_secs(20)).await;
    // Three times each, and then a person is needed.
    let expected = [["execute"; 3], ["compensate"; 3]].concat();
    assert_eq!(*calls.lock(), expected);
    let saga = instance.bay.sagas().show(&id).await.unwrap();
    assert_eq!(saga.status, SagaStatus::Parked);
    assert!(saga.reason.unwrap().contains("cannot be recorded"));
}

#[tokio::test]
async fn a_decision_that_follows_closely_on_another_is_heard_by_a_distant_executor() {
    let world = World::new(3);
    let instance = world.instance();
    let script = Script::new(&world.clock);
    script.register(&instance.bay);
    instance.bay.start();
    script.plan("execute left", &[], Does::Hang);
    script.plan("execute right", &[Does::FailForNow; 3], Does::Hang);
    let mut request =
        SagaRequest::new("t", vec![step_after("left", &[]), step_after("right", &[])]);
    request.steps[1].max_retries = Some(1_000);
    let id = instance.bay.sagas().start(request).await.unwrap().saga_id;
    while script.calls("execute right").len() < 3 {
        world.pass(Duration::from_millis(20)).await;
    }
    let other = world.instance();
    instance.store.set_commit_delay(Duration::from_millis(300));
    let retry = Decision::Retry { step: "right".into(), parameters: None };
    other.bay.sagas().operate(&id, &retry, "ann", "first").await.unwrap();
    while script.calls("execute right").len() < 4 {
        world.pass(Duration::from_millis(20)).await;
    }
    other.bay.sagas().operate(&id, &Decision::Cancel, "ann", "second").await.unwrap();
    world.pass_by(Duration::from_millis(20), Duration::from_secs(10)).await;
    let status = other.bay.sagas().status(&id).await.unwrap();
    assert_eq!(status, SagaStatus::Compensated);
}

/// An instance whose machine's clock is behind the store's.
fn behind(world: &World, seed: u64) -> (Clock, LockBay) {
    let clock = Clock::manual(seed);
    let store = Faulty::new(Arc::new(world.memory.client()), clock.clone());
    let bay = LockBay::with_store(Config::default(), Arc::new(store), clock.clone());
    (clock, bay)
}

#[tokio::test]
async fn a_saga_that_is_started_where_the_clock_is_behind_has_its_full_time() {
    let world = World::new(3);
    world.clock.advance(Duration::from_secs(7_200));
    let (_, bay) = behind(&world, 4);
    let script = Script::new(bay.clock());
    script.register(&bay);
    let id = bay.sagas().start(SagaRequest::new("t", steps(2))).await.unwrap().saga_id;
    world.settle().await;
    let saga = bay.sagas().show(&id).await.unwrap();
    assert_eq!(saga.status, SagaStatus::Completed, "{saga:?}");
    assert_eq!(saga.created_at, world.clock.now());
}

#[tokio::test]
async fn a_retry_in_progress_is_undone_when_it_is_cancelled_where_the_clock_is_behind() {
    let world = World::new(3);
    world.clock.advance(Duration::from_secs(7_200));
    let instance = world.instance();
    let script = Script::new(&world.clock);
    script.register(&instance.bay);
    script.plan("execute s0", &[Does::FailForNow], Does::Hang);
    instance.bay.start();
    let id = instance.bay.sagas().start(SagaRequest::new("t", steps(1))).await.unwrap().saga_id;
    world.pass(Duration::from_secs(1)).await;
    assert_eq!(script.take(), ["execute s0", "execute s0"]);
    let (_, bay) = behind(&world, 4);
    bay.sagas().operate(&id, &Decision::Cancel, "ann", "because").await.unwrap();
    world.pass(Duration::from_secs(4)).await;
    assert_eq!(script.take(), ["compensate s0"]);
    assert_eq!(bay.sagas().status(&id).await.unwrap(), SagaStatus::Compensated);
}

#[tokio::test]
async fn a_retry_in_progress_is_in_doubt_when_it_is_taken_over_where_the_clock_is_behind() {
    let world = World::new(3);
    world.clock.advance(Duration::from_secs(7_200));
    let instance = world.instance();
    let script = Script::new(&world.clock);
    script.register(&instance.bay);
    script.plan("execute s0", &[Does::FailForNow, Does::Hang], Does::Fail);
    let id = instance.bay.sagas().start(SagaRequest::new("t", steps(1))).await.unwrap().saga_id;
    world.pass(Duration::from_secs(1)).await;
    assert_eq!(script.take(), ["execute s0", "execute s0"]);
    instance.store.die();
    world.pass(Duration::from_secs(6)).await;
    let (clock, bay) = behind(&world, 4);
    script.register(&bay);
    bay.start();
    world.settle().await;
    clock.advance(Duration::from_secs(1));
    world.settle().await;
    assert_eq!(script.take(), ["execute s0", "compensate s0"]);
    assert_eq!(bay.sagas().status(&id).await.unwrap(), SagaStatus::Compensated);
}

/// An instance that has a session, and whose steps follow a script.
async fn warm(world: &World, script: &Script) -> support::stepped::Instance {
    let instance = world.instance();
    script.register(&instance.bay);
    instance.bay.start();
    instance.bay.sagas().start(SagaRequest::new("warm", steps(1))).await.unwrap();
    world.settle().await;
    script.take();
    instance
}

#[tokio::test]
async fn a_start_whose_answer_is_lost_before_the_store_is_not_reached_is_executed() {
    let world = World::new(3);
    let script = Script::new(&world.clock);
    let instance = warm(&world, &script).await;
    instance.store.set(Faults { reply_lost: 1_000, ..Faults::default() });
    let sagas = instance.bay.sagas().clone();
    let start = tokio::spawn(async move { sagas.start(SagaRequest::new("t", steps(2))).await });
    world.settle().await;
    instance.store.set(Faults { refused: 1_000, ..Faults::default() });
    world.pass(Duration::from_secs(1)).await;
    let error = start.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), lockbay::ErrorKind::Unknown, "{error}");
    instance.store.set(Faults::default());
    world.pass(Duration::from_secs(2)).await;
    assert_eq!(script.take(), ["execute s0", "execute s1"]);
}

#[tokio::test]
async fn sessions_that_were_taken_over_are_served_although_the_next_one_could_not_be() {
    for commit in 1..=4 {
        take_over_two_sessions_and_fail_at(commit).await;
    }
}

async fn take_over_two_sessions_and_fail_at(commit: u64) {
    let world = World::new(3);
    let script = Script::new(&world.clock);
    script.plan("execute s1", &[Does::Hang; 2], Does::Succeed);
    let mut ids = Vec::new();
    for _ in 0..2 {
        let instance = warm(&world, &script).await;
        let started = instance.bay.sagas().start(SagaRequest::new("t", steps(2))).await.unwrap();
        ids.push(started.saga_id);
        world.settle().await;
        instance.store.die();
    }
    world.pass_by(Duration::from_millis(50), Duration::from_secs(6)).await;
    // Not warmed: its commits are those of the takeover, and of its leadership.
    let second = world.instance();
    script.register(&second.bay);
    second.store.die_at(commit, Cut::Before);
    second.bay.start();
    world.pass(Duration::from_millis(20)).await;
    second.store.revive();
    world.pass_by(Duration::from_millis(50), Duration::from_secs(8)).await;
    for id in ids {
        assert_eq!(second.bay.sagas().status(&id).await.unwrap(), SagaStatus::Completed);
    }
}

#[tokio::test]
async fn an_executor_whose_parked_saga_was_given_to_another_enters_nothing_more() {
    let world = World::new(3);
    let first = world.instance();
    let wakes = Arc::new(tokio::sync::Notify::new());
    let waits = Arc::clone(&wakes);
    let step = lockbay::saga::read_only(move |context: StepContext| {
        let waits = Arc::clone(&waits);
        async move {
            if context.step == "left" {
                return Err(StepError::missing("told to"));
            }
            waits.notified().await;
            Ok(StepOutput::default())
        }
    });
    first.bay.sagas().register("step", step).unwrap();
    let second = world.instance();
    let script = Script::new(&world.clock);
    script.register(&second.bay);
    script.plan("execute right", &[], Does::Hang);
    let request = SagaRequest::new("t", vec![step_after("left", &[]), step_after("right", &[])]);
    let id = first.bay.sagas().start(request).await.unwrap().saga_id;
    world.settle().await;
    second.bay.sagas().operate(&id, &Decision::Resume, "ann", "deployed").await.unwrap();
    world.settle().await;
    wakes.notify_one();
    world.settle().await;
    let history = second.bay.sagas().history(&id, None, 100).await.unwrap().items;
    let events: Vec<_> = history.iter().map(|entry| entry.event).collect();
    assert_eq!(events, ["parked", "resumed", "step_completed"]);
    assert_eq!(history[2].step.as_deref(), Some("left"));
    assert_eq!(first.bay.sagas().running(), 0);
}

#[tokio::test]
async fn no_step_begins_when_the_executors_trust_ended_before_the_store_answered() {
    let world = World::new(3);
    let script = Script::new(&world.clock);
    let instance = warm(&world, &script).await;
    instance.store.set_commit_delay(Duration::from_secs(6));
    let sagas = instance.bay.sagas().clone();
    let start = tokio::spawn(async move { sagas.start(SagaRequest::new("t", steps(2))).await });
    world.pass_by(Duration::from_millis(50), Duration::from_millis(6_200)).await;
    let id = start.await.unwrap().unwrap().saga_id;
    assert_eq!(script.take(), [] as [&str; 0]);
    instance.store.set_commit_delay(Duration::ZERO);
    world.pass_by(Duration::from_millis(50), Duration::from_secs(20)).await;
    assert_eq!(script.take(), ["execute s0", "execute s1"]);
    assert_eq!(instance.bay.sagas().status(&id).await.unwrap(), SagaStatus::Completed);
}

/// A step that has its effect and never answers; its compensation takes the effect away.
fn hangs(there: &Arc<Mutex<bool>>) -> impl lockbay::saga::Step {
    let (forward, back) = (Arc::clone(there), Arc::clone(there));
    step_fn(
        move |_: StepContext| {
            *forward.lock() = true;
            std::future::pending::<Result<StepOutput, StepError>>()
        },
        move |_: StepContext| {
            *back.lock() = false;
            async { Ok(StepOutput::default()) }
        },
    )
}

#[tokio::test]
async fn a_saga_that_is_cancelled_while_it_is_taken_over_is_undone_all_the_same() {
    for offset in 0..40 {
        let world = World::new(offset + 1);
        let there = Arc::new(Mutex::new(false));
        let first = world.instance();
        first.bay.sagas().register("step", hangs(&there)).unwrap();
        let request =
            SagaRequest::new("t", vec![lockbay::saga::StepSpec::new("s0", "step", Json::null())]);
        let id = first.bay.sagas().start(request).await.unwrap().saga_id;
        world.pass_by(Duration::from_millis(10), Duration::from_millis(50)).await;
        first.store.set(Faults { refused: 1_000, ..Faults::default() });
        let second = world.instance();
        second.bay.sagas().register("step", hangs(&there)).unwrap();
        second.bay.start();
        world.pass_by(Duration::from_millis(50), Duration::from_millis(500)).await;
        // Slow enough that a decision comes between its look at the saga and its entry.
        second.store.set_delay(Duration::from_millis(300));
        let third = world.instance();
        let moment = Duration::from_millis(4_000 + 100 * offset);
        world.pass_by(Duration::from_millis(50), moment).await;
        third.bay.sagas().operate(&id, &Decision::Cancel, "ann", "late").await.unwrap();
        world.pass_by(Duration::from_millis(50), Duration::from_secs(20)).await;
        let status = third.bay.sagas().status(&id).await.unwrap();
        let history = third.bay.sagas().history(&id, None, 100).await.unwrap();
        assert_eq!(status, SagaStatus::Compensated, "cancelled after {moment:?}: {history:#?}");
        assert!(!*there.lock(), "compensated, and its effect is there: cancelled after {moment:?}");
    }
}

#[tokio::test]
async fn a_step_whose_effects_always_come_too_late_is_undone() {
    let world = World::new(1);
    let instance = world.instance();
    let key = Key::new(Partition::FIRST, Kind::new("test"), "x");
    let put = Write::Put { key: key.clone(), value: b"1".to_vec(), deadline: Deadline::Never };
    let taken =
        lockbay::store::Commit::new(Partition::FIRST, vec![], vec![put.clone()], vec![]).unwrap();
    instance.bay.store().commit(&taken).await.unwrap();
    let undone = Arc::new(Mutex::new(0));
    let back = Arc::clone(&undone);
    let step = step_fn(
        move |_: StepContext| {
            let guards = vec![lockbay::store::Guard::Absent(key.clone())];
            let effects = Effects { guards, writes: vec![put.clone()] };
            async move { Ok(StepOutput { result: Json::null(), effects }) }
        },
        move |_: StepContext| {
            *back.lock() += 1;
            async { Ok(StepOutput::default()) }
        },
    );
    instance.bay.sagas().register("step", step).unwrap();
    let mut spec = lockbay::saga::StepSpec::new("s0", "step", Json::null());
    spec.max_retries = Some(0);
    let request = SagaRequest::new("t", vec![spec]);
    let id = instance.bay.sagas().start(request).await.unwrap().saga_id;
    world.pass_by(Duration::from_millis(20), Duration::from_secs(30)).await;
    let saga = instance.bay.sagas().show(&id).await.unwrap();
    assert_eq!(saga.status, SagaStatus::Compensated, "{saga:?}");
    assert_eq!(*undone.lock(), 1, "it ran, and may have done more than its effects");
}

#[tokio::test]
async fn a_step_that_is_done_at_last_is_no_longer_in_doubt() {
    let world = World::new(1);
    let instance = world.instance();
    let step = lockbay::saga::read_only(|context: StepContext| async move {
        match context.attempt {
            1 => Err(StepError::unknown("no answer")),
            _ => Ok(StepOutput::default()),
        }
    });
    instance.bay.sagas().register("step", step).unwrap();
    let spec = lockbay::saga::StepSpec::new("s0", "step", Json::null());
    let request = SagaRequest::new("t", vec![spec]);
    let id = instance.bay.sagas().start(request).await.unwrap().saga_id;
    world.pass_by(Duration::from_millis(20), Duration::from_secs(5)).await;
    let saga = instance.bay.sagas().show(&id).await.unwrap();
    assert_eq!((saga.status, saga.steps[0].in_doubt), (SagaStatus::Completed, false));
}

#[tokio::test]
async fn no_step_has_a_name_whose_key_is_that_of_a_compensation() {
    let world = World::new(1);
    let instance = world.instance();
    let names = ["pay", "pay/undo"];
    let steps = names.map(|name| lockbay::saga::StepSpec::new(name, "step", Json::null()));
    instance.bay.sagas().register("step", hangs(&Arc::default())).unwrap();
    let refused = instance.bay.sagas().start(SagaRequest::new("t", steps.to_vec())).await;
    assert_eq!(refused.unwrap_err().kind(), lockbay::ErrorKind::Invalid);
}

/// A step whose execution is fine, and which panics when it hears that it was recorded.
struct PanicsAfterwards(Mutex<bool>);

#[async_trait::async_trait]
impl lockbay::saga::Step for PanicsAfterwards {
    async fn execute(&self, _: StepContext) -> Result<StepOutput, StepError> {
        Ok(StepOutput::default())
    }

    async fn recorded(&self, _: &StepContext) {
        let first = !std::mem::replace(&mut *self.0.lock(), true);
        assert!(!first, "told to");
    }
}

#[tokio::test]
async fn a_panic_outside_of_a_call_does_not_leave_its_saga_hanging() {
    let world = World::new(1);
    let instance = world.instance();
    instance.bay.sagas().register("step", PanicsAfterwards(Mutex::new(false))).unwrap();
    instance.bay.start();
    let steps = ["s0", "s1"].map(|name| lockbay::saga::StepSpec::new(name, "step", Json::null()));
    let request = SagaRequest::new("t", steps.to_vec());
    let id = instance.bay.sagas().start(request).await.unwrap().saga_id;
    world.pass_by(Duration::from_millis(50), Duration::from_secs(3)).await;
    assert_eq!(instance.bay.sagas().status(&id).await.unwrap(), SagaStatus::Completed);
    assert_eq!(instance.bay.sagas().running(), 0);
}
