//! `lockbay doctor` finds what could break a promise: each finding with a real cause.

#![allow(clippy::unwrap_used)] // a test fails by panicking

#[path = "../../lockbay/tests/support/mod.rs"]
mod stores;
mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use stores::redis::RedisServer;
use support::{Server, lockbay};

fn run(command: &mut Command) -> (Option<i32>, Value) {
    let output: Output = command.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let report = serde_json::from_str(&text).unwrap_or_else(|error| {
        panic!("{error}: {text}{}", String::from_utf8_lossy(&output.stderr))
    });
    (output.status.code(), report)
}

fn doctor(args: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, Value) {
    let mut command = lockbay();
    command.args(["doctor", "--json"]).args(args).envs(environment.iter().copied());
    run(&mut command)
}

/// What a check of this name came to, the gravest first.
#[track_caller]
fn found<'a>(report: &'a Value, name: &str, state: &str) -> &'a Value {
    let checks = report["checks"].as_array().unwrap();
    let check = checks.iter().find(|check| check["name"] == name && check["state"] == state);
    let check = check.unwrap_or_else(|| panic!("no {state} {name} in {report:#}"));
    if state != "fine" {
        assert!(check["advice"].is_string() && check["why"].is_string(), "{check}");
    }
    check
}

/// A file that a server has used.
fn used_store(directory: &Path) -> String {
    let url = format!("sqlite:{}", directory.join("lockbay.db").display());
    Server::start(&["--store", &url]).wait_until_leading();
    url
}

