//! State under everything at once: several instances read, set, load and invalidate, while the
//! store refuses, delays and loses, hints are lost, rules come and go, instances die in the middle
//! of an invalidation, and the sweeper removes what is stale.
//!
//! What is checked of every read: it does not show what was before a change that was acknowledged
//! on the same instance before the read began, nor what was before one that was acknowledged on
//! another a second before. Values that are loaded come from a database that is changed before
//! each invalidation, and a loader may take its time between looking and answering.
//!
//! A run follows from its seed, which a failure prints: `LOCKBAY_SEED=17` runs that one alone, and
//! `LOCKBAY_SEEDS=5000` runs so many.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod support {
    pub mod stepped;
}

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lockbay::clock::{Clock, Timestamp};
use lockbay::lease::{Acquired, parse_token};
use lockbay::state::{Found, Invalidation, LoadOptions, Rule, ServeStale, SetOptions, State};
use lockbay::store::faulty::Faults;
use lockbay::store::{Fence, Key, Kind, Partition};
use lockbay::{Error, ErrorKind, Json};
use parking_lot::Mutex;
use support::stepped::{Instance, World};
use tokio_util::sync::CancellationToken;

const SEEDS: u64 = 200;
const ROUNDS: u32 = 120;
const INSTANCES: usize = 3;
/// What other instances may lag behind.
const LAG: Duration = Duration::from_secs(1);

/// A change that was acknowledged: what is at least to be seen of a key from then on.
#[derive(Debug, Clone, Copy)]
struct Floor {
    by: usize,
    at: Timestamp,
    least: u64,
}

#[derive(Default)]
struct Facts {
    /// The database that loaders read.
    database: BTreeMap<String, u64>,
    /// Of loaded keys the number, of set keys the version.
    floors: BTreeMap<String, Vec<Floor>>,
    /// The greatest version of a set that was acknowledged.
    versions: BTreeMap<String, u64>,
    /// The rule as it was put, by a number, if it is known to be in force.
    rule: Option<u64>,
    puts: u64,
    wrong: Vec<String>,
    tally: Tally,
}

#[derive(Debug, Default, Clone, Copy)]
struct Tally {
    reads: u64,
    stale: u64,
    changes: u64,
    failed: u64,
    swept: u64,
    hits: i64,
    loads: i64,
}

#[derive(Clone)]
struct Model {
    clock: Clock,
    facts: Arc<Mutex<Facts>>,
}

impl Model {
    fn dice(&self, sides: u64) -> u64 {
        self.clock.random() % sides
    }

    fn chance(&self, of_a_hundred: u64) -> bool {
        self.dice(100) < of_a_hundred
    }

    async fn dawdle(&self, millis: u64) {
        self.clock.sleep(Duration::from_millis(self.dice(millis + 1))).await;
    }

    /// What a read on this instance that begins now must show at least; also of a value that is
    /// served although it may be old.
    fn least(&self, key: &str, on: usize) -> (u64, u64) {
        let facts = self.facts.lock();
        let now = self.clock.now();
        let (mut own, mut all) = (0, 0);
        for floor in facts.floors.get(key).into_iter().flatten() {
            if floor.by == on {
                own = own.max(floor.least);
            }
            if floor.by == on || now.since(floor.at) >= LAG {
                all = all.max(floor.least);
            }
        }
        (own, all)
    }

    /// A change was acknowledged; if the rule was in force all the time, by that.
    fn acknowledge(&self, by: usize, least: &[(String, u64)], rule: Option<u64>) {
        let at = self.clock.now();
        let mut facts = self.facts.lock();
        facts.tally.changes += 1;
        let ruled = rule.is_some() && rule == facts.rule;
        for (key, least) in least.iter().filter(|(key, _)| ruled || !key.starts_with("lx:")) {
            facts.floors.entry(key.clone()).or_default().push(Floor { by, at, least: *least });
        }
    }

