//! Alerts that fire and resolve over three real servers on one store, while the leader is killed
//! again and again: what a receiver gets, against the history of moves in the audit trail.
//!
//! The rules are flipped by putting them anew, so that they fire and resolve at nearly every
//! evaluation. Sizes: `LOCKBAY_ALERT_KILLS` (25 on each store).

#![allow(clippy::unwrap_used, clippy::print_stdout)] // a test fails by panicking, and tells its figures

#[path = "../../lockbay/tests/support/mod.rs"]
mod stores;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lockbay::clock::Clock;
use lockbay::store::{Key, Kind, Partition, Revision, log, open};
use serde_json::{Value, json};
use stores::redis::RedisServer;
use support::sink::{Answer, Call, Sink};
use support::{Server, breathe, eventually_within, size};

/// A move: rule, episode, and `firing` or `resolved`.
type Move = (String, String, String);

const RULES: [&str; 4] = ["t0", "t1", "t2", "t3"];

/// What came, in order: the identity of the notice, and its moves.
type Arrivals = Arc<Mutex<Vec<(String, Vec<Move>)>>>;

struct Cluster {
    store: String,
    servers: Vec<Server>,
    url: String,
}

impl Cluster {
    fn add(&mut self) {
        let environment = [
            ("REDIS_LEADER_ELECTION_TTL", "500ms"),
            ("LOCKBAY_ALERT_INTERVAL", "1s"),
            ("ADVANCED_MONITORING_INTERVAL", "1s"),
            ("LOCKBAY_ALERT_GROUP_WAIT", "0s"),
            ("LOCKBAY_HANDLERS_ALLOW_PRIVATE", "true"),
            ("LOCKBAY_ALERT_WEBHOOK_URL", &self.url),
        ];
        self.servers.push(Server::start_with(&["--store", &self.store], &environment));
    }

    /// The place of the server that leads.
    fn leader(&self) -> usize {
        patiently("somebody leads", || {
            self.servers
                .iter()
                .position(|server| server.leader().is_some_and(|leader| leader["is_self"] == true))
        })
    }

    /// Lets a rule fire, or not, from the next evaluation on.
    fn put(&self, rule: &str, fires: bool) {
        let threshold = if fires { -1.0 } else { 1e9 };
        let body = json!({ "metric_path": "saga_metrics.running_sagas", "operator": ">",
            "threshold": threshold, "window_minutes": 1, "severity": "error",
            "labels": { "group": if rule < "t2" { "pair" } else { rule } } });
        let path = format!("/v1/alerts/rules/{rule}");
        patiently("the rule is put", || {
            let server = self.servers.last()?;
            (server.put(&path, &body.to_string()).status == 200).then_some(())
        });
    }
}

fn patiently<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    eventually_within(Duration::from_secs(30), Duration::from_millis(10), what, condition)
}

fn receiver() -> (Sink, Arrivals) {
    let arrivals = Arrivals::default();
    let kept = Arc::clone(&arrivals);
    let sink = Sink::start(move |call: Call| {
        let id = call.header("webhook-id").unwrap().to_owned();
        let body = call.json();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let alerts = body["alerts"].as_array().unwrap().iter();
        let moves = alerts.map(|a| (text(&a["rule"]), text(&a["episode"]), text(&a["state"])));
        let number = {
            let mut kept = kept.lock().unwrap();
            kept.push((id, moves.collect()));
            kept.len()
        };
        async move {
            match number % 10 {
                3 => Answer::Says(503, json!({})),
                7 => Answer::HangsUp,
                _ => Answer::Says(200, json!({})),
            }
        }
    });
    (sink, arrivals)
}

