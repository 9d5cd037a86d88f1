//! Notifications over leaders that die on either side of their commits: three instances on one
//! store, an evaluator that flips alerts and keeps the history of its moves in the same commit as
//! what is to be told of them, and a receiver that fails now and then.
//!
//! A run follows from its seed, which a failure prints. After the storm, every move of the history
//! must have arrived, under one identity alone, and ends behind their firings.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // a test fails by panicking, and tells figures

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lockbay::clock::Clock;
use lockbay::config::{Config, Span};
use lockbay::monitor::alert::{Firing, Severity, Transition, Turn};
use lockbay::monitor::notify::{Channel, Notice, NoticeStatus, Status, Undelivered};
use lockbay::store::faulty::{Cut, Faults, Faulty};
use lockbay::store::memory::Memory;
use lockbay::store::{
    Commit, Deadline, Guard, Key, Kind, Partition, Range, Reply, Store, Write, open,
};
use lockbay::{ErrorKind, LockBay};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use support::redis::RedisServer;

const STATE: Kind = Kind::new("sim-state");
const MOVE: Kind = Kind::new("sim-move");
const RULES: [(&str, Option<&str>); 4] =
    [("r0", Some("pair")), ("r1", Some("pair")), ("r2", None), ("r3", None)];

/// What fires, as the evaluator keeps it.
#[derive(Default, Serialize, Deserialize)]
struct Kept {
    episodes: u64,
    firing: Vec<Firing>,
}

/// Where people are told: every arrival in order, whoever delivered it.
#[derive(Clone, Default)]
struct Receiver {
    arrived: Arc<Mutex<Vec<Notice>>>,
    calm: Arc<AtomicBool>,
}

struct Way {
    receiver: Receiver,
    clock: Clock,
    alive: Arc<AtomicBool>,
}

#[async_trait::async_trait]
impl Channel for Way {
    fn name(&self) -> &str {
        "people"
    }

    async fn deliver(&self, notice: &Notice) -> Result<(), Undelivered> {
        let dice = self.clock.random() % 10;
        if !self.receiver.calm.load(Ordering::Relaxed) {
            if dice == 0 {
                return Err(Undelivered::for_now("chance"));
            }
            self.clock.sleep(Duration::from_millis(self.clock.random() % 20)).await;
        }
        if !self.alive.load(Ordering::Relaxed) {
            std::future::pending::<()>().await; // its process is gone
        }
        self.receiver.arrived.lock().push(notice.clone());
        match dice {
            // It arrived, and the answer did not.
            1 if !self.receiver.calm.load(Ordering::Relaxed) => {
                Err(Undelivered::for_now("the answer was lost"))
            }
            _ => Ok(()),
        }
    }
}

struct Member {
    bay: LockBay,
    store: Arc<Faulty>,
    alive: Arc<AtomicBool>,
}

struct Storm {
    clock: Clock,
    /// Gives each instance a connection of its own.
    connect: Box<dyn Fn() -> Arc<dyn Store>>,
    receiver: Receiver,
    members: Vec<Member>,
    wait: Duration,
    ttl: Duration,
    crashes: usize,
}

impl Storm {
    fn member(&self) -> Member {
        let config = Config {
            // The test judges alerts itself, so nobody else does.
            monitoring: false,
            leader_ttl: Span(self.ttl),
            alert_group_wait: Span(self.wait),
            alert_min_severity: "info".into(),
            ..Config::default()
        };
        let store = Arc::new(Faulty::new((self.connect)(), self.clock.clone()));
        let bay = LockBay::with_store(config, store.clone(), self.clock.clone());
        let alive = Arc::new(AtomicBool::new(true));
        let (receiver, clock) = (self.receiver.clone(), self.clock.clone());
        let way = Way { receiver, clock, alive: Arc::clone(&alive) };
        bay.notifications().tell_through(Arc::new(way)).unwrap();
        bay.start();
        Member { bay, store, alive }
    }

    /// Lets others work, and on a stepped clock time pass.
    async fn pass(&self, time: Duration) {
        if format!("{:?}", self.clock) == "Clock::System" {
            self.clock.sleep(time).await;
            return;
        }
        let step = Duration::from_millis(10);
        let mut left = time;
        while !left.is_zero() {
            self.clock.advance(step.min(left));
            left = left.saturating_sub(step);
            for _ in 0..40 {
                tokio::task::yield_now().await;
            }
        }
    }

