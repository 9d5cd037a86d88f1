//! Search on every store: what is found and when, what is not, and that leaders may die meanwhile.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod support;

use std::sync::Arc;
use std::time::Duration;

use lockbay::clock::Clock;
use lockbay::config::{Config, Span};
use lockbay::job::{Claim, ClaimRequest, JobFilter, Retry};
use lockbay::saga::{Decision, HandlerCheck, SagaFilter, SagaRequest, StepSpec};
use lockbay::search::{Found, Hit, Look};
use lockbay::store::faulty::{Cut, Faulty};
use lockbay::store::memory::Memory;
use lockbay::store::redis::RedisStore;
use lockbay::store::sqlite::SqliteStore;
use lockbay::store::{Kind, Partition, Range, Store};
use lockbay::{ErrorKind, Json, LockBay};
use support::eventually;
use support::redis::RedisServer;

fn config() -> Config {
    Config { leader_ttl: Span(Duration::from_secs(5)), monitoring: false, ..Config::default() }
}

fn start(config: Config, store: Arc<dyn Store>) -> LockBay {
    let bay = LockBay::with_store(config, store, Clock::system());
    bay.start();
    bay
}

fn fresh() -> Arc<dyn Store> {
    Arc::new(Memory::new(Clock::system()).client())
}

async fn memory() -> LockBay {
    let bay = start(config(), fresh());
    leads(&bay).await;
    bay
}

/// One that keeps the lead while much is indexed on a busy machine.
async fn patient(store: Arc<dyn Store>) -> LockBay {
    let bay = start(Config { leader_ttl: Span(Duration::from_secs(60)), ..config() }, store);
    leads(&bay).await;
    bay
}

async fn leads(bay: &LockBay) {
    eventually("it leads", async || bay.is_leader().then_some(())).await;
}

async fn claim(bay: &LockBay, job_type: &str, key: &str, parameters: &str) -> (String, String) {
    let request = ClaimRequest::new(job_type, key, Json::parse(parameters).unwrap());
    let claimed = bay.jobs().claim(request).await.unwrap();
    let Claim::Claimed(job) = claimed else { panic!("{claimed:?}") };
    (job.job_id, job.claim_token)
}

