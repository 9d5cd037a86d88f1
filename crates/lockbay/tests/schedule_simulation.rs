//! Schedules under everything at once: leaders that die, freeze, resign and are cut off, a store
//! that refuses, loses and delays, handlers that fail, panic and take their time.
//!
//! A run follows from its seed, which a failure prints: `LOCKBAY_SEED=17` runs that one alone, and
//! `LOCKBAY_SEEDS=5000` runs so many.
//! After the storm everything is healed, and every second that was due must have exactly one job,
//! completed, whose effect in the store happened exactly once.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod support {
    pub mod stepped;
}

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lockbay::clock::{Clock, Timestamp};
use lockbay::job::{JobFailure, JobFilter, JobStatus, JobSuccess};
use lockbay::schedule::{
    Misfire, Overlap, Resume, ScheduleInfo, ScheduleRequest, Standing, Tick, TickPlace,
};
use lockbay::store::faulty::{Faults, Faulty};
use lockbay::store::{Deadline, Effects, Guard, Key, Kind, Partition, Store, Write};
use lockbay::{Config, Json};
use parking_lot::Mutex;
use support::stepped::{Instance, World, seconds};

const SEEDS: u64 = 200;
const STORM: u32 = 400;
const ROUND: Duration = Duration::from_millis(50);
const COUNTER: Kind = Kind::new("sim-counter");

/// An instance that can die.
struct Member {
    instance: Instance,
    alive: Arc<AtomicBool>,
}

/// With which tokens a tick came, and how often.
type Seen = (BTreeSet<String>, u32);

/// What handlers do, and what they saw.
#[derive(Clone)]
struct Outside {
    clock: Clock,
    healed: Arc<AtomicBool>,
    /// Of each tick the idempotency tokens with which it came, and how often it came.
    seen: Arc<Mutex<BTreeMap<String, Seen>>>,
    /// The greatest fencing token of each tick.
    tokens: Arc<Mutex<BTreeMap<String, u64>>>,
    wrong: Arc<Mutex<Vec<String>>>,
}

impl Outside {
    fn dice(&self, sides: u64) -> u64 {
        self.clock.random() % sides
    }

    /// Counts a tick, by an effect that two who overlap cannot both write.
    async fn work(
        &self,
        tick: Tick,
        store: Arc<Faulty>,
        alive: Arc<AtomicBool>,
    ) -> Result<JobSuccess, JobFailure> {
        if !alive.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        self.note(&tick);
        if !self.healed.load(Ordering::Relaxed) {
            match self.dice(30) {
                0 => return Err(JobFailure::retryable("chance")),
                1 => panic!("chance"),
                2..8 => self.clock.sleep(Duration::from_millis(self.dice(1_500))).await,
                _ => {}
            }
        }
        let of_tick = Key::new(Partition::FIRST, COUNTER, tick.job_id.clone());
        let of_all = Key::new(Partition::FIRST, COUNTER, format!("all of {}", tick.schedule));
        let keys = [of_tick, of_all];
        let read = store.get(&keys).await?;
        let mut effects = Effects::default();
        for (key, record) in keys.into_iter().zip(read.records) {
            let count = record.as_ref().map_or(0, |record| number(&record.value));
            effects.guards.push(match record {
                Some(record) => Guard::RevisionIs(key.clone(), record.revision),
                None => Guard::Absent(key.clone()),
            });
            let value = (count + 1).to_string().into_bytes();
            effects.writes.push(Write::Put { key, value, deadline: Deadline::Never });
        }
        Ok(JobSuccess { result: Json::null(), effects })
    }

    fn note(&self, tick: &Tick) {
        let mut seen = self.seen.lock();
        let (tokens, count) = seen.entry(tick.job_id.clone()).or_default();
        tokens.insert(tick.idempotency_token.clone());
        *count += 1;
        let mut greatest = self.tokens.lock();
        let before = greatest.entry(tick.job_id.clone()).or_default();
        *before = (*before).max(tick.fencing_token.number());
        if tokens.len() > 1 {
            self.wrong.lock().push(format!("{tick:?} came with tokens {tokens:?}"));
        }
    }
}

