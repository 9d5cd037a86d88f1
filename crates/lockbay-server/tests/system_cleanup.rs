//! Cleaning up on a real Redis that an application fills beside us, through a real server.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // a test fails by panicking, and tells its figures

#[path = "../../lockbay/tests/support/mod.rs"]
mod stores;
mod support;

use std::time::Duration;

use lockbay::clock::Clock;
use serde_json::{Value, json};
use stores::redis::RedisServer;
use support::caller::Caller;
use support::{Server, eventually, eventually_within, lockbay};

const TEN_DAYS: u64 = 864_000;

/// Sets many keys, last used so many seconds ago, and with an expiry if one is given.
fn plant(redis: &RedisServer, prefix: &str, count: usize, idle: u64, expiry_ms: u64) {
    const PLANT: &str = r"
        redis.call('SET', 'plant', string.rep('v', 200))
        local whole = redis.call('DUMP', 'plant')
        redis.call('DEL', 'plant')
        for n = 1, tonumber(ARGV[2]) do
          redis.call('RESTORE', ARGV[1] .. n, ARGV[4], whole, 'IDLETIME', ARGV[3])
        end
        return ARGV[2]";
    let (count, idle, expiry) = (count.to_string(), idle.to_string(), expiry_ms.to_string());
    let reply = redis.command(&["EVAL", PLANT, "0", prefix, &count, &idle, &expiry]);
    assert!(reply.contains(&count), "{reply}");
}

/// How many keys begin like this.
fn count(redis: &RedisServer, glob: &str) -> usize {
    const COUNT: &str = "return #redis.call('KEYS', ARGV[1])";
    let reply = redis.command(&["EVAL", COUNT, "0", glob]);
    reply.trim().trim_start_matches(':').parse().unwrap_or_else(|_| panic!("{reply}"))
}

/// How many keys there are.
fn size(redis: &RedisServer) -> usize {
    let reply = redis.command(&["DBSIZE"]);
    reply.trim().trim_start_matches(':').parse().unwrap_or_else(|_| panic!("{reply}"))
}

fn memory(redis: &RedisServer, name: &str) -> u64 {
    let info = redis.command(&["INFO", "memory"]);
    let mut lines = info.lines().filter_map(|line| line.trim_end().split_once(':'));
    lines.find(|(found, _)| *found == name).unwrap().1.parse().unwrap()
}

/// A server that leads and whose first cycle is over, so that nothing goes before it is asked for.
fn rested(store: &str) -> Server {
    let server = Server::start(&["--store", store]);
    server.wait_until_leading();
    eventually("the first cycle is over", || {
        let metrics = server.get("/api/advanced-state/metrics").ok();
        (metrics["cleanup_metrics"]["cleanup_cycles"].as_u64()? > 0).then_some(())
    });
    server
}

fn clean_up(server: &Server, body: &Value) -> Value {
    let mut caller = Caller::within(server.address(), Duration::from_secs(300));
    let (status, report) = caller.post("/v1/cleanup/run", &body.to_string()).unwrap();
    assert_eq!(status, 200, "{report}");
    report
}

#[test]
fn of_the_keys_of_an_application_exactly_those_go_that_a_rule_lets_go() {
    let redis = RedisServer::start_with(&["appendonly no"]);
    let url = format!("{}?namespace=pay", redis.url());
    let server = rested(&url);
    // Those that must go.
    plant(&redis, "session:", 50_000, TEN_DAYS, 0);
    plant(&redis, "cache:", 50_000, TEN_DAYS, 0);
    // Those that must stay: with an expiry, used a minute ago, of other names.
    plant(&redis, "session:expiring:", 25_000, TEN_DAYS, 3_600_000);
    plant(&redis, "cache:used:", 25_000, 60, 0);
    plant(&redis, "order:", 25_000, TEN_DAYS, 0);
    plant(&redis, "{session:x}:", 25_000, TEN_DAYS, 0);
    let job = json!({ "job_type": "t", "job_key": "session:1", "parameters": {} });
    let job = server.post("/v1/jobs/claim", &job.to_string()).ok();

    let dry = clean_up(&server, &json!({ "dry_run": true }));
    assert_eq!(dry["total_cleaned"], 100_000, "{dry}");
    let theirs = count(&redis, "[^{]*") + count(&redis, "{session:x}:*");
    assert_eq!(theirs, 200_000, "a dry run deletes nothing");

    let before = memory(&redis, "used_memory");
    let report = clean_up(&server, &json!({}));
    eventually("what was unlinked is freed", || {
        (memory(&redis, "lazyfree_pending_objects") == 0).then_some(())
    });
    let dropped = before - memory(&redis, "used_memory");
    let freed = report["bytes_freed"].as_u64().unwrap();
    println!(
        "cleaned {} of {} in {} ms: {freed} bytes told, memory went down by {dropped}",
        report["total_cleaned"], report["total_scanned"], report["cleanup_time_ms"]
    );
    assert_eq!(report["keys_by_type"], json!({ "session": 50_000, "cache": 50_000 }));
    assert_eq!(report["total_cleaned"], 100_000);
    assert_eq!(report["total_errors"], 0);
    assert!(freed.abs_diff(dropped) < dropped / 10, "told {freed}, dropped {dropped}");
    for (glob, stays) in [
        ("session:*", 25_000),
        ("session:expiring:*", 25_000),
        ("cache:*", 25_000),
        ("cache:used:*", 25_000),
        ("order:*", 25_000),
        ("{session:x}:*", 25_000),
    ] {
        assert_eq!(count(&redis, glob), stays, "{glob}");
    }
    assert_eq!(server.get(&format!("/v1/jobs/{}", job["job_id"].as_str().unwrap())).status, 200);
    assert_eq!(server.get("/api/advanced-state/health").ok()["overall_healthy"], true);

    // A rule for one more kind of keys, which no cycle carries out, and only a part of it.
    let rule = json!({ "pattern": "order:*", "ttl_seconds": 3_600, "strategy": "lazy" });
    server.put("/v1/cleanup/rules/orders", &rule.to_string()).ok();
    let report = clean_up(&server, &json!({ "type": "orders", "pattern": "order:1*" }));
    // 1, 10 to 19, and so on, up to 10,000 to 19,999.
    assert_eq!(report["keys_by_type"], json!({ "orders": 11_111 }));
    assert_eq!((count(&redis, "order:1*"), count(&redis, "order:*")), (0, 25_000 - 11_111));
}

