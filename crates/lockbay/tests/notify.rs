//! Notifications as their users meet them: silences over a restart, channels that fail, hang or are
//! slow, dead letters, handovers.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod support {
    pub mod stepped;
}

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lockbay::ErrorKind;
use lockbay::clock::{Clock, Timestamp};
use lockbay::config::{Config, Span};
use lockbay::monitor::alert::{Firing, Severity, Transition, Turn};
use lockbay::monitor::notify::{
    Callback, Channel, Notice, NoticeStatus, SilenceRequest, SilenceState, Undelivered,
};
use lockbay::store::{Commit, Guard, Partition, Reply};
use parking_lot::Mutex;
use support::stepped::{Instance, World, seconds};

type Says = Result<(), Undelivered>;
/// What a channel says of a notice and the number of the attempt, after so long.
type Script = Arc<dyn Fn(&Notice, usize) -> (Duration, Says) + Send + Sync>;

/// A channel that does what a test says, and remembers what it was asked.
#[derive(Clone)]
struct Told {
    name: &'static str,
    clock: Clock,
    script: Script,
    asked: Arc<Mutex<Vec<(Timestamp, String)>>>,
    at_once: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Told {
    fn new(
        name: &'static str,
        world: &World,
        script: impl Fn(&Notice, usize) -> (Duration, Says) + Send + Sync + 'static,
    ) -> Self {
        Told {
            name,
            clock: world.clock.clone(),
            script: Arc::new(script),
            asked: Arc::default(),
            at_once: Arc::default(),
            most: Arc::default(),
        }
    }

    fn well(name: &'static str, world: &World) -> Self {
        Told::new(name, world, |_, _| (Duration::ZERO, Ok(())))
    }

    /// What was asked, as `rule status`.
    fn asked(&self) -> Vec<String> {
        self.asked.lock().iter().map(|(_, what)| what.clone()).collect()
    }
}

#[async_trait::async_trait]
impl Channel for Told {
    fn name(&self) -> &str {
        self.name
    }

