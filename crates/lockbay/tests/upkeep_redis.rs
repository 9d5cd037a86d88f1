//! Cleaning up on a Redis server that an application uses as well: what is ours is never touched,
//! and of the others' exactly what the rule says.

#![cfg(feature = "redis")]
#![allow(clippy::unwrap_used)] // in helpers too: whatever is not there fails the test

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use lockbay::ErrorKind;
use lockbay::clock::Clock;
use lockbay::store::redis::RedisStore;
use lockbay::store::{
    Commit, Deadline, Fence, Foreign, ForeignRule, ForeignSwept, Guard, Key, Kind, Partition,
    Reply, Revision, Store, Write,
};
use redis::Connection;
use support::eventually;
use support::redis::RedisServer;

const LEASE: Kind = Kind::new("lease");
const DAY: Duration = Duration::from_secs(86_400);

fn key(id: &str) -> Key {
    Key::new(Partition::FIRST, LEASE, id)
}

async fn open(server: &RedisServer, namespace: &str) -> RedisStore {
    RedisStore::open(&server.url(), namespace, Clock::system()).await.unwrap()
}

fn server() -> RedisServer {
    RedisServer::start_with(&["appendonly no"])
}

fn connect(server: &RedisServer) -> Connection {
    redis::Client::open(server.url()).unwrap().get_connection().unwrap()
}

/// The right to lead, for an hour.
async fn lead(store: &RedisStore) -> Fence {
    let deadline = Deadline::After(Duration::from_secs(3_600));
    let write = Write::Put { key: key("leader"), value: b"me".to_vec(), deadline };
    let guards = vec![Guard::Lapsed(key("leader"))];
    let commit = Commit::new(Partition::FIRST, guards, vec![write], vec![]).unwrap();
    match store.commit(&commit).await.unwrap() {
        Reply::Committed { revision, .. } => Fence { key: key("leader"), token: revision },
        conflict @ Reply::Conflict { .. } => panic!("{conflict:?}"),
    }
}

fn rule(fence: &Fence) -> ForeignRule {
    ForeignRule { idle: DAY, expiring: false, dry_run: false, fence: fence.clone() }
}

/// Sets these keys, last used so many seconds ago, and with an expiry if one is given.
fn plant(to: &mut Connection, keys: &[Vec<u8>], value: &str, idle: u64, expiry_ms: u64) {
    let whole: Vec<u8> = redis::pipe()
        .cmd("SET")
        .arg("plant")
        .arg(value)
        .ignore()
        .cmd("DUMP")
        .arg("plant")
        .cmd("DEL")
        .arg("plant")
        .ignore()
        .query::<(Vec<u8>,)>(to)
        .unwrap()
        .0;
    for some in keys.chunks(1_000) {
        let mut pipe = redis::pipe();
        for key in some {
            pipe.cmd("RESTORE").arg(key).arg(expiry_ms).arg(&whole);
            pipe.arg("REPLACE").arg("IDLETIME").arg(idle).ignore();
        }
        pipe.exec(to).unwrap();
    }
}

fn old(to: &mut Connection, keys: &[&[u8]]) {
    let keys: Vec<Vec<u8>> = keys.iter().map(|key| key.to_vec()).collect();
    plant(to, &keys, "value", 10 * DAY.as_secs(), 0);
}

/// Every key that the store shows for a glob.
async fn shown(foreign: &dyn Foreign, glob: &str) -> BTreeSet<Vec<u8>> {
    let (mut cursor, mut found) = (0, BTreeSet::new());
    loop {
        let (next, keys) = foreign.keys(glob, cursor, 500).await.unwrap();
        found.extend(keys);
        cursor = next;
        if cursor == 0 {
            return found;
        }
    }
}

/// Sweeps all that a glob shows.
async fn sweep(foreign: &dyn Foreign, glob: &str, rule: &ForeignRule) -> ForeignSwept {
    let mut all = ForeignSwept::default();
    for some in shown(foreign, glob).await.into_iter().collect::<Vec<_>>().chunks(100) {
        let swept = foreign.sweep(some, rule).await.unwrap();
        all.cleaned += swept.cleaned;
        all.expiring += swept.expiring;
        all.young += swept.young;
        all.bytes += swept.bytes;
    }
    all
}

fn set(keys: &[&[u8]]) -> BTreeSet<Vec<u8>> {
    keys.iter().map(|key| key.to_vec()).collect()
}

