//! The house rules that a compiler does not check: who may use whom, how long things get, and that
//! the documents say what the code has.
//!
//! The rules stand in tables at the top. A list of exceptions may only shrink: an entry that is no
//! longer needed fails too. The reading of source text is simple on purpose: comments and strings
//! are blanked, then braces are counted.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use lockbay::ErrorKind;
use lockbay::config::SETTINGS;
use lockbay::event::Event;
use lockbay::metrics::{TABLE, Type};

/// Which modules of the crate each room may use. A room is a file or a directory of `src`, its own
/// modules included; the longest name that fits a file counts.
const ROOMS: &[(&str, &[&str])] = &[
    ("error.rs", &[]),
    ("access.rs", &["error"]),
    ("clock.rs", &["error"]),
    ("json.rs", &["error"]),
    ("name.rs", &["error"]),
    ("hex.rs", &[]),
    ("mask.rs", &[]),
    ("glob.rs", &["error"]),
    ("config.rs", &["error", "name"]),
    ("config/", &["error"]),
    ("metrics", &[]),
    ("event.rs", &["clock"]),
    ("store/", &["clock", "error"]),
    ("keeper.rs", &["clock", "metrics", "store"]),
    ("retire.rs", &["clock", "error", "store"]),
    ("scribe.rs", &["error", "hex", "mask", "name", "store"]),
    ("approval.rs", &["clock", "error", "hex", "json", "name", "scribe", "store"]),
    ("leader.rs", &["clock", "error", "event", "keeper", "metrics", "scribe", "store"]),
    ("instance.rs", &["clock", "error", "store"]),
    ("lease.rs", &["clock", "error", "keeper", "metrics", "name", "scribe", "store"]),
    ("access/", &["clock", "error", "hex", "name", "retire", "scribe", "store"]),
    (
        "audit/",
        &["clock", "error", "event", "hex", "leader", "metrics", "retire", "scribe", "store"],
    ),
    (
        "job/",
        &[
            "clock", "config", "error", "event", "hex", "json", "keeper", "metrics", "name",
            "retire", "scribe", "store",
        ],
    ),
    (
        "saga/",
        &[
            "clock", "config", "error", "event", "hex", "json", "keeper", "metrics", "name",
            "retire", "scribe", "store",
        ],
    ),
    (
        "schedule/",
        &[
            "clock", "config", "error", "event", "job", "json", "keeper", "leader", "metrics",
            "name", "scribe", "store",
        ],
    ),
    (
        "sweep/",
        &["clock", "error", "glob", "leader", "metrics", "name", "retire", "scribe", "store"],
    ),
    (
        "search/",
        &[
            "clock", "error", "hex", "job", "json", "leader", "mask", "metrics", "saga", "scribe",
            "store",
        ],
    ),
    ("finance/", &["clock", "error", "json", "ledger", "name", "saga", "scribe", "store"]),
    ("ledger/", &["clock", "error", "json", "metrics", "name", "scribe", "store"]),
    ("state/", &["clock", "error", "glob", "json", "metrics", "name", "scribe", "store"]),
    (
        "monitor/",
        &[
            "access", "approval", "audit", "clock", "config", "error", "event", "glob", "hex",
            "job", "keeper", "leader", "lease", "metrics", "name", "retire", "saga", "schedule",
            "scribe", "store", "sweep",
        ],
    ),
    ("testing/", &["clock", "config", "error", "json", "lockbay", "saga", "store"]),
    ("lockbay.rs", EVERYTHING),
    ("lockbay/", EVERYTHING),
    ("lib.rs", EVERYTHING),
];

const EVERYTHING: &[&str] = &[
    "access", "approval", "audit", "clock", "config", "error", "event", "finance", "glob", "hex",
    "instance", "job", "json", "keeper", "leader", "lease", "ledger", "lockbay", "mask", "metrics",
    "monitor", "name", "retire", "saga", "schedule", "scribe", "search", "state", "store", "sweep",
    "testing",
];

