//! Search against a model: whatever happens to jobs, sagas and leaders, what is found is what a look
//! at every record finds.
//!
//! A run follows from its seed, which a failure prints: `LOCKBAY_SEED=17` runs that one alone, and
//! `LOCKBAY_SEEDS=500` runs so many.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod support {
    pub mod stepped;
}

use std::time::Duration;

use lockbay::Json;
use lockbay::clock::Clock;
use lockbay::config::Config;
use lockbay::job::{Claim, ClaimRequest, ClaimedJob, JobFilter, JobInfo, Retry};
use lockbay::saga::{Decision, HandlerCheck, SagaFilter, SagaInfo, SagaRequest, StepSpec};
use lockbay::search::{Found, Look};
use lockbay::store::faulty::Cut;
use lockbay::store::{Kind, Partition, Range, Store};
use support::stepped::{Instance, World};

const SEEDS: u64 = 3;
const ROUNDS: usize = 50;
const QUERIES: usize = 60;
const WORDS: [&str; 15] = [
    "order",
    "refund",
    "ann",
    "bob",
    "berlin",
    "order_17",
    "order-18",
    "17",
    "1700",
    "x",
    "zürich",
    "ann@example.com",
    "bert",
    "be",
    "timeout", // of the reason of a saga whose time was over
];

struct Model {
    world: World,
    instances: Vec<Instance>,
    chance: Clock,
    claims: Vec<ClaimedJob>,
    sagas: Vec<String>,
}

impl Model {
    fn new(seed: u64) -> Self {
        let world = World::new(seed);
        let chance = Clock::manual(seed + 1_000_000);
        let mut model =
            Model { world, instances: Vec::new(), chance, claims: Vec::new(), sagas: Vec::new() };
        for _ in 0..2 {
            let instance = model.instance();
            model.instances.push(instance);
        }
        model
    }

    fn instance(&self) -> Instance {
        let config = Config { monitoring: false, ..Config::default() };
        let instance = self.world.instance_with(config);
        instance.bay.start();
        instance
    }

    fn dice(&self, sides: usize) -> usize {
        usize::try_from(self.chance.random() % sides as u64).unwrap()
    }

    fn word(&self) -> &'static str {
        WORDS[self.dice(WORDS.len())]
    }

    fn payload(&self) -> Json {
        let (a, b, hidden) = (self.word(), self.word(), self.word());
        let number = self.dice(2_000);
        Json::parse(format!(
            r#"{{"a":"{a} {b}","n":{number}.50,"deep":[{{"c":"{b}"}}],"destination":"{hidden}"}}"#
        ))
        .unwrap()
    }

    async fn act(&mut self) {
        let bay = self.instances[self.dice(self.instances.len())].bay.clone();
        let claim = match self.claims.len() {
            0 => None,
            many => Some(self.claims[self.dice(many)].clone()),
        };
        match (self.dice(8), claim) {
            (0..3, _) => {
                let request = ClaimRequest::new(self.word(), self.word(), self.payload());
                if let Ok(Claim::Claimed(claimed)) = bay.jobs().claim(request).await {
                    self.claims.push(claimed);
                }
            }
            (3, Some(job)) => {
                let error = format!("{} failed", self.word());
                drop(bay.jobs().fail(&job.job_id, &job.claim_token, &error, Retry::Allowed).await);
            }
            (4, Some(job)) => match self.dice(3) {
                0 => drop(bay.jobs().cancel(&job.job_id, "no").await),
                1 => drop(bay.jobs().retry(&job.job_id, "try again").await),
                _ => drop(bay.jobs().complete(&job.job_id, &job.claim_token, Json::null()).await),
            },
            (5, _) if !self.sagas.is_empty() => {
                let id = &self.sagas[self.dice(self.sagas.len())];
                let reason = format!("{} asked", self.word());
                let decision = match self.dice(2) {
                    0 => Decision::Abandon,
                    _ => Decision::Retry { step: "s".into(), parameters: Some(self.payload()) },
                };
                drop(bay.sagas().operate(id, &decision, "ann", &reason).await);
            }
            _ => {
                let step = StepSpec::new("s", self.word(), self.payload());
                let request = SagaRequest {
                    metadata: self.payload(),
                    handlers: HandlerCheck::Deferred,
                    timeout: Some(Duration::from_secs(20)),
                    ..SagaRequest::new(self.word(), vec![step])
                };
                if let Ok(started) = bay.sagas().start(request).await {
                    self.sagas.push(started.saga_id);
                }
            }
        }
    }

    /// Somebody dies at one of its next commits, and another comes.
    fn disturb(&mut self) {
        if self.dice(6) > 0 {
            return;
        }
        let at = self.dice(self.instances.len());
        let cut = if self.dice(2) == 0 { Cut::Before } else { Cut::After };
        self.instances[at].store.die_at(1 + self.dice(4) as u64, cut);
        let instance = self.instance();
        self.instances.push(instance);
        if self.instances.len() > 4 {
            // Its tasks go on: nobody shuts it down.
            self.instances.remove(0).store.die_at(1, Cut::Before);
        }
    }

    /// One that is well, alone, and leads.
    async fn calm(&mut self) -> Instance {
        for instance in self.instances.drain(..) {
            instance.store.die_at(1, Cut::Before);
        }
        let last = self.instance();
        for _ in 0..60 {
            self.world.pass_by(Duration::from_millis(500), Duration::from_secs(1)).await;
            if last.bay.is_leader() {
                break;
            }
        }
        // What it does by itself in the beginning is entered too.
        self.world.pass_by(Duration::from_millis(500), Duration::from_secs(10)).await;
        last.bay.search().index_now().await.unwrap();
        last
    }
}

