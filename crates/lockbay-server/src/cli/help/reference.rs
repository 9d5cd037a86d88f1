//! `docs/cli.md` says what `--help` says, every command has a page, every example can be typed, and
//! every command is typed by some test.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory};

use super::{PAGES, dressed};
use crate::cli::Cli;

/// Everything that can be typed, with the words that lead to it.
fn commands() -> Vec<(String, Command)> {
    let mut root = dressed(Cli::command()).term_width(100).disable_help_subcommand(true);
    root.build();
    let mut found = Vec::new();
    collect(&root, "", &mut found);
    found
}

fn collect(command: &Command, path: &str, found: &mut Vec<(String, Command)>) {
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
        if inner.get_name() == "help" {
            continue;
        }
        let path = format!("{path} {}", inner.get_name()).trim_start().to_owned();
        found.push((path.clone(), inner.clone()));
        collect(inner, &path, found);
    }
}

/// Whether it does something by itself.
fn acts(command: &Command) -> bool {
    !command.is_subcommand_required_set()
}

/// A line as a shell divides it, as far as examples go.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            ('\'' | '"', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (' ', None) => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    assert_eq!(quote, None, "a quote is open in {line}");
    words.extend(word);
    words
}

#[test]
fn every_command_has_a_page_and_every_page_a_command() {
    let commands = commands();
    for (path, command) in &commands {
        let page = PAGES.iter().find(|page| page.path == path);
        assert!(page.is_some() || !acts(command), "give `lockbay {path}` a page in help/pages.rs");
    }
    for page in PAGES {
        let known = commands.iter().any(|(path, _)| path == page.path);
        assert!(known, "there is no command `lockbay {}`: strike its page off", page.path);
        assert!(!page.examples.is_empty(), "`lockbay {}` has no example", page.path);
    }
}

#[test]
fn every_example_can_be_typed() {
    for page in PAGES {
        for (line, _) in page.examples {
            let words = words(line);
            let parsed = dressed(Cli::command()).try_get_matches_from(&words);
            assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
            let path: Vec<&str> = page.path.split(' ').collect();
            assert_eq!(words.get(1..=path.len()).unwrap_or_default(), path, "{line}");
        }
    }
}

#[test]
fn every_command_is_typed_by_a_test() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut typed = String::new();
    for entry in fs::read_dir(tests).expect("the sources are readable") {
        let path = entry.expect("the sources are readable").path();
        if path.extension().is_some_and(|end| end == "rs") {
            typed.push_str(&fs::read_to_string(path).expect("the sources are readable"));
        }
    }
    let typed: String = typed.split_whitespace().collect();
    let missing: Vec<String> = commands()
        .into_iter()
        .filter(|(_, command)| acts(command))
        .map(|(path, _)| path)
        .filter(|path| {
            let words: Vec<String> = path.split(' ').map(|word| format!("\"{word}\"")).collect();
            let list = words.join(",");
            let alone = words.len() == 1 && typed.contains(&format!("arg({list})"));
            !alone && !typed.contains(&format!("[{list}")) && !typed.contains(&format!("({list}"))
        })
        .collect();
    assert!(missing.is_empty(), "no test types {missing:?}");
}

#[test]
fn the_reference_says_what_the_help_says() {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/cli.md");
    let wanted = reference();
    if std::env::var_os("LOCKBAY_BLESS").is_some() {
        fs::write(&file, &wanted).expect("the document is writable");
    }
    let found = fs::read_to_string(&file).unwrap_or_default();
    assert!(found == wanted, "docs/cli.md is not what --help says: run with LOCKBAY_BLESS=1");
}

fn reference() -> String {
    let mut text = String::from(
        "# The command line\n\n\
         This is what `--help` says, written by a test: change the code, then run it with \
         `LOCKBAY_BLESS=1`.\n\
         What every command takes is said once, at the beginning.\n\n",
    );
    let mut root = dressed(Cli::command()).term_width(100);
    text.push_str(&format!("## lockbay\n\n{}", fenced(&root.render_long_help().to_string())));
    for (path, mut command) in commands() {
        let help = command.render_long_help().to_string();
        text.push_str(&format!("\n## lockbay {path}\n\n{}", fenced(&without_shared(&help))));
    }
    text
}

fn fenced(help: &str) -> String {
    let lines: Vec<&str> = help.trim().lines().map(str::trim_end).collect();
    format!("```text\n{}\n```\n", lines.join("\n"))
}

/// A help without what every command takes, which ends at the next line that is not indented.
fn without_shared(help: &str) -> String {
    let mut kept = Vec::new();
    let mut inside = false;
    for line in help.lines() {
        if line == "Every command:" {
            inside = true;
        } else if inside && !line.is_empty() && !line.starts_with(' ') {
            inside = false;
        }
        if !inside {
            kept.push(line);
        }
    }
    kept.join("\n")
}