/// What some file uses against the table, and why that is borne for now.
const BORNE: &[(&str, &str, &str)] = &[];

/// Modules that lib.rs shows under another name.
const SHOWN: &[(&str, &str)] = &[
    ("Config", "config"),
    ("Error", "error"),
    ("ErrorKind", "error"),
    ("Result", "error"),
    ("Json", "json"),
    ("Caller", "scribe"),
    ("LockBay", "lockbay"),
    ("Placement", "lockbay"),
];

/// The backends of the store. None knows another, nor what is stored.
const BACKENDS: &[(&str, &[&str])] = &[
    ("store/memory.rs", &["sqlite", "redis"]),
    ("store/sqlite/", &["memory", "redis"]),
    ("store/redis/", &["memory", "sqlite"]),
];

/// The crate of the Python package. It is outside of the library, so that the compiler keeps it to
/// what lib.rs shows.
const PYTHON: &str = "crates/lockbay-python/";

/// Words of the binding to Python, which live in its crate alone.
const PYTHON_WORDS: &[&str] = &["pyo3", "maturin"];

/// Words of HTTP, which live in the server alone.
const HTTP_WORDS: &[&str] = &["axum", "hyper", "reqwest", "tower_http", "StatusCode"];

/// The longest file in `src`, in lines, and those that are longer with the length they may have.
const FILE_LINES: usize = 620;
const LONG_FILES: &[(&str, usize)] = &[];

/// The longest function in `src`, in lines, and those that are longer.
const FUNCTION_LINES: usize = 70;
const LONG_FUNCTIONS: &[(&str, &str, usize)] = &[];

/// Files of `src` that are test kits: they fail by panicking and keep records of their own.
const TEST_KITS: &[&str] = &[
    "store/conformance.rs",
    "store/conformance/logs.rs",
    "store/faulty.rs",
    "outbound/receiver.rs",
    "outbound/corpus.rs",
];

#[test]
fn every_room_uses_only_what_stands_below_it() {
    let mut wrong = Vec::new();
    let mut borne = BTreeSet::new();
    for file in library() {
        let Some((_, allowed)) = room(&file.name) else {
            wrong.push(format!("{}: no room of this name in ROOMS; give it one", file.name));
            continue;
        };
        for module in uses(&file.code) {
            let own = file.name.split(['/', '.']).next() == Some(module.as_str());
            if own || allowed.contains(&module.as_str()) {
                continue;
            }
            match BORNE.iter().find(|(name, used, _)| *name == file.name && *used == module) {
                Some(exception) => drop(borne.insert(*exception)),
                None => wrong.push(format!("{} must not use crate::{module}", file.name)),
            }
        }
    }
    for exception in BORNE.iter().filter(|exception| !borne.contains(*exception)) {
        wrong.push(format!("{} no longer uses {}: strike it off BORNE", exception.0, exception.1));
    }
    assert_none(&wrong);
}

#[test]
fn no_backend_knows_another() {
    let mut wrong = Vec::new();
    for file in library() {
        for (name, others) in BACKENDS.iter().filter(|(name, _)| file.name.starts_with(name)) {
            for other in *others {
                for path in [format!("store::{other}"), format!("super::{other}")] {
                    if words_follow(&file.code, &path) {
                        wrong.push(format!("{}: {name} must not know {path}", file.name));
                    }
                }
            }
        }
    }
    assert_none(&wrong);
}

#[test]
fn http_words_live_in_the_server_alone() {
    assert_none(&speaking_of(HTTP_WORDS, &["crates/lockbay/", PYTHON]));
}

#[test]
fn words_of_the_binding_live_in_the_python_crate_alone() {
    assert_none(&speaking_of(PYTHON_WORDS, &["crates/lockbay/", "crates/lockbay-server/"]));
}

