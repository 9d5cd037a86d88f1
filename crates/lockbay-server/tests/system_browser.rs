//! The dashboard in a real browser, against real servers.
//!
//! The tests themselves are in `tests/browser` and run under node, because what drives a browser is
//! at home there. This file gives them the binary and their packages, and fails as they do. Their
//! packages are installed into the target directory, and anew when the lock file has changed.

#![allow(clippy::print_stdout)] // a run tells its figures

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where the tests are.
fn suite() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser")
}

/// Runs a command to its end, with its output shown as it comes.
#[track_caller]
fn run(command: &mut Command, advice: &str) {
    let status = command.stdin(Stdio::null()).status();
    let program = command.get_program().to_string_lossy();
    let status = status.unwrap_or_else(|error| panic!("{program}: {error}; {advice}"));
    assert!(status.success(), "{program} ended with {status}; {advice}");
}

/// The folder with the packages that the tests use.
fn modules() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("browser");
    let lock = "package-lock.json";
    let wanted = fs::read(suite().join(lock)).expect("the lock file is readable");
    let installed = folder.join("node_modules/.package-lock.json").exists();
    if installed && fs::read(folder.join(lock)).is_ok_and(|present| present == wanted) {
        return folder;
    }
    fs::create_dir_all(&folder).expect("the target directory is writable");
    for name in ["package.json", lock] {
        fs::copy(suite().join(name), folder.join(name)).expect("the target directory is writable");
    }
    let mut npm = Command::new("npm");
    npm.args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"]).current_dir(&folder);
    run(&mut npm, "install npm, and let it reach its registry once");
    folder
}

/// Every file of tests, in order.
fn files() -> Vec<PathBuf> {
    let entries = fs::read_dir(suite()).expect("the folder of the tests is readable");
    let paths = entries.map(|entry| entry.expect("an entry is readable").path());
    let is_test = |path: &PathBuf| path.to_string_lossy().ends_with(".test.mjs");
    let mut files: Vec<PathBuf> = paths.filter(is_test).collect();
    files.sort();
    files
}

#[test]
fn the_dashboard_holds_in_a_real_browser() {
    let files = files();
    assert!(!files.is_empty(), "there are tests to run");
    let mut node = Command::new("node");
    node.args(["--test", "--test-reporter=spec", "--test-concurrency=1", "--test-timeout=400000"])
        .args(files)
        .env("LOCKBAY_BINARY", env!("CARGO_BIN_EXE_lockbay"))
        .env("LOCKBAY_BROWSER_MODULES", modules());
    run(&mut node, "what failed stands above; it needs node 20 or newer, and chromium");
}
