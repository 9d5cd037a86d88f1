//! The audit trail of jobs after a storm: workers that crash at any commit, and a store that refuses,
//! loses what it is asked, and loses what it answers.
//!
//! A run follows from its seed, which a failure prints: `LOCKBAY_SEED=17` runs that one alone, and
//! `LOCKBAY_SEEDS=5000` runs so many. Afterwards the entries of each job, followed one by one, come
//! to its record exactly.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod support {
    pub mod stepped;
    pub mod trail;
}

use std::collections::BTreeMap;
use std::time::Duration;

use lockbay::Json;
use lockbay::clock::Clock;
use lockbay::job::{Claim, ClaimRequest, ClaimedJob, Retry};
use lockbay::store::faulty::{Cut, Faults};
use lockbay::store::{Kind, Partition, Range, Record, Store};
use serde_json::{Value, json};
use sha2::Digest;
use support::stepped::{Instance, World};
use support::trail::{Entry, entries};

const SEEDS: u64 = 40;
const ROUNDS: usize = 300;
const TTL: Duration = Duration::from_secs(2);

struct Storm {
    world: World,
    workers: Vec<Instance>,
    chance: Clock,
    claims: Vec<ClaimedJob>,
}

impl Storm {
    fn new(seed: u64) -> Self {
        let world = World::new(seed);
        let workers = (0..3).map(|_| world.instance()).collect();
        Storm { world, workers, chance: Clock::manual(seed + 1_000_000), claims: Vec::new() }
    }

    fn dice(&self, sides: usize) -> usize {
        usize::try_from(self.chance.random() % sides as u64).unwrap()
    }

    /// Another worker in the place of one that crashes, now or at one of its next commits.
    fn disturb(&mut self) {
        let at = self.dice(self.workers.len());
        match self.dice(12) {
            0 => self.workers[at] = self.world.instance(),
            1 => {
                let cut = if self.dice(2) == 0 { Cut::Before } else { Cut::After };
                self.workers[at].store.die_at(1 + self.dice(3) as u64, cut);
            }
            2 | 3 => {
                let faults = Faults { refused: 100, reply_lost: 300, request_lost: 100 };
                self.workers[at].store.set(faults);
            }
            4 => self.workers[at].store.set(Faults::default()),
            _ => {}
        }
    }

    /// One thing that somebody does to some job; what is answered does not matter.
    async fn act(&mut self) {
        let jobs = self.workers[self.dice(self.workers.len())].bay.jobs().clone();
        let key = format!("k{}", self.dice(6));
        let request =
            ClaimRequest { claim_ttl: Some(TTL), ..ClaimRequest::new("t", key, Json::null()) };
        let claim = match self.claims.len() {
            0 => None,
            many => Some(self.claims[self.dice(many)].clone()),
        };
        match (self.dice(10), claim) {
            (0..4, _) | (_, None) => {
                if let Ok(Claim::Claimed(claimed)) = jobs.claim(request).await {
                    self.claims.push(claimed);
                }
            }
            (4, Some(job)) => drop(jobs.heartbeat(&job.job_id, &job.claim_token).await),
            (5, Some(job)) => {
                drop(jobs.complete(&job.job_id, &job.claim_token, Json::null()).await);
            }
            (6 | 7, Some(job)) => {
                drop(jobs.fail(&job.job_id, &job.claim_token, "why", Retry::Allowed).await);
            }
            (8, Some(job)) => drop(jobs.give_back(&job.job_id, &job.claim_token).await),
            (_, Some(job)) => match self.dice(3) {
                0 => drop(jobs.cancel(&job.job_id, "no").await),
                _ => drop(jobs.retry(&job.job_id, "try again").await),
            },
        }
    }
}

/// A record as its entries tell it.
#[derive(Debug, Default, PartialEq)]
struct Told {
    status: &'static str,
    attempt: u64,
    failures: u64,
    revision: u64,
    digest: Value,
}

fn follow(entries: &[&Entry]) -> Told {
    let mut told = Told::default();
    for entry in entries {
        assert_eq!(entry.previous.unwrap_or_default(), told.revision, "{entry:?}");
        told.status = match entry.action.as_str() {
            "claimed" | "taken_over" => "claimed",
            "completed" => "completed",
            "cancelled" => "cancelled",
            "failed" => {
                told.failures += 1;
                "failed"
            }
            "retried" => {
                told.failures = 0;
                "failed"
            }
            // It moves a deadline and leaves the record as it is.
            "released" => continue,
            other => panic!("{other}"),
        };
        told.attempt = entry.json["detail"]["attempt"].as_u64().unwrap();
        told.revision = entry.revision;
        told.digest = entry.json["digest"].clone();
    }
    told
}

fn kept(record: &Record) -> Told {
    let job: Value = serde_json::from_slice(&record.value).unwrap();
    let digest: [u8; 32] = sha2::Sha256::digest(&record.value).into();
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let statuses = ["claimed", "completed", "cancelled", "failed"];
    Told {
        status: statuses.into_iter().find(|status| job["status"] == **status).unwrap(),
        attempt: job["attempt"].as_u64().unwrap(),
        failures: job["failures"].as_u64().unwrap(),
        revision: record.revision.number(),
        digest: json!(digest),
    }
}

#[tokio::test]
async fn the_entries_of_a_job_come_to_its_record_whatever_crashes_and_is_lost() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let only = number("LOCKBAY_SEED");
    let last = number("LOCKBAY_SEEDS").unwrap_or(SEEDS);
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    for seed in only.map_or(1..last + 1, |seed| seed..seed + 1) {
        println!("LOCKBAY_SEED={seed}");
        let mut storm = Storm::new(seed);
        for _ in 0..ROUNDS {
            storm.disturb();
            storm.act().await;
            let round = Duration::from_millis(100);
            storm.world.pass_by(round, round).await;
        }
        let store = storm.world.memory.client();
        let trail = entries(&store, 0).await;
        let range = Range::new(Partition::FIRST, Kind::new("job"), "");
        let records = store.scan(&range, 1_000).await.unwrap().records;
        for record in &records {
            let entity = format!("job/{}", record.key.id);
            let of_job: Vec<&Entry> = trail.iter().filter(|entry| entry.entity == entity).collect();
            assert_eq!(follow(&of_job), kept(record), "{entity}");
        }
        let of_jobs = trail.iter().filter(|entry| entry.entity.starts_with("job/"));
        for entry in of_jobs {
            let id = &entry.entity["job/".len()..];
            assert!(records.iter().any(|record| *record.key.id == *id), "{entry:?}");
            *seen.entry(entry.action.clone()).or_default() += 1;
        }
    }
    println!("{seen:?}");
    if only.is_none() {
        for action in
            ["claimed", "taken_over", "completed", "failed", "cancelled", "retried", "released"]
        {
            assert!(seen.get(action).is_some_and(|count| *count > 10), "{seen:?}");
        }
    }
}