/// Every move of the audit trail.
fn history(store: &str) -> BTreeSet<Move> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = open(store, &Clock::system()).await.unwrap();
        let key = Key::new(Partition::FIRST, Kind::new("audit"), "all");
        let (mut moves, mut range) = (BTreeSet::new(), log::range(&key, Revision::ZERO));
        loop {
            let page = store.scan(&range, 100).await.unwrap();
            for line in page.records.iter().flat_map(|record| log::lines(record).unwrap()) {
                let entry: Value = serde_json::from_slice(line.text).unwrap();
                let rule = entry["entity"].as_str().unwrap().strip_prefix("alert/");
                let state = match entry["action"].as_str() {
                    Some("fired") => "firing",
                    Some("resolved") => "resolved",
                    _ => continue,
                };
                let Some(rule) = rule else { continue };
                let episode = &entry["detail"]["episode"];
                let episode = episode.as_str().map_or_else(|| episode.to_string(), str::to_owned);
                moves.insert((rule.to_owned(), episode, state.to_owned()));
            }
            let Some(last) = page.records.last().filter(|_| page.more) else { return moves };
            range = range.after(Some(last.key.id.to_string()));
        }
    })
}

fn storm(store: &str) {
    let (sink, arrivals) = receiver();
    let mut cluster = Cluster { store: store.into(), servers: Vec::new(), url: sink.url() };
    for _ in 0..3 {
        cluster.add();
    }
    let kills = size("LOCKBAY_ALERT_KILLS", 25);
    let clock = Clock::system();
    for round in 0..kills {
        for (place, rule) in RULES.iter().enumerate() {
            cluster.put(rule, (round + place) % 2 == 0);
        }
        let leader = cluster.leader();
        // At some moment of an evaluation, of a delivery, or of nothing.
        breathe(Duration::from_millis(clock.random() % 1_200));
        let mut killed = cluster.servers.remove(leader);
        killed.kill9();
        cluster.add();
    }
    RULES.iter().for_each(|rule| cluster.put(rule, false));
    patiently("nothing fires any more and nothing is left to be told", || {
        let server = &cluster.servers[cluster.leader()];
        let alerts = server.get("/v1/alerts?page_size=1000").ok();
        let fires = |alert: &&Value| {
            RULES.contains(&alert["rule"].as_str().unwrap_or_default())
                && ["firing", "recovering"].contains(&alert["state"].as_str().unwrap_or_default())
        };
        let none_fires = alerts["items"].as_array()?.iter().filter(fires).count() == 0;
        let pending = server.get("/v1/alerts/notifications?status=pending").ok();
        let dead = server.get("/v1/alerts/notifications?status=dead").ok();
        assert_eq!(dead["items"], json!([]));
        (none_fires && pending["items"] == json!([])).then_some(())
    });
    let moves = history(store);
    let ours = |step: &Move| RULES.contains(&step.0.as_str());
    let arrivals = arrivals.lock().unwrap();
    let mut ids: BTreeMap<&Move, BTreeSet<&str>> = BTreeMap::new();
    for (id, told) in arrivals.iter() {
        for step in told {
            if step.2 == "resolved" {
                let fire = (step.0.clone(), step.1.clone(), "firing".to_owned());
                assert!(ids.contains_key(&fire), "{step:?} came before its firing");
            }
            ids.entry(step).or_default().insert(id);
        }
    }
    let told: BTreeSet<Move> = ids.keys().map(|step| (*step).clone()).filter(ours).collect();
    let moves: BTreeSet<Move> = moves.into_iter().filter(ours).collect();
    let lost: Vec<_> = moves.difference(&told).collect();
    let invented: Vec<_> = told.difference(&moves).collect();
    assert!(lost.is_empty() && invented.is_empty(), "lost {lost:?}, invented {invented:?}");
    assert!(ids.values().all(|ids| ids.len() == 1), "a move has two identities: {ids:?}");
    println!("{kills} kills: {} moves, {} arrivals", moves.len(), arrivals.len());
    assert!(moves.len() >= kills, "too little moved: {}", moves.len());
}

#[test]
fn every_notification_arrives_under_one_name_while_leaders_are_killed_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    storm(&format!("sqlite:{}", folder.path().join("lockbay.db").display()));
}

#[test]
fn every_notification_arrives_under_one_name_while_leaders_are_killed_on_redis() {
    let redis = RedisServer::start();
    storm(&redis.url());
}
