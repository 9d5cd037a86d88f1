//! Globs: which keys are meant, in time that grows with the length of the key alone.
//!
//! `*` is any run of characters, `?` is one, `[a-c]` one of these and `[!a-c]` none of them,
//! `{a,b}` either of these, and a backslash takes the next character as it is. Where it is allowed,
//! `{name}` stands for one part of a key, without `:` and `/`, and can be put into other globs. A
//! glob becomes a regular expression of an engine that never goes back, so no pattern is
//! catastrophic. Nothing here knows what the keys are.

use std::fmt::Write as _;

use regex::{Regex, RegexBuilder};

use crate::error::{Error, ErrorKind, Result};

/// The longest glob that a caller may give, in bytes.
pub(crate) const MAX_GLOB_BYTES: usize = 512;
/// The longest glob that comes of putting parts of a key into another.
pub(crate) const MAX_FILLED_BYTES: usize = 8 * 1_024;
/// The most alternatives of all braces of one glob.
const MAX_ALTERNATIVES: usize = 64;
/// The most memory that one compiled glob may take, in bytes.
const MAX_COMPILED_BYTES: usize = 4 * 1024 * 1024;
/// The longest name of a part, in bytes.
const MAX_NAME_BYTES: usize = 32;

/// A glob, checked and ready to match.
#[derive(Debug, Clone)]
pub(crate) struct Glob {
    prefix: String,
    rest: Rest,
    parts: Vec<String>,
}

/// What may follow the prefix.
#[derive(Debug, Clone)]
enum Rest {
    Nothing,
    /// Anything, as in most globs: this needs no expression.
    Anything,
    /// What this expression takes, which begins with the prefix.
    Regex(Regex),
}

/// The named parts of a key, as a glob found them.
pub(crate) type Parts<'a> = Vec<(&'a str, &'a str)>;

#[derive(Debug)]
enum Token {
    Literal(char),
    Run,
    One,
    Class { negated: bool, ranges: Vec<(char, char)> },
    Either(Vec<Vec<Token>>),
    Part(String),
}

impl Glob {
    /// Reads a glob without named parts.
    ///
    /// # Errors
    /// `Invalid` with what is wrong where.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let glob = Self::parse_with_parts(text)?;
        match glob.parts.first() {
            None => Ok(glob),
            Some(part) => Err(wrong(
                text,
                &format!(
                    "{{{part}}} names a part of a key, which means something in rules only; \
                 alternatives are written {{a,b}}"
                ),
            )),
        }
    }

    /// Reads a glob that may have named parts.
    ///
    /// # Errors
    /// `Invalid` with what is wrong where.
    pub(crate) fn parse_with_parts(text: &str) -> Result<Self> {
        check_length(text, MAX_GLOB_BYTES)?;
        Self::compile(text)
    }

    /// Reads what [`fill`] made of a glob that was checked.
    ///
    /// # Errors
    /// `Invalid` if it is too long by now.
    pub(crate) fn parse_filled(text: &str) -> Result<Self> {
        check_length(text, MAX_FILLED_BYTES)?;
        Self::compile(text)
    }

    fn compile(text: &str) -> Result<Self> {
        let tokens = Reader { text, rest: text, alternatives: 0 }.tokens(false)?;
        let mut parts = Vec::new();
        for token in &tokens {
            if let Token::Part(name) = token {
                if parts.contains(name) {
                    return Err(wrong(text, &format!("{{{name}}} comes twice")));
                }
                parts.push(name.clone());
            }
        }
        let literal = |token: &Token| match token {
            Token::Literal(letter) => Some(*letter),
            Token::Run | Token::One | Token::Class { .. } | Token::Either(_) | Token::Part(_) => {
                None
            }
        };
        let prefix: String = tokens.iter().map_while(literal).collect();
        let rest = match &tokens[prefix.chars().count()..] {
            [] => Rest::Nothing,
            [Token::Run] => Rest::Anything,
            _ => Rest::Regex(regex_of(text, &tokens)?),
        };
        Ok(Glob { prefix, rest, parts })
    }

    /// How every key that matches begins.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The key, if only one can match.
    pub(crate) fn only(&self) -> Option<&str> {
        matches!(self.rest, Rest::Nothing).then_some(&self.prefix)
    }

    /// The names of its parts.
    pub(crate) fn parts(&self) -> &[String] {
        &self.parts
    }

    /// Whether this key is meant.
    pub(crate) fn matches(&self, key: &str) -> bool {
        key.starts_with(&self.prefix)
            && match &self.rest {
                Rest::Nothing => key.len() == self.prefix.len(),
                Rest::Anything => true,
                Rest::Regex(regex) => regex.is_match(key),
            }
    }

    /// The named parts of this key, if it is meant.
    pub(crate) fn find<'a>(&'a self, key: &'a str) -> Option<Parts<'a>> {
        if self.parts.is_empty() {
            return self.matches(key).then(Vec::new);
        }
        let Rest::Regex(regex) = &self.rest else { return None };
        if !key.starts_with(&self.prefix) {
            return None;
        }
        let found = regex.captures(key)?;
        let part = |name: &'a String| Some((name.as_str(), found.name(name)?.as_str()));
        self.parts.iter().map(part).collect()
    }
}

