//! A backup that was made under load is whole and adds up, and it can be put back as the documents
//! say.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use support::money::{ESCROW, hundred, in_balance, keyed};
use support::{Server, eventually, lockbay, run};

fn backup(args: &[&str]) -> Output {
    lockbay().args(["backup"]).args(args).stdin(Stdio::null()).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

fn url(path: &Path) -> String {
    format!("sqlite:{}", path.display())
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_backup_under_load_is_of_one_moment_adds_up_and_verifies() {
    let directory = tempfile::tempdir().unwrap();
    let copies = tempfile::tempdir().unwrap();
    let store = directory.path().join("lockbay.db");
    let sealing = [("LOCKBAY_AUDIT_SEAL_INTERVAL", "100ms")];
    let server = Server::start_with(&["--store", &url(&store)], &sealing);
    server.wait_until_leading();
    for user in 0..4 {
        hundred(&server, &format!("user-{user}"));
    }
    let enough = AtomicBool::new(false);
    let copy = copies.path().join("copy.db");
    let (server_ref, enough_ref) = (&server, &enough);
    std::thread::scope(|scope| {
        for user in 0..4 {
            scope.spawn(move || {
                let mut moved = 0;
                while !enough_ref.load(Ordering::Relaxed) {
                    let body = json!({ "buyer_id": format!("user-{user}"), "seller_id": "shop",
                        "amount": "0.01", "currency": "USD" });
                    let key = format!("{user}-{moved}");
                    keyed(server_ref, ESCROW, &key, &body.to_string());
                    moved += 1;
                }
            });
        }
        eventually("money moves", || {
            let held = server_ref.saga_metric("sagas_completed");
            (held > 20).then_some(())
        });
        let output = backup(&["--store", &url(&store), "--to", copy.to_str().unwrap(), "--json"]);
        enough.store(true, Ordering::Relaxed);
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        let told: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(told["whole"], true);
        assert!(told["bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{told}");
    });
    assert_eq!(names(copies.path()), ["copy.db"], "nothing else is left");
    let mode = fs::metadata(&copy).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600, "it holds what the store holds");
    drop(server);

    let restored = Server::start(&["--store", &url(&copy)]);
    restored.wait_until_leading();
    in_balance(&restored);
    restored.bring_sagas_to_an_end(support::PATIENCE);
    in_balance(&restored);
    let output = run(&restored, &["audit", "verify"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
}

#[test]
fn nothing_is_replaced_and_what_is_damaged_or_no_store_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name);
    let store = file("lockbay.db");
    Server::start(&["--store", &url(&store)]).wait_until_leading();
    let text = |name: &str| file(name).to_str().unwrap().to_owned();
    let copy_to = |from: &Path, to: &str| backup(&["--store", &url(from), "--to", &text(to)]);

    let output = copy_to(&store, "copy.db");
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let output = copy_to(&store, "copy.db");
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("does not replace"), "{}", said(&output));
    assert_eq!(backup(&["--check", &text("copy.db")]).status.code(), Some(0));

    // What an earlier backup left is not taken for a backup, and is told.
    fs::write(file("cut.db.part"), "").unwrap();
    let output = copy_to(&store, "cut.db");
    assert!(said(&output).contains("cut.db.part") && !file("cut.db").exists());

    let whole = fs::read(file("copy.db")).unwrap();
    fs::write(file("half.db"), &whole[..whole.len() / 2]).unwrap();
    fs::write(file("text.db"), "no database at all, but long enough for a header of one").unwrap();
    for bad in ["half.db", "text.db", "missing.db"] {
        let output = backup(&["--check", &text(bad)]);
        assert_eq!(output.status.code(), Some(1), "{bad}: {}", said(&output));
        let output = copy_to(&file(bad), "never.db");
        assert_eq!(output.status.code(), Some(1), "{bad}: {}", said(&output));
        assert!(!file("never.db").exists() && !file("never.db.part").exists(), "{bad}");
    }
    assert!(!file("missing.db").exists(), "a store that is not there is not made");
    for (store, means) in [("redis://:hush@h:6379", "redis-cli"), ("memory:", "sqlite:PATH")] {
        let output = backup(&["--store", store, "--to", &text("never.db")]);
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        assert!(said(&output).contains(means) && !said(&output).contains("hush"));
    }
}

#[test]
fn a_backup_is_put_back_as_the_documents_say() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("lockbay.db");
    let copy = directory.path().join("monday.db");
    let mut server = Server::start(&["--store", &url(&store)]);
    server.wait_until_leading();
    hundred(&server, "ann");
    let output = backup(&["--store", &url(&store), "--to", copy.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    hundred(&server, "bob"); // which the backup has not
    server.sigterm();
    server.wait_exit(support::PATIENCE);

    for beside in ["-wal", "-shm"] {
        drop(fs::remove_file(format!("{}{beside}", store.display())));
    }
    fs::copy(&copy, &store).unwrap();
    let server = Server::start(&["--store", &url(&store)]);
    let claim = r#"{"job_type":"pay","job_key":"a","parameters":{}}"#;
    server.post("/v1/jobs/claim", claim).problem(503, "rolled-back");
    let mut accept = lockbay();
    accept.args(["doctor", "--accept-store", "--yes", "--store", &url(&store)]);
    let output = accept.stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    eventually("effects resume", || {
        (server.post("/v1/jobs/claim", claim).status != 503).then_some(())
    });
    assert_eq!(support::money::has(&server, "ann").0, "100.00");
    in_balance(&server);
}
