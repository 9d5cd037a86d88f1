//! `lockbay bench http` loads a server of its own or one that runs, and tells what it saw.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod support;

use serde_json::Value;
use support::{Server, lockbay};

fn told(args: &[&str], url: &str) -> Value {
    let directory = tempfile::tempdir().unwrap();
    let mut command = lockbay();
    command.args(["bench", "http", "--clients", "40", "--seconds", "1", "--json"]).args(args);
    let output = command.env("LOCKBAY_URL", url).current_dir(directory.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let left = std::fs::read_dir(directory.path()).unwrap().count();
    assert_eq!(left, 0, "files that are left behind");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn forty_clients_at_once_meet_no_error() {
    let nowhere = "http://127.0.0.1:1";
    for args in [&[][..], &["--store", "memory:"]] {
        let told = told(args, nowhere);
        assert_eq!(told["errors"], 0, "{told}");
        assert!(told["requests"].as_u64().unwrap() > 0, "{told}");
        for member in ["per_second", "p50_ms", "p99_ms", "ratio", "start_rss_mib", "peak_rss_mib"] {
            assert!(told[member].as_f64().unwrap() > 0.0, "{member}: {told}");
        }
    }
    let server = Server::start(&["--store", "memory:"]);
    let told = told(&["--running"], &server.url());
    assert_eq!(told["errors"], 0, "{told}");
    let completed = &server.get("/api/advanced-state/metrics").ok()["job_idempotency_metrics"];
    assert!(completed["jobs_completed"].as_u64().unwrap() > 0, "{completed}");
}
