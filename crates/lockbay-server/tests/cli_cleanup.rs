//! `lockbay cleanup` shows rules, cleans up when asked, and says what that came to.

mod support;

use std::process::{Output, Stdio};

use serde_json::{Value, json};
use support::{Server, eventually, lockbay, run};

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

#[track_caller]
fn cleanup(server: &Server, args: &[&str]) -> String {
    let output = run(server, &[&["cleanup"], args].concat());
    assert_eq!(output.status.code(), Some(0), "{args:?}: {}", stderr(&output));
    stdout(&output)
}

#[track_caller]
fn refused(server: &Server, args: &[&str]) -> String {
    let output = run(server, &[&["cleanup"], args].concat());
    assert_eq!(output.status.code(), Some(1), "{args:?}: {}", stderr(&output));
    assert!(stderr(&output).contains("next: "), "{}", stderr(&output));
    stderr(&output)
}

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn server() -> Server {
    let server = Server::start(&["--store", "memory:"]);
    server.wait_until_leading();
    server
}

#[test]
fn rules_are_shown_put_and_deleted() {
    let server = server();
    let list = cleanup(&server, &["rules"]);
    assert!(list.starts_with("TYPE") && list.contains("session:*"), "{list}");
    let put = cleanup(
        &server,
        &["put-rule", "basket", "--pattern", "basket:*", "--ttl", "1h", "--strategy", "lazy"],
    );
    assert!(put.contains("basket") && put.contains("1 h") && put.contains("lazy"), "{put}");
    let all = ["--pattern", "x:*", "--ttl", "90s", "--batch-size", "5", "--priority", "-3"];
    let more = ["--interval", "60", "--applies-to", "state_keys,foreign_keys"];
    let args = [&["put-rule", "x"], &all[..], &more, &["--include-expiring", "--json"]].concat();
    let rule = json_of(&cleanup(&server, &args));
    assert_eq!((&rule["batch_size"], &rule["priority"]), (&json!(5), &json!(-3)));
    assert_eq!(rule["applies_to"], json!(["state_keys", "foreign_keys"]));
    assert_eq!((&rule["expiring"], &rule["interval_seconds"]), (&json!("include"), &json!(60)));
    let rules = json_of(&cleanup(&server, &["rules", "--json"]));
    assert!(rules["items"].as_array().expect("a list").len() >= 10);
    let page = run(&server, &["cleanup", "rules", "--page-size", "2"]);
    assert_eq!(stdout(&page).lines().count(), 3);
    let said = stderr(&page);
    let token = said.trim().rsplit(' ').next().expect("a token");
    let rest = cleanup(&server, &["rules", "--page-size", "1000", "--page-token", token]);
    assert!(rest.contains("basket"), "{rest}");
    assert!(cleanup(&server, &["delete-rule", "basket", "--yes"]).contains("is deleted"));
    assert!(refused(&server, &["delete-rule", "basket", "--yes"]).contains("not-found"));
    let wrong = refused(&server, &["put-rule", "y", "--pattern", "a[0]", "--ttl", "60"]);
    assert!(wrong.contains("brackets"), "{wrong}");
}

#[test]
fn a_dry_run_says_what_would_go_and_a_run_deletes_it() {
    let server = server();
    for name in ["a", "b", "c"] {
        let lease = r#"{"holder":"worker-1","ttl_seconds":0.1}"#;
        server.post(&format!("/v1/leases/{name}"), lease).ok();
    }
    let now = ["run", "--type", "leader_election", "--ttl", "0"];
    let dry = eventually("all have lapsed", || {
        let dry = cleanup(&server, &[&now[..], &["--dry-run"]].concat());
        dry.contains("3 would go").then_some(dry)
    });
    assert!(dry.contains("WOULD GO") && dry.contains("leader_election"), "{dry}");
    let one = cleanup(&server, &[&now[..], &["--pattern", "a", "--yes"]].concat());
    assert!(one.contains("1 cleaned"), "{one}");
    let rest = json_of(&cleanup(&server, &[&now[..], &["--yes", "--json"]].concat()));
    assert_eq!(rest["keys_by_type"], json!({ "leader_election": 2 }));
    assert!(cleanup(&server, &["run", "--yes"]).contains("0 cleaned"));
    assert!(refused(&server, &["run", "--type", "nothing", "--yes"]).contains("nothing"));
}

#[test]
fn memory_is_given_back_and_told() {
    let server = server();
    let told = cleanup(&server, &["optimize-memory", "--yes"]);
    assert!(told.contains("given back") && told.contains("in use after"), "{told}");
    assert!(json_of(&cleanup(&server, &["optimize-memory", "--json"]))["bytes_freed"].is_number());
}

#[test]
fn wrong_usage_is_exit_code_2() {
    for args in [
        &["cleanup"][..],
        &["cleanup", "run", "--ttl", "-1"],
        &["cleanup", "run", "--ttl", "soon"],
        &["cleanup", "put-rule", "x", "--pattern", "a:*"],
        &["cleanup", "put-rule", "x", "--ttl", "1h"],
        &["cleanup", "put-rule", "x", "--pattern", "a", "--ttl", "1h", "--strategy", "often"],
        &["cleanup", "put-rule", "x", "--pattern", "a", "--ttl", "1h", "--batch-size", "-1"],
        &["cleanup", "delete-rule"],
        &["cleanup", "optimise"],
    ] {
        let output = lockbay().args(args).stdin(Stdio::null()).output().expect("the binary runs");
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
    }
}