/// What of these crates, in code or manifest, speaks of these words.
fn speaking_of(words: &[&str], crates: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for of in crates {
        let manifest = format!("{of}Cargo.toml");
        let text = read(&root().join(&manifest));
        let code = sources().into_iter().filter(|file| file.path.starts_with(of));
        let texts = code.map(|file| (file.path, file.code)).chain([(manifest, text)]);
        for (path, text) in texts {
            let spoken = words.iter().filter(|word| has_word(&text, word));
            found.extend(spoken.map(|word| format!("{path} speaks of {word}")));
        }
    }
    found
}

#[test]
fn files_stay_short() {
    let mut wrong = Vec::new();
    for file in sources() {
        let lines = file.text.lines().count();
        let borne = LONG_FILES.iter().find(|(name, _)| *name == file.path);
        let limit = borne.map_or(FILE_LINES, |(_, limit)| *limit);
        if lines > limit {
            let path = &file.path;
            wrong.push(format!("{path} has {lines} lines, {limit} at most: split it by owner"));
        } else if borne.is_some() && lines < limit {
            let advice = if lines <= FILE_LINES { "strike it off" } else { "lower it in" };
            wrong.push(format!("{} has only {lines} lines now: {advice} LONG_FILES", file.path));
        }
    }
    for file in python_files() {
        let (path, lines) = (relative(&file), read(&file).lines().count());
        if lines > FILE_LINES {
            wrong
                .push(format!("{path} has {lines} lines, {FILE_LINES} at most: split it by owner"));
        }
    }
    for (name, _) in LONG_FILES.iter().filter(|(name, _)| !root().join(name).exists()) {
        wrong.push(format!("{name} is gone: strike it off LONG_FILES"));
    }
    assert_none(&wrong);
}

#[test]
fn functions_stay_short() {
    let mut wrong = Vec::new();
    let mut borne: BTreeSet<&(&str, &str, usize)> = BTreeSet::new();
    for file in sources() {
        for (name, lines) in functions(&file.code) {
            let exception =
                LONG_FUNCTIONS.iter().find(|(path, long, _)| *path == file.path && *long == name);
            borne.extend(exception);
            let limit = exception.map_or(FUNCTION_LINES, |(_, _, limit)| *limit);
            if lines > limit {
                let path = &file.path;
                wrong.push(format!(
                    "{path}: fn {name} has {lines} lines, {limit} at most: it has a second idea"
                ));
            } else if exception.is_some() && lines < limit {
                wrong.push(format!("{}: fn {name} has {lines} lines: lower it", file.path));
            }
        }
    }
    for file in python_files() {
        for (name, lines) in python_functions(&read(&file)) {
            if lines > FUNCTION_LINES {
                let path = relative(&file);
                wrong.push(format!(
                    "{path}: def {name} has {lines} lines, {FUNCTION_LINES} at most"
                ));
            }
        }
    }
    for exception in LONG_FUNCTIONS.iter().filter(|exception| !borne.contains(*exception)) {
        wrong.push(format!("{} in {} is gone: strike it off", exception.1, exception.0));
    }
    assert_none(&wrong);
}

#[test]
fn nothing_unwraps_or_is_unfinished_outside_tests() {
    let mut wrong = Vec::new();
    for file in sources() {
        if TEST_KITS.iter().any(|kit| file.path.ends_with(kit)) {
            continue;
        }
        for forbidden in [".unwrap()", "todo!", "unimplemented!"] {
            if let Some(at) = file.code.find(forbidden) {
                let line = file.code[..at].lines().count();
                wrong.push(format!("{}:{line} has {forbidden}", file.path));
            }
        }
    }
    assert_none(&wrong);
}

#[test]
fn every_kind_of_record_stands_in_the_store_document() {
    let mut kinds = BTreeSet::new();
    for file in library().iter().filter(|file| !TEST_KITS.contains(&file.name.as_str())) {
        // Strings are blank in the code, so the places are taken from there and the names from the
        // text.
        let made = ["Kind::new(\"", "Kind::index(\""];
        for (at, found) in made.iter().flat_map(|made| file.code.match_indices(made)) {
            let name = file.text[at + found.len()..].split('"').next().unwrap_or_default();
            kinds.insert(name.to_owned());
        }
    }
    assert_same("kinds of records", &kinds, "docs/store.md", "Kinds of records");
}

