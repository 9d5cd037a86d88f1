//! State over HTTP: values come back as they went in, versions are kept, and what is invalidated is
//! gone everywhere.

mod support;

use std::time::Duration;

use lockbay::clock::{Clock, Tick};
use serde_json::{Value, json};
use support::Server;

fn server() -> Server {
    Server::start(&["--store", "memory:"])
}

fn names(page: &Value, member: &str) -> Vec<String> {
    let items = page["items"].as_array().expect("items");
    items.iter().map(|item| item[member].as_str().expect("text").to_owned()).collect()
}

#[test]
fn a_value_is_set_shown_replaced_under_its_version_and_deleted() {
    let server = server();
    let path = "/v1/state/rate%3AEUR%2FUSD%20%C3%A9";
    let body = r#"{"value":{"rate":1.08370000000000000001,"n":9007199254740993},"ttl_seconds":60,
        "tags":["rates","rates"],"source":"bank"}"#;
    let written = server.put(path, body).ok();
    assert_eq!(written["key"], "rate:EUR/USD é");
    let reply = server.get(path);
    assert!(reply.text().contains(r#"{"rate":1.08370000000000000001,"n":9007199254740993}"#));
    let shown = reply.ok();
    for (member, value) in [
        ("key", json!("rate:EUR/USD é")),
        ("version", written["version"].clone()),
        ("tags", json!(["rates"])),
        ("source", json!("bank")),
        ("expires_at", written["expires_at"].clone()),
        ("updated_at", written["updated_at"].clone()),
        ("stale", json!(false)),
    ] {
        assert_eq!(shown[member], value, "{shown}");
    }
    let version = written["version"].as_str().expect("a version is text");
    let next = server.put(path, &format!(r#"{{"value":2,"if_version":"{version}"}}"#)).ok();
    let problem = server.put(path, &format!(r#"{{"value":3,"if_version":"{version}"}}"#));
    let problem = problem.problem(409, "fenced");
    let present = next["version"].as_str().expect("a version");
    assert!(problem["detail"].as_str().expect("text").ends_with(present), "{problem}");
    server.put(path, r#"{"value":4,"if_version":"0"}"#).problem(409, "fenced");
    server.put(path, r#"{"value":4,"if_version":0}"#).problem(409, "fenced");
    assert_eq!(server.get(path).ok()["value"], 2);
    assert_eq!(server.get(path).ok()["expires_at"], Value::Null);
    assert_eq!(server.delete(path).ok(), json!({"key": "rate:EUR/USD é", "deleted": true}));
    assert_eq!(server.delete(path).ok()["deleted"], false);
    server.get(path).problem(404, "not-found");
    server.put(path, r#"{"value":null,"if_version":"0"}"#).ok();
    assert_eq!(server.get(path).ok()["value"], Value::Null);
}

#[test]
fn what_is_invalidated_is_gone_and_counted() {
    let server = server();
    let fill = || {
        for key in ["user:1:a", "user:1:b", "user:2:a", "other"] {
            let body = format!(r#"{{"value":1,"tags":["t","{key}"]}}"#);
            server.put(&format!("/v1/state/{key}"), &body).ok();
        }
    };
    for (wish, gone, counts) in [
        (r#"{"keys":["other","none"]}"#, &["other"][..], (1, 1, 0, 0)),
        (r#"{"tags":["user:2:a"]}"#, &["user:2:a"], (1, 0, 1, 0)),
        (r#"{"pattern":"user:?:a"}"#, &["user:1:a", "user:2:a"], (2, 2, 0, 1)),
        (r#"{"updated_key":"user:1"}"#, &["user:1:a", "user:1:b"], (2, 2, 0, 2)),
        (
            r#"{"keys":["other"],"tags":["user:1:a","x"],"pattern":"user:2:*"}"#,
            &["other", "user:1:a", "user:2:a"],
            (4, 2, 2, 1),
        ),
    ] {
        fill();
        let done = server.post("/v1/state/invalidate", wish).ok();
        let (invalidated, keys, tags, patterns) = counts;
        let whole = json!({ "invalidated": invalidated, "keys": keys, "tags": tags,
            "patterns": patterns });
        assert_eq!(done, whole, "{wish}");
        let left = names(&server.get("/v1/state").ok(), "key");
        assert!(gone.iter().all(|key| !left.contains(&(*key).to_owned())), "{wish} {left:?}");
        assert_eq!(left.len(), 4 - gone.len(), "{wish} {left:?}");
        for key in gone {
            server.get(&format!("/v1/state/{key}")).problem(404, "not-found");
        }
    }
}

#[test]
fn keys_are_listed_by_prefix_page_by_page() {
    let server = server();
    for n in 0..7 {
        server.put(&format!("/v1/state/a%2F{n}"), r#"{"value":[1,2]}"#).ok();
    }
    server.put("/v1/state/b", r#"{"value":1}"#).ok();
    let mut keys = Vec::new();
    let mut token = String::new();
    loop {
        let page = server.get(&format!("/v1/state?prefix=a/&page_size=3{token}")).ok();
        assert!(page["items"].as_array().expect("items").iter().all(|item| item["bytes"] == 5));
        keys.extend(names(&page, "key"));
        let Some(next) = page["next_page_token"].as_str() else { break };
        token = format!("&page_token={next}");
    }
    assert_eq!(keys, (0..7).map(|n| format!("a/{n}")).collect::<Vec<_>>());
    let page = server.get("/v1/state?page_size=1").ok();
    let next = page["next_page_token"].as_str().expect("there is more");
    // A token is of one list, and the prefix belongs to the list.
    server.get(&format!("/v1/state?prefix=a/&page_token={next}")).problem(400, "invalid");
}

#[test]
fn rules_and_dependencies_are_put_shown_and_deleted() {
    let server = server();
    let built_in = names(&server.get("/v1/state-rules").ok(), "name");
    assert_eq!(built_in, ["balance", "job", "rate", "user"]);
    let rule = r#"{"update_pattern":"order:{id}","invalidate_patterns":["orders:*","sum:{id}"]}"#;
    let put = server.put("/v1/state-rules/orders", rule).ok();
    assert_eq!(server.get("/v1/state-rules/orders").ok(), put);
    assert_eq!(put["update_pattern"], "order:{id}");
    for key in ["orders:x", "sum:7", "report", "order:8"] {
        server.put(&format!("/v1/state/{key}"), r#"{"value":1}"#).ok();
    }
    let body = r#"{"depends_on":["sum:7"]}"#;
    assert_eq!(server.put("/v1/state-dependencies/report", body).ok()["key"], "report");
    let shown = server.get("/v1/state-dependencies/report").ok();
    assert_eq!(shown["depends_on"], json!(["sum:7"]));
    server.put("/v1/state/order:7", r#"{"value":1}"#).ok();
    assert_eq!(names(&server.get("/v1/state").ok(), "key"), ["order:7", "order:8"]);
    assert_eq!(server.delete("/v1/state-dependencies/report").ok()["deleted"], true);
    server.get("/v1/state-dependencies/report").problem(404, "not-found");
    assert_eq!(server.delete("/v1/state-rules/orders").ok()["deleted"], true);
    assert_eq!(server.delete("/v1/state-rules/user").ok()["deleted"], true);
    assert_eq!(server.delete("/v1/state-rules/user").ok()["deleted"], false);
    server.get("/v1/state-rules/user").problem(404, "not-found");
    let page = server.get("/v1/state-rules?page_size=2").ok();
    assert_eq!(names(&page, "name"), ["balance", "job"]);
    let next = page["next_page_token"].as_str().expect("there is more");
    let page = server.get(&format!("/v1/state-rules?page_token={next}")).ok();
    assert_eq!(
        (names(&page, "name"), &page["next_page_token"]),
        (vec!["rate".into()], &Value::Null)
    );
}

#[test]
fn wrong_requests_are_refused_with_the_reason_and_write_nothing() {
    let server = server();
    let long = format!("/v1/state/{}", "x".repeat(513));
    let large = format!(r#"{{"value":"{}"}}"#, "x".repeat(1_100_000));
    let tags: Vec<String> = (0..33).map(|n| format!("\"{n}\"")).collect();
    let tags = format!(r#"{{"value":1,"tags":[{}]}}"#, tags.join(","));
    for (path, body) in [
        (long.as_str(), r#"{"value":1}"#),
        ("/v1/state/a%00b", r#"{"value":1}"#),
        ("/v1/state/k", "{}"),
        ("/v1/state/k", r#"{"value":1,"ttl_seconds":-1}"#),
        ("/v1/state/k", r#"{"value":1,"ttl_seconds":0}"#),
        ("/v1/state/k", r#"{"value":1,"ttl_seconds":1e300}"#),
        ("/v1/state/k", r#"{"value":1,"ttl_seconds":"NaN"}"#),
        ("/v1/state/k", r#"{"value":1,"ttl_seconds":400000000}"#),
        ("/v1/state/k", r#"{"value":NaN}"#),
        ("/v1/state/k", r#"{"value":1,"if_version":"x"}"#),
        ("/v1/state/k", r#"{"value":1,"if_version":7.5}"#),
        ("/v1/state/k", r#"{"value":1,"if_version":null}"#),
        ("/v1/state/k", r#"{"value":1,"nonsense":7}"#),
        ("/v1/state/k", &tags),
        ("/v1/state/k", &large),
        ("/v1/state-rules/r", r#"{"update_pattern":"a[","invalidate_patterns":["b"]}"#),
        ("/v1/state-rules/r", r#"{"update_pattern":"a","invalidate_patterns":["b:{id}"]}"#),
        ("/v1/state-rules/r", r#"{"update_pattern":"a","invalidate_patterns":[]}"#),
        ("/v1/state-dependencies/k", r#"{"depends_on":["k"]}"#),
        ("/v1/state-dependencies/k", r#"{"depends_on":[]}"#),
    ] {
        server.put(path, body).problem(400, "invalid");
    }
    for body in ["{}", r#"{"pattern":"{a"}"#, r#"{"pattern":"user:{id}"}"#, r#"{"keys":[""]}"#] {
        server.post("/v1/state/invalidate", body).problem(400, "invalid");
    }
    let huge = format!(r#"{{"value":"{}"}}"#, "x".repeat(10 * 1024 * 1024));
    server.put("/v1/state/k", &huge).problem(413, "invalid");
    server.get("/v1/state/k?max_stale_seconds=soon").problem(400, "invalid");
    assert_eq!(server.get("/v1/state").ok()["items"], json!([]));
}

#[test]
fn a_key_that_is_called_invalidate_is_a_key_like_any_other() {
    let server = server();
    server.put("/v1/state/invalidate", r#"{"value":7}"#).ok();
    assert_eq!(server.get("/v1/state/invalidate").ok()["value"], 7);
    server.post("/v1/state/invalidate", r#"{"keys":["invalidate"]}"#).ok();
    server.get("/v1/state/invalidate").problem(404, "not-found");
    server.put("/v1/state/invalidate", r#"{"value":8}"#).ok();
    assert_eq!(server.delete("/v1/state/invalidate").ok()["deleted"], true);
}

#[test]
fn what_one_server_changes_the_other_shows_within_a_second() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = format!("sqlite:{}/s.db", dir.path().display());
    let (a, b) = (Server::start(&["--store", &store]), Server::start(&["--store", &store]));
    let clock = Clock::system();
    // Whoever asks later than that after a change was told is shown it, however long the answer takes.
    let in_time = |told: Tick, is_shown: &dyn Fn() -> bool| {
        let mut asked = clock.tick();
        while !is_shown() {
            assert!(asked.since(told) <= Duration::from_millis(1_100), "{:?}", asked.since(told));
            std::thread::park_timeout(Duration::from_millis(5));
            asked = clock.tick();
        }
    };
    for round in 0..5 {
        a.put("/v1/state/k", &format!(r#"{{"value":{round},"tags":["t"]}}"#)).ok();
        assert_eq!(a.get("/v1/state/k").ok()["value"], round);
        let told = clock.tick();
        in_time(told, &|| {
            let reply = b.get("/v1/state/k");
            reply.status == 200 && reply.json()["value"] == round
        });
        b.post("/v1/state/invalidate", r#"{"tags":["t"]}"#).ok();
        b.get("/v1/state/k").problem(404, "not-found");
        let told = clock.tick();
        in_time(told, &|| a.get("/v1/state/k").status == 404);
    }
    let metrics = a.get("/api/advanced-state/metrics").ok();
    let state = &metrics["state_manager_metrics"];
    assert_eq!((&state["keys_written"], &state["conflicts"]), (&json!(5), &json!(0)));
    for name in ["cache_hits", "cache_misses", "keys_invalidated", "loads", "cached_entries"] {
        assert!(state[name].is_u64(), "{state}");
    }
}
