//! Rules and dependencies as one book, and what a change of a key means by it. Pure.
//!
//! A rule says which keys are invalidated when a key of some name changes. A dependency says of
//! which keys another was made; when one of those changes or is invalidated, so is what was made of
//! it, through any number of steps. Nothing here reads or writes a record.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use super::record::{MAX_KEY_BYTES, check_key, head_key};
use crate::error::{Error, ErrorKind, Result};
use crate::glob::{Glob, MAX_FILLED_BYTES, fill};
use crate::name::check_name;
use crate::store::{Guard, Revision};

/// The most rules.
pub const MAX_RULES: usize = 1_000;
/// The most patterns that one rule invalidates.
pub const MAX_RULE_PATTERNS: usize = 32;
/// The most edges between keys and what they were made of.
pub const MAX_DEPENDENCIES: usize = 100_000;
/// The most keys that depend on one key, through any number of steps.
pub const MAX_DEPENDENTS: usize = 1_000;
/// The most keys that one key depends on, through any number of steps.
pub const MAX_SOURCES: usize = 1_000;

/// The most keys and patterns that follow by all rules from one key.
pub(super) const MAX_FOLLOWING: usize = 256;

/// What is invalidated when a key changes whose name matches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// The name of the rule.
    pub name: String,
    /// Which keys. `{id}` and the like stand for one part of the key, without `:` and `/`.
    pub update_pattern: String,
    /// What is invalidated then; parts of the key may be put in.
    pub invalidate_patterns: Vec<String>,
}

/// The rules that are there until somebody replaces or deletes them.
const DEFAULTS: [(&str, &str, &[&str]); 4] = [
    ("user", "user:{id}", &["user:{id}:*", "user_cache:{id}", "user_cache:{id}:*"]),
    ("balance", "balance:{user}", &["balance:{user}:*", "user_cache:{user}:balance"]),
    ("rate", "rate:{pair}", &["rate:{pair}:*", "rate_list:*"]),
    ("job", "job:{id}", &["job:{id}:*", "job_list:*"]),
];

/// The built-in rules.
pub(super) fn defaults() -> Vec<Rule> {
    let rule = |(name, update, invalidate): &(&str, &str, &[&str])| Rule {
        name: (*name).into(),
        update_pattern: (*update).into(),
        invalidate_patterns: invalidate.iter().map(|text| (*text).to_owned()).collect(),
    };
    DEFAULTS.iter().map(rule).collect()
}

/// A rule that was checked.
#[derive(Debug, Clone)]
pub(super) struct Checked {
    pub(super) rule: Rule,
    update: Glob,
}

impl Checked {
    /// Checks a rule.
    ///
    /// # Errors
    /// `Invalid` with the pattern that is wrong.
    pub(super) fn new(rule: Rule) -> Result<Self> {
        check_rule_name(&rule.name)?;
        let update = Glob::parse_with_parts(&rule.update_pattern)?;
        let count = rule.invalidate_patterns.len();
        if !(1..=MAX_RULE_PATTERNS).contains(&count) {
            return Err(Error::invalid(format!(
                "a rule invalidates 1 to {MAX_RULE_PATTERNS} patterns, {:?} has {count}",
                rule.name
            )));
        }
        for pattern in &rule.invalidate_patterns {
            let glob = Glob::parse_with_parts(pattern)?;
            if let Some(part) = glob.parts().iter().find(|part| !update.parts().contains(part)) {
                return Err(Error::invalid(format!(
                    "{{{part}}} in {pattern:?} is no part of the update pattern {:?}",
                    rule.update_pattern
                )));
            }
        }
        Ok(Checked { rule, update })
    }

    /// What it invalidates when this key changes.
    fn patterns<'a>(&'a self, key: &'a str) -> impl Iterator<Item = String> + 'a {
        let parts = self.update.find(key);
        parts.into_iter().flat_map(|parts| {
            self.rule.invalidate_patterns.iter().map(move |pattern| fill(pattern, &parts))
        })
    }
}

pub(super) fn check_rule_name(name: &str) -> Result<()> {
    check_name("rule name", name, 128)
}

/// What follows from a change: keys that go, and patterns whose keys go.
#[derive(Debug, Clone, Default)]
pub(super) struct Plan {
    pub(super) keys: BTreeSet<String>,
    pub(super) patterns: Vec<Glob>,
    /// Their texts, which is what is written down.
    pub(super) texts: Vec<String>,
}