#[test]
fn every_kind_of_record_is_entered_or_says_why_not() {
    let kinds = table(&read(&root().join("docs/store.md")), "Kinds of records");
    let kinds: BTreeSet<String> = kinds.iter().filter_map(|row| first_name(row)).collect();
    assert_same("kinds of records", &kinds, "docs/audit-entries.md", "Coverage");
    let document = read(&root().join("docs/audit-entries.md"));
    let entries = table(&document, "Entries");
    let entities: BTreeSet<String> = entries.iter().filter_map(|row| first_name(row)).collect();
    let entities: BTreeSet<&str> =
        entities.iter().filter_map(|entity| entity.split('/').next()).collect();
    let mut wrong = Vec::new();
    let coverage = table(&document, "Coverage");
    for row in coverage.iter().filter(|row| first_name(row).is_some()) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [kind, entered, why] = cells[..] else { panic!("a row of three cells: {row}") };
        let told = quoted(entered);
        let known = told.iter().all(|entity| entities.contains(entity));
        let says_why = entered == "none" && told.is_empty() && why.split(' ').count() > 1;
        let is_entered = !told.is_empty() && known && !why.is_empty();
        if !says_why && !is_entered {
            wrong.push(format!("{kind} is entered as {entered:?}, because {why:?}"));
        }
    }
    assert_none(&wrong);
    // And what the code enters is what the table says.
    let mut entered = BTreeSet::new();
    for file in library() {
        let outside_tests = file.text.split("#[cfg(test)]").next().unwrap_or_default();
        let names = outside_tests.split("Entry::new(\"").skip(1);
        entered.extend(names.filter_map(|rest| rest.split('"').next()).map(str::to_owned));
    }
    let entities: BTreeSet<String> = entities.into_iter().map(str::to_owned).collect();
    assert_eq!(entered, entities, "entities that the code enters, and those of the table");
}

#[test]
fn every_metric_stands_in_the_operations_document() {
    let names = TABLE.iter().map(|row| match row.kind {
        Type::Counter => format!("{}_total", row.name),
        Type::Gauge | Type::Histogram => row.name.to_owned(),
    });
    assert_same("metrics", &names.collect(), "docs/operations.md", "Metrics");
}

#[test]
fn every_event_stands_in_the_operations_document() {
    let names = Event::NAMES.iter().map(|name| (*name).to_owned()).collect();
    assert_same("events", &names, "docs/operations.md", "Events");
}

/// Whoever is told of an alert finds what to do under the name of its rule.
#[test]
fn every_shipped_alert_rule_has_a_runbook_heading() {
    let document = read(&root().join("docs/operations.md"));
    let part = document.split("\n## ").find(|part| part.starts_with("Runbooks"));
    let part = part.unwrap_or_default();
    let headings: BTreeSet<&str> =
        part.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    let rules = lockbay::monitor::alert::builtin::rules();
    let names: BTreeSet<&str> = rules.iter().map(|rule| rule.name.as_str()).collect();
    assert!(names.len() > 20, "rules are shipped");
    assert_eq!(headings, names, "headings under Runbooks, and rules that are shipped");
}

#[test]
fn every_error_kind_stands_in_the_errors_document() {
    let names = ErrorKind::ALL.iter().map(|kind| kind.name().to_owned()).collect();
    assert_same("error kinds", &names, "docs/errors.md", "Kinds");
}

