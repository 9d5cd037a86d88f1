//! Commands say what was asked on stdout, everything else on stderr, and end with the right code.

mod support;

use std::process::{Output, Stdio};

use serde_json::Value;
use support::{Server, eventually, lockbay, run};

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

/// Runs a command that must succeed, and gives its stdout.
#[track_caller]
fn done(server: &Server, args: &[&str]) -> String {
    let output = run(server, args);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {}", stderr(&output));
    stdout(&output)
}

/// Runs a command that must be refused, and gives its stderr.
#[track_caller]
fn refused(server: &Server, args: &[&str]) -> String {
    let output = run(server, args);
    assert_eq!(output.status.code(), Some(1), "{args:?}: {}", stderr(&output));
    assert!(stderr(&output).contains("next: "), "{}", stderr(&output));
    stderr(&output)
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn server() -> Server {
    let server = Server::start(&["--store", "memory:"]);
    server.wait_until_leading();
    server
}

fn claim(server: &Server, key: &str) -> String {
    let body =
        format!(r#"{{"job_type":"pay","job_key":"{key}","parameters":{{"n":9007199254740993}}}}"#);
    server.post("/v1/jobs/claim", &body).ok()["job_id"].as_str().expect("an id").to_owned()
}

#[test]
fn health_and_metrics_are_shown_for_people_and_programs() {
    let server = server();
    assert!(done(&server, &["health"]).contains("leader election"));
    assert_eq!(json(&done(&server, &["health", "--json"]))["overall_healthy"], true);
    assert!(done(&server, &["metrics"]).contains("job_idempotency_metrics.jobs_claimed"));
    assert_eq!(json(&done(&server, &["--json", "metrics"]))["is_leader"], true);
}

#[test]
fn an_unreachable_server_is_exit_code_2_with_advice() {
    for args in [&["health"][..], &["job", "list"], &["leader", "status"]] {
        let output = lockbay().args(args).args(["--url", "http://127.0.0.1:1"]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(stderr(&output).contains("--url"), "{}", stderr(&output));
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn wrong_usage_is_exit_code_2() {
    for args in [
        &["jobs"][..],
        &["job", "cancel", "x"],
        &["job", "list", "--status", "running"],
        &["saga", "cancel", "--reason", "x"],
        &["saga", "cancel", "id", "--all-matching", "--reason", "x"],
        &["saga", "cancel", "id", "--status", "parked", "--reason", "x"],
        &["saga", "cancel", "--all-matching", "--reason", "x"],
        &["saga", "list", "--status", "lost"],
        &["saga", "list", "--older-than", "old"],
        &["saga", "resolve", "id", "step", "--outcome", "maybe", "--reason", "x"],
        &["saga", "retry", "id", "step", "--parameters", "{", "--reason", "x"],
        &["saga", "retry", "id", "step"],
        &["saga", "start", "/no/such/file"],
        &["handler", "put", "bank"],
        &["handler", "put", "bank", "https://bank.example", "--pull"],
        &["health", "--url", "not a url"],
        &["health", "--url", "https://127.0.0.1"],
        &["serve", "--surprise"],
        &[],
    ] {
        let output = lockbay().args(args).stdin(Stdio::null()).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
    }
}

#[test]
fn the_leader_is_shown_and_can_be_told_to_resign() {
    let server = server();
    assert!(done(&server, &["leader", "status"]).contains("this server"));
    assert_eq!(json(&done(&server, &["leader", "status", "--json"]))["term"], 1);
    // Alone as it is, it leads again half a second later.
    let output = eventually("nobody leads", || {
        let resigned = run(&server, &["leader", "resign"]);
        let looked = run(&server, &["leader", "status"]);
        if resigned.status.success() {
            let said = String::from_utf8_lossy(&resigned.stdout);
            assert!(said.contains("has resigned"), "{said}");
        }
        (looked.status.code() == Some(1)).then_some(looked)
    });
    let said = stderr(&output);
    assert!(said.contains("nobody leads") && !said.contains("next:"), "{said}");
}

#[test]
fn leases_are_listed_shown_and_taken_away() {
    let server = server();
    let lease = server.post("/v1/leases/a%2Fb", r#"{"holder":"web\u001b[2J","ttl_seconds":60}"#);
    lease.problem(400, "invalid");
    server.post("/v1/leases/a%2Fb", r#"{"holder":"web-1","ttl_seconds":60}"#).ok();
    let list = done(&server, &["lease", "list"]);
    assert!(list.starts_with("NAME") && list.contains("web-1"), "{list}");
    assert!(done(&server, &["lease", "show", "a/b"]).contains("fencing token"));
    let stale = refused(&server, &["lease", "release", "a/b", "--fencing-token", "1"]);
    assert!(stale.contains("fenced"), "{stale}");
    assert!(done(&server, &["lease", "release", "a/b", "--yes"]).contains("web-1"));
    let gone = refused(&server, &["lease", "show", "a/b"]);
    assert!(gone.contains("a/b") && gone.contains("not-found"), "{gone}");
}

#[test]
fn jobs_are_listed_shown_cancelled_and_retried() {
    let server = server();
    let id = claim(&server, "order-1");
    claim(&server, "order-2");
    let list = done(&server, &["job", "list", "--key", "order-1", "--type", "pay"]);
    assert!(list.contains(&id) && list.contains("claimed") && !list.contains("order-2"), "{list}");
    let shown = done(&server, &["job", "show", &id]);
    assert!(shown.contains(r#"{"n":9007199254740993}"#), "{shown}");
    let exact = done(&server, &["job", "show", &id, "--json"]);
    assert!(exact.contains("9007199254740993"), "{exact}");

    let early = refused(&server, &["job", "retry", &id, "--reason", "impatient"]);
    assert!(early.contains("is claimed"), "{early}");
    let cancelled = done(&server, &["job", "cancel", &id, "--reason", "a duplicate"]);
    assert!(cancelled.contains("is cancelled"), "{cancelled}");
    let cancelled = json(&done(&server, &["job", "list", "--status", "cancelled", "--json"]));
    assert_eq!(cancelled["items"][0]["error"], "cancelled: a duplicate");
    done(&server, &["job", "retry", &id, "--reason", "it was none"]);
    assert!(refused(&server, &["job", "show", "nope"]).contains("nope"));
    let output = run(&server, &["job", "show", "nope", "--json"]);
    assert_eq!(json(&stdout(&output))["type"], "/problems/not-found");
}

#[test]
fn a_long_list_says_how_to_go_on() {
    let server = server();
    for key in ["a", "b", "c"] {
        claim(&server, key);
    }
    let output = run(&server, &["job", "list", "--page-size", "2"]);
    let said = stderr(&output);
    let token = said.trim().rsplit(' ').next().unwrap();
    let rest = done(&server, &["job", "list", "--page-size", "2", "--page-token", token]);
    assert_eq!(rest.lines().count(), 2, "a heading and the third job: {rest}");
}

#[test]
fn doctor_finds_nothing_wrong_with_a_fresh_file_and_says_what_is_wrong_elsewhere() {
    let directory = tempfile::tempdir().unwrap();
    let store = format!("sqlite:{}", directory.path().join("lockbay.db").display());
    Server::start(&["--store", &store]).wait_until_leading();
    let doctor =
        |args: &[&str]| lockbay().arg("doctor").args(args).stdin(Stdio::null()).output().unwrap();
    let output = doctor(&["--store", &store]);
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    for check in ["configuration", "store", "version", "durability", "answer", "clock", "space"] {
        assert!(stdout(&output).contains(check), "{check} in {}", stdout(&output));
    }
    let report = json(&stdout(&doctor(&["--store", &store, "--json"])));
    assert_eq!(report["ok"], true);

    let output = doctor(&["--store", "redis://:secret@127.0.0.1:1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("WRONG") && !stdout(&output).contains("secret"));
    let file = directory.path().join("lockbay.toml");
    std::fs::write(&file, "leeder_ttl = 5\n").unwrap();
    let output = doctor(&["--config", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("leeder_ttl"), "{}", stdout(&output));
}

#[test]
fn a_store_is_accepted_only_after_a_yes() {
    let directory = tempfile::tempdir().unwrap();
    let store = format!("sqlite:{}", directory.path().join("lockbay.db").display());
    Server::start(&["--store", &store]).wait_until_leading();
    let accept = |more: &[&str]| {
        // Without it nobody knows here whether the store has lost something.
        drop(std::fs::remove_file(directory.path().join("lockbay.db-floor")));
        let mut command = lockbay();
        command.args(["doctor", "--accept-store", "--store", &store]).args(more);
        command.stdin(Stdio::null()).output().unwrap()
    };
    let output = accept(&[]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("--yes"));
    let output = accept(&["--yes"]);
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    assert!(stderr(&output).contains("stays lost"), "{}", stderr(&output));
}

#[test]
fn a_benchmark_leaves_what_is_in_the_namespace_of_its_url() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("lockbay.db");
    let url = format!("sqlite:{}?namespace=pay", file.display());
    let start = || {
        let server = Server::start(&["--store", &url]);
        server.wait_until_leading();
        server
    };
    let server = start();
    let id = claim(&server, "a");
    drop(server);
    for subject in [
        &["lease", "--count", "8", "--concurrency", "1"][..],
        &["job", "--raw", "--count", "8", "--concurrency", "1"],
        &["saga", "--raw", "--count", "8", "--concurrency", "1"],
        &["idle", "--seconds", "1"],
    ] {
        let mut bench = lockbay();
        let output = bench.arg("bench").args(subject).args(["--store", &url]).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    }
    assert!(done(&start(), &["job", "show", &id]).contains("claimed"));
}

#[test]
fn completions_name_the_commands_of_the_binary() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = lockbay().args(["completions", shell]).output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        assert!(stdout(&output).contains("lease"), "{shell}");
    }
}

#[test]
fn a_reader_that_stops_reading_is_no_error() {
    let mut child = lockbay()
        .args(["completions", "zsh"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(stderr(&output), "");
}
