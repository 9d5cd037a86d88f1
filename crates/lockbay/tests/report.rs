//! The report and trends over what was really sampled: under a clock that the test steps.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod support {
    pub mod stepped;
}

use std::time::Duration;

use lockbay::ErrorKind;
use lockbay::metrics::Metric;
use lockbay::monitor::health::Status;
use lockbay::monitor::report::Format;
use lockbay::monitor::trend::{Direction, Label};
use lockbay::store::faulty::Faults;
use support::stepped::{Instance, World};

const SECOND: Duration = Duration::from_secs(1);
const TEN: Duration = Duration::from_secs(10);

/// Two instances that complete more and more jobs, for a little more than an hour.
async fn an_hour(world: &World) -> (Instance, Instance) {
    let (one, other) = (world.instance(), world.instance());
    one.bay.start();
    other.bay.start();
    world.pass(SECOND * 2).await;
    for instance in [&one, &other] {
        instance.bay.metrics().set(Metric::MaxInFlight, 100);
    }
    for round in 0..380_u64 {
        one.bay.metrics().set(Metric::RequestsInFlight, i64::try_from(round / 8).unwrap());
        one.bay.metrics().add(Metric::JobsCompleted, 20 + round / 10);
        other.bay.metrics().add(Metric::JobsCompleted, 20 + (round * 7) % 3);
        one.bay.metrics().observe(Metric::JobSeconds, Duration::from_millis(5));
        world.pass_by(TEN, TEN).await;
    }
    (one, other)
}

#[tokio::test]
async fn what_all_instances_did_is_one_trend_and_one_report() {
    let world = World::new(11);
    let (one, other) = an_hour(&world).await;
    let path = "job_idempotency_metrics.jobs_completed";
    let rising = other.bay.trends().of(path, 1).await.unwrap();
    assert_eq!(rising.trend.label, Label::Improving, "{rising:?}");
    assert_eq!(rising.trend.direction, Direction::Rising);
    // 38 more each ten seconds within 3,800 s.
    let slope = rising.trend.slope_per_hour;
    assert!((3.0..4.2).contains(&slope), "{slope}");
    assert!(rising.trend.slope_low <= slope && slope <= rising.trend.slope_high, "{rising:?}");
    let quiet = other.bay.trends().of("saga_metrics.sagas_failed", 1).await.unwrap();
    assert_eq!(quiet.trend.label, Label::Stable, "a counter that stays at zero: {quiet:?}");
    let long = other.bay.trends().of(path, 720).await.unwrap();
    assert_eq!(long.trend.label, Label::InsufficientData, "{long:?}");
    let in_flight = other.bay.trends().of("system_metrics.requests_in_flight", 1).await.unwrap();
    let limit = in_flight.trend.time_to_limit.unwrap();
    assert_eq!(limit.limit, 200.0, "both together may serve as many: {in_flight:?}");
    // The same answer is given again within a minute.
    let before = other.store.calls();
    assert_eq!(other.bay.trends().of(path, 1).await.unwrap(), rising);
    assert_eq!(other.store.calls(), before);

    let report = other.bay.report(1).await.unwrap();
    let jobs = &report.performance_summary.job_processing;
    assert!(jobs.completed.unwrap() > 15_000.0, "{jobs:?}");
    assert_eq!(jobs.success_rate, Some(1.0));
    assert!(jobs.per_second.unwrap() > 6.0, "{jobs:?}");
    assert!((1.0..30.0).contains(&jobs.p95_ms.unwrap()), "{jobs:?}");
    assert_eq!(report.performance_summary.cleanup_efficiency, None, "it looked at nothing");
    let text = report.write(Format::Text).unwrap();
    assert!(text.contains("Getting better") && text.contains(path), "{text}");
    drop(one);
}

#[tokio::test]
async fn windows_that_history_does_not_have_are_refused() {
    let world = World::new(12);
    let one = world.instance();
    for hours in [0, 721] {
        let refused = one.bay.report(hours).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid);
        assert_eq!(one.bay.trends().important(hours).await.unwrap_err().kind(), ErrorKind::Invalid);
    }
    let missing = one.bay.trends().of("saga_metrics.nothing", 24).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_report_is_made_while_the_store_does_not_answer() {
    let world = World::new(13);
    let one = world.instance();
    one.bay.start();
    world.pass(SECOND * 3).await;
    one.bay.metrics().add(Metric::JobsCompleted, 7);
    one.store.die();
    let (report, ()) = tokio::join!(one.bay.report(24), world.pass(SECOND * 40));
    let report = report.unwrap();
    assert_eq!(report.overall_status, Status::Unhealthy);
    assert_eq!(report.performance_summary.job_processing.this_instance.completed, 7.0);
    assert_eq!(report.performance_summary.job_processing.completed, None);
    assert!(report.notes.iter().any(|note| note.contains("the store does not answer")));
    let text = report.write(Format::Text).unwrap();
    let first = text.find("What is not well").unwrap();
    let next = text.find("`lockbay doctor`").unwrap();
    assert!(first < next && next < text.find("This instance").unwrap(), "{text}");
}

/// Samples that the store does not take are noticed, and that they are taken again.
#[tokio::test]
async fn sampling_that_stands_still_degrades_health_until_it_goes_on() {
    let world = World::new(14);
    let one = world.instance();
    one.bay.start();
    world.pass(SECOND * 20).await;
    assert_eq!(one.bay.health().await.status, Status::Healthy);
    // The store answers, and takes no commit.
    one.store.set(Faults { request_lost: 1_000, ..Faults::default() });
    world.pass_by(SECOND, SECOND * 90).await;
    let health = one.bay.health().await;
    let history = health.checks.iter().find(|check| check.name == "history").unwrap();
    assert_eq!(history.status, Status::Degraded, "{history:?}");
    assert!(history.reasons[0].contains("no sample was stored"), "{history:?}");
    one.store.set(Faults::default());
    world.pass_by(SECOND, SECOND * 60).await;
    let health = one.bay.health().await;
    let history = health.checks.iter().find(|check| check.name == "history").unwrap();
    assert_eq!(history.status, Status::Healthy, "{history:?}");
}
