//! Alerts of three instances on one store: each move is told once, whoever leads.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use lockbay::clock::Clock;
use lockbay::config::Span;
use lockbay::event::{Event, Told};
use lockbay::metrics::Metric;
use lockbay::monitor::alert::Severity;
use lockbay::monitor::alert::decide::Phase;
use lockbay::monitor::alert::rule::{Operator, Rule};
use lockbay::monitor::notify::{Channel, Notice, SilenceRequest, Undelivered};
use lockbay::store::faulty::{Faults, Faulty};
use lockbay::store::memory::Memory;
use lockbay::store::redis::RedisStore;
use lockbay::store::sqlite::SqliteStore;
use lockbay::store::{Commit, Deadline, Key, Kind, Partition, Store, Write};
use lockbay::{Config, ErrorKind, LockBay};
use support::eventually;
use support::redis::RedisServer;
use tokio::sync::broadcast::Receiver;

/// Whoever is told, by all instances together. It tells notices by their ids, as receivers are to
/// do: one that arrived while its leader resigned may come again.
#[derive(Default)]
struct Pager(Mutex<Vec<Notice>>);

#[async_trait]
impl Channel for Pager {
    fn name(&self) -> &str {
        "receiver"
    }

    async fn deliver(&self, notice: &Notice) -> Result<(), Undelivered> {
        let mut told = self.0.lock().unwrap();
        if told.iter().all(|before| before.id != notice.id) {
            told.push(notice.clone());
        }
        Ok(())
    }
}

fn config() -> Config {
    let second = Span(Duration::from_secs(1));
    Config {
        alert_interval: second,
        monitoring_interval: second,
        alert_group_wait: Span(Duration::ZERO),
        ..Config::default()
    }
}

fn rule(hold_for: u32) -> Rule {
    let (path, above) = ("saga_metrics.sagas_failed", (Operator::Above, 5.0));
    Rule { for_seconds: hold_for, ..Rule::new("failing", path, above, 1, Severity::Critical) }
}

struct Trio {
    bays: Vec<LockBay>,
    events: Vec<Receiver<Told>>,
    receiver: Arc<Pager>,
}

impl Trio {
    fn start(stores: Vec<Arc<dyn Store>>, clock: &Clock) -> Self {
        Self::start_with(&config(), stores, clock)
    }

    fn start_with(config: &Config, stores: Vec<Arc<dyn Store>>, clock: &Clock) -> Self {
        let receiver = Arc::new(Pager::default());
        let start = |store| {
            let bay = LockBay::with_store(config.clone(), store, clock.clone());
            bay.notifications().tell_through(Arc::clone(&receiver) as Arc<dyn Channel>).unwrap();
            bay.start();
            bay
        };
        let bays: Vec<LockBay> = stores.into_iter().map(start).collect();
        let events = bays.iter().map(LockBay::subscribe).collect();
        Trio { bays, events, receiver }
    }

    fn leader(&self) -> Option<&LockBay> {
        self.bays.iter().find(|bay| bay.is_leader())
    }

    fn follower(&self) -> &LockBay {
        self.bays.iter().find(|bay| !bay.is_leader()).unwrap()
    }

    async fn phase(&self) -> Phase {
        let alerts = self.bays[0].alerts().list(None).await.unwrap();
        alerts.iter().find(|alert| alert.rule == "failing").map_or(Phase::Inactive, |a| a.state)
    }

    fn told(&self) -> Vec<&'static str> {
        self.told_of("failing")
    }

    fn told_of(&self, rule: &str) -> Vec<&'static str> {
        let told = self.receiver.0.lock().unwrap();
        let alerts = told.iter().flat_map(|notice| &notice.alerts);
        alerts.filter(|alert| alert.rule == rule).map(|alert| alert.state.name()).collect()
    }

    /// How often each event was told of the rule on each instance.
    fn events(&mut self) -> Vec<BTreeMap<&'static str, usize>> {
        let count = |events: &mut Receiver<Told>| {
            let mut counts = BTreeMap::new();
            while let Ok(told) = events.try_recv() {
                let name = told.event.name();
                if let Event::AlertFired { rule, .. } | Event::AlertResolved { rule, .. } =
                    told.event
                    && rule == "failing"
                {
                    *counts.entry(name).or_default() += 1;
                }
            }
            counts
        };
        self.events.iter_mut().map(count).collect()
    }

    fn assert_told_once(&mut self) {
        assert_eq!(self.told(), ["firing", "resolved"]);
        let once: BTreeMap<&str, usize> = [("alert_fired", 1), ("alert_resolved", 1)].into();
        assert_eq!(self.events(), vec![once; 3]);
    }

    async fn end(self) {
        for bay in self.bays {
            bay.shutdown().await;
        }
    }
}

