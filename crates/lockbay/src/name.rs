//! Names that callers choose: how long they may be, and of what they may consist.

use crate::error::{Error, Result};

/// Checks a name that a caller chose.
pub(crate) fn check_name(what: &str, name: &str, longest: usize) -> Result<()> {
    if name.is_empty() || name.len() > longest {
        let length = name.len();
        return Err(Error::invalid(format!(
            "a {what} has 1 to {longest} bytes, this has {length}"
        )));
    }
    if name.chars().any(char::is_control) {
        return Err(Error::invalid(format!("a {what} has no control characters: {name:?}")));
    }
    Ok(())
}