    /// Changes what the database says of these keys.
    fn write(&self, keys: &[String]) -> Vec<(String, u64)> {
        let mut facts = self.facts.lock();
        keys.iter()
            .map(|key| {
                let value = facts.database.entry(key.clone()).or_default();
                *value += 1;
                (key.clone(), *value)
            })
            .collect()
    }

    fn judge(
        &self,
        what: &str,
        on: usize,
        seen: u64,
        found: &Found,
        least: (u64, u64),
        began: Timestamp,
    ) {
        let (own, all) = least;
        let mut facts = self.facts.lock();
        facts.tally.reads += 1;
        facts.tally.stale += u64::from(found.stale);
        let least = if found.stale { own } else { all };
        if seen < least {
            let key = &found.key;
            let stale = found.stale;
            facts.wrong.push(format!(
                "{what} of {key} on {on} at {began} saw {seen}, {least} at least was due (stale {stale})"
            ));
        }
        if !found.stale && found.expires_at.is_some_and(|end| end <= began) {
            facts.wrong.push(format!("{what} of {} on {on} saw what had lapsed", found.key));
        }
    }

    fn fail(&self, error: &Error) {
        let mut facts = self.facts.lock();
        facts.tally.failed += 1;
        if matches!(error.kind(), ErrorKind::Internal | ErrorKind::Invalid) {
            let message = error.to_string();
            // The loaders below panic on purpose.
            if !message.contains("panicked") {
                facts.wrong.push(message);
            }
        }
    }

    async fn get(self, on: usize, state: State, key: String) {
        let least = self.least(&key, on);
        let began = self.clock.now();
        let stale = if self.chance(20) { ServeStale::UpTo(LAG * 5) } else { ServeStale::Never };
        match state.get_with(&key, stale).await {
            Ok(Some(found)) => {
                let seen = if is_loaded(&key) { number(&found) } else { version(&found) };
                self.judge("get", on, seen, &found, least, began);
            }
            Ok(None) => {}
            Err(error) => self.fail(&error),
        }
    }

    async fn load(self, on: usize, state: State, key: String) {
        let least = self.least(&key, on);
        let began = self.clock.now();
        let stale = if self.chance(20) { ServeStale::UpTo(LAG * 5) } else { ServeStale::Never };
        let ttl = self.chance(30).then(|| Duration::from_millis(50 + self.dice(3_000)));
        let options = LoadOptions {
            ttl,
            tags: tags_of(&key),
            load_timeout: Duration::from_millis(300 + self.dice(2_000)),
            stale,
            ..LoadOptions::default()
        };
        let (model, name) = (self.clone(), key.clone());
        let loader = move || {
            let (model, name) = (model.clone(), name.clone());
            async move {
                model.dawdle(100).await;
                let value = model.facts.lock().database.get(&name).copied().unwrap_or_default();
                model.dawdle(700).await;
                assert!(!model.chance(3), "a loader panics");
                if model.chance(3) {
                    return Err(Error::new(ErrorKind::Refused, "a loader fails"));
                }
                Json::from_value(&value)
            }
        };
        match state.get_or_load(&key, options, loader).await {
            Ok(found) => {
                let mut found = found;
                if found.version == "0" {
                    // Not stored, so it has no time to live.
                    found.stale = false;
                }
                self.judge("load", on, number(&found), &found, least, began);
            }
            Err(error) => self.fail(&error),
        }
    }

    async fn set(self, on: usize, state: State, key: String) {
        let ttl = self.chance(30).then(|| Duration::from_millis(50 + self.dice(3_000)));
        let options = SetOptions { ttl, tags: tags_of(&key), ..SetOptions::default() };
        let number = self.dice(1_000_000);
        // What depends on it is changed first, as an application does.
        let affected = self.affected_by_update(&key);
        let rule = self.facts.lock().rule;
        let least = self.write(&affected);
        match state.set(&key, Json::from_value(&number).unwrap(), options).await {
            Ok(written) => {
                let version: u64 = written.version.parse().unwrap();
                let mut facts = self.facts.lock();
                let known = facts.versions.entry(key.clone()).or_default();
                *known = version.max(*known);
                drop(facts);
                self.acknowledge(on, &[vec![(key, version)], least].concat(), rule);
            }
            Err(error) => self.fail(&error),
        }
    }

