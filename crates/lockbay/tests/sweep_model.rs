//! Retention under everything at once: records of all sorts come, are touched, and end; leaders die
//! between commits and others take over; the store refuses and loses replies; people ask for runs.
//!
//! A run follows from its seed, which a failure prints: `LOCKBAY_SEED=17` runs that one alone, and
//! `LOCKBAY_SEEDS=5000` runs so many.
//! At every step nothing may be missing that has to be there; at the end nothing may be there that
//! had to go; and what the sweepers say they cleaned is what went, or less where one died over it.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm)] // a test fails by panicking

mod support {
    pub mod stepped;
}

use std::collections::BTreeMap;
use std::time::Duration;

use lockbay::clock::Timestamp;
use lockbay::job::{Claim, ClaimRequest, ClaimedJob, Retry};
use lockbay::saga::{SagaRequest, StepSpec, read_only};
use lockbay::store::faulty::{Cut, Faults};
use lockbay::store::{Commit, Deadline, Key, Kind, Partition, Write};
use lockbay::sweep::{Mode, RunRequest};
use lockbay::{Json, LockBay};
use support::stepped::{Instance, World};

const SEEDS: u64 = 14;
const ROUNDS: u32 = 60;
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// Something that is there.
#[derive(Debug, Clone)]
struct Thing {
    /// From when on it may go; never if there is none.
    free_from: Option<Timestamp>,
    /// From when on its result may go, for a completed job.
    result_free_from: Option<Timestamp>,
    /// How often a sweeper counts it when it goes.
    counts: u64,
}

impl Thing {
    fn kept() -> Self {
        Thing { free_from: None, result_free_from: None, counts: 1 }
    }

    fn until(time: Timestamp) -> Self {
        Thing { free_from: Some(time), ..Thing::kept() }
    }
}

struct Storm {
    seed: u64,
    world: World,
    members: Vec<Instance>,
    /// Whoever makes records; no fault is in its way.
    calm: Instance,
    /// Everything that is there, by kind and id.
    things: BTreeMap<(&'static str, String), Thing>,
    claimed: Vec<ClaimedJob>,
    sagas: Vec<String>,
    gone: u64,
    /// What instances that died had counted.
    counted: u64,
    serial: u64,
}

impl Storm {
    fn new(seed: u64) -> Self {
        let world = World::new(seed);
        let calm = world.instance();
        register(&calm.bay);
        let (things, claimed, sagas) = (BTreeMap::new(), Vec::new(), Vec::new());
        let members = Vec::new();
        let (gone, counted, serial) = (0, 0, 0);
        let mut storm =
            Storm { seed, world, members, calm, things, claimed, sagas, gone, counted, serial };
        for _ in 0..3 {
            let member = storm.member();
            storm.members.push(member);
        }
        storm
    }

    /// Whether nothing goes wrong in this one, so that every number must be exact.
    fn is_calm(&self) -> bool {
        self.seed.is_multiple_of(4)
    }

    fn member(&self) -> Instance {
        // Samples of metrics go as well, and nobody counts them here.
        let config = lockbay::Config { monitoring: false, ..lockbay::Config::default() };
        let member = self.world.instance_with(config);
        register(&member.bay);
        member.bay.start();
        member
    }

    fn dice(&self, sides: u64) -> u64 {
        self.world.clock.random() % sides
    }

    fn id(&mut self, prefix: &str) -> String {
        self.serial += 1;
        format!("{prefix}{}", self.serial)
    }

    async fn act(&mut self) {
        match self.dice(12) {
            0..4 => self.put_value().await,
            4 => self.touch_value().await,
            5 | 6 => self.claim().await,
            7 | 8 => self.end_job().await,
            9 => self.lease().await,
            10 => self.saga().await,
            _ => self.ask(),
        }
    }

    async fn put_value(&mut self) {
        let prefix = ["session:", "cache:", "other:"][usize::try_from(self.dice(3)).unwrap()];
        let id = self.id(prefix);
        self.write_value(id).await;
    }

    async fn touch_value(&mut self) {
        self.check();
        let now = self.world.clock.now();
        let of_state = self.things.iter().filter(|((kind, _), _)| *kind == "state");
        // Best those that somebody is about to delete.
        let doomed = |thing: &Thing| thing.free_from.is_some_and(|from| from <= now);
        let (due, others): (Vec<_>, Vec<_>) = of_state.partition(|(_, thing)| doomed(thing));
        let ids = if due.is_empty() { others } else { due };
        let ids: Vec<String> = ids.into_iter().map(|((_, id), _)| id.clone()).collect();
        if ids.is_empty() {
            return;
        }
        let at = usize::try_from(self.dice(ids.len() as u64)).unwrap();
        self.write_value(ids[at].clone()).await;
    }