#[test]
fn every_setting_stands_in_the_operations_document() {
    let names = SETTINGS.iter().map(|setting| setting.name.to_owned()).collect();
    assert_same("settings", &names, "docs/operations.md", "Settings");
    let rows = table(&read(&root().join("docs/operations.md")), "Settings");
    let mut wrong = Vec::new();
    for setting in SETTINGS {
        let row = rows.iter().find(|row| first_name(row).as_deref() == Some(setting.name));
        let default = setting.help.rsplit("; ").next().unwrap_or_default();
        for part in [setting.env, default] {
            if row.is_some_and(|row| !row.contains(&format!("`{part}`"))) {
                wrong.push(format!("the row of {} does not say `{part}`", setting.name));
            }
        }
    }
    assert_none(&wrong);
}

/// A promise whose test was renamed or removed is no longer shown to hold.
#[test]
fn every_test_that_the_documents_name_exists() {
    let mut tests = String::new();
    for path in files().iter().filter(|path| has_extension(path, "rs") || has_extension(path, "py"))
    {
        tests.push_str(&read(path));
    }
    let mut wrong = Vec::new();
    for document in ["docs/semantics.md", "docs/reliability.md", "docs/performance.md"] {
        for name in quoted(&read(&root().join(document))) {
            let is_test = name.matches('_').count() >= 3
                && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
                && !name.starts_with("lockbay_");
            let is_there =
                ["fn", "def"].iter().any(|word| tests.contains(&format!("{word} {name}(")));
            if is_test && !is_there {
                wrong.push(format!("{document} names the test {name}, and there is none"));
            }
        }
    }
    assert_none(&wrong);
}

#[test]
fn markdown_has_one_sentence_per_line() {
    let mut wrong = Vec::new();
    for file in files().iter().filter(|path| has_extension(path, "md")) {
        for (at, line) in prose(&read(file)) {
            if has_two_sentences(&line) {
                wrong.push(format!("{}:{at} has a second sentence", relative(file)));
            }
        }
    }
    assert_none(&wrong);
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    let mut wrong = Vec::new();
    for file in files().iter().filter(|path| has_extension(path, "md")) {
        let text = read(file);
        for (at, _) in text.match_indices("](") {
            let target = text[at + 2..].split([')', '#', ' ']).next().unwrap_or_default();
            let outside = target.is_empty() || target.contains("://");
            let there = file.parent().is_some_and(|folder| folder.join(target).exists());
            if !outside && !there {
                wrong.push(format!("{} links to {target}, and there is none", relative(file)));
            }
        }
    }
    assert_none(&wrong);
}

/// The checks above are worth as much as the reading they rest on: each finds what is wrong here.
#[test]
fn the_readers_find_what_they_look_for() {
    let text = "use crate::{job::X, store};\n// crate::leader\nlet s = \"crate::event // {\";\n\
                fn long() {\n  let c = '}'; let l: &'a str = r#\"}\"#;\n\n}\n\
                #[cfg(test)]\nmod tests {\n fn t() { crate::lease::x().unwrap() }\n}\n\
                fn next() { crate::Error::new(); }\n";
    let code = code_of(text);
    assert_eq!(uses(&code), ["job", "store", "error"].map(String::from).into());
    assert_eq!(functions(&code), [("long".to_owned(), 4), ("next".to_owned(), 1)]);
    assert!(!code.contains(".unwrap()"), "tests are not looked at");
    assert_eq!(code.lines().count(), text.lines().count());
    assert!(words_follow("use crate::store::redis::X", "store::redis"));
    assert!(!words_follow("use crate::store::redistribute", "store::redis"));
    assert!(has_two_sentences("It is. And it was."));
    for fine in ["1. It is.", "See e.g. Redis.", "Version 3.5 is here.", "It is `a. B` here."] {
        assert!(!has_two_sentences(fine), "{fine}");
    }
    let python = "class A:\n    async def long(\n        self,\n    ) -> int:\n\n        return 1\n\n    \
                  def short(self): ...\n";
    assert_eq!(python_functions(python), [("long".to_owned(), 5), ("short".to_owned(), 1)]);
    let document =
        "# A\n\n## Kinds\n\n| name | x |\n|---|---|\n| `a` | y |\n\n## Next\n\n| `b` |\n";
    let names: Vec<_> = table(document, "Kinds").iter().filter_map(|row| first_name(row)).collect();
    assert_eq!(names, ["a"]);
}