async fn settle() {
    for _ in 0..150 {
        tokio::task::yield_now().await;
    }
}

async fn pass(clock: &Clock, seconds: u64) {
    for _ in 0..seconds * 4 {
        clock.advance(Duration::from_millis(250));
        settle().await;
    }
}

fn on_memory(clock: &Clock) -> (Trio, Vec<Arc<Faulty>>) {
    let memory = Memory::new(clock.clone());
    let store = |_| Arc::new(Faulty::new(Arc::new(memory.client()), clock.clone()));
    let stores: Vec<Arc<Faulty>> = (0..3).map(store).collect();
    let shared = stores.iter().map(|store| Arc::clone(store) as Arc<dyn Store>).collect();
    (Trio::start(shared, clock), stores)
}

#[tokio::test]
async fn an_alert_fires_and_resolves_once_over_all_though_the_leader_resigns_in_the_middle() {
    let clock = Clock::manual(1);
    let (mut trio, _stores) = on_memory(&clock);
    settle().await;
    pass(&clock, 3).await;
    trio.bays[0].alerts().put_rule(rule(10)).await.unwrap();
    trio.follower().metrics().add(Metric::SagasFailed, 6);
    pass(&clock, 6).await;
    assert_eq!(trio.phase().await, Phase::Pending);
    trio.leader().unwrap().leadership().resign().await.unwrap();
    pass(&clock, 10).await;
    assert_eq!(trio.phase().await, Phase::Firing);
    trio.leader().unwrap().leadership().resign().await.unwrap();
    pass(&clock, 70).await;
    assert_eq!(trio.phase().await, Phase::Resolved);
    trio.assert_told_once();
    trio.end_stepped(&clock).await;
}

impl Trio {
    async fn end_stepped(self, clock: &Clock) {
        let end = tokio::spawn(self.end());
        while !end.is_finished() {
            pass(clock, 1).await;
        }
        end.await.unwrap();
    }
}