/// Puts parts of a key into a glob that names them, each as it is. A name that is not among them
/// stays.
pub(crate) fn fill(glob: &str, parts: &Parts<'_>) -> String {
    let mut filled = String::with_capacity(glob.len());
    let mut rest = glob;
    while let Some(letter) = rest.chars().next() {
        let length = match letter {
            '\\' => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
            '[' => class_length(rest),
            _ => letter.len_utf8(),
        };
        let name = rest.strip_prefix('{').and_then(|inside| inside.split_once('}'));
        let part = name.and_then(|(name, _)| parts.iter().find(|(part, _)| *part == name));
        if let Some((name, value)) = part {
            filled.push_str(&escape(value));
            rest = &rest[name.len() + 2..];
        } else {
            filled.push_str(&rest[..length]);
            rest = &rest[length..];
        }
    }
    filled
}

/// A glob that means this text alone.
pub(crate) fn escape(text: &str) -> String {
    let mut glob = String::with_capacity(text.len());
    for letter in text.chars() {
        if matches!(letter, '*' | '?' | '[' | ']' | '{' | '}' | ',' | '\\') {
            glob.push('\\');
        }
        glob.push(letter);
    }
    glob
}

/// The length of a class from its opening bracket on, as the reader takes it.
fn class_length(text: &str) -> usize {
    let mut escaped = false;
    for (at, letter) in text.char_indices() {
        match letter {
            ']' if !escaped => return at + 1,
            '\\' if !escaped => escaped = true,
            _ => escaped = false,
        }
    }
    text.len()
}

fn check_length(text: &str, longest: usize) -> Result<()> {
    if text.is_empty() || text.len() > longest {
        let length = text.len();
        return Err(Error::invalid(format!(
            "a pattern has 1 to {longest} bytes, this has {length}"
        )));
    }
    if text.chars().any(char::is_control) {
        return Err(Error::invalid(format!("a pattern has no control characters: {text:?}")));
    }
    Ok(())
}

fn wrong(text: &str, reason: &str) -> Error {
    Error::invalid(format!("not a pattern: {reason}: {text:?}"))
}

struct Reader<'a> {
    text: &'a str,
    rest: &'a str,
    alternatives: usize,
}