    async fn write_value(&mut self, id: String) {
        let now = self.world.clock.now();
        let ttl = match self.dice(4) {
            0 => None,
            1 => Some(SECOND * 3),
            2 => Some(HOUR),
            _ => Some(DAY * 20),
        };
        let key = Key::new(Partition::FIRST, Kind::new("state"), id.as_str());
        let deadline = ttl.map_or(Deadline::Never, Deadline::After);
        let put = Write::Put { key, value: vec![b'x'; 64], deadline };
        let commit = Commit::new(Partition::FIRST, vec![], vec![put], vec![]).unwrap();
        self.calm.bay.store().commit(&commit).await.unwrap();
        let thing = match ttl {
            Some(ttl) => Thing::until(now + ttl),
            None if id.starts_with("session:") => Thing::until(now + DAY),
            None if id.starts_with("cache:") => Thing::until(now + HOUR),
            None => Thing::kept(),
        };
        self.things.insert(("state", id), thing);
    }

    async fn claim(&mut self) {
        let key = self.id("job");
        let request = ClaimRequest::new("t", key, Json::null());
        let Claim::Claimed(job) = self.calm.bay.jobs().claim(request).await.unwrap() else {
            panic!("a new job was not claimed")
        };
        self.things.insert(("job", job.job_id.clone()), Thing::kept());
        self.claimed.push(job);
    }

