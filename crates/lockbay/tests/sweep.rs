//! What retention promises, under a clock that the test steps.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm)] // a test fails by panicking

mod support {
    pub mod stepped;
}

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use lockbay::clock::Timestamp;
use lockbay::config::Config;
use lockbay::job::{Claim, ClaimRequest, ClaimedJob, Replayed};
use lockbay::saga::{SagaRequest, SagaStatus, StepSpec, read_only};
use lockbay::store::faulty::Cut;
use lockbay::store::{Commit, Deadline, Key, Kind, Partition, Store, Write};
use lockbay::sweep::{Mode, Report, Rule, RunRequest, Scope, Strategy};
use lockbay::{ErrorKind, Json, LockBay};
use support::stepped::{Instance, World, seconds};

const STATE: Kind = Kind::new("state");
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// An instance that leads, and has done what it does at its election.
async fn leader(world: &World) -> Instance {
    leader_with(world, Config::default()).await
}

async fn leader_with(world: &World, config: Config) -> Instance {
    let instance = world.instance_with(config);
    instance.bay.start();
    world.pass_by(Duration::from_millis(100), SECOND * 2).await;
    assert!(instance.bay.is_leader());
    instance
}

/// Long times pass at once; then those who lost their rights over it get them again.
async fn later(world: &World, by: Duration) {
    world.clock.advance(by);
    world.pass_by(Duration::from_millis(100), SECOND * 12).await;
}

async fn put(store: &dyn Store, kind: Kind, id: &str, deadline: Deadline) {
    let key = Key::new(Partition::FIRST, kind, id);
    let put = Write::Put { key, value: vec![b'x'; 100], deadline };
    let commit = Commit::new(Partition::FIRST, vec![], vec![put], vec![]).unwrap();
    store.commit(&commit).await.unwrap();
}

async fn value(instance: &Instance, id: &str, ttl: Option<Duration>) {
    let deadline = ttl.map_or(Deadline::Never, Deadline::After);
    put(&**instance.bay.store(), STATE, id, deadline).await;
}

/// The ids of a kind that are there.
fn ids(world: &World, kind: &str) -> BTreeSet<String> {
    let snapshot = world.memory.snapshot();
    let of_kind = snapshot.keys().filter(|key| key.kind.name() == kind);
    of_kind.map(|key| key.id.to_string()).collect()
}

/// What a call comes to, with time passing meanwhile.
async fn meanwhile<T: Send + 'static>(
    world: &World,
    call: impl Future<Output = T> + Send + 'static,
) -> T {
    let call = tokio::spawn(call);
    for _ in 0..2_000 {
        if call.is_finished() {
            return call.await.unwrap();
        }
        world.pass_by(Duration::from_millis(50), Duration::from_millis(50)).await;
    }
    panic!("it does not come to an end");
}

async fn run(world: &World, bay: &LockBay, request: RunRequest) -> lockbay::Result<Report> {
    let sweeper = bay.sweeper().clone();
    meanwhile(world, async move { sweeper.run(request).await }).await
}

fn of_rule(rule: &str) -> RunRequest {
    RunRequest { rule: Some(rule.into()), ..RunRequest::default() }
}

