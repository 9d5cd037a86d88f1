//! What users of other saga engines suffer from, one test each: none of it happens here.
//!
//! The numbers are those of the list of pains that this engine was built to end. Instances share
//! one memory store under a clock that the test steps; where what lies on disk matters, it is a
//! SQLite file and the machine's own clock.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod support {
    pub mod script;
    pub mod stepped;
}

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use lockbay::clock::Clock;
use lockbay::config::{Config, Span};
use lockbay::saga::{
    Decision, HistoryEntry, SagaFilter, SagaInfo, SagaRequest, SagaStatus, StepContext, StepError,
    StepOutput, StepStatus, step_fn,
};
use lockbay::store::faulty::{Cut, Faults};
use lockbay::store::sqlite::SqliteStore;
use lockbay::{Json, LockBay};
use parking_lot::Mutex;
use support::script::{Does, Script, step_after, steps};
use support::stepped::{Instance, World};

const HOUR: Duration = Duration::from_secs(3_600);

/// One instance, its world, and the script that its steps follow.
struct Stage {
    world: World,
    instance: Instance,
    script: Script,
}

impl Stage {
    fn new() -> Self {
        let world = World::new(11);
        let instance = world.instance();
        let script = Script::new(&world.clock);
        script.register(&instance.bay);
        Stage { world, instance, script }
    }

    fn second(&self) -> Instance {
        let second = self.world.instance();
        self.script.register(&second.bay);
        second.bay.start();
        second
    }

    async fn start(&self, request: SagaRequest) -> String {
        let id = self.instance.bay.sagas().start(request).await.unwrap().saga_id;
        self.world.settle().await;
        id
    }

    async fn rests(&self, id: &str) -> SagaInfo {
        rests(&self.world, &self.instance.bay, id).await
    }

    async fn decide(&self, id: &str, decision: Decision) {
        let sagas = self.instance.bay.sagas();
        sagas.operate(id, &decision, "ann", "the customer called").await.unwrap();
        self.world.settle().await;
    }
}

async fn rests(world: &World, bay: &LockBay, id: &str) -> SagaInfo {
    for _ in 0..2_000 {
        let saga = bay.sagas().show(id).await.unwrap();
        if saga.status.is_terminal() || saga.status == SagaStatus::Parked {
            return saga;
        }
        world.pass_by(Duration::from_millis(20), Duration::from_millis(100)).await;
    }
    panic!("it does not come to rest: {:?}", bay.sagas().show(id).await);
}

async fn history(bay: &LockBay, id: &str) -> Vec<HistoryEntry> {
    let (mut all, mut next) = (Vec::new(), None::<String>);
    loop {
        let page = bay.sagas().history(id, next.as_deref(), 400).await.unwrap();
        all.extend(page.items);
        next = page.next;
        if next.is_none() {
            return all;
        }
    }
}

fn done() -> Result<StepOutput, StepError> {
    Ok(Json::empty_object().into())
}

fn status_of<'a>(saga: &'a SagaInfo, step: &str) -> &'a StepStatus {
    &saga.steps.iter().find(|info| info.name == step).unwrap().status
}

/// Somebody outside who acts once under a key, and refuses keys that were undone.
#[derive(Clone, Default)]
struct Receiver(Arc<Mutex<HashMap<String, &'static str>>>);

impl Receiver {
    fn act(&self, key: &str) {
        self.0.lock().entry(key.to_owned()).or_insert("there");
    }

    fn undo(&self, key: &str) {
        self.0.lock().insert(key.to_owned(), "undone");
    }

    fn finds(&self, key: &str) -> Option<&'static str> {
        self.0.lock().get(key).copied()
    }

    /// A step that asks for an act and never hears of it; it comes after this time.
    fn register(&self, bay: &LockBay, comes_after: Duration) {
        let (forward, back, clock) = (self.clone(), self.clone(), bay.clock().clone());
        let step = step_fn(
            move |context: StepContext| {
                let (receiver, clock) = (forward.clone(), clock.clone());
                tokio::spawn(async move {
                    clock.sleep(comes_after).await;
                    receiver.act(&context.idempotency_key);
                });
                std::future::pending()
            },
            move |context: StepContext| {
                back.undo(&context.idempotency_key);
                async { done() }
            },
        );
        bay.sagas().register("remote", step).unwrap();
    }
}