async fn start_saga(bay: &LockBay, name: &str, metadata: &str, key: Option<&str>) -> String {
    let step = StepSpec::new("lock_funds", "nobody", Json::parse(r#"{"amount":10.50}"#).unwrap());
    let request = SagaRequest {
        metadata: Json::parse(metadata).unwrap(),
        idempotency_key: key.map(str::to_owned),
        handlers: HandlerCheck::Deferred,
        ..SagaRequest::new(name, vec![step])
    };
    bay.sagas().start(request).await.unwrap().saga_id
}

fn id(hit: &Hit) -> String {
    match &hit.found {
        Found::Job(job) => job.job_id.clone(),
        Found::Saga(saga) => saga.saga_id.clone(),
    }
}

/// Ids of what is found now, all pages of it.
async fn ids(bay: &LockBay, query: &str, look: &Look, limit: usize) -> Vec<String> {
    let (mut ids, mut next) = (Vec::new(), None);
    loop {
        let page = bay.search().find(query, look, next.as_deref(), limit).await.unwrap();
        ids.extend(page.items.iter().map(id));
        next = page.next;
        if next.is_none() {
            return ids;
        }
    }
}

async fn any(bay: &LockBay, query: &str) -> Vec<String> {
    ids(bay, query, &Look::Any, 10).await
}

#[tokio::test]
async fn a_job_is_found_by_everything_that_it_is_known_by() {
    let bay = memory().await;
    let parameters = r#"{"user":{"email":"ann.lee@example.com"},"n":48213,"destination":"DE77"}"#;
    let (job, token) = claim(&bay, "payment_processing", "order-17", parameters).await;
    bay.search().index_now().await.unwrap();
    for query in [
        job.as_str(),
        &job[..20],
        "payment",
        "processing paym",
        "order-17",
        "17",
        "ann.lee",
        "48213",
        "ANN.LEE@EXAMPLE.COM",
        "ord* 48213",
        "exam",
    ] {
        assert_eq!(any(&bay, query).await, [job.as_str()], "{query}");
    }
    for query in ["de77", "email", "user", "orde 17", "4821 ann", "ann.lee@example.org"] {
        assert!(any(&bay, query).await.is_empty(), "{query}");
    }
    let hit = bay.search().find("example 482", &Look::Any, None, 10).await.unwrap().items.remove(0);
    assert_eq!(hit.matched, ["parameters.user.email", "parameters.n"]);
    assert_eq!(hit.key().as_deref(), Some("order-17"));
    // What goes wrong later is found later.
    bay.jobs().fail(&job, &token, "no funds at Zürich", Retry::Never).await.unwrap();
    assert!(any(&bay, "zürich").await.is_empty());
    bay.search().index_now().await.unwrap();
    assert_eq!(any(&bay, "ZÜRICH").await, [job]);
}

#[tokio::test]
async fn what_is_named_to_the_letter_is_found_before_it_is_indexed() {
    // Not started: nobody indexes.
    let bay = LockBay::with_store(config(), fresh(), Clock::system());
    let (job, _) = claim(&bay, "pay", "order-17", "null").await;
    let saga = start_saga(&bay, "escrow", "null", Some("my key")).await;
    assert_eq!(any(&bay, &job).await, [job.as_str()]);
    assert_eq!(any(&bay, "order-17").await, [job]);
    assert_eq!(any(&bay, &saga).await, [saga.as_str()]);
    assert_eq!(any(&bay, "my key").await, [saga]);
    let page = bay.search().find("escrow", &Look::Any, None, 10).await.unwrap();
    assert!(page.items.is_empty() && page.indexed_until.as_micros() == 0, "{page:?}");
    let refused = bay.search().index_now().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Held);
}

#[tokio::test]
async fn filters_and_words_go_together() {
    let bay = memory().await;
    let (open, _) = claim(&bay, "pay", "a", r#"{"city":"berlin"}"#).await;
    let (done, token) = claim(&bay, "pay", "b", r#"{"city":"berlin"}"#).await;
    bay.jobs().complete(&done, &token, Json::null()).await.unwrap();
    let (other, _) = claim(&bay, "refund", "c", r#"{"city":"berlin"}"#).await;
    let saga = start_saga(&bay, "escrow", r#"{"city":"berlin","key":"k-1"}"#, None).await;
    bay.search().index_now().await.unwrap();
    assert_eq!(any(&bay, "berlin").await, [&saga, &other, &done, &open].map(String::clone));
    let jobs = |filter| Look::Jobs(filter);
    let of_type = JobFilter { job_type: Some("pay".into()), ..JobFilter::default() };
    assert_eq!(ids(&bay, "berlin", &jobs(of_type.clone()), 1).await, [done.clone(), open.clone()]);
    let ended = JobFilter { status: Some(lockbay::job::JobStatus::Completed), ..of_type };
    assert_eq!(ids(&bay, "berlin", &jobs(ended), 10).await, [done]);
    let sagas = |filter| Look::Sagas(filter);
    assert_eq!(ids(&bay, "berlin", &sagas(SagaFilter::default()), 10).await, [saga.as_str()]);
    // By the key of its metadata, with words and without.
    let keyed = SagaFilter { key: Some("k-1".into()), ..SagaFilter::default() };
    assert_eq!(ids(&bay, "", &sagas(keyed.clone()), 10).await, [saga.as_str()]);
    assert_eq!(ids(&bay, "esc", &sagas(keyed.clone()), 10).await, [saga.as_str()]);
    assert!(ids(&bay, "paris", &sagas(keyed.clone()), 10).await.is_empty());
    let page = bay.sagas().list(&keyed, None, 10).await.unwrap();
    assert_eq!(page.items.len(), 1, "and so without an index");
    for wrong in ["", "?", "x"] {
        let refused = bay.search().find(wrong, &Look::Any, None, 10).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid, "{wrong}");
    }
}

#[tokio::test]
async fn words_and_an_idempotency_key_find_the_saga_that_it_started() {
    let bay = memory().await;
    let saga = start_saga(&bay, "escrow", r#"{"city":"berlin"}"#, Some("my key")).await;
    start_saga(&bay, "escrow", r#"{"city":"berlin"}"#, Some("another")).await;
    bay.search().index_now().await.unwrap();
    let keyed = SagaFilter { key: Some("my key".into()), ..SagaFilter::default() };
    let look = Look::Sagas(keyed);
    assert_eq!(ids(&bay, "berlin", &look, 10).await, [saga.as_str()]);
    assert_eq!(ids(&bay, "", &look, 10).await, [saga]);
    assert!(ids(&bay, "paris", &look, 10).await.is_empty());
}

/// Large records end a page before its number of items does, whatever leads to them.
#[tokio::test]
async fn a_page_of_large_records_ends_by_their_bytes_and_a_brief_one_does_not() {
    let bay = patient(fresh()).await;
    let mut jobs = Vec::new();
    for number in 0..11 {
        let large = "x".repeat(1_000_000);
        let parameters = format!(r#"{{"city":"berlin","large":"{large}","n":{number}}}"#);
        jobs.push(claim(&bay, &format!("pay{number}"), "order-17", &parameters).await.0);
    }
    jobs.reverse();
    bay.search().index_now().await.unwrap();
    for query in ["berlin", "order-17"] {
        let page = bay.search().find(query, &Look::Any, None, 100).await.unwrap();
        assert!(page.next.is_some(), "{query}");
        assert_eq!(page.items.iter().map(id).collect::<Vec<_>>(), jobs[..9], "{query}");
        assert_eq!(ids(&bay, query, &Look::Any, 100).await, jobs, "{query}");
        let brief = bay.search().find_brief(query, &Look::Any, None, 100).await.unwrap();
        let found: Vec<_> = brief.items.into_iter().map(|brief| brief.id).collect();
        assert_eq!((found, brief.next), (jobs.clone(), None), "{query}");
    }
}

#[tokio::test]
async fn a_beginning_of_too_many_words_hides_nothing_that_a_whole_word_leads_to() {
    let store = fresh();
    // Nobody indexes until all is there, so that one segment has it.
    let quiet = LockBay::with_store(config(), Arc::clone(&store), Clock::system());
    for number in 0..100 {
        let words: Vec<String> =
            (0..500).map(|word| format!("ab{number:03}{word:03}{}", "b".repeat(56))).collect();
        let parameters = format!(r#"{{"words":"{}"}}"#, words.join(" "));
        claim(&quiet, "pay", &format!("k{number}"), &parameters).await;
    }
    let (hidden, _) = claim(&quiet, "pay", "last", r#"{"words":"berlin abzurd"}"#).await;
    let bay = patient(store).await;
    bay.search().index_now().await.unwrap();
    let many = bay.search().find("ab*", &Look::Any, None, 1).await.unwrap();
    assert!(many.truncated, "so many words that not all of them are looked up");
    let page = bay.search().find("berlin ab*", &Look::Any, None, 10).await.unwrap();
    assert_eq!(page.items.iter().map(id).collect::<Vec<_>>(), [hidden]);
    assert!(!page.truncated);
}

#[tokio::test]
async fn search_that_cannot_work_says_why() {
    for (config, why) in [
        (Config { search: false, ..config() }, "search = true"),
        (Config { audit: false, ..config() }, "audit = true"),
    ] {
        let bay = LockBay::with_store(config, fresh(), Clock::system());
        let refused = bay.search().find("word", &Look::Any, None, 10).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Refused);
        assert!(refused.to_string().contains(why), "{refused}");
    }
}

/// What viewers see masked is not found by anybody, or they could find it by trying.
#[tokio::test]
async fn what_is_masked_is_not_found_however_its_name_is_written() {
    let masked = |names: &str| Config { audit_masked_fields: names.into(), ..config() };
    let bay = start(masked("iban,destination,ibannumber"), fresh());
    leads(&bay).await;
    let hidden = r#"{"iban":"secret","a":{"IBAN":{"x":["secret"]}},"Destination":"secret",
        "ibanNumber":"secret","\u0069Ban":"secret","ibans":"open","my_iban":"open"}"#;
    let (job, _) = claim(&bay, "pay", "a", hidden).await;
    let saga = start_saga(&bay, "escrow", hidden, None).await;
    bay.search().index_now().await.unwrap();
    assert_eq!(any(&bay, "open").await, [saga.as_str(), job.as_str()]);
    assert!(any(&bay, "secret").await.is_empty());
    // What a record has at its top has names too.
    let bay = start(masked("metadata,reason,job_type"), fresh());
    leads(&bay).await;
    claim(&bay, "pay", "a", "null").await;
    let saga = start_saga(&bay, "escrow", r#"{"a":"hidden"}"#, None).await;
    bay.sagas().operate(&saga, &Decision::Abandon, "ann", "whatever").await.unwrap();
    bay.search().index_now().await.unwrap();
    assert_eq!(any(&bay, "escrow").await, [saga.as_str()]);
    for query in ["pay", "hidden", "whatever"] {
        assert!(any(&bay, query).await.is_empty(), "{query}");
    }
}

/// All that the index holds of words, as text.
async fn words(store: &dyn Store) -> String {
    let range = Range::new(Partition::FIRST, Kind::new("search-words"), "");
    let page = store.scan(&range, 1_000).await.unwrap();
    assert!(!page.more);
    page.records.iter().map(|record| String::from_utf8_lossy(&record.value)).collect()
}

#[tokio::test]
async fn an_index_made_with_other_masked_names_is_made_anew() {
    let masked = |names: &str| Config { audit_masked_fields: names.into(), ..config() };
    let memory = Memory::new(Clock::system());
    let mut found = Vec::new();
    for (names, is_hidden) in
        [("", false), ("destination", true), ("destination,iban", true), ("iban", false)]
    {
        let store: Arc<dyn Store> = Arc::new(memory.client());
        let bay = start(masked(names), Arc::clone(&store));
        leads(&bay).await;
        for number in 0..20 {
            let parameters = format!(r#"{{"Destination":"hideout","all":"{number} everything"}}"#);
            found.push(claim(&bay, "pay", &format!("{names} {number}"), &parameters).await.0);
        }
        bay.search().index_now().await.unwrap();
        let mut shown = ids(&bay, "everything", &Look::Any, 50).await;
        shown.sort();
        found.sort();
        assert_eq!(shown, found, "{names}");
        let hidden = ids(&bay, "hideout", &Look::Any, 50).await.len();
        assert_eq!(hidden, if is_hidden { 0 } else { found.len() }, "{names}");
        bay.search().index_now().await.unwrap();
        assert_eq!(words(&*store).await.contains("hideout"), !is_hidden, "{names}: in the store");
        bay.shutdown().await;
    }
}

/// Claims and sagas have nothing more to write for being found.
#[tokio::test]
async fn nothing_is_added_to_the_commits_of_jobs_and_sagas() {
    let kinds = ["search-head", "search-words", "search-docs"];
    let store = fresh();
    let bay = LockBay::with_store(config(), Arc::clone(&store), Clock::system());
    claim(&bay, "pay", "a", "null").await;
    start_saga(&bay, "escrow", "null", None).await;
    for kind in kinds {
        let range = Range::new(Partition::FIRST, Kind::new(kind), "");
        assert!(store.scan(&range, 1).await.unwrap().records.is_empty(), "{kind}");
    }
}

/// Leaders die in the middle of their commits, one after the other, while work goes on; in the end
/// everything is found, once.
async fn survives(open: impl AsyncFn() -> Arc<dyn Store>) {
    let mut jobs = Vec::new();
    for round in 0..6_u64 {
        let store = Arc::new(Faulty::new(open().await, Clock::system()));
        let bay = start(config(), store.clone());
        leads(&bay).await;
        for number in 0..20 {
            let parameters = format!(r#"{{"round":"round{round}","all":"everything"}}"#);
            jobs.push(claim(&bay, "pay", &format!("key {round} {number}"), &parameters).await.0);
        }
        let cut = if round % 2 == 0 { Cut::After } else { Cut::Before };
        store.die_at(1 + round / 2, cut);
        // Whatever it comes to, and perhaps it died before.
        drop(bay.search().index_now().await);
        bay.shutdown().await;
    }
    let bay = start(config(), open().await);
    leads(&bay).await;
    eventually("everything is indexed", async || {
        let found = ids(&bay, "everything", &Look::Any, 50).await;
        (found.len() == jobs.len()).then_some(())
    })
    .await;
    let mut found = ids(&bay, "everything", &Look::Jobs(JobFilter::default()), 7).await;
    found.sort();
    jobs.sort();
    assert_eq!(found, jobs);
    assert_eq!(ids(&bay, "round3", &Look::Any, 50).await.len(), 20);
    assert_eq!(ids(&bay, "round3 key-3-1", &Look::Any, 50).await.len(), 11);
    bay.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leaders_that_die_on_sqlite_leave_an_index_in_which_everything_is_found_once() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("search.db");
    survives(async || {
        let store = SqliteStore::open(&file, "search", Clock::system()).unwrap();
        Arc::new(store) as Arc<dyn Store>
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leaders_that_die_on_redis_leave_an_index_in_which_everything_is_found_once() {
    let server = RedisServer::start_with(&["appendonly no"]);
    survives(async || {
        let store = RedisStore::open(&server.url(), "search", Clock::system()).await.unwrap();
        Arc::new(store) as Arc<dyn Store>
    })
    .await;
}