    async fn deliver(&self, notice: &Notice) -> Says {
        let rules: Vec<&str> = notice.alerts.iter().map(|alert| &*alert.rule).collect();
        let what = format!("{} {}", rules.join("+"), notice.status.name());
        let attempt = {
            let mut asked = self.asked.lock();
            asked.push((self.clock.now(), what.clone()));
            asked.iter().filter(|(_, other)| *other == what).count()
        };
        self.most.fetch_max(self.at_once.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        let (time, says) = (self.script)(notice, attempt);
        self.clock.sleep(time).await;
        self.at_once.fetch_sub(1, Ordering::SeqCst);
        says
    }
}

/// The test judges alerts itself, so nobody else does.
fn config() -> Config {
    let alert_group_wait = Span(Duration::ZERO);
    Config { leader_ttl: seconds(2), alert_group_wait, monitoring: false, ..Config::default() }
}

async fn leader(world: &World, channels: &[&Told]) -> Instance {
    leader_with(config(), world, channels).await
}

async fn leader_with(config: Config, world: &World, channels: &[&Told]) -> Instance {
    let instance = world.instance_with(config);
    for channel in channels {
        instance.bay.notifications().tell_through(Arc::new((*channel).clone())).unwrap();
    }
    instance.bay.start();
    for _ in 0..2_000 {
        if instance.bay.is_leader() {
            return instance;
        }
        world.pass(Duration::from_millis(10)).await;
    }
    panic!("it does not lead");
}

fn step(rule: &str, turn: Turn, at: Timestamp) -> Transition {
    let (rule, value, summary) = (rule.to_owned(), None, "moved".to_owned());
    Transition { rule, severity: Severity::Error, turn, episode: 1, at, value, summary }
}

fn firing(rule: &str, since: Timestamp) -> Firing {
    Firing {
        rule: rule.into(),
        severity: Severity::Error,
        labels: std::collections::BTreeMap::new(),
        since,
        episode: 1,
        value: None,
        summary: "too many".into(),
    }
}

/// An evaluation: these moved, and these fire now.
async fn evaluate(instance: &Instance, moved: &[(&str, Turn)], fires: &[&str]) {
    let at = instance.bay.clock().now();
    let moves: Vec<_> = moved.iter().map(|(rule, turn)| step(rule, *turn, at)).collect();
    let firing: Vec<_> = fires.iter().map(|rule| firing(rule, at)).collect();
    let notifier = instance.bay.notifications();
    let mut effects = notifier.effects(&moves, &firing, at).await.unwrap();
    if effects.is_empty() {
        return;
    }
    effects.guards.push(Guard::Held(instance.bay.leadership().fence().unwrap()));
    let commit = Commit::new(Partition::FIRST, effects.guards, effects.writes, vec![]).unwrap();
    let reply = instance.bay.store().commit(&commit).await.unwrap();
    assert!(matches!(reply, Reply::Committed { .. }), "{reply:?}");
    notifier.committed();
}

const HOUR: Duration = Duration::from_secs(3_600);

fn for_an_hour(world: &World, rules: &str) -> SilenceRequest {
    SilenceRequest {
        rules: rules.into(),
        severities: Vec::new(),
        from: None,
        until: Some(world.clock.now() + HOUR),
        lasts: None,
        window: None,
        actor: "ann".into(),
        reason: "known".into(),
    }
}

async fn count(instance: &Instance, status: NoticeStatus) -> usize {
    instance.bay.notifications().notices(status, None, 100).await.unwrap().items.len()
}

#[tokio::test]
async fn a_silence_survives_a_restart_ends_by_itself_and_then_what_still_fires_is_told_once() {
    let world = World::new(1);
    let first = leader(&world, &[&Told::well("people", &world)]).await;
    let silence = first.bay.notifications().silence(for_an_hour(&world, "j*")).await.unwrap();
    first.bay.shutdown().await;
    let told = Told::well("people", &world);
    let second = leader(&world, &[&told]).await;
    evaluate(&second, &[("jobs", Turn::Fired)], &["jobs"]).await;
    world.pass(Duration::from_secs(2)).await;
    assert!(told.asked().is_empty());
    assert_eq!(second.bay.notifications().held().await.unwrap()[0].0, "jobs");
    world.pass_by(Duration::from_secs(1), Duration::from_secs(3_600)).await;
    let (_, state) = second.bay.notifications().silence_of(&silence.id).await.unwrap();
    assert_eq!(state, SilenceState::Ended);
    for _ in 0..3 {
        evaluate(&second, &[], &["jobs"]).await;
        world.pass(Duration::from_secs(1)).await;
    }
    assert_eq!(told.asked(), ["jobs firing"]);
    assert_eq!(count(&second, NoticeStatus::Delivered).await, 1);
}

#[tokio::test]
async fn deleting_a_silence_ends_it_and_doing_so_twice_changes_nothing() {
    let world = World::new(2);
    let told = Told::well("people", &world);
    let instance = leader(&world, &[&told]).await;
    let notifier = instance.bay.notifications();
    let silence = notifier.silence(for_an_hour(&world, "*")).await.unwrap();
    evaluate(&instance, &[("jobs", Turn::Fired)], &["jobs"]).await;
    let ended = notifier.unsilence(&silence.id, "bob").await.unwrap();
    assert_eq!(ended.ended_by.as_deref(), Some("bob"));
    assert_eq!(notifier.unsilence(&silence.id, "eve").await.unwrap(), ended);
    let none = notifier.unsilence("sil_0", "bob").await.unwrap_err();
    assert_eq!(none.kind(), ErrorKind::NotFound);
    evaluate(&instance, &[], &["jobs"]).await;
    world.pass(Duration::from_secs(1)).await;
    assert_eq!(told.asked(), ["jobs firing"]);
}

#[tokio::test]
async fn a_silence_is_made_once_for_its_key() {
    let world = World::new(4);
    let instance = world.instance();
    let notifier = instance.bay.notifications();
    let request = for_an_hour(&world, "*");
    let (first, replayed) = notifier.silence_once("k", request.clone()).await.unwrap();
    assert!(!replayed);
    world.pass(Duration::from_secs(60)).await;
    let again = notifier.silence_once("k", request.clone()).await.unwrap();
    assert_eq!(again, (first.clone(), true));
    let longer = SilenceRequest { until: None, lasts: Some(HOUR), ..request.clone() };
    for other in [for_an_hour(&world, "*"), for_an_hour(&world, "j*"), longer] {
        let refused = notifier.silence_once("k", other).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::KeyReused);
    }
    // Its time is over, so that it could not be made now.
    world.pass_by(Duration::from_secs(60), HOUR).await;
    let (over, replayed) = notifier.silence_once("k", request).await.unwrap();
    assert!(replayed && over == first);
    let (another, _) = notifier.silence_once("l", for_an_hour(&world, "*")).await.unwrap();
    assert!(another.id != first.id && notifier.silences().await.unwrap().len() == 2);
}

#[tokio::test]
async fn a_silence_that_cannot_be_meant_is_refused_and_nothing_is_written() {
    let world = World::new(3);
    let instance = world.instance();
    let right = for_an_hour(&world, "*");
    let now = world.clock.now();
    for wrong in [
        SilenceRequest { rules: "[".into(), ..right.clone() },
        SilenceRequest { rules: String::new(), ..right.clone() },
        SilenceRequest { actor: String::new(), ..right.clone() },
        SilenceRequest { actor: "a\nb".into(), ..right.clone() },
        SilenceRequest { reason: "  ".into(), ..right.clone() },
        SilenceRequest { until: None, ..right.clone() },
        SilenceRequest { until: Some(now), ..right.clone() },
        SilenceRequest { lasts: Some(HOUR), ..right.clone() },
        SilenceRequest { until: None, lasts: Some(Duration::ZERO), ..right.clone() },
        SilenceRequest { until: None, lasts: Some(Duration::MAX), ..right.clone() },
        SilenceRequest { until: Some(now + Duration::from_secs(400 * 86_400)), ..right.clone() },
        SilenceRequest { from: Some(now + Duration::from_secs(7_200)), ..right },
    ] {
        let refused = instance.bay.notifications().silence(wrong.clone()).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid, "{wrong:?}: {refused}");
    }
    assert!(instance.bay.notifications().silences().await.unwrap().is_empty());
}