#[test]
fn commits_are_answered_while_many_keys_are_swept() {
    let redis = RedisServer::start_with(&["appendonly no"]);
    let server = rested(&redis.url());
    plant(&redis, "session:", 100_000, TEN_DAYS, 0);
    let clock = Clock::system();
    let claim = |n: u32| {
        let began = clock.tick();
        let body = json!({ "job_type": "t", "job_key": n.to_string(), "parameters": {} });
        server.post("/v1/jobs/claim", &body.to_string()).ok();
        clock.tick().since(began)
    };
    let mut took = Vec::new();
    std::thread::scope(|scope| {
        let run = scope.spawn(|| clean_up(&server, &json!({ "type": "session" })));
        while !run.is_finished() {
            took.push(claim(u32::try_from(took.len()).unwrap()));
        }
        assert_eq!(run.join().unwrap()["total_cleaned"], 100_000);
    });
    took.sort_unstable();
    // The machine may hold one of them up.
    let [.., slow, slowest] = took[..] else { panic!("{took:?}") };
    println!("{} claims while 100,000 keys went, the slowest in {slowest:?}", took.len());
    assert!(took.len() > 10, "{took:?}");
    assert!(slow < Duration::from_secs(2), "{slow:?}");
}

#[test]
fn a_run_on_a_server_that_counts_uses_tells_what_to_change() {
    let redis = RedisServer::start_with(&["appendonly no"]);
    let server = rested(&redis.url());
    plant(&redis, "session:", 10_000, TEN_DAYS, 0);
    redis.command(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lfu"]);
    let report = clean_up(&server, &json!({ "type": "session" }));
    assert_eq!(report["total_cleaned"], 0, "{report}");
    assert_eq!(report["total_errors"], 1, "one answer is as good as a thousand: {report}");
    let told = report["rules"][0]["messages"].to_string();
    assert!(told.contains("maxmemory-policy to noeviction"), "{report}");
    assert_eq!(count(&redis, "session:*"), 10_000);
}

#[test]
fn doctor_says_what_keeps_a_store_from_being_cleaned_up() {
    let redis = RedisServer::start_with(&["maxmemory-policy allkeys-lfu"]);
    let output = lockbay().args(["doctor", "--json", "--store", &redis.url()]).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let checks = report["checks"].as_array().unwrap();
    let space: Vec<&Value> = checks.iter().filter(|check| check["name"] == "space").collect();
    assert_eq!((&space[0]["state"], &space[1]["state"]), (&json!("fine"), &json!("warning")));
    assert!(space[0]["finding"].as_str().unwrap().contains("MiB in use"), "{report}");
    let advice = space[1]["advice"].as_str().unwrap();
    assert!(advice.contains("set maxmemory-policy to noeviction"), "{advice}");
}

#[test]
fn the_run_of_a_leader_that_was_killed_is_carried_on_by_the_next() {
    let redis = RedisServer::start_with(&["appendonly no"]);
    let environment = [("REDIS_LEADER_ELECTION_TTL", "1")];
    let serve = || Server::start_with(&["--store", &redis.url()], &environment);
    let mut leader = serve();
    leader.wait_until_leading();
    let mut follower = serve();
    // Of a rule that no cycle carries out.
    let rule = json!({ "pattern": "basket:*", "ttl_seconds": 3_600, "strategy": "lazy" });
    follower.put("/v1/cleanup/rules/baskets", &rule.to_string()).ok();
    for _ in 0..15 {
        // Few at a time: the server does nothing else meanwhile, and the lease is short.
        plant(&redis, &format!("basket:{}:", size(&redis)), 10_000, TEN_DAYS, 0);
    }
    let leads = |server: &Server| server.leader().is_some_and(|leader| leader["is_self"] == true);
    if eventually("one leads", || (leads(&leader) || leads(&follower)).then(|| leads(&follower))) {
        std::mem::swap(&mut leader, &mut follower);
    }
    std::thread::scope(|scope| {
        let run = scope.spawn(|| clean_up(&follower, &json!({ "type": "baskets" })));
        eventually("the leader is at it", || (size(&redis) < 149_000).then_some(()));
        leader.kill9();
        let report = run.join().unwrap();
        assert!(report["leaders"].as_u64().unwrap() >= 2, "{report}");
        assert!(report["total_cleaned"].as_u64().unwrap() > 0, "{report}");
        assert_eq!(count(&redis, "basket:*"), 0);
    });
    let pause = Duration::from_millis(20);
    eventually_within(Duration::from_secs(5), pause, "the follower leads", || {
        follower.leader().filter(|leader| leader["is_self"] == true)
    });
}