fn remote(timeout: Duration) -> SagaRequest {
    let mut steps = steps(2);
    steps[1].handler = "remote".into();
    steps[1].timeout = Some(timeout);
    steps[1].max_retries = Some(0);
    SagaRequest::new("t", steps)
}

// Pain 1: a step that timed out is taken as not done and never undone.
#[tokio::test]
async fn a_step_that_timed_out_after_it_acted_is_undone_under_its_forward_key() {
    let (stage, receiver) = (Stage::new(), Receiver::default());
    receiver.register(&stage.instance.bay, Duration::from_millis(500));
    let id = stage.start(remote(Duration::from_secs(1))).await;
    stage.world.pass(Duration::from_millis(700)).await;
    let key = format!("{id}/s1");
    assert_eq!(receiver.finds(&key), Some("there"));
    let saga = stage.rests(&id).await;
    assert_eq!(saga.status, SagaStatus::Compensated);
    assert_eq!(receiver.finds(&key), Some("undone"));
}

// Pain 1, the other half: the undo comes before the late action, which must then be refused.
#[tokio::test]
async fn an_action_that_lands_after_its_undo_finds_its_key_taken() {
    let (stage, receiver) = (Stage::new(), Receiver::default());
    receiver.register(&stage.instance.bay, Duration::from_secs(10));
    let id = stage.start(remote(Duration::from_secs(1))).await;
    let saga = stage.rests(&id).await;
    assert_eq!(saga.status, SagaStatus::Compensated);
    stage.world.pass_by(Duration::from_millis(100), Duration::from_secs(20)).await;
    assert_eq!(receiver.finds(&format!("{id}/s1")), Some("undone"));
}

// Pain 1, for a crash: what ran when its executor died may have been done.
#[tokio::test]
async fn a_step_that_ran_when_its_executor_died_is_undone_although_it_failed_afterwards() {
    let stage = Stage::new();
    stage.script.plan("execute s1", &[Does::Hang], Does::Fail);
    let id = stage.start(SagaRequest::new("t", steps(2))).await;
    stage.instance.store.set(Faults { refused: 1_000, ..Faults::default() });
    let second = stage.second();
    let saga = rests(&stage.world, &second.bay, &id).await;
    assert_eq!(saga.status, SagaStatus::Compensated);
    let tried = ["execute s0", "execute s1", "execute s1", "compensate s1", "compensate s0"];
    assert_eq!(stage.script.take(), tried);
}

// Pain 2: a failed undo is a dead end, or a hot loop.
#[tokio::test]
async fn an_undo_that_fails_backs_off_is_parked_and_ends_when_it_is_resumed() {
    let stage = Stage::new();
    stage.script.plan("execute s1", &[], Does::Fail);
    stage.script.plan("compensate s0", &[], Does::FailForNow);
    let id = stage.start(SagaRequest::new("t", steps(2))).await;
    stage.world.pass_by(Duration::from_millis(50), HOUR).await;
    let tries = stage.script.calls("compensate s0");
    assert_eq!(tries.len(), 11, "once, and ten times again");
    let pauses = tries.windows(2).map(|pair| pair[1].at.since(pair[0].at)).collect::<Vec<_>>();
    assert!(pauses[0] >= Duration::from_millis(100), "{pauses:?}");
    assert!(pauses[9] >= Duration::from_secs(25), "{pauses:?}");
    let saga = stage.rests(&id).await;
    assert_eq!((saga.status, status_of(&saga, "s0")), (SagaStatus::Parked, &StepStatus::Parked));
    assert!(saga.reason.unwrap().contains("told to fail for now"));
    stage.script.plan("compensate s0", &[], Does::Succeed);
    stage.decide(&id, Decision::Resume).await;
    assert_eq!(stage.rests(&id).await.status, SagaStatus::Compensated);
}

