//! What each operation costs, counted as commands that reach a Redis through a proxy.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm)] // a test fails by panicking

mod support;

use std::sync::Arc;
use std::time::Duration;

use lockbay::clock::Clock;
use lockbay::config::Config;
use lockbay::job::{Claim, ClaimRequest, ClaimedJob};
use lockbay::lease::{Acquired, parse_token};
use lockbay::store::redis::RedisStore;
use lockbay::{Json, LockBay};
use support::proxy::Proxy;
use support::redis::RedisServer;

/// An instance that is not started, so that nothing runs besides what is counted.
async fn instance(proxy: &Proxy) -> LockBay {
    let clock = Clock::system();
    let store = RedisStore::open(&proxy.url(), "count", clock.clone()).await.unwrap();
    let bay = LockBay::with_store(Config::default(), Arc::new(store), clock);
    // The first use loads the script into the server.
    bay.leases().acquire("warm", "up", Duration::from_secs(60)).await.unwrap();
    bay.leases().show("warm").await.unwrap();
    bay
}

fn request(key: &str) -> ClaimRequest {
    ClaimRequest::new("t", key, Json::null())
}

async fn claimed(bay: &LockBay, key: &str) -> ClaimedJob {
    match bay.jobs().claim(request(key)).await.unwrap() {
        Claim::Claimed(job) => job,
        other => panic!("{other:?}"),
    }
}

/// Counts the commands that an operation sends.
async fn cost<T>(proxy: &Proxy, operation: impl Future<Output = T>) -> (u64, T) {
    let before = proxy.commands();
    let output = operation.await;
    (proxy.commands() - before, output)
}

#[tokio::test]
async fn every_operation_keeps_its_budget_of_round_trips() {
    let server = RedisServer::start_with(&["appendonly no"]);
    let proxy = Proxy::start(server.port()).await;
    let (a, b) = (instance(&proxy).await, instance(&proxy).await);
    let ttl = Duration::from_secs(60);

    let (trips, lease) = cost(&proxy, a.leases().acquire("l", "a", ttl)).await;
    let Acquired::Granted(lease) = lease.unwrap() else { panic!() };
    assert_eq!(trips, 1, "acquire a lease with its token");
    let (trips, held) = cost(&proxy, b.leases().acquire("l", "b", ttl)).await;
    assert!(matches!(held.unwrap(), Acquired::Held { .. }));
    assert_eq!(trips, 1, "learn the holder and the time left");
    let token = parse_token(&lease.fencing_token).unwrap();
    let (trips, renewed) = cost(&proxy, a.leases().renew("l", "a", token, ttl)).await;
    renewed.unwrap();
    assert_eq!(trips, 1, "renew a lease");

    let (trips, job) = cost(&proxy, claimed(&a, "k")).await;
    assert_eq!(trips, 1, "claim");
    let (trips, claim) = cost(&proxy, b.jobs().claim(request("k"))).await;
    assert!(matches!(claim.unwrap(), Claim::InProgress(_)));
    assert_eq!(trips, 1, "learn that it is in progress");
    let (trips, renewed) = cost(&proxy, a.jobs().heartbeat(&job.job_id, &job.claim_token)).await;
    renewed.unwrap();
    assert_eq!(trips, 1, "heartbeat");
    let complete = a.jobs().complete(&job.job_id, &job.claim_token, Json::null());
    let (trips, completed) = cost(&proxy, complete).await;
    completed.unwrap();
    assert_eq!(trips, 1, "complete");
    let (trips, claim) = cost(&proxy, a.jobs().claim(request("k"))).await;
    assert!(matches!(claim.unwrap(), Claim::Replayed(_)));
    assert_eq!(trips, 0, "replay from the local cache");
    let (trips, claim) = cost(&proxy, b.jobs().claim(request("k"))).await;
    assert!(matches!(claim.unwrap(), Claim::Replayed(_)));
    assert_eq!(trips, 1, "replay from the store");
}

#[tokio::test]
async fn batches_cost_one_round_trip() {
    let server = RedisServer::start_with(&["appendonly no"]);
    let proxy = Proxy::start(server.port()).await;
    let a = instance(&proxy).await;

    let requests = (0..100).map(|n| request(&format!("k{n}"))).collect();
    let (trips, claims) = cost(&proxy, a.jobs().claim_many(requests)).await;
    assert_eq!(trips, 1, "claim a hundred jobs");
    let jobs: Vec<ClaimedJob> = claims
        .into_iter()
        .map(|claim| match claim.unwrap() {
            Claim::Claimed(job) => job,
            other => panic!("{other:?}"),
        })
        .collect();
    let completions = jobs[1..]
        .iter()
        .map(|job| (job.job_id.clone(), job.claim_token.clone(), Json::null()))
        .collect();
    let (trips, completed) = cost(&proxy, a.jobs().complete_many(completions)).await;
    completed.into_iter().for_each(|completed| completed.unwrap());
    assert_eq!(trips, 1, "complete ninety-nine jobs");
    let (trips, (completed, claim)) = cost(
        &proxy,
        a.jobs().complete_and_claim(
            &jobs[0].job_id,
            &jobs[0].claim_token,
            Json::null(),
            request("next"),
        ),
    )
    .await;
    completed.unwrap();
    assert!(matches!(claim.unwrap(), Claim::Claimed(_)));
    assert_eq!(trips, 1, "complete and claim the next");
}

#[tokio::test]
async fn reading_setting_and_invalidating_state_keep_their_budget() {
    use lockbay::state::{IfVersion, Invalidation, SetOptions, parse_version};
    let server = RedisServer::start_with(&["appendonly no"]);
    let proxy = Proxy::start(server.port()).await;
    let (a, b) = (instance(&proxy).await, instance(&proxy).await);
    let tagged =
        |if_version| SetOptions { tags: vec!["t".into()], if_version, ..SetOptions::default() };
    // The rules are read once.
    a.state().set("warm", Json::null(), SetOptions::default()).await.unwrap();

    let (trips, set) =
        cost(&proxy, a.state().set("k", Json::null(), tagged(IfVersion::Absent))).await;
    let version = parse_version(&set.unwrap().version).unwrap();
    assert_eq!(trips, 1, "set a value with its tags");
    let (trips, found) = cost(&proxy, a.state().get("k")).await;
    found.unwrap().unwrap();
    assert_eq!(trips, 2, "a value with tags that was never seen: what it has, then those");
    let (trips, found) = cost(&proxy, a.state().get("k")).await;
    found.unwrap().unwrap();
    assert_eq!(trips, 0, "a value at hand");
    let (trips, set) = cost(&proxy, a.state().set("k", Json::null(), tagged(version))).await;
    set.unwrap();
    assert_eq!(trips, 1, "compare and set what was read before");
    let wish = Invalidation { tags: vec!["t".into()], ..Invalidation::default() };
    let (trips, done) = cost(&proxy, a.state().invalidate(&wish)).await;
    done.unwrap();
    assert_eq!(trips, 1, "invalidate a tag");
    let (trips, found) = cost(&proxy, a.state().get("warm")).await;
    found.unwrap().unwrap();
    assert_eq!(trips, 1, "read a value without tags");
    let (trips, found) = cost(&proxy, b.state().get("none")).await;
    assert!(found.unwrap().is_none());
    assert_eq!(trips, 1, "learn that there is none");
    let loader = || async { Ok(Json::null()) };
    let options = lockbay::state::LoadOptions::default();
    let (trips, found) = cost(&proxy, b.state().get_or_load("load", options, loader)).await;
    found.unwrap();
    assert_eq!(trips, 3, "load: look, take the lease, store");
}