#[tokio::test]
async fn keys_of_lockbay_are_never_shown_and_never_deleted_whoever_names_them() {
    let server = server();
    let (ours, other) = (open(&server, "lockbay").await, open(&server, "other:app").await);
    let (fence, _) = (lead(&ours).await, lead(&other).await);
    let mut direct = connect(&server);
    let foreign = ours.upkeep().foreign().unwrap();
    assert_eq!(shown(foreign, "*").await, BTreeSet::new(), "there are only our own");
    // All keys of both namespaces, as if a caller had come by them.
    let all: Vec<Vec<u8>> = redis::cmd("KEYS").arg("*").query(&mut direct).unwrap();
    assert!(all.len() >= 8, "{}", all.len());
    let everything = ForeignRule { idle: Duration::ZERO, expiring: true, ..rule(&fence) };
    assert_eq!(foreign.sweep(&all, &everything).await.unwrap(), ForeignSwept::default());
    let after: Vec<Vec<u8>> = redis::cmd("KEYS").arg("*").query(&mut direct).unwrap();
    assert_eq!(after.len(), all.len());
    for store in [&ours, &other] {
        assert!(store.get(&[key("leader")]).await.unwrap().records[0].is_some());
        store.ping().await.unwrap();
    }
}

#[tokio::test]
async fn what_has_an_expiry_stays_and_what_was_used_not_long_ago_stays() {
    let server = server();
    let store = open(&server, "lockbay").await;
    let (fence, mut direct) = (lead(&store).await, connect(&server));
    let foreign = store.upkeep().foreign().unwrap();
    old(&mut direct, &[b"s:old", b"s:read", b"s:written", b"t:old"]);
    let hour = 3_600_000;
    plant(&mut direct, &[b"s:soon".to_vec()], "v", 10 * DAY.as_secs(), hour);
    plant(&mut direct, &[b"s:late".to_vec()], "v", 10 * DAY.as_secs(), 48 * hour);
    redis::cmd("GET").arg("s:read").exec(&mut direct).unwrap();
    redis::cmd("APPEND").arg("s:written").arg("x").exec(&mut direct).unwrap();
    let almost = DAY.as_secs() - 60;
    plant(&mut direct, &[b"s:almost".to_vec()], "v", almost, 0);

    // Looking is not using: the same answer twice.
    let dry = ForeignRule { dry_run: true, ..rule(&fence) };
    let first = sweep(foreign, "s:*", &dry).await;
    assert_eq!((first.cleaned, first.expiring, first.young), (1, 2, 3));
    assert!(first.bytes > 40, "{first:?}");
    assert_eq!(sweep(foreign, "s:*", &dry).await, first);
    assert_eq!(shown(foreign, "*").await.len(), 7, "a dry run deletes nothing");

    assert_eq!(sweep(foreign, "s:*", &rule(&fence)).await, first);
    let left = set(&[b"s:read", b"s:written", b"s:almost", b"s:soon", b"s:late", b"t:old"]);
    assert_eq!(shown(foreign, "*").await, left);

    // With expiries: only one that is farther off than the idle time.
    let expiring = ForeignRule { expiring: true, ..rule(&fence) };
    let swept = sweep(foreign, "s:*", &expiring).await;
    assert_eq!((swept.cleaned, swept.expiring, swept.young), (1, 1, 3));
    assert!(!shown(foreign, "*").await.contains(&b"s:late"[..]));
    assert!(shown(foreign, "*").await.contains(&b"s:soon"[..]), "the server deletes it itself");
}

#[tokio::test]
async fn idle_times_are_rounded_in_favour_of_the_key() {
    let server = server();
    let store = open(&server, "lockbay").await;
    let (fence, mut direct) = (lead(&store).await, connect(&server));
    plant(&mut direct, &[b"k".to_vec()], "v", 100, 0);
    let foreign = store.upkeep().foreign().unwrap();
    let wait = |idle| ForeignRule { idle, dry_run: true, ..rule(&fence) };
    let keys = [b"k".to_vec()];
    let later = foreign.sweep(&keys, &wait(Duration::from_millis(190_500))).await.unwrap();
    assert_eq!((later.cleaned, later.young), (0, 1));
    let now = foreign.sweep(&keys, &wait(Duration::from_millis(99_500))).await.unwrap();
    assert_eq!((now.cleaned, now.young), (1, 0));
    let error = foreign.sweep(&keys, &wait(DAY * 195)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("194 days"), "{error}");
}

