//! Defects that were found, each with the scenario that showed it. `docs/reliability.md` tells by
//! what they were found.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm)] // a test fails by panicking

mod support {
    pub mod stepped;
}

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use lockbay::clock::Clock;
use lockbay::config::Config;
use lockbay::event::Event;
use lockbay::job::{
    Claim, ClaimRequest, JobContext, JobFailure, JobFilter, JobOutcome, OnFailed, OnInProgress,
    Retry, RunOptions,
};
use lockbay::leader::Edge;
use lockbay::store::faulty::Faults;
use lockbay::store::{
    Commit, Deadline, Description, Hints, Key, Kind, Page, Partition, Pong, Range, Read, Reply,
    Store, Upkeep, Write,
};
use lockbay::{Error, ErrorKind, Json, LockBay, Placement};
use support::stepped::{World, seconds};

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn request() -> ClaimRequest {
    ClaimRequest::new("t", "k", Json::null())
}

/// Runs a handler that works for an hour, and tells when its cancellation fires.
fn long_job(world: &World, bay: &LockBay, placement: Placement) -> Arc<AtomicBool> {
    let told = Arc::new(AtomicBool::new(false));
    let (bay, clock, teller) = (bay.clone(), world.clock.clone(), Arc::clone(&told));
    tokio::spawn(async move {
        let handler = move |job: JobContext| {
            let (clock, teller) = (clock.clone(), Arc::clone(&teller));
            async move {
                tokio::spawn(async move {
                    job.cancelled.cancelled().await;
                    teller.store(true, Ordering::SeqCst);
                });
                clock.sleep(Duration::from_secs(3_600)).await;
                Ok::<_, JobFailure>(Json::null())
            }
        };
        bay.run_job(request(), placement, RunOptions::default(), handler).await
    });
    told
}

#[tokio::test]
async fn a_late_answer_to_an_old_renewal_does_not_end_the_next_term() {
    for delay in [3_000, 3_400, 3_600, 3_800, 4_000, 4_500] {
        let world = World::new(1);
        let a = world.instance();
        a.bay.start();
        world.pass(ms(1_500)).await;
        let mut edges = a.bay.leadership().subscribe();
        a.store.set_delay(ms(delay));
        world.pass(ms(400)).await; // the renewal is on its way
        a.store.set_delay(Duration::ZERO);
        world.pass(ms(12_000)).await;
        let mut elected = 0;
        while let Some(Ok(Some(edge))) = world.clock.timeout(Duration::ZERO, edges.next()).await {
            elected += u32::from(matches!(edge, Edge::Elected { .. }));
        }
        assert!(elected <= 1, "delay {delay}: a second term was ended by the first one's renewal");
        assert!(a.bay.is_leader());
    }
}

#[tokio::test]
async fn a_renewal_that_lands_after_trust_ended_prolongs_the_lease_for_nobody() {
    let world = World::new(1);
    let (a, b) = (world.instance(), world.instance());
    a.bay.start();
    world.settle().await;
    b.bay.start();
    world.pass(ms(1_500)).await;
    a.store.set_delay(ms(3_000));
    world.pass(ms(400)).await;
    a.store.set_delay(Duration::ZERO);
    let mut gap = Duration::ZERO;
    for _ in 0..1_600 {
        world.pass(ms(5)).await;
        if !a.bay.is_leader() && !b.bay.is_leader() {
            gap += ms(5);
        }
    }
    assert!(gap < ms(1_000), "{gap:?} without a leader");
}

#[tokio::test]
async fn a_backup_of_an_accepted_generation_is_found_out() {
    let world = World::new(1);
    let client = world.memory.client();
    let put = || {
        let key = Key::new(Partition::FIRST, Kind::new("x"), "x");
        let put = Write::Put { key, value: b"x".to_vec(), deadline: Deadline::Never };
        Commit::new(Partition::FIRST, vec![], vec![put], vec![]).unwrap()
    };
    client.commit(&put()).await.unwrap();
    client.accept().await.unwrap();
    client.commit(&put()).await.unwrap();
    let backup = world.memory.snapshot();
    world.clock.advance(ms(1_000));
    client.accept().await.unwrap();
    client.commit(&put()).await.unwrap();
    world.memory.restore(&backup);
    let error = client.commit(&put()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RolledBack);
}