fn number(value: &[u8]) -> u64 {
    std::str::from_utf8(value).unwrap().parse().unwrap()
}

struct Storm {
    world: World,
    outside: Outside,
    members: Vec<Member>,
    /// Names under which ticks were asked for, and whether that was acknowledged.
    asked: Arc<Mutex<BTreeMap<String, bool>>>,
    resigned: u32,
    died: u32,
}

fn every_second(id: &str, overlap: Overlap, place: TickPlace) -> ScheduleRequest {
    let mut request = ScheduleRequest::new(id, "tick", "* * * * * *", "count");
    request.misfire = Misfire::RunAll;
    request.misfire_grace = Duration::from_secs(3_600);
    request.max_retries = Some(1_000);
    request.timeout = Some(Duration::from_secs(20));
    request.overlap = overlap;
    request.place = place;
    request
}

/// The schedules that nobody touches, and the one that somebody does.
const STEADY: [(&str, Overlap, TickPlace); 3] = [
    ("queue", Overlap::Queue, TickPlace::LeaderOnly),
    ("allow", Overlap::Allow, TickPlace::LeaderOnly),
    ("anywhere", Overlap::Queue, TickPlace::WhereBegun),
];
const TOUCHED: &str = "touched";

impl Storm {
    async fn new(seed: u64) -> Self {
        let world = World::new(seed);
        let outside = Outside {
            clock: world.clock.clone(),
            healed: Arc::default(),
            seen: Arc::default(),
            tokens: Arc::default(),
            wrong: Arc::default(),
        };
        let (members, asked) = (Vec::new(), Arc::default());
        let mut storm = Storm { world, outside, members, asked, resigned: 0, died: 0 };
        for _ in 0..3 {
            let member = storm.member();
            storm.members.push(member);
        }
        let schedules = storm.members[0].instance.bay.schedules().clone();
        for (id, overlap, place) in STEADY {
            schedules.put(&every_second(id, overlap, place)).await.unwrap();
        }
        let mut touched = every_second(TOUCHED, Overlap::Queue, TickPlace::LeaderOnly);
        touched.jitter = Duration::from_millis(700);
        schedules.put(&touched).await.unwrap();
        storm
    }

    fn member(&self) -> Member {
        let config = Config { leader_ttl: seconds(2), monitoring: false, ..Config::default() };
        let instance = self.world.instance_with(config);
        let alive = Arc::new(AtomicBool::new(true));
        let (outside, store) = (self.outside.clone(), Arc::clone(&instance.store));
        let lives = Arc::clone(&alive);
        let count = move |tick: Tick| {
            let (outside, store, lives) = (outside.clone(), Arc::clone(&store), Arc::clone(&lives));
            async move { outside.work(tick, store, lives).await }
        };
        instance.bay.schedules().register("count", count).unwrap();
        instance.bay.start();
        Member { instance, alive }
    }

    fn dice(&self, sides: u64) -> usize {
        usize::try_from(self.outside.dice(sides)).unwrap()
    }

    fn any(&self) -> &Member {
        &self.members[self.dice(3)]
    }

    fn leader(&self) -> Option<usize> {
        self.members.iter().position(|member| member.instance.bay.is_leader())
    }

    fn die(&mut self, at: usize) {
        self.died += 1;
        self.members[at].alive.store(false, Ordering::Relaxed);
        self.members[at].instance.store.die();
        self.members[at] = self.member();
    }

    /// One thing that goes wrong, or gets well again.
    fn disturb(&mut self) {
        match self.dice(80) {
            0 => {
                if let Some(leader) = self.leader() {
                    self.die(leader);
                }
            }
            1 => {
                if let Some(leader) = self.leader() {
                    self.resigned += 1;
                    let bay = self.members[leader].instance.bay.clone();
                    tokio::spawn(async move { drop(bay.leadership().resign().await) });
                }
            }
            2 | 3 => {
                let faults = Faults { refused: 200, reply_lost: 200, request_lost: 100 };
                self.any().instance.store.set(faults);
            }
            4 => self.any().instance.store.set(Faults { refused: 1_000, ..Faults::default() }),
            5 => {
                // A leader that is frozen, and goes on when another leads.
                let delay = Duration::from_millis(self.outside.dice(4_000));
                let at = self.leader().unwrap_or(0);
                self.members[at].instance.store.set_delay(delay);
            }
            6..11 => {
                let store = Arc::clone(&self.any().instance.store);
                store.set(Faults::default());
                store.set_delay(Duration::ZERO);
            }
            _ => {}
        }
    }