    async fn leader(&self) -> usize {
        for _ in 0..10_000 {
            let leads = |member: &Member| member.bay.is_leader() && !member.store.is_dead();
            if let Some(leader) = self.members.iter().position(leads) {
                return leader;
            }
            self.pass(Duration::from_millis(10)).await;
        }
        panic!("nobody leads");
    }

    /// One evaluation of the leader, whatever becomes of its commit.
    async fn evaluate(&self, leader: usize) -> lockbay::Result<()> {
        let bay = &self.members[leader].bay;
        let Some(fence) = bay.leadership().fence() else { return Ok(()) };
        let state = Key::new(Partition::FIRST, STATE, "all");
        let read = bay.store().get(std::slice::from_ref(&state)).await?;
        let record = read.records.into_iter().flatten().next();
        let mut kept: Kept = match &record {
            Some(record) => serde_json::from_slice(&record.value).unwrap(),
            None => Kept::default(),
        };
        let mut moves = Vec::new();
        for (rule, group) in RULES {
            if self.clock.random().is_multiple_of(3) {
                moves.push(flip(&mut kept, rule, group, read.now));
            }
        }
        let notifier = bay.notifications();
        let mut effects = notifier.effects(&moves, &kept.firing, read.now).await?;
        effects.guards.push(Guard::Held(fence));
        effects.guards.push(match record {
            Some(record) => Guard::RevisionIs(state.clone(), record.revision),
            None => Guard::Absent(state.clone()),
        });
        let put = |key, value| Write::Put { key, value, deadline: Deadline::Never };
        effects.writes.push(put(state, serde_json::to_vec(&kept).unwrap()));
        for step in &moves {
            let id = format!("{}/{}/{:?}", step.rule, step.episode, step.turn);
            let key = Key::new(Partition::FIRST, MOVE, id);
            effects.guards.push(Guard::Absent(key.clone()));
            effects.writes.push(put(key, serde_json::to_vec(step).unwrap()));
        }
        let commit = Commit::new(Partition::FIRST, effects.guards, effects.writes, Vec::new())?;
        if let Reply::Committed { .. } = bay.store().commit(&commit).await? {
            notifier.committed();
        }
        Ok(())
    }

    /// The leader dies on one side of one of its next commits.
    async fn crash(&mut self, leader: usize) {
        let cut = if self.clock.random().is_multiple_of(2) { Cut::Before } else { Cut::After };
        self.members[leader].store.die_at(1 + self.clock.random() % 3, cut);
        for _ in 0..200 {
            if self.members[leader].store.is_dead() {
                break;
            }
            drop(self.evaluate(leader).await);
            self.pass(Duration::from_millis(5)).await;
        }
        self.members[leader].store.die();
        self.members[leader].alive.store(false, Ordering::Relaxed);
        self.crashes += 1;
        // What was in its memory is gone.
        let fresh = self.member();
        let dead = std::mem::replace(&mut self.members[leader], fresh);
        let clock = self.clock.clone();
        tokio::spawn(async move {
            clock.timeout(Duration::from_secs(2), dead.bay.shutdown()).await;
        });
    }

    async fn rage(&mut self, crashes: usize) {
        while self.crashes < crashes {
            let leader = self.leader().await;
            let store = Arc::clone(&self.members[leader].store);
            store.set(Faults { refused: 30, reply_lost: 30, request_lost: 30 });
            for _ in 0..3 {
                drop(self.evaluate(leader).await);
                self.pass(Duration::from_millis(20)).await;
            }
            self.crash(leader).await;
        }
    }

    /// Heals everything, and waits until nothing is left to be told.
    async fn calm_down(&self) {
        self.receiver.calm.store(true, Ordering::Relaxed);
        for member in &self.members {
            member.store.set(Faults::default());
        }
        for _ in 0..3_000 {
            let leader = self.leader().await;
            let bay = &self.members[leader].bay;
            let quiet = self.quiet_round(leader).await;
            let list = bay.notifications().notices(NoticeStatus::Pending, None, 1).await;
            if quiet.is_ok() && list.is_ok_and(|page| page.items.is_empty() && page.next.is_none())
            {
                return;
            }
            self.pass(Duration::from_millis(100)).await;
        }
        panic!("something is still to be told");
    }