/// All rules and dependencies, as they are at one revision of the head.
#[derive(Debug, Clone, Default)]
pub(super) struct Book {
    /// Nothing if none was ever changed.
    pub(super) head: Option<Revision>,
    rules: BTreeMap<String, Checked>,
    /// Of what a key was made.
    made_of: HashMap<String, Vec<String>>,
    /// What was made of a key.
    dependents: HashMap<String, BTreeSet<String>>,
    edges: usize,
}

impl Book {
    /// A book of built-in rules alone, changed by the rest.
    pub(super) fn new(head: Option<Revision>) -> Result<Self> {
        // Read once in a process: they are put into every book.
        static CHECKED: LazyLock<Result<Vec<Checked>>> =
            LazyLock::new(|| defaults().into_iter().map(Checked::new).collect());
        let mut book = Book { head, ..Book::default() };
        match &*CHECKED {
            Ok(rules) => rules.iter().for_each(|rule| book.put_rule(rule.clone())),
            Err(error) => return Err(Error::new(ErrorKind::Internal, error.to_string())),
        }
        Ok(book)
    }

    /// What every write is guarded by, so that it follows from this book and no older one.
    pub(super) fn guard(&self) -> Guard {
        match self.head {
            Some(revision) => Guard::RevisionIs(head_key(), revision),
            None => Guard::Absent(head_key()),
        }
    }