    /// Loaded keys that go when this key is updated, as far as that is sure.
    fn affected_by_update(&self, key: &str) -> Vec<String> {
        let at = &key[key.len() - 1..];
        if key.starts_with("src:") {
            return vec![format!("dep:{at}")];
        }
        if key.starts_with("x:") && self.facts.lock().rule.is_some() {
            return vec![format!("lx:{at}:v")];
        }
        Vec::new()
    }

    /// Invalidates in one of many ways. The keys that go with what is at least to be seen of them.
    async fn invalidate(self, on: usize, state: State) {
        let at = self.dice(3);
        let key = |name: &str| vec![format!("{name}:{at}")];
        let set = |prefix: &str| (0..3).map(|n| format!("{prefix}:{n}")).collect::<Vec<_>>();
        let mut wish = Invalidation::default();
        let keys: Vec<String> = match self.dice(8) {
            0 => {
                wish.keys = key("load");
                key("load")
            }
            1 => {
                wish.tags = vec!["t".into()];
                [set("load"), set("set")].concat()
            }
            2 => {
                wish.pattern = Some("load:*".into());
                set("load")
            }
            3 => {
                wish.keys = key("src");
                key("dep")
            }
            4 => {
                wish.pattern = Some("src:*".into());
                set("dep")
            }
            5 => {
                wish.updated_key = Some(format!("x:{at}"));
                self.affected_by_update(&format!("x:{at}"))
            }
            6 => {
                wish.keys = key("set");
                key("set")
            }
            _ => {
                wish.pattern = Some("{set,load}:?".into());
                [set("load"), set("set")].concat()
            }
        };
        let (loaded, set): (Vec<String>, Vec<String>) =
            keys.into_iter().partition(|key| is_loaded(key));
        let rule = self.facts.lock().rule;
        let mut least = self.write(&loaded);
        {
            let facts = self.facts.lock();
            let version = |key: &String| facts.versions.get(key).copied().unwrap_or_default();
            least.extend(set.into_iter().map(|key| (key.clone(), version(&key) + 1)));
        }
        match state.invalidate(&wish).await {
            Ok(_) => self.acknowledge(on, &least, rule),
            Err(error) => self.fail(&error),
        }
    }

    /// Puts or deletes the rule. While that goes on it is not sure whether it is in force.
    async fn turn_rule(self, state: State) {
        self.facts.lock().rule = None;
        if self.chance(30) {
            drop(state.delete_rule("x").await);
            return;
        }
        let rule = Rule {
            name: "x".into(),
            update_pattern: "x:{id}".into(),
            invalidate_patterns: vec!["lx:{id}:*".into()],
        };
        if state.put_rule(rule).await.is_ok() {
            let mut facts = self.facts.lock();
            facts.puts += 1;
            facts.rule = Some(facts.puts);
        }
    }
}

fn is_loaded(key: &str) -> bool {
    ["load:", "lx:", "dep:"].iter().any(|prefix| key.starts_with(prefix))
}

fn tags_of(key: &str) -> Vec<String> {
    let tagged = key.starts_with("load:") || key.starts_with("set:");
    if tagged { vec!["t".into(), format!("own {key}")] } else { Vec::new() }
}

fn number(found: &Found) -> u64 {
    found.value.to_value().unwrap()
}

fn version(found: &Found) -> u64 {
    found.version.parse().unwrap()
}

struct Run {
    world: World,
    model: Model,
    instances: Vec<Instance>,
    stop: CancellationToken,
    fence: Fence,
    turning: Option<tokio::task::JoinHandle<()>>,
}