#[tokio::test]
async fn a_bid_whose_reply_was_lost_does_not_leave_the_service_without_leader() {
    let world = World::new(1);
    let a = world.instance_with(Config { leader_ttl: seconds(90), ..Config::default() });
    let mut events = a.bay.subscribe();
    a.store.set(Faults { reply_lost: 1_000, ..Faults::default() });
    a.bay.start();
    world.settle().await;
    a.store.set(Faults::default());
    world.pass(ms(20_000)).await;
    assert!(a.bay.is_leader(), "waits for the lapse of its own lease");
    while let Ok(told) = events.try_recv() {
        assert!(!matches!(told.event, Event::LeaderChanged { .. }), "took itself for another");
    }
}

#[tokio::test]
async fn a_follower_whose_first_job_just_began_is_healthy() {
    let world = World::new(1);
    let (a, b) = (world.instance(), world.instance());
    a.bay.start();
    world.settle().await;
    b.bay.start();
    world.pass(ms(120_000)).await;
    long_job(&world, &b.bay, Placement::Anywhere);
    world.pass(ms(2_000)).await;
    let health = b.bay.health().await;
    assert!(health.overall_healthy, "{:?}", health.issues);
}

#[tokio::test]
async fn health_stays_good_while_a_lone_instance_holds_back_after_resigning() {
    let world = World::new(1);
    let a = world.instance();
    a.bay.start();
    world.pass(ms(62_500)).await;
    a.bay.leadership().resign().await.unwrap();
    world.pass(ms(300)).await;
    let health = a.bay.health().await;
    assert!(health.overall_healthy, "{:?}", health.issues);
}

#[tokio::test]
async fn a_leaders_handler_is_told_when_leadership_is_gone_and_the_next_leader_goes_on() {
    let world = World::new(1);
    let (a, b) = (world.instance(), world.instance());
    a.bay.start();
    world.settle().await;
    let told = long_job(&world, &a.bay, Placement::LeaderOnly);
    world.pass(ms(100)).await;
    b.bay.start();
    a.bay.leadership().resign().await.unwrap();
    world.pass(ms(200)).await;
    assert!(b.bay.is_leader());
    assert!(told.load(Ordering::SeqCst), "the handler was not told");
    let claim = b.bay.claim(request(), Placement::LeaderOnly).await.unwrap();
    let Claim::Claimed(job) = claim else { panic!("left hanging: {claim:?}") };
    assert_eq!(job.attempt, 2);
}

#[tokio::test]
async fn shutdown_with_a_store_that_hangs_still_cuts_handlers_off() {
    let world = World::new(1);
    let a = world.instance();
    a.bay.start();
    world.settle().await;
    let told = long_job(&world, &a.bay, Placement::Anywhere);
    world.pass(ms(100)).await;
    a.store.set_delay(Duration::from_secs(600));
    let bay = a.bay.clone();
    let shutdown = tokio::spawn(async move { bay.shutdown().await });
    world.pass(ms(4_600)).await;
    assert!(shutdown.is_finished(), "took longer than its limit");
    assert!(told.load(Ordering::SeqCst), "the handler runs on without knowing");
}

#[tokio::test]
async fn a_cut_off_handler_is_told_before_its_claim_is_released() {
    let world = World::new(1);
    let a = world.instance();
    let told = long_job(&world, &a.bay, Placement::Anywhere);
    world.pass(ms(100)).await;
    let bay = a.bay.clone();
    tokio::spawn(async move { bay.shutdown().await });
    world.pass(ms(2_400)).await;
    a.store.set_delay(ms(300)); // the release takes a while
    world.pass(ms(150)).await;
    assert!(told.load(Ordering::SeqCst));
}