/// A source file of a crate.
struct Source {
    /// From the root of the repository.
    path: String,
    /// From the `src` of its crate.
    name: String,
    text: String,
    /// The text without comments, strings and tests, line for line and byte for byte.
    code: String,
}

fn sources() -> Vec<Source> {
    let in_src = |path: &PathBuf| relative(path).split('/').nth(2) == Some("src");
    let files = files().into_iter().filter(|path| has_extension(path, "rs")).filter(in_src);
    let sources: Vec<Source> = files
        .map(|file| {
            let (path, text) = (relative(&file), read(&file));
            let name = path.split('/').skip(3).collect::<Vec<_>>().join("/");
            Source { code: code_of(&text), path, name, text }
        })
        .collect();
    assert!(sources.len() > 20, "the sources are looked for in the wrong place");
    sources
}

/// The sources of the library crate.
fn library() -> Vec<Source> {
    let mut sources = sources();
    sources.retain(|source| source.path.starts_with("crates/lockbay/"));
    sources
}

/// The Python files of the package and of its tests.
fn python_files() -> Vec<PathBuf> {
    let mut files = files();
    files.retain(|path| has_extension(path, "py") && relative(path).starts_with(PYTHON));
    assert!(files.len() > 10, "the Python files are looked for in the wrong place");
    files
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the root is there")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).to_string_lossy().into_owned()
}

fn has_extension(path: &Path, wanted: &str) -> bool {
    path.extension().is_some_and(|extension| extension == wanted)
}

/// All files of the repository, without what is built or left by running.
fn files() -> Vec<PathBuf> {
    const PASSED_OVER: &[&str] =
        &["target", ".git", "lockbay-data", "proptest-regressions", ".pytest_cache", ".mypy_cache"];
    let mut found = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).expect("a folder of the repository is readable");
        for entry in entries.map(|entry| entry.expect("an entry is readable")) {
            if PASSED_OVER.iter().any(|name| entry.file_name() == *name) {
                continue;
            }
            match entry.file_type().expect("an entry has a type").is_dir() {
                true => folders.push(entry.path()),
                false => found.push(entry.path()),
            }
        }
    }
    found.sort();
    found
}

/// Fails with all that is wrong, not with the first of it.
fn assert_none(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n  {}", wrong.join("\n  "));
}

/// The names in the code, and the first names of the rows of a table in a document, are the same.
fn assert_same(what: &str, code: &BTreeSet<String>, document: &str, heading: &str) {
    let rows = table(&read(&root().join(document)), heading);
    let told: BTreeSet<String> = rows.iter().filter_map(|row| first_name(row)).collect();
    let missing: Vec<_> = code.difference(&told).collect();
    let stale: Vec<_> = told.difference(code).collect();
    assert!(
        missing.is_empty() && stale.is_empty(),
        "{what} in {document} under {heading:?}: missing {missing:?}, not in the code {stale:?}"
    );
}

/// The rows of the tables below a heading, down to the next heading.
fn table(document: &str, heading: &str) -> Vec<String> {
    let mut inside = false;
    let mut rows = Vec::new();
    for line in document.lines() {
        if line.starts_with('#') {
            inside = line.trim_start_matches('#').trim() == heading;
        } else if inside && line.starts_with('|') {
            rows.push(line.to_owned());
        }
    }
    rows
}

/// The name in the first cell of a row, if it is one.
fn first_name(row: &str) -> Option<String> {
    let cell = row.split('|').nth(1)?.trim();
    Some(cell.strip_prefix('`')?.strip_suffix('`')?.to_owned())
}

/// All that stands in backquotes.
fn quoted(document: &str) -> Vec<&str> {
    document.lines().flat_map(|line| line.split('`').skip(1).step_by(2)).collect()
}