#[tokio::test]
async fn an_end_waits_until_its_firing_has_arrived_and_other_rules_do_not() {
    let world = World::new(4);
    let told = Told::new("people", &world, |notice, attempt| {
        let fires = notice.status.name() == "firing";
        let stuck = fires && notice.alerts[0].rule == "stuck" && attempt < 4;
        let says = if stuck { Err(Undelivered::for_now("not now")) } else { Ok(()) };
        (Duration::ZERO, says)
    });
    let instance = leader(&world, &[&told]).await;
    evaluate(&instance, &[("stuck", Turn::Fired)], &["stuck"]).await;
    evaluate(&instance, &[("stuck", Turn::Resolved), ("other", Turn::Fired)], &["other"]).await;
    world.pass_by(Duration::from_millis(20), Duration::from_secs(30)).await;
    let asked = told.asked();
    assert_eq!(asked.last().unwrap(), "stuck resolved", "{asked:?}");
    let fires = asked.iter().filter(|what| *what == "stuck firing").count();
    let other = asked.iter().position(|what| what == "other firing");
    assert_eq!((fires, asked.len()), (4, 6), "{asked:?}");
    assert!(other.unwrap() <= 2, "{asked:?}");
}

#[tokio::test]
async fn a_channel_that_hangs_holds_up_no_other() {
    let world = World::new(5);
    let slow = Told::new("slow", &world, |_, _| (Duration::from_secs(3_600), Ok(())));
    let quick = Told::well("quick", &world);
    let instance = leader(&world, &[&slow, &quick]).await;
    for n in 0..20 {
        let rule = format!("r{n}");
        evaluate(&instance, &[(&rule, Turn::Fired)], &[&rule]).await;
    }
    world.pass(Duration::from_secs(3)).await;
    // Each evaluation ended the firing before.
    assert_eq!(quick.asked().len(), 39);
    assert!(slow.most.load(Ordering::SeqCst) <= 8, "a few attempts at once");
    assert_eq!(slow.asked().len(), 8);
    world.pass_by(Duration::from_millis(100), Duration::from_secs(32)).await;
    assert!(slow.asked().len() > 8, "an attempt that hangs is given up");
}

#[tokio::test]
async fn a_handover_in_the_middle_of_a_pause_goes_on_where_it_was() {
    let world = World::new(6);
    let refuses = |_: &Notice, _: usize| {
        let later = Undelivered::for_now("busy").not_before(Duration::from_secs(60));
        (Duration::ZERO, Err(later))
    };
    let first_told = Told::new("people", &world, refuses);
    let first = leader(&world, &[&first_told]).await;
    evaluate(&first, &[("jobs", Turn::Fired)], &["jobs"]).await;
    world.pass(Duration::from_secs(1)).await;
    assert_eq!(first_told.asked().len(), 1);
    let refused_at = first_told.asked.lock()[0].0;
    first.store.die();
    let told = Told::well("people", &world);
    let second = leader(&world, &[&told]).await;
    world.pass(Duration::from_secs(20)).await;
    assert!(told.asked().is_empty(), "the pause that was asked for is kept");
    world.pass(Duration::from_secs(45)).await;
    assert_eq!(told.asked(), ["jobs firing"]);
    assert!(told.asked.lock()[0].0.since(refused_at) >= Duration::from_secs(60));
    let page = second.bay.notifications().notices(NoticeStatus::Delivered, None, 9).await.unwrap();
    assert_eq!(page.items[0].channels["people"].attempts, 2, "attempts are counted on");
}

