//! What a schedule does in each situation, under a clock that the test steps.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod support {
    pub mod stepped;
}

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lockbay::event::Event;
use lockbay::job::{
    ClaimRequest, Identity, JobFailure, JobFilter, JobStatus, JobSuccess, RunOptions,
};
use lockbay::metrics::Metric;
use lockbay::saga::{Route, StepError, TaskEffect, TaskFailure, TaskPoll, read_only};
use lockbay::schedule::{
    MAX_OPEN, MAX_TICKS_AT_ONCE, Misfire, Overlap, Putting, Resume, ScheduleFilter,
    ScheduleRequest, Standing, Tick, TickOutcome, TickPlace,
};
use lockbay::store::faulty::{Cut, Faults};
use lockbay::store::{Commit, Deadline, Effects, Guard, Key, Kind, Partition, Store, Write};
use lockbay::{Config, ErrorKind, Json, LockBay};
use parking_lot::Mutex;
use support::stepped::{Instance, World, seconds};

const SECOND: Duration = Duration::from_secs(1);
const KIND: Kind = Kind::new("test-effect");

/// What handlers of a test saw, in order: due time in seconds from the beginning, and attempt.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<Tick>>>);

impl Seen {
    fn note(&self, tick: &Tick) {
        self.0.lock().push(tick.clone());
    }

    fn times(&self, world: &World) -> Vec<u64> {
        let now = world.clock.now();
        let begin = now - Duration::from_nanos(world.clock.tick().as_nanos());
        let since = |tick: &Tick| tick.scheduled_time.since(begin).as_secs();
        self.0.lock().iter().map(since).collect()
    }

    fn len(&self) -> usize {
        self.0.lock().len()
    }
}

fn instance(world: &World) -> Instance {
    world.instance_with(Config { leader_ttl: seconds(2), ..Config::default() })
}

/// Registers a handler that notes its ticks and takes so long.
fn takes(bay: &LockBay, seen: &Seen, time: Duration) {
    let (seen, clock) = (seen.clone(), bay.clock().clone());
    let handler = move |tick: Tick| {
        let (seen, clock) = (seen.clone(), clock.clone());
        async move {
            seen.note(&tick);
            clock.sleep(time).await;
            Ok::<_, JobFailure>(Json::null())
        }
    };
    bay.schedules().register("work", handler).unwrap();
}

fn every_second() -> ScheduleRequest {
    ScheduleRequest::new("s", "tick", "every 1s", "work")
}

/// One instance that leads, with the schedule.
async fn leading(world: &World, request: &ScheduleRequest, time: Duration) -> (Instance, Seen) {
    let (one, seen) = (instance(world), Seen::default());
    takes(&one.bay, &seen, time);
    one.bay.start();
    one.bay.schedules().put(request).await.unwrap();
    (one, seen)
}

#[tokio::test]
async fn a_schedule_ticks_when_it_is_due_and_says_so() {
    let world = World::new(1);
    let (one, seen) = leading(&world, &every_second(), Duration::ZERO).await;
    world.pass(SECOND * 3 + Duration::from_millis(200)).await;
    assert_eq!(seen.times(&world), [1, 2, 3]);
    let info = one.bay.schedules().show("s").await.unwrap();
    assert_eq!((info.counts.begun, info.counts.completed), (3, 3));
    assert_eq!(info.last_run.unwrap().outcome, TickOutcome::Completed);
    assert!(info.in_progress.is_empty() && info.next_due > Some(world.clock.now()));
    assert_eq!(one.bay.metrics().value(Metric::TicksCompleted), 3);
    let upcoming = one.bay.schedules().upcoming("s", 3).await.unwrap().due;
    assert_eq!(upcoming[0], info.next_due.unwrap());
    assert_eq!(upcoming[2].since(upcoming[1]), SECOND);
    let tick = seen.0.lock()[0].clone();
    let jobs = one.bay.jobs().show(&tick.job_id).await.unwrap();
    assert_eq!(jobs.job_key, "s@2026-01-01T00:00:01Z");
    assert_eq!(jobs.scheduled_time, Some(tick.scheduled_time));
    assert!(jobs.leader_only);
}

/// PAINS 25: a cron tick is lost at handover. The leader dies with a tick in its hands, and while
/// nobody leads others are due.
#[tokio::test]
async fn pain_25_no_tick_is_lost_or_run_twice_when_the_leader_dies() {
    let world = World::new(25);
    let request = every_second();
    let (one, first) = leading(&world, &request, SECOND * 3_600).await;
    world.pass(SECOND + Duration::from_millis(100)).await;
    assert_eq!(first.times(&world), [1], "the first leader is in the middle of it");
    let (two, second) = (instance(&world), Seen::default());
    takes(&two.bay, &second, Duration::ZERO);
    two.bay.start();
    one.store.die();
    world.pass(SECOND * 6).await;
    let times = second.times(&world);
    assert_eq!(times, (1..=times.len() as u64).collect::<Vec<_>>(), "each once, in order");
    assert!(times.len() >= 6, "{times:?}");
    let (died, again) = (first.0.lock()[0].clone(), second.0.lock()[0].clone());
    assert_eq!(died.idempotency_token, again.idempotency_token);
    assert!(died.fencing_token < again.fencing_token && died.attempt < again.attempt);
    assert!(died.cancelled.is_cancelled(), "the old leader's handler is told");
}