fn room(name: &str) -> Option<&'static (&'static str, &'static [&'static str])> {
    ROOMS.iter().filter(|(room, _)| name.starts_with(room)).max_by_key(|(room, _)| room.len())
}

/// The modules of the crate that the code names by `crate::`.
fn uses(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, prefix) in code.match_indices("crate::") {
        let rest = &code[at + prefix.len()..];
        match rest.strip_prefix('{') {
            Some(group) => found.extend(group_heads(group)),
            None => drop(found.insert(word_at(rest))),
        }
    }
    let module = |name: String| match SHOWN.iter().find(|(shown, _)| *shown == name) {
        Some((_, module)) => (*module).to_owned(),
        None => name,
    };
    found.into_iter().filter(|name| !name.is_empty()).map(module).collect()
}

/// The first words in a group of imports, whose opening brace is behind us.
fn group_heads(group: &str) -> Vec<String> {
    let (mut depth, mut heads, mut fresh) = (0usize, Vec::new(), true);
    for (at, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => fresh = true,
            letter if fresh && letter.is_alphanumeric() => {
                heads.push(word_at(&group[at..]));
                fresh = false;
            }
            _ => {}
        }
    }
    heads
}

fn is_of_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

fn word_at(text: &str) -> String {
    text.chars().take_while(|letter| is_of_word(*letter)).collect()
}

fn has_word(text: &str, word: &str) -> bool {
    text.split(|letter| !is_of_word(letter)).any(|found| found == word)
}

/// Whether a path stands in the code, ended by something that is not of its last word.
fn words_follow(code: &str, path: &str) -> bool {
    code.match_indices(path)
        .any(|(at, _)| !code[at + path.len()..].chars().next().is_some_and(is_of_word))
}

/// Every function with the number of its lines, from `fn` to the closing brace.
fn functions(code: &str) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    for (at, word) in code.match_indices("fn ") {
        let before = code[..at].chars().next_back();
        let name = word_at(&code[at + word.len()..]);
        if name.is_empty() || before.is_some_and(is_of_word) {
            continue;
        }
        if let Some(end) = end_of_item(&code[at..]) {
            found.push((name, code[at..at + end].lines().count()));
        }
    }
    found
}

/// Every function of a Python file with the number of its lines, from `def` to its last line. A
/// line that is not farther in than the `def` ends it, unless it closes the list of parameters.
fn python_functions(text: &str) -> Vec<(String, usize)> {
    let inside = |line: &str| line.len() - line.trim_start().len();
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let begin = line.trim_start().trim_start_matches("async ");
        let Some(name) = begin.strip_prefix("def ").map(word_at) else { continue };
        let goes_on = |other: &&str| {
            other.is_empty() || inside(other) > inside(line) || other.trim_start().starts_with(')')
        };
        let body = lines[at + 1..].iter().take_while(|other| goes_on(other)).copied();
        let body: Vec<&str> = body.collect();
        let empty = body.iter().rev().take_while(|line| line.is_empty()).count();
        found.push((name, 1 + body.len() - empty));
    }
    found
}

/// Where the braces of an item close; nothing if it ends without any.
fn end_of_item(code: &str) -> Option<usize> {
    let (mut braces, mut brackets) = (0usize, 0usize);
    for (at, letter) in code.char_indices() {
        match letter {
            '{' => braces += 1,
            '}' if braces == 1 => return Some(at + 1),
            '}' => braces = braces.checked_sub(1)?,
            '[' => brackets += 1,
            ']' => brackets = brackets.saturating_sub(1),
            ';' if braces == 0 && brackets == 0 => return None,
            _ => {}
        }
    }
    None
}

/// The text with comments, the insides of strings, and test modules blanked.
fn code_of(text: &str) -> String {
    let mut code = blank_text(text);
    const TESTS: &str = "#[cfg(test)]";
    let mut from = 0;
    while let Some(at) = code[from..].find(TESTS).map(|at| at + from) {
        let after = at + TESTS.len();
        let end = end_of_item(&code[after..]).map_or(after, |end| after + end);
        let blank: String = code[at..end].chars().map(blanked).collect();
        code.replace_range(at..end, &blank);
        from = end;
    }
    code
}