/// On real stores the alert resolves because its threshold is raised: nobody waits for a window.
async fn told_once_on(stores: Vec<Arc<dyn Store>>) {
    let mut trio = Trio::start(stores, &Clock::system());
    eventually("a leader", || async { trio.leader().map(drop) }).await;
    trio.bays[0].alerts().put_rule(rule(3)).await.unwrap();
    trio.follower().metrics().add(Metric::SagasFailed, 6);
    let reached = async |phase: Phase| {
        eventually(phase.name(), || async { (trio.phase().await == phase).then_some(()) }).await;
    };
    reached(Phase::Pending).await;
    trio.leader().unwrap().leadership().resign().await.unwrap();
    reached(Phase::Firing).await;
    eventually("another leader", || async { trio.leader().map(drop) }).await;
    trio.leader().unwrap().leadership().resign().await.unwrap();
    let raised = Rule { threshold: 1e9, ..rule(3) };
    trio.bays[1].alerts().put_rule(raised).await.unwrap();
    reached(Phase::Resolved).await;
    eventually("both are told", || async { (trio.told().len() >= 2).then_some(()) }).await;
    let mut seen = vec![BTreeMap::new(); 3];
    for _ in 0..400 {
        for (all, new) in seen.iter_mut().zip(trio.events()) {
            for (name, count) in new {
                *all.entry(name).or_insert(0) += count;
            }
        }
        if seen.iter().all(|counts| counts.len() == 2) {
            break;
        }
        support::pause().await;
    }
    let once: BTreeMap<&str, usize> = [("alert_fired", 1), ("alert_resolved", 1)].into();
    assert_eq!(seen, vec![once; 3]);
    assert_eq!(trio.told(), ["firing", "resolved"]);
    trio.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_is_told_once_over_three_instances_on_sqlite() {
    let dir = tempfile::tempdir().unwrap();
    let open = |dir: &Path| -> Arc<dyn Store> {
        Arc::new(SqliteStore::open(&dir.join("a.db"), "alerts", Clock::system()).unwrap())
    };
    told_once_on((0..3).map(|_| open(dir.path())).collect()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_is_told_once_over_three_instances_on_redis() {
    let server = RedisServer::start_with(&["appendonly no"]);
    let mut stores: Vec<Arc<dyn Store>> = Vec::new();
    for _ in 0..3 {
        let store = RedisStore::open(&server.url(), "alerts", Clock::system()).await.unwrap();
        stores.push(Arc::new(store));
    }
    told_once_on(stores).await;
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_tells_once() {
    let clock = Clock::manual(2);
    let (mut trio, stores) = on_memory(&clock);
    settle().await;
    pass(&clock, 3).await;
    trio.bays[0].alerts().put_rule(rule(0)).await.unwrap();
    trio.follower().metrics().add(Metric::SagasFailed, 6);
    // For a while half of all answers are lost, on all instances.
    for store in &stores {
        store.set(Faults { reply_lost: 500, ..Faults::default() });
    }
    pass(&clock, 12).await;
    for store in &stores {
        store.set(Faults::default());
    }
    pass(&clock, 80).await;
    assert_eq!(trio.phase().await, Phase::Resolved);
    assert_eq!(trio.told(), ["firing", "resolved"]);
    for counts in trio.events() {
        assert!(counts.values().all(|count| *count == 1), "{counts:?}");
    }
    trio.end_stepped(&clock).await;
}

#[tokio::test]
async fn a_deleted_rule_resolves_once_and_a_silenced_alert_keeps_its_state() {
    let clock = Clock::manual(3);
    let (mut trio, _stores) = on_memory(&clock);
    settle().await;
    pass(&clock, 3).await;
    trio.bays[0].notifications().silence(silence(&clock)).await.unwrap();
    trio.bays[0].alerts().put_rule(rule(0)).await.unwrap();
    trio.follower().metrics().add(Metric::SagasFailed, 6);
    pass(&clock, 5).await;
    assert_eq!(trio.phase().await, Phase::Firing);
    assert!(trio.told().is_empty(), "it is silenced");
    trio.bays[2].alerts().delete_rule("failing").await.unwrap();
    pass(&clock, 5).await;
    let once: BTreeMap<&str, usize> = [("alert_fired", 1), ("alert_resolved", 1)].into();
    assert_eq!(trio.events(), vec![once; 3]);
    let error = trio.bays[1].alerts().rule("failing").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    trio.end_stepped(&clock).await;
}

fn silence(clock: &Clock) -> SilenceRequest {
    SilenceRequest {
        rules: "failing".into(),
        severities: Vec::new(),
        from: None,
        until: Some(clock.now() + Duration::from_secs(3_600)),
        lasts: None,
        window: None,
        actor: "test".into(),
        reason: "a test".into(),
    }
}

#[tokio::test]
async fn alerts_that_are_judged_are_no_issue_of_health() {
    let clock = Clock::manual(4);
    let (trio, _stores) = on_memory(&clock);
    settle().await;
    pass(&clock, 20).await;
    let health = trio.leader().unwrap().health().await;
    assert!(!health.issues.iter().any(|issue| issue.starts_with("alerts")), "{health:?}");
    assert_eq!(trio.leader().unwrap().metrics().value(Metric::AlertsFiring), 0);
    trio.end_stepped(&clock).await;
}

#[tokio::test]
async fn a_leader_that_judges_no_alerts_is_unhealthy() {
    let clock = Clock::manual(6);
    let memory = Memory::new(clock.clone());
    let store = Arc::new(Faulty::new(Arc::new(memory.client()), clock.clone()));
    // It goes on leading while the store does not answer.
    let config = Config { leader_ttl: Span(Duration::from_secs(60)), ..config() };
    let trio = Trio::start_with(&config, vec![Arc::clone(&store) as Arc<dyn Store>], &clock);
    settle().await;
    pass(&clock, 3).await;
    assert!(trio.bays[0].is_leader());
    store.set(Faults { refused: 1_000, ..Faults::default() });
    pass(&clock, 8).await;
    store.set(Faults::default());
    clock.advance(Duration::from_millis(10));
    let bay = trio.bays[0].clone();
    let health = tokio::spawn(async move { bay.health().await });
    settle().await;
    let health = health.await.unwrap();
    let issues = health.issues.iter();
    assert_eq!(issues.filter(|issue| issue.starts_with("alerts: none")).count(), 1, "{health:?}");
    pass(&clock, 3).await;
    let health = trio.bays[0].health().await;
    assert!(!health.issues.iter().any(|issue| issue.starts_with("alerts")), "{health:?}");
    trio.end_stepped(&clock).await;
}

#[tokio::test]
async fn a_state_that_cannot_be_read_keeps_no_alert_from_being_judged() {
    let clock = Clock::manual(7);
    let (trio, stores) = on_memory(&clock);
    settle().await;
    pass(&clock, 3).await;
    let key = Key::new(Partition::FIRST, Kind::new("alert-state"), "failing");
    let put = Write::Put { key, value: b"?".to_vec(), deadline: Deadline::Never };
    let commit = Commit::new(Partition::FIRST, vec![], vec![put], vec![]).unwrap();
    stores[0].commit(&commit).await.unwrap();
    trio.bays[0].alerts().put_rule(rule(0)).await.unwrap();
    trio.leader().unwrap().leadership().resign().await.unwrap();
    pass(&clock, 3).await;
    trio.follower().metrics().add(Metric::SagasFailed, 6);
    pass(&clock, 4).await;
    assert_eq!(trio.phase().await, Phase::Firing);
    assert_eq!(trio.told(), ["firing"]);
    trio.end_stepped(&clock).await;
}

#[tokio::test]
async fn a_ledger_that_does_not_come_to_zero_is_told_though_nobody_asks() {
    let clock = Clock::manual(8);
    let (trio, stores) = on_memory(&clock);
    let key = Key::new(Partition::FIRST, Kind::new("account"), "user/u/USD");
    let value = br#"{"balance":"10.01","held":"0.00"}"#.to_vec();
    let damage = Write::Put { key, value, deadline: Deadline::Never };
    let commit = Commit::new(Partition::FIRST, vec![], vec![damage], vec![]).unwrap();
    stores[0].commit(&commit).await.unwrap();
    let told = || trio.told_of("ledger_unbalanced");
    settle().await;
    pass(&clock, 60).await;
    assert_eq!(told(), ["firing"]);
    trio.leader().unwrap().leadership().resign().await.unwrap();
    pass(&clock, 90).await;
    assert_eq!(told(), ["firing"], "another leader finds the same");
    trio.end_stepped(&clock).await;
}

#[tokio::test]
async fn a_back_test_lets_others_work_and_a_second_one_waits_for_another_time() {
    let clock = Clock::manual(6);
    let (trio, _stores) = on_memory(&clock);
    settle().await;
    pass(&clock, 20).await;
    let (alerts, worked) = (trio.bays[0].alerts(), Arc::new(AtomicUsize::new(0)));
    let worker = tokio::spawn({
        let worked = Arc::clone(&worked);
        async move {
            loop {
                worked.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        }
    });
    let (first, second) = tokio::join!(alerts.test(rule(0), 60), alerts.test(rule(0), 60));
    worker.abort();
    let evaluations = first.unwrap().evaluations;
    let worked = worked.load(Ordering::Relaxed);
    assert!(evaluations > 1_000 && worked > 50, "{evaluations} rounds, {worked} turns of others");
    assert_eq!(second.unwrap_err().kind(), ErrorKind::Busy);
    alerts.test(rule(0), 1).await.unwrap();
    trio.end_stepped(&clock).await;
}

#[tokio::test]
async fn a_back_test_says_when_a_rule_would_have_fired() {
    let clock = Clock::manual(5);
    let (trio, _stores) = on_memory(&clock);
    settle().await;
    pass(&clock, 5).await;
    trio.follower().metrics().add(Metric::SagasFailed, 6);
    pass(&clock, 90).await;
    let tested = trio.bays[0].alerts().test(rule(0), 5).await.unwrap();
    assert_eq!((tested.times_fired, tested.fires_now), (1, false), "{tested:?}");
    assert_eq!(tested.transitions.len(), 2);
    let wrong = trio.bays[0].alerts().test(rule(0), 0).await.unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::Invalid);
    trio.end_stepped(&clock).await;
}