    /// An evaluation in which nothing moves; an error as long as something waits for its group.
    async fn quiet_round(&self, leader: usize) -> lockbay::Result<()> {
        let bay = &self.members[leader].bay;
        let state = Key::new(Partition::FIRST, STATE, "all");
        let read = bay.store().get(&[state]).await?;
        let record = read.records.into_iter().flatten().next().unwrap();
        let kept: Kept = serde_json::from_slice(&record.value).unwrap();
        let mut effects = bay.notifications().effects(&[], &kept.firing, read.now).await?;
        let Some(fence) = bay.leadership().fence() else {
            return Err(lockbay::Error::new(ErrorKind::Held, "it leads no longer"));
        };
        let empty = effects.is_empty();
        effects.guards.push(Guard::Held(fence));
        let commit = Commit::new(Partition::FIRST, effects.guards, effects.writes, Vec::new())?;
        if !empty {
            bay.store().commit(&commit).await?;
        }
        // Groups may wait, and empty effects say only that none is due.
        let waits = self.wait > Duration::ZERO;
        if waits {
            self.pass(self.wait * 2).await;
            let later = bay.notifications().effects(&[], &kept.firing, read.now + self.wait * 2);
            if !later.await?.is_empty() {
                return Err(lockbay::Error::new(ErrorKind::Held, "a group waits"));
            }
        }
        Ok(())
    }

    async fn history(&self) -> BTreeSet<(String, u64, Status)> {
        let store = (self.connect)();
        let (mut history, mut after) = (BTreeSet::new(), None);
        loop {
            let range = Range::new(Partition::FIRST, MOVE, "").after(after);
            let page = store.scan(&range, 500).await.unwrap();
            for record in &page.records {
                let step: Transition = serde_json::from_slice(&record.value).unwrap();
                let status = match step.turn {
                    Turn::Fired => Status::Firing,
                    Turn::Resolved => Status::Resolved,
                };
                history.insert((step.rule, step.episode, status));
            }
            if !page.more {
                return history;
            }
            after = page.records.last().map(|record| record.key.id.to_string());
        }
    }

    /// Every move arrived, each under one identity alone, and ends behind their firings.
    async fn check(&self) -> (usize, usize) {
        let arrived = self.receiver.arrived.lock().clone();
        let mut ids: BTreeMap<(String, u64, Status), BTreeSet<String>> = BTreeMap::new();
        let mut contents: BTreeMap<String, Notice> = BTreeMap::new();
        for notice in &arrived {
            let first = contents.entry(notice.id.clone()).or_insert_with(|| notice.clone());
            assert_eq!(first, notice, "one identity, one content");
            for alert in &notice.alerts {
                let step = (alert.rule.clone(), alert.episode, alert.state);
                if alert.state == Status::Resolved {
                    let fire = (alert.rule.clone(), alert.episode, Status::Firing);
                    assert!(ids.contains_key(&fire), "{step:?} came before its firing");
                }
                ids.entry(step).or_default().insert(notice.id.clone());
            }
        }
        let history = self.history().await;
        let told: BTreeSet<_> = ids.keys().cloned().collect();
        let lost: Vec<_> = history.difference(&told).collect();
        let invented: Vec<_> = told.difference(&history).collect();
        assert!(lost.is_empty() && invented.is_empty(), "lost {lost:?}, invented {invented:?}");
        for (step, ids) in &ids {
            assert_eq!(ids.len(), 1, "{step:?} has several identities: {ids:?}");
        }
        let dead = self.members[0].bay.notifications().notices(NoticeStatus::Dead, None, 1).await;
        assert!(dead.unwrap().items.is_empty());
        (history.len(), arrived.len())
    }
}

fn flip(
    kept: &mut Kept,
    rule: &str,
    group: Option<&str>,
    at: lockbay::clock::Timestamp,
) -> Transition {
    let place = kept.firing.iter().position(|alert| alert.rule == rule);
    let (turn, episode) = match place {
        Some(place) => (Turn::Resolved, kept.firing.remove(place).episode),
        None => {
            kept.episodes += 1;
            let labels = group.map(|group| ("group".to_owned(), group.to_owned()));
            kept.firing.push(Firing {
                rule: rule.into(),
                severity: Severity::Error,
                labels: labels.into_iter().collect(),
                since: at,
                episode: kept.episodes,
                value: Some(1.0),
                summary: "too many".into(),
            });
            (Turn::Fired, kept.episodes)
        }
    };
    let (rule, value, summary) = (rule.to_owned(), None, "moved".to_owned());
    Transition { rule, severity: Severity::Error, turn, episode, at, value, summary }
}