#[tokio::test]
async fn nothing_is_deleted_once_the_right_is_gone() {
    let server = server();
    let store = open(&server, "lockbay").await;
    let (fence, mut direct) = (lead(&store).await, connect(&server));
    let foreign = store.upkeep().foreign().unwrap();
    old(&mut direct, &[b"s:1"]);
    let keys = [b"s:1".to_vec()];
    let refused = async |fence: &Fence| {
        let error = foreign.sweep(&keys, &rule(fence)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
        assert_eq!(shown(foreign, "*").await.len(), 1);
    };
    let earlier = Revision::new(fence.token.number() - 1);
    refused(&Fence { token: earlier, ..fence.clone() }).await;
    refused(&Fence { key: key("nobody"), ..fence.clone() }).await;
    let touch = Write::Touch { key: key("leader"), ttl: Duration::ZERO };
    let commit = Commit::new(Partition::FIRST, vec![], vec![touch], vec![]).unwrap();
    store.commit(&commit).await.unwrap();
    refused(&fence).await;
    let next = lead(&store).await;
    refused(&fence).await;
    assert_eq!(foreign.sweep(&keys, &rule(&next)).await.unwrap().cleaned, 1);
}

#[tokio::test]
async fn nothing_is_deleted_on_a_store_that_was_rolled_back() {
    let server = server();
    let store = open(&server, "lockbay").await;
    lead(&store).await;
    server.flush_all();
    assert_eq!(store.ping().await.unwrap_err().kind(), ErrorKind::RolledBack);
    old(&mut connect(&server), &[b"s:1"]);
    let fence = Fence { key: key("leader"), token: Revision::new(1) };
    let foreign = store.upkeep().foreign().unwrap();
    let error = foreign.sweep(&[b"s:1".to_vec()], &rule(&fence)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RolledBack, "{error}");
    assert_eq!(shown(foreign, "*").await.len(), 1);
}

#[tokio::test]
async fn names_are_any_bytes_and_globs_are_those_of_redis() {
    let server = server();
    let store = open(&server, "lockbay").await;
    let (fence, mut direct) = (lead(&store).await, connect(&server));
    let foreign = store.upkeep().foreign().unwrap();
    let names: [&[u8]; 12] = [
        b"\xff\xfe\x00\x80",
        b"with space",
        b"{user}:1",
        b"{x:y}:z",
        b"{x:1}z",
        b"a*b",
        b"a?b",
        b"a[b]c",
        b"back\\slash",
        b"line\r\nbreak",
        "käse".as_bytes(),
        b"{",
    ];
    old(&mut direct, &names);
    assert_eq!(shown(foreign, "*").await, set(&names));
    for (glob, hits) in [
        (r"a\*b", set(&[b"a*b"])),
        ("a?b", set(&[b"a*b", b"a?b"])),
        (r"a\[b\]c", set(&[b"a[b]c"])),
        (r"back\\*", set(&[b"back\\slash"])),
        ("{x:*", set(&[b"{x:y}:z", b"{x:1}z"])),
        ("k?*se", set(&["käse".as_bytes()])),
        ("[^a-z{]*", set(&[b"\xff\xfe\x00\x80"])),
        ("nothing*", BTreeSet::new()),
    ] {
        assert_eq!(shown(foreign, glob).await, hits, "{glob}");
    }
    assert_eq!(sweep(foreign, "*", &rule(&fence)).await.cleaned, names.len() as u64);
    assert_eq!(shown(foreign, "*").await, BTreeSet::new());
}

#[tokio::test]
async fn a_glob_of_many_stars_does_not_keep_the_server() {
    let server = server();
    let store = open(&server, "lockbay").await;
    redis::cmd("SET").arg("a".repeat(1_000)).arg("v").exec(&mut connect(&server)).unwrap();
    let began = support::now();
    let found = shown(store.upkeep().foreign().unwrap(), &format!("{}b", "a*".repeat(100))).await;
    assert_eq!(found, BTreeSet::new());
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test]
async fn every_type_of_value_is_measured_and_deleted() {
    let server = server();
    let store = open(&server, "lockbay").await;
    let (fence, mut direct) = (lead(&store).await, connect(&server));
    let foreign = store.upkeep().foreign().unwrap();
    let fill = r"
      for n = 1, 50000 do
        redis.call('HSET', 'large', 'field-' .. n, string.rep('x', 20))
      end
      redis.call('RPUSH', 'list', 'a', 'b'); redis.call('SADD', 'set', 'a')
      redis.call('ZADD', 'sorted', 1, 'a'); redis.call('XADD', 'stream', '*', 'f', 'v')
      return redis.call('MEMORY', 'USAGE', 'large', 'SAMPLES', 0)";
    let exact: u64 = redis::cmd("EVAL").arg(fill).arg(0).query(&mut direct).unwrap();
    let now = ForeignRule { idle: Duration::ZERO, ..rule(&fence) };
    let large = foreign.sweep(&[b"large".to_vec()], &now).await.unwrap();
    assert_eq!(large.cleaned, 1);
    assert!(large.bytes.abs_diff(exact) < exact / 10, "{} for {exact}", large.bytes);
    assert_eq!(sweep(foreign, "*", &now).await.cleaned, 4);
}

#[tokio::test]
async fn a_server_that_counts_uses_refuses_to_sweep_and_says_what_to_change() {
    let server = RedisServer::start_with(&["appendonly no", "maxmemory-policy allkeys-lfu"]);
    let store = open(&server, "lockbay").await;
    let fence = lead(&store).await;
    redis::cmd("SET").arg("s:1").arg("v").exec(&mut connect(&server)).unwrap();
    let foreign = store.upkeep().foreign().unwrap();
    let now = ForeignRule { idle: Duration::ZERO, ..rule(&fence) };
    let error = foreign.sweep(&[b"s:1".to_vec()], &now).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("set maxmemory-policy to noeviction"), "{error}");
    assert_eq!(shown(foreign, "*").await.len(), 1);
    let [advice] = &store.upkeep().advice().await.unwrap()[..] else { panic!("one advice") };
    assert!(advice.contains("noeviction"), "{advice}");
}

