//! Keys of others on the same server, as the sweeper treats them: on a pretended server that says
//! what it was asked.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod support {
    pub mod stepped;
}

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lockbay::config::Config;
use lockbay::config::Span;
use lockbay::store::{
    Commit, Description, Footprint, Foreign, ForeignRule, ForeignSwept, Hints, Key, Kind, Page,
    Partition, Pong, Range, Read, Reclaimed, Reply, Store, Upkeep,
};
use lockbay::sweep::{Expiring, Mode, Report, Rule, RunRequest};
use lockbay::{Error, ErrorKind, LockBay, Result};
use parking_lot::Mutex;
use support::stepped::World;

const HOUR: Duration = Duration::from_secs(3_600);

/// A key of somebody else.
#[derive(Debug, Clone, Copy)]
struct Other {
    idle: Duration,
    expires: bool,
}

/// A store whose server others use, too.
struct Shared {
    inner: Arc<dyn Store>,
    others: Mutex<BTreeMap<String, Other>>,
    /// What there was when the pass began: what is deleted meanwhile moves nothing else.
    scanned: Mutex<Vec<String>>,
    /// The most keys that one call was to look at, or to delete.
    most: Mutex<(usize, usize)>,
    /// Whether it answers nothing any more.
    hangs: Mutex<bool>,
}

#[async_trait]
impl Store for Shared {
    async fn get(&self, keys: &[Key]) -> Result<Read> {
        self.inner.get(keys).await
    }
    async fn scan(&self, range: &Range, limit: usize) -> Result<Page> {
        self.inner.scan(range, limit).await
    }
    async fn due(&self, partition: Partition, kind: Kind, limit: usize) -> Result<Page> {
        self.inner.due(partition, kind, limit).await
    }
    async fn commit(&self, commit: &Commit) -> Result<Reply> {
        self.inner.commit(commit).await
    }
    async fn watch(&self, range: &Range) -> Result<Hints> {
        self.inner.watch(range).await
    }
    async fn ping(&self) -> Result<Pong> {
        self.inner.ping().await
    }
    fn describe(&self) -> Description {
        self.inner.describe()
    }
    fn upkeep(&self) -> &dyn Upkeep {
        self
    }
    async fn accept(&self) -> Result<()> {
        self.inner.accept().await
    }
    async fn close(&self) {
        self.inner.close().await;
    }
}

#[async_trait]
impl Upkeep for Shared {
    async fn count(&self, partition: Partition, kind: Kind) -> Result<u64> {
        self.inner.upkeep().count(partition, kind).await
    }
    async fn weigh(&self, keys: &[Key]) -> Result<u64> {
        self.inner.upkeep().weigh(keys).await
    }
    async fn footprint(&self) -> Result<Footprint> {
        self.inner.upkeep().footprint().await
    }
    async fn reclaim(&self) -> Result<Reclaimed> {
        self.inner.upkeep().reclaim().await
    }
    fn foreign(&self) -> Option<&dyn Foreign> {
        Some(self)
    }
}

#[async_trait]
impl Foreign for Shared {
    async fn keys(&self, glob: &str, cursor: u64, count: usize) -> Result<(u64, Vec<Vec<u8>>)> {
        let (prefix, rest) = glob.split_once('*').unwrap();
        assert!(rest.is_empty(), "this server knows prefixes only");
        if *self.hangs.lock() {
            std::future::pending::<()>().await;
        }
        let mut most = self.most.lock();
        most.0 = most.0.max(count);
        drop(most);
        let others = self.others.lock();
        let mut scanned = self.scanned.lock();
        if cursor == 0 {
            *scanned = others.keys().cloned().collect();
        }
        let from = usize::try_from(cursor).unwrap();
        let next = if from + count >= scanned.len() { 0 } else { cursor + count as u64 };
        let mut found: Vec<Vec<u8>> = Vec::new();
        let matching = |key: &&String| key.starts_with(prefix) && others.contains_key(*key);
        for key in scanned.iter().skip(from).take(count).filter(matching) {
            // A server may show a key twice.
            found.push(key.clone().into_bytes());
            found.push(key.clone().into_bytes());
        }
        Ok((next, found))
    }

    async fn sweep(&self, keys: &[Vec<u8>], rule: &ForeignRule) -> Result<ForeignSwept> {
        let leader = self.inner.get(std::slice::from_ref(&rule.fence.key)).await?;
        let held = leader.records[0].as_ref().is_some_and(|r| r.revision == rule.fence.token);
        if !held {
            return Err(Error::new(ErrorKind::Fenced, "the right is gone"));
        }
        let mut most = self.most.lock();
        most.1 = most.1.max(keys.len());
        drop(most);
        let (mut swept, mut others) = (ForeignSwept::default(), self.others.lock());
        for key in keys {
            let key = String::from_utf8(key.clone()).unwrap();
            let Some(other) = others.get(&key).copied() else { continue };
            if other.expires && !rule.expiring {
                swept.expiring += 1;
            } else if other.idle < rule.idle {
                swept.young += 1;
            } else {
                (swept.cleaned, swept.bytes) = (swept.cleaned + 1, swept.bytes + 1_000);
                if !rule.dry_run {
                    others.remove(&key);
                }
            }
        }
        Ok(swept)
    }
}

async fn leader(world: &World, config: Config) -> (LockBay, Arc<Shared>) {
    let inner: Arc<dyn Store> = Arc::new(world.memory.client());
    let shared = Shared {
        inner,
        others: Mutex::default(),
        scanned: Mutex::default(),
        most: Mutex::default(),
        hangs: Mutex::default(),
    };
    let shared = Arc::new(shared);
    let bay = LockBay::with_store(config, shared.clone(), world.clock.clone());
    bay.start();
    world.pass_by(Duration::from_millis(100), Duration::from_secs(2)).await;
    assert!(bay.is_leader());
    (bay, shared)
}

