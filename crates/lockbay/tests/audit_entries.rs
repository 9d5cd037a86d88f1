//! What each operation enters into the audit trail, on every store.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm)] // a test fails by panicking

mod support;
#[path = "support/trail.rs"]
mod trail;

use std::sync::Arc;
use std::time::Duration;

use lockbay::clock::Clock;
use lockbay::finance::Mischief;
use lockbay::job::{Claim, ClaimRequest, ClaimedJob, Retry};
use lockbay::lease::{Acquired, parse_token};
use lockbay::ledger::{Amount, Currency, UserId};
use lockbay::saga::{Decision, Endpoint, Route, SagaRequest, StepError, StepSpec, read_only};
use lockbay::schedule::{Resume, ScheduleRequest};
use lockbay::state::{Invalidation, Rule, SetOptions};
use lockbay::store::Store;
use lockbay::store::memory::Memory;
use lockbay::store::redis::RedisStore;
use lockbay::store::sqlite::SqliteStore;
use lockbay::{Caller, Config, ErrorKind, Json, LockBay};
use serde_json::json;
use support::eventually;
use support::redis::RedisServer;
use trail::{Entry, entries};

const TTL: Duration = Duration::from_secs(60);

fn config() -> Config {
    Config { instance_name: Some("one".into()), ..Config::default() }
}

/// The test on an instance over memory, SQLite and Redis, one after the other.
async fn everywhere(config: Config, test: impl AsyncFn(&LockBay)) {
    let clock = Clock::system();
    let dir = tempfile::tempdir().unwrap();
    let server = RedisServer::start_with(&["appendonly no"]);
    let sqlite = SqliteStore::open(&dir.path().join("s.db"), "trail", clock.clone()).unwrap();
    let redis = RedisStore::open(&server.url(), "trail", clock.clone()).await.unwrap();
    let memory = Memory::new(clock.clone()).client();
    let stores: [Arc<dyn Store>; 3] = [Arc::new(memory), Arc::new(sqlite), Arc::new(redis)];
    for store in stores {
        let bay = LockBay::with_store(config.clone(), store, clock.clone());
        test(&bay).await;
        bay.shutdown().await;
    }
}

/// What was entered since it was asked last.
struct Trail<'a> {
    bay: &'a LockBay,
    seen: u64,
    all: Vec<Entry>,
}

impl<'a> Trail<'a> {
    fn new(bay: &'a LockBay) -> Self {
        Trail { bay, seen: 0, all: Vec::new() }
    }

    /// The new entries but those of sessions, which come when they are needed first.
    async fn new_entries(&mut self) -> Vec<Entry> {
        let mut new = entries(&**self.bay.store(), self.seen).await;
        self.seen = new.last().map_or(self.seen, |last| last.revision);
        new.retain(|entry| !entry.entity.starts_with("session/"));
        self.all.extend(new.iter().cloned());
        new
    }

    /// What one operation entered: exactly these.
    async fn says(&mut self, expected: &[&str]) -> Vec<Entry> {
        let new = self.new_entries().await;
        let told: Vec<String> =
            new.iter().map(|entry| format!("{} {}", entry.entity, entry.action)).collect();
        let same = told.len() == expected.len()
            && told.iter().zip(expected).all(|(told, expected)| match expected.split_once('…') {
                Some((start, end)) => told.starts_with(start) && told.ends_with(end),
                None => told == expected,
            });
        assert!(same, "entered {told:#?}, expected {expected:#?}");
        new
    }

    async fn says_one(&mut self, expected: &str) -> Entry {
        self.says(&[expected]).await.remove(0)
    }

    async fn says_nothing(&mut self) {
        self.says(&[]).await;
    }
}