// Pain 3: a cancellation skips the rollback.
#[tokio::test]
async fn a_cancelled_saga_is_rolled_back() {
    let stage = Stage::new();
    stage.script.plan("execute s2", &[], Does::Hang);
    let id = stage.start(SagaRequest::new("t", steps(3))).await;
    stage.decide(&id, Decision::Cancel).await;
    let saga = stage.rests(&id).await;
    assert_eq!(saga.status, SagaStatus::Compensated);
    let undone = ["compensate s2", "compensate s1", "compensate s0"];
    assert_eq!(stage.script.take()[3..], undone);
}

// Pain 3: a step's timeout skips the rollback.
#[tokio::test]
async fn a_saga_whose_step_times_out_is_rolled_back() {
    let stage = Stage::new();
    stage.script.plan("execute s2", &[], Does::Hang);
    let mut request = SagaRequest::new("t", steps(3));
    request.steps[2].timeout = Some(Duration::from_secs(1));
    request.steps[2].max_retries = Some(0);
    let id = stage.start(request).await;
    let saga = stage.rests(&id).await;
    assert_eq!(saga.status, SagaStatus::Compensated);
    assert!(saga.reason.unwrap().contains("no answer within its time"));
    let undone = ["compensate s2", "compensate s1", "compensate s0"];
    assert_eq!(stage.script.take()[3..], undone);
}

// Pain 3: the saga's own deadline skips the rollback.
#[tokio::test]
async fn a_saga_whose_deadline_passes_is_rolled_back() {
    let stage = Stage::new();
    stage.script.plan("execute s2", &[], Does::FailForNow);
    let mut request = SagaRequest::new("t", steps(3));
    request.timeout = Some(Duration::from_secs(5));
    request.steps[2].max_retries = Some(1_000);
    let id = stage.start(request).await;
    let saga = stage.rests(&id).await;
    assert_eq!(saga.status, SagaStatus::Compensated);
    assert!(saga.reason.unwrap().starts_with("timeout"));
    let took = saga.ended_at.unwrap().since(saga.created_at);
    assert!((5.0..5.2).contains(&took.as_secs_f64()), "{took:?}");
    let calls = stage.script.take();
    assert_eq!(calls[calls.len() - 2..], ["compensate s1", "compensate s0"]);
}

// Pain 4: sagas of a dead process are picked up late or never.
#[tokio::test]
async fn a_dead_instances_saga_runs_elsewhere_within_the_session_and_a_second() {
    let stage = Stage::new();
    let ttl = stage.instance.bay.config().session_ttl.0;
    stage.script.plan("execute s1", &[Does::Hang], Does::Succeed);
    let id = stage.start(SagaRequest::new("t", steps(3))).await;
    let second = stage.second();
    // It was renewed not long ago, which is the worst moment.
    stage.world.pass(ttl).await;
    stage.instance.store.set(Faults { refused: 1_000, ..Faults::default() });
    let died = stage.world.clock.tick();
    stage.world.pass(ttl + Duration::from_secs(1)).await;
    let calls = stage.script.calls("execute s1");
    assert_eq!(calls.len(), 2, "it was not taken over in time");
    let took = calls[1].at.since(died);
    assert!(took <= ttl + Duration::from_secs(1), "{took:?}");
    assert_eq!(second.bay.sagas().status(&id).await.unwrap(), SagaStatus::Completed);
}