async fn storm(
    clock: Clock,
    connect: Box<dyn Fn() -> Arc<dyn Store>>,
    wait: Duration,
    ttl: Duration,
    crashes: usize,
) -> (usize, usize) {
    let (receiver, members) = (Receiver::default(), Vec::new());
    let mut storm = Storm { clock, connect, receiver, members, wait, ttl, crashes: 0 };
    for _ in 0..3 {
        let member = storm.member();
        storm.members.push(member);
    }
    storm.rage(crashes).await;
    storm.calm_down().await;
    let told = storm.check().await;
    for member in &storm.members {
        storm.clock.timeout(Duration::ZERO, member.bay.shutdown()).await;
    }
    told
}

#[tokio::test]
async fn no_notification_is_lost_or_told_under_two_names_over_500_crashes_in_memory() {
    let (mut moves, mut arrivals) = (0, 0);
    for seed in 0..50 {
        println!("seed {seed}");
        let clock = Clock::manual(seed);
        let memory = Memory::new(clock.clone());
        let connect = Box::new(move || -> Arc<dyn Store> { Arc::new(memory.client()) });
        let wait = Duration::from_millis(if seed % 2 == 0 { 0 } else { 300 });
        let told = storm(clock, connect, wait, Duration::from_millis(500), 10).await;
        (moves, arrivals) = (moves + told.0, arrivals + told.1);
    }
    println!("500 crashes: {moves} moves, {arrivals} arrivals");
    assert!(moves > 2_000, "{moves}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_notification_is_lost_or_told_under_two_names_over_crashes_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("lockbay.db").display());
    let clock = Clock::system();
    let store = open(&url, &clock).await.unwrap();
    let connect = Box::new(move || -> Arc<dyn Store> { Arc::new(Shared(Arc::clone(&store))) });
    let told = storm(clock, connect, Duration::ZERO, Duration::from_millis(500), 30).await;
    println!("30 crashes: {} moves, {} arrivals", told.0, told.1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_notification_is_lost_or_told_under_two_names_over_crashes_on_redis() {
    let redis = RedisServer::start();
    let clock = Clock::system();
    let store = open(&redis.url(), &clock).await.unwrap();
    let connect = Box::new(move || -> Arc<dyn Store> { Arc::new(Shared(Arc::clone(&store))) });
    let told = storm(clock, connect, Duration::ZERO, Duration::from_millis(500), 30).await;
    println!("30 crashes: {} moves, {} arrivals", told.0, told.1);
}

/// One open store for all instances, which none of them closes.
struct Shared(Arc<dyn Store>);

#[async_trait::async_trait]
impl Store for Shared {
    async fn get(&self, keys: &[Key]) -> lockbay::Result<lockbay::store::Read> {
        self.0.get(keys).await
    }
    async fn scan(&self, range: &Range, limit: usize) -> lockbay::Result<lockbay::store::Page> {
        self.0.scan(range, limit).await
    }
    async fn due(
        &self,
        partition: Partition,
        kind: Kind,
        limit: usize,
    ) -> lockbay::Result<lockbay::store::Page> {
        self.0.due(partition, kind, limit).await
    }
    async fn commit(&self, commit: &Commit) -> lockbay::Result<Reply> {
        self.0.commit(commit).await
    }
    async fn watch(&self, range: &Range) -> lockbay::Result<lockbay::store::Hints> {
        self.0.watch(range).await
    }
    async fn ping(&self) -> lockbay::Result<lockbay::store::Pong> {
        self.0.ping().await
    }
    fn describe(&self) -> lockbay::store::Description {
        self.0.describe()
    }
    fn upkeep(&self) -> &dyn lockbay::store::Upkeep {
        self.0.upkeep()
    }
    async fn accept(&self) -> lockbay::Result<()> {
        self.0.accept().await
    }
    async fn close(&self) {}
}