#[tokio::test]
async fn a_held_lease_is_told_lost_when_its_instance_shuts_down() {
    let world = World::new(1);
    let a = world.instance();
    let lease = a.bay.leases().hold("l", "me", ms(2_000)).await.unwrap();
    let bay = a.bay.clone();
    tokio::spawn(async move { bay.shutdown().await });
    world.pass(ms(5_000)).await;
    assert!(lease.right().lost().is_cancelled());
    let late = a.bay.leases().hold("m", "me", ms(2_000)).await;
    assert!(late.is_err(), "a closed instance took a lease");
}

#[tokio::test]
async fn a_lapsed_claim_behind_many_live_ones_is_seen() {
    let world = World::new(1);
    let a = world.instance();
    a.bay.start();
    world.settle().await;
    for n in 0..150 {
        let claim_ttl = Some(Duration::from_secs(86_400));
        let live = ClaimRequest::new("t", format!("live-{n}"), Json::null());
        a.bay.jobs().claim(ClaimRequest { claim_ttl, ..live }).await.unwrap();
        world.clock.advance(ms(1));
    }
    a.bay.jobs().claim(request()).await.unwrap();
    assert!(a.bay.health().await.overall_healthy);
    world.clock.advance(Duration::from_secs(1_000));
    world.pass(ms(6_000)).await;
    let health = a.bay.health().await;
    assert!(!health.job_coordination_healthy, "{:?}", health.issues);
}

#[tokio::test]
async fn failing_twice_with_one_token_succeeds_twice() {
    let world = World::new(1);
    let (a, b) = (world.instance().bay, world.instance().bay);
    let Claim::Claimed(job) = a.jobs().claim(request()).await.unwrap() else { panic!() };
    let first = a.jobs().fail(&job.job_id, &job.claim_token, "x", Retry::Allowed).await.unwrap();
    for bay in [&a, &b] {
        let again = bay.jobs().fail(&job.job_id, &job.claim_token, "x", Retry::Allowed).await;
        assert_eq!(again.unwrap(), first);
    }
}

#[tokio::test]
async fn a_run_that_replays_failures_does_not_wait_for_a_retry_that_never_comes() {
    let world = World::new(1);
    let bay = world.instance().bay;
    let request = ClaimRequest { on_failed: OnFailed::Replay, ..request() };
    let handler = |_| async { Err::<Json, _>(JobFailure::retryable("once")) };
    let options = RunOptions::default();
    // No time passes.
    let outcome = bay.run_job(request, Placement::Anywhere, options, handler).await.unwrap();
    assert_eq!(outcome, JobOutcome::Failed("once".into()));
}

