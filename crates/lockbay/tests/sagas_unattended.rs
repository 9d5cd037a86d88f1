//! Sagas that nobody seems to look after: decided upon by somebody who did not see it through, or
//! left by an executor that is gone.

#![allow(clippy::unwrap_used)] // a test fails by panicking

#[path = "support/stepped.rs"]
mod stepped;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lockbay::saga::{
    Decision, HandlerCheck, SagaFilter, SagaRequest, SagaStatus, StepContext, StepError, StepSpec,
    step_fn,
};
use lockbay::store::faulty::Faults;
use lockbay::{ErrorKind, Json};
use stepped::{Instance, World};

/// A handler that is missing until it is told to be there.
fn register(instance: &Instance) -> Arc<AtomicBool> {
    let there = Arc::new(AtomicBool::new(false));
    let look = Arc::clone(&there);
    let execute = move |_: StepContext| {
        let there = look.load(Ordering::SeqCst);
        async move { if there { Ok(Json::null().into()) } else { Err(StepError::missing("not yet")) } }
    };
    let undo = |_: StepContext| async { Ok(Json::null().into()) };
    instance.bay.sagas().register("step", step_fn(execute, undo)).unwrap();
    there
}

fn request() -> SagaRequest {
    SagaRequest::new("t", vec![StepSpec::new("s", "step", Json::null())])
}

#[tokio::test]
async fn a_parked_saga_whose_resumption_nobody_saw_through_is_executed_all_the_same() {
    let world = World::new(1);
    let instance = world.instance();
    let there = register(&instance);
    instance.bay.start();
    let sagas = instance.bay.sagas();
    let id = sagas.start(request()).await.unwrap().saga_id;
    world.pass(Duration::from_millis(100)).await;
    assert_eq!(sagas.status(&id).await.unwrap(), SagaStatus::Parked);
    there.store(true, Ordering::SeqCst);
    instance.store.set(Faults { reply_lost: 1_000, ..Faults::default() });
    let error = sagas.operate(&id, &Decision::Resume, "ann", "it is there").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unknown);
    instance.store.set(Faults::default());
    world.pass(Duration::from_secs(1)).await;
    assert_eq!(sagas.status(&id).await.unwrap(), SagaStatus::Completed);
}

#[tokio::test]
async fn health_is_bad_while_nobody_takes_over_the_sagas_of_an_executor_that_is_gone() {
    let world = World::new(1);
    let (gone, other) = (world.instance(), world.instance());
    let request = SagaRequest { handlers: HandlerCheck::Deferred, ..request() };
    gone.bay.sagas().start(request).await.unwrap();
    gone.store.set(Faults { refused: 1_000, ..Faults::default() });
    other.store.set(Faults { request_lost: 1_000, ..Faults::default() });
    other.bay.start();
    world.pass(Duration::from_secs(9)).await;
    let health = other.bay.health().await;
    assert!(health.saga_coordination_healthy, "it has just started: {:?}", health.issues);
    world.pass(Duration::from_secs(7)).await;
    let health = other.bay.health().await;
    assert!(!health.saga_coordination_healthy && !health.overall_healthy);
    let told = health.issues.iter().any(|issue| issue.contains("an executor is gone"));
    assert!(told, "{:?}", health.issues);
    other.store.set(Faults::default());
    world.pass(Duration::from_secs(3)).await;
    let health = other.bay.health().await;
    assert!(health.saga_coordination_healthy, "{:?}", health.issues);
}

#[tokio::test]
async fn a_saga_that_has_ended_is_as_old_as_its_start() {
    let world = World::new(1);
    let instance = world.instance();
    register(&instance).store(true, Ordering::SeqCst);
    let sagas = instance.bay.sagas();
    sagas.start(request()).await.unwrap();
    world.pass(Duration::from_secs(60)).await;
    let aged = |seconds| SagaFilter {
        older_than: Some(Duration::from_secs(seconds)),
        status: Some(SagaStatus::Completed),
        ..SagaFilter::default()
    };
    assert_eq!(sagas.list(&aged(30), None, 10).await.unwrap().items.len(), 1);
    assert_eq!(sagas.list(&aged(90), None, 10).await.unwrap().items.len(), 0);
}

#[tokio::test]
async fn a_deadline_is_kept_to_the_microsecond_and_one_that_has_passed_is_refused() {
    let world = World::new(1);
    let instance = world.instance();
    let sagas = instance.bay.sagas();
    let deadline = world.clock.now() + Duration::from_secs(5);
    let deferred = || SagaRequest { handlers: HandlerCheck::Deferred, ..request() };
    let request = SagaRequest { deadline: Some(deadline), ..deferred() };
    let id = sagas.start(request).await.unwrap().saga_id;
    assert_eq!(sagas.show(&id).await.unwrap().deadline, deadline);
    world.pass(Duration::from_secs(6)).await;
    let late = SagaRequest { deadline: Some(deadline), ..deferred() };
    assert_eq!(sagas.start(late).await.unwrap_err().kind(), ErrorKind::Invalid);
    let both = SagaRequest {
        deadline: Some(world.clock.now() + Duration::from_secs(5)),
        timeout: Some(Duration::from_secs(5)),
        ..deferred()
    };
    assert_eq!(sagas.start(both).await.unwrap_err().kind(), ErrorKind::Invalid);
}
