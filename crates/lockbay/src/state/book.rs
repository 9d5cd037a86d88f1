//! The rules and dependencies of the store, kept at hand, and changing them.
//!
//! The book at hand may be old at any time; that does no harm, because whatever is done by it is
//! guarded by the revision it is of. Whoever is refused by that guard forgets the book and reads it
//! anew.

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

use super::State;
use super::record::{DEPENDENCY, HOME, RULE, check_key, encode, head_key};
use super::rule::{Book, Checked, Rule, check_rule_name, defaults};
use super::write::MAX_RACES;
use crate::error::{Error, ErrorKind, Result};
use crate::scribe::{Entry, Scribe};
use crate::store::{
    Commit, Deadline, Guard, Key, Kind, MAX_PAGE, Range, Record, Reply, Revision, Write,
};

/// The book at hand.
#[derive(Default)]
pub(super) struct Library {
    book: RwLock<Option<Book>>,
    /// Held by the one who reads it from the store.
    reading: tokio::sync::Mutex<()>,
}

/// What the record of a rule holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RuleContent {
    Rule {
        update_pattern: String,
        invalidate_patterns: Vec<String>,
    },
    /// A built-in rule that was deleted.
    Deleted,
}

/// What the record of a dependency holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct DependencyContent {
    depends_on: Vec<String>,
}

/// One change of the book.
#[derive(Clone)]
enum Change {
    Rule(Checked),
    NoRule(String),
    MadeOf(String, Vec<String>),
}

impl State {
    /// All rules, by name.
    ///
    /// # Errors
    /// As the store has them.
    pub async fn rules(&self) -> Result<Vec<Rule>> {
        self.refresh_book().await?;
        self.with_book(|book| Ok(book.rules().cloned().collect())).await
    }

    /// The rule of this name, if there is one.
    ///
    /// # Errors
    /// As the store has them.
    pub async fn rule(&self, name: &str) -> Result<Option<Rule>> {
        check_rule_name(name)?;
        self.refresh_book().await?;
        self.with_book(|book| Ok(book.rule(name).cloned())).await
    }

    /// Adds a rule, or replaces the one of this name. Every change that is acknowledged afterwards,
    /// on any instance, follows it. Called twice, it changes nothing more.
    ///
    /// # Errors
    /// `Invalid` if a pattern is none; `Busy` if there are as many rules as may be.
    pub async fn put_rule(&self, rule: Rule) -> Result<()> {
        let checked = Checked::new(rule)?;
        self.amend(|book| {
            book.check_room_for(&checked.rule.name)?;
            Ok(Some(Change::Rule(checked.clone())))
        })
        .await
        .map(drop)
    }

    /// Deletes a rule; a built-in one stays deleted until it is put again. Says whether it was
    /// there.
    ///
    /// # Errors
    /// As the store has them.
    pub async fn delete_rule(&self, name: &str) -> Result<bool> {
        check_rule_name(name)?;
        self.amend(|book| Ok(book.rule(name).map(|_| Change::NoRule(name.to_owned())))).await
    }

    /// Of which keys this one was made, if somebody said so.
    ///
    /// # Errors
    /// As the store has them.
    pub async fn depends_on(&self, key: &str) -> Result<Option<Vec<String>>> {
        check_key(key)?;
        self.refresh_book().await?;
        self.with_book(|book| Ok(book.made_of(key).map(<[String]>::to_vec))).await
    }

    /// Says of which keys this one is made, in place of what was said before: when one of them is
    /// set, deleted or invalidated, this one is invalidated, and what depends on it too.
    ///
    /// Circles are allowed: whatever is on one is invalidated once, except the key that was set.
    ///
    /// # Errors
    /// `Invalid` if a key would depend on itself, or on more than 1,000 others, or more than 1,000
    /// on one; `Busy` if there are as many dependencies as may be.
    pub async fn set_depends_on(&self, key: &str, sources: &[String]) -> Result<()> {
        self.amend(|book| {
            let sources = book.check_made_of(key, sources)?;
            Ok(Some(Change::MadeOf(key.to_owned(), sources)))
        })
        .await
        .map(drop)
    }

    /// Forgets of which keys this one is made; says whether that was known.
    ///
    /// # Errors
    /// As the store has them.
    pub async fn forget_depends_on(&self, key: &str) -> Result<bool> {
        check_key(key)?;
        let forget = Change::MadeOf(key.to_owned(), Vec::new());
        self.amend(move |book| Ok(book.made_of(key).map(|_| forget.clone()))).await
    }

    /// Asks the book at hand, which is read from the store first if there is none.
    pub(super) async fn with_book<T>(&self, ask: impl Fn(&Book) -> Result<T>) -> Result<T> {
        for _ in 0..MAX_RACES {
            if let Some(book) = &*self.0.library.book.read() {
                return ask(book);
            }
            let _reading = self.0.library.reading.lock().await;
            if self.0.library.book.read().is_some() {
                continue; // somebody read it while we waited
            }
            let book = self.read_book().await?;
            *self.0.library.book.write() = Some(book);
        }
        Err(Error::new(ErrorKind::Busy, "the rules change faster than they can be read"))
    }

    /// The book of this guard turned out to be old.
    pub(super) fn forget_book(&self, head: &Guard) {
        let mut book = self.0.library.book.write();
        if book.as_ref().is_some_and(|book| book.guard() == *head) {
            *book = None;
        }
    }

    /// Makes sure that the book at hand is the one that is in force now.
    pub(super) async fn refresh_book(&self) -> Result<()> {
        let head = self.head().await?;
        let mut book = self.0.library.book.write();
        if book.as_ref().is_some_and(|book| book.head != head) {
            *book = None;
        }
        Ok(())
    }