impl Reader<'_> {
    /// Reads to the end, or inside braces to the comma or the brace that ends an alternative.
    fn tokens(&mut self, inside: bool) -> Result<Vec<Token>> {
        let mut tokens: Vec<Token> = Vec::new();
        while let Some(letter) = self.rest.chars().next() {
            if inside && matches!(letter, ',' | '}') {
                break;
            }
            self.rest = &self.rest[letter.len_utf8()..];
            tokens.push(match letter {
                '*' if matches!(tokens.last(), Some(Token::Run)) => continue,
                '*' => Token::Run,
                '?' => Token::One,
                '[' => self.class()?,
                '{' if inside => return Err(wrong(self.text, "braces inside of braces")),
                '{' => self.braces()?,
                '}' => return Err(wrong(self.text, "a } without its {")),
                '\\' => Token::Literal(self.escaped()?),
                other => Token::Literal(other),
            });
        }
        Ok(tokens)
    }

    fn escaped(&mut self) -> Result<char> {
        let mut letters = self.rest.chars();
        let letter = letters.next().ok_or_else(|| wrong(self.text, "a backslash at its end"))?;
        self.rest = letters.as_str();
        Ok(letter)
    }

    fn braces(&mut self) -> Result<Token> {
        if let Some((name, rest)) = self.rest.split_once('}')
            && is_name(name)
        {
            self.rest = rest;
            return Ok(Token::Part(name.to_owned()));
        }
        let mut either = Vec::new();
        loop {
            either.push(self.tokens(true)?);
            self.alternatives += 1;
            if self.alternatives > MAX_ALTERNATIVES {
                let reason = format!("more than {MAX_ALTERNATIVES} alternatives");
                return Err(wrong(self.text, &reason));
            }
            let mut letters = self.rest.chars();
            let end = letters.next();
            self.rest = letters.as_str();
            match end {
                Some(',') => {}
                Some('}') if either.len() > 1 => return Ok(Token::Either(either)),
                Some(_) => {
                    return Err(wrong(self.text, "{ } holds a name, or alternatives like {a,b}"));
                }
                None => return Err(wrong(self.text, "a { without its }")),
            }
        }
    }

    fn class(&mut self) -> Result<Token> {
        let mut negated = false;
        if let Some(rest) = self.rest.strip_prefix(['!', '^']) {
            negated = true;
            self.rest = rest;
        }
        let mut ranges = Vec::new();
        loop {
            let first = self.letter_of_class()?;
            let Some(first) = first else {
                if ranges.is_empty() {
                    return Err(wrong(self.text, "[ ] without a character"));
                }
                return Ok(Token::Class { negated, ranges });
            };
            let mut last = first;
            let is_range = self.rest.starts_with('-') && !self.rest.starts_with("-]");
            if is_range {
                self.rest = &self.rest[1..];
                last = self.letter_of_class()?.unwrap_or(first);
            }
            if first > last {
                let reason = format!("a range from {first:?} back to {last:?}");
                return Err(wrong(self.text, &reason));
            }
            ranges.push((first, last));
        }
    }

    /// The next character of a class, or nothing at its end.
    fn letter_of_class(&mut self) -> Result<Option<char>> {
        let mut letters = self.rest.chars();
        let letter = letters.next().ok_or_else(|| wrong(self.text, "a [ without its ]"))?;
        self.rest = letters.as_str();
        match letter {
            ']' => Ok(None),
            '\\' => self.escaped().map(Some),
            other => Ok(Some(other)),
        }
    }
}

fn is_name(text: &str) -> bool {
    let letter = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    text.len() <= MAX_NAME_BYTES
        && text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && text.chars().all(letter)
}

fn regex_of(text: &str, tokens: &[Token]) -> Result<Regex> {
    let mut source = String::from(r"\A");
    write_all(&mut source, tokens);
    source.push_str(r"\z");
    let mut builder = RegexBuilder::new(&source);
    builder.dot_matches_new_line(true).size_limit(MAX_COMPILED_BYTES);
    // What is read above is always a valid expression, so only its size can be in the way.
    builder.dfa_size_limit(MAX_COMPILED_BYTES).build().map_err(|error| {
        if matches!(error, regex::Error::CompiledTooBig(_)) {
            return wrong(text, "too much of it");
        }
        let message = format!("the pattern {text:?} was misread");
        Error::new(ErrorKind::Internal, message).with_source(error)
    })
}

fn write_all(source: &mut String, tokens: &[Token]) {
    for token in tokens {
        match token {
            Token::Literal(letter) => write_letter(source, *letter),
            Token::Run => source.push_str(".*"),
            Token::One => source.push('.'),
            Token::Class { negated, ranges } => {
                source.push_str(if *negated { "[^" } else { "[" });
                for (first, last) in ranges {
                    write_letter(source, *first);
                    source.push('-');
                    write_letter(source, *last);
                }
                source.push(']');
            }
            Token::Either(either) => {
                for (at, alternative) in either.iter().enumerate() {
                    source.push_str(if at == 0 { "(?:" } else { "|" });
                    write_all(source, alternative);
                }
                source.push(')');
            }
            Token::Part(name) => {
                source.push_str("(?P<");
                source.push_str(name);
                source.push_str(">[^:/]+)");
            }
        }
    }
}

