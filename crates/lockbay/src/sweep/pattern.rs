//! Patterns of names: `*` is any text, `?` any one character. Everything else is itself.
//!
//! Less than other globs of LockBay have, because keys of others are matched by Redis, and a pattern
//! must mean the same there.

use crate::error::{Error, Result};
use crate::glob::Glob;

/// The longest pattern, in bytes.
pub const MAX_PATTERN_BYTES: usize = 256;

/// A pattern, ready to be asked.
#[derive(Debug, Clone)]
pub(super) struct Pattern {
    text: String,
    glob: Glob,
}

impl Pattern {
    /// # Errors
    /// `Invalid` as [`check`].
    pub(super) fn new(text: &str) -> Result<Self> {
        check(text)?;
        Ok(Pattern { text: text.to_owned(), glob: Glob::parse(text)? })
    }

    pub(super) fn matches(&self, name: &str) -> bool {
        self.glob.matches(name)
    }

    /// Whether it matches every name.
    pub(super) fn is_everything(&self) -> bool {
        self.text == "*"
    }

    /// How every name begins that it matches.
    pub(super) fn literal_prefix(&self) -> &str {
        self.glob.prefix()
    }
}

/// Refuses what is no pattern, or means one thing here and another on Redis.
///
/// # Errors
/// `Invalid`, saying why.
pub(super) fn check(text: &str) -> Result<()> {
    if text.is_empty() || text.len() > MAX_PATTERN_BYTES {
        let length = text.len();
        return Err(Error::invalid(format!(
            "a pattern has 1 to {MAX_PATTERN_BYTES} bytes, this one has {length}"
        )));
    }
    if text.chars().any(char::is_control) {
        return Err(Error::invalid("a pattern has no control characters"));
    }
    if text.contains(['[', ']', '\\', '{', '}']) {
        return Err(Error::invalid(format!(
            "a pattern has * for any text and ? for any character, and no brackets, braces or \
             backslashes: {text:?}"
        )));
    }
    Ok(())
}
