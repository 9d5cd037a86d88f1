//! Sagas on one instance and several, under a clock that the test steps.

#![allow(clippy::unwrap_used)] // a test fails by panicking

#[path = "support/stepped.rs"]
mod stepped;

use std::sync::Arc;
use std::time::Duration;

use lockbay::saga::{
    Decision, SagaRequest, SagaStatus, StepContext, StepError, StepOutput, StepSpec, StepStatus,
    step_fn,
};
use lockbay::store::faulty::Faults;
use lockbay::{ErrorKind, Json};
use parking_lot::Mutex;
use stepped::{Instance, World};

/// What handlers did, in order.
#[derive(Clone, Default)]
struct Trace(Arc<Mutex<Vec<String>>>);

impl Trace {
    fn add(&self, what: &str, context: &StepContext) {
        self.0.lock().push(format!("{what} {}", context.step));
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock())
    }
}

fn done() -> Result<StepOutput, StepError> {
    Ok(Json::parse("{}").unwrap().into())
}

/// A step that does what its parameters say.
fn register(instance: &Instance, trace: &Trace) {
    let (forward, back) = (trace.clone(), trace.clone());
    let step = step_fn(
        move |context: StepContext| {
            let trace = forward.clone();
            async move {
                trace.add("do", &context);
                match context.parameters.text() {
                    "\"fail\"" => Err(StepError::failed("told to")),
                    "\"hang\"" => std::future::pending().await,
                    "\"panic\"" => panic!("told to"),
                    _ => done(),
                }
            }
        },
        move |context: StepContext| {
            let trace = back.clone();
            async move {
                trace.add("undo", &context);
                done()
            }
        },
    );
    instance.bay.sagas().register("step", step).unwrap();
}

fn steps(parameters: &[&str]) -> Vec<StepSpec> {
    let step = |(at, text): (usize, &&str)| {
        let parameters = Json::parse(format!("\"{text}\"")).unwrap();
        StepSpec::new(format!("s{at}"), "step", parameters)
    };
    parameters.iter().enumerate().map(step).collect()
}

async fn run(world: &World, instance: &Instance, request: SagaRequest) -> (String, SagaStatus) {
    let sagas = instance.bay.sagas().clone();
    let run = tokio::spawn(async move { sagas.run(request).await.unwrap() });
    for _ in 0..200 {
        if run.is_finished() {
            break;
        }
        world.pass(Duration::from_millis(50)).await;
    }
    assert!(run.is_finished(), "the saga did not come to rest");
    run.await.unwrap()
}

#[tokio::test]
async fn a_saga_whose_steps_are_done_is_completed() {
    let (world, trace) = (World::new(1), Trace::default());
    let instance = world.instance();
    register(&instance, &trace);
    let (id, status) = run(&world, &instance, SagaRequest::new("t", steps(&["", "", ""]))).await;
    assert_eq!(status, SagaStatus::Completed);
    assert_eq!(trace.take(), ["do s0", "do s1", "do s2"]);
    let saga = instance.bay.sagas().show(&id).await.unwrap();
    assert!(saga.steps.iter().all(|step| step.status == StepStatus::Completed), "{saga:?}");
}

#[tokio::test]
async fn a_saga_of_n_steps_costs_n_plus_one_commits() {
    let (world, trace) = (World::new(1), Trace::default());
    let instance = world.instance();
    register(&instance, &trace);
    run(&world, &instance, SagaRequest::new("t", steps(&["", "", ""]))).await;
    let before = instance.store.calls();
    run(&world, &instance, SagaRequest::new("t", steps(&["", "", ""]))).await;
    let after = instance.store.calls();
    assert_eq!(after - before, 4);
}

