//! Steps done by workers that poll, on one instance and several, under a clock that the test steps.

#![allow(clippy::unwrap_used)] // a test fails by panicking

#[path = "support/stepped.rs"]
mod stepped;

use std::collections::HashSet;
use std::time::Duration;

use lockbay::metrics::Metric;
use lockbay::saga::{
    Action, ClaimedTask, Decision, HandlerCheck, SagaInfo, SagaRequest, SagaStatus, StepSpec,
    StepStatus, TaskEffect, TaskFailure, TaskPoll,
};
use lockbay::store::faulty::Faults;
use lockbay::store::{Kind, Partition, Range, Store};
use lockbay::{ErrorKind, Json};
use stepped::{Instance, World};
use tokio_util::sync::CancellationToken;

fn json(text: &str) -> Json {
    Json::parse(text).unwrap()
}

fn wish() -> TaskPoll {
    TaskPoll::new(vec!["pay".into()], "worker")
}

/// A saga of steps that a worker does. The worker may come later.
fn saga(steps: &[&str]) -> SagaRequest {
    let step = |name: &&str| StepSpec::new(*name, "pay", json(r#"{"amount": 10.00}"#));
    let mut request = SagaRequest::new("order", steps.iter().map(step).collect());
    request.handlers = HandlerCheck::Deferred;
    request
}

async fn start(world: &World, instance: &Instance, request: SagaRequest) -> String {
    // From here on it is known that somebody polls.
    assert!(instance.bay.poll(&wish()).await.unwrap().is_empty());
    let id = instance.bay.sagas().start(request).await.unwrap().saga_id;
    world.pass(Duration::from_millis(20)).await;
    id
}

async fn poll(instance: &Instance) -> Vec<ClaimedTask> {
    instance.bay.poll(&wish()).await.unwrap()
}

async fn one(instance: &Instance) -> ClaimedTask {
    let mut tasks = poll(instance).await;
    assert_eq!(tasks.len(), 1, "{tasks:?}");
    tasks.remove(0)
}

async fn complete(instance: &Instance, task: &ClaimedTask, result: &str) {
    let tasks = instance.bay.tasks();
    tasks.complete(&task.task_id, &task.task_token, json(result)).await.unwrap();
}

async fn fail(instance: &Instance, task: &ClaimedTask, effect: TaskEffect, retryable: bool) {
    let failure = TaskFailure { error: "told to".into(), effect, retryable };
    instance.bay.tasks().fail(&task.task_id, &task.task_token, failure).await.unwrap();
}

async fn show(instance: &Instance, id: &str) -> SagaInfo {
    instance.bay.sagas().show(id).await.unwrap()
}

/// How many records of tasks there are.
async fn left_over(world: &World) -> usize {
    let mut count = 0;
    for kind in ["task", "task-request", "task-queue"] {
        let range = Range::new(Partition::FIRST, Kind::new(kind), "");
        count += world.memory.client().scan(&range, 100).await.unwrap().records.len();
    }
    count
}

#[tokio::test]
async fn a_task_is_given_to_one_worker_of_many_and_its_result_carries_the_saga_on() {
    let world = World::new(1);
    let instance = world.instance();
    assert!(poll(&instance).await.is_empty());
    let workers: Vec<_> = (0..20)
        .map(|_| {
            let bay = instance.bay.clone();
            let wait = Duration::from_secs(1);
            tokio::spawn(async move { bay.poll(&TaskPoll { wait, ..wish() }).await.unwrap() })
        })
        .collect();
    world.settle().await;
    let id = start(&world, &instance, saga(&["reserve", "charge"])).await;
    world.pass(Duration::from_secs(2)).await;
    let mut given = Vec::new();
    for worker in workers {
        given.extend(worker.await.unwrap());
    }
    assert_eq!(given.len(), 1);
    let task = &given[0];
    assert_eq!((task.step.as_str(), task.action, task.attempt), ("reserve", Action::Execute, 1));
    assert_eq!(task.parameters.text(), r#"{"amount": 10.00}"#);
    assert_eq!(task.idempotency_key, format!("{id}/reserve"));
    complete(&instance, task, r#"{"hold": 1.50}"#).await;
    world.pass(Duration::from_millis(50)).await;
    let task = one(&instance).await;
    assert_eq!(task.step, "charge");
    assert_eq!(task.context.text(), r#"{"reserve_result":{"hold": 1.50}}"#);
    complete(&instance, &task, "2").await;
    world.pass(Duration::from_millis(50)).await;
    let saga = show(&instance, &id).await;
    assert_eq!(saga.status, SagaStatus::Completed);
    assert_eq!(left_over(&world).await, 0);
}

#[tokio::test]
async fn a_poll_waits_for_a_task_and_takes_no_more_than_it_wants() {
    let world = World::new(1);
    let instance = world.instance();
    let wait = Duration::from_secs(10);
    assert!(poll(&instance).await.is_empty());
    let mut request = saga(&["a", "b", "c"]);
    request.steps.iter_mut().for_each(|step| step.depends_on = Some(Vec::new()));
    start(&world, &instance, request).await;
    let two = TaskPoll { max: 2, wait, ..wish() };
    assert_eq!(instance.bay.poll(&two).await.unwrap().len(), 2);
    assert_eq!(instance.bay.poll(&two).await.unwrap().len(), 1);
    let bay = instance.bay.clone();
    let waiting = tokio::spawn(async move { bay.poll(&two).await.unwrap() });
    world.pass(Duration::from_secs(1)).await;
    assert!(!waiting.is_finished());
    start(&world, &instance, saga(&["later"])).await;
    assert!(waiting.is_finished(), "the hint did not wake it");
    assert_eq!(waiting.await.unwrap()[0].step, "later");
}

#[tokio::test]
async fn a_worker_that_dies_leaves_the_outcome_unknown_and_the_next_gets_the_same_key() {
    let world = World::new(1);
    let instance = world.instance();
    let id = start(&world, &instance, saga(&["charge"])).await;
    let dead = one(&instance).await;
    world.pass(Duration::from_secs(31)).await;
    assert_eq!(show(&instance, &id).await.steps[0].status, StepStatus::Unknown);
    assert_eq!(instance.bay.metrics().value(Metric::TasksLapsed), 1);
    let late = instance.bay.tasks().complete(&dead.task_id, &dead.task_token, json("1")).await;
    assert_eq!(late.unwrap_err().kind(), ErrorKind::Fenced);
    let heartbeat = instance.bay.tasks().heartbeat(&dead.task_id, &dead.task_token).await;
    assert_eq!(heartbeat.unwrap_err().kind(), ErrorKind::Fenced);
    let again = one(&instance).await;
    assert_eq!((again.attempt, &again.idempotency_key), (2, &dead.idempotency_key));
    assert_ne!(again.task_token, dead.task_token);
    complete(&instance, &again, "2").await;
    world.pass(Duration::from_millis(50)).await;
    assert_eq!(show(&instance, &id).await.status, SagaStatus::Completed);
    assert_eq!(left_over(&world).await, 0);
}

#[tokio::test]
async fn heartbeats_keep_a_claim_for_longer_than_its_lease() {
    let world = World::new(1);
    let instance = world.instance();
    let id = start(&world, &instance, saga(&["charge"])).await;
    let task = one(&instance).await;
    for _ in 0..4 {
        world.pass(Duration::from_secs(20)).await;
        instance.bay.tasks().heartbeat(&task.task_id, &task.task_token).await.unwrap();
    }
    complete(&instance, &task, "1").await;
    world.pass(Duration::from_millis(50)).await;
    assert_eq!(show(&instance, &id).await.status, SagaStatus::Completed);
}

#[tokio::test]
async fn what_a_worker_says_twice_is_confirmed_and_something_else_is_refused() {
    let world = World::new(1);
    let instance = world.instance();
    let other = world.instance();
    start(&world, &instance, saga(&["charge"])).await;
    let task = one(&instance).await;
    // The executor's store is deaf, so that the task stays.
    instance.store.set(Faults { refused: 1_000, ..Faults::default() });
    complete(&other, &task, "[1, 2]").await;
    let third = world.instance();
    for instance in [&other, &third] {
        complete(instance, &task, "[1.0,2]").await;
        let tasks = instance.bay.tasks();
        let different = tasks.complete(&task.task_id, &task.task_token, json("[3]")).await;
        assert_eq!(different.unwrap_err().kind(), ErrorKind::KeyReused);
    }
    instance.store.set(Faults::default());
    world.pass(Duration::from_secs(5)).await;
    assert_eq!(left_over(&world).await, 0);
    complete(&other, &task, "[1,2]").await;
    let elsewhere = third.bay.tasks().complete(&task.task_id, &task.task_token, json("[1,2]"));
    assert_eq!(elsewhere.await.unwrap_err().kind(), ErrorKind::Fenced);
}

#[tokio::test]
async fn a_failure_without_effect_is_retried_or_final_as_the_worker_says() {
    let world = World::new(1);
    let instance = world.instance();
    let id = start(&world, &instance, saga(&["reserve", "charge"])).await;
    complete(&instance, &one(&instance).await, r#""h1""#).await;
    world.pass(Duration::from_millis(50)).await;
    fail(&instance, &one(&instance).await, TaskEffect::None, true).await;
    world.pass(Duration::from_secs(1)).await;
    let again = one(&instance).await;
    assert_eq!((again.step.as_str(), again.attempt), ("charge", 2));
    fail(&instance, &again, TaskEffect::None, false).await;
    world.pass(Duration::from_millis(50)).await;
    // What failed without effect is not undone; what was done before it is, with its result.
    let undo = one(&instance).await;
    assert_eq!((undo.step.as_str(), undo.action), ("reserve", Action::Compensate));
    assert_eq!(undo.original_result, Some(json(r#""h1""#)));
    assert_eq!(undo.undo_key, Some(format!("{id}/reserve/undo")));
    complete(&instance, &undo, "null").await;
    world.pass(Duration::from_millis(50)).await;
    let saga = show(&instance, &id).await;
    assert_eq!(saga.status, SagaStatus::Compensated);
    assert_eq!(saga.reason.as_deref(), Some("failed: step \"charge\": told to"));
    assert_eq!(left_over(&world).await, 0);
}

/// An executor that dies while a worker is at its task, and one that takes its sagas over.
async fn takeover(world: &World, request: SagaRequest) -> (Instance, String, ClaimedTask) {
    let first = world.instance();
    let id = start(world, &first, request).await;
    let long = TaskPoll { lease: Duration::from_secs(60), ..wish() };
    let task = first.bay.poll(&long).await.unwrap().remove(0);
    first.store.set(Faults { refused: 1_000_000, ..Faults::default() });
    let second = world.instance();
    second.bay.start();
    (second, id, task)
}

#[tokio::test]
async fn the_next_executor_waits_for_the_worker_of_the_dead_one_and_asks_nobody_else() {
    let world = World::new(1);
    let (second, id, task) = takeover(&world, saga(&["charge"])).await;
    world.pass(Duration::from_secs(8)).await;
    assert_eq!(show(&second, &id).await.steps[0].attempts, 1, "it was taken over");
    assert!(poll(&second).await.is_empty(), "the worker is still at it");
    complete(&second, &task, "1").await;
    world.pass(Duration::from_secs(1)).await;
    let saga = show(&second, &id).await;
    assert_eq!(saga.status, SagaStatus::Completed);
    assert_eq!(saga.steps[0].result, Some(json("1")));
    assert_eq!(left_over(&world).await, 0);
}

#[tokio::test]
async fn an_outcome_that_came_while_nobody_executed_is_used() {
    let world = World::new(1);
    let (second, id, task) = takeover(&world, saga(&["charge"])).await;
    complete(&second, &task, "1").await;
    world.pass(Duration::from_secs(8)).await;
    assert!(poll(&second).await.is_empty());
    assert_eq!(show(&second, &id).await.status, SagaStatus::Completed);
    assert_eq!(left_over(&world).await, 0);
}

#[tokio::test]
async fn a_task_that_nobody_had_is_asked_anew_by_the_next_executor() {
    let world = World::new(1);
    let first = world.instance();
    let id = start(&world, &first, saga(&["charge"])).await;
    first.store.set(Faults { refused: 1_000_000, ..Faults::default() });
    let second = world.instance();
    second.bay.start();
    world.pass(Duration::from_secs(8)).await;
    let task = one(&second).await;
    assert_eq!(task.attempt, 2);
    assert!(poll(&second).await.is_empty());
    complete(&second, &task, "1").await;
    world.pass(Duration::from_secs(1)).await;
    assert_eq!(show(&second, &id).await.status, SagaStatus::Completed);
}

#[tokio::test]
async fn a_step_that_must_not_be_repeated_heeds_the_worker_before_it_asks_a_probe() {
    let world = World::new(1);
    let mut request = saga(&["charge"]);
    request.steps[0].idempotent = false;
    let (second, id, task) = takeover(&world, request).await;
    world.pass(Duration::from_secs(8)).await;
    assert!(poll(&second).await.is_empty(), "no probe while the worker is at it");
    complete(&second, &task, "1").await;
    world.pass(Duration::from_secs(1)).await;
    assert_eq!(show(&second, &id).await.status, SagaStatus::Completed);
    assert_eq!(left_over(&world).await, 0);
}

#[tokio::test]
async fn a_step_that_must_not_be_repeated_is_probed_when_its_worker_is_gone() {
    let world = World::new(1);
    let instance = world.instance();
    let mut request = saga(&["charge"]);
    request.steps[0].idempotent = false;
    let id = start(&world, &instance, request).await;
    one(&instance).await;
    world.pass(Duration::from_secs(32)).await;
    let probe = one(&instance).await;
    assert_eq!((probe.action, probe.attempt), (Action::Probe, 2));
    fail(&instance, &probe, TaskEffect::None, true).await;
    world.pass(Duration::from_secs(1)).await;
    let again = one(&instance).await;
    assert_eq!((again.action, again.attempt), (Action::Execute, 3));
    fail(&instance, &again, TaskEffect::Unknown, true).await;
    world.pass(Duration::from_secs(1)).await;
    let probe = one(&instance).await;
    assert_eq!(probe.action, Action::Probe);
    complete(&instance, &probe, r#""found""#).await;
    world.pass(Duration::from_millis(50)).await;
    let saga = show(&instance, &id).await;
    assert_eq!(saga.status, SagaStatus::Completed);
    assert_eq!(saga.steps[0].result, Some(json(r#""found""#)));
    assert_eq!(left_over(&world).await, 0);
}

#[tokio::test]
async fn a_task_that_nobody_took_is_withdrawn_when_its_saga_is_cancelled() {
    let world = World::new(1);
    let instance = world.instance();
    let id = start(&world, &instance, saga(&["charge"])).await;
    let sagas = instance.bay.sagas();
    sagas.operate(&id, &Decision::Cancel, "ann", "no longer wanted").await.unwrap();
    world.pass(Duration::from_millis(100)).await;
    assert!(poll(&instance).await.is_empty());
    // It had no effect, and nothing is undone.
    let saga = show(&instance, &id).await;
    assert_eq!((saga.status, saga.steps[0].status), (SagaStatus::Compensated, StepStatus::Failed));
    assert_eq!(left_over(&world).await, 0);
}

#[tokio::test]
async fn a_worker_at_a_cancelled_saga_is_fenced_and_its_step_is_undone() {
    let world = World::new(1);
    let instance = world.instance();
    let id = start(&world, &instance, saga(&["charge"])).await;
    let task = one(&instance).await;
    let sagas = instance.bay.sagas();
    sagas.operate(&id, &Decision::Cancel, "ann", "no longer wanted").await.unwrap();
    world.pass(Duration::from_secs(2)).await;
    let late = instance.bay.tasks().complete(&task.task_id, &task.task_token, json("1")).await;
    assert_eq!(late.unwrap_err().kind(), ErrorKind::Fenced);
    let undo = one(&instance).await;
    assert_eq!((undo.action, undo.original_result.clone()), (Action::Compensate, None));
    complete(&instance, &undo, "1").await;
    world.pass(Duration::from_millis(50)).await;
    assert_eq!(show(&instance, &id).await.status, SagaStatus::Compensated);
    assert_eq!(left_over(&world).await, 0);
}

#[tokio::test]
async fn a_worker_that_ends_just_after_the_cancellation_has_its_result_undone() {
    let world = World::new(1);
    let instance = world.instance();
    let id = start(&world, &instance, saga(&["charge"])).await;
    let task = one(&instance).await;
    let sagas = instance.bay.sagas();
    sagas.operate(&id, &Decision::Cancel, "ann", "no longer wanted").await.unwrap();
    world.pass(Duration::from_millis(300)).await;
    complete(&instance, &task, r#""tx""#).await;
    world.pass(Duration::from_millis(100)).await;
    assert_eq!(one(&instance).await.original_result, Some(json(r#""tx""#)));
}

#[tokio::test]
async fn a_step_that_returned_nothing_is_undone_as_one_that_is_known_to_have_completed() {
    let world = World::new(1);
    let instance = world.instance();
    start(&world, &instance, saga(&["reserve", "charge"])).await;
    complete(&instance, &one(&instance).await, "null").await;
    world.pass(Duration::from_millis(50)).await;
    fail(&instance, &one(&instance).await, TaskEffect::None, false).await;
    world.pass(Duration::from_millis(50)).await;
    let undo = one(&instance).await;
    assert_eq!((undo.step.as_str(), undo.action), ("reserve", Action::Compensate));
    assert_eq!(undo.original_result, Some(Json::null()));
}

#[tokio::test]
async fn nothing_is_undone_while_a_worker_of_a_dead_executor_does_it() {
    let world = World::new(1);
    let (second, id, task) = takeover(&world, saga(&["charge"])).await;
    let sagas = second.bay.sagas();
    sagas.operate(&id, &Decision::Cancel, "ann", "no longer wanted").await.unwrap();
    world.pass(Duration::from_secs(10)).await;
    assert!(poll(&second).await.is_empty(), "the worker is still at it");
    complete(&second, &task, r#""tx""#).await;
    world.pass(Duration::from_secs(1)).await;
    let undo = one(&second).await;
    assert_eq!(undo.action, Action::Compensate);
    assert_eq!(undo.original_result, Some(json(r#""tx""#)));
    complete(&second, &undo, "1").await;
    world.pass(Duration::from_millis(100)).await;
    assert_eq!(show(&second, &id).await.status, SagaStatus::Compensated);
    assert_eq!(left_over(&world).await, 0);
}

#[tokio::test]
async fn a_step_whose_time_is_over_before_anybody_took_it_had_no_effect() {
    let world = World::new(1);
    let instance = world.instance();
    let mut request = saga(&["charge"]);
    request.steps[0].timeout = Some(Duration::from_secs(5));
    request.steps[0].max_retries = Some(0);
    let id = start(&world, &instance, request).await;
    world.pass(Duration::from_secs(6)).await;
    let saga = show(&instance, &id).await;
    assert_eq!((saga.status, saga.steps[0].status), (SagaStatus::Compensated, StepStatus::Failed));
    assert!(poll(&instance).await.is_empty());
    assert_eq!(left_over(&world).await, 0);
}

#[tokio::test]
async fn an_abandoned_saga_gives_out_nothing_more() {
    let world = World::new(1);
    let instance = world.instance();
    let id = start(&world, &instance, saga(&["charge"])).await;
    let sagas = instance.bay.sagas();
    sagas.operate(&id, &Decision::Abandon, "ann", "lost cause").await.unwrap();
    world.pass(Duration::from_secs(3)).await;
    assert_eq!(show(&instance, &id).await.status, SagaStatus::Abandoned);
    assert!(poll(&instance).await.is_empty());
    assert_eq!(left_over(&world).await, 0);
}

#[tokio::test]
async fn a_task_that_is_given_back_goes_to_the_next_worker() {
    let world = World::new(1);
    let instance = world.instance();
    start(&world, &instance, saga(&["charge"])).await;
    let task = one(&instance).await;
    instance.bay.tasks().give_back(&task.task_id, &task.task_token).await.unwrap();
    let again = one(&instance).await;
    assert_eq!((&again.task_id, again.attempt), (&task.task_id, 1));
    let late = instance.bay.tasks().complete(&task.task_id, &task.task_token, json("1")).await;
    assert_eq!(late.unwrap_err().kind(), ErrorKind::Fenced);
}

#[tokio::test]
async fn wishes_outside_the_limits_are_refused_and_nothing_is_registered() {
    let world = World::new(1);
    let instance = world.instance();
    for wrong in [
        TaskPoll { handlers: Vec::new(), ..wish() },
        TaskPoll { handlers: vec!["h".into(); 65], ..wish() },
        TaskPoll { handlers: vec!["pay".into(), String::new()], ..wish() },
        TaskPoll { max: 0, ..wish() },
        TaskPoll { max: 101, ..wish() },
        TaskPoll { wait: Duration::from_secs(61), ..wish() },
        TaskPoll { lease: Duration::from_millis(999), ..wish() },
        TaskPoll { lease: Duration::from_secs(3_601), ..wish() },
        TaskPoll { holder: String::new(), ..wish() },
    ] {
        let refused = instance.bay.poll(&wrong).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid, "{wrong:?}");
    }
    let (handlers, _) = instance.bay.sagas().handlers(None, 100).await.unwrap();
    assert!(handlers.iter().all(|handler| handler.kind == "local"), "{handlers:?}");
    let tasks = instance.bay.tasks();
    for (id, token) in [("x", "1"), ("00112233445566778899aabbccddeeff", "one")] {
        let refused = tasks.heartbeat(id, token).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid);
    }
}

#[tokio::test]
async fn an_outcome_that_the_log_has_already_is_not_used_again() {
    let world = World::new(1);
    let (first, other) = (world.instance(), world.instance());
    let id = start(&world, &first, saga(&["charge"])).await;
    let task = one(&other).await;
    // Slow enough to die between the entry and the removal of the task.
    let millis = Duration::from_millis;
    first.store.set_delay(millis(100));
    fail(&other, &task, TaskEffect::None, true).await;
    let mut passed = 0;
    while show(&other, &id).await.steps[0].attempts == 0 {
        world.pass(millis(10)).await;
        passed += 1;
        assert!(passed < 100, "the failure was never recorded");
    }
    first.store.set(Faults { refused: 1_000, ..Faults::default() });
    world.pass(millis(1_000)).await;
    assert!(left_over(&world).await > 0, "it was to die before it removed the task");
    let second = world.instance();
    second.bay.start();
    world.pass(Duration::from_secs(8)).await;
    let again = one(&second).await;
    // One failed, and one was cut off by the takeover.
    assert_eq!(again.attempt, 3, "{again:?}");
    complete(&second, &again, "1").await;
    world.pass(Duration::from_secs(1)).await;
    assert_eq!(show(&second, &id).await.status, SagaStatus::Completed);
    assert_eq!(left_over(&world).await, 0);
}

/// A worker that asks at one instance and reports to it, each as often as it takes.
async fn work(instance: &Instance, name: &str, stop: &CancellationToken) -> Vec<Given> {
    let (bay, clock) = (&instance.bay, instance.bay.clock());
    let mut given = Vec::new();
    let wish = TaskPoll { holder: name.into(), wait: Duration::from_secs(1), max: 3, ..wish() };
    while !stop.is_cancelled() {
        let Ok(tasks) = bay.poll(&wish).await else {
            clock.sleep(Duration::from_millis(50)).await;
            continue;
        };
        for task in tasks {
            clock.sleep(clock.jitter(Duration::from_secs(2))).await;
            let said = format!("\"{} {}\"", name, task.task_token);
            let counted = loop {
                let (id, token) = (&task.task_id, &task.task_token);
                match bay.tasks().complete(id, token, json(&said)).await {
                    Ok(()) => break true,
                    Err(error) if error.kind() == ErrorKind::Fenced => break false,
                    Err(_) => clock.sleep(Duration::from_millis(50)).await,
                }
            };
            given.push(Given { task, said, counted });
        }
    }
    given
}

/// Lets time pass in larger steps, for much of it.
async fn coarsely(world: &World, duration: Duration) {
    let step = Duration::from_millis(25);
    let mut passed = Duration::ZERO;
    while passed < duration {
        world.clock.advance(step);
        passed += step;
        world.settle().await;
    }
}

/// A task as its worker saw it.
struct Given {
    task: ClaimedTask,
    said: String,
    /// Whether it was told that its word counts.
    counted: bool,
}

#[tokio::test]
async fn whatever_the_store_loses_no_task_is_given_twice_and_no_confirmed_word_is_lost() {
    for seed in 1..=5 {
        let world = World::new(seed);
        let bays = [world.instance(), world.instance(), world.instance()];
        assert!(poll(&bays[0]).await.is_empty());
        let mut ids = Vec::new();
        for at in 0..12 {
            let sagas = bays[at % 2].bay.sagas();
            let request = saga(&["reserve", "charge"]);
            ids.push(sagas.start(request).await.unwrap().saga_id);
        }
        for instance in &bays {
            let faults = Faults { refused: 60, reply_lost: 60, request_lost: 60 };
            instance.store.set(faults);
            instance.store.set_delay(Duration::from_millis(5));
        }
        let stop = CancellationToken::new();
        let work = futures_util::future::join_all([
            work(&bays[1], "w1", &stop),
            work(&bays[2], "w2", &stop),
            work(&bays[2], "w3", &stop),
        ]);
        let time = async {
            coarsely(&world, Duration::from_secs(40)).await;
            bays.iter().for_each(|instance| instance.store.set(Faults::default()));
            coarsely(&world, Duration::from_secs(60)).await;
            stop.cancel();
            coarsely(&world, Duration::from_secs(60)).await;
        };
        let given = tokio::select! {
            given = work => given,
            () = time => panic!("seed {seed}: a worker does not come to an end"),
        };
        let given: Vec<Given> = given.into_iter().flatten().collect();
        bays.iter().for_each(|instance| instance.store.set_delay(Duration::ZERO));
        let mut seen = HashSet::new();
        for Given { task, said, counted } in &given {
            let once = (&task.task_id, task.attempt, task.fencing_token);
            assert!(seen.insert(once), "seed {seed}: given twice: {task:?}");
            let step = show(&bays[0], &task.saga_id).await.steps;
            let step = step.into_iter().find(|step| step.name == task.step).unwrap();
            if *counted {
                assert_eq!(step.result, Some(json(said)), "seed {seed}: {task:?}");
            }
        }
        assert!(given.iter().filter(|given| given.counted).count() > 20, "seed {seed}");
        for id in &ids {
            let saga = show(&bays[0], id).await;
            assert!(saga.status.is_terminal(), "seed {seed}: {saga:?}");
        }
    }
}
