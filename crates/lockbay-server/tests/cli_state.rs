//! `lockbay state` shows values to the last digit, and says what it did.

mod support;

use std::process::Output;

use serde_json::Value;
use support::{Server, run};

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

/// Runs a command of `lockbay state` that must end with this code, and gives its stdout.
#[track_caller]
fn ends(server: &Server, code: i32, args: &[&str]) -> String {
    let output = run(server, &[&["state"], args].concat());
    assert_eq!(output.status.code(), Some(code), "{args:?}: {}", stderr(&output));
    stdout(&output)
}

#[track_caller]
fn done(server: &Server, args: &[&str]) -> String {
    ends(server, 0, args)
}

#[track_caller]
fn json(server: &Server, args: &[&str]) -> Value {
    let text = done(server, &[args, &["--json"]].concat());
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn values_are_set_shown_listed_and_deleted_to_the_last_digit() {
    let server = Server::start(&["--store", "memory:"]);
    let value = r#"{"rate":1.08370000000000000001}"#;
    let said = done(&server, &["set", "rate:EUR/USD", value, "--ttl", "60", "--tag", "rates"]);
    assert!(
        said.contains("\"rate:EUR/USD\" is set, version ") && said.contains("until 2"),
        "{said}"
    );
    assert_eq!(done(&server, &["get", "rate:EUR/USD"]).trim_end(), value);
    let shown = json(&server, &["get", "rate:EUR/USD"]);
    let version = shown["version"].as_str().expect("a version");
    let list = done(&server, &["list", "--prefix", "rate:"]);
    assert!(list.contains("rate:EUR/USD") && list.contains(version), "{list}");
    done(&server, &["set", "rate:EUR/USD", "7", "--if-version", version]);
    let again = run(&server, &["state", "set", "rate:EUR/USD", "8", "--if-version", version]);
    assert_eq!(again.status.code(), Some(1));
    assert!(stderr(&again).contains("is not at version"), "{}", stderr(&again));
    ends(&server, 1, &["set", "rate:EUR/USD", "8", "--if-version", "0"]);
    assert_eq!(done(&server, &["delete", "rate:EUR/USD"]), "deleted\n");
    assert_eq!(ends(&server, 1, &["delete", "rate:EUR/USD"]), "there was nothing to delete\n");
    ends(&server, 1, &["get", "rate:EUR/USD"]);
    ends(&server, 2, &["set", "k", "no json"]);
    ends(&server, 2, &["set", "k"]);
    ends(&server, 2, &["invalidate"]);
}

#[test]
fn invalidation_rules_and_dependencies_are_told() {
    let server = Server::start(&["--store", "memory:"]);
    done(&server, &["rules", "put", "orders", "order:{id}", "orders:*"]);
    assert!(done(&server, &["rules", "list"]).contains("order:{id}"));
    assert_eq!(json(&server, &["rules", "show", "orders"])["name"], "orders");
    done(&server, &["depend", "put", "report", "orders:all"]);
    assert!(done(&server, &["depend", "show", "report"]).contains("orders:all"));
    done(&server, &["set", "orders:all", "1"]);
    done(&server, &["set", "report", "1"]);
    let said = done(&server, &["invalidate", "--updated", "order:7"]);
    assert_eq!(said, "invalidated: 2 keys, 0 tags; 1 patterns applied\n");
    done(&server, &["set", "a:1", "1", "--tag", "t"]);
    let told = json(&server, &["invalidate", "--tag", "t", "--pattern", "a:*", "--yes"]);
    assert_eq!((&told["tags"], &told["patterns"]), (&1.into(), &1.into()));
    done(&server, &["depend", "delete", "report"]);
    ends(&server, 1, &["depend", "show", "report"]);
    done(&server, &["rules", "delete", "orders"]);
    ends(&server, 1, &["rules", "delete", "orders"]);
}