fn write_letter(source: &mut String, letter: char) {
    // Writing to a String cannot fail.
    let _ = write!(source, "\\x{{{:x}}}", u32::from(letter));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use proptest::prelude::*;
    use std::time::Duration;

    fn matches(glob: &str, key: &str) -> bool {
        Glob::parse(glob).unwrap().matches(key)
    }

    #[test]
    fn a_glob_means_what_its_signs_say() {
        for (glob, yes, no) in [
            ("user:*", &["user:", "user:1", "user:1:a/b"][..], &["user", "auser:1"][..]),
            ("a?c", &["abc", "aéc", "a:c"], &["ac", "abbc"]),
            ("[a-cx]1", &["a1", "c1", "x1"], &["d1", "1", "aa1"]),
            ("[!a-c]1", &["d1", "é1"], &["a1", "1"]),
            ("[]a]", &[], &[]),
            ("{user,balance}:1", &["user:1", "balance:1"], &["user,balance:1", "rate:1"]),
            ("{a*,b?}z", &["az", "abcz", "bcz"], &["bz", "z"]),
            (r"\*\[\{\\", &[r"*[{\"], &["a[{"]),
            ("a.c+", &["a.c+"], &["abc+", "a.cc"]),
            ("plain", &["plain"], &["plainer", "plai"]),
            ("[a-]", &["a", "-"], &["b"]),
            (r"[\]x]", &["]", "x"], &["\\"]),
        ] {
            let Ok(glob) = Glob::parse(glob) else {
                assert!(yes.is_empty(), "{glob} is one");
                continue;
            };
            for key in yes {
                assert!(glob.matches(key), "{glob:?} {key}");
            }
            for key in no {
                assert!(!glob.matches(key), "{glob:?} {key}");
            }
        }
    }

    #[test]
    fn what_is_no_glob_is_refused_with_the_reason() {
        let many = format!("{{{}}}", vec!["a"; 65].join(","));
        let long = "a".repeat(513);
        for (glob, reason) in [
            ("", "1 to 512 bytes"),
            (&long, "1 to 512 bytes"),
            ("a\nb", "control characters"),
            ("[", "[ without"),
            ("[a", "[ without"),
            ("[]", "without a character"),
            ("[z-a]", "range from 'z' back to 'a'"),
            ("{a,b", "{ without"),
            ("{a,{b,c}}", "inside of braces"),
            ("a}", "} without"),
            ("{a-b}", "holds a name"),
            ("{}", "holds a name"),
            ("a\\", "backslash"),
            (&many, "more than 64"),
            ("user:{id}", "in rules only"),
        ] {
            let error = Glob::parse(glob).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{glob}");
            assert!(error.message().contains(reason), "{glob}: {error}");
        }
    }

    #[test]
    fn parts_of_a_key_are_found_and_put_in_as_they_are() {
        let glob = Glob::parse_with_parts("user:{id}/{what}").unwrap();
        assert_eq!(glob.find("user:*1/[x"), Some(vec![("id", "*1"), ("what", "[x")]));
        assert_eq!(glob.find("user:1:2/x"), None);
        assert_eq!(glob.find("user:/x"), None);
        let parts = glob.find("user:*1/[x").unwrap();
        let filled = fill(r"c:{id}:*:{what}:[{id}]\{id}{a,b}", &parts);
        assert_eq!(filled, r"c:\*1:*:\[x:[{id}]\{id}{a,b}");
        let filled = Glob::parse_filled(&fill("c:{id}:*", &parts)).unwrap();
        assert!(filled.matches("c:*1:z") && !filled.matches("c:11:z"));
        assert!(Glob::parse_with_parts("{a}:{a}").is_err());
    }

    #[test]
    fn a_catastrophic_pattern_takes_linear_time() {
        let clock = Clock::system();
        let began = clock.tick();
        let evil = format!("{}b", "*a".repeat(250));
        let glob = Glob::parse(&evil).unwrap();
        let key = "a".repeat(512);
        for _ in 0..20 {
            assert!(!glob.matches(&key));
        }
        let nested = Glob::parse("{*a,*aa,*aaa}{*a,*aa}{*a,*aaa}*b").unwrap();
        assert!(!nested.matches(&key));
        assert!(clock.tick().since(began) < Duration::from_secs(5), "it went back and forth");
    }

    #[test]
    fn the_prefix_is_what_every_match_begins_with() {
        for (glob, prefix, only) in
            [("user:*", "user:", false), ("*", "", false), (r"a\*b", "a*b", true)]
        {
            let glob = Glob::parse(glob).unwrap();
            assert_eq!((glob.prefix(), glob.only().is_some()), (prefix, only));
        }
    }

    proptest! {
        #[test]
        fn a_text_that_was_escaped_means_itself_alone(text in "[a-c*?\\[\\]{},\\\\é]{1,12}", other in "[a-c*?]{1,12}") {
            let glob = escape(&text);
            prop_assert!(matches(&glob, &text));
            prop_assert_eq!(matches(&glob, &other), text == other);
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in "\\PC{0,40}") {
            let _ = Glob::parse(&text);
            let _ = Glob::parse_with_parts(&text);
            let _ = fill(&text, &vec![("a", "b")]);
        }
    }
}
