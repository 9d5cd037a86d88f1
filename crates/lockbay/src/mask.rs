//! Which names are masked: one rule for the audit trail, for search, and for what viewers are shown.
//!
//! If they differed, what one of them hides could be found by asking another.

/// Whether what stands under this name is masked. Upper and lower case are the same: a name in the
/// settings is in lowercase and means every way to write it.
pub fn covers(masked: &[String], name: &str) -> bool {
    masked.iter().any(|masked| masked.eq_ignore_ascii_case(name))
}