impl Run {
    async fn new(seed: u64) -> Self {
        let world = World::new(seed);
        let model = Model { clock: world.clock.clone(), facts: Arc::default() };
        let first = world.instance();
        let ttl = Duration::from_secs(3_600);
        let lease = first.bay.leases().acquire("sweep", "s", ttl).await.unwrap();
        let Acquired::Granted(lease) = lease else { panic!("the lease is free") };
        let key = Key::new(Partition::FIRST, Kind::new("lease"), "sweep");
        let fence = Fence { key, token: parse_token(&lease.fencing_token).unwrap() };
        for at in 0..3 {
            let key = format!("dep:{at}");
            first.bay.state().set_depends_on(&key, &[format!("src:{at}")]).await.unwrap();
        }
        let stop = CancellationToken::new();
        let mut run = Run { world, model, instances: vec![], stop, fence, turning: None };
        for _ in 0..INSTANCES {
            let instance = run.instance();
            run.instances.push(instance);
        }
        run
    }

    fn instance(&self) -> Instance {
        let instance = self.world.instance();
        if self.model.chance(50) {
            instance.store.deafen();
        }
        if self.model.chance(80) {
            tokio::spawn(instance.bay.state().clone().watch_over(self.stop.clone()));
        }
        instance
    }

    fn disturb(&mut self) {
        let model = self.model.clone();
        let at = usize::try_from(model.dice(INSTANCES as u64)).unwrap();
        match model.dice(40) {
            0 => self.instances[at].store.die(),
            1 => {
                // What it had begun dies with it, as far as the store is concerned.
                self.instances[at].store.die();
                self.collect_metrics(at);
                self.instances[at] = self.instance();
                self.forget_instance(at);
            }
            2 => {
                let faults = Faults { refused: 100, reply_lost: 150, request_lost: 100 };
                self.instances[at].store.set(faults);
            }
            3..7 => {
                self.heal();
            }
            7..12 => {
                let store = &self.instances[at].store;
                store.set_delay(Duration::from_millis(model.dice(400)));
                let longest = if model.chance(20) { 3_000 } else { 400 };
                store.set_reply_delay(Duration::from_millis(model.dice(longest)));
            }
            12 => self.instances[at]
                .store
                .die_at(1 + model.dice(3), lockbay::store::faulty::Cut::After),
            _ => {}
        }
    }

    /// A new instance knows nothing of what another acknowledged in its place.
    fn forget_instance(&self, at: usize) {
        let mut facts = self.model.facts.lock();
        for floor in facts.floors.values_mut().flatten().filter(|floor| floor.by == at) {
            floor.by = usize::MAX;
        }
    }

    fn collect_metrics(&self, at: usize) {
        use lockbay::metrics::Metric;
        let metrics = self.instances[at].bay.metrics();
        let tally = &mut self.model.facts.lock().tally;
        tally.hits += metrics.value(Metric::StateHits);
        tally.loads += metrics.value(Metric::StateLoads);
    }

    fn act(&mut self) {
        let model = self.model.clone();
        let on = usize::try_from(model.dice(INSTANCES as u64)).unwrap();
        let state = self.instances[on].bay.state().clone();
        let at = model.dice(3);
        let loaded = ["load:", "lx:", "dep:"][usize::try_from(model.dice(3)).unwrap()];
        let loaded = format!("{loaded}{at}{}", if loaded == "lx:" { ":v" } else { "" });
        let set = ["set:", "x:", "src:"][usize::try_from(model.dice(3)).unwrap()];
        let set = format!("{set}{at}");
        match model.dice(20) {
            0..6 => drop(tokio::spawn(model.load(on, state, loaded))),
            6..9 => drop(tokio::spawn(model.get(on, state, loaded))),
            9..13 => drop(tokio::spawn(model.get(on, state, set))),
            13..15 => drop(tokio::spawn(model.set(on, state, set))),
            15..18 => drop(tokio::spawn(model.invalidate(on, state))),
            18 => {
                // One at a time, so that the model knows how it stands.
                if self.turning.as_ref().is_none_or(tokio::task::JoinHandle::is_finished) {
                    self.turning = Some(tokio::spawn(model.turn_rule(state)));
                }
            }
            _ => {
                let fence = self.fence.clone();
                tokio::spawn(async move {
                    if let Ok(swept) = state.sweep_stale(&fence, 4).await {
                        model.facts.lock().tally.swept += swept.removed.len() as u64;
                    }
                    drop(state.finish_intents().await);
                });
            }
        }
    }