/// A value as words with one space around each.
fn spaced(text: &str) -> String {
    let lower = text.to_lowercase();
    let words: Vec<&str> = lower
        .split(|letter: char| !letter.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .collect();
    format!(" {} ", words.join(" "))
}

fn values_of(json: &serde_json::Value, out: &mut Vec<String>) {
    match json {
        serde_json::Value::String(text) => out.push(spaced(text)),
        serde_json::Value::Number(number) => out.push(spaced(&number.to_string())),
        serde_json::Value::Array(items) => items.iter().for_each(|item| values_of(item, out)),
        serde_json::Value::Object(members) => members
            .iter()
            .filter(|(name, _)| *name != "destination")
            .for_each(|(_, member)| values_of(member, out)),
        serde_json::Value::Null | serde_json::Value::Bool(_) => {}
    }
}

/// A record as a look at everything sees it.
struct Plain {
    created_us: u64,
    is_saga: bool,
    id: String,
    values: Vec<String>,
}

fn plain_job(job: &JobInfo) -> Plain {
    let mut values = vec![spaced(&job.job_id), spaced(&job.job_type), spaced(&job.job_key)];
    values_of(&job.parameters.to_value().unwrap(), &mut values);
    values.extend(job.error.as_deref().map(spaced));
    let created_us = job.created_at.as_micros();
    Plain { created_us, is_saga: false, id: job.job_id.clone(), values }
}

fn plain_saga(saga: &SagaInfo) -> Plain {
    let mut values = vec![spaced(&saga.saga_id), spaced(&saga.saga_name)];
    values.extend(saga.reason.as_deref().map(spaced));
    values_of(&saga.metadata.to_value().unwrap(), &mut values);
    for step in &saga.steps {
        values.extend([spaced(&step.name), spaced(&step.handler)]);
        values.extend(step.error.as_deref().map(spaced));
        values_of(&step.parameters.to_value().unwrap(), &mut values);
    }
    let created_us = saga.created_at.as_micros();
    Plain { created_us, is_saga: true, id: saga.saga_id.clone(), values }
}

impl Plain {
    fn matches(&self, query: &str) -> bool {
        let terms: Vec<&str> = query.split_whitespace().collect();
        terms.iter().enumerate().all(|(at, term)| {
            let open = at + 1 == terms.len() || term.ends_with('*');
            let wanted = spaced(term);
            let wanted = if open { wanted.trim_end() } else { &wanted };
            self.values.iter().any(|value| value.contains(wanted))
        })
    }
}

async fn everything(instance: &Instance) -> Vec<Plain> {
    let mut all = Vec::new();
    let mut next = None;
    loop {
        let page = instance.bay.jobs().list(&JobFilter::default(), next, 100).await.unwrap();
        all.extend(page.items.iter().map(plain_job));
        next = page.next;
        if next.is_none() {
            break;
        }
    }
    loop {
        let page = instance.bay.sagas().list(&SagaFilter::default(), next, 100).await.unwrap();
        all.extend(page.items.iter().map(plain_saga));
        next = page.next;
        if next.is_none() {
            break;
        }
    }
    all.sort_by(|a, b| (b.created_us, b.is_saga, &b.id).cmp(&(a.created_us, a.is_saga, &a.id)));
    all
}

/// All that is found, page by page.
async fn found(instance: &Instance, query: &str, look: &Look, limit: usize) -> Vec<String> {
    let (mut ids, mut next) = (Vec::new(), None);
    loop {
        let search = instance.bay.search();
        let page = search.find(query, look, next.as_deref(), limit).await.unwrap();
        assert!(page.items.len() <= limit && !page.truncated);
        ids.extend(page.items.into_iter().map(|hit| match hit.found {
            Found::Job(job) => job.job_id,
            Found::Saga(saga) => saga.saga_id,
        }));
        next = page.next;
        if next.is_none() {
            return ids;
        }
    }
}

async fn compare(model: &Model, instance: &Instance, context: &str) {
    let all = everything(instance).await;
    let mut hits = 0;
    for _ in 0..QUERIES {
        let mut query = match (model.dice(12), all.len()) {
            (0, 1..) => all[model.dice(all.len())].id.clone(),
            (1, 1..) => all[model.dice(all.len())].id[..8].to_owned(),
            _ => model.word().to_owned(),
        };
        for _ in 0..model.dice(3) {
            query = format!("{query}{} {}", ["", "*"][model.dice(2)], model.word());
        }
        if query == "x" || query == "x*" || query == "x x" || query == "x* x" {
            continue;
        }
        let (look, kinds) = match model.dice(3) {
            0 => (Look::Jobs(JobFilter::default()), [true, false]),
            1 => (Look::Sagas(SagaFilter::default()), [false, true]),
            _ => (Look::Any, [true, true]),
        };
        let limit = 1 + model.dice(9);
        let ids = found(instance, &query, &look, limit).await;
        let wanted = all.iter().filter(|plain| kinds[usize::from(plain.is_saga)]);
        let mut wanted: Vec<&str> =
            wanted.filter(|plain| plain.matches(&query)).map(|plain| plain.id.as_str()).collect();
        // What is named to the letter comes first.
        let named = |id: &&str| {
            let job = all.iter().find(|plain| plain.id == **id).unwrap();
            **id == query || (!job.is_saga && named_by_key(instance, &query, &look, id))
        };
        let order: Vec<&str> = ids.iter().map(String::as_str).collect();
        let (first, rest): (Vec<&str>, Vec<&str>) = wanted.iter().copied().partition(named);
        wanted = first.into_iter().chain(rest).collect();
        assert_eq!(order, wanted, "{context}, {query:?}, {limit} a page");
        hits += usize::from(!order.is_empty());
    }
    assert!(hits > QUERIES / 4 || all.len() < 20, "{context}: only {hits} queries found anything");
}

/// Whether this job has the query as its key, and few others have.
fn named_by_key(instance: &Instance, query: &str, _look: &Look, id: &str) -> bool {
    let filter = JobFilter { job_key: Some(query.to_owned()), ..JobFilter::default() };
    let jobs = instance.bay.jobs().clone();
    let page =
        futures_util::FutureExt::now_or_never(async move { jobs.list(&filter, None, 20).await });
    let page = page.expect("memory answers at once").unwrap();
    page.next.is_none() && page.items.iter().any(|job| job.job_id == id)
}

/// How many records of this kind there are.
async fn count(instance: &Instance, kind: &'static str) -> usize {
    let range = Range::new(Partition::FIRST, Kind::new(kind), "");
    instance.store.scan(&range, 1_000).await.unwrap().records.len()
}

async fn run(seed: u64) {
    let mut model = Model::new(seed);
    for round in 0..ROUNDS {
        for _ in 0..=model.dice(3) {
            model.act().await;
        }
        model.disturb();
        model.world.pass_by(Duration::from_millis(250), Duration::from_secs(1)).await;
        if round % 25 == 24 {
            let calm = model.calm().await;
            compare(&model, &calm, &format!("LOCKBAY_SEED={seed}, round {round}")).await;
            model.instances.push(calm);
        }
    }
    // Segments were merged.
    let calm = model.calm().await;
    let (before, segments) =
        (count(&calm, "search-docs").await, count(&calm, "search-words").await);
    assert!(before > 0 && before < 60 && segments < 200, "merged: {before} and {segments}");
    if !seed.is_multiple_of(3) {
        return;
    }
    // Jobs are forgotten after their horizon, and then the index forgets them.
    model.world.pass_by(Duration::from_secs(7_200), Duration::from_secs(9 * 86_400)).await;
    model.instances.push(calm);
    let calm = model.calm().await;
    model.world.pass_by(Duration::from_secs(2), Duration::from_secs(900)).await;
    calm.bay.search().index_now().await.unwrap();
    compare(&model, &calm, &format!("LOCKBAY_SEED={seed}, days later")).await;
    let jobs = calm.bay.jobs().list(&JobFilter::default(), None, 100).await.unwrap().items;
    let ended = jobs.iter().filter(|job| job.completed_at.is_some() && job.next_retry_at.is_none());
    assert_eq!(ended.count(), 0, "what ended was swept");
    let range = Range::new(Partition::FIRST, Kind::new("search-docs"), "");
    let docs = calm.store.scan(&range, 100).await.unwrap();
    let known: usize = docs.records.iter().map(|record| record.value.len()).sum();
    let all = everything(&calm).await.len();
    assert!(known < (all + 12) * 80, "the index forgot what is gone: {known} bytes for {all}");
}

#[tokio::test]
async fn what_is_found_is_what_a_look_at_every_record_finds() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    match number("LOCKBAY_SEED") {
        Some(seed) => run(seed).await,
        None => {
            for seed in 0..number("LOCKBAY_SEEDS").unwrap_or(SEEDS) {
                run(seed).await;
            }
        }
    }
}