// Pain 5: two run at once, and a step has nothing by which its receiver could refuse one.
#[tokio::test]
async fn what_a_zombie_commits_is_refused_and_every_takeover_has_a_greater_token() {
    let (stage, first_token) = (Stage::new(), Arc::new(Mutex::new(None)));
    // From the end of this step on every commit of the first is on its way for a minute.
    let (store, token) = (Arc::clone(&stage.instance.store), Arc::clone(&first_token));
    let slow = lockbay::saga::read_only(move |context: StepContext| {
        store.set_delay(Duration::from_secs(60));
        *token.lock() = Some(context.fencing_token);
        async { Ok(Json::parse(r#""the zombie's""#)?.into()) }
    });
    stage.instance.bay.sagas().register("slow", slow).unwrap();
    let mut request = SagaRequest::new("t", steps(2));
    request.steps[0].handler = "slow".into();
    let second = stage.second();
    stage.script.register_as(&second.bay, "slow");
    let id = stage.start(request).await;
    stage.world.pass_by(Duration::from_millis(50), Duration::from_secs(8)).await;
    let saga = second.bay.sagas().show(&id).await.unwrap();
    assert_eq!(saga.status, SagaStatus::Completed);
    let before = history(&second.bay, &id).await;
    assert_eq!(before[0].event, "taken_over");
    stage.instance.store.set_delay(Duration::ZERO);
    stage.world.pass_by(Duration::from_millis(250), Duration::from_secs(120)).await;
    assert_eq!(history(&second.bay, &id).await, before, "the zombie's entry was taken");
    let token = stage.script.calls("execute s0")[0].context.fencing_token;
    assert_eq!(token.to_string(), before[0].revision);
    assert!(token > first_token.lock().unwrap());
    // The first is none the worse for it, and takes part again.
    let id = stage.start(SagaRequest::new("t", steps(2))).await;
    assert_eq!(stage.rests(&id).await.status, SagaStatus::Completed);
}

// Pain 6: a saga is stuck for ever, and nothing stops it.
#[tokio::test]
async fn every_unfinished_saga_can_be_ended_whatever_its_status() {
    for wanted in
        [SagaStatus::Pending, SagaStatus::Running, SagaStatus::Compensating, SagaStatus::Parked]
    {
        let mut stage = Stage::new();
        stage.instance =
            stage.world.instance_with(Config { saga_concurrency: 1, ..Config::default() });
        stage.script.register(&stage.instance.bay);
        stage.script.plan("execute s1", &[], Does::Hang);
        let mut request = SagaRequest::new("t", steps(2));
        match wanted {
            SagaStatus::Running => {}
            SagaStatus::Pending => {
                stage.start(SagaRequest::new("t", steps(2))).await;
            }
            SagaStatus::Compensating => {
                stage.script.plan("execute s1", &[], Does::Fail);
                stage.script.plan("compensate s0", &[], Does::Hang);
            }
            SagaStatus::Parked
            | SagaStatus::Completed
            | SagaStatus::Compensated
            | SagaStatus::Abandoned => {
                request.steps[1].timeout = Some(Duration::from_secs(1));
                stage.script.plan("execute s1", &[], Does::Missing);
            }
        }
        let id = stage.start(request).await;
        let sagas = stage.instance.bay.sagas();
        assert_eq!(sagas.status(&id).await.unwrap(), wanted);
        stage.decide(&id, Decision::Abandon).await;
        let saga = stage.rests(&id).await;
        assert_eq!(saga.status, SagaStatus::Abandoned, "was {}", wanted.name());
        stage.script.take();
        stage.world.pass_by(Duration::from_millis(50), Duration::from_secs(400)).await;
        assert_eq!(stage.script.take_of(&id), [] as [&str; 0], "was {}", wanted.name());
    }
}

// Found beside pain 6: whoever had no turn yet began a step of a saga that had ended meanwhile.
#[tokio::test]
async fn a_saga_that_is_abandoned_or_cancelled_before_its_first_turn_begins_no_step() {
    for decision in [Decision::Abandon, Decision::Cancel] {
        let mut stage = Stage::new();
        let config = Config { saga_concurrency: 1, ..Config::default() };
        stage.instance = stage.world.instance_with(config);
        stage.script.register(&stage.instance.bay);
        stage.script.plan("execute s1", &[Does::Hang], Does::Succeed);
        let first = stage.start(SagaRequest::new("t", steps(2))).await;
        let second = stage.start(SagaRequest::new("t", steps(2))).await;
        stage.decide(&second, decision).await;
        stage.decide(&first, Decision::Cancel).await;
        stage.rests(&first).await;
        assert!(stage.rests(&second).await.status.is_terminal());
        assert_eq!(stage.script.take_of(&second), [] as [&str; 0]);
    }
}

// Pain 7: some logs cannot be recovered.
#[tokio::test]
async fn a_saga_whose_executor_dies_at_any_commit_is_brought_to_its_end() {
    for fails in [false, true] {
        let mut died = HashSet::new();
        for commit in 1..30 {
            for cut in [Cut::Before, Cut::After] {
                let stage = Stage::new();
                if fails {
                    stage.script.plan("execute s2", &[], Does::Fail);
                }
                // Sessions are opened first, so that their commits do not count.
                let warm = stage.start(SagaRequest::new("warm", steps(1))).await;
                stage.rests(&warm).await;
                stage.script.take();
                let mut request = SagaRequest::new("t", steps(3));
                request.idempotency_key = Some("k".into());
                stage.instance.store.die_at(commit, cut);
                let sagas = stage.instance.bay.sagas().clone();
                let asked = request.clone();
                let start = tokio::spawn(async move { sagas.start(asked).await });
                stage.world.pass(Duration::from_millis(300)).await;
                if !stage.instance.store.is_dead() {
                    continue;
                }
                died.insert((commit, cut));
                let second = stage.second();
                stage.world.pass_by(Duration::from_millis(50), Duration::from_secs(8)).await;
                start.abort();
                // Who does not know what became of a request says it again.
                let id = second.bay.sagas().start(request).await.unwrap().saga_id;
                let saga = rests(&stage.world, &second.bay, &id).await;
                let end = if fails { SagaStatus::Compensated } else { SagaStatus::Completed };
                assert_eq!(saga.status, end, "commit {commit}, {cut:?}");
                let undone = stage.script.take().iter().any(|call| call == "compensate s0");
                assert_eq!(undone, fails);
            }
        }
        // Start, each step, and each compensation; both before and after.
        assert_eq!(died.len(), if fails { 12 } else { 8 }, "{died:?}");
    }
}

// Pain 8: after parallel steps the wrong things are undone.
#[tokio::test]
async fn a_graph_is_undone_in_reverse_and_only_where_something_was_done() {
    let stage = Stage::new();
    stage.script.plan("execute left", &[], Does::FailForNow);
    let mut steps = vec![
        step_after("root", &[]),
        step_after("left", &["root"]),
        step_after("right", &["root"]),
        step_after("deep", &["right"]),
        step_after("join", &["left", "deep"]),
    ];
    steps[1].max_retries = Some(1);
    let id = stage.start(SagaRequest::new("t", steps)).await;
    let saga = stage.rests(&id).await;
    assert_eq!(saga.status, SagaStatus::Compensated);
    let calls = stage.script.take();
    let undone: Vec<&String> = calls.iter().filter(|call| call.starts_with("comp")).collect();
    assert_eq!(undone, ["compensate deep", "compensate right", "compensate root"]);
    assert!(!calls.contains(&"execute join".to_owned()));
}

// Pain 9: an undo shares the used-up budget of its step.
#[tokio::test]
async fn a_compensation_has_a_budget_of_its_own() {
    let stage = Stage::new();
    stage.script.plan("execute s0", &[Does::Wonder; 4], Does::Succeed);
    stage.script.plan("execute s1", &[], Does::Fail);
    stage.script.plan("compensate s0", &[Does::FailForNow; 4], Does::Succeed);
    let mut request = SagaRequest::new("t", steps(2));
    request.steps[0].max_retries = Some(4);
    request.steps[0].compensation_max_retries = Some(4);
    let id = stage.start(request).await;
    let saga = stage.rests(&id).await;
    assert_eq!(saga.status, SagaStatus::Compensated);
    assert_eq!((saga.steps[0].attempts, saga.steps[0].compensation_attempts), (5, 5));
}

// Pain 10: what is unfinished expires.
#[tokio::test]
async fn no_record_of_an_unfinished_saga_has_a_deadline() {
    let stage = Stage::new();
    stage.script.plan("execute s1", &[], Does::Missing);
    let parked = stage.start(SagaRequest::new("t", steps(2))).await;
    assert_eq!(stage.rests(&parked).await.status, SagaStatus::Parked);
    stage.script.plan("execute s1", &[], Does::Hang);
    let running = stage.start(SagaRequest::new("t", steps(2))).await;
    stage.script.plan("compensate s0", &[], Does::Hang);
    stage.start(SagaRequest::new("t", steps(2))).await;
    let snapshot = stage.world.memory.snapshot();
    let of_sagas = snapshot.records().filter(|record| record.key.kind.name() != "session");
    let with_deadline: Vec<_> = of_sagas.filter(|record| record.deadline.is_some()).collect();
    assert!(with_deadline.is_empty(), "{with_deadline:?}");
    // Ten years later they are still there, and still go on.
    stage.world.pass_by(10 * 365 * 24 * HOUR, 10 * 365 * 24 * HOUR).await;
    let sagas = stage.instance.bay.sagas();
    assert_eq!(sagas.status(&parked).await.unwrap(), SagaStatus::Parked);
    assert!(!sagas.status(&running).await.unwrap().is_terminal());
}

// Pain 11: a compensation that is missing is skipped, and the saga called compensated.
#[tokio::test]
async fn a_saga_whose_compensation_nobody_has_is_parked_and_says_so() {
    let stage = Stage::new();
    let one_way = lockbay::saga::read_only(|_| async { done() });
    stage.instance.bay.sagas().register("undo", one_way).unwrap();
    stage.script.plan("execute s1", &[], Does::Fail);
    let mut request = SagaRequest::new("t", steps(2));
    request.steps[0].compensation_handler = Some("undo".into());
    // A deploy without the compensation, while the saga is on its way.
    stage.script.plan("execute s1", &[Does::Hang], Does::Fail);
    let id = stage.start(request).await;
    stage.instance.store.set(Faults { refused: 1_000, ..Faults::default() });
    let second = stage.second();
    let saga = rests(&stage.world, &second.bay, &id).await;
    assert_eq!(saga.status, SagaStatus::Parked);
    assert!(saga.reason.unwrap().contains("nobody is known to handle \"undo\""));
    let put_back = lockbay::saga::read_only(|_| async { done() });
    second.bay.sagas().register("undo", put_back).unwrap();
    second.bay.sagas().operate(&id, &Decision::Resume, "ann", "deployed").await.unwrap();
    let saga = rests(&stage.world, &second.bay, &id).await;
    assert_eq!(saga.status, SagaStatus::Compensated);
}

// Pain 11: a step that says itself that it has none.
#[tokio::test]
async fn a_step_without_a_compensation_parks_its_saga() {
    let stage = Stage::new();
    stage.script.plan("execute s1", &[], Does::Fail);
    stage.script.plan("compensate s0", &[], Does::Missing);
    let id = stage.start(SagaRequest::new("t", steps(2))).await;
    let saga = stage.rests(&id).await;
    assert_eq!((saga.status, status_of(&saga, "s0")), (SagaStatus::Parked, &StepStatus::Parked));
}

// Pain 12: a deploy breaks sagas in flight.
#[tokio::test]
async fn a_saga_in_flight_keeps_its_definition_over_a_restart_with_other_settings() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lockbay.db");
    let open = |config: Config| {
        let store = SqliteStore::open(&path, "lockbay", Clock::system()).unwrap();
        LockBay::with_store(config, Arc::new(store), Clock::system())
    };
    let old = open(Config { max_retries: 7, ..Config::default() });
    let old_script = Script::new(old.clock());
    old_script.plan("execute s1", &[], Does::Hang);
    old_script.register(&old);
    let mut request = SagaRequest::new("t", steps(3));
    request.steps[2].parameters = Json::parse(r#"{"rate":"1.10"}"#).unwrap();
    let id = old.sagas().start(request).await.unwrap().saga_id;
    until(|| old_script.calls("execute s1").len() == 1).await;
    let before = old.sagas().show(&id).await.unwrap();
    old.shutdown().await;
    let new = open(Config {
        max_retries: 0,
        saga_timeout: Span(Duration::from_secs(60)),
        saga_step_timeout: Span(Duration::from_secs(30)),
        ..Config::default()
    });
    let script = Script::new(new.clock());
    script.plan("execute s1", &[Does::FailForNow], Does::Succeed);
    script.register(&new);
    new.start();
    let status = new.sagas().wait(&id, Duration::from_secs(20)).await.unwrap();
    assert_eq!(status, SagaStatus::Completed);
    let after = new.sagas().show(&id).await.unwrap();
    assert_eq!((before.deadline, before.context), (after.deadline, after.context));
    for (before, after) in before.steps.iter().zip(&after.steps) {
        assert_eq!(before.max_retries, after.max_retries);
        assert_eq!(before.timeout_seconds, after.timeout_seconds);
        assert_eq!(before.parameters, after.parameters);
        assert_eq!(before.idempotency_key, after.idempotency_key);
    }
    let given = &script.calls("execute s2")[0].context.parameters;
    assert_eq!(given.text(), r#"{"rate":"1.10"}"#);
    new.shutdown().await;
}

async fn until(holds: impl Fn() -> bool) {
    let clock = Clock::system();
    for _ in 0..2_000 {
        if holds() {
            return;
        }
        clock.sleep(Duration::from_millis(5)).await;
    }
    panic!("what was waited for did not come");
}

// Pain 13: a limit of the history kills long sagas.
#[tokio::test]
async fn a_saga_of_a_thousand_steps_is_completed_and_its_history_is_paged() {
    let stage = Stage::new();
    let id = stage.start(SagaRequest::new("t", steps(1_000))).await;
    assert_eq!(stage.rests(&id).await.status, SagaStatus::Completed);
    let all = history(&stage.instance.bay, &id).await;
    assert_eq!(all.len(), 1_000);
    let numbers = all.iter().map(|entry| entry.number).collect::<Vec<_>>();
    assert_eq!(numbers, (1..=1_000).collect::<Vec<u64>>());
}

// Pain 13: retries fill the history as well.
#[tokio::test]
async fn a_saga_with_thousands_of_entries_is_taken_over_and_completed() {
    // More entries than a page of the log has; the time grows with the square of the number.
    let failures = std::env::var("LOCKBAY_LONG_SAGA_FAILURES").ok();
    let failures: usize = failures.map_or(360, |text| text.parse().unwrap());
    let stage = Stage::new();
    let mut request = SagaRequest::new("t", steps(4));
    request.timeout = Some(1_000 * HOUR);
    for step in &mut request.steps {
        step.max_retries = Some(1_000);
        step.timeout = Some(100 * HOUR);
    }
    for step in ["s0", "s1", "s2"] {
        let what = format!("execute {step}");
        stage.script.plan(&what, &vec![Does::FailForNow; failures], Does::Succeed);
    }
    stage.script.plan("execute s3", &[Does::Hang], Does::Succeed);
    stage.instance.bay.start();
    let id = stage.start(request).await;
    for _ in 0..3_000 {
        if !stage.script.calls("execute s3").is_empty() {
            break;
        }
        stage.world.pass_by(Duration::from_secs(2), Duration::from_secs(60)).await;
    }
    stage.instance.store.set(Faults { refused: 1_000, ..Faults::default() });
    let second = stage.second();
    let saga = rests(&stage.world, &second.bay, &id).await;
    assert_eq!(saga.status, SagaStatus::Completed);
    let all = history(&second.bay, &id).await;
    assert_eq!(all.iter().filter(|entry| entry.event == "step_failed").count(), 3 * failures);
    assert!(all.len() > 3 * failures, "{}", all.len());
}

// Pain 14: there is nothing to look with at three in the morning, and no way to act on many.
#[tokio::test]
async fn sagas_are_found_by_status_name_step_and_age_and_decided_upon_together() {
    let stage = Stage::new();
    stage.script.plan("execute s1", &[], Does::Missing);
    let named = |name: &str| SagaRequest::new(name, steps(2));
    for _ in 0..5 {
        stage.start(named("payout")).await;
    }
    stage.world.pass_by(Duration::from_secs(1), HOUR).await;
    stage.start(named("payout")).await;
    stage.start(named("refund")).await;
    stage.script.plan("execute s1", &[], Does::Succeed);
    let done = stage.start(named("payout")).await;
    assert_eq!(stage.rests(&done).await.status, SagaStatus::Completed);
    let sagas = stage.instance.bay.sagas();
    let count =
        async |filter: SagaFilter| sagas.list(&filter, None, 100).await.unwrap().items.len();
    let any = SagaFilter::default();
    let parked = SagaFilter { status: Some(SagaStatus::Parked), ..any.clone() };
    assert_eq!(count(parked.clone()).await, 7);
    assert_eq!(count(SagaFilter { saga_name: Some("refund".into()), ..any.clone() }).await, 1);
    assert_eq!(count(SagaFilter { step: Some("s1".into()), ..any.clone() }).await, 7);
    assert_eq!(count(SagaFilter { step: Some("s0".into()), ..any.clone() }).await, 0);
    let old = SagaFilter { older_than: Some(HOUR / 2), ..parked.clone() };
    assert_eq!(count(old.clone()).await, 5);
    let all =
        sagas.operate_all(&old, None, 100, &Decision::Cancel, "ann", "the bank is down").await;
    let all = all.unwrap().items;
    assert_eq!(all.len(), 5);
    for (id, operated) in all {
        operated.unwrap();
        assert_eq!(stage.rests(&id).await.status, SagaStatus::Compensated);
        let history = history(&stage.instance.bay, &id).await;
        let cancelled = history.iter().find(|entry| entry.event == "cancelled").unwrap();
        assert_eq!(cancelled.actor.as_deref(), Some("ann"));
        assert_eq!(cancelled.reason.as_deref(), Some("the bank is down"));
    }
    assert_eq!(count(parked).await, 2);
}

// Pain 14: nobody decides without a name and a reason.
#[tokio::test]
async fn a_decision_without_actor_or_reason_is_refused() {
    let stage = Stage::new();
    stage.script.plan("execute s0", &[], Does::Hang);
    let id = stage.start(SagaRequest::new("t", steps(1))).await;
    let sagas = stage.instance.bay.sagas();
    for (actor, reason) in [("", "because"), ("ann", ""), ("ann", "  ")] {
        let refused = sagas.operate(&id, &Decision::Cancel, actor, reason).await.unwrap_err();
        assert_eq!(refused.kind(), lockbay::ErrorKind::Invalid);
    }
    assert!(history(&stage.instance.bay, &id).await.is_empty());
}