    async fn go(mut self) -> (Vec<String>, Tally) {
        for _ in 0..ROUNDS {
            self.disturb();
            for _ in 0..2 + self.model.dice(4) {
                self.act();
                if self.model.chance(50) {
                    self.settle().await;
                }
            }
            self.settle().await;
            self.world.clock.advance(Duration::from_millis(self.model.dice(120)));
            self.settle().await;
        }
        self.calm_down().await;
        for at in 0..INSTANCES {
            self.collect_metrics(at);
        }
        self.stop.cancel();
        let facts = self.model.facts.lock();
        (facts.wrong.clone(), facts.tally)
    }

    async fn settle(&self) {
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
    }

    fn heal(&self) {
        for instance in &self.instances {
            instance.store.revive();
            instance.store.set(Faults::default());
            instance.store.set_delay(Duration::ZERO);
            instance.store.set_reply_delay(Duration::ZERO);
        }
    }

    /// Everything is healed: what is set is then seen by all, and what is loaded is what there is.
    async fn calm_down(&mut self) {
        self.heal();
        self.world.pass_by(Duration::from_millis(50), Duration::from_secs(8)).await;
        let bay = &self.instances[0].bay;
        if let Err(error) =
            bay.state().set("set:0", Json::parse("7").unwrap(), SetOptions::default()).await
        {
            self.model.facts.lock().wrong.push(format!("after the storm: {error}"));
        }
        self.world.pass_by(Duration::from_millis(50), LAG).await;
        for instance in &self.instances {
            let state = instance.bay.state();
            let seen = state.get("set:0").await.unwrap();
            if seen.is_none_or(|found| found.value.text() != "7") {
                self.model.facts.lock().wrong.push("a set was lost".into());
            }
            if state
                .get("load:0")
                .await
                .unwrap()
                .is_some_and(|found| number(&found) < self.model.least("load:0", usize::MAX).1)
            {
                self.model.facts.lock().wrong.push("an old value is there for ever".into());
            }
        }
    }
}

#[tokio::test]
async fn no_read_shows_what_was_before_an_acknowledged_change_whatever_happens() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match number("LOCKBAY_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("LOCKBAY_SEEDS").unwrap_or(SEEDS),
    };
    std::panic::set_hook(Box::new(|panic| {
        // Loaders panic on purpose.
        let text = panic.payload().downcast_ref::<&str>().copied().unwrap_or_default();
        if text != "a loader panics" {
            eprintln!("{panic}");
        }
    }));
    let mut all = Tally::default();
    for seed in seeds {
        let (wrong, tally) = Run::new(seed).await.go().await;
        assert!(wrong.is_empty(), "LOCKBAY_SEED={seed}: {}\n{tally:?}", wrong.join("\n"));
        all.reads += tally.reads;
        all.stale += tally.stale;
        all.changes += tally.changes;
        all.failed += tally.failed;
        all.swept += tally.swept;
        all.hits += tally.hits;
        all.loads += tally.loads;
    }
    eprintln!("{all:?}");
    // Of a single seed not everything may have happened.
    if number("LOCKBAY_SEED").is_none() {
        let seen = [all.reads, all.stale, all.changes, all.failed, all.swept];
        assert!(seen.iter().all(|count| *count > 30), "{all:?}");
        assert!(all.hits > 1_000 && all.loads > 1_000, "{all:?}");
    }
}
