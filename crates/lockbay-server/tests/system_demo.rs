//! The tour as a newcomer runs it: it holds, says so, fails when something is wrong, and leaves
//! nothing behind in whatever way it ends.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // a test fails by panicking, and tells its figures

mod support;

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use lockbay::clock::Clock;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::{eventually, lockbay};
use tempfile::TempDir;

/// What every act is called, and how many promises it checks.
const ACTS: [(&str, usize); 10] = [
    ("1. One leader", 1),
    ("2. A holder that comes back too late", 3),
    ("3. A job runs once", 3),
    ("4. A cache that does not go stale", 3),
    ("5. Work by the clock, and cleaning up", 4),
    ("6. Money", 4),
    ("7. A saga that fails is rolled back", 3),
    ("8. A crash", 4),
    ("9. The books", 4),
    ("10. Knowing what happened", 2),
];

fn all_checks() -> usize {
    ACTS.iter().map(|(_, checks)| checks).sum()
}

/// The tour, with a directory for temporary files that is its own.
fn demo(folder: &TempDir) -> Command {
    let mut command = lockbay();
    command.arg("demo").env("TMPDIR", folder.path()).stdin(Stdio::null());
    command
}

fn run(command: &mut Command) -> Output {
    let clock = Clock::system();
    let began = clock.tick();
    let output = command.output().expect("the binary runs");
    println!("the tour took {:?}", clock.tick().since(began));
    output
}

/// The numbers of the processes that were told of.
fn processes(said: &str) -> Vec<i32> {
    let told = said.lines().filter_map(|line| line.split_once(", process "));
    told.map(|(_, number)| number.parse().unwrap()).collect()
}

fn is_a_server(process: i32) -> bool {
    let line = std::fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).contains("serve")
}

#[track_caller]
fn assert_nothing_left(folder: &Path, said: &str) {
    let left: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
    for process in processes(said) {
        assert!(!is_a_server(process), "process {process} still serves");
    }
}

#[test]
fn every_promise_holds_is_told_and_nothing_is_left_behind() {
    let folder = tempfile::tempdir().unwrap();
    // What is set here must not reach its servers.
    let output = run(demo(&folder).env("LOCKBAY_STORE", "nonsense").env("LOCKBAY_URL", "nonsense"));
    let said = String::from_utf8(output.stdout).unwrap();
    let talk = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}\n{talk}");
    assert_eq!(talk, "");
    assert!(!said.contains("FAILED") && !said.contains('\u{1b}'), "{said}");
    let at = |text: &str| said.find(text).unwrap_or_else(|| panic!("no {text:?} in\n{said}"));
    let mut begins: Vec<usize> = ACTS.iter().map(|(name, _)| at(&format!("\n{name}\n"))).collect();
    begins.push(at("\nWHAT WAS PROMISED"));
    for ((name, checks), act) in ACTS.iter().zip(begins.windows(2)) {
        let act = &said[act[0]..act[1]];
        assert_eq!(act.matches("   held: ").count(), *checks, "{name}: {act}");
    }
    let all = format!("all {} checks held, in ", all_checks());
    for text in [&*all, "lockbay serve", "lockbay saga list", "lockbay doctor"] {
        assert!(said[begins[ACTS.len()]..].contains(text), "{text}: {said}");
    }
    assert_eq!(processes(&said).len(), 3);
    assert_nothing_left(folder.path(), &said);
}

#[test]
fn a_program_is_told_the_checks_alone() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(demo(&folder).arg("--json"));
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
    let checks: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for (number, (_, expected)) in (1..).zip(ACTS) {
        let of_act = checks.iter().filter(|check| check["act"] == number);
        assert_eq!(of_act.count(), expected, "act {number}");
    }
    assert_eq!(checks.len(), all_checks());
    for check in &checks {
        assert!(check["held"] == true && check["check"].is_string() && check["seen"].is_string());
    }
    assert_nothing_left(folder.path(), "");
}

/// A tour that was begun, with what it has said so far.
struct Begun {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    said: String,
}

impl Begun {
    fn new(folder: &TempDir) -> Begun {
        let mut command = demo(folder);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Begun { child, lines, said: String::new() }
    }

    /// Reads on until a line has this in it.
    fn until(&mut self, text: &str) {
        loop {
            let line = self.lines.next().unwrap_or_else(|| panic!("no {text:?} in\n{}", self.said));
            self.said += &format!("{}\n", line.unwrap());
            if self.said.lines().next_back().is_some_and(|line| line.contains(text)) {
                return;
            }
        }
    }

    /// Waits for the end, and gives the exit code and what was said to people.
    fn end(mut self) -> (Option<i32>, String, String) {
        for line in self.lines.by_ref() {
            self.said += &format!("{}\n", line.unwrap());
        }
        let mut talk = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut talk).unwrap();
        (self.child.wait().unwrap().code(), self.said, talk)
    }
}

#[test]
fn whatever_interrupts_it_its_servers_and_files_are_gone() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let folder = tempfile::tempdir().unwrap();
        let mut begun = Begun::new(&folder);
        begun.until("3. A job runs once");
        kill_process(Pid::from_child(&begun.child), signal).unwrap();
        let (code, said, talk) = begun.end();
        assert_eq!(code, Some(1), "{signal:?}: {said}\n{talk}");
        assert!(talk.contains("interrupted"), "{talk}");
        assert_eq!(processes(&said).len(), 3);
        assert_nothing_left(folder.path(), &said);
    }
}

#[test]
fn a_server_that_dies_out_of_turn_fails_the_tour() {
    let folder = tempfile::tempdir().unwrap();
    let mut begun = Begun::new(&folder);
    begun.until("   c ");
    let victim = *processes(&begun.said).last().unwrap();
    kill_process(Pid::from_raw(victim).unwrap(), Signal::KILL).unwrap();
    let (code, said, talk) = begun.end();
    assert_eq!(code, Some(1), "{said}\n{talk}");
    assert!(said.contains("FAILED: the tour comes to its end (it stopped: server c "), "{said}");
    assert!(said.contains("report all of this output") && !said.contains("checks held"), "{said}");
    assert!(talk.contains("log of a:"), "{talk}");
    assert_nothing_left(folder.path(), &said);
}

#[test]
fn servers_do_not_outlive_a_tour_that_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let mut begun = Begun::new(&folder);
    begun.until("3. A job runs once");
    begun.child.kill().unwrap();
    let (_, said, _) = begun.end();
    eventually("its servers are gone", || {
        processes(&said).into_iter().all(|process| !is_a_server(process)).then_some(())
    });
}

#[test]
fn a_place_where_nothing_can_be_written_is_told_in_one_line() {
    let output = run(lockbay().arg("demo").env("TMPDIR", "/proc/nowhere"));
    assert_eq!(output.status.code(), Some(1));
    let talk = String::from_utf8(output.stderr).unwrap();
    assert!(talk.contains("/proc/nowhere") && talk.contains("TMPDIR"), "{talk}");
    assert_eq!(talk.lines().count(), 1, "{talk}");
}