    /// Somebody does something to the schedule that is touched, through any instance.
    fn touch(&self) {
        let (bay, chance) = (self.any().instance.bay.clone(), self.dice(10));
        let asked = Arc::clone(&self.asked);
        let name = format!("{:016x}", self.outside.clock.random());
        tokio::spawn(async move {
            let schedules = bay.schedules();
            match chance {
                0 => drop(schedules.pause(TOUCHED).await),
                1 | 2 => drop(schedules.resume(TOUCHED, Resume::CatchUp).await),
                3 => drop(schedules.resume(TOUCHED, Resume::FromNow).await),
                4 => {
                    let mut other = every_second(TOUCHED, Overlap::Queue, TickPlace::LeaderOnly);
                    other.parameters = Json::parse(format!("\"{name}\"")).unwrap();
                    drop(schedules.put(&other).await);
                }
                _ => {
                    asked.lock().insert(name.clone(), false);
                    if schedules.run_now(TOUCHED, Some(&name)).await.is_ok() {
                        asked.lock().insert(name, true);
                    }
                }
            }
        });
    }

    async fn rage(&mut self) {
        for _ in 0..STORM {
            self.disturb();
            if self.dice(25) == 0 {
                self.touch();
            }
            self.world.pass_by(ROUND, ROUND).await;
        }
    }

    /// Heals everything, begins nothing more, and waits until what was begun has ended.
    async fn calm_down(&self) -> Vec<ScheduleInfo> {
        self.outside.healed.store(true, Ordering::Relaxed);
        for member in &self.members {
            member.instance.store.set(Faults::default());
            member.instance.store.set_delay(Duration::ZERO);
        }
        self.world.pass_by(ROUND * 2, Duration::from_secs(8)).await;
        let schedules = self.members[0].instance.bay.schedules().clone();
        let ids = STEADY.iter().map(|(id, ..)| *id).chain([TOUCHED]);
        let mut ended = Vec::new();
        for id in ids {
            let mut info = schedules.show(id).await.unwrap();
            for _ in 0..3_000 {
                // What was begun and has not started yet would be let go by the pause.
                let soon = self.world.clock.now() + ROUND * 4;
                let at_rest = info.in_progress.is_empty() && info.next_due > Some(soon);
                if info.status == Standing::Active && at_rest {
                    info = schedules.pause(id).await.unwrap();
                }
                if info.status == Standing::Paused && info.in_progress.is_empty() {
                    break;
                }
                self.world.pass_by(ROUND, ROUND * 2).await;
                info = schedules.show(id).await.unwrap();
            }
            ended.push(info);
        }
        ended
    }
}

/// What a run of many seeds must have seen, lest it prove nothing.
#[derive(Default)]
struct Tally {
    ticks: u64,
    again: u64,
    died: u32,
    resigned: u32,
    asked: usize,
    skipped: u64,
}

async fn simulate(seed: u64, tally: &mut Tally) -> Vec<String> {
    let mut storm = Storm::new(seed).await;
    let from = storm.world.clock.now();
    storm.rage().await;
    let ended = storm.calm_down().await;
    let mut wrong = storm.outside.wrong.lock().clone();
    let instance = &storm.members[0].instance;
    for schedule in &ended {
        let id = &schedule.job_id;
        if !schedule.in_progress.is_empty() || schedule.status != Standing::Paused {
            wrong.push(format!("{id} did not come to rest: {schedule:?}"));
        }
        let counts = schedule.counts;
        // What is paused before it has started does not run.
        let skips = id == TOUCHED;
        tally.skipped += counts.skipped;
        if counts.begun != counts.completed
            || counts.failed + counts.misfired > 0
            || (counts.skipped > 0 && !skips)
        {
            wrong.push(format!("{id} counts {counts:?}"));
        }
        let all = counted(instance, &format!("all of {id}")).await;
        if all != counts.completed {
            wrong.push(format!("{id}: {all} effects of {} ticks", counts.completed));
        }
        tally.ticks += counts.completed;
        if id != TOUCHED {
            wrong.extend(check_every_second(instance, schedule, from).await);
        }
    }
    tally.again +=
        storm.outside.seen.lock().values().filter(|(_, count)| *count > 1).count() as u64;
    let asked = storm.asked.lock().clone();
    for (name, acknowledged) in &asked {
        let found = jobs(instance, &format!("{TOUCHED}@now:{name}")).await;
        let done = found.len() == 1 && found[0].1 == JobStatus::Completed;
        if *acknowledged && !done {
            wrong.push(format!("what was asked for as {name} came to {found:?}"));
        }
        tally.asked += usize::from(*acknowledged);
    }
    tally.died += storm.died;
    tally.resigned += storm.resigned;
    wrong
}