fn blanked(letter: char) -> char {
    if letter == '\n' { '\n' } else { ' ' }
}

/// Blanks comments and the insides of strings, byte for byte.
fn blank_text(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let raw = raw_quote(rest).filter(|_| at == 0 || !is_of_word(char::from(bytes[at - 1])));
        let (from, length) = if rest.starts_with(b"//") {
            (0, position(rest, b"\n").unwrap_or(rest.len()))
        } else if rest.starts_with(b"/*") {
            (0, position(rest, b"*/").map_or(rest.len(), |end| end + 2))
        } else if let Some(hashes) = raw {
            let mut close = vec![b'"'];
            close.resize(hashes + 1, b'#');
            let inside = hashes + 2;
            (inside, inside + position(&rest[inside..], &close).unwrap_or(0))
        } else if rest[0] == b'"' {
            (1, 1 + quoted_length(&rest[1..], b'"'))
        } else if rest[0] == b'\'' && is_letter_quote(rest) {
            (1, 1 + quoted_length(&rest[1..], b'\''))
        } else {
            at += 1;
            continue;
        };
        for byte in &mut code[at + from..at + length] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        // Behind the closing quote; a comment has none.
        at += length + usize::from(from > 0);
    }
    String::from_utf8(code).expect("whole characters were blanked")
}

/// The number of hashes, if a raw string begins here.
fn raw_quote(rest: &[u8]) -> Option<usize> {
    let after = rest.strip_prefix(b"r")?;
    let hashes = after.iter().take_while(|byte| **byte == b'#').count();
    (after.get(hashes) == Some(&b'"')).then_some(hashes)
}

/// Whether a quote begins a character and not a lifetime.
fn is_letter_quote(rest: &[u8]) -> bool {
    let end = rest.iter().skip(2).take(4).position(|byte| *byte == b'\'');
    let wide = rest.get(1).is_some_and(|byte| !byte.is_ascii());
    rest.get(1) == Some(&b'\\') || end == Some(0) || wide && end.is_some()
}

/// How far the closing quote is, escapes passed over.
fn quoted_length(inside: &[u8], quote: u8) -> usize {
    let mut at = 0;
    while at < inside.len() && inside[at] != quote {
        at += if inside[at] == b'\\' { 2 } else { 1 };
    }
    at.min(inside.len())
}

fn position(within: &[u8], wanted: &[u8]) -> Option<usize> {
    within.windows(wanted.len()).position(|window| window == wanted)
}

/// The lines of a document that are prose, with their numbers.
fn prose(document: &str) -> Vec<(usize, String)> {
    let mut in_code = false;
    let mut lines = Vec::new();
    for (at, line) in document.lines().enumerate() {
        let line = line.trim();
        if line.starts_with("```") {
            in_code = !in_code;
        } else if !in_code && !line.starts_with('|') && !line.starts_with('#') {
            lines.push((at + 1, line.to_owned()));
        }
    }
    lines
}

/// Whether a sentence ends inside a line and another begins.
fn has_two_sentences(line: &str) -> bool {
    const ABBREVIATIONS: &[&str] = &["e.g.", "i.e.", "vs.", "etc.", "no."];
    let spoken: String = line.split('`').step_by(2).collect::<Vec<_>>().join("x");
    let words: Vec<&str> = spoken.split_whitespace().collect();
    words.windows(2).any(|pair| {
        let ends = pair[0].ends_with(['.', '!', '?']) && !ABBREVIATIONS.contains(&pair[0]);
        let numbers = pair[0].trim_end_matches('.').chars().all(|c| c.is_ascii_digit());
        let begins = pair[1].trim_start_matches(['(', '"', '*', '[']).chars().next();
        ends && !numbers && begins.is_some_and(char::is_uppercase)
    })
}