#[tokio::test]
async fn a_user_without_the_commands_of_upkeep_is_told_which_to_allow() {
    for lacking in ["-object", "-memory", "-unlink", "-scan"] {
        let server = RedisServer::start_with(&[
            "appendonly no",
            &format!("user app on >pw ~* &* +@all {lacking}"),
        ]);
        let url = server.url().replace("redis://", "redis://app:pw@");
        let store = RedisStore::open(&url, "lockbay", Clock::system()).await.unwrap();
        let fence = lead(&store).await;
        old(&mut connect(&server), &[b"s:1"]);
        let foreign = store.upkeep().foreign().unwrap();
        let error = match lacking {
            "-scan" => foreign.keys("*", 0, 10).await.map(drop).unwrap_err(),
            _ => foreign.sweep(&[b"s:1".to_vec()], &rule(&fence)).await.map(drop).unwrap_err(),
        };
        assert_eq!(error.kind(), ErrorKind::Unauthorized, "{lacking}: {error}");
        assert!(error.to_string().contains("UNLINK"), "{lacking}: {error}");
        assert_eq!(server.command(&["EXISTS", "s:1"]), ":1\r\n", "{lacking}");
        store.ping().await.unwrap();
    }
}

#[tokio::test]
async fn a_server_without_memory_left_can_still_be_swept() {
    let server = server();
    let store = open(&server, "lockbay").await;
    let (fence, mut direct) = (lead(&store).await, connect(&server));
    old(&mut direct, &[b"s:1"]);
    server.command(&["CONFIG", "SET", "maxmemory", "1"]);
    let foreign = store.upkeep().foreign().unwrap();
    assert_eq!(sweep(foreign, "*", &rule(&fence)).await.cleaned, 1);
    assert_eq!(server.command(&["EXISTS", "s:1"]), ":0\r\n");
}