#[tokio::test]
async fn a_step_that_fails_has_those_before_it_undone_in_reverse() {
    let (world, trace) = (World::new(1), Trace::default());
    let instance = world.instance();
    register(&instance, &trace);
    let (id, status) =
        run(&world, &instance, SagaRequest::new("t", steps(&["", "", "fail", ""]))).await;
    assert_eq!(status, SagaStatus::Compensated);
    assert_eq!(trace.take(), ["do s0", "do s1", "do s2", "undo s1", "undo s0"]);
    let saga = instance.bay.sagas().show(&id).await.unwrap();
    assert_eq!(saga.reason.as_deref(), Some("failed: step \"s2\": told to"));
}

#[tokio::test]
async fn a_step_that_panics_is_tried_again_and_undone_without_a_result() {
    let (world, trace) = (World::new(1), Trace::default());
    let instance = world.instance();
    register(&instance, &trace);
    let mut request = SagaRequest::new("t", steps(&["", "panic"]));
    request.steps[1].max_retries = Some(1);
    let (_, status) = run(&world, &instance, request).await;
    assert_eq!(status, SagaStatus::Compensated);
    assert_eq!(trace.take(), ["do s0", "do s1", "do s1", "undo s1", "undo s0"]);
}

#[tokio::test]
async fn a_saga_of_a_dead_instance_goes_on_elsewhere_within_its_session_and_a_second() {
    let (world, trace) = (World::new(1), Trace::default());
    let first = world.instance();
    register(&first, &trace);
    let request = SagaRequest::new("t", steps(&["", "hang", ""]));
    let id = first.bay.sagas().start(request).await.unwrap().saga_id;
    world.pass(Duration::from_millis(50)).await;
    assert_eq!(trace.take(), ["do s0", "do s1"]);
    first.store.set(Faults { refused: 1_000, ..Faults::default() });
    let second = world.instance();
    let trace = Trace::default();
    let (forward, back) = (trace.clone(), trace.clone());
    let step = step_fn(
        move |context: StepContext| {
            forward.add("do", &context);
            async { done() }
        },
        move |context: StepContext| {
            back.add("undo", &context);
            async { done() }
        },
    );
    second.bay.sagas().register("step", step).unwrap();
    second.bay.start();
    world.pass(Duration::from_secs(6)).await;
    assert_eq!(trace.take(), ["do s1", "do s2"]);
    assert_eq!(second.bay.sagas().status(&id).await.unwrap(), SagaStatus::Completed);
}

#[tokio::test]
async fn a_cancelled_saga_is_undone_and_the_step_in_progress_with_it() {
    let (world, trace) = (World::new(1), Trace::default());
    let instance = world.instance();
    register(&instance, &trace);
    let request = SagaRequest::new("t", steps(&["", "hang", ""]));
    let id = instance.bay.sagas().start(request).await.unwrap().saga_id;
    world.pass(Duration::from_millis(50)).await;
    let sagas = instance.bay.sagas();
    sagas.operate(&id, &Decision::Cancel, "ann", "customer called").await.unwrap();
    world.pass(Duration::from_secs(3)).await;
    assert_eq!(trace.take(), ["do s0", "do s1", "undo s1", "undo s0"]);
    let saga = sagas.show(&id).await.unwrap();
    assert_eq!(saga.status, SagaStatus::Compensated);
    assert_eq!(saga.reason.as_deref(), Some("cancelled by ann: customer called"));
}

#[tokio::test]
async fn the_same_request_with_the_same_key_gives_the_same_saga_and_another_is_refused() {
    let (world, trace) = (World::new(1), Trace::default());
    let instance = world.instance();
    register(&instance, &trace);
    let keyed = |parameters: &[&str]| {
        let mut request = SagaRequest::new("t", steps(parameters));
        request.idempotency_key = Some("k".into());
        request
    };
    let (id, _) = run(&world, &instance, keyed(&["", ""])).await;
    let again = instance.bay.sagas().start(keyed(&["", ""])).await.unwrap();
    assert!(again.replayed);
    assert_eq!((again.saga_id, again.status), (id, SagaStatus::Completed));
    let other = instance.bay.sagas().start(keyed(&["", "fail"])).await.unwrap_err();
    assert_eq!(other.kind(), ErrorKind::KeyReused);
    assert_eq!(trace.take(), ["do s0", "do s1"]);
}
