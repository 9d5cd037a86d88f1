//! Leadership over several server processes that are killed, frozen, and asked to resign.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // a test fails by panicking, and tells its figures

#[path = "../../lockbay/tests/support/mod.rs"]
mod stores;
mod support;

use std::collections::HashMap;
use std::time::Duration;

use lockbay::clock::{Clock, Tick};
use serde_json::{Value, json};
use stores::redis::RedisServer;
use support::{Server, eventually, size};

const TTL: Duration = Duration::from_secs(1);
/// Where leadership is handed over: so long that what has lapsed does not pass for that.
const LONG_TTL: Duration = Duration::from_secs(60);
/// How often each is measured; `LOCKBAY_LEADER_ROUNDS` has the tests measure more often.
const ROUNDS: usize = 12;

/// Servers on one store, and every token that anybody was seen to hold.
struct Cluster {
    store: String,
    ttl: Duration,
    servers: Vec<Server>,
    clock: Clock,
    holders: HashMap<u64, String>,
}

/// Who leads, as the store says.
struct Leader {
    place: usize,
    token: u64,
}

impl Cluster {
    fn start(store: &str, ttl: Duration) -> Self {
        let mut cluster = Cluster {
            store: store.into(),
            ttl,
            servers: Vec::new(),
            clock: Clock::system(),
            holders: HashMap::new(),
        };
        for _ in 0..3 {
            cluster.add();
        }
        cluster
    }

    fn add(&mut self) {
        let ttl = format!("{}", self.ttl.as_secs_f64());
        let environment = [("REDIS_LEADER_ELECTION_TTL", ttl.as_str())];
        self.servers.push(Server::start_with(&["--store", &self.store], &environment));
    }

    /// The leader, once there is one whose token is above `above`; asks the servers at `places`.
    fn leader(&mut self, places: &[usize], above: u64) -> (Leader, Tick) {
        let found = eventually("another leads", || self.leading(places, above));
        self.note(found)
    }

    /// As [`leader`](Cluster::leader), if there is one within this time.
    fn leader_within(&mut self, limit: Duration, places: &[usize], above: u64) -> Option<Leader> {
        let began = self.clock.tick();
        while self.clock.tick().since(began) < limit {
            if let Some(found) = self.leading(places, above) {
                return Some(self.note(found).0);
            }
        }
        None
    }

    fn leading(&self, places: &[usize], above: u64) -> Option<(usize, u64, Value)> {
        places.iter().find_map(|place| {
            let leader = self.servers[*place].leader()?;
            let token: u64 = leader["fencing_token"].as_str()?.parse().ok()?;
            (leader["is_self"] == true && token > above).then_some((*place, token, leader))
        })
    }

    /// The leader, and a job that only it may claim. One that others held up so long that its trust
    /// has ended is asked again.
    fn leader_with_a_job(&mut self, key: &str) -> (Leader, Value) {
        let claim = json!({
            "job_type": "reconcile", "job_key": key, "parameters": null,
            "leader_only": true, "claim_ttl_seconds": 600,
        });
        let (found, claimed) = eventually("whoever is elected leads", || {
            let found = self.leading(&self.all(), 0)?;
            let claimed = self.servers[found.0].post("/v1/jobs/claim", &claim.to_string());
            (claimed.status != 409).then(|| (found, claimed.ok()))
        });
        (self.note(found).0, claimed)
    }

    fn note(&mut self, found: (usize, u64, Value)) -> (Leader, Tick) {
        let seen = self.clock.tick();
        let (place, token, leader) = found;
        let instance = leader["instance_id"].as_str().unwrap().to_owned();
        let before = self.holders.insert(token, instance.clone());
        assert!(before.is_none_or(|before| before == instance), "two held token {token}");
        (Leader { place, token }, seen)
    }

    fn all(&self) -> Vec<usize> {
        (0..self.servers.len()).collect()
    }
}

fn rounds() -> usize {
    size("LOCKBAY_LEADER_ROUNDS", ROUNDS)
}

/// What is held to the promise, and the worst. That is the worst but one where
/// `LOCKBAY_LEADER_ROUNDS` asks for as many rounds as the promise speaks of, on a machine that does
/// nothing else; elsewhere a machine may hold any two of them up, and it is the median.
fn judged(times: &mut [Duration]) -> (Duration, Duration) {
    times.sort_unstable();
    let last = times.len() - 1;
    let place = if times.len() >= 30 { last - 1 } else { last / 2 };
    (times[place], times[last])
}

fn another_leads_soon_after_the_leader_is_killed(store: &str) {
    let mut cluster = Cluster::start(store, TTL);
    let mut times = Vec::new();
    let (mut leader, _) = cluster.leader(&cluster.all(), 0);
    for _ in 0..rounds() {
        let killed_at = cluster.clock.tick();
        let mut killed = cluster.servers.remove(leader.place);
        killed.kill9();
        let (next, seen) = cluster.leader(&cluster.all(), leader.token);
        times.push(seen.since(killed_at));
        leader = next;
        cluster.add();
    }
    let (most, worst) = judged(&mut times);
    println!(
        "failover after kill -9, TTL {TTL:?}: median {:?}, worst {worst:?}",
        times[times.len() / 2]
    );
    assert!(most <= TTL + Duration::from_millis(200), "{times:?}");
}