fn fill(shared: &Shared) {
    let other = |idle, expires| Other { idle, expires };
    let mut others = shared.others.lock();
    for n in 0..1_000 {
        others.insert(format!("cache:{n}"), other(HOUR * 2, false));
        others.insert(format!("app:{n}"), other(HOUR * 9_999, false));
    }
    for kind in ["session", "saga", "job_execution", "idempotency", "leader_election"] {
        others.insert(format!("{kind}:old"), other(HOUR * 9_999, false));
        others.insert(format!("{kind}:young"), other(Duration::from_secs(5), false));
    }
    others.insert("cache:expires".into(), other(HOUR * 2, true));
}

fn count(shared: &Shared, prefix: &str) -> usize {
    shared.others.lock().keys().filter(|key| key.starts_with(prefix)).count()
}

async fn run(world: &World, bay: &LockBay, request: RunRequest) -> Report {
    let sweeper = bay.sweeper().clone();
    let run = tokio::spawn(async move { sweeper.run(request).await.unwrap() });
    while !run.is_finished() {
        world.pass(Duration::from_millis(20)).await;
    }
    run.await.unwrap()
}

#[tokio::test]
async fn of_the_keys_of_others_only_what_is_disposable_and_unused_goes() {
    let world = World::new(1);
    let (bay, shared) = leader(&world, Config::default()).await;
    fill(&shared);
    let dry = RunRequest { mode: Mode::DryRun, ..RunRequest::default() };
    let told = run(&world, &bay, dry).await;
    assert_eq!(count(&shared, "cache:"), 1_001, "a dry run deletes nothing");
    let done = run(&world, &bay, RunRequest::default()).await;
    assert_eq!(told.keys_by_type, done.keys_by_type);
    assert_eq!(done.keys_by_type, [("cache".into(), 1_000), ("session".into(), 1)].into());
    assert_eq!((told.total_scanned, done.total_scanned), (1_003, 1_003));
    assert_eq!(done.bytes_freed, 1_001_000, "as measured by the server");
    let cache = done.rules.iter().find(|rule| rule.rule == "cache").unwrap();
    assert_eq!(cache.kept, [("it has an expiry".to_owned(), 1)].into());
    for kept in ["saga:", "job_execution:", "idempotency:", "leader_election:"] {
        assert_eq!(count(&shared, kept), 2, "{kept} may be unfinished work of others");
    }
    assert_eq!((count(&shared, "app:"), count(&shared, "session:")), (1_000, 1));
    let (looked_at, deleted) = *shared.most.lock();
    assert!(looked_at <= 2_000 && deleted <= 500, "{looked_at} {deleted}");
}

#[tokio::test]
async fn keys_with_an_expiry_go_only_where_a_rule_says_so() {
    let world = World::new(1);
    let (bay, shared) = leader(&world, Config::default()).await;
    fill(&shared);
    let rule = Rule { expiring: Expiring::Include, ..Rule::new("mine", "cache:e*", HOUR) };
    bay.sweeper().put_rule(rule).await.unwrap();
    let wish = RunRequest { rule: Some("mine".into()), ..RunRequest::default() };
    assert_eq!(run(&world, &bay, wish).await.total_cleaned, 1);
    assert_eq!(count(&shared, "cache:"), 1_000);
}

#[tokio::test]
async fn a_pattern_narrows_a_run_and_a_setting_leaves_keys_of_others_alone() {
    let world = World::new(1);
    let (bay, shared) = leader(&world, Config::default()).await;
    fill(&shared);
    let wish = RunRequest { pattern: Some("*:99?".into()), ..RunRequest::default() };
    assert_eq!(run(&world, &bay, wish).await.total_cleaned, 10);
    let world = World::new(2);
    let config = Config { cleanup_foreign_keys: false, ..Config::default() };
    let (bay, shared) = leader(&world, config).await;
    fill(&shared);
    assert_eq!(run(&world, &bay, RunRequest::default()).await.total_cleaned, 0);
    assert_eq!(count(&shared, ""), 2_011);
}

#[tokio::test]
async fn cleanup_that_stands_still_is_unhealthy_and_a_long_pass_is_not() {
    let world = World::new(1);
    let interval = Span(Duration::from_secs(10));
    let config = Config { cleanup_interval: interval, ..Config::default() };
    let (bay, shared) = leader(&world, config).await;
    world.pass_by(Duration::from_millis(200), Duration::from_secs(60)).await;
    assert!(bay.health().await.cleanup_service_healthy);
    *shared.hangs.lock() = true;
    world.pass_by(Duration::from_millis(200), Duration::from_secs(60)).await;
    let health = bay.health().await;
    assert!(!health.cleanup_service_healthy && !health.overall_healthy);
    let told = health.issues.iter().find(|told| told.starts_with("cleanup:")).unwrap();
    assert!(told.contains("has not come on"), "{told}");
}

/// Whoever runs everything with a time of zero does not mean keys that are in use.
#[tokio::test]
async fn a_run_of_everything_does_not_shorten_the_time_of_keys_of_others() {
    let world = World::new(1);
    let (bay, shared) = leader(&world, Config::default()).await;
    fill(&shared);
    let all = RunRequest { ttl: Some(Duration::ZERO), ..RunRequest::default() };
    run(&world, &bay, all.clone()).await;
    assert_eq!(count(&shared, "session:young"), 1);
    run(&world, &bay, RunRequest { rule: Some("session".into()), ..all }).await;
    assert_eq!(count(&shared, "session:young"), 0, "somebody named it");
}