#[test]
fn a_store_that_is_not_there_is_told_and_not_made() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", directory.path().join("data/lockbay.db").display());
    let (code, report) = doctor(&["--store", &url], &[]);
    assert_eq!(code, Some(0));
    let check = found(&report, "store", "warning");
    assert!(check["advice"].as_str().unwrap().contains("lockbay serve --store sqlite:"), "{check}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "nothing was made");
    let mut accept = lockbay();
    accept.args(["doctor", "--accept-store", "--yes", "--store", &url]).stdin(Stdio::null());
    assert_eq!(accept.output().unwrap().status.code(), Some(2));
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    // A file without a byte is no store, and does not become one.
    let empty = directory.path().join("empty.db");
    fs::write(&empty, "").unwrap();
    let (_, report) = doctor(&["--store", &format!("sqlite:{}", empty.display())], &[]);
    let check = found(&report, "store", "warning");
    assert!(check["finding"].as_str().unwrap().contains("empty"), "{check}");
    assert_eq!(fs::metadata(&empty).unwrap().len(), 0);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn a_store_that_has_lost_nothing_is_not_accepted() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", directory.path().join("lockbay.db").display());
    let run_once = |job: &str| {
        let mut server = Server::start(&["--store", &url]);
        server.wait_until_leading();
        let body = format!(r#"{{"job_type":"pay","job_key":"{job}","parameters":{{}}}}"#);
        server.post("/v1/jobs/claim", &body).ok();
        server.sigterm();
        server.wait_exit(support::PATIENCE);
    };
    let accept = || {
        let mut command = lockbay();
        command.args(["doctor", "--accept-store", "--yes", "--store", &url]).stdin(Stdio::null());
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    run_once("a");
    let earlier = fs::read(directory.path().join("lockbay.db")).unwrap();
    let nothing = "nothing to accept";
    assert!(accept().contains(nothing) && accept().contains(nothing));
    run_once("b");
    // An older file is below what the floor file beside it knows.
    fs::write(directory.path().join("lockbay.db"), earlier).unwrap();
    for beside in ["-wal", "-shm"] {
        drop(fs::remove_file(directory.path().join(format!("lockbay.db{beside}"))));
    }
    let said = accept();
    assert!(said.contains("a new generation begins") && !said.contains(nothing), "{said}");
    assert!(accept().contains(nothing), "what was accepted is as it should be");
}

#[test]
fn a_redis_that_evicts_or_forgets_is_wrong_with_the_command_that_mends_it() {
    let evicting = ["maxmemory 100mb", "maxmemory-policy allkeys-lru"];
    let forgetting = ["appendonly no"];
    for (lines, mend) in
        [(&evicting[..], "maxmemory-policy noeviction"), (&forgetting, "appendonly yes")]
    {
        let redis = RedisServer::start_with(lines);
        let (code, report) = doctor(&["--store", &redis.url()], &[]);
        assert_eq!((code, &report["ok"]), (Some(1), &Value::Bool(false)), "{report:#}");
        let advice = found(&report, "settings", "wrong")["advice"].as_str().unwrap();
        assert!(advice.contains(mend), "{advice}");
    }
    let redis = RedisServer::start();
    let short = [("REDIS_LEADER_ELECTION_TTL", "1")];
    let (code, report) = doctor(&["--store", &redis.url()], &short);
    assert_eq!(code, Some(0), "{report:#}");
    assert!(found(&report, "times", "warning")["finding"].as_str().unwrap().contains("leader_ttl"));
    found(&report, "version", "fine");
    found(&report, "clock", "fine");
}

#[test]
fn a_file_that_others_may_read_or_write_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let url = used_store(directory.path());
    let file = directory.path().join("lockbay.db");
    let (code, report) = doctor(&["--store", &url], &[]);
    assert_eq!(code, Some(0), "{report:#}");
    found(&report, "permissions", "fine");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let (code, report) = doctor(&["--store", &url], &[]);
    assert_eq!(code, Some(0));
    let advice = &found(&report, "permissions", "warning")["advice"];
    assert_eq!(advice, &format!("chmod 600 {}", file.display()));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    let (code, report) = doctor(&["--store", &url], &[]);
    assert_eq!(code, Some(1));
    found(&report, "permissions", "wrong");
}

#[test]
fn a_log_that_grew_huge_is_told_before_it_is_tidied_up() {
    let directory = tempfile::tempdir().unwrap();
    let url = used_store(directory.path());
    let log = fs::File::create(directory.path().join("lockbay.db-wal")).unwrap();
    log.set_len(600 << 20).unwrap(); // without occupying the disk
    drop(log);
    let (_, report) = doctor(&["--store", &url], &[]);
    assert!(found(&report, "log", "warning")["finding"].as_str().unwrap().contains("600 MiB"));
}

#[test]
fn settings_that_let_others_listen_in_are_told() {
    let secret = tempfile::NamedTempFile::new().unwrap();
    fs::write(secret.path(), "hush-4711").unwrap();
    fs::set_permissions(secret.path(), fs::Permissions::from_mode(0o644)).unwrap();
    let path = secret.path().to_str().unwrap();
    let environment = [
        ("LOCKBAY_LISTEN", "0.0.0.0:5000"),
        ("LOCKBAY_PAYOUT_SECRET_FILE", path),
        ("LOCKBAY_LISSEN", "x"),
    ];
    let (code, report) = doctor(&["--store", "memory:"], &environment);
    assert_eq!(code, Some(0), "{report:#}");
    found(&report, "listen", "warning");
    assert_eq!(
        found(&report, "secrets", "warning")["advice"],
        format!("chmod 600 {path}").as_str()
    );
    assert!(found(&report, "configuration", "warning")["finding"].to_string().contains("LISSEN"));
    assert!(!report.to_string().contains("hush"));
    let (code, report) = doctor(&["--store", "memory:"], &[("SAGA_STEP_TIMEOUT", "31m")]);
    assert_eq!(code, Some(1));
    assert!(
        found(&report, "configuration", "wrong")["finding"].to_string().contains("saga_timeout")
    );
}

#[test]
fn a_limit_of_open_files_that_is_too_low_is_told() {
    let mut command = Command::new("sh");
    let script = "ulimit -n 256; exec \"$0\" doctor --json --store memory:";
    command.args(["-c", script, env!("CARGO_BIN_EXE_lockbay")]);
    let (code, report) = run(&mut command);
    assert_eq!(code, Some(0));
    let finding = found(&report, "files", "warning")["finding"].as_str().unwrap();
    assert!(finding.starts_with("256 "), "{finding}");
}