#[tokio::test]
async fn a_server_that_turned_read_only_is_swept_again_when_it_takes_writes() {
    let server = server();
    let store = open(&server, "lockbay").await;
    let (fence, mut direct) = (lead(&store).await, connect(&server));
    old(&mut direct, &[b"s:1"]);
    // A replica of nobody: it refuses writes, as an old master does after a failover.
    let nobody = support::redis::free_port().to_string();
    server.command(&["REPLICAOF", "127.0.0.1", &nobody]);
    let (foreign, keys) = (store.upkeep().foreign().unwrap(), [b"s:1".to_vec()]);
    let error = foreign.sweep(&keys, &rule(&fence)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    server.command(&["REPLICAOF", "NO", "ONE"]);
    let swept = eventually("it sweeps again", async || {
        store.upkeep().foreign().unwrap().sweep(&keys, &rule(&fence)).await.ok()
    })
    .await;
    assert_eq!(swept.cleaned, 1);
}

#[tokio::test]
async fn our_own_records_weigh_what_the_server_grows_by() {
    let server = server();
    let store = open(&server, "lockbay").await;
    let upkeep = store.upkeep();
    for (count, bytes) in [(5_000u32, 30usize), (5_000, 400), (200, 50_000)] {
        let keys: Vec<Key> = (0..count).map(|n| key(&format!("{bytes}/{n:032x}"))).collect();
        let before = upkeep.footprint().await.unwrap().used_bytes;
        // Small commits, or what grows is the room of the connection.
        for some in keys.chunks((20_000 / bytes).clamp(1, 100)) {
            let put = |key: &Key| Write::Put {
                key: key.clone(),
                value: vec![b'x'; bytes],
                deadline: Deadline::After(DAY),
            };
            let writes = some.iter().map(put).collect();
            let commit = Commit::new(Partition::FIRST, vec![], writes, vec![]).unwrap();
            store.commit(&commit).await.unwrap();
        }
        let grown = upkeep.footprint().await.unwrap().used_bytes - before;
        let weighed = upkeep.weigh(&keys).await.unwrap();
        println!("{count} records of {bytes} bytes: grown by {grown}, weighed {weighed}");
        assert!(weighed.abs_diff(grown) < grown / 6, "{weighed} for {grown}");
    }
}

fn info(direct: &mut Connection, section: &str, name: &str) -> u64 {
    let info: String = redis::cmd("INFO").arg(section).query(direct).unwrap();
    let mut lines = info.lines().filter_map(|line| line.trim_end().split_once(':'));
    lines.find(|(found, _)| *found == name).unwrap().1.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_hundred_thousand_keys_exactly_those_go_that_must_and_their_memory_with_them() {
    let server = server();
    let (store, other) = (open(&server, "lockbay").await, open(&server, "other").await);
    let (fence, _) = (lead(&store).await, lead(&other).await);
    let mut direct = connect(&server);
    let (value, ten_days) = ("v".repeat(200), 10 * DAY.as_secs());
    let many = |prefix: &str, count: u32| -> Vec<Vec<u8>> {
        (0..count).map(|n| format!("{prefix}{n}").into_bytes()).collect()
    };
    // Those that must go.
    plant(&mut direct, &many("session:", 50_000), &value, ten_days, 0);
    plant(&mut direct, &many("cache:", 50_000), &value, ten_days, 0);
    // Those that must stay: with an expiry, used today, of other names.
    plant(&mut direct, &many("session:expiring:", 25_000), &value, ten_days, 3_600_000);
    plant(&mut direct, &many("cache:used:", 25_000), &value, 60, 0);
    plant(&mut direct, &many("order:", 25_000), &value, ten_days, 0);
    plant(&mut direct, &many("{session:x}:", 25_000), &value, ten_days, 0);
    let records: Vec<Write> = (0..500)
        .map(|n| Write::Put {
            key: key(&format!("session:{n}")),
            value: b"ours".to_vec(),
            deadline: Deadline::Never,
        })
        .collect();
    let commit = Commit::new(Partition::FIRST, vec![], records, vec![]).unwrap();
    store.commit(&commit).await.unwrap();

    let (before, began) = (info(&mut direct, "memory", "used_memory"), support::now());
    let foreign = store.upkeep().foreign().unwrap();
    let (mut swept, mut slowest) = (ForeignSwept::default(), Duration::ZERO);
    for glob in ["session:*", "cache:*"] {
        let mut cursor = 0;
        loop {
            let (next, keys) = foreign.keys(glob, cursor, 1_000).await.unwrap();
            for some in keys.chunks(100) {
                let began = support::now();
                let more = foreign.sweep(some, &rule(&fence)).await.unwrap();
                slowest = slowest.max(began.elapsed());
                swept.cleaned += more.cleaned;
                swept.bytes += more.bytes;
            }
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
    }
    let took = began.elapsed();
    eventually("what was unlinked is freed", || {
        let pending = info(&mut direct, "memory", "lazyfree_pending_objects");
        std::future::ready((pending == 0).then_some(()))
    })
    .await;
    let dropped = before - info(&mut direct, "memory", "used_memory");
    println!(
        "{} keys in {took:?}, slowest call {slowest:?}: {} bytes told, memory went down by {dropped}",
        swept.cleaned, swept.bytes
    );
    assert_eq!(swept.cleaned, 100_000);
    let left = shown(foreign, "*").await;
    assert_eq!(left.len(), 100_000);
    for (prefix, count) in
        [("session:expiring:", 25_000), ("cache:used:", 25_000), ("order:", 25_000)]
    {
        let found = left.iter().filter(|key| key.starts_with(prefix.as_bytes())).count();
        assert_eq!(found, count, "{prefix}");
    }
    let told = swept.bytes;
    assert!(told.abs_diff(dropped) < dropped / 10, "told {told}, dropped {dropped}");
    assert_eq!(store.upkeep().count(Partition::FIRST, LEASE).await.unwrap(), 501);
    store.ping().await.unwrap();
    other.ping().await.unwrap();
}