    async fn end_job(&mut self) {
        let Some(job) = self.claimed.pop() else { return };
        let (jobs, now) = (self.calm.bay.jobs().clone(), self.world.clock.now());
        let mut thing = Thing::until(now + DAY * 7);
        let (id, token) = (&job.job_id, &job.claim_token);
        // Whatever lapsed meanwhile has not ended.
        let ended = match self.dice(4) {
            0 => jobs.fail(id, token, "no", Retry::Never).await.map(drop),
            1 => {
                thing = Thing::kept();
                jobs.fail(id, token, "no", Retry::Allowed).await.map(drop)
            }
            2 => jobs.cancel(id, "no").await,
            _ => {
                thing.result_free_from = Some(now + HOUR);
                thing.counts = 2;
                jobs.complete(id, token, Json::parse(r#""hush""#).unwrap()).await
            }
        };
        if ended.is_ok() {
            self.things.insert(("job", job.job_id), thing);
        }
    }

    async fn lease(&mut self) {
        let name = self.id("lease");
        let (now, ttl) = (self.world.clock.now(), SECOND * 30);
        self.calm.bay.leases().acquire(&name, "x", ttl).await.unwrap();
        self.things.insert(("lease", name), Thing::until(now + ttl + HOUR));
    }

    async fn saga(&mut self) {
        let handler = if self.dice(3) == 0 { "hang" } else { "done" };
        let mut step = StepSpec::new("s", handler, Json::null());
        step.timeout = Some(DAY * 2_000);
        let mut request = SagaRequest::new("t", vec![step]);
        request.timeout = Some(DAY * 2_000);
        let id = self.calm.bay.sagas().start(request).await.unwrap().saga_id;
        self.things.insert(("saga", id.clone()), Thing::kept());
        if handler == "done" {
            self.sagas.push(id);
        }
    }

    /// Sagas that have ended meanwhile.
    async fn look_at_sagas(&mut self) {
        for id in std::mem::take(&mut self.sagas) {
            match self.calm.bay.sagas().show(&id).await.unwrap().ended_at {
                Some(ended) => {
                    self.things.insert(("saga", id), Thing::until(ended + DAY * 400));
                }
                None => self.sagas.push(id),
            }
        }
    }

    /// A run that somebody asks for, and does not wait for.
    fn ask(&self) {
        let at = usize::try_from(self.dice(3)).unwrap();
        let sweeper = self.members[at].bay.sweeper().clone();
        let mode = if self.dice(2) == 0 { Mode::DryRun } else { Mode::Delete };
        let rules = [None, Some("session"), Some("job_execution"), Some("idempotency")];
        let rule = rules[usize::try_from(self.dice(4)).unwrap()].map(str::to_owned);
        tokio::spawn(async move {
            drop(sweeper.run(RunRequest { rule, mode, ..RunRequest::default() }).await);
        });
    }

    /// One thing that goes wrong, or gets well again.
    fn disturb(&mut self) {
        let at = usize::try_from(self.dice(3)).unwrap();
        match self.dice(8) {
            0 => {
                let cut = if self.dice(2) == 0 { Cut::Before } else { Cut::After };
                self.members[at].store.die_at(1 + self.dice(6), cut);
            }
            1 => {
                self.counted += self.members[at].bay.sweeper().stats().total_keys_cleaned;
                self.members[at].store.die();
                self.members[at] = self.member();
            }
            2 | 3 => {
                let faults = Faults { refused: 100, reply_lost: 150, request_lost: 100 };
                self.members[at].store.set(faults);
            }
            4 => self.members[at].store.set_delay(Duration::from_millis(self.dice(1_000))),
            _ => self.heal(at),
        }
    }

    fn heal(&self, at: usize) {
        let store = &self.members[at].store;
        store.revive();
        store.set(Faults::default());
        store.set_delay(Duration::ZERO);
    }

    /// Nothing is missing that has to be there; what has gone is counted.
    fn check(&mut self) {
        let (now, snapshot) = (self.world.clock.now(), self.world.memory.snapshot());
        let there: std::collections::HashMap<(&str, &str), &[u8]> = snapshot
            .records()
            .map(|record| ((record.key.kind.name(), &*record.key.id), &*record.value))
            .collect();
        let (mut gone, seed) = (0, self.seed);
        self.things.retain(|(kind, id), thing| {
            let Some(value) = there.get(&(*kind, id.as_str())) else {
                let free = thing.free_from.is_some_and(|from| from <= now);
                assert!(free, "seed {seed}: {kind}/{id} is missing: {thing:?} at {now}");
                gone += thing.counts;
                return false;
            };
            if let Some(from) = thing.result_free_from
                && !String::from_utf8_lossy(value).contains("hush")
            {
                assert!(from <= now, "seed {seed}: the result of {id} is missing");
                thing.result_free_from = None;
                gone += 1;
                thing.counts = 1;
            }
            true
        });
        self.gone += gone;
        let cleaned = self.counted + self.cleaned();
        assert!(
            cleaned <= self.gone,
            "seed {seed}: {cleaned} were counted, and {} have gone",
            self.gone
        );
    }

    fn cleaned(&self) -> u64 {
        self.members.iter().map(|member| member.bay.sweeper().stats().total_keys_cleaned).sum()
    }

    async fn blow(&mut self) {
        for _ in 0..ROUNDS {
            if !self.is_calm() {
                self.disturb();
            }
            for _ in 0..10 {
                if self.dice(3) == 0 {
                    self.act().await;
                }
                self.touch_value().await;
                self.world.pass_by(Duration::from_millis(100), SECOND / 5).await;
            }
            self.look_at_sagas().await;
            self.check();
            let jumps = [Duration::ZERO, SECOND * 20, HOUR, DAY, DAY * 15];
            self.world.clock.advance(jumps[usize::try_from(self.dice(5)).unwrap()]);
        }
        for at in 0..3 {
            self.heal(at);
        }
        // A request under way may be in progress for as long as its instance is patient.
        self.world.pass_by(SECOND / 2, SECOND * 400).await;
        self.look_at_sagas().await;
        self.check();
        self.world.pass_by(SECOND / 2, SECOND * 320).await;
        self.check();
    }

    fn judge(&self) {
        let now = self.world.clock.now() - SECOND * 320;
        for ((kind, id), thing) in &self.things {
            let free = thing.free_from.is_some_and(|from| from <= now);
            assert!(!free, "seed {}: {kind}/{id} is still there: {thing:?}", self.seed);
            let result = thing.result_free_from.is_some_and(|from| from <= now);
            assert!(!result, "seed {}: the result of {id} is still there", self.seed);
        }
        if self.is_calm() {
            let (seed, cleaned) = (self.seed, self.counted + self.cleaned());
            assert_eq!(cleaned, self.gone, "seed {seed}: what was counted is what went");
        }
        let snapshot = self.world.memory.snapshot();
        let entries = |kind: &str| snapshot.keys().filter(|key| key.kind.name() == kind).count();
        assert_eq!(entries("job"), entries("job-list"), "seed {}", self.seed);
        assert_eq!(entries("saga"), entries("saga-list"), "seed {}", self.seed);
    }
}

fn register(bay: &LockBay) {
    let done = |_| async { Ok(Json::parse("{}").unwrap().into()) };
    bay.sagas().register("done", read_only(done)).unwrap();
    bay.sagas().register("hang", read_only(|_| std::future::pending())).unwrap();
}

#[tokio::test]
async fn exactly_what_has_ended_goes_whatever_happens_meanwhile() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seeds = match number("LOCKBAY_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("LOCKBAY_SEEDS").unwrap_or(SEEDS),
    };
    let (mut gone, mut left) = (0, 0);
    for seed in seeds {
        let mut storm = Storm::new(seed);
        storm.blow().await;
        storm.judge();
        gone += storm.gone;
        left += storm.things.len();
    }
    println!("{gone} went, {left} stayed");
    assert!(gone > 0 && left > 0);
}