#[tokio::test]
async fn a_deposed_leaders_tick_is_fenced_and_runs_once_elsewhere() {
    let world = World::new(2);
    let (one, seen) = (instance(&world), Seen::default());
    let count = |bay: &LockBay, seen: &Seen, time: Duration| {
        let (seen, clock, store) = (seen.clone(), bay.clock().clone(), Arc::clone(bay.store()));
        let handler = move |tick: Tick| {
            let (seen, clock, store) = (seen.clone(), clock.clone(), Arc::clone(&store));
            async move {
                seen.note(&tick);
                clock.sleep(time).await;
                let key = Key::new(Partition::FIRST, KIND, "count");
                let record = store.get(std::slice::from_ref(&key)).await?.records.remove(0);
                let (guard, count) = match record {
                    Some(found) => {
                        (Guard::RevisionIs(key.clone(), found.revision), found.value.len())
                    }
                    None => (Guard::Absent(key.clone()), 0),
                };
                let put =
                    Write::Put { key, value: vec![b'x'; count + 1], deadline: Deadline::Never };
                let effects = Effects { guards: vec![guard], writes: vec![put] };
                Ok::<_, JobFailure>(JobSuccess { result: Json::null(), effects })
            }
        };
        bay.schedules().register("work", handler).unwrap();
    };
    count(&one.bay, &seen, SECOND);
    one.bay.start();
    let mut request = every_second();
    request.schedule_expression = "@hourly".into();
    one.bay.schedules().put(&request).await.unwrap();
    let two = instance(&world);
    count(&two.bay, &seen, SECOND);
    two.bay.start();
    world.pass(SECOND).await;
    one.bay.schedules().run_now("s", Some("first")).await.unwrap();
    world.pass(Duration::from_millis(200)).await;
    assert_eq!(seen.len(), 1, "it runs on the leader");
    // Its store freezes past its lease; the handler goes on all the same.
    one.store.set_delay(SECOND * 5);
    world.pass(SECOND * 8).await;
    assert!(two.bay.is_leader());
    assert_eq!(seen.len(), 2, "once elsewhere");
    let key = Key::new(Partition::FIRST, KIND, "count");
    let read = two.store.get(&[key]).await.unwrap();
    assert_eq!(read.records[0].as_ref().unwrap().value, b"x", "and its effect happened once");
}

#[tokio::test]
async fn ticks_that_overlap_wait_are_skipped_or_run_beside_each_other() {
    for (overlap, expected, skipped) in [
        (Overlap::Queue, vec![1, 2], 0),
        (Overlap::Skip, vec![1, 4], 4),
        (Overlap::Allow, vec![1, 2, 3, 4, 5, 6], 0),
    ] {
        let world = World::new(3);
        let mut request = every_second();
        request.overlap = overlap;
        let (one, seen) = leading(&world, &request, Duration::from_millis(2_900)).await;
        world.pass(SECOND * 6 + Duration::from_millis(300)).await;
        let times = seen.times(&world);
        match overlap {
            // The second begins when the first has ended; the others wait.
            Overlap::Queue => assert_eq!(times[..2], expected[..], "{times:?}"),
            Overlap::Skip | Overlap::Allow => assert_eq!(times, expected, "{overlap:?}"),
        }
        let info = one.bay.schedules().show("s").await.unwrap();
        assert_eq!(info.counts.skipped, skipped, "{overlap:?}");
        assert_eq!(one.bay.metrics().value(Metric::TicksSkipped), skipped as i64);
    }
}

#[tokio::test]
async fn what_was_missed_runs_as_the_misfire_policy_says() {
    for (misfire, expected, misfired) in [
        (Misfire::RunOnce, vec![100, 110, 120], 9),
        (Misfire::RunAll, vec![10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120], 0),
        (Misfire::Skip, vec![110, 120], 10),
    ] {
        let world = World::new(4);
        let mut request = every_second();
        request.schedule_expression = "every 10s".into();
        (request.misfire, request.misfire_grace) = (misfire, SECOND * 15);
        let (one, _) = leading(&world, &request, Duration::ZERO).await;
        // The only instance dies at once, and nothing is there for two minutes.
        one.store.die();
        world.pass_by(SECOND, SECOND * 121).await;
        let (two, seen) = (instance(&world), Seen::default());
        takes(&two.bay, &seen, Duration::ZERO);
        let mut events = two.bay.subscribe();
        two.bay.start();
        world.pass(SECOND).await;
        let times = seen.times(&world);
        assert_eq!(times, expected, "{misfire:?}");
        let info = two.bay.schedules().show("s").await.unwrap();
        assert_eq!(info.counts.misfired, misfired, "{misfire:?}");
        let mut told = 0;
        while let Ok(event) = events.try_recv() {
            if let Event::ScheduleMisfired { count, .. } = event.event {
                told += count;
            }
        }
        assert_eq!(told, misfired, "{misfire:?}");
    }
}

#[tokio::test]
async fn a_paused_schedule_begins_nothing_and_resumes_from_now_or_catches_up() {
    let world = World::new(5);
    let (one, seen) = leading(&world, &every_second(), Duration::ZERO).await;
    let schedules = one.bay.schedules();
    world.pass(SECOND * 2 + Duration::from_millis(200)).await;
    assert_eq!(schedules.pause("s").await.unwrap().status, Standing::Paused);
    assert_eq!(schedules.pause("s").await.unwrap().status, Standing::Paused, "said twice");
    world.pass(SECOND * 3).await;
    assert_eq!(seen.times(&world), [1, 2]);
    schedules.resume("s", Resume::FromNow).await.unwrap();
    world.pass(SECOND).await;
    assert_eq!(seen.times(&world), [1, 2, 6], "what was due meanwhile is passed over");
    schedules.pause("s").await.unwrap();
    world.pass(SECOND * 2).await;
    schedules.resume("s", Resume::CatchUp).await.unwrap();
    world.pass(SECOND).await;
    assert_eq!(seen.times(&world), [1, 2, 6, 7, 8, 9], "what was due meanwhile is only late");
}