#[tokio::test]
async fn a_delivery_that_cannot_be_noted_is_noted_later_and_not_made_again() {
    let world = World::new(14);
    let told = Told::new("people", &world, |_, _| (Duration::from_millis(300), Ok(())));
    let config = Config { leader_ttl: seconds(900), ..config() };
    let instance = leader_with(config, &world, &[&told]).await;
    evaluate(&instance, &[("jobs", Turn::Fired)], &["jobs"]).await;
    world.pass(Duration::from_millis(100)).await;
    instance.store.fill();
    world.pass(Duration::from_secs(20)).await;
    assert!(instance.bay.is_leader());
    assert_eq!(told.asked(), ["jobs firing"], "it is not made again while it cannot be noted");
    instance.store.revive();
    world.pass(Duration::from_secs(3)).await;
    assert_eq!(count(&instance, NoticeStatus::Delivered).await, 1);
    assert_eq!(told.asked(), ["jobs firing"]);
}

#[tokio::test]
async fn health_says_that_notices_do_not_go_out_and_why() {
    let world = World::new(15);
    let told = Told::new("people", &world, |_, _| {
        (Duration::ZERO, Err(Undelivered::for_now("connection refused")))
    });
    let config = Config { leader_ttl: seconds(900), ..config() };
    let instance = leader_with(config, &world, &[&told]).await;
    let reasons = async || {
        let checks = instance.bay.health().await.checks;
        let part = checks.into_iter().find(|check| check.name == "notifications").unwrap();
        (part.status.name(), part.reasons.join(" "))
    };
    let second = Duration::from_secs(1);
    evaluate(&instance, &[("jobs", Turn::Fired)], &["jobs"]).await;
    world.pass_by(second, Duration::from_secs(60)).await;
    assert_eq!(reasons().await, ("healthy", String::new()));
    world.pass_by(second, Duration::from_secs(600)).await;
    let (status, why) = reasons().await;
    assert!(status == "degraded" && why.contains("connection refused"), "{status}: {why}");
}

