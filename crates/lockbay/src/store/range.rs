//! Ranges of keys: which there are, and where each begins and ends in the order of bytes.

use super::{Kind, Partition};

/// Keys of one kind that start alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// Where.
    pub partition: Partition,
    /// Of which kind.
    pub kind: Kind,
    /// How their ids start; empty for all.
    pub prefix: String,
    /// Only ids behind this one, in the order asked for.
    pub after: Option<String>,
    /// In which order.
    pub order: Order,
}

/// The order in which a range is gone through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// The least id first.
    #[default]
    Forwards,
    /// The greatest id first.
    Backwards,
}

impl Range {
    /// All keys of a kind whose id starts with `prefix`.
    pub fn new(partition: Partition, kind: Kind, prefix: impl Into<String>) -> Self {
        Range { partition, kind, prefix: prefix.into(), after: None, order: Order::Forwards }
    }

    /// The greatest id first.
    #[must_use]
    pub fn backwards(mut self) -> Self {
        self.order = Order::Backwards;
        self
    }

    /// Only what comes after this id, in the order asked for.
    #[must_use]
    pub fn after(mut self, id: Option<String>) -> Self {
        self.after = id;
        self
    }

    /// The first id that is in it, and the end of it, in the order of bytes.
    pub(super) fn bounds(&self) -> (String, End) {
        let prefix = &self.prefix;
        match (&self.after, self.order) {
            (None, _) => (prefix.clone(), end_of_prefix(prefix)),
            // The least string that is greater than another is that one with a zero byte behind it.
            (Some(after), Order::Forwards) => {
                (format!("{after}\0").max(prefix.clone()), end_of_prefix(prefix))
            }
            (Some(after), Order::Backwards) => match end_of_prefix(prefix) {
                End::Before(end) if end < *after => (prefix.clone(), End::Before(end)),
                End::Before(_) | End::Nowhere => (prefix.clone(), End::Before(after.clone())),
            },
        }
    }
}

/// The end of a range of ids: that id is not in it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    Before(String),
    Nowhere,
}

/// The least string that is greater than all that start with `prefix`: its last character moved on
/// by one. The bytes of UTF-8 are in the order of its characters.
fn end_of_prefix(prefix: &str) -> End {
    let mut characters: Vec<char> = prefix.chars().collect();
    while let Some(last) = characters.pop() {
        if let Some(next) = (last..=char::MAX).nth(1) {
            characters.push(next);
            return End::Before(characters.into_iter().collect());
        }
    }
    End::Nowhere
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_at_its_next_character() {
        let before = |text: &str| End::Before(text.into());
        assert_eq!(end_of_prefix("ab"), before("ac"));
        assert_eq!(end_of_prefix("a\u{7f}"), before("a\u{80}"));
        assert_eq!(end_of_prefix("\u{d7ff}"), before("\u{e000}"), "surrogates are passed over");
        assert_eq!(end_of_prefix("a\u{10ffff}"), before("b"));
        assert_eq!(end_of_prefix("\u{10ffff}"), End::Nowhere);
        assert_eq!(end_of_prefix(""), End::Nowhere);
    }

    /// Ids of few characters, so that they often start alike; the last one has none behind it.
    const ID: &str = "[a\u{7f}\u{d7ff}\u{e000}\u{10ffff}]{0,3}";

    proptest::proptest! {
        /// Held against what the words say: it starts alike, and is behind `after`.
        #[test]
        fn bounds_hold_what_is_asked_for_and_nothing_else(
            id in ID,
            prefix in ID,
            after in proptest::option::of(ID),
            backwards in proptest::bool::ANY,
        ) {
            let behind = after.as_ref().is_none_or(|after| if backwards { id < *after } else { id > *after });
            let range = Range::new(Partition::FIRST, Kind::new("kind"), prefix.as_str()).after(after);
            let range = if backwards { range.backwards() } else { range };
            let (first, end) = range.bounds();
            let before_end = match end {
                End::Before(end) => id < end,
                End::Nowhere => true,
            };
            proptest::prop_assert_eq!(first <= id && before_end, id.starts_with(&prefix) && behind);
        }
    }
}