    pub(super) fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.rules.values().map(|checked| &checked.rule)
    }

    pub(super) fn rule(&self, name: &str) -> Option<&Rule> {
        self.rules.get(name).map(|checked| &checked.rule)
    }

    pub(super) fn put_rule(&mut self, rule: Checked) {
        self.rules.insert(rule.rule.name.clone(), rule);
    }

    pub(super) fn remove_rule(&mut self, name: &str) {
        self.rules.remove(name);
    }

    /// # Errors
    /// `Busy` if there are as many rules as may be.
    pub(super) fn check_room_for(&self, name: &str) -> Result<()> {
        if self.rules.len() >= MAX_RULES && !self.rules.contains_key(name) {
            let message = format!("there are {MAX_RULES} rules, as many as there may be");
            return Err(Error::new(ErrorKind::Busy, message));
        }
        Ok(())
    }

    pub(super) fn made_of(&self, key: &str) -> Option<&[String]> {
        self.made_of.get(key).map(Vec::as_slice)
    }

    /// Says of what a key was made; of nothing, if the list is empty.
    pub(super) fn set_made_of(&mut self, key: &str, sources: Vec<String>) {
        for source in self.made_of.remove(key).unwrap_or_default() {
            self.edges -= 1;
            if let Some(dependents) = self.dependents.get_mut(&source) {
                dependents.remove(key);
                if dependents.is_empty() {
                    self.dependents.remove(&source);
                }
            }
        }
        for source in &sources {
            self.edges += 1;
            self.dependents.entry(source.clone()).or_default().insert(key.to_owned());
        }
        if !sources.is_empty() {
            self.made_of.insert(key.to_owned(), sources);
        }
    }

    /// Checks a list of what a key is made of, and gives it each once and in order.
    ///
    /// # Errors
    /// `Invalid` if a limit is passed, with which.
    pub(super) fn check_made_of(&self, key: &str, sources: &[String]) -> Result<Vec<String>> {
        check_key(key)?;
        sources.iter().try_for_each(|source| check_key(source))?;
        let mut sources = sources.to_vec();
        sources.sort_unstable();
        sources.dedup();
        if sources.iter().any(|source| source == key) {
            return Err(Error::invalid(format!("a key does not depend on itself: {key:?}")));
        }
        if sources.is_empty() || sources.len() > MAX_SOURCES {
            let count = sources.len();
            return Err(Error::invalid(format!(
                "depends_on has 1 to {MAX_SOURCES} keys, this has {count}"
            )));
        }
        let edges = self.edges - self.made_of(key).map_or(0, <[String]>::len) + sources.len();
        if edges > MAX_DEPENDENCIES {
            let message = format!("there would be more than {MAX_DEPENDENCIES} dependencies");
            return Err(Error::new(ErrorKind::Busy, message));
        }
        self.check_reach(key, &sources)?;
        Ok(sources)
    }

    /// Whether everything above and below a key stays within the limits with these sources.
    fn check_reach(&self, key: &str, sources: &[String]) -> Result<()> {
        let up = |from: &str| self.made_of(from).unwrap_or_default().iter();
        let above = reach(sources.iter().map(String::as_str), MAX_SOURCES, up);
        let Some(above) = above else {
            return Err(Error::invalid(format!(
                "{key:?} would depend on more than {MAX_SOURCES} keys, through all steps"
            )));
        };
        let own = self.below([key]);
        let own = own.ok_or_else(|| too_many_below(key))?;
        for source in above {
            let below = self.below([source]).ok_or_else(|| too_many_below(source))?;
            let new = own.iter().chain([&key]).filter(|dependent| !below.contains(**dependent));
            if below.len() + new.count() > MAX_DEPENDENTS {
                return Err(too_many_below(source));
            }
        }
        Ok(())
    }

    /// What depends on these keys through any number of steps; nothing if that is too much.
    fn below<'a>(&'a self, keys: impl IntoIterator<Item = &'a str>) -> Option<HashSet<&'a str>> {
        let down = |from: &str| self.dependents.get(from).into_iter().flatten();
        let from: Vec<&str> = keys.into_iter().collect();
        let first = from.iter().flat_map(|key| down(key)).map(String::as_str);
        reach(first, MAX_DEPENDENTS, down)
    }

    /// These keys and all that depends on them. It ends on circles, too.
    pub(super) fn closure<'a>(&self, keys: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
        let mut found: BTreeSet<String> = BTreeSet::new();
        let mut open: Vec<String> = keys.into_iter().map(str::to_owned).collect();
        while let Some(key) = open.pop() {
            if let Some(dependents) = self.dependents.get(&key) {
                open.extend(dependents.iter().filter(|key| !found.contains(*key)).cloned());
            }
            found.insert(key);
        }
        found
    }

    /// These keys, each after those that it was made of; where they form a circle, in any order.
    pub(super) fn sources_first(&self, keys: &BTreeSet<String>) -> Vec<String> {
        enum Step<'a> {
            Enter(&'a String),
            Leave(&'a String),
        }
        let mut seen: HashSet<&String> = HashSet::new();
        let mut order = Vec::with_capacity(keys.len());
        let mut open: Vec<Step<'_>> = keys.iter().map(Step::Enter).collect();
        while let Some(step) = open.pop() {
            match step {
                Step::Enter(key) => {
                    if seen.insert(key) {
                        open.push(Step::Leave(key));
                        let sources = self.made_of(key).unwrap_or_default();
                        open.extend(
                            sources.iter().filter_map(|key| keys.get(key)).map(Step::Enter),
                        );
                    }
                }
                Step::Leave(key) => order.push(key.clone()),
            }
        }
        order
    }

    /// What depends on keys that a pattern means, whether they are there or not.
    pub(super) fn dependents_of_pattern(&self, pattern: &Glob) -> BTreeSet<String> {
        let meant = |key: &&String| pattern.matches(key);
        let sources: Vec<&String> = self.dependents.keys().filter(meant).collect();
        let direct = sources.iter().filter_map(|key| self.dependents.get(*key)).flatten();
        self.closure(direct.map(String::as_str))
    }

    /// What follows when this key gets another value: everything but the key itself.
    pub(super) fn plan(&self, updated: &str) -> Result<Plan> {
        let mut plan = Plan::default();
        let mut literal = Vec::new();
        let mut texts = HashSet::new();
        for text in self.rules.values().flat_map(|rule| rule.patterns(updated)) {
            if text.len() > MAX_FILLED_BYTES {
                continue; // no key is as long as what it says
            }
            if !texts.insert(text.clone()) {
                continue;
            }
            if texts.len() > MAX_FOLLOWING {
                return Err(Error::invalid(format!(
                    "more than {MAX_FOLLOWING} patterns of rules follow from {updated:?}; nothing \
                     was written, delete rules that mean it"
                )));
            }
            let glob = Glob::parse_filled(&text)?;
            match glob.only() {
                _ if glob.prefix().len() > MAX_KEY_BYTES => {}
                Some(key) => literal.push(key.to_owned()),
                None => {
                    plan.patterns.push(glob);
                    plan.texts.push(text);
                }
            }
        }
        let changed = literal.iter().map(String::as_str).chain([updated]);
        plan.keys = self.closure(changed);
        plan.keys.remove(updated);
        Ok(plan)
    }
}

