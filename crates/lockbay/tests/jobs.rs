//! What jobs promise, under a clock that the test steps. `tests/shared.rs` runs the promises that
//! depend on a store on every real one.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm)] // a test fails by panicking

mod support {
    pub mod stepped;
}

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use lockbay::config::Config;
use lockbay::job::{
    Claim, ClaimRequest, ClaimedJob, Identity, JobFailure, JobFilter, JobOutcome, JobStatus,
    OnFailed, OnInProgress, Replayed, Retry, RunOptions,
};
use lockbay::metrics::Metric;
use lockbay::store::faulty::Faults;
use lockbay::{ErrorKind, Json, LockBay, Placement};
use support::stepped::{Instance, World, seconds};

fn json(text: &str) -> Json {
    Json::parse(text).unwrap()
}

fn request(key: &str) -> ClaimRequest {
    ClaimRequest::new("payment", key, json(r#"{"amount":10}"#))
}

async fn claimed(bay: &LockBay, request: ClaimRequest) -> ClaimedJob {
    match bay.jobs().claim(request).await.unwrap() {
        Claim::Claimed(job) => job,
        other => panic!("not claimed: {other:?}"),
    }
}

async fn replayed(bay: &LockBay, request: ClaimRequest) -> Replayed {
    match bay.jobs().claim(request).await.unwrap() {
        Claim::Replayed(replayed) => replayed,
        other => panic!("not replayed: {other:?}"),
    }
}

fn kind<T: std::fmt::Debug>(result: lockbay::Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

const CLAIM: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_job_runs_once_and_every_duplicate_gets_its_outcome() {
    let world = World::new(1);
    let (a, b) = (world.instance().bay, world.instance().bay);
    let job = claimed(&a, request("k")).await;
    let Claim::InProgress(progress) = b.jobs().claim(request("k")).await.unwrap() else { panic!() };
    assert_eq!((progress.job_id.as_str(), progress.attempt), (job.job_id.as_str(), 1));
    assert_eq!(progress.retry_after, CLAIM);
    a.jobs().complete(&job.job_id, &job.claim_token, json("[1.50]")).await.unwrap();
    for bay in [&a, &b] {
        let replayed = replayed(bay, request("k")).await;
        assert_eq!(replayed.result, Some(json("[1.50]")), "results are exact");
        assert_eq!((replayed.status, replayed.attempt), (JobStatus::Completed, 1));
    }
}

#[tokio::test]
async fn a_crashed_holders_key_is_free_when_its_claim_lapses() {
    let world = World::new(1);
    let (a, b) = (world.instance().bay, world.instance().bay);
    let first = claimed(&a, request("k")).await;
    world.pass(CLAIM).await;
    let second = claimed(&b, request("k")).await;
    assert_eq!(second.attempt, 2);
    assert_eq!(second.idempotency_token, first.idempotency_token, "the same over all attempts");
    assert!(second.fencing_token > first.fencing_token);
}

#[tokio::test]
async fn a_stale_attempt_cannot_complete_a_newer_one() {
    let world = World::new(1);
    let (a, b) = (world.instance().bay, world.instance().bay);
    let first = claimed(&a, request("k")).await;
    world.pass(CLAIM).await;
    let second = claimed(&b, request("k")).await;
    let late = a.jobs().complete(&first.job_id, &first.claim_token, Json::null()).await;
    assert_eq!(kind(late), ErrorKind::Fenced);
    let late = a.jobs().fail(&first.job_id, &first.claim_token, "late", Retry::Allowed).await;
    assert_eq!(kind(late), ErrorKind::Fenced);
    assert_eq!(
        kind(a.jobs().heartbeat(&first.job_id, &first.claim_token).await),
        ErrorKind::Fenced
    );
    b.jobs().complete(&second.job_id, &second.claim_token, json("2")).await.unwrap();
    assert_eq!(replayed(&a, request("k")).await.result, Some(json("2")));
}

#[tokio::test]
async fn late_complete_is_fenced_after_the_claim_lapses() {
    let world = World::new(1);
    let a = world.instance().bay;
    let job = claimed(&a, request("k")).await;
    world.pass(CLAIM).await;
    let late = a.jobs().complete(&job.job_id, &job.claim_token, Json::null()).await;
    assert_eq!(kind(late), ErrorKind::Fenced);
}

#[tokio::test]
async fn a_heartbeat_keeps_the_claim_and_its_token() {
    let world = World::new(1);
    let (a, b) = (world.instance().bay, world.instance().bay);
    let job = claimed(&a, request("k")).await;
    for _ in 0..5 {
        world.pass(CLAIM / 2).await;
        a.jobs().heartbeat(&job.job_id, &job.claim_token).await.unwrap();
    }
    assert!(matches!(b.jobs().claim(request("k")).await.unwrap(), Claim::InProgress(_)));
    a.jobs().complete(&job.job_id, &job.claim_token, Json::null()).await.unwrap();
}

#[tokio::test]
async fn completing_twice_with_one_token_succeeds_twice() {
    let world = World::new(1);
    let (a, b) = (world.instance().bay, world.instance().bay);
    let job = claimed(&a, request("k")).await;
    a.jobs().complete(&job.job_id, &job.claim_token, json("1")).await.unwrap();
    a.jobs().complete(&job.job_id, &job.claim_token, json("1.0")).await.unwrap();
    b.jobs().complete(&job.job_id, &job.claim_token, json("1")).await.unwrap();
    for bay in [&a, &b] {
        let other = bay.jobs().complete(&job.job_id, &job.claim_token, json("2")).await;
        assert_eq!(kind(other), ErrorKind::KeyReused, "another result is not swallowed");
    }
    assert_eq!(replayed(&b, request("k")).await.result, Some(json("1")), "the first one counts");
    let stranger = a.jobs().complete(&job.job_id, "stranger", Json::null()).await;
    assert_eq!(kind(stranger), ErrorKind::Fenced);
}

#[tokio::test]
async fn only_a_refused_use_of_a_stale_claim_is_counted_as_one() {
    let world = World::new(1);
    let a = world.instance().bay;
    let fenced = || a.metrics().value(Metric::ClaimsFenced);
    let (jobs, done) = (a.jobs(), claimed(&a, request("k")).await);
    jobs.complete(&done.job_id, &done.claim_token, json("1")).await.unwrap();
    jobs.complete(&done.job_id, &done.claim_token, json("1")).await.unwrap();
    let raced = jobs.heartbeat(&done.job_id, &done.claim_token).await;
    assert_eq!(kind(raced), ErrorKind::Fenced, "it has ended");
    let failed = claimed(&a, request("f")).await;
    for _ in 0..2 {
        jobs.fail(&failed.job_id, &failed.claim_token, "no", Retry::Never).await.unwrap();
    }
    assert_eq!(fenced(), 0, "a holder that has ended its job itself is no stale one");
    let lapsed = claimed(&a, request("l")).await;
    world.pass(CLAIM).await;
    let late = jobs.complete(&lapsed.job_id, &lapsed.claim_token, Json::null()).await;
    assert_eq!((kind(late), fenced()), (ErrorKind::Fenced, 1));
    let late = jobs.heartbeat(&done.job_id, "stranger").await;
    assert_eq!((kind(late), fenced()), (ErrorKind::Fenced, 2));
}

#[tokio::test]
async fn another_instance_can_complete_with_the_claim_token() {
    let world = World::new(1);
    let (a, b) = (world.instance().bay, world.instance().bay);
    let job = claimed(&a, request("k")).await;
    b.jobs().heartbeat(&job.job_id, &job.claim_token).await.unwrap();
    b.jobs().complete(&job.job_id, &job.claim_token, json("1")).await.unwrap();
    assert_eq!(replayed(&a, request("k")).await.result, Some(json("1")));
}

#[tokio::test]
async fn a_duplicate_can_wait_for_the_outcome() {
    let world = World::new(1);
    let (a, b) = (world.instance().bay, world.instance().bay);
    let job = claimed(&a, request("k")).await;
    let waiting = tokio::spawn(async move {
        let on_in_progress = OnInProgress::Wait(Duration::from_secs(30));
        b.jobs().claim(ClaimRequest { on_in_progress, ..request("k") }).await
    });
    world.settle().await;
    assert!(!waiting.is_finished());
    a.jobs().complete(&job.job_id, &job.claim_token, json("7")).await.unwrap();
    // No time passes: the hint wakes it.
    let Claim::Replayed(replayed) = waiting.await.unwrap().unwrap() else { panic!() };
    assert_eq!(replayed.result, Some(json("7")));
}

#[tokio::test]
async fn a_waiting_duplicate_takes_over_at_the_lapse_and_gives_up_at_its_limit() {
    let world = World::new(1);
    let (a, b, c) = (world.instance().bay, world.instance().bay, world.instance().bay);
    claimed(&a, request("k")).await;
    let wait = |bay: LockBay, limit| {
        let on_in_progress = OnInProgress::Wait(Duration::from_secs(limit));
        tokio::spawn(async move {
            bay.jobs().claim(ClaimRequest { on_in_progress, ..request("k") }).await.unwrap()
        })
    };
    let (patient, hasty) = (wait(b, 90), wait(c, 10));
    world.pass(Duration::from_secs(10)).await;
    assert!(matches!(hasty.await.unwrap(), Claim::InProgress(_)));
    world.pass(CLAIM - Duration::from_secs(10) + Duration::from_millis(10)).await;
    let Claim::Claimed(job) = patient.await.unwrap() else { panic!("not taken over at the lapse") };
    assert_eq!(job.attempt, 2);
}

#[tokio::test]
async fn the_same_key_with_other_parameters_is_told_apart() {
    let world = World::new(1);
    let a = world.instance().bay;
    let other = || ClaimRequest::new("payment", "k", json(r#"{"amount":11}"#));
    let first = claimed(&a, request("k")).await;
    let second = claimed(&a, other()).await;
    assert_ne!(first.job_id, second.job_id, "by fingerprint, another job");

    let by_key = |request| ClaimRequest { identity: Identity::Key, ..request };
    let job = claimed(&a, by_key(request("k"))).await;
    assert_eq!(kind(a.jobs().claim(by_key(other())).await), ErrorKind::KeyReused);
    a.jobs().complete(&job.job_id, &job.claim_token, Json::null()).await.unwrap();
    assert_eq!(kind(a.jobs().claim(by_key(other())).await), ErrorKind::KeyReused, "from the cache");
    let b = world.instance().bay;
    assert_eq!(kind(b.jobs().claim(by_key(other())).await), ErrorKind::KeyReused, "from the store");
    replayed(&b, by_key(request("k"))).await;
}

#[tokio::test]
async fn a_conflict_holds_up_no_other_claim_of_a_batch() {
    let world = World::new(1);
    let (a, b) = (world.instance().bay, world.instance().bay);
    claimed(&a, request("taken")).await;
    let done = claimed(&a, request("done")).await;
    a.jobs().complete(&done.job_id, &done.claim_token, Json::null()).await.unwrap();
    let bad = ClaimRequest::new("", "k", Json::null());
    let batch = vec![request("1"), request("taken"), bad, request("done"), request("2")];
    let answers = b.jobs().claim_many(batch).await;
    assert!(matches!(answers[0], Ok(Claim::Claimed(_))), "{answers:?}");
    assert!(matches!(answers[1], Ok(Claim::InProgress(_))), "{answers:?}");
    assert!(answers[2].is_err(), "{answers:?}");
    assert!(matches!(answers[3], Ok(Claim::Replayed(_))), "{answers:?}");
    assert!(matches!(answers[4], Ok(Claim::Claimed(_))), "{answers:?}");
}

#[tokio::test]
async fn a_duplicate_after_the_payload_is_gone_does_not_run_again() {
    let world = World::new(1);
    let config =
        Config { result_ttl: seconds(10), dedup_horizon: seconds(100), ..Config::default() };
    let a = world.instance_with(config).bay;
    let job = claimed(&a, request("k")).await;
    a.jobs().complete(&job.job_id, &job.claim_token, json("1")).await.unwrap();
    assert!(replayed(&a, request("k")).await.result_kept);
    world.clock.advance(Duration::from_secs(11));
    let late = replayed(&a, request("k")).await;
    assert_eq!((late.status, late.result_kept, late.result), (JobStatus::Completed, false, None));
    world.clock.advance(Duration::from_secs(90));
    assert_eq!(claimed(&a, request("k")).await.attempt, 1, "beyond the horizon it is a new job");
}

#[tokio::test]
async fn a_failed_job_runs_again_after_its_backoff_until_its_retries_are_used_up() {
    let world = World::new(1);
    let a = world.instance().bay;
    let request = || ClaimRequest { max_retries: Some(2), ..request("k") };
    for attempt in 1..=3 {
        let job = claimed(&a, request()).await;
        assert_eq!(job.attempt, attempt);
        let failed =
            a.jobs().fail(&job.job_id, &job.claim_token, "no", Retry::Allowed).await.unwrap();
        let replay = replayed(&a, ClaimRequest { on_failed: OnFailed::Replay, ..request() }).await;
        assert_eq!((replay.status, replay.error.as_deref()), (JobStatus::Failed, Some("no")));
        match failed.retry_after {
            Some(pause) => {
                let early = a.jobs().claim(request()).await.unwrap();
                assert!(matches!(early, Claim::InProgress(_)), "ran before its backoff: {early:?}");
                world.clock.advance(pause);
            }
            None => assert_eq!(attempt, 3),
        }
    }
    world.clock.advance(Duration::from_secs(3600));
    assert_eq!(replayed(&a, request()).await.status, JobStatus::Failed);
}

#[tokio::test]
async fn a_final_failure_is_not_repeated_until_an_operator_says_so() {
    let world = World::new(1);
    let a = world.instance().bay;
    let job = claimed(&a, request("k")).await;
    a.jobs().fail(&job.job_id, &job.claim_token, "card stolen", Retry::Never).await.unwrap();
    world.clock.advance(Duration::from_secs(3600));
    assert_eq!(replayed(&a, request("k")).await.error.as_deref(), Some("card stolen"));
    a.jobs().retry(&job.job_id, "try again").await.unwrap();
    assert_eq!(claimed(&a, request("k")).await.attempt, 2);
    assert_eq!(kind(a.jobs().retry(&job.job_id, "try again").await), ErrorKind::Held);
}

#[tokio::test]
async fn cancelling_fences_the_holder_and_answers_duplicates() {
    let world = World::new(1);
    let (a, b) = (world.instance().bay, world.instance().bay);
    let job = claimed(&a, request("k")).await;
    b.jobs().cancel(&job.job_id, "wrong customer").await.unwrap();
    b.jobs().cancel(&job.job_id, "again").await.unwrap();
    let late = a.jobs().complete(&job.job_id, &job.claim_token, Json::null()).await;
    assert_eq!(kind(late), ErrorKind::Fenced);
    let answer = replayed(&b, request("k")).await;
    assert_eq!(answer.status, JobStatus::Cancelled);
    assert_eq!(answer.error.as_deref(), Some("cancelled: wrong customer"));
    assert_eq!(kind(a.jobs().cancel("nothing", "x").await), ErrorKind::NotFound);
    assert_eq!(kind(a.jobs().cancel(&job.job_id, "").await), ErrorKind::Invalid);
}

#[tokio::test]
async fn jobs_are_found_by_status_type_and_business_key() {
    let world = World::new(1);
    let a = world.instance().bay;
    let mut ids = Vec::new();
    for n in 0..25 {
        ids.push(claimed(&a, request(&format!("key-{n}"))).await);
        world.clock.advance(Duration::from_millis(1));
    }
    for job in &ids[..10] {
        a.jobs().complete(&job.job_id, &job.claim_token, Json::null()).await.unwrap();
    }
    let count = async |filter: JobFilter| {
        let (mut next, mut found) = (None, Vec::new());
        loop {
            let page = a.jobs().list(&filter, next, 4).await.unwrap();
            assert!(page.items.len() <= 4);
            found.extend(page.items);
            next = page.next;
            if next.is_none() {
                return found;
            }
        }
    };
    assert_eq!(count(JobFilter::default()).await.len(), 25);
    let status = |status| JobFilter { status: Some(status), ..JobFilter::default() };
    assert_eq!(count(status(JobStatus::Completed)).await.len(), 10);
    let running = count(status(JobStatus::Claimed)).await;
    assert_eq!((running.len(), running[0].job_key.as_str()), (15, "key-10"), "the oldest first");
    let by_key = JobFilter { job_key: Some("key-3".into()), ..JobFilter::default() };
    assert_eq!(count(by_key).await[0].job_id, ids[3].job_id);
    let by_type = JobFilter { job_type: Some("other".into()), ..JobFilter::default() };
    assert!(count(by_type).await.is_empty());
    let foreign = a.jobs().list(&status(JobStatus::Failed), Some("claimed/0".into()), 4).await;
    assert_eq!(kind(foreign), ErrorKind::Invalid);
    world.clock.advance(CLAIM);
    assert!(a.jobs().show(&ids[20].job_id).await.unwrap().lapsed);
}

#[tokio::test]
async fn requests_outside_the_limits_write_nothing() {
    let world = World::new(1);
    let a = world.instance().bay;
    let long = "x".repeat(600);
    let big = json(&format!("{:?}", "x".repeat(2_000_000)));
    let bad = [
        ClaimRequest::new("", "k", Json::null()),
        ClaimRequest::new("t", "", Json::null()),
        ClaimRequest::new("t", "k\n", Json::null()),
        ClaimRequest::new("t", long, Json::null()),
        ClaimRequest::new("t", "k", big),
        ClaimRequest::new("t", "k", json(r#"{"a":1,"a":2}"#)),
        ClaimRequest { claim_ttl: Some(Duration::ZERO), ..request("k") },
        ClaimRequest { claim_ttl: Some(Duration::from_secs(1 << 40)), ..request("k") },
        ClaimRequest { max_retries: Some(u32::MAX), ..request("k") },
        ClaimRequest { holder: Some(String::new()), ..request("k") },
    ];
    for request in bad {
        let context = format!("{:.200}", format!("{request:?}"));
        assert_eq!(kind(a.jobs().claim(request).await), ErrorKind::Invalid, "{context}");
    }
    assert!(a.jobs().list(&JobFilter::default(), None, 10).await.unwrap().items.is_empty());
}

/// An instance that renews and elects.
fn started(world: &World) -> Instance {
    let instance = world.instance();
    instance.bay.start();
    instance
}

#[tokio::test]
async fn a_job_that_outlasts_its_claim_is_kept_by_heartbeats() {
    let world = World::new(1);
    let (a, b) = (started(&world), world.instance());
    let (bay, clock) = (a.bay.clone(), world.clock.clone());
    let run = tokio::spawn(async move {
        bay.run_job(request("k"), Placement::Anywhere, RunOptions::default(), |job| {
            let clock = clock.clone();
            async move {
                clock.sleep(CLAIM * 5).await;
                assert!(!job.cancelled.is_cancelled());
                Ok(json("1"))
            }
        })
        .await
    });
    for _ in 0..5 {
        world.pass(CLAIM - Duration::from_millis(100)).await;
        let duplicate = b.bay.jobs().claim(request("k")).await.unwrap();
        assert!(matches!(duplicate, Claim::InProgress(_)), "ran twice: {duplicate:?}");
    }
    world.pass(Duration::from_secs(1)).await;
    assert_eq!(run.await.unwrap().unwrap(), JobOutcome::Completed(json("1")));
}

#[tokio::test]
async fn the_handler_is_told_before_its_claim_can_lapse() {
    let world = World::new(1);
    let (a, b) = (started(&world), world.instance());
    let (bay, clock) = (a.bay.clone(), world.clock.clone());
    let (told, mut is_told) = tokio::sync::mpsc::channel(1);
    let run = tokio::spawn(async move {
        bay.run_job(request("k"), Placement::Anywhere, RunOptions::default(), move |job| {
            let (told, clock) = (told.clone(), clock.clone());
            // A watcher of its own, as the handler itself is dropped when the claim is lost.
            tokio::spawn(async move {
                job.cancelled.cancelled().await;
                told.send(clock.now()).await.unwrap();
            });
            std::future::pending::<Result<Json, JobFailure>>()
        })
        .await
    });
    world.settle().await;
    let lapse = world.clock.now() + CLAIM;
    a.store.set(Faults { refused: 1_000, ..Faults::default() });
    world.pass(CLAIM - Duration::from_millis(50)).await;
    let told_at = is_told.try_recv().expect("the handler was not told");
    assert!(told_at < lapse);
    assert!(matches!(b.bay.jobs().claim(request("k")).await.unwrap(), Claim::InProgress(_)));
    assert_eq!(kind(run.await.unwrap()), ErrorKind::Fenced);
    world.pass(Duration::from_millis(50)).await;
    assert!(matches!(b.bay.jobs().claim(request("k")).await.unwrap(), Claim::Claimed(_)));
}

#[tokio::test]
async fn a_panic_and_a_timeout_are_attempts_that_failed() {
    let world = World::new(1);
    let a = started(&world);
    let runs = Arc::new(AtomicU32::new(0));
    let (bay, counter) = (a.bay.clone(), Arc::clone(&runs));
    let run = tokio::spawn(async move {
        let options = RunOptions { timeout: Some(Duration::from_secs(2)) };
        bay.run_job(request("k"), Placement::Anywhere, options, move |job| {
            let counter = Arc::clone(&counter);
            async move {
                assert_eq!(counter.fetch_add(1, Ordering::SeqCst) + 1, job.attempt);
                match job.attempt {
                    1 => panic!("boom"),
                    2 => std::future::pending().await,
                    _ => Ok(json("3")),
                }
            }
        })
        .await
    });
    world.pass(Duration::from_secs(10)).await;
    assert_eq!(run.await.unwrap().unwrap(), JobOutcome::Completed(json("3")));
    assert_eq!(runs.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_leaders_job_is_refused_elsewhere_and_fenced_when_leadership_moves() {
    let world = World::new(1);
    let a = started(&world);
    world.pass(Duration::from_secs(1)).await;
    let b = started(&world);
    world.pass(Duration::from_millis(100)).await;
    assert!(a.bay.is_leader() && !b.bay.is_leader());
    let refused = b.bay.claim(request("k"), Placement::LeaderOnly).await;
    assert_eq!(kind(refused), ErrorKind::Held);
    let claim = a.bay.claim(request("k"), Placement::LeaderOnly).await.unwrap();
    let Claim::Claimed(job) = claim else { panic!("{claim:?}") };
    a.bay.leadership().resign().await.unwrap();
    world.pass(Duration::from_millis(100)).await;
    assert!(b.bay.is_leader());
    let late = a.bay.jobs().heartbeat(&job.job_id, &job.claim_token).await;
    assert_eq!(kind(late), ErrorKind::Fenced, "kept alive for one who leads no longer");
    let late = a.bay.jobs().complete(&job.job_id, &job.claim_token, Json::null()).await;
    assert_eq!(kind(late), ErrorKind::Fenced);
    assert_eq!(b.bay.jobs().show(&job.job_id).await.unwrap().status, JobStatus::Claimed);
}

#[tokio::test]
async fn shutdown_lets_a_job_finish_and_releases_one_that_does_not() {
    for (work, finishes) in [(1, true), (1_000, false)] {
        let world = World::new(1);
        let (a, b) = (started(&world), world.instance());
        let (bay, clock) = (a.bay.clone(), world.clock.clone());
        let run = tokio::spawn(async move {
            bay.run_job(request("k"), Placement::Anywhere, RunOptions::default(), move |_| {
                let clock = clock.clone();
                async move {
                    clock.sleep(Duration::from_secs(work)).await;
                    Ok(json("1"))
                }
            })
            .await
        });
        world.settle().await;
        let bay = a.bay.clone();
        let shutdown = tokio::spawn(async move { bay.shutdown().await });
        world.pass(Duration::from_secs(5)).await;
        shutdown.await.unwrap();
        assert_eq!(run.await.unwrap().is_ok(), finishes);
        // Either way nobody waits for a lapse.
        let claim = b.bay.jobs().claim(request("k")).await.unwrap();
        assert_eq!(matches!(claim, Claim::Replayed(_)), finishes, "{claim:?}");
        assert_eq!(matches!(claim, Claim::Claimed(_)), !finishes, "{claim:?}");
    }
}

/// Random claims, completions and failures by several instances over a store that refuses and
/// loses replies: whoever was told that it has the claim is the only one, every acknowledged
/// outcome is the one that is replayed, and no job is left that nobody can claim.
#[tokio::test]
async fn lost_replies_never_run_a_job_twice_at_once_or_change_its_outcome() {
    for seed in [1, 2, 3, 4, lockbay::clock::Clock::system().random()] {
        let world = World::new(seed);
        let instances: Vec<Instance> = (0..3).map(|_| world.instance()).collect();
        let faults = Faults { refused: 100, reply_lost: 150, request_lost: 100 };
        instances.iter().for_each(|instance| instance.store.set(faults));
        for n in 0..60 {
            one_job_under_faults(&world, &instances, &format!("k{n}"), seed).await;
        }
    }
}

async fn one_job_under_faults(world: &World, instances: &[Instance], key: &str, seed: u64) {
    let mut acknowledged = None;
    let mut last = None;
    for round in 0..400 {
        let pick = usize::try_from(world.clock.random() % 3).unwrap();
        let bay = &instances[pick].bay;
        let job = match bay.jobs().claim(request(key)).await {
            Ok(Claim::Claimed(job)) => job,
            Ok(Claim::Replayed(replayed)) => {
                let result = replayed.result.unwrap().text().to_owned();
                if let Some(acknowledged) = &acknowledged {
                    assert_eq!(&result, acknowledged, "seed {seed}, {key}");
                }
                return;
            }
            Ok(Claim::InProgress(progress)) => {
                world.clock.advance(progress.retry_after);
                continue;
            }
            Err(_) => continue,
        };
        assert!(last < Some(job.fencing_token), "seed {seed}, {key}: a token went back");
        last = Some(job.fencing_token);
        let result = format!("{round}");
        if bay.jobs().complete(&job.job_id, &job.claim_token, json(&result)).await.is_ok() {
            assert_eq!(acknowledged, None, "seed {seed}, {key}: completed twice");
            acknowledged = Some(result);
        }
    }
    panic!("seed {seed}, {key}: never ended");
}