#[tokio::test]
async fn what_is_refused_for_good_is_a_dead_letter_until_somebody_tries_it_again() {
    let world = World::new(7);
    let told = Told::new("people", &world, |_, attempt| {
        let says = if attempt == 1 { Err(Undelivered::for_good("gone")) } else { Ok(()) };
        (Duration::ZERO, says)
    });
    let instance = leader(&world, &[&told]).await;
    let mut events = instance.bay.subscribe();
    evaluate(&instance, &[("jobs", Turn::Fired)], &["jobs"]).await;
    world.pass(Duration::from_secs(1)).await;
    let notifier = instance.bay.notifications();
    let dead = notifier.notices(NoticeStatus::Dead, None, 9).await.unwrap().items;
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0].channels["people"].error.as_deref(), Some("gone"));
    let metric = lockbay::metrics::Metric::NotificationsDead;
    assert_eq!(instance.bay.metrics().value(metric), 1);
    let mut names = Vec::new();
    while let Ok(told) = events.try_recv() {
        names.push(told.event.name());
    }
    assert!(names.contains(&"notification_dead") && names.contains(&"alert_notified"), "{names:?}");
    world.pass(Duration::from_secs(10)).await;
    assert_eq!(told.asked().len(), 1, "nobody tries it by itself");
    let id = &dead[0].notice.id;
    assert_eq!(notifier.retry(id, Some("ann")).await.unwrap().status, NoticeStatus::Pending);
    assert_eq!(notifier.retry(id, None).await.unwrap_err().kind(), ErrorKind::Refused);
    world.pass(Duration::from_secs(2)).await;
    assert_eq!(told.asked(), ["jobs firing", "jobs firing"]);
    assert_eq!(notifier.notice(id).await.unwrap().status, NoticeStatus::Delivered);
    assert_eq!(count(&instance, NoticeStatus::Dead).await, 0);
    let none = notifier.retry("ntc_0", None).await.unwrap_err();
    assert_eq!(none.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_notice_that_never_arrives_is_given_up_and_does_not_block_its_rule_for_ever() {
    let world = World::new(8);
    let told = Told::new("people", &world, |notice, _| {
        let fires = notice.status.name() == "firing";
        let says = if fires { Err(Undelivered::for_now("no")) } else { Ok(()) };
        (Duration::ZERO, says)
    });
    let instance = leader(&world, &[&told]).await;
    evaluate(&instance, &[("jobs", Turn::Fired)], &["jobs"]).await;
    evaluate(&instance, &[("jobs", Turn::Resolved)], &[]).await;
    for _ in 0..80 {
        world.pass_by(Duration::from_millis(500), Duration::from_secs(300)).await;
        if count(&instance, NoticeStatus::Pending).await == 0 {
            break;
        }
    }
    assert_eq!(told.asked().last().unwrap(), "jobs resolved");
    assert_eq!(count(&instance, NoticeStatus::Dead).await, 1);
    assert_eq!(count(&instance, NoticeStatus::Delivered).await, 1);
}

#[tokio::test]
async fn ten_thousand_notices_go_out_a_few_at_once_in_order_and_none_twice() {
    let world = World::new(9);
    let told = Told::well("people", &world);
    let instance = leader(&world, &[&told]).await;
    let names: Vec<String> = (0..1_000).map(|n| format!("r{n}")).collect();
    let rules: Vec<&str> = names.iter().map(String::as_str).collect();
    for round in 0..10 {
        let fires = if round % 2 == 0 { &rules[..] } else { &[] };
        evaluate(&instance, &[], fires).await;
        // Each firing has a beginning of its own.
        world.clock.advance(Duration::from_micros(1));
    }
    world.pass_by(Duration::from_millis(50), Duration::from_secs(2)).await;
    for _ in 0..2_000 {
        if told.asked.lock().len() >= 10_000 {
            break;
        }
        world.pass_by(Duration::from_millis(20), Duration::from_millis(100)).await;
    }
    world.pass(Duration::from_secs(2)).await;
    assert_eq!(told.asked().len(), 10_000);
    assert!(told.most.load(Ordering::SeqCst) <= 8);
    for rule in [0, 500, 999] {
        let (name, asked) = (&names[rule], told.asked());
        let of_rule = asked.iter().filter(|what| what.starts_with(&format!("{name} ")));
        let turns: Vec<_> = of_rule.map(|what| what.ends_with("firing")).collect();
        assert_eq!(turns, [true, false, true, false, true, false, true, false, true, false]);
    }
}

#[tokio::test]
async fn a_callback_is_told_and_one_that_panics_is_told_again() {
    let world = World::new(10);
    let calls = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&calls);
    let callback = Callback::new("callback", move |notice: &Notice| {
        assert_eq!(notice.alerts[0].rule, "jobs");
        assert!(seen.fetch_add(1, Ordering::SeqCst) > 0, "the first time it panics");
    });
    let instance = world.instance_with(config());
    let notifier = instance.bay.notifications();
    let channel = Arc::new(callback);
    notifier.tell_through(channel.clone()).unwrap();
    assert_eq!(notifier.tell_through(channel).unwrap_err().kind(), ErrorKind::Invalid);
    let shouting = Arc::new(Callback::new("No", |_: &Notice| {}));
    assert_eq!(notifier.tell_through(shouting).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(notifier.channels(), ["callback", "log"]);
    instance.bay.start();
    while !instance.bay.is_leader() {
        world.pass(Duration::from_millis(10)).await;
    }
    evaluate(&instance, &[("jobs", Turn::Fired)], &["jobs"]).await;
    world.pass(Duration::from_secs(3)).await;
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn what_was_told_goes_after_its_time_and_dead_letters_later() {
    let world = World::new(11);
    let told = Told::new("people", &world, |notice, _| {
        let good = notice.alerts[0].rule == "good";
        (Duration::ZERO, if good { Ok(()) } else { Err(Undelivered::for_good("no")) })
    });
    let instance = leader(&world, &[&told]).await;
    let both = [("good", Turn::Fired), ("bad", Turn::Fired)];
    evaluate(&instance, &both, &["good", "bad"]).await;
    world.pass(Duration::from_secs(1)).await;
    assert_eq!(count(&instance, NoticeStatus::Delivered).await, 1);
    let day = Duration::from_secs(86_400);
    for (days, left) in [(6, (1, 1)), (3, (0, 1)), (30, (0, 0))] {
        for _ in 0..days {
            world.clock.advance(day);
            world.pass(Duration::from_millis(100)).await;
        }
        // Whoever leads then cleans up every five minutes.
        world.pass_by(Duration::from_secs(1), Duration::from_secs(700)).await;
        let delivered = count(&instance, NoticeStatus::Delivered).await;
        assert_eq!((delivered, count(&instance, NoticeStatus::Dead).await), left, "{days}");
    }
}