fn request(key: &str) -> ClaimRequest {
    ClaimRequest::new("payment", key, Json::parse(r#"{"amount":10}"#).unwrap())
}

async fn claimed(bay: &LockBay, key: &str) -> ClaimedJob {
    match bay.jobs().claim(request(key)).await.unwrap() {
        Claim::Claimed(job) => job,
        other => panic!("not claimed: {other:?}"),
    }
}

async fn replayed(bay: &LockBay, key: &str) -> Replayed {
    match bay.jobs().claim(request(key)).await.unwrap() {
        Claim::Replayed(replayed) => replayed,
        other => panic!("not replayed: {other:?}"),
    }
}

async fn completed(bay: &LockBay, key: &str) -> ClaimedJob {
    let job = claimed(bay, key).await;
    let result = Json::parse(r#"{"paid":"10.00"}"#).unwrap();
    bay.jobs().complete(&job.job_id, &job.claim_token, result).await.unwrap();
    job
}

#[tokio::test]
async fn an_expired_value_is_gone_within_a_second() {
    let world = World::new(1);
    let a = leader(&world).await;
    value(&a, "short", Some(SECOND * 10)).await;
    value(&a, "long", Some(HOUR)).await;
    value(&a, "for ever", None).await;
    world.pass(SECOND * 10 - Duration::from_millis(10)).await;
    assert_eq!(ids(&world, "state").len(), 3, "nothing goes before its time");
    world.pass(SECOND + Duration::from_millis(20)).await;
    assert_eq!(ids(&world, "state"), ["for ever", "long"].map(String::from).into());
    assert_eq!(a.bay.sweeper().stats().total_keys_cleaned, 1);
}

#[tokio::test]
async fn a_key_that_an_immediate_rule_has_to_look_for_is_gone_two_seconds_after_its_time() {
    let world = World::new(1);
    let a = leader(&world).await;
    let rule = Rule::new("drafts", "draft:*", SECOND * 10);
    let rule = Rule { strategy: Strategy::Immediate, ..rule };
    a.bay.sweeper().put_rule(rule).await.unwrap();
    value(&a, "draft:1", None).await;
    value(&a, "other:1", None).await;
    world.pass(SECOND * 10 - Duration::from_millis(10)).await;
    assert_eq!(ids(&world, "state").len(), 2, "nothing goes before its time");
    world.pass(SECOND * 2 + Duration::from_millis(20)).await;
    assert_eq!(ids(&world, "state"), ["other:1".to_owned()].into());
}

#[tokio::test]
async fn a_lapsed_lease_is_gone_within_its_hour_and_the_interval_and_one_that_is_held_stays() {
    let world = World::new(1);
    let config = Config { cleanup_interval: seconds(60), ..Config::default() };
    let a = leader_with(&world, config).await;
    a.bay.leases().acquire("gone", "x", SECOND).await.unwrap();
    let held = a.bay.leases().hold("held", "x", SECOND * 30).await.unwrap();
    world.pass_by(Duration::from_millis(200), SECOND + HOUR - SECOND * 2).await;
    assert!(ids(&world, "lease").contains("gone"), "not before its time");
    world.pass_by(Duration::from_millis(200), SECOND * 64).await;
    assert_eq!(ids(&world, "lease"), ["held".to_owned()].into());
    assert!(held.right().is_held());
    assert_eq!(ids(&world, "leader").len(), 1, "a leader's record stays");
}

#[tokio::test]
async fn leases_that_a_rule_means_go_though_many_others_lapsed_before_them() {
    let world = World::new(1);
    let config = Config { cleanup_interval: seconds(60), ..Config::default() };
    let a = leader_with(&world, config).await;
    a.bay.sweeper().delete_rule("leader_election").await.unwrap();
    let applies_to = Some([Scope::Leases].into());
    let rule = Rule { applies_to, ..Rule::new("workers", "worker-*", HOUR) };
    a.bay.sweeper().put_rule(rule).await.unwrap();
    for n in 0..600 {
        a.bay.leases().acquire(&format!("other-{n}"), "x", SECOND).await.unwrap();
    }
    world.pass(SECOND).await;
    for n in 0..10 {
        a.bay.leases().acquire(&format!("worker-{n}"), "x", SECOND).await.unwrap();
    }
    later(&world, HOUR * 2).await;
    world.pass_by(Duration::from_millis(200), SECOND * 70).await;
    let left = ids(&world, "lease");
    assert_eq!(left.len(), 600, "those that no rule means stay");
    assert!(left.iter().all(|name| name.starts_with("other-")));
}

#[tokio::test]
async fn what_is_touched_before_its_deletion_arrives_stays_and_is_not_counted() {
    let world = World::new(1);
    let a = leader(&world).await;
    let other = world.instance();
    for n in 0..20 {
        value(&a, &format!("v{n:02}"), Some(SECOND)).await;
    }
    world.pass(SECOND - Duration::from_millis(20)).await;
    a.store.set_commit_delay(Duration::from_millis(300));
    // The first batches are on their way by now.
    while world.clock.tick() < lockbay::clock::Tick::default() + SECOND * 3 {
        world.pass(Duration::from_millis(50)).await;
        if ids(&world, "state").len() < 20 {
            break;
        }
        value(&other, "v01", Some(HOUR)).await;
        value(&other, "v05", None).await;
    }
    a.store.set_commit_delay(Duration::ZERO);
    world.pass(SECOND * 4).await;
    assert_eq!(ids(&world, "state"), ["v01", "v05"].map(String::from).into());
    assert_eq!(a.bay.sweeper().stats().total_keys_cleaned, 18);
}

#[tokio::test]
async fn a_hold_whose_deadline_has_passed_is_voided_within_a_second() {
    use lockbay::ledger::{Amount, Currency, Hold, Movement, UserId};
    let world = World::new(1);
    let a = leader(&world).await;
    let (ledger, user) = (a.bay.ledger(), UserId::parse("u").unwrap());
    let usd = Currency::parse("USD").unwrap();
    let ten = Amount::parse("10", usd).unwrap();
    ledger.deposit(&user, &ten, "k").await.unwrap();
    let hold = Hold { id: "h".into(), user: user.clone(), amount: ten };
    let lock = Movement::lock("m", &hold).unwrap().lapsing_after(SECOND * 30).unwrap();
    ledger.apply(&lock).await.unwrap();
    world.pass_by(Duration::from_millis(50), SECOND * 29).await;
    assert_eq!(ledger.balance(&user, usd).await.unwrap().held.to_string(), "10.00");
    world.pass_by(Duration::from_millis(50), SECOND * 2 + Duration::from_millis(100)).await;
    let balance = ledger.balance(&user, usd).await.unwrap();
    assert_eq!((&*balance.available.to_string(), &*balance.held.to_string()), ("10.00", "0.00"));
    assert_eq!(a.bay.metrics().value(lockbay::metrics::Metric::HoldsLapsed), 1);
}

#[tokio::test]
async fn a_deposed_leader_deletes_nothing() {
    let world = World::new(1);
    let a = leader(&world).await;
    let mut lazy = Rule::new("temp_state", "*", HOUR);
    lazy.strategy = Strategy::Lazy;
    a.bay.sweeper().put_rule(lazy).await.unwrap();
    world.pass(SECOND * 2).await;
    for n in 0..100 {
        value(&a, &format!("v{n}"), Some(Duration::from_millis(1))).await;
    }
    world.pass(Duration::from_millis(10)).await;
    // Another takes the seat, and this one does not know yet.
    let seat = world.memory.snapshot();
    let seat = seat.records().find(|record| record.key.kind.name() == "leader").unwrap();
    let usurped = String::from_utf8(seat.value.clone()).unwrap();
    let usurped = usurped.replace(a.bay.instance_id(), &"f".repeat(32));
    let key = seat.key.clone();
    let put = Write::Put { key, value: usurped.into(), deadline: Deadline::After(SECOND * 3) };
    let commit = Commit::new(Partition::FIRST, vec![], vec![put], vec![]).unwrap();
    world.memory.client().commit(&commit).await.unwrap();
    assert!(a.bay.is_leader(), "it believes that it leads");
    let sweeper = a.bay.sweeper().clone();
    let run = tokio::spawn(async move { sweeper.run(of_rule("temp_state")).await });
    world.pass(SECOND * 2).await;
    assert_eq!(ids(&world, "state").len(), 100, "it has deleted under a right that was gone");
    assert!(!run.is_finished());
    // Elected again, it does what was asked.
    let report = meanwhile(&world, run).await.unwrap().unwrap();
    assert_eq!((report.total_cleaned, ids(&world, "state").len()), (100, 0));
}

#[tokio::test]
async fn a_run_asked_of_a_follower_is_carried_out_by_the_leader() {
    let world = World::new(1);
    let a = leader(&world).await;
    let b = world.instance();
    b.bay.start();
    for n in 0..10 {
        value(&a, &format!("session:{n}"), None).await;
    }
    later(&world, DAY + HOUR).await;
    // The cycle has been here; what comes now was not seen by it.
    assert_eq!(ids(&world, "state").len(), 0);
    for n in 0..10 {
        value(&a, &format!("session:{n}"), None).await;
    }
    world.pass(SECOND).await;
    let (leads, follows) = if a.bay.is_leader() { (&a, &b) } else { (&b, &a) };
    let wish = RunRequest { ttl: Some(Duration::ZERO), ..of_rule("session") };
    let report = run(&world, &follows.bay, wish).await.unwrap();
    assert_eq!((report.total_scanned, report.total_cleaned, report.total_errors), (10, 10, 0));
    assert_eq!(report.keys_by_type, [("session".to_owned(), 10)].into());
    assert!(report.bytes_freed >= 10 * 100 && report.memory_freed_mb > 0.0, "{report:?}");
    assert_eq!(follows.bay.sweeper().stats().total_keys_cleaned, 0, "it did not do it itself");
    assert!(leads.bay.sweeper().stats().total_keys_cleaned >= 10);
    assert_eq!(ids(&world, "sweep-request").len(), 0, "an answered request goes");
}

#[tokio::test]
async fn a_run_that_was_asked_for_survives_a_change_of_the_leader() {
    let world = World::new(1);
    let a = leader(&world).await;
    let (b, c) = (world.instance(), world.instance());
    b.bay.start();
    for n in 0..200 {
        value(&a, &format!("session:{n}"), None).await;
    }
    world.pass(SECOND).await;
    // It takes the request, deletes a batch or two, and is gone.
    a.store.die_at(4, Cut::After);
    let sweeper = c.bay.sweeper().clone();
    let wish = RunRequest { ttl: Some(Duration::ZERO), ..of_rule("session") };
    let run = async move { sweeper.run(wish).await };
    let report = meanwhile(&world, run).await.unwrap();
    assert!(a.store.is_dead() && b.bay.is_leader());
    assert_eq!(report.leaders, 2);
    assert!((1..200).contains(&report.total_cleaned), "{report:?}");
    assert_eq!(ids(&world, "state").len(), 0);
}

#[tokio::test]
async fn of_runs_asked_for_at_once_each_waits_for_the_one_before() {
    let world = World::new(1);
    let a = leader(&world).await;
    let b = world.instance();
    for n in 0..300 {
        value(&a, &format!("session:{n}"), None).await;
    }
    world.pass(SECOND).await;
    a.store.set_commit_delay(Duration::from_millis(30));
    let wish = RunRequest { ttl: Some(Duration::ZERO), ..of_rule("session") };
    let sweepers = [&a, &b, &a, &b].map(|instance| instance.bay.sweeper().clone());
    let runs = sweepers.map(|sweeper| {
        let wish = wish.clone();
        tokio::spawn(async move { sweeper.run(wish).await.unwrap() })
    });
    let mut cleaned = Vec::new();
    for run in runs {
        cleaned.push(meanwhile(&world, run).await.unwrap().total_cleaned);
    }
    cleaned.sort_unstable();
    assert_eq!(cleaned, [0, 0, 0, 300]);
}

#[tokio::test]
async fn a_run_is_refused_while_nobody_leads() {
    let world = World::new(1);
    let a = world.instance();
    let began = world.clock.tick();
    let error = run(&world, &a.bay, RunRequest::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.message().contains("nobody leads"), "{error}");
    assert!(world.clock.tick().since(began) < SECOND * 7);
    assert_eq!(ids(&world, "sweep-request").len(), 0, "the request is withdrawn");
}

#[tokio::test]
async fn a_dry_run_deletes_nothing_and_counts_what_a_run_would() {
    let world = World::new(1);
    let a = leader(&world).await;
    // So that no cycle comes between.
    for name in ["temp_state", "session", "job_execution", "idempotency", "leader_election"] {
        let rules = a.bay.sweeper().rules().await.unwrap();
        let rule = rules.into_iter().find(|rule| rule.name == name).unwrap();
        a.bay.sweeper().put_rule(Rule { strategy: Strategy::Lazy, ..rule }).await.unwrap();
    }
    for n in 0..30 {
        value(&a, &format!("session:{n}"), None).await;
        value(&a, &format!("expired:{n}"), Some(SECOND)).await;
        completed(&a.bay, &format!("job {n}")).await;
        a.bay.leases().acquire(&format!("lease {n}"), "x", SECOND).await.unwrap();
    }
    later(&world, DAY * 8).await;
    claimed(&a.bay, "running").await;
    // The trail grows with whatever the instance does by itself.
    let count = || world.memory.snapshot().keys().filter(|key| key.kind.name() != "audit").count();
    let before = count();
    for wish in [
        RunRequest { pattern: Some("*1*".into()), ..RunRequest::default() },
        RunRequest { ttl: Some(DAY * 30), ..of_rule("session") },
        of_rule("idempotency"),
        RunRequest::default(),
    ] {
        let dry = RunRequest { mode: Mode::DryRun, ..wish.clone() };
        let told = run(&world, &a.bay, dry).await.unwrap();
        assert!(told.dry_run);
        if wish.rule.is_none() && wish.pattern.is_some() {
            assert_eq!(count(), before, "a dry run has deleted");
        }
        let done = run(&world, &a.bay, wish).await.unwrap();
        assert_eq!(told.keys_by_type, done.keys_by_type);
        assert_eq!(
            (told.total_scanned, told.total_cleaned, told.total_errors),
            (done.total_scanned, done.total_cleaned, done.total_errors)
        );
    }
    assert_eq!(ids(&world, "state").len(), 0);
    assert_eq!(ids(&world, "lease").len(), 0);
    assert_eq!((ids(&world, "job").len(), ids(&world, "job-list").len()), (1, 1));
}

#[tokio::test]
async fn a_job_that_was_forgotten_and_is_claimed_again_has_a_new_idempotency_token() {
    let world = World::new(1);
    let a = leader(&world).await;
    let first = completed(&a.bay, "k").await;
    let failed = claimed(&a.bay, "to be tried again").await;
    let again = lockbay::job::Retry::Allowed;
    a.bay.jobs().fail(&failed.job_id, &failed.claim_token, "no", again).await.unwrap();
    let lost = claimed(&a.bay, "lapsed").await;
    later(&world, DAY * 7 - HOUR).await;
    assert!(ids(&world, "job").contains(&first.job_id), "remembered until the horizon");
    later(&world, HOUR + Duration::from_secs(310)).await;
    let left = [failed.job_id.clone(), lost.job_id.clone()].into();
    assert_eq!(ids(&world, "job"), left, "what has not ended stays");
    assert_eq!(ids(&world, "job-list").len(), 2);
    let second = claimed(&a.bay, "k").await;
    assert_eq!(second.job_id, first.job_id);
    assert_ne!(second.idempotency_token, first.idempotency_token);
    let retried = claimed(&a.bay, "to be tried again").await;
    assert_eq!(retried.idempotency_token, failed.idempotency_token, "another attempt of the same");
}

#[tokio::test]
async fn a_job_with_a_short_horizon_has_a_new_token_however_soon_it_comes_back() {
    let world = World::new(1);
    let config =
        Config { dedup_horizon: seconds(60), result_ttl: seconds(60), ..Config::default() };
    let a = leader_with(&world, config).await;
    let mut tokens = BTreeSet::new();
    for _ in 0..30 {
        assert!(tokens.insert(completed(&a.bay, "k").await.idempotency_token));
        later(&world, HOUR).await;
    }
}

#[tokio::test]
async fn a_result_is_dropped_after_its_time_and_the_end_of_its_job_stays_known() {
    let world = World::new(1);
    let a = leader(&world).await;
    let b = world.instance();
    completed(&a.bay, "k").await;
    let before = replayed(&b.bay, "k").await;
    assert!(before.result_kept && before.completed_at.is_some());
    later(&world, HOUR + Duration::from_secs(310)).await;
    let stored = world.memory.snapshot();
    let job = stored.records().find(|record| record.key.kind.name() == "job").unwrap();
    assert!(!String::from_utf8_lossy(&job.value).contains("10.00"), "the payload is gone");
    let after = replayed(&b.bay, "k").await;
    assert_eq!((after.result_kept, after.result), (false, None));
    assert_eq!(after.completed_at, before.completed_at);
    let shown = b.bay.jobs().show(&job.key.id).await.unwrap();
    assert_eq!((shown.completed_at, shown.result_kept), (before.completed_at, false));
    // The horizon still counts from the end, not from the rewriting.
    later(&world, DAY * 7 - HOUR).await;
    claimed(&b.bay, "k").await;
}

#[tokio::test]
async fn a_cycle_does_not_look_again_at_results_that_it_has_dropped() {
    let world = World::new(1);
    let a = leader(&world).await;
    let b = world.instance();
    for n in 0..50 {
        completed(&a.bay, &format!("old {n}")).await;
    }
    later(&world, HOUR * 4).await;
    completed(&a.bay, "new").await;
    a.store.die();
    b.bay.start();
    later(&world, HOUR * 4).await;
    assert!(b.bay.is_leader());
    world.pass_by(Duration::from_millis(200), Duration::from_secs(310)).await;
    // Another leads by now, and goes on where the first was.
    let stats = b.bay.sweeper().stats();
    assert_eq!(stats.total_keys_cleaned, 1);
    assert!(stats.cleanup_efficiency > 99.0, "it has looked at the old ones, too: {stats:?}");
}

fn saga(name: &str, steps: usize) -> SagaRequest {
    let step = |at| StepSpec::new(format!("s{at}"), name, Json::null());
    SagaRequest::new(name, (0..steps).map(step).collect())
}

/// What sagas of this name do.
fn register(instance: &Instance) {
    let done = |_| async { Ok(Json::parse("{}").unwrap().into()) };
    let hang = |_| std::future::pending();
    instance.bay.sagas().register("done", read_only(done)).unwrap();
    instance.bay.sagas().register("hang", read_only(hang)).unwrap();
}

async fn ended(world: &World, instance: &Instance, request: SagaRequest) -> String {
    let sagas = instance.bay.sagas().clone();
    let run = async move { sagas.run(request).await.unwrap() };
    let (id, status) = meanwhile(world, run).await;
    assert_eq!(status, SagaStatus::Completed);
    id
}

/// Every key that is about a saga.
fn of_saga(world: &World, id: &str) -> usize {
    world.memory.snapshot().keys().filter(|key| key.id.contains(id)).count()
}

#[tokio::test]
async fn an_ended_saga_goes_wholly_and_one_that_runs_stays() {
    let world = World::new(1);
    // Words in the index of search are no records of the saga.
    let a = leader_with(&world, Config { search: false, ..Config::default() }).await;
    register(&a);
    let gone = ended(&world, &a, saga("done", 3)).await;
    let mut endless = saga("hang", 1);
    endless.timeout = Some(DAY * 900);
    endless.steps[0].timeout = Some(DAY * 900);
    let runs = a.bay.sagas().start(endless).await.unwrap().saga_id;
    put(&**a.bay.store(), Kind::new("simulated-payout"), &format!("{gone}/pay"), Deadline::Never)
        .await;
    put(&**a.bay.store(), Kind::new("posting"), &format!("{gone}/move"), Deadline::Never).await;
    later(&world, DAY * 399).await;
    assert_eq!(of_saga(&world, &gone), 7, "kept for 400 days");
    later(&world, DAY + Duration::from_secs(310)).await;
    assert_eq!(of_saga(&world, &gone), 1, "what moved money stays");
    assert_eq!(a.bay.sagas().show(&gone).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert!(a.bay.sagas().show(&runs).await.is_ok());
}

/// Its steps would ask for what receivers and the ledger have seen before: nothing would happen, and
/// it would be told as done.
#[tokio::test]
async fn a_key_whose_saga_was_removed_starts_no_other() {
    let world = World::new(1);
    let a = leader(&world).await;
    register(&a);
    let keyed = SagaRequest { idempotency_key: Some("order-17".into()), ..saga("done", 3) };
    let gone = ended(&world, &a, keyed.clone()).await;
    later(&world, DAY * 400 + Duration::from_secs(310)).await;
    assert_eq!(of_saga(&world, &gone), 1, "a mark stays");
    assert_eq!(a.bay.sagas().show(&gone).await.unwrap_err().kind(), ErrorKind::NotFound);
    let refused = a.bay.sagas().start(keyed).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::KeyReused);
    assert!(refused.to_string().contains("use a new key"), "{refused}");
    assert!(!refused.kind().retryable());
}

/// A saga of so many records that they do not go in one commit, whose deletion is cut off at each
/// commit, on either side of it.
#[tokio::test]
async fn a_deletion_that_was_interrupted_leaves_no_half_of_a_saga_and_goes_on() {
    let mut cuts = 0;
    for commit in 1..10 {
        for cut in [Cut::Before, Cut::After] {
            let world = World::new(commit);
            let a = world.instance();
            register(&a);
            a.bay.start();
            let mut long = saga("done", 700);
            long.idempotency_key = Some("again".into());
            long.timeout = Some(DAY);
            let id = ended(&world, &a, long.clone()).await;
            let dies = world.instance();
            let c = world.instance();
            register(&c);
            let bay = a.bay.clone();
            meanwhile(&world, async move { bay.shutdown().await }).await;
            world.clock.advance(DAY * 401);
            dies.store.die_at(commit, cut);
            dies.bay.start();
            world.pass_by(Duration::from_millis(50), SECOND * 3).await;
            let died = dies.store.is_dead();
            cuts += usize::from(died);
            let left = of_saga(&world, &id);
            // Either all of it is there for everybody, or nothing.
            match c.bay.sagas().show(&id).await {
                Ok(shown) => {
                    assert_eq!(shown.status, SagaStatus::Completed, "{commit} {cut:?}");
                    assert_eq!(left, 702, "{commit} {cut:?}");
                    assert!(c.bay.sagas().start(long.clone()).await.unwrap().replayed);
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::NotFound, "{commit} {cut:?}");
                    let refused = c.bay.sagas().start(long.clone()).await.unwrap_err();
                    assert_eq!(refused.kind(), ErrorKind::KeyReused, "a half is not taken up");
                }
            }
            if died {
                c.bay.start();
                world.pass_by(Duration::from_millis(200), SECOND * 20).await;
            }
            assert_eq!(of_saga(&world, &id), 1, "the next one goes on: {commit} {cut:?}");
            assert_eq!(ids(&world, "saga"), [id].into(), "the mark of its key stays");
            let refused = c.bay.sagas().start(long).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::KeyReused, "receivers have seen its keys before");
        }
    }
    assert!(cuts >= 8, "it was cut off only {cuts} times");
}

#[tokio::test]
async fn leftovers_of_sagas_go_and_what_is_waited_for_stays() {
    let world = World::new(1);
    let a = leader(&world).await;
    register(&a);
    let running = a.bay.sagas().start(saga("hang", 1)).await.unwrap().saga_id;
    let session = ids(&world, "session").into_iter().next().unwrap();
    let store = a.bay.store();
    for (kind, id) in [
        ("saga-inbox", "0000000000000000/s1".to_owned()),
        ("saga-inbox", format!("{session}/{running}")),
        ("task-queue", format!("h/0000000000000001/{}", "a".repeat(32))),
    ] {
        // A kind has a name for as long as the program runs.
        let kind = Kind::index(Box::leak(kind.to_owned().into_boxed_str()));
        let mark = Write::Mark { key: Key::new(Partition::FIRST, kind, id) };
        let commit = Commit::new(Partition::FIRST, vec![], vec![mark], vec![]).unwrap();
        store.commit(&commit).await.unwrap();
    }
    let report = run(&world, &a.bay, of_rule("saga")).await.unwrap();
    assert_eq!((report.total_cleaned, report.total_errors), (2, 0), "{report:?}");
    assert!(ids(&world, "saga-inbox").iter().all(|id| id.starts_with(&session)));
    assert_eq!(ids(&world, "task-queue").len(), 0);
    assert!(a.bay.sagas().show(&running).await.is_ok());
}

#[tokio::test]
async fn bad_input_is_refused_and_nothing_is_written() {
    let world = World::new(1);
    let a = leader(&world).await;
    let sweeper = a.bay.sweeper();
    let good = || Rule::new("r", "a:*", HOUR);
    let bad = [
        Rule { pattern: String::new(), ..good() },
        Rule { pattern: "a[b".into(), ..good() },
        Rule { pattern: "*".repeat(10_000), ..good() },
        Rule { pattern: "a\nb".into(), ..good() },
        Rule { batch_size: 0, ..good() },
        Rule { batch_size: 1_000_000, ..good() },
        Rule { ttl: DAY * 366 * 1_000, ..good() },
        Rule { interval: Some(Duration::ZERO), ..good() },
        Rule { name: String::new(), ..good() },
        Rule { name: "x".repeat(65), ..good() },
        Rule { applies_to: Some(BTreeSet::new()), ..good() },
        Rule { ttl: SECOND, applies_to: Some([Scope::Sagas].into()), ..good() },
    ];
    for rule in bad {
        let error = sweeper.put_rule(rule.clone()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{rule:?}");
    }
    for wish in [
        of_rule("no such rule"),
        RunRequest { pattern: Some("{a".into()), ..RunRequest::default() },
        RunRequest { ttl: Some(Duration::MAX), ..RunRequest::default() },
    ] {
        let error = run(&world, &a.bay, wish.clone()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{wish:?}");
    }
    for text in [
        r#"{"name":"r","pattern":"*","ttl_seconds":-1}"#,
        r#"{"name":"r","pattern":"*","ttl_seconds":1e300}"#,
        r#"{"name":"r","pattern":"*","ttl_seconds":1,"interval_seconds":-5}"#,
        r#"{"name":"r","pattern":"*","ttl_seconds":1,"batch_size":-1}"#,
        r#"{"name":"r","pattern":"*","ttl_seconds":1,"strategy":"soon"}"#,
        r#"{"name":"r","pattern":"*","ttl_seconds":1,"stratgy":"lazy"}"#,
    ] {
        assert!(serde_json::from_str::<Rule>(text).is_err(), "{text}");
    }
    assert_eq!(ids(&world, "sweep-rule").len(), 0);
    assert_eq!(sweeper.delete_rule("nothing").await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_built_in_rule_that_was_deleted_stays_deleted_and_can_be_put_again() {
    let world = World::new(1);
    let a = leader(&world).await;
    let (sweeper, other) = (a.bay.sweeper().clone(), world.instance());
    let names = async || -> Vec<String> {
        let rules = other.bay.sweeper().rules().await.unwrap();
        rules.into_iter().map(|rule| rule.name).collect()
    };
    assert_eq!(names().await.len(), 13);
    sweeper.delete_rule("session").await.unwrap();
    assert!(!names().await.contains(&"session".to_owned()));
    assert_eq!(sweeper.delete_rule("session").await.unwrap_err().kind(), ErrorKind::NotFound);
    value(&a, "session:1", None).await;
    later(&world, DAY * 3).await;
    assert_eq!(ids(&world, "state").len(), 1, "no rule lets it go");
    let text = r#"{"name":"session","pattern":"session:*","ttl_seconds":3600}"#;
    sweeper.put_rule(serde_json::from_str(text).unwrap()).await.unwrap();
    let rules = sweeper.rules().await.unwrap();
    let rule = rules.iter().find(|rule| rule.name == "session").unwrap();
    assert_eq!(rule.scopes(), [Scope::StateKeys, Scope::ForeignKeys].into());
    later(&world, Duration::from_secs(310)).await;
    assert_eq!(ids(&world, "state").len(), 0);
    // A rule that somebody put is gone when it is deleted.
    sweeper.put_rule(Rule::new("mine", "m:*", HOUR)).await.unwrap();
    sweeper.delete_rule("mine").await.unwrap();
    assert_eq!(names().await.len(), 13);
}

#[tokio::test]
async fn a_lazy_rule_waits_until_it_is_asked_and_one_that_is_never_is_refused_by_name() {
    let world = World::new(1);
    let a = leader(&world).await;
    let sweeper = a.bay.sweeper().clone();
    let rule = |name: &str, strategy| Rule {
        strategy,
        priority: if name == "lazy" { 99 } else { 0 },
        ..Rule::new(name, format!("{name}:*"), HOUR)
    };
    sweeper.put_rule(rule("lazy", Strategy::Lazy)).await.unwrap();
    sweeper.put_rule(rule("never", Strategy::Never)).await.unwrap();
    sweeper.put_rule(rule("batch", Strategy::Batch)).await.unwrap();
    for name in ["lazy", "never", "batch"] {
        value(&a, &format!("{name}:1"), None).await;
        value(&a, &format!("{name}:2"), Some(DAY * 30)).await;
    }
    later(&world, HOUR * 2).await;
    let left = |all: &[&str]| all.iter().map(|id| (*id).to_owned()).collect::<BTreeSet<_>>();
    let kept = ["batch:2", "lazy:1", "lazy:2", "never:1", "never:2"];
    assert_eq!(ids(&world, "state"), left(&kept));
    let refused = run(&world, &a.bay, of_rule("never")).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Refused);
    let report = run(&world, &a.bay, RunRequest::default()).await.unwrap();
    assert_eq!(report.rules.first().unwrap().rule, "lazy", "the highest priority first");
    assert_eq!(report.rules[0].kept, [("it has a time to live".to_owned(), 1)].into());
    assert_eq!(ids(&world, "state"), left(&["batch:2", "lazy:2", "never:1", "never:2"]));
    value(&a, "lazy:3", None).await;
    later(&world, HOUR * 2).await;
    let optimized = meanwhile(&world, async move { sweeper.optimize_memory().await }).await;
    assert_eq!(optimized.unwrap().cleanup.total_cleaned, 1);
}

#[tokio::test]
async fn health_warns_of_what_cleanup_cannot_do_and_no_longer_when_it_can() {
    let world = World::new(1);
    let config = Config { cleanup_interval: seconds(60), ..Config::default() };
    let a = leader_with(&world, config).await;
    assert!(a.bay.health().await.cleanup_service_healthy);
    // A job's record that nobody can read.
    let id = "f".repeat(64);
    put(&**a.bay.store(), Kind::new("job"), &id, Deadline::Never).await;
    let ended = u64::MAX - Timestamp::from_micros(1).as_micros();
    let entry = format!("completed/{ended:016x}/{id}");
    let key = Key::new(Partition::FIRST, Kind::index("job-list"), entry.as_str());
    let mark = |write| Commit::new(Partition::FIRST, vec![], vec![write], vec![]).unwrap();
    a.bay.store().commit(&mark(Write::Mark { key: key.clone() })).await.unwrap();
    value(&a, "cache:1", None).await;
    later(&world, HOUR * 2).await;
    world.pass_by(Duration::from_millis(200), SECOND * 62).await;
    let health = a.bay.health().await;
    assert!(health.cleanup_service_healthy && health.overall_healthy, "{:?}", health.issues);
    let told = health.warnings.iter().find(|told| told.starts_with("cleanup:")).unwrap();
    assert!(told.contains("cannot be read"), "{told}");
    assert_eq!(ids(&world, "state").len(), 0, "one bad record does not stop the others");
    assert!(a.bay.sweeper().stats().total_errors > 0);
    a.bay.store().commit(&mark(Write::Delete { key })).await.unwrap();
    world.pass_by(Duration::from_millis(200), SECOND * 62).await;
    let health = a.bay.health().await;
    assert!(health.cleanup_service_healthy && health.warnings.is_empty(), "{health:?}");
}

/// A pass that was long enough to remember its place must not begin there for ever.
#[tokio::test]
async fn a_long_pass_that_came_to_its_end_begins_anew_the_next_time() {
    let world = World::new(1);
    let config = Config { cleanup_interval: seconds(60), ..Config::default() };
    let a = leader_with(&world, config).await;
    // Young ones: the first pass looks through all of them, and deletes none.
    for n in 0..9_000 {
        value(&a, &format!("cache:{n:04}"), None).await;
    }
    world.pass_by(SECOND, SECOND * 200).await;
    later(&world, HOUR * 2).await;
    world.pass_by(SECOND, SECOND * 400).await;
    assert_eq!(ids(&world, "state").len(), 0);
}

#[tokio::test]
async fn shutdown_does_not_wait_for_a_run() {
    let world = World::new(1);
    let a = leader(&world).await;
    for n in 0..5_000 {
        value(&a, &format!("session:{n}"), None).await;
    }
    world.pass(SECOND).await;
    a.store.set_commit_delay(Duration::from_millis(400));
    let sweeper = a.bay.sweeper().clone();
    let wish = RunRequest { ttl: Some(Duration::ZERO), ..of_rule("session") };
    let run = tokio::spawn(async move { sweeper.run(wish).await });
    world.pass_by(Duration::from_millis(50), SECOND * 2).await;
    let began = world.clock.tick();
    let bay = a.bay.clone();
    meanwhile(&world, async move { bay.shutdown().await }).await;
    assert!(world.clock.tick().since(began) <= SECOND * 5);
    let refused = meanwhile(&world, run).await.unwrap().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unknown, "{refused}");
    assert!(!ids(&world, "state").is_empty());
    // What it had begun goes on with the next leader.
    let b = world.instance();
    b.bay.start();
    world.pass_by(Duration::from_millis(200), SECOND * 60).await;
    assert!(ids(&world, "state").is_empty());
    let _: Arc<dyn Store> = Arc::clone(a.bay.store());
}
