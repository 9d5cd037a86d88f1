//! What the tour says: acts, requests and answers in short, checks, and the sum of them at the end.
//!
//! It judges nothing. For programs it says the checks alone, as JSON.

use std::time::Duration;

use serde_json::json;

use crate::cli::output::{self, shown};

/// A promise, and what was seen of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Check {
    pub(super) promise: &'static str,
    pub(super) held: bool,
    pub(super) seen: String,
}

impl Check {
    pub(super) fn new(promise: &'static str, held: bool, seen: impl Into<String>) -> Self {
        Check { promise, held, seen: seen.into() }
    }
}

/// For whom it is told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Listener {
    Person,
    Program,
}

/// What an escape sequence of the terminal makes of text.
#[derive(Clone, Copy)]
enum Paint {
    Bold,
    Green,
    Red,
}

impl Paint {
    fn code(self) -> &'static str {
        match self {
            Paint::Bold => "1",
            Paint::Green => "32",
            Paint::Red => "1;31",
        }
    }
}

/// Tells the tour, and keeps what was checked.
pub(super) struct Tell {
    listener: Listener,
    coloured: bool,
    act: usize,
    checks: Vec<Check>,
}

impl Tell {
    pub(super) fn new(json: bool) -> Self {
        let listener = if json { Listener::Program } else { Listener::Person };
        Tell { listener, coloured: output::coloured(), act: 0, checks: Vec::new() }
    }

    /// Begins an act: its heading, what is about to happen, and why it matters.
    pub(super) fn heading(&mut self, heading: &str, about: &[&str]) {
        self.act += 1;
        self.say("");
        self.say(&self.paint(Paint::Bold, &format!("{}. {heading}", self.act)));
        for line in about {
            self.say(&format!("   {line}"));
        }
        self.say("");
    }

    /// A line for people.
    pub(super) fn say(&self, line: &str) {
        if self.listener == Listener::Person {
            output::data(line);
        }
    }

    /// What was asked of whom.
    pub(super) fn asked(&self, whom: &str, what: &str) {
        self.say(&format!("   {whom}: {}", shown(what)));
    }

    /// What came back.
    pub(super) fn answered(&self, status: u16, what: &str) {
        self.say(&format!("      -> {status} {}", shown(what)));
    }

    /// Whether a promise held.
    pub(super) fn check(&mut self, check: Check) {
        let seen = shown(&check.seen);
        match (self.listener, check.held) {
            (Listener::Program, held) => output::data(
                &json!({ "act": self.act, "check": check.promise, "held": held, "seen": check.seen })
                    .to_string(),
            ),
            (Listener::Person, true) => {
                let word = self.paint(Paint::Green, "held:");
                output::data(&format!("   {word} {} ({seen})", check.promise));
            }
            (Listener::Person, false) => {
                let word = self.paint(Paint::Red, "FAILED:");
                output::data(&format!("   {word} {} ({seen})", check.promise));
            }
        }
        self.checks.push(check);
    }

    /// Sums everything up, and gives whether all of it held.
    pub(super) fn ending(&self, took: Duration) -> bool {
        let held = all_held(&self.checks);
        if self.listener == Listener::Program {
            return held;
        }
        let row = |check: &Check| {
            let word = if check.held { "held" } else { "FAILED" };
            vec![check.promise.to_owned(), check.seen.clone(), word.to_owned()]
        };
        output::data("");
        output::table(
            &["WHAT WAS PROMISED", "WHAT WAS SEEN", ""],
            self.checks.iter().map(row).collect(),
        );
        output::data("");
        let (took, all) = (took.as_secs_f64(), self.checks.len());
        if held {
            let line = format!("all {all} checks held, in {took:.1} s");
            output::data(&self.paint(Paint::Bold, &line));
            output::data(NEXT);
            return true;
        }
        let failed = self.checks.iter().filter(|check| !check.held).count();
        let line = format!("{failed} of {all} checks FAILED, in {took:.1} s");
        output::data(&self.paint(Paint::Red, &line));
        output::data(
            "run it once more; if it fails again, report all of this output, what follows from the \
             logs of the servers, and what `uname -a` says",
        );
        false
    }

    fn paint(&self, paint: Paint, text: &str) -> String {
        if self.coloured { format!("\u{1b}[{}m{text}\u{1b}[0m", paint.code()) } else { text.into() }
    }
}

/// What to do next.
const NEXT: &str = "
next:
   lockbay serve        a server on 127.0.0.1:5000, its data in lockbay-data/
   lockbay saga list    what its sagas do; in another terminal
   lockbay doctor       whether this machine and its store keep what is promised";

/// Whether anything was checked, and all of it held.
fn all_held(checks: &[Check]) -> bool {
    !checks.is_empty() && checks.iter().all(|check| check.held)
}

/// An id, short enough to be read: its end, because the ids of one instance may begin alike.
pub(super) fn short(id: &str) -> String {
    const ENOUGH: usize = 8;
    let cut = id.chars().count().saturating_sub(ENOUGH);
    match id.char_indices().nth(cut) {
        Some((at, _)) if at > 0 => format!("…{}", &id[at..]),
        Some(_) | None => id.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failed_check_or_none_at_all_fails_the_whole() {
        let held = Check::new("a", true, "");
        let failed = Check::new("b", false, "");
        assert!(all_held(std::slice::from_ref(&held)));
        assert!(!all_held(&[held, failed]));
        assert!(!all_held(&[]));
    }

    #[test]
    fn ids_are_cut_and_names_are_not() {
        assert_eq!(short("0123456789"), "…23456789");
        assert_eq!(short("01234567"), "01234567");
        assert_eq!(short(""), "");
        assert_eq!(short("order"), "order");
    }
}
