//! A query: what is asked for, and whether a record is it.
//!
//! Pure. A query is terms between spaces, all of which must be found. A term matches a value that
//! has its words one after the other; the last word of the last term, and of every term that ends
//! with `*`, may be only the beginning of one. The index narrows down which records are looked at,
//! and this file decides.

use super::words::{is_indexed, words_of};
use crate::error::{Error, Result};

/// The longest query, in bytes, and the most words of one.
const MAX_QUERY_BYTES: usize = 512;
const MAX_WORDS: usize = 16;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Query {
    terms: Vec<Term>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Term {
    words: Vec<String>,
    /// Whether the last word may be only the beginning of one.
    open: bool,
}

/// What the index is asked for on behalf of a query.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wanted {
    /// This word.
    Word(String),
    /// Any word that begins so.
    Prefix(String),
}

impl Wanted {
    pub(crate) fn text(&self) -> &str {
        match self {
            Wanted::Word(text) | Wanted::Prefix(text) => text,
        }
    }

    /// Whether this word of the index is wanted.
    pub(crate) fn takes(&self, word: &str) -> bool {
        match self {
            Wanted::Word(wanted) => wanted == word,
            Wanted::Prefix(wanted) => word.starts_with(wanted.as_str()),
        }
    }
}

impl Query {
    /// Reads a query.
    ///
    /// # Errors
    /// `Invalid` for one without a word of two letters or digits, and for one that is too long.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        if text.len() > MAX_QUERY_BYTES {
            let length = text.len();
            return Err(Error::invalid(format!(
                "a query has at most {MAX_QUERY_BYTES} bytes, this has {length}"
            )));
        }
        let mut terms: Vec<Term> = text
            .split_whitespace()
            .map(|term| Term { words: words_of(term), open: term.ends_with('*') })
            .filter(|term| !term.words.is_empty())
            .collect();
        if let Some(last) = terms.last_mut() {
            last.open = true;
        }
        let words = terms.iter().map(|term| term.words.len()).sum::<usize>();
        if words > MAX_WORDS {
            return Err(Error::invalid(format!(
                "a query has at most {MAX_WORDS} words, this has {words}"
            )));
        }
        let query = Query { terms };
        if query.wanted().is_empty() {
            return Err(Error::invalid(format!(
                "a query has a word of at least two letters or digits, not {text:?}"
            )));
        }
        Ok(query)
    }

    /// One that everything matches.
    pub(crate) fn anything() -> Self {
        Query { terms: Vec::new() }
    }

    /// What the index is asked for, the longest first: that is most likely the rarest. Each record
    /// that matches has all of it.
    pub(crate) fn wanted(&self) -> Vec<Wanted> {
        let mut wanted = Vec::new();
        for term in &self.terms {
            let last = term.words.len().saturating_sub(1);
            for (at, word) in term.words.iter().enumerate().filter(|(_, word)| is_indexed(word)) {
                wanted.push(match term.open && at == last {
                    true => Wanted::Prefix(word.clone()),
                    false => Wanted::Word(word.clone()),
                });
            }
        }
        wanted.sort_by(|a, b| b.text().len().cmp(&a.text().len()).then_with(|| a.cmp(b)));
        wanted.dedup();
        wanted
    }

    /// Begins to hold a record against it.
    pub(crate) fn trial(&self) -> Trial<'_> {
        Trial { query: self, met: vec![false; self.terms.len()], matched: Vec::new() }
    }
}

/// A record held against a query, value by value.
pub(crate) struct Trial<'a> {
    query: &'a Query,
    met: Vec<bool>,
    /// Names of the values in which something was found, in the order of the record.
    matched: Vec<String>,
}

impl Trial<'_> {
    /// Looks at one more value.
    pub(crate) fn look(&mut self, name: &[&str], path: &[String], value: &str) {
        let words = words_of(value);
        let mut found = false;
        for (term, met) in self.query.terms.iter().zip(&mut self.met) {
            if term.is_in(&words) {
                *met = true;
                found = true;
            }
        }
        if found {
            let path = path.iter().map(String::as_str);
            let name = name.iter().copied().chain(path).collect::<Vec<_>>().join(".");
            if !self.matched.contains(&name) {
                self.matched.push(name);
            }
        }
    }

    /// Where it matches, if all terms were found.
    pub(crate) fn verdict(self) -> Option<Vec<String>> {
        self.met.iter().all(|met| *met).then_some(self.matched)
    }
}

impl Term {
    fn is_in(&self, words: &[String]) -> bool {
        let Some((last, before)) = self.words.split_last() else { return true };
        words.windows(self.words.len()).any(|window| {
            let Some((end, begin)) = window.split_last() else { return false };
            begin == before && if self.open { end.starts_with(last.as_str()) } else { end == last }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(query: &str, values: &[&str]) -> bool {
        let query = Query::parse(query).unwrap();
        let mut trial = query.trial();
        values.iter().for_each(|value| trial.look(&["value"], &[], value));
        trial.verdict().is_some()
    }

    #[test]
    fn all_terms_must_be_found_and_the_last_may_be_a_beginning() {
        let values = ["order_48213", "ann.lee@example.com", "refund failed: no funds"];
        for found in [
            "order",
            "ORDER_48213",
            "48213 ann",
            "ann.lee@example.com",
            "ann.lee@exam",
            "fund* ann",
            "failed no",
            "no fun",
            "lee ref",
        ] {
            assert!(matches(found, &values), "{found}");
        }
        for missed in ["fund ann", "ann@example.com", "orders", "48213 bob", "order_4821 ann"] {
            assert!(!matches(missed, &values), "{missed}");
        }
    }

    #[test]
    fn the_index_is_asked_for_words_that_it_has() {
        let wanted = |text: &str| Query::parse(text).map(|query| query.wanted());
        let (word, prefix) =
            (|text: &str| Wanted::Word(text.into()), |text: &str| Wanted::Prefix(text.into()));
        assert_eq!(wanted("a-48213 bob").unwrap(), [word("48213"), prefix("bob")]);
        assert_eq!(wanted("bob* x").unwrap(), [prefix("bob")]);
        assert_eq!(wanted("bob bob").unwrap(), [word("bob"), prefix("bob")]);
        for wrong in ["", "  ", "a", "- *", "x y", &"ab ".repeat(17), &"x".repeat(513)] {
            wanted(wrong).unwrap_err();
        }
    }
}
