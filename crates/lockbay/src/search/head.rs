//! The head of the index: how far the audit log is indexed, and which segments there are.
//!
//! One record. What it names is complete; what is being written stands under a number that it lists
//! as waste until it is complete, so that a crash leaves nothing that nobody knows of.

use serde::{Deserialize, Serialize};

use super::segment::DOCS;
use crate::error::{Error, ErrorKind, Result};
use crate::store::{Key, Kind, Partition, Revision};

/// The head of the index. Key: `head`.
pub(crate) const SEARCH_HEAD: Kind = Kind::new("search-head");
/// Words of a segment. Key: segment, first word and part.
pub(crate) const SEARCH_WORDS: Kind = Kind::new("search-words");
/// Records of a segment. Key: segment, number of the piece.
pub(crate) const SEARCH_DOCS: Kind = Kind::new("search-docs");

/// Segments of about one size that become one.
pub(super) const MERGED: usize = 8;
/// From so many records on a segment is not merged any more, so that merging needs bounded memory.
const LARGE: u64 = 65_536;

/// What the head says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    /// Lines of the audit log up to this revision are indexed.
    pub(super) until: u64,
    /// The number of the next segment.
    pub(super) next: u64,
    pub(super) segments: Vec<Segment>,
    /// Numbers whose records belong to no segment.
    #[serde(default)]
    pub(super) waste: Vec<u64>,
}

/// One segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Segment {
    pub(super) number: u64,
    /// How many records it knows.
    pub(super) docs: u64,
    /// When the first and the last of them were created.
    pub(super) first_us: u64,
    pub(super) last_us: u64,
    /// When it was last looked through for records that are gone.
    pub(super) checked_us: u64,
    /// By which rule its records were read.
    #[serde(default)]
    pub(super) rule: String,
}

impl Head {
    pub(super) fn decode(value: &[u8]) -> Result<Self> {
        serde_json::from_slice(value).map_err(|error| {
            Error::new(ErrorKind::Internal, "the head of the search index cannot be read")
                .with_source(error)
        })
    }

    pub(super) fn encode(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|error| {
            Error::new(ErrorKind::Internal, "the head of the search index has no JSON form")
                .with_source(error)
        })
    }

    pub(super) fn until(&self) -> Revision {
        Revision::new(self.until)
    }

    /// A number for another segment.
    pub(super) fn take_number(&mut self) -> u64 {
        let number = self.next;
        self.next = number.saturating_add(1);
        number
    }

    /// Whether all of these segments are there.
    pub(super) fn has_all(&self, numbers: &[u64]) -> bool {
        numbers.iter().all(|number| self.segments.iter().any(|segment| segment.number == *number))
    }

    /// Segments of this rule and of about one size, enough to become one. The smallest size first.
    pub(super) fn to_merge(&self, rule: &str) -> Option<Vec<Segment>> {
        let ours: Vec<&Segment> = self.segments.iter().filter(|ours| ours.rule == rule).collect();
        let mut sizes: Vec<u32> = ours.iter().filter_map(|segment| segment.size()).collect();
        sizes.sort_unstable();
        sizes.dedup();
        sizes.into_iter().find_map(|size| {
            let alike = ours.iter().filter(|segment| segment.size() == Some(size));
            let alike: Vec<Segment> = alike.take(MERGED).map(|alike| (*alike).clone()).collect();
            (alike.len() == MERGED).then_some(alike)
        })
    }
}

impl Segment {
    /// Its size class; nothing for one that is not merged any more.
    fn size(&self) -> Option<u32> {
        (self.docs < LARGE).then(|| self.docs.max(1).ilog2() / 3)
    }

    pub(super) fn block_prefix(&self) -> String {
        prefix(self.number)
    }
}

/// How the ids of a segment's records begin.
pub(super) fn prefix(number: u64) -> String {
    format!("{number:010x}/")
}

pub(super) fn head_key() -> Key {
    Key::new(Partition::FIRST, SEARCH_HEAD, "head")
}

pub(super) fn words_key(number: u64, block: &str) -> Key {
    Key::new(Partition::FIRST, SEARCH_WORDS, format!("{}{block}", prefix(number)))
}

/// The piece of a segment's table in which this record stands.
pub(super) fn docs_key(number: u64, doc: u32) -> Key {
    let piece = doc as usize / DOCS;
    Key::new(Partition::FIRST, SEARCH_DOCS, format!("{}{piece:06x}", prefix(number)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_of_one_size_are_merged_and_large_ones_never() {
        let mut head = Head::default();
        let mut add = |docs, times| {
            for _ in 0..times {
                let number = head.take_number();
                head.segments.push(Segment {
                    number,
                    docs,
                    first_us: 0,
                    last_us: 0,
                    checked_us: 0,
                    rule: String::new(),
                });
            }
            head.to_merge("").map(|segments| segments[0].docs)
        };
        assert_eq!(add(1_000_000, 20), None);
        assert_eq!(add(60_000, 7), None);
        assert_eq!(add(60_000, 1), Some(60_000));
        assert_eq!(add(3, 7), Some(60_000));
        assert_eq!(add(7, 1), Some(3), "of one size, and the smallest first");
        assert_eq!(head.to_merge("another"), None, "those of another rule are written anew first");
    }
}