#[tokio::test]
async fn no_attempt_begins_after_shutdown_has_begun() {
    let world = World::new(1);
    let a = world.instance();
    let bay = a.bay.clone();
    let run = tokio::spawn(async move {
        let handler = |_| async { Err::<Json, _>(JobFailure::retryable("again")) };
        bay.run_job(request(), Placement::Anywhere, RunOptions::default(), handler).await
    });
    world.pass(ms(100)).await;
    let bay = a.bay.clone();
    tokio::spawn(async move { bay.shutdown().await });
    world.pass(ms(10)).await;
    assert_eq!(run.await.unwrap().unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(a.bay.jobs().claim(request()).await.is_err());
}

#[tokio::test]
async fn the_idempotency_token_survives_a_store_that_lost_the_job() {
    let world = World::new(1);
    let a = world.instance().bay;
    let empty = world.memory.snapshot();
    let Claim::Claimed(before) = a.jobs().claim(request()).await.unwrap() else { panic!() };
    world.clock.advance(ms(1_000));
    world.memory.restore(&empty);
    a.store().accept().await.unwrap();
    let Claim::Claimed(after) = a.jobs().claim(request()).await.unwrap() else { panic!() };
    assert_eq!(before.idempotency_token, after.idempotency_token);
    assert!(after.fencing_token > before.fencing_token);
}

#[tokio::test]
async fn a_store_that_is_rolled_back_is_told_as_an_event() {
    let world = World::new(1);
    let a = world.instance();
    let mut events = a.bay.subscribe();
    a.bay.start();
    world.settle().await;
    world.memory.clear();
    world.pass(ms(6_000)).await;
    let told: Vec<&str> =
        std::iter::from_fn(|| events.try_recv().ok()).map(|told| told.event.name()).collect();
    assert!(told.contains(&"store_rolled_back") && told.contains(&"system_unhealthy"), "{told:?}");
    assert!(!a.bay.is_leader());
}

#[tokio::test]
async fn two_runs_with_one_idempotency_key_never_run_side_by_side() {
    let world = World::new(1);
    let (a, b) = (world.instance().bay, world.instance().bay);
    let keyed = || ClaimRequest { idempotency_key: Some("request-1".into()), ..request() };
    let clock = world.clock.clone();
    let first = tokio::spawn(async move {
        let handler = move |_| {
            let clock = clock.clone();
            async move {
                clock.sleep(ms(1_000)).await;
                Ok(Json::null())
            }
        };
        a.run_job(keyed(), Placement::Anywhere, RunOptions::default(), handler).await
    });
    world.pass(ms(100)).await;
    async fn handler(_: JobContext) -> Result<Json, JobFailure> {
        panic!("ran beside the first")
    }
    let second = b.run_job(keyed(), Placement::Anywhere, RunOptions::default(), handler).await;
    assert!(matches!(second.unwrap(), JobOutcome::InProgress(_)));
    world.pass(ms(1_000)).await;
    assert!(matches!(first.await.unwrap().unwrap(), JobOutcome::Completed(_)));
}

/// The handler has had its effect, its result cannot be recorded: it runs again for ever.
#[tokio::test]
async fn a_result_that_is_refused_does_not_make_the_job_run_again_and_again() {
    let world = World::new(1);
    let bay = world.instance().bay;
    let effects = Arc::new(AtomicU32::new(0));
    for _ in 0..5 {
        let counter = Arc::clone(&effects);
        let handler = move |_| {
            counter.fetch_add(1, Ordering::SeqCst);
            async { Ok::<_, JobFailure>(Json::parse(r#"{"a":1,"a":2}"#).unwrap()) }
        };
        let options = RunOptions::default();
        let _ = bay.run_job(request(), Placement::Anywhere, options, handler).await;
        world.pass(ms(100)).await;
        world.clock.advance(Duration::from_secs(61));
        world.settle().await;
    }
    assert_eq!(effects.load(Ordering::SeqCst), 1);
}

/// The handler ran, and run says "nothing was done".
#[tokio::test]
async fn a_run_whose_outcome_could_not_be_recorded_is_not_called_undone() {
    let world = World::new(1);
    let a = world.instance();
    let ran = Arc::new(AtomicBool::new(false));
    let (bay, store, flag) = (a.bay.clone(), a.store.clone(), ran.clone());
    let run = tokio::spawn(async move {
        let handler = move |_| {
            flag.store(true, Ordering::SeqCst);
            store.set(Faults { refused: 1_000, ..Faults::default() });
            async { Ok::<_, JobFailure>(Json::null()) }
        };
        bay.run_job(request(), Placement::Anywhere, RunOptions::default(), handler).await
    });
    world.pass(ms(20_000)).await;
    assert!(ran.load(Ordering::SeqCst));
    let error = run.await.unwrap().unwrap_err();
    assert_ne!(error.kind(), ErrorKind::Unavailable, "says that nothing was done: {error}");
}

/// A claim that waits is granted after shutdown began.
#[tokio::test]
async fn a_waiting_claim_begins_no_attempt_after_shutdown_has_begun() {
    let world = World::new(1);
    let (a, b) = (world.instance(), world.instance());
    let short = ClaimRequest { claim_ttl: Some(ms(1_000)), ..request() };
    a.bay.jobs().claim(short.clone()).await.unwrap();
    let begun = Arc::new(AtomicBool::new(false));
    // something else that keeps the drain going
    let (bay, clock) = (b.bay.clone(), world.clock.clone());
    tokio::spawn(async move {
        let other = ClaimRequest::new("t", "other", Json::null());
        let handler = |_| {
            let clock = clock.clone();
            async move {
                clock.sleep(Duration::from_secs(3_600)).await;
                Ok::<_, JobFailure>(Json::null())
            }
        };
        bay.run_job(other, Placement::Anywhere, RunOptions::default(), handler).await
    });
    let (bay, flag) = (b.bay.clone(), begun.clone());
    tokio::spawn(async move {
        let wait =
            ClaimRequest { on_in_progress: OnInProgress::Wait(Duration::from_secs(30)), ..short };
        let handler = |_| {
            flag.store(true, Ordering::SeqCst);
            async { Ok::<_, JobFailure>(Json::null()) }
        };
        bay.run_job(wait, Placement::Anywhere, RunOptions::default(), handler).await
    });
    world.pass(ms(100)).await;
    let bay = b.bay.clone();
    tokio::spawn(async move { bay.shutdown().await });
    world.pass(ms(2_000)).await;
    assert!(!begun.load(Ordering::SeqCst), "an attempt began during shutdown");
}

/// After an outage, a service with the guide's TTL of 90 s is led again soon.
#[tokio::test]
async fn after_an_outage_there_is_soon_a_leader_whatever_the_ttl() {
    for seed in 1..4 {
        let world = World::new(seed);
        let a = world.instance_with(Config { leader_ttl: seconds(90), ..Config::default() });
        a.store.set(Faults { refused: 1_000, ..Faults::default() });
        a.bay.start();
        world.pass(Duration::from_secs(110)).await;
        a.store.set(Faults::default());
        let mut without = Duration::ZERO;
        while !a.bay.is_leader() {
            world.pass(ms(500)).await;
            without += ms(500);
        }
        assert!(without < Duration::from_secs(5), "{without:?}");
    }
}

/// A store whose hints do not work.
struct NoHints(Arc<dyn Store>);

#[async_trait]
impl Store for NoHints {
    async fn get(&self, keys: &[Key]) -> Result<Read, Error> {
        self.0.get(keys).await
    }
    async fn scan(&self, r: &Range, l: usize) -> Result<Page, Error> {
        self.0.scan(r, l).await
    }
    async fn due(&self, p: Partition, k: Kind, l: usize) -> Result<Page, Error> {
        self.0.due(p, k, l).await
    }
    async fn commit(&self, c: &Commit) -> Result<Reply, Error> {
        self.0.commit(c).await
    }
    async fn watch(&self, _: &Range) -> Result<Hints, Error> {
        Err(Error::new(ErrorKind::Unavailable, "redis did not acknowledge a subscription in time"))
    }
    async fn ping(&self) -> Result<Pong, Error> {
        self.0.ping().await
    }
    fn describe(&self) -> Description {
        self.0.describe()
    }
    fn upkeep(&self) -> &dyn Upkeep {
        self.0.upkeep()
    }
    async fn accept(&self) -> Result<(), Error> {
        self.0.accept().await
    }
    async fn close(&self) {
        self.0.close().await
    }
}

#[tokio::test]
async fn a_claim_waits_by_polling_where_there_are_no_hints() {
    let world = World::new(1);
    let store = Arc::new(NoHints(Arc::new(world.memory.client())));
    let bay = LockBay::with_store(Config::default(), store, world.clock.clone());
    let Claim::Claimed(job) = bay.jobs().claim(request()).await.unwrap() else { panic!() };
    let waiter = tokio::spawn({
        let bay = bay.clone();
        async move {
            let wait = OnInProgress::Wait(Duration::from_secs(30));
            bay.jobs().claim(ClaimRequest { on_in_progress: wait, ..request() }).await
        }
    });
    world.pass(ms(100)).await;
    bay.jobs().complete(&job.job_id, &job.claim_token, Json::null()).await.unwrap();
    world.pass(ms(2_000)).await;
    let claim = waiter.await.unwrap();
    assert!(matches!(claim, Ok(Claim::Replayed(_))), "{claim:?}");
}

/// A failure that is said again after a lost reply is answered with what was recorded.
#[tokio::test]
async fn a_failure_whose_reply_was_lost_is_answered_as_it_was_recorded() {
    let world = World::new(3);
    let a = world.instance();
    let Claim::Claimed(job) = a.bay.jobs().claim(request()).await.unwrap() else { panic!() };
    a.store.set(Faults { reply_lost: 1_000, ..Faults::default() });
    let lost = a.bay.jobs().fail(&job.job_id, &job.claim_token, "x", Retry::Allowed).await;
    assert_eq!(lost.unwrap_err().kind(), ErrorKind::Unknown);
    a.store.set(Faults::default());
    let again =
        a.bay.jobs().fail(&job.job_id, &job.claim_token, "x", Retry::Allowed).await.unwrap();
    let info = a.bay.jobs().show(&job.job_id).await.unwrap();
    let recorded = info.next_retry_at.unwrap().since(world.clock.now());
    assert_eq!(again.retry_after, Some(recorded));
}

#[tokio::test]
async fn a_failure_said_twice_never_claims_that_there_is_no_retry() {
    let world = World::new(3);
    let a = world.instance();
    let Claim::Claimed(job) = a.bay.jobs().claim(request()).await.unwrap() else { panic!() };
    a.store.set(Faults { reply_lost: 1_000, ..Faults::default() });
    let _ = a.bay.jobs().fail(&job.job_id, &job.claim_token, "x", Retry::Allowed).await;
    a.store.set(Faults::default());
    let again = a.bay.jobs().fail(&job.job_id, &job.claim_token, "x", Retry::Never).await.unwrap();
    let info = a.bay.jobs().show(&job.job_id).await.unwrap();
    assert_eq!(again.retry_after.is_some(), info.next_retry_at.is_some());
}

/// Health is blind behind jobs that failed and were not tried again.
#[tokio::test]
async fn a_lapsed_claim_behind_many_failed_jobs_is_seen() {
    let world = World::new(1);
    let a = world.instance();
    a.bay.start();
    world.settle().await;
    for n in 0..201 {
        let failed = ClaimRequest::new("t", format!("failed-{n}"), Json::null());
        let Claim::Claimed(job) = a.bay.jobs().claim(failed).await.unwrap() else { panic!() };
        a.bay.jobs().fail(&job.job_id, &job.claim_token, "x", Retry::Allowed).await.unwrap();
    }
    world.pass(ms(2_000)).await;
    a.bay.jobs().claim(request()).await.unwrap();
    world.clock.advance(Duration::from_secs(1_000));
    world.pass(ms(6_000)).await;
    let health = a.bay.health().await;
    assert!(!health.job_coordination_healthy, "says healthy: {:?}", health.issues);
}

/// One call of list makes thousands of round trips.
#[tokio::test]
async fn a_list_call_makes_a_bounded_number_of_round_trips() {
    let world = World::new(1);
    let a = world.instance();
    for n in 0..6_000 {
        let job = ClaimRequest::new("t", format!("{n}"), Json::null());
        a.bay.jobs().claim(job).await.unwrap();
    }
    let before = a.store.calls();
    let filter = JobFilter { job_type: Some("none".into()), ..JobFilter::default() };
    a.bay.jobs().list(&filter, None, 1).await.unwrap();
    let calls = a.store.calls() - before;
    assert!(calls <= 60, "{calls} round trips for one page");
}

/// A claim whose answer came after its trust ended does not start the handler.
#[tokio::test]
async fn a_handler_does_not_begin_when_trust_has_ended_before_the_answer_came() {
    let world = World::new(1);
    let a = world.instance();
    let begun = Arc::new(AtomicBool::new(false));
    a.store.set_delay(ms(5_000));
    let (bay, flag) = (a.bay.clone(), begun.clone());
    let run = tokio::spawn(async move {
        let short = ClaimRequest { claim_ttl: Some(ms(1_000)), ..request() };
        let handler = |_| {
            flag.store(true, Ordering::SeqCst);
            async {
                std::future::pending::<()>().await;
                Ok::<_, JobFailure>(Json::null())
            }
        };
        bay.run_job(short, Placement::Anywhere, RunOptions::default(), handler).await
    });
    // The claim takes 5 s, and so does giving it back.
    world.pass(ms(10_100)).await;
    assert!(!begun.load(Ordering::SeqCst), "the handler began under a right that is not held");
    assert_eq!(run.await.unwrap().unwrap_err().kind(), ErrorKind::Fenced);
}

/// A bid in flight when the instance stops leaves no lease behind.
#[tokio::test]
async fn a_bid_on_its_way_at_shutdown_leaves_no_lease_behind() {
    let world = World::new(1);
    let slow = Arc::new(SlowCommits(Arc::new(world.memory.client()), world.clock.clone()));
    let config = Config { leader_ttl: seconds(90), ..Config::default() };
    let bay = LockBay::with_store(config, slow, world.clock.clone());
    bay.start();
    world.pass(ms(100)).await;
    let stopper = bay.clone();
    let done = tokio::spawn(async move { stopper.shutdown().await });
    world.pass(ms(5_000)).await;
    assert!(done.is_finished());
    let b = world.instance_with(Config { leader_ttl: seconds(90), ..Config::default() });
    b.bay.start();
    world.pass(ms(5_000)).await;
    assert!(b.bay.is_leader(), "waits for the lapse of a lease that a stopped instance holds");
}

/// Commits take effect a while after they were handed over, even if the caller goes away: as the
/// queues of SQLite and Redis do.
struct SlowCommits(Arc<dyn Store>, Clock);

#[async_trait]
impl Store for SlowCommits {
    async fn get(&self, keys: &[Key]) -> Result<Read, Error> {
        self.0.get(keys).await
    }
    async fn scan(&self, r: &Range, l: usize) -> Result<Page, Error> {
        self.0.scan(r, l).await
    }
    async fn due(&self, p: Partition, k: Kind, l: usize) -> Result<Page, Error> {
        self.0.due(p, k, l).await
    }
    async fn commit(&self, c: &Commit) -> Result<Reply, Error> {
        let (inner, clock, c) = (self.0.clone(), self.1.clone(), c.clone());
        tokio::spawn(async move {
            clock.sleep(Duration::from_millis(300)).await;
            inner.commit(&c).await
        })
        .await
        .unwrap()
    }
    async fn watch(&self, r: &Range) -> Result<Hints, Error> {
        self.0.watch(r).await
    }
    async fn ping(&self) -> Result<Pong, Error> {
        self.0.ping().await
    }
    fn describe(&self) -> Description {
        self.0.describe()
    }
    fn upkeep(&self) -> &dyn Upkeep {
        self.0.upkeep()
    }
    async fn accept(&self) -> Result<(), Error> {
        self.0.accept().await
    }
    async fn close(&self) {
        self.1.sleep(Duration::from_millis(400)).await; // finishes what it has
        self.0.close().await
    }
}

#[tokio::test]
async fn a_handler_that_panics_before_its_first_await_is_an_attempt_that_failed() {
    let world = World::new(1);
    let bay = world.instance().bay;
    let request = ClaimRequest { max_retries: Some(0), ..request() };
    let handler = |job: JobContext| {
        assert_eq!(job.attempt, 0, "boom");
        std::future::ready(Ok::<_, JobFailure>(Json::null()))
    };
    let options = RunOptions::default();
    let outcome = bay.run_job(request, Placement::Anywhere, options, handler).await.unwrap();
    let JobOutcome::Failed(error) = outcome else { panic!("{outcome:?}") };
    assert!(error.contains("boom"), "{error}");
}
