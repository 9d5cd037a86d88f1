//! The server against its own OpenAPI document, by a program that knows nothing but the document.
//!
//! Schemathesis makes requests that the document allows and requests that it forbids, and checks
//! that each answer is one that the document tells of: its status, its type, its members, its
//! headers; that nothing is a defect; that what is forbidden is refused. Which checks are off, and
//! why, stands in `schemathesis/schemathesis.toml`. `./test` installs it, with every version pinned;
//! without it this test fails, because a check that was left out shows nothing.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use support::Server;

/// Where `./test` installs it.
fn schemathesis() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let path = root.join("target/venv/bin/schemathesis");
    assert!(
        path.exists(),
        "{} is missing: run ./test, which installs it, or do what need_schemathesis in it does",
        path.display()
    );
    path
}

#[test]
fn every_answer_to_generated_requests_is_one_that_the_document_tells_of() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/schemathesis");
    let server = Server::start(&["--store", "memory:"]);
    server.wait_until_leading();
    let document = server.get("/openapi.json").ok();
    let paths = document["paths"].as_object().unwrap().values();
    let operations: usize = paths.map(|path| path.as_object().unwrap().len()).sum();
    assert!(operations > 80, "the document has {operations} operations");

    let home = tempfile::tempdir().unwrap();
    let run = Command::new(schemathesis())
        .arg("--config-file")
        .arg(folder.join("schemathesis.toml"))
        .arg("run")
        .arg(format!("{}/openapi.json", server.url()))
        .env("SCHEMATHESIS_HOOKS", "hooks")
        .env("PYTHONPATH", &folder)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir(home.path())
        .output()
        .expect("schemathesis starts");
    let told = String::from_utf8_lossy(&run.stdout);
    let errors = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{told}\n{errors}");
    // None was left out, neither by a filter nor because it could not be understood; but for the
    // document itself, which it has read by then.
    let asked = operations - 1;
    for counted in [format!("Selected: {asked}/{asked}"), format!("Tested: {asked}")] {
        assert!(told.contains(&counted), "not {counted}:\n{told}");
    }
    assert_eq!(server.get("/health/live").ok()["live"], true);
    let log = server.log();
    assert!(!log.contains("a handler panicked") && !log.contains("internal error"), "{log}");
}
