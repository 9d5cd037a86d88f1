//! What the documents say can be typed, typed.
//!
//! Every block that is fenced as `sh` is run by bash, in its order, with a server where the document
//! says `localhost:5000`. A block fenced as `json` behind it is what the last answer must hold: `…`
//! stands for anything, and what is not mentioned may be there. A line `NAME=…` stands for a value
//! that a reader copies from an answer before. Blocks fenced as `sh not-run` are left out; what they
//! say is run by other tests. Blocks in Rust are compiled and run as tests of the library's
//! documentation, and blocks in TOML are settings.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use support::Server;

/// A fenced block.
struct Block {
    language: String,
    text: String,
    line: usize,
}

fn document(name: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    std::fs::read_to_string(root.join(name)).unwrap()
}

fn blocks(document: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (number, line) in document.lines().enumerate() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(language), None) => {
                let language = language.to_owned();
                open = Some(Block { language, text: String::new(), line: number + 1 });
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some(block)) => block.text.push_str(&format!("{line}\n")),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block is not closed");
    blocks
}

/// A reader of a document in front of a shell.
struct Reader {
    name: &'static str,
    server: Server,
    binary: PathBuf,
    home: tempfile::TempDir,
    /// What the answers so far had, by the names of their members in capital letters.
    seen: BTreeMap<String, String>,
    /// The last answer that was JSON.
    answer: Option<Value>,
    ran: usize,
}

impl Reader {
    fn of(name: &'static str) -> Reader {
        let home = tempfile::tempdir().unwrap();
        let binary = PathBuf::from(env!("CARGO_BIN_EXE_lockbay"));
        let server = Server::start(&["--store", "memory:"]);
        server.wait_until_leading();
        Reader { name, server, binary, home, seen: BTreeMap::new(), answer: None, ran: 0 }
    }

    fn read(&mut self) {
        for block in blocks(&document(self.name)) {
            let place = format!("{}:{}", self.name, block.line);
            match block.language.as_str() {
                "sh" => self.run(&block.text, &place),
                "json" => self.compare(&block.text, &place),
                "toml" => self.configure(&block.text, &place),
                "sh not-run" | "text" => {}
                // Run by the tests of the Python package.
                "python" => {}
                rust if rust.starts_with("rust") => {}
                other => panic!("{place}: what is a block of {other:?}?"),
            }
        }
        assert!(self.ran > 5, "{}: only {} blocks were run", self.name, self.ran);
    }

    fn run(&mut self, text: &str, place: &str) {
        let mut script = String::from("set -euo pipefail\n");
        for line in text.lines() {
            match line.strip_suffix("=…") {
                Some(name) => {
                    let value = self.seen.get(name);
                    let value = value.unwrap_or_else(|| panic!("{place}: no answer had {name}"));
                    script.push_str(&format!("{name}='{value}'\n"));
                }
                None => script.push_str(&format!("{line}\n")),
            }
        }
        let address = self.server.address().to_string();
        let script = script
            .replace("localhost:5000", &address)
            .replace("cargo run --release -- ", "lockbay ");
        let kept = self.seen.iter().filter(|(name, _)| text.contains(name.as_str()));
        let path = std::env::var("PATH").unwrap_or_default();
        let path = format!("{}:{path}", self.binary.parent().unwrap().display());
        let output = Command::new("bash")
            .args(["-c", &script])
            .current_dir(self.home.path())
            .env("PATH", path)
            .env("HOME", self.home.path())
            .env("LOCKBAY_URL", self.server.url())
            .envs(kept)
            .output()
            .unwrap();
        let stdout = String::from_utf8_lossy(&output.stdout);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{place}: {script}\n{stdout}\n{stderr}");
        self.ran += 1;
        // Answers come one behind the other, with no line between them.
        let body = stdout.find('{').map_or("", |start| &stdout[start..]);
        for answer in serde_json::Deserializer::from_str(body).into_iter::<Value>() {
            let Ok(answer) = answer else { break };
            self.note(&answer);
            self.answer = Some(answer);
        }
    }

    fn note(&mut self, answer: &Value) {
        match answer {
            Value::Object(members) => {
                for (name, value) in members {
                    if let Some(text) = value.as_str() {
                        self.seen.insert(name.to_uppercase(), text.to_owned());
                    }
                    self.note(value);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| self.note(item)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    fn compare(&self, text: &str, place: &str) {
        let wanted: Value =
            serde_json::from_str(text).unwrap_or_else(|error| panic!("{place}: {error}"));
        let Some(answer) = &self.answer else { panic!("{place}: nothing was answered before") };
        assert!(holds(answer, &wanted), "{place} says\n{wanted:#}\nand the answer was\n{answer:#}");
    }

    /// Settings are taken by the server as they stand in the document.
    fn configure(&self, text: &str, place: &str) {
        let file = self.home.path().join("lockbay.toml");
        std::fs::write(&file, text).unwrap();
        let config = lockbay::Config::load(Some(&file), &BTreeMap::new());
        if let Err(error) = config {
            panic!("{place}: {error}");
        }
    }
}

/// Whether an answer has what a document shows.
fn holds(answer: &Value, wanted: &Value) -> bool {
    match (answer, wanted) {
        (_, Value::String(any)) if any == "…" => true,
        (Value::Object(answer), Value::Object(wanted)) => wanted
            .iter()
            .all(|(name, wanted)| answer.get(name).is_some_and(|value| holds(value, wanted))),
        (Value::Array(answer), Value::Array(wanted)) => {
            answer.len() == wanted.len()
                && answer.iter().zip(wanted).all(|(value, wanted)| holds(value, wanted))
        }
        (answer, wanted) => answer == wanted,
    }
}

#[test]
fn what_the_readme_says_to_type_does_what_it_says() {
    Reader::of("README.md").read();
}

#[test]
fn what_the_guide_says_to_type_does_what_it_says() {
    Reader::of("docs/guide.md").read();
}

#[test]
fn what_the_page_about_jobs_says_to_type_does_what_it_says() {
    Reader::of("docs/jobs.md").read();
}

#[test]
fn a_document_that_says_something_else_is_found() {
    let wanted = serde_json::json!({"a": "…", "b": [1]});
    assert!(holds(&serde_json::json!({"a": 7, "b": [1], "c": null}), &wanted));
    for other in [r#"{"b":[1]}"#, r#"{"a":7,"b":[1,2]}"#, r#"{"a":7,"b":[2]}"#, "[]"] {
        assert!(!holds(&serde_json::from_str(other).unwrap(), &wanted), "{other}");
    }
}