#[test]
fn another_leads_within_ttl_and_a_fifth_of_a_second_after_kill_9_on_redis() {
    let redis = RedisServer::start();
    another_leads_soon_after_the_leader_is_killed(&redis.url());
}

#[test]
fn another_leads_within_ttl_and_a_fifth_of_a_second_after_kill_9_on_sqlite() {
    let dir = tempfile::tempdir().unwrap();
    let store = format!("sqlite:{}", dir.path().join("leader.db").display());
    another_leads_soon_after_the_leader_is_killed(&store);
}

fn resigning_hands_over_at_once(store: &str) {
    let mut cluster = Cluster::start(store, LONG_TTL);
    let mut times = Vec::new();
    let (mut leader, _) = cluster.leader(&cluster.all(), 0);
    for _ in 0..rounds() {
        let resigned_at = cluster.clock.tick();
        cluster.servers[leader.place].post("/v1/leader/resign", "").ok();
        let others: Vec<usize> = cluster.all().into_iter().filter(|n| *n != leader.place).collect();
        let (next, seen) = cluster.leader(&others, leader.token);
        times.push(seen.since(resigned_at));
        leader = next;
        // The one that resigned holds back for a moment; let it come back into the race.
        support::eventually("the resigned one follows", || {
            let wait = cluster.clock.tick().since(resigned_at) > Duration::from_millis(600);
            wait.then_some(())
        });
    }
    let (most, worst) = judged(&mut times);
    println!("graceful handover: median {:?}, worst {worst:?}", times[times.len() / 2]);
    assert!(most <= Duration::from_millis(50), "{times:?}");
}

#[test]
fn resigning_hands_over_within_50_ms_on_redis() {
    let redis = RedisServer::start();
    resigning_hands_over_at_once(&redis.url());
}

#[test]
fn resigning_hands_over_within_50_ms_on_sqlite() {
    let dir = tempfile::tempdir().unwrap();
    resigning_hands_over_at_once(&format!("sqlite:{}", dir.path().join("leader.db").display()));
}

fn a_frozen_leader_is_refused_when_it_wakes(store: &str) {
    let mut cluster = Cluster::start(store, TTL);
    let (mut round, mut unlucky) = (0, 0);
    while round < 10 {
        let (leader, claimed) = cluster.leader_with_a_job(&format!("{round}-{unlucky}"));
        cluster.servers[leader.place].sigstop();
        let others: Vec<usize> = cluster.all().into_iter().filter(|n| *n != leader.place).collect();
        if cluster.leader_within(TTL * 4, &others, leader.token).is_none() {
            // One that freezes while it writes to a SQLite file stops all others, as
            // docs/semantics.md says; that is not what this is about.
            cluster.servers[leader.place].sigcont();
            unlucky += 1;
            assert!(store.starts_with("sqlite:") && unlucky <= 3, "nobody else leads");
            println!("it froze while it wrote");
            continue;
        }
        round += 1;
        let zombie = &cluster.servers[leader.place];
        zombie.sigcont();
        // The first thing it is asked: whether it believes that it leads.
        let metrics = zombie.get("/api/advanced-state/metrics").json();
        assert_eq!(metrics["is_leader"], Value::Bool(false), "round {round}: a zombie leads");
        let job = claimed["job_id"].as_str().unwrap();
        let complete = json!({"claim_token": claimed["claim_token"], "result": null});
        let late = zombie.post(&format!("/v1/jobs/{job}/complete"), &complete.to_string());
        late.problem(409, "fenced");
        let claim = json!({ "job_type": "reconcile", "job_key": format!("late-{round}"),
            "parameters": null, "leader_only": true });
        zombie.post("/v1/jobs/claim", &claim.to_string()).problem(409, "held");
    }
}

#[test]
fn a_leader_frozen_past_its_lease_is_refused_every_time_on_redis() {
    let redis = RedisServer::start();
    a_frozen_leader_is_refused_when_it_wakes(&redis.url());
}

#[test]
fn a_leader_frozen_past_its_lease_is_refused_every_time_on_sqlite() {
    let dir = tempfile::tempdir().unwrap();
    let store = format!("sqlite:{}", dir.path().join("leader.db").display());
    a_frozen_leader_is_refused_when_it_wakes(&store);
}

#[test]
fn sigterm_hands_leadership_over_and_ends_within_five_seconds() {
    let redis = RedisServer::start();
    let mut cluster = Cluster::start(&redis.url(), LONG_TTL);
    let (leader, _) = cluster.leader(&cluster.all(), 0);
    let asked_at = cluster.clock.tick();
    let mut old = cluster.servers.remove(leader.place);
    old.sigterm();
    let (_, seen) = cluster.leader(&cluster.all(), leader.token);
    let status = old.wait_exit(Duration::from_secs(5));
    assert!(status.success(), "{status}");
    let took = seen.since(asked_at);
    assert!(took < Duration::from_secs(5), "not handed over at once: {took:?}");
}