async fn claimed(bay: &LockBay, key: &str) -> ClaimedJob {
    let claim = bay.jobs().claim(ClaimRequest::new("pay", key, Json::parse("7").unwrap()));
    match claim.await.unwrap() {
        Claim::Claimed(job) => job,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn each_change_of_a_job_is_one_entry_that_names_the_one_before() {
    everywhere(config(), async |bay| {
        let (jobs, mut trail) = (bay.jobs(), Trail::new(bay));
        let request = ClaimRequest {
            holder: Some("worker".into()),
            ..ClaimRequest::new("pay", "a", Json::parse("7").unwrap())
        };
        let Claim::Claimed(job) = jobs.claim(request).await.unwrap() else { panic!() };
        let first = trail.says_one(&format!("job/{} claimed", job.job_id)).await;
        assert_eq!(first.revision, job.fencing_token.number());
        assert_eq!((first.actor.as_str(), first.previous), ("worker", None));
        let detail = &first.json["detail"];
        assert_eq!((&detail["attempt"], &detail["key"]), (&json!(1), &json!("a")));
        assert!(detail["parameters"].as_str().unwrap().starts_with("sha256:"), "{detail}");

        jobs.heartbeat(&job.job_id, &job.claim_token).await.unwrap();
        trail.says_nothing().await;
        // A conflict: somebody else has it.
        jobs.claim(ClaimRequest::new("pay", "a", Json::parse("7").unwrap())).await.unwrap();
        trail.says_nothing().await;

        let failed = jobs.fail(&job.job_id, &job.claim_token, "no money", Retry::Never).await;
        failed.unwrap();
        let entry = trail.says_one("job/… failed").await;
        assert_eq!(entry.previous, Some(first.revision));
        assert_eq!(entry.json["detail"]["error"], "no money");
        assert_eq!(entry.json["detail"]["will_retry"], false);
        // The same again, as after a lost reply.
        jobs.fail(&job.job_id, &job.claim_token, "no money", Retry::Never).await.unwrap();
        trail.says_nothing().await;

        jobs.retry(&job.job_id, "try again").await.unwrap();
        let retried = trail.says_one("job/… retried").await;
        assert_eq!((retried.previous, &*retried.actor), (Some(entry.revision), "one"));
        assert_eq!(retried.json["reason"], "try again");
        let job = claimed(bay, "a").await;
        let again = trail.says_one("job/… claimed").await;
        assert_eq!(again.previous, Some(retried.revision));
        assert_eq!(again.json["detail"]["attempt"], 2);
        jobs.give_back(&job.job_id, &job.claim_token).await.unwrap();
        trail.says_one("job/… released").await;
        let job = claimed(bay, "a").await;
        let over = trail.says_one("job/… taken_over").await;
        assert_eq!(over.previous, Some(again.revision), "a release keeps the revision");
        let secret = Json::parse(r#"{"iban":"DE-secret"}"#).unwrap();
        jobs.complete(&job.job_id, &job.claim_token, secret.clone()).await.unwrap();
        let completed = trail.says_one("job/… completed").await;
        assert_eq!(completed.previous, Some(over.revision));
        jobs.complete(&job.job_id, &job.claim_token, secret).await.unwrap();
        let late = jobs.complete(&job.job_id, "another", Json::null()).await.unwrap_err();
        assert_eq!(late.kind(), ErrorKind::Fenced);
        assert_eq!(jobs.cancel(&job.job_id, "late").await.unwrap_err().kind(), ErrorKind::Held);
        trail.says_nothing().await;
        assert!(trail.all.iter().all(|entry| !entry.json.to_string().contains("secret")));

        let job = claimed(bay, "b").await;
        trail.says_one("job/… claimed").await;
        let caller = Caller::new(Some("ann".into()), Some("r1".into())).unwrap();
        caller.scope(jobs.cancel(&job.job_id, "not wanted")).await.unwrap();
        let cancelled = trail.says_one("job/… cancelled").await;
        let told = ["actor", "reason", "request_id"].map(|name| &cancelled.json[name]);
        assert_eq!(told, ["ann", "not wanted", "r1"]);

        let requests = ["c", "d"].map(|key| ClaimRequest::new("pay", key, Json::null()));
        let many = jobs.claim_many(requests.to_vec()).await;
        trail.says(&["job/… claimed", "job/… claimed"]).await;
        let Ok(Claim::Claimed(c)) = &many[0] else { panic!() };
        let next = ClaimRequest::new("pay", "e", Json::null());
        jobs.complete_and_claim(&c.job_id, &c.claim_token, Json::null(), next).await.0.unwrap();
        trail.says(&["job/… completed", "job/… claimed"]).await;
    })
    .await;
}

fn step(name: &str) -> StepSpec {
    StepSpec::new(name, "step", Json::parse(r#"{"pin":"secret"}"#).unwrap())
}

#[tokio::test]
async fn each_record_of_a_sagas_log_is_one_entry_with_its_digest() {
    everywhere(config(), async |bay| {
        let (sagas, mut trail) = (bay.sagas(), Trail::new(bay));
        let handler = read_only(|context| async move {
            match context.step.as_str() {
                "bad" => Err(StepError::failed("told to")),
                _ => Ok(Json::parse(r#""secret""#).unwrap().into()),
            }
        });
        sagas.register("step", handler).unwrap();
        let caller = Caller::new(Some("ann".into()), Some("r1".into())).unwrap();
        let request = SagaRequest::new("s", vec![step("a"), step("b")]);
        let (id, _) = caller.clone().scope(sagas.run(request)).await.unwrap();
        let told =
            trail.says(&["saga/… started", "saga/… step_completed", "saga/… step_completed"]);
        let told = told.await;
        let named = |entry: &Entry| (entry.actor.clone(), entry.json.get("request_id").is_some());
        assert_eq!(named(&told[0]), ("ann".into(), true));
        assert_eq!(named(&told[1]), ("one".into(), false), "steps are its executor's");
        assert_eq!(told[2].json["detail"]["status"], "completed");
        assert_eq!(told[2].json["detail"]["step"], "b");
        assert_eq!((told[0].previous, told[1].previous), (None, Some(told[0].revision)));
        assert_eq!(told[2].previous, Some(told[1].revision));
        assert!(told.iter().all(|entry| !entry.json.to_string().contains("secret")));
        assert_as_in_its_history(bay, &id, &trail.all).await;

        let spec = StepSpec { max_retries: Some(0), ..step("bad") };
        let (bad, _) = sagas.run(SagaRequest::new("s", vec![step("a"), spec])).await.unwrap();
        trail.new_entries().await;
        assert_as_in_its_history(bay, &bad, &trail.all).await;

        // Nobody does this: it parks, and a person decides.
        let gone = read_only(|_| async { Err(StepError::unknown("who knows")) });
        sagas.register("gone", gone).unwrap();
        let spec = StepSpec { max_retries: Some(0), ..StepSpec::new("x", "gone", Json::null()) };
        let spec = StepSpec { pivot: true, ..spec };
        let (parked, _) = sagas.run(SagaRequest::new("s", vec![spec])).await.unwrap();
        trail.new_entries().await;
        let decision = Decision::ResolveDone { step: "x".into(), result: Json::null() };
        let refused = sagas.operate(&parked, &decision, "", "why").await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid);
        trail.says_nothing().await;
        sagas.operate(&parked, &decision, "bob", "seen at the bank").await.unwrap();
        let last = trail.new_entries().await.remove(0);
        assert_eq!((last.action.as_str(), last.actor.as_str()), ("step_resolved_done", "bob"));
        assert_eq!(last.json["reason"], "seen at the bank");
        sagas.wait(&parked, TTL).await.unwrap();
        trail.new_entries().await;
        assert_as_in_its_history(bay, &parked, &trail.all).await;
    })
    .await;
}

/// The entries of a saga are its start and the records of its log, one for one.
async fn assert_as_in_its_history(bay: &LockBay, id: &str, all: &[Entry]) {
    use sha2::Digest;
    let entity = format!("saga/{id}");
    let told: Vec<&Entry> = all.iter().filter(|entry| entry.entity == entity).collect();
    let history = bay.sagas().history(id, None, 1_000).await.unwrap().items;
    let kept: Vec<_> =
        history.iter().map(|entry| (entry.revision.clone(), entry.event.to_owned())).collect();
    let entered: Vec<_> =
        told[1..].iter().map(|entry| (entry.revision.to_string(), entry.action.clone())).collect();
    assert_eq!(entered, kept);
    assert!(told.windows(2).all(|pair| pair[1].previous == Some(pair[0].revision)));
    let range = lockbay::store::Range::new(
        lockbay::store::Partition::FIRST,
        lockbay::store::Kind::new("saga-log"),
        format!("{id}/"),
    );
    let log = bay.store().scan(&range, 1_000).await.unwrap().records;
    for (entry, record) in told[1..].iter().zip(log) {
        let digest: [u8; 32] = sha2::Sha256::digest(&record.value).into();
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(entry.json["digest"], json!(digest));
    }
}

#[tokio::test]
async fn each_movement_is_one_entry_whoever_commits_it_and_payouts_are_masked() {
    let config =
        Config { audit_mask_secret: Some(lockbay::config::Hidden("k".into())), ..config() };
    everywhere(config, async |bay| {
        let mut trail = Trail::new(bay);
        let (ann, usd) = (UserId::parse("ann").unwrap(), Currency::parse("USD").unwrap());
        let amount = |text: &str| Amount::parse(text, usd).unwrap();
        let caller = Caller::new(Some("desk".into()), None).unwrap();
        let ten = amount("10.00");
        let deposit = bay.ledger().deposit(&ann, &ten, "k1");
        let applied = caller.scope(deposit).await.unwrap();
        let entry = trail.says_one("movement/… committed").await;
        assert_eq!(entry.entity, format!("movement/{}", applied.movement.movement_id));
        assert_eq!(entry.actor, "desk");
        let legs = entry.json["detail"]["legs"].as_array().unwrap().clone();
        let of_ann = legs.iter().find(|leg| leg["account"] == "user/ann/USD").unwrap();
        assert_eq!(of_ann["amount"], "10.00");
        assert!(bay.ledger().deposit(&ann, &amount("10.00"), "k1").await.unwrap().replayed);
        trail.says_nothing().await;

        let provider = bay.simulated_provider(Mischief::default());
        bay.finance().pay_through(Arc::new(provider)).unwrap();
        let iban = "DE02120300000000202051";
        let refused = bay.finance().cashout(&ann, &amount("11.00"), iban, None).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Refused);
        trail.says_nothing().await;
        let started = bay.finance().cashout(&ann, &amount("4.00"), iban, None).await.unwrap();
        bay.sagas().wait(&started.saga_id, TTL).await.unwrap();
        let told = trail.new_entries().await;
        let movements: Vec<&Entry> =
            told.iter().filter(|entry| entry.is("movement/", "committed")).collect();
        assert_eq!(movements.len(), 2, "reserved and paid: {told:#?}");
        for movement in movements {
            let step = |entry: &&Entry| entry.is("saga/", "step_completed");
            let same = |entry: &&Entry| entry.revision == movement.revision;
            assert!(told.iter().filter(step).any(|entry| same(&entry)), "in the step's commit");
            assert_eq!(movement.actor, "one");
        }
        let payout = told.iter().find(|entry| entry.is("payout/", "simulated")).unwrap();
        let mask = payout.json["detail"]["destination"].as_str().unwrap();
        assert!(mask.starts_with("hmac-sha256:") && mask.len() == 12 + 64, "{mask}");
        assert!(told.iter().all(|entry| !entry.json.to_string().contains(iban)));
        assert!(payout.json.get("digest").is_none(), "a digest is a way to try destinations");
        assert_as_in_its_history(bay, &started.saga_id, &trail.all).await;
    })
    .await;
}

#[tokio::test]
async fn leases_handlers_rules_and_invalidations_are_entered_with_who_asked() {
    everywhere(config(), async |bay| {
        let mut trail = Trail::new(bay);
        let caller = Caller::new(Some("ann".into()), Some("r2".into())).unwrap();
        let work = async {
            let Acquired::Granted(lease) = bay.leases().acquire("l", "h", TTL).await.unwrap()
            else {
                panic!()
            };
            trail.says_one("lease/l granted").await;
            let token = parse_token(&lease.fencing_token).unwrap();
            bay.leases().acquire("l", "other", TTL).await.unwrap();
            bay.leases().renew("l", "h", token, TTL).await.unwrap();
            trail.says_nothing().await;
            bay.leases().release("l", token).await.unwrap();
            let released = trail.says_one("lease/l released").await;
            assert_eq!(released.previous, Some(token.number()));
            bay.leases().release("l", token).await.unwrap_err();
            trail.says_nothing().await;

            let endpoint = Endpoint {
                url: "https://user:hush@pay.example/step?key=hush".into(),
                secret: Some("hush".into()),
                timeout_us: None,
            };
            bay.sagas().put_handler("h", &Route::Push(endpoint)).await.unwrap();
            let put = trail.says_one("handler/h put").await;
            assert!(!put.json.to_string().contains("hush") && put.json.get("digest").is_none());
            assert_eq!(put.json["detail"]["url"], "https://pay.example/step");
            bay.sagas().delete_handler("h").await.unwrap();
            let deleted = trail.says_one("handler/h deleted").await;
            assert_eq!(deleted.previous, Some(put.revision));
            bay.sagas().delete_handler("h").await.unwrap_err();
            trail.says_nothing().await;

            let state = bay.state();
            state.set("user:1", Json::null(), SetOptions::default()).await.unwrap();
            state.delete("user:1").await.unwrap();
            trail.says_nothing().await;
            let rule = Rule {
                name: "r".into(),
                update_pattern: "user:{id}".into(),
                invalidate_patterns: vec!["list:*".into()],
            };
            state.put_rule(rule).await.unwrap();
            trail.says_one("state-rule/r put").await;
            state.delete_rule("r").await.unwrap();
            trail.says_one("state-rule/r deleted").await;
            state.set_depends_on("page", &["user:1".into()]).await.unwrap();
            trail.says_one("state-dependency/page put").await;
            state.forget_depends_on("page").await.unwrap();
            assert!(!state.forget_depends_on("page").await.unwrap());
            trail.says_one("state-dependency/page deleted").await;
            let wish = Invalidation {
                keys: vec!["user:1".into()],
                tags: vec!["t".into()],
                pattern: Some("list:*".into()),
                updated_key: None,
                reason: Some("rates were wrong".into()),
            };
            state.invalidate(&wish).await.unwrap();
            let entry = trail.says_one("state/values invalidated").await;
            assert_eq!(entry.json["detail"]["tags"], json!(["t"]));
            assert_eq!(entry.json["reason"], "rates were wrong");
            state.invalidate(&Invalidation::default()).await.unwrap_err();

            let rule = bay.sweeper().rules().await.unwrap().remove(0);
            let name = rule.name.clone();
            bay.sweeper().put_rule(rule).await.unwrap();
            let put = trail.says_one(&format!("sweep-rule/{name} put")).await;
            bay.sweeper().delete_rule(&name).await.unwrap();
            let deleted = trail.says_one(&format!("sweep-rule/{name} deleted")).await;
            assert_eq!(deleted.previous, Some(put.revision));
            bay.sweeper().delete_rule(&name).await.unwrap_err();
            trail.says_nothing().await;

            bay.accept_store().await.unwrap();
            trail.says_one("store/… accepted").await;
        };
        caller.scope(work).await;
        for entry in &trail.all {
            assert_eq!((&*entry.actor, &entry.json["request_id"]), ("ann", &json!("r2")));
        }
    })
    .await;
}

#[tokio::test]
async fn leadership_schedules_and_cleanup_are_entered_by_who_did_it() {
    everywhere(config(), async |bay| {
        let schedules = bay.schedules();
        schedules.register("work", |_| async { Ok(Json::null()) }).unwrap();
        bay.start();
        eventually("it leads", || async { bay.is_leader().then_some(()) }).await;
        let mut trail = Trail::new(bay);
        let elected = trail.says_one("leader/lockbay elected").await;
        assert_eq!((&*elected.actor, elected.previous), ("one", None));

        let caller = Caller::new(Some("ann".into()), None).unwrap();
        let work = async {
            let yearly = ScheduleRequest::new("s", "t", "0 0 1 1 *", "work");
            schedules.put(&yearly).await.unwrap();
            let put = trail.says_one("schedule/s put").await;
            schedules.put(&yearly).await.unwrap();
            trail.says_nothing().await;
            schedules.pause("s").await.unwrap();
            let paused = trail.says_one("schedule/s paused").await;
            assert_eq!(paused.previous, Some(put.revision));
            schedules.pause("s").await.unwrap();
            schedules.resume("s", Resume::FromNow).await.unwrap();
            trail.says_one("schedule/s resumed").await;
            assert!(trail.all.iter().skip(1).all(|entry| entry.actor == "ann"));
            schedules.run_now("s", Some("n")).await.unwrap();
        };
        caller.scope(work).await;
        let mut told = Vec::new();
        for _ in 0..2_000 {
            told.extend(trail.new_entries().await);
            if told.iter().any(|entry| entry.is("schedule/s", "tick_completed")) {
                break;
            }
            support::pause().await;
        }
        let told: Vec<_> = told.iter().map(|entry| (&*entry.action, &*entry.actor)).collect();
        let expected = [
            ("run_asked", "ann"),
            ("claimed", "one"),
            ("completed", "one"),
            ("tick_completed", "one"),
        ];
        assert_eq!(told, expected);
        schedules.delete("s").await.unwrap();
        trail.says_one("schedule/s deleted").await;

        let caller = Caller::new(Some("ann".into()), None).unwrap();
        caller.scope(bay.leadership().resign()).await.unwrap();
        let resigned = trail.says_one("leader/lockbay resigned").await;
        assert_eq!((&*resigned.actor, resigned.previous), ("ann", Some(elected.revision)));
        bay.leadership().resign().await.unwrap_err();
        trail.says_nothing().await;
    })
    .await;
}

#[tokio::test]
async fn without_audit_nothing_is_appended() {
    everywhere(Config { audit: false, ..config() }, async |bay| {
        let job = claimed(bay, "a").await;
        bay.jobs().complete(&job.job_id, &job.claim_token, Json::null()).await.unwrap();
        bay.leases().acquire("l", "h", TTL).await.unwrap();
        bay.sagas().register("step", read_only(|_| async { Ok(Json::null().into()) })).unwrap();
        bay.sagas().run(SagaRequest::new("s", vec![step("a")])).await.unwrap();
        bay.accept_store().await.unwrap();
        assert_eq!(entries(&**bay.store(), 0).await, []);
    })
    .await;
}