/// Every due second of a schedule has one job, which is completed, and one effect.
async fn check_every_second(
    instance: &Instance,
    schedule: &ScheduleInfo,
    from: Timestamp,
) -> Vec<String> {
    let (mut wrong, id) = (Vec::new(), &schedule.job_id);
    let mut due = from + Duration::from_secs(1);
    let mut count = 0;
    while Some(due) < schedule.next_due {
        let key = format!("{id}@{}", due.to_string().replace(".000000", ""));
        let found = jobs(instance, &key).await;
        let mut effects = 0;
        for (job_id, _) in &found {
            effects += counted(instance, job_id).await;
        }
        if found.iter().map(|(_, status)| *status).collect::<Vec<_>>() != [JobStatus::Completed]
            || effects != 1
        {
            wrong.push(format!("{key}: jobs {found:?}, {effects} effects"));
        }
        count += 1;
        due = due + Duration::from_secs(1);
    }
    if count != schedule.counts.begun {
        wrong.push(format!("{id}: {count} were due, {} begun", schedule.counts.begun));
    }
    wrong
}

async fn jobs(instance: &Instance, job_key: &str) -> Vec<(String, JobStatus)> {
    let filter = JobFilter { job_key: Some(job_key.into()), ..JobFilter::default() };
    let page = instance.bay.jobs().list(&filter, None, 10).await.unwrap();
    page.items.into_iter().map(|job| (job.job_id, job.status)).collect()
}

async fn counted(instance: &Instance, id: &str) -> u64 {
    let key = Key::new(Partition::FIRST, COUNTER, id);
    let read = instance.store.get(&[key]).await.unwrap();
    read.records[0].as_ref().map_or(0, |record| number(&record.value))
}

#[tokio::test]
async fn every_due_second_has_one_completed_job_and_one_effect_whatever_dies() {
    // Handlers panic by chance, and say so each time.
    std::panic::set_hook(Box::new(|info| {
        let chance = info.payload().downcast_ref::<&str>() == Some(&"chance");
        if !chance {
            eprintln_of(&info.to_string());
        }
    }));
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let only = number("LOCKBAY_SEED");
    let last = number("LOCKBAY_SEEDS").unwrap_or(SEEDS);
    let seeds = only.map_or(1..last + 1, |seed| seed..seed + 1);
    let mut tally = Tally::default();
    for seed in seeds {
        if std::env::var_os("LOCKBAY_TELL").is_some() {
            eprintln_of(&format!("seed {seed}"));
        }
        let wrong = simulate(seed, &mut tally).await;
        assert!(wrong.is_empty(), "LOCKBAY_SEED={seed}:\n{}", wrong.join("\n"));
    }
    let Tally { ticks, again, died, resigned, asked, skipped } = tally;
    eprintln_of(&format!(
        "{ticks} ticks, {again} of them came again; {died} leaders died, {resigned} resigned; \
         {asked} ticks were asked for, {skipped} paused before they started"
    ));
    if only.is_none() && last >= SEEDS {
        assert!(ticks > 10_000 && again > 300 && died > 100 && resigned > 100 && asked > 100);
        assert!(skipped > 10, "{skipped}");
    }
}

#[allow(clippy::print_stderr)] // a test tells its figures
fn eprintln_of(text: &str) {
    eprintln!("{text}");
}