#[tokio::test]
async fn a_tick_asked_for_at_a_follower_runs_once_on_the_leader_within_a_second() {
    let world = World::new(6);
    let mut request = every_second();
    (request.schedule_expression, request.jitter) = ("@yearly".into(), SECOND * 3_600);
    let (one, seen) = leading(&world, &request, Duration::ZERO).await;
    let (two, other) = (instance(&world), Seen::default());
    takes(&two.bay, &other, Duration::ZERO);
    two.bay.start();
    world.pass(SECOND).await;
    assert!(one.bay.is_leader());
    one.bay.schedules().pause("s").await.unwrap();
    let asked = two.bay.schedules().run_now("s", Some("by hand")).await.unwrap();
    let same = two.bay.schedules().run_now("s", Some("by hand")).await.unwrap();
    assert!(!asked.replayed && same.replayed && asked.job_key == "s@now:by hand");
    world.pass(SECOND).await;
    assert_eq!((seen.len(), other.len()), (1, 0));
    let later = two.bay.schedules().run_now("s", Some("by hand")).await.unwrap();
    world.pass(SECOND).await;
    assert!(later.replayed && seen.len() == 1, "asked again after it has ended, it is the same");
    two.bay.schedules().run_now("s", None).await.unwrap();
    two.bay.schedules().run_now("s", None).await.unwrap();
    world.pass(SECOND).await;
    assert_eq!(seen.len(), 3, "without a name, each is another");
    let missing = two.bay.schedules().run_now("none", None).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_schedule_that_is_deleted_while_a_tick_runs_ends_it_and_begins_no_other() {
    let world = World::new(7);
    let (one, seen) = leading(&world, &every_second(), SECOND * 3).await;
    let schedules = one.bay.schedules();
    world.pass(SECOND + Duration::from_millis(200)).await;
    schedules.delete("s").await.unwrap();
    schedules.delete("s").await.unwrap();
    assert_eq!(schedules.show("s").await.unwrap().status, Standing::Ending);
    assert_eq!(schedules.pause("s").await.unwrap_err().kind(), ErrorKind::NotFound);
    world.pass(SECOND * 5).await;
    assert_eq!(schedules.show("s").await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(schedules.delete("s").await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(seen.times(&world), [1]);
    let job = seen.0.lock()[0].job_id.clone();
    assert_eq!(one.bay.jobs().show(&job).await.unwrap().status, JobStatus::Completed);
}

#[tokio::test]
async fn a_handler_that_nobody_knows_for_a_minute_is_a_failed_attempt_that_shows() {
    let world = World::new(8);
    let mut request = every_second();
    (request.schedule_expression, request.handler) = ("every 120s".into(), "nobody".into());
    request.max_retries = Some(1);
    let (one, _) = leading(&world, &request, Duration::ZERO).await;
    world.pass_by(Duration::from_millis(100), SECOND * 120 + SECOND / 2).await;
    let in_progress = || async { one.bay.schedules().show("s").await.unwrap().in_progress };
    let waits = in_progress().await[0].clone();
    assert_eq!(waits.attempt, None, "nothing is attempted yet");
    assert_eq!(waits.error.unwrap(), "waits until somebody is known to handle \"nobody\"");
    world.pass_by(Duration::from_millis(100), SECOND * 60).await;
    let error = in_progress().await[0].error.clone().unwrap();
    assert!(error.contains("nobody") && error.contains("register"), "{error}");
    world.pass_by(Duration::from_millis(100), SECOND * 10).await;
    let info = one.bay.schedules().show("s").await.unwrap();
    let last = info.last_run.unwrap();
    assert_eq!((last.outcome, info.counts.failed), (TickOutcome::Failed, 1));
    assert!(last.error.unwrap().contains("nobody"));
    assert_eq!(one.bay.metrics().value(Metric::TicksFailed), 1);
}

/// An instance that was just started, or still runs an older version, leads before it knows who
/// handles its ticks.
#[tokio::test]
async fn a_tick_waits_for_its_handler_and_no_attempt_is_spent_on_that() {
    let world = World::new(26);
    let one = instance(&world);
    one.bay.start();
    one.bay.schedules().put(&every_second()).await.unwrap();
    world.pass(SECOND * 40).await;
    let info = one.bay.schedules().show("s").await.unwrap();
    assert_eq!((info.counts.begun, info.counts.failed, info.in_progress.len()), (1, 0, 1));
    let seen = Seen::default();
    takes(&one.bay, &seen, Duration::ZERO);
    world.pass(SECOND * 2 + SECOND / 5).await;
    let times = seen.times(&world);
    assert_eq!(times, (1..=times.len() as u64).collect::<Vec<_>>(), "each once, in order");
    assert!(times.len() >= 41, "{times:?}");
    assert!(seen.0.lock().iter().all(|tick| tick.attempt == 1));
    let info = one.bay.schedules().show("s").await.unwrap();
    assert_eq!((info.counts.failed, info.counts.misfired, info.in_progress.len()), (0, 0, 0));
}

#[tokio::test]
async fn a_tick_that_waits_for_its_handler_is_let_go_by_a_pause_and_by_a_deletion() {
    let world = World::new(27);
    let one = instance(&world);
    let schedules = one.bay.schedules();
    one.bay.start();
    schedules.put(&every_second()).await.unwrap();
    world.pass(SECOND * 3).await;
    schedules.pause("s").await.unwrap();
    world.pass(SECOND * 2).await;
    let info = schedules.show("s").await.unwrap();
    assert_eq!((info.counts.skipped, info.in_progress.len()), (1, 0));
    schedules.run_now("s", None).await.unwrap();
    world.pass(SECOND * 2).await;
    let asked = schedules.show("s").await.unwrap().in_progress;
    assert!(asked[0].error.as_ref().unwrap().starts_with("waits"), "{asked:?}");
    schedules.delete("s").await.unwrap();
    world.pass(SECOND * 2).await;
    assert_eq!(schedules.show("s").await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_tick_waits_for_its_own_handler_whatever_the_other_ticks_of_its_schedule_have() {
    let world = World::new(29);
    let (one, seen) = (instance(&world), Seen::default());
    takes(&one.bay, &seen, Duration::ZERO);
    one.bay.start();
    let schedules = one.bay.schedules();
    let with = |handler: &str| ScheduleRequest {
        handler: handler.into(),
        overlap: Overlap::Allow,
        max_retries: Some(0),
        ..every_second()
    };
    schedules.put(&with("gone")).await.unwrap();
    world.pass(SECOND * 3 + SECOND / 5).await;
    schedules.put(&with("work")).await.unwrap();
    world.pass(SECOND * 50).await;
    let info = schedules.show("s").await.unwrap();
    assert_eq!((seen.len(), info.counts.failed, info.in_progress.len()), (50, 0, 3));
    schedules.put(&with("late")).await.unwrap();
    world.pass(SECOND * 15).await;
    let info = schedules.show("s").await.unwrap();
    assert_eq!(info.counts.failed, 3, "those of `gone`, after their minute");
    assert!(info.in_progress.len() >= 14, "{info:?}");
}

#[tokio::test]
async fn every_tick_has_its_own_minute_to_wait_for_its_handler() {
    let world = World::new(31);
    let (one, seen) = (instance(&world), Seen::default());
    one.bay.start();
    let schedules = one.bay.schedules();
    let mut request = every_second();
    (request.schedule_expression, request.max_retries) = ("every 120s".into(), Some(0));
    schedules.put(&request).await.unwrap();
    world.pass(SECOND * 185).await;
    assert_eq!(schedules.show("s").await.unwrap().counts.failed, 1, "after its minute");
    world.pass(SECOND * 85).await;
    let info = schedules.show("s").await.unwrap();
    assert_eq!((info.counts.failed, info.in_progress.len()), (1, 1), "the second waits as well");
    schedules.pause("s").await.unwrap();
    world.pass(SECOND * 600).await;
    schedules.resume("s", Resume::FromNow).await.unwrap();
    world.pass(SECOND * 130).await;
    let info = schedules.show("s").await.unwrap();
    assert_eq!((info.counts.failed, info.in_progress.len()), (1, 1), "and one after a pause");
    takes(&one.bay, &seen, Duration::ZERO);
    world.pass(SECOND * 2).await;
    assert_eq!((seen.len(), schedules.show("s").await.unwrap().counts.completed), (1, 1));
}

#[tokio::test]
async fn a_tick_whose_job_has_ended_waits_for_no_handler() {
    let world = World::new(30);
    let one = instance(&world);
    let mut request = every_second();
    request.schedule_expression = "every 60s".into();
    one.bay.schedules().put(&request).await.unwrap();
    let mut job = ClaimRequest::new("tick", "s@2026-01-01T00:01:00Z", request.parameters);
    job.identity = Identity::Key;
    let done = |_| async { Ok::<_, JobFailure>(Json::null()) };
    one.bay.jobs().run(job, RunOptions::default(), done).await.unwrap();
    one.bay.start();
    world.pass(SECOND * 63).await;
    let info = one.bay.schedules().show("s").await.unwrap();
    assert_eq!((info.counts.completed, info.in_progress.len()), (1, 0), "{info:?}");
}

/// Where what is late is skipped, a tick waits for its handler no longer than it may be late.
#[tokio::test]
async fn a_tick_waits_for_its_handler_no_longer_than_the_grace_of_what_is_skipped() {
    let world = World::new(28);
    let one = instance(&world);
    let mut request = every_second();
    (request.misfire, request.misfire_grace) = (Misfire::Skip, SECOND * 5);
    request.max_retries = Some(0);
    one.bay.start();
    one.bay.schedules().put(&request).await.unwrap();
    world.pass(SECOND * 5).await;
    assert_eq!(one.bay.schedules().show("s").await.unwrap().counts.failed, 0);
    world.pass(SECOND * 3).await;
    let info = one.bay.schedules().show("s").await.unwrap();
    assert!(info.counts.failed > 0, "{info:?}");
    assert!(info.last_run.unwrap().error.unwrap().contains("nobody is known"));
}

#[tokio::test]
async fn the_same_definition_changes_nothing_and_another_expression_is_due_by_itself() {
    let world = World::new(9);
    let (one, seen) = leading(&world, &every_second(), Duration::ZERO).await;
    let schedules = one.bay.schedules();
    let put = |request: ScheduleRequest| async move { schedules.put(&request).await.unwrap() };
    assert_eq!(put(every_second()).await.putting, Putting::Unchanged);
    let mut other = every_second();
    other.schedule_expression = "every 5s".into();
    let replaced = put(other.clone()).await;
    assert_eq!(replaced.putting, Putting::Replaced);
    assert_eq!(replaced.schedule.next_due.unwrap().as_micros() % 5_000_000, 0);
    world.pass(SECOND * 6).await;
    assert_eq!(seen.times(&world), [5]);
    other.parameters = Json::parse("{\"a\":9007199254740993}").unwrap();
    let again = put(other).await;
    assert_eq!(again.schedule.next_due, schedules.show("s").await.unwrap().next_due);
    world.pass(SECOND * 5).await;
    assert_eq!(seen.0.lock()[1].parameters.text(), "{\"a\":9007199254740993}");
}

#[tokio::test]
async fn a_tick_that_was_begun_goes_on_as_it_was_although_its_schedule_is_replaced() {
    let world = World::new(10);
    let mut request = every_second();
    request.schedule_expression = "every 10s".into();
    request.parameters = Json::parse("1").unwrap();
    let (one, first) = leading(&world, &request, SECOND * 3_600).await;
    world.pass(SECOND * 10 + Duration::from_millis(100)).await;
    request.parameters = Json::parse("2").unwrap();
    request.job_type = "other".into();
    one.bay.schedules().put(&request).await.unwrap();
    one.store.die();
    let (two, second) = (instance(&world), Seen::default());
    takes(&two.bay, &second, Duration::ZERO);
    two.bay.start();
    world.pass(SECOND * 12).await;
    let seen = |seen: &Seen| {
        let ticks = seen.0.lock();
        let text = |tick: &Tick| (tick.job_type.clone(), tick.parameters.text().to_owned());
        ticks.iter().map(text).collect::<Vec<_>>()
    };
    assert_eq!(seen(&first), [("tick".into(), "1".into())]);
    assert_eq!(seen(&second), [("tick".into(), "1".into()), ("other".into(), "2".into())]);
}

#[tokio::test]
async fn a_tick_that_runs_where_it_was_begun_ends_there_although_another_leads() {
    let world = World::new(11);
    let mut request = every_second();
    (request.schedule_expression, request.place) = ("every 60s".into(), TickPlace::WhereBegun);
    let (one, seen) = leading(&world, &request, SECOND * 5).await;
    world.pass_by(Duration::from_millis(50), SECOND * 60 + SECOND / 2).await;
    let (two, other) = (instance(&world), Seen::default());
    takes(&two.bay, &other, SECOND * 5);
    two.bay.start();
    world.pass(SECOND / 5).await;
    one.bay.leadership().resign().await.unwrap();
    world.pass(SECOND * 8).await;
    assert!(two.bay.is_leader());
    assert_eq!((seen.len(), other.len()), (1, 0));
    let info = two.bay.schedules().show("s").await.unwrap();
    assert_eq!((info.counts.completed, info.in_progress.len()), (1, 0), "the new leader saw it");
}

#[tokio::test]
async fn a_handler_that_stops_when_it_is_told_leaves_no_claim_for_the_next_leader_to_wait_for() {
    let world = World::new(18);
    let mut request = every_second();
    request.schedule_expression = "every 10s".into();
    let (one, two, seen) = (instance(&world), instance(&world), Seen::default());
    for bay in [&one.bay, &two.bay] {
        let seen = seen.clone();
        let handler = move |tick: Tick| {
            let seen = seen.clone();
            async move {
                seen.note(&tick);
                match seen.len() {
                    1 => tick.cancelled.cancelled().await,
                    _ => return Ok::<_, JobFailure>(Json::null()),
                }
                Err(JobFailure::retryable("told to stop"))
            }
        };
        bay.schedules().register("work", handler).unwrap();
    }
    one.bay.start();
    one.bay.schedules().put(&request).await.unwrap();
    world.pass(SECOND * 10 + SECOND / 10).await;
    two.bay.start();
    world.pass(SECOND / 10).await;
    one.bay.leadership().resign().await.unwrap();
    world.pass(SECOND / 5).await;
    assert!(two.bay.is_leader());
    assert_eq!(seen.len(), 2, "the next leader has run it at once");
    let info = two.bay.schedules().show("s").await.unwrap();
    assert_eq!((info.counts.completed, info.in_progress.len()), (1, 0));
}

#[tokio::test]
async fn shutdown_lets_a_tick_finish_before_leadership_is_given_up() {
    let world = World::new(12);
    let (one, seen) = leading(&world, &every_second(), SECOND).await;
    world.pass(SECOND + Duration::from_millis(100)).await;
    let bay = one.bay.clone();
    let ended = tokio::spawn(async move { bay.shutdown().await });
    world.pass(SECOND * 3).await;
    ended.await.unwrap();
    assert_eq!(seen.times(&world), [1], "no other was begun");
    let two = instance(&world);
    let info = two.bay.schedules().show("s").await.unwrap();
    assert_eq!((info.counts.completed, info.in_progress.len()), (1, 0));
}

#[tokio::test]
async fn a_step_of_sagas_does_ticks_with_the_key_of_their_job() {
    let world = World::new(13);
    let mut request = every_second();
    (request.handler, request.max_retries) = ("step".into(), Some(3));
    let one = instance(&world);
    let (seen, calls) = (Arc::new(Mutex::new(Vec::new())), AtomicUsize::new(0));
    let noted = Arc::clone(&seen);
    let step = read_only(move |context: lockbay::saga::StepContext| {
        let call = calls.fetch_add(1, Ordering::Relaxed);
        noted.lock().push(context);
        async move {
            match call {
                0 => Err(StepError::unknown("no answer")),
                _ => Ok(Json::parse("1.50").unwrap().into()),
            }
        }
    });
    one.bay.sagas().register("step", step).unwrap();
    one.bay.start();
    request.schedule_expression = "every 30s".into();
    one.bay.schedules().put(&request).await.unwrap();
    world.pass_by(Duration::from_millis(50), SECOND * 35).await;
    let seen = seen.lock().clone();
    assert_eq!(seen.len(), 2, "an unknown outcome is asked for again");
    assert_eq!(seen[0].idempotency_key, seen[1].idempotency_key);
    assert_eq!((seen[0].attempt, seen[1].attempt), (1, 2));
    assert_eq!((seen[0].step.as_str(), seen[0].saga_name()), ("tick", "s"));
    assert!(seen[0].scheduled_time.is_some());
    let job = one.bay.jobs().show(&seen[0].saga_id).await.unwrap();
    assert_eq!(job.result.unwrap().text(), "1.50");
}

#[tokio::test]
async fn a_worker_that_polls_is_asked_again_after_it_failed_and_its_result_is_the_ticks() {
    let world = World::new(16);
    let mut request = every_second();
    (request.handler, request.schedule_expression) = ("poller".into(), "every 30s".into());
    let one = instance(&world);
    one.bay.sagas().put_handler("poller", &Route::Pull).await.unwrap();
    one.bay.start();
    one.bay.schedules().put(&request).await.unwrap();
    world.pass_by(Duration::from_millis(50), SECOND * 31).await;
    let wish = TaskPoll::new(vec!["poller".into()], "worker");
    let first = one.bay.poll(&wish).await.unwrap().remove(0);
    let failure = TaskFailure { error: "locked".into(), effect: TaskEffect::None, retryable: true };
    one.bay.tasks().fail(&first.task_id, &first.task_token, failure).await.unwrap();
    world.pass_by(Duration::from_millis(50), SECOND * 3).await;
    let second = one.bay.poll(&wish).await.unwrap().remove(0);
    assert_eq!((first.attempt, second.attempt), (1, 2));
    assert_eq!(first.idempotency_key, second.idempotency_key);
    assert!(second.scheduled_time.is_some() && second.scheduled_time == first.scheduled_time);
    assert_eq!((second.saga_name.as_str(), second.step.as_str()), ("s", "tick"));
    let result = Json::parse("{\"rows\":7}").unwrap();
    one.bay.tasks().complete(&second.task_id, &second.task_token, result).await.unwrap();
    world.pass_by(Duration::from_millis(50), SECOND).await;
    let info = one.bay.schedules().show("s").await.unwrap();
    assert_eq!((info.counts.completed, info.in_progress.len()), (1, 0));
    let job = one.bay.jobs().show(&second.saga_id).await.unwrap();
    assert_eq!(job.result.unwrap().text(), "{\"rows\":7}");
    assert!(one.bay.poll(&wish).await.unwrap().is_empty(), "nothing is left over");
}

#[tokio::test]
async fn a_tick_whose_job_is_cancelled_ends_and_the_next_runs() {
    let world = World::new(17);
    let mut request = every_second();
    request.schedule_expression = "every 10s".into();
    let (one, seen) = leading(&world, &request, SECOND * 3_600).await;
    world.pass(SECOND * 10 + SECOND / 5).await;
    let job = seen.0.lock()[0].job_id.clone();
    one.bay.jobs().cancel(&job, "not today").await.unwrap();
    world.pass(SECOND * 11).await;
    assert_eq!(seen.times(&world), [10, 20]);
    let last = one.bay.schedules().show("s").await.unwrap().last_run.unwrap();
    assert_eq!(last.outcome, TickOutcome::Cancelled);
    assert!(last.error.unwrap().contains("not today"));
}

#[tokio::test]
async fn effects_that_come_too_late_are_worked_out_anew_and_happen_once() {
    let world = World::new(14);
    let mut request = every_second();
    request.overlap = Overlap::Allow;
    request.schedule_expression = "every 10s".into();
    let one = instance(&world);
    let (store, asked) = (Arc::clone(one.bay.store()), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&asked);
    let handler = move |_: Tick| {
        let (store, count) = (Arc::clone(&store), Arc::clone(&count));
        async move {
            count.fetch_add(1, Ordering::Relaxed);
            let key = Key::new(Partition::FIRST, KIND, "sum");
            let record = store.get(std::slice::from_ref(&key)).await?.records.remove(0);
            // All of them have read before any of them writes.
            tokio::task::yield_now().await;
            let (guard, value) = match record {
                Some(found) => (Guard::RevisionIs(key.clone(), found.revision), found.value),
                None => (Guard::Absent(key.clone()), Vec::new()),
            };
            let value = [&value[..], b"x"].concat();
            let writes = vec![Write::Put { key, value, deadline: Deadline::Never }];
            let effects = Effects { guards: vec![guard], writes };
            Ok::<_, JobFailure>(JobSuccess { result: Json::null(), effects })
        }
    };
    one.bay.schedules().register("work", handler).unwrap();
    one.bay.start();
    one.bay.schedules().put(&request).await.unwrap();
    world.pass(SECOND).await;
    for _ in 0..5 {
        one.bay.schedules().run_now("s", None).await.unwrap();
    }
    world.pass(SECOND * 3).await;
    let read = one.store.get(&[Key::new(Partition::FIRST, KIND, "sum")]).await.unwrap();
    assert_eq!(read.records[0].as_ref().unwrap().value, b"xxxxx");
    assert!(asked.load(Ordering::Relaxed) > 5, "some were asked anew");
    let jobs = JobFilter { status: Some(JobStatus::Completed), ..JobFilter::default() };
    let jobs = one.bay.jobs().list(&jobs, None, 100).await.unwrap().items;
    assert!(jobs.len() == 5 && jobs.iter().all(|job| job.attempt == 1 && job.failures == 0));
}

#[tokio::test]
async fn what_cannot_be_a_schedule_is_refused_and_nothing_is_written() {
    let world = World::new(15);
    let one = instance(&world);
    let schedules = one.bay.schedules();
    type Change = fn(&mut ScheduleRequest);
    let changes: [(&str, Change); 10] = [
        ("jitter", |request| request.jitter = SECOND),
        ("fields", |request| request.schedule_expression = "* * * *".into()),
        ("never be due", |request| request.schedule_expression = "0 0 30 2 *".into()),
        ("time_zone", |request| request.time_zone = "Mars/Olympus".into()),
        ("@", |request| request.job_id = "a@b".into()),
        ("job_type", |request| request.job_type = String::new()),
        ("handler", |request| request.handler = "x".repeat(129)),
        ("misfire_grace", |request| request.misfire_grace = SECOND * 604_801),
        ("max_retries", |request| request.max_retries = Some(1_001)),
        ("parameters", |request| {
            request.parameters = Json::parse(format!("\"{}\"", "x".repeat(65_536))).unwrap();
        }),
    ];
    for (word, change) in changes {
        let mut request = every_second();
        change(&mut request);
        let error = schedules.put(&request).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{word}");
        assert!(error.message().contains(word), "{word}: {error}");
    }
    let page = schedules.list(&ScheduleFilter::default(), None, 10).await.unwrap();
    assert!(page.items.is_empty() && page.next.is_none());
}

/// Found by review: the expression was kept by the number of its version, which begins anew.
#[tokio::test]
async fn deleted_and_put_again_a_schedule_ticks_as_the_new_one_says() {
    let world = World::new(19);
    let (one, seen) = leading(&world, &every_second(), Duration::ZERO).await;
    world.pass(SECOND * 3 + SECOND / 2).await;
    assert_eq!(seen.times(&world), [1, 2, 3]);
    one.bay.schedules().delete("s").await.unwrap();
    let mut other = every_second();
    other.schedule_expression = "every 10s".into();
    assert_eq!(one.bay.schedules().put(&other).await.unwrap().putting, Putting::Created);
    world.pass(SECOND * 30).await;
    assert_eq!(seen.times(&world), [1, 2, 3, 10, 20, 30]);
}

#[tokio::test]
async fn shutdown_ends_as_soon_as_the_last_tick_has() {
    let world = World::new(20);
    let (one, seen) = (
        world.instance_with(Config {
            leader_ttl: seconds(2),
            shutdown_grace: seconds(20),
            ..Config::default()
        }),
        Seen::default(),
    );
    takes(&one.bay, &seen, SECOND * 3);
    one.bay.start();
    let mut request = every_second();
    request.schedule_expression = "@yearly".into();
    one.bay.schedules().put(&request).await.unwrap();
    world.pass(SECOND).await;
    one.bay.schedules().run_now("s", None).await.unwrap();
    world.pass(SECOND + SECOND / 2).await;
    assert_eq!(seen.len(), 1, "it is in the middle of it");
    let bay = one.bay.clone();
    let ended = tokio::spawn(async move { bay.shutdown().await });
    world.pass(SECOND).await;
    assert!(!ended.is_finished(), "the tick is waited for");
    world.pass(SECOND * 2).await;
    assert!(ended.is_finished(), "and nothing else is");
    let info = instance(&world).bay.schedules().show("s").await.unwrap();
    assert_eq!((info.counts.completed, info.in_progress.len()), (1, 0));
}

#[tokio::test]
async fn a_grace_in_which_no_tick_ever_begins_is_refused_and_the_shortest_runs() {
    let world = World::new(21);
    let mut request = every_second();
    (request.misfire, request.misfire_grace) = (Misfire::Skip, Duration::from_millis(999));
    let error = instance(&world).bay.schedules().put(&request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.message().contains("misfire_grace"), "{error}");
    request.misfire_grace = SECOND;
    let (_one, seen) = leading(&world, &request, Duration::ZERO).await;
    world.pass_by(Duration::from_micros(7_003), SECOND * 20).await;
    assert!(seen.len() > 15, "{:?}", seen.times(&world));
}

#[tokio::test]
async fn a_tick_that_was_perhaps_asked_for_is_not_reported_as_not() {
    let world = World::new(22);
    let (one, two) = (instance(&world), instance(&world));
    two.bay.schedules().put(&every_second()).await.unwrap();
    one.store.die_at(1, Cut::After);
    let error = one.bay.schedules().run_now("s", Some("once")).await.unwrap_err();
    let info = two.bay.schedules().show("s").await.unwrap();
    assert_eq!(info.in_progress.len(), 1, "it was written, and then the store was gone");
    assert_eq!(error.kind(), ErrorKind::Unknown, "{error}");
    one.store.revive();
    assert!(one.bay.schedules().run_now("s", Some("once")).await.unwrap().replayed);
}

#[tokio::test]
async fn a_very_long_error_is_cut_and_the_schedule_goes_on() {
    let world = World::new(23);
    let (one, seen) = (instance(&world), Seen::default());
    let noted = seen.clone();
    let handler = move |tick: Tick| {
        noted.note(&tick);
        let is_first = noted.len() == 1;
        async move {
            match is_first {
                true => Err(JobFailure::permanent("\u{e4}".repeat(5 << 20))),
                false => Ok::<_, JobFailure>(Json::null()),
            }
        }
    };
    one.bay.schedules().register("work", handler).unwrap();
    one.bay.start();
    let mut request = every_second();
    request.schedule_expression = "every 10s".into();
    one.bay.schedules().put(&request).await.unwrap();
    world.pass_by(Duration::from_millis(50), SECOND * 11).await;
    let last = one.bay.schedules().show("s").await.unwrap().last_run.unwrap();
    let error = last.error.unwrap();
    assert_eq!((last.outcome, error.chars().count()), (TickOutcome::Failed, 4_096));
    world.pass_by(Duration::from_millis(50), SECOND * 10).await;
    assert_eq!(seen.times(&world), [10, 20]);
}

/// Only what runs is begun; the rest is not decided yet, and so is stopped by a pause.
#[tokio::test]
async fn a_paused_schedule_runs_nothing_after_the_tick_that_runs() {
    let world = World::new(24);
    let (one, seen) = leading(&world, &every_second(), SECOND * 10).await;
    let schedules = one.bay.schedules();
    world.pass(SECOND * 15).await;
    assert_eq!(seen.times(&world), [1, 2], "the others wait behind the second");
    schedules.pause("s").await.unwrap();
    world.pass(SECOND * 60).await;
    assert_eq!(seen.times(&world), [1, 2]);
    let info = schedules.show("s").await.unwrap();
    assert_eq!((info.counts.begun, info.counts.completed, info.in_progress.len()), (2, 2, 0));
}

#[tokio::test]
async fn what_waits_behind_a_long_tick_for_more_than_the_grace_follows_the_misfire_policy() {
    for (misfire, expected, misfired) in [
        (Misfire::RunOnce, vec![1, 7, 8, 9, 10, 11], 5),
        (Misfire::RunAll, vec![1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], 0),
        (Misfire::Skip, vec![1, 8, 9, 10, 11], 6),
    ] {
        let world = World::new(25);
        let (one, seen) = (instance(&world), Seen::default());
        let (noted, clock) = (seen.clone(), world.clock.clone());
        let handler = move |tick: Tick| {
            noted.note(&tick);
            let (clock, time) = (clock.clone(), SECOND * if noted.len() == 1 { 10 } else { 0 });
            async move {
                clock.sleep(time).await;
                Ok::<_, JobFailure>(Json::null())
            }
        };
        one.bay.schedules().register("work", handler).unwrap();
        one.bay.start();
        let mut request = every_second();
        (request.misfire, request.misfire_grace) = (misfire, SECOND * 7 / 2);
        one.bay.schedules().put(&request).await.unwrap();
        world.pass(SECOND * 11 + SECOND / 2).await;
        assert_eq!(seen.times(&world), expected, "{misfire:?}");
        let info = one.bay.schedules().show("s").await.unwrap();
        assert_eq!(info.counts.misfired, misfired, "{misfire:?}");
    }
}

/// A schedule of which the first tick is due, and waits for its moment for some seconds.
async fn waiting_for_its_moment(world: &World) -> (Instance, Seen) {
    let mut request = every_second();
    (request.schedule_expression, request.jitter) = ("every 10s".into(), SECOND * 9);
    let (one, seen) = leading(world, &request, Duration::ZERO).await;
    world.pass(SECOND * 10 + SECOND / 2).await;
    let info = one.bay.schedules().show("s").await.unwrap();
    assert_eq!((info.in_progress.len(), seen.len()), (1, 0), "it waits: {info:?}");
    (one, seen)
}

#[tokio::test]
async fn a_tick_that_waits_for_its_moment_does_not_start_once_its_schedule_is_paused() {
    let world = World::new(26);
    let (one, seen) = waiting_for_its_moment(&world).await;
    let schedules = one.bay.schedules();
    schedules.pause("s").await.unwrap();
    world.pass(SECOND * 20).await;
    let info = schedules.show("s").await.unwrap();
    assert_eq!((info.counts.begun, info.counts.skipped), (0, 1));
    assert!(seen.len() == 0 && info.in_progress.is_empty());
    schedules.resume("s", Resume::FromNow).await.unwrap();
    world.pass(SECOND * 20).await;
    assert_eq!(seen.times(&world)[0], 40, "it goes on with what is due next");
}

#[tokio::test]
async fn a_tick_that_waits_for_its_moment_does_not_start_once_its_schedule_is_deleted() {
    let world = World::new(27);
    let (one, seen) = waiting_for_its_moment(&world).await;
    one.bay.schedules().delete("s").await.unwrap();
    world.pass(SECOND * 2).await;
    let gone = one.bay.schedules().show("s").await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    world.pass(SECOND * 20).await;
    assert_eq!(seen.len(), 0);
}

/// The leader that began it died; whether it has a job is asked, not guessed.
#[tokio::test]
async fn a_tick_that_was_started_is_ended_by_the_next_leader_although_its_schedule_is_paused() {
    let world = World::new(28);
    let mut request = every_second();
    request.schedule_expression = "every 10s".into();
    let (one, first) = leading(&world, &request, SECOND * 3_600).await;
    world.pass(SECOND * 10 + SECOND / 2).await;
    assert_eq!(first.times(&world), [10]);
    one.store.die();
    let (two, second) = (instance(&world), Seen::default());
    takes(&two.bay, &second, Duration::ZERO);
    two.bay.schedules().pause("s").await.unwrap();
    two.bay.start();
    world.pass(SECOND * 10).await;
    assert_eq!(second.times(&world), [10]);
    let info = two.bay.schedules().show("s").await.unwrap();
    assert_eq!((info.counts.completed, info.counts.skipped), (1, 0));
}

#[tokio::test]
async fn a_tick_that_is_asked_for_runs_while_another_waits_for_its_moment() {
    let world = World::new(29);
    let (one, seen) = waiting_for_its_moment(&world).await;
    let asked = one.bay.schedules().run_now("s", None).await.unwrap();
    world.pass(SECOND).await;
    assert_eq!(seen.len(), 1);
    let job_id = seen.0.lock()[0].job_id.clone();
    let job = one.bay.jobs().show(&job_id).await.unwrap();
    assert_eq!(job.job_key, asked.job_key);
    world.pass(SECOND * 8).await;
    assert_eq!(seen.len(), 2, "the other runs at its moment");
    assert_eq!(seen.times(&world)[1], 10);
}

#[tokio::test]
async fn a_failed_tick_is_told_and_counted_although_replies_are_lost() {
    let world = World::new(30);
    let (one, seen) = (
        world.instance_with(Config { leader_ttl: seconds(5), ..Config::default() }),
        Seen::default(),
    );
    let noted = seen.clone();
    let handler = move |tick: Tick| {
        noted.note(&tick);
        async move { Err::<Json, _>(JobFailure::permanent("no")) }
    };
    one.bay.schedules().register("work", handler).unwrap();
    let mut events = one.bay.subscribe();
    one.bay.start();
    one.bay.schedules().put(&every_second()).await.unwrap();
    world.pass(SECOND).await;
    one.store.set(Faults { reply_lost: 300, ..Faults::default() });
    world.pass(SECOND * 60).await;
    one.store.set(Faults::default());
    world.pass(SECOND * 5).await;
    let failed = one.bay.schedules().show("s").await.unwrap().counts.failed;
    assert!(failed > 30, "{failed}");
    let mut told = 0;
    while let Ok(event) = events.try_recv() {
        told += u64::from(matches!(event.event, Event::ScheduleTickFailed { .. }));
    }
    let counted = one.bay.metrics().value(Metric::TicksFailed);
    assert_eq!((told, counted), (failed, i64::try_from(failed).unwrap()));
}

#[tokio::test]
async fn a_schedule_whose_zone_is_not_known_any_more_says_so() {
    let world = World::new(31);
    let one = instance(&world);
    one.bay.schedules().put(&every_second()).await.unwrap();
    assert_eq!(one.bay.schedules().show("s").await.unwrap().problem, None);
    let key = Key::new(Partition::FIRST, Kind::new("schedule"), "s");
    let found = one.store.get(std::slice::from_ref(&key)).await.unwrap().records.remove(0);
    let text = String::from_utf8(found.unwrap().value.to_vec()).unwrap();
    let value = text.replace("\"UTC\"", "\"Mars/Olympus\"").into_bytes();
    let put = Write::Put { key, value, deadline: Deadline::Never };
    let commit = Commit::new(Partition::FIRST, vec![], vec![put], vec![]).unwrap();
    one.store.commit(&commit).await.unwrap();
    let problem = one.bay.schedules().show("s").await.unwrap().problem.unwrap();
    assert!(problem.contains("Mars/Olympus"), "{problem}");
    assert_eq!(one.bay.metrics().value(Metric::SchedulesStuck), 0);
    one.bay.start();
    world.pass(SECOND * 2).await;
    assert_eq!(one.bay.metrics().value(Metric::SchedulesStuck), 1);
}

#[tokio::test]
async fn a_tick_that_does_not_get_on_shows_why() {
    let mut request = every_second();
    request.schedule_expression = "@yearly".into();
    let world = World::new(32);
    let (one, seen) = leading(&world, &request, Duration::ZERO).await;
    world.pass(SECOND).await;
    one.bay.schedules().run_now("s", Some("again")).await.unwrap();
    world.pass(SECOND).await;
    let job_id = seen.0.lock()[0].job_id.clone();
    // The same tick elsewhere, where something that nobody can read stands in the place of its job.
    let world = World::new(33);
    let (one, seen) = leading(&world, &request, Duration::ZERO).await;
    let key = Key::new(Partition::of(&job_id), Kind::new("job"), job_id);
    let put = Write::Put { key: key.clone(), value: b"{}".to_vec(), deadline: Deadline::Never };
    let commit = Commit::new(key.partition, vec![], vec![put], vec![]).unwrap();
    world.pass(SECOND).await;
    one.bay.schedules().run_now("s", Some("again")).await.unwrap();
    one.store.commit(&commit).await.unwrap();
    world.pass(SECOND * 10).await;
    let info = one.bay.schedules().show("s").await.unwrap();
    let error = info.in_progress[0].error.clone().unwrap();
    assert!(error.contains("tried") && error.contains("cannot be read"), "{error}");
    let commit = Commit::new(key.partition, vec![], vec![Write::Delete { key }], vec![]).unwrap();
    one.store.commit(&commit).await.unwrap();
    world.pass(SECOND * 2).await;
    let info = one.bay.schedules().show("s").await.unwrap();
    assert_eq!((info.counts.completed, info.in_progress.len(), seen.len()), (1, 0, 1));
}

#[tokio::test]
async fn a_tick_that_waits_for_a_turn_runs_on_the_next_leader() {
    let world = World::new(34);
    let (one, two) = (instance(&world), instance(&world));
    let (first, second) = (Seen::default(), Seen::default());
    takes(&one.bay, &first, SECOND * 20);
    takes(&two.bay, &second, Duration::ZERO);
    one.bay.start();
    let schedules = one.bay.schedules();
    for id in 0..=MAX_TICKS_AT_ONCE / MAX_OPEN {
        let mut request = ScheduleRequest::new(format!("s{id}"), "tick", "@yearly", "work");
        (request.overlap, request.place) = (Overlap::Allow, TickPlace::WhereBegun);
        schedules.put(&request).await.unwrap();
        for _ in 0..MAX_OPEN {
            schedules.run_now(&request.job_id, None).await.unwrap();
        }
    }
    world.pass(SECOND * 3).await;
    assert_eq!(first.len(), MAX_TICKS_AT_ONCE);
    two.bay.start();
    world.pass(SECOND / 5).await;
    one.bay.leadership().resign().await.unwrap();
    world.pass_by(Duration::from_millis(200), SECOND * 60).await;
    assert_eq!((first.len(), second.len()), (MAX_TICKS_AT_ONCE, MAX_OPEN));
}
