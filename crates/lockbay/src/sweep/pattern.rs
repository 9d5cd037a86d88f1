//! Patterns of names: `*` is any text, `?` any one character. Everything else is itself.
//!
//! The one door to matching, so that it can be replaced in one place. Time is bounded by the length
//! of the pattern and of the name.

use wildmatch::WildMatch;

use crate::error::{Error, Result};

/// The longest pattern, in bytes.
pub const MAX_PATTERN_BYTES: usize = 256;

/// A pattern, ready to be asked.
#[derive(Debug, Clone)]
pub(super) struct Pattern {
    text: String,
    matcher: WildMatch,
}

impl Pattern {
    /// # Errors
    /// `Invalid` as [`check`].
    pub(super) fn new(text: &str) -> Result<Self> {
        check(text)?;
        Ok(Pattern { text: text.to_owned(), matcher: WildMatch::new(text) })
    }

    pub(super) fn matches(&self, name: &str) -> bool {
        self.matcher.matches(name)
    }

    /// Whether it matches every name.
    pub(super) fn is_everything(&self) -> bool {
        self.text == "*"
    }

    /// How every name begins that it matches.
    pub(super) fn literal_prefix(&self) -> &str {
        self.text.split(['*', '?']).next().unwrap_or_default()
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