fn too_many_below(key: &str) -> Error {
    Error::invalid(format!(
        "more than {MAX_DEPENDENTS} keys would depend on {key:?}, through all steps"
    ))
}

/// All that is reached from here, or nothing if it is more than `limit`.
fn reach<'a, I: Iterator<Item = &'a String>>(
    from: impl Iterator<Item = &'a str>,
    limit: usize,
    next: impl Fn(&str) -> I,
) -> Option<HashSet<&'a str>> {
    let mut found = HashSet::new();
    let mut open: Vec<&str> = from.collect();
    while let Some(key) = open.pop() {
        if found.insert(key) {
            if found.len() > limit {
                return None;
            }
            open.extend(next(key).map(String::as_str));
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn book() -> Book {
        Book::new(None).unwrap()
    }

    fn rule(update: &str, invalidate: &[&str]) -> Result<Checked> {
        Checked::new(Rule {
            name: "r".into(),
            update_pattern: update.into(),
            invalidate_patterns: invalidate.iter().map(|text| (*text).to_owned()).collect(),
        })
    }

    #[test]
    fn the_built_in_rules_put_the_parts_of_a_key_into_their_patterns() {
        let plan = book().plan("user:1*").unwrap();
        assert_eq!(plan.texts, [r"user:1\*:*", r"user_cache:1\*:*"]);
        assert!(plan.keys.contains("user_cache:1*"));
        assert!(book().plan("user:1:profile").unwrap().texts.is_empty());
        assert_eq!(book().plan("job:7").unwrap().texts, ["job:7:*", "job_list:*"]);
    }

    #[test]
    fn a_rule_that_names_no_part_or_a_wrong_pattern_is_refused() {
        for (update, invalidate, reason) in [
            ("a:{id}", &["b:{it}"][..], "no part of the update pattern"),
            ("a:[", &["b"], "without its ]"),
            ("a", &["["], "without its ]"),
            ("a", &[], "1 to 32"),
        ] {
            let error = rule(update, invalidate).unwrap_err();
            assert!(error.message().contains(reason), "{error}");
        }
    }

    #[test]
    fn a_circle_of_dependencies_ends_and_spares_the_key_that_was_set() {
        let mut book = book();
        book.set_made_of("a", vec!["b".into()]);
        book.set_made_of("b", vec!["c".into()]);
        book.set_made_of("c", vec!["a".into()]);
        let plan = book.plan("a").unwrap();
        assert_eq!(plan.keys.into_iter().collect::<Vec<_>>(), ["b", "c"]);
        book.set_made_of("c", vec![]);
        assert!(book.plan("a").unwrap().keys.is_empty());
        assert_eq!(book.edges, 2);
    }

    #[test]
    fn sources_stand_before_what_was_made_of_them_also_beside_a_circle() {
        let mut book = book();
        for (key, sources) in [("a", "b"), ("b", "z"), ("m", "a"), ("c", "d"), ("d", "c")] {
            book.set_made_of(key, vec![sources.into()]);
        }
        book.set_made_of("e", vec!["d".into(), "a".into()]);
        let keys: BTreeSet<String> = ["a", "b", "c", "d", "e", "m", "z"].map(Into::into).into();
        let order = book.sources_first(&keys);
        assert_eq!(order.iter().cloned().collect::<BTreeSet<_>>(), keys);
        assert_eq!(order.len(), keys.len());
        let place = |key: &str| order.iter().position(|other| other == key).unwrap();
        for (source, key) in [("z", "b"), ("b", "a"), ("a", "m"), ("d", "e"), ("a", "e")] {
            assert!(place(source) < place(key), "{source} before {key} in {order:?}");
        }
    }

    #[test]
    fn more_than_a_thousand_dependents_are_refused_through_all_steps() {
        let mut book = book();
        for n in 0..MAX_DEPENDENTS {
            let key = format!("d{n}");
            let sources = book.check_made_of(&key, &["top".into()]).unwrap();
            book.set_made_of(&key, sources);
        }
        assert!(book.check_made_of("one more", &["top".into()]).is_err());
        assert!(book.check_made_of("one more", &["d5".into()]).is_err());
        assert!(book.check_made_of("d5", &["top".into()]).is_ok(), "it is there already");
        assert!(book.check_made_of("x", &["x".into()]).is_err());
        assert!(book.check_made_of("top", &["above".into()]).is_err(), "1,001 below it");
    }
}