    /// Changes the book: decides by what is at hand, and commits if that is what is in force.
    async fn amend(&self, decide: impl Fn(&Book) -> Result<Option<Change>>) -> Result<bool> {
        self.refresh_book().await?;
        for _ in 0..MAX_RACES {
            let (guard, change) = self.with_book(|book| Ok((book.guard(), decide(book)?))).await?;
            let Some(change) = change else { return Ok(false) };
            let head =
                Write::Put { key: head_key(), value: b"{}".to_vec(), deadline: Deadline::Never };
            let mut writes = vec![head, change.write()?];
            writes.extend(change.enter(&self.0.scribe));
            let commit = Commit::new(HOME, vec![guard.clone()], writes, Vec::new())?;
            let reply = self.commit_surely(&commit).await;
            match reply {
                Ok(Reply::Committed { revision, .. }) => {
                    let mut book = self.0.library.book.write();
                    // Another one may have been read meanwhile; it has the change already.
                    if let Some(book) = book.as_mut().filter(|book| book.guard() == guard) {
                        book.apply(change);
                        book.head = Some(revision);
                    }
                    return Ok(true);
                }
                Ok(Reply::Conflict { .. }) => self.forget_book(&guard),
                Err(error) => {
                    self.forget_book(&guard);
                    return Err(error);
                }
            }
        }
        Err(Error::new(ErrorKind::Busy, "the rules changed too often meanwhile; try again"))
    }

    /// Reads the whole book, as it was at one revision of its head.
    async fn read_book(&self) -> Result<Book> {
        for _ in 0..MAX_RACES {
            let before = self.head().await?;
            let mut book = Book::new(before)?;
            for record in self.all_of(RULE).await? {
                let name = record.key.id.to_string();
                match read(&record)? {
                    RuleContent::Rule { update_pattern, invalidate_patterns } => {
                        let rule = Rule { name, update_pattern, invalidate_patterns };
                        book.put_rule(Checked::new(rule)?);
                    }
                    RuleContent::Deleted => book.remove_rule(&name),
                }
            }
            for record in self.all_of(DEPENDENCY).await? {
                let content: DependencyContent = read(&record)?;
                book.set_made_of(&record.key.id, content.depends_on);
            }
            if self.head().await? == before {
                return Ok(book);
            }
        }
        Err(Error::new(ErrorKind::Busy, "the rules change faster than they can be read"))
    }

    async fn head(&self) -> Result<Option<Revision>> {
        let read = self.0.store.get(&[head_key()]).await?;
        Ok(read.records.into_iter().next().flatten().map(|record| record.revision))
    }

    /// All records of a kind of which there is a bounded number.
    async fn all_of(&self, kind: Kind) -> Result<Vec<Record>> {
        let mut records = Vec::new();
        loop {
            let after = records.last().map(|record: &Record| record.key.id.to_string());
            let range = Range::new(HOME, kind, "").after(after);
            let page = self.0.store.scan(&range, MAX_PAGE).await?;
            records.extend(page.records);
            if !page.more {
                return Ok(records);
            }
        }
    }
}

impl Change {
    fn write(&self) -> Result<Write> {
        let (key, content) = match self {
            Change::Rule(Checked { rule, .. }) => {
                let content = RuleContent::Rule {
                    update_pattern: rule.update_pattern.clone(),
                    invalidate_patterns: rule.invalidate_patterns.clone(),
                };
                (Key::new(HOME, RULE, rule.name.as_str()), encode(&content)?)
            }
            Change::NoRule(name) => {
                let key = Key::new(HOME, RULE, name.as_str());
                // One that is built in would be there again.
                if !defaults().iter().any(|rule| rule.name == *name) {
                    return Ok(Write::Delete { key });
                }
                (key, encode(&RuleContent::Deleted)?)
            }
            Change::MadeOf(key, sources) => {
                let record = Key::new(HOME, DEPENDENCY, key.as_str());
                if sources.is_empty() {
                    return Ok(Write::Delete { key: record });
                }
                (record, encode(&DependencyContent { depends_on: sources.clone() })?)
            }
        };
        Ok(Write::Put { key, value: content, deadline: Deadline::Never })
    }
}

impl Change {
    /// What is entered of it. The revision of the record before is not known: that of the whole book
    /// guards the change.
    fn enter(&self, scribe: &Scribe) -> Option<Write> {
        let entry = match self {
            Change::Rule(Checked { rule, .. }) => Entry::new("state-rule", &rule.name, "put")
                .with("update_pattern", rule.update_pattern.as_str())
                .with("invalidate_patterns", rule.invalidate_patterns.as_slice()),
            Change::NoRule(name) => Entry::new("state-rule", name, "deleted"),
            Change::MadeOf(key, sources) if sources.is_empty() => {
                Entry::new("state-dependency", key, "deleted")
            }
            Change::MadeOf(key, sources) => {
                Entry::new("state-dependency", key, "put").with("depends_on", sources.as_slice())
            }
        };
        scribe.enter(&entry)
    }
}

impl Book {
    fn apply(&mut self, change: Change) {
        match change {
            Change::Rule(rule) => self.put_rule(rule),
            Change::NoRule(name) => self.remove_rule(&name),
            Change::MadeOf(key, sources) => self.set_made_of(&key, sources),
        }
    }
}

fn read<'a, T: Deserialize<'a>>(record: &'a Record) -> Result<T> {
    serde_json::from_slice(&record.value).map_err(|error| {
        let message = format!("the record {} cannot be read", record.key);
        Error::new(ErrorKind::Internal, message).with_source(error)
    })
}
