//! A segment: words and the records that have them, as of one piece of the audit log, in bytes.
//!
//! Pure. Records of a segment are numbered in the order of their creation, and a list of numbers is
//! kept with the newest first. Words stand in order in blocks, each stored under its first word, so
//! that a word is found with one read; what a word shares with the one before it is not written
//! again. A long list is cut into parts, which follow each other as if they were words.

use std::cmp::Ordering;

use crate::error::{Error, ErrorKind, Result};

/// A block ends with the entry by which it comes to so many bytes.
const BLOCK_BYTES: usize = 16 * 1024;
/// The most numbers of one entry.
const PART: usize = 4_096;
/// Records in one piece of the table of records.
pub(crate) const DOCS: usize = 128;

/// What can be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum DocKind {
    Job,
    Saga,
}

/// A record as the index knows it. In the order in which they are numbered.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Doc {
    /// When it was created, in microseconds.
    pub(crate) created_us: u64,
    pub(crate) kind: DocKind,
    pub(crate) id: String,
}

/// A word, or a part of its list, in a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) word: String,
    /// Falling.
    pub(crate) numbers: Vec<u32>,
}

/// A block as it is stored: behind which text, and what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
}

/// Under which name a block stands that begins with this part of a word. A space comes before every
/// letter, so that a word stands before those that it begins.
pub(crate) fn block_name(word: &str, part: usize) -> String {
    format!("{word} {part:04x}")
}

/// Writes words, which come in order, as blocks.
#[derive(Debug, Default)]
pub(crate) struct BlockWriter {
    name: String,
    bytes: Vec<u8>,
    last: String,
}

impl BlockWriter {
    /// Adds a word with its numbers, which fall, and returns the blocks that are full.
    pub(crate) fn add(&mut self, word: &str, numbers: &[u32]) -> Vec<Block> {
        let mut full = Vec::new();
        for (part, numbers) in numbers.chunks(PART).enumerate() {
            if self.bytes.is_empty() {
                self.name = block_name(word, part);
                self.last.clear();
            }
            self.entry(word, numbers);
            if self.bytes.len() >= BLOCK_BYTES {
                full.extend(self.finish());
            }
        }
        full
    }

    fn entry(&mut self, word: &str, numbers: &[u32]) {
        let shared = common(&self.last, word);
        let rest = word.get(shared..).unwrap_or_default();
        number(&mut self.bytes, shared as u64);
        number(&mut self.bytes, rest.len() as u64);
        self.bytes.extend_from_slice(rest.as_bytes());
        number(&mut self.bytes, numbers.len() as u64);
        let mut before = 0;
        for (at, found) in numbers.iter().copied().enumerate() {
            let step = if at == 0 { found } else { before - found };
            number(&mut self.bytes, step.into());
            before = found;
        }
        word.clone_into(&mut self.last);
    }

    /// The block that is not full yet, if there is one.
    pub(crate) fn finish(&mut self) -> Option<Block> {
        if self.bytes.is_empty() {
            return None;
        }
        let (name, bytes) = (std::mem::take(&mut self.name), std::mem::take(&mut self.bytes));
        self.last.clear();
        Some(Block { name, bytes })
    }
}

/// How many bytes both begin with, in whole letters.
fn common(a: &str, b: &str) -> usize {
    let same = a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
    b.floor_char_boundary(same)
}

/// The entries of a block.
///
/// # Errors
/// `Internal` for bytes that no [`BlockWriter`] wrote.
pub(crate) fn entries(bytes: &[u8]) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    each_entry(bytes, |_| true, |entry| entries.push(entry))?;
    Ok(entries)
}

/// Calls back with those entries of a block whose words are wanted. The others cost little.
pub(crate) fn each_entry(
    bytes: &[u8],
    mut wanted: impl FnMut(&str) -> bool,
    mut call: impl FnMut(Entry),
) -> Result<()> {
    let mut rest = Bytes(bytes);
    let mut word = String::new();
    while !rest.0.is_empty() {
        let shared = rest.length()?;
        if shared > word.len() || !word.is_char_boundary(shared) {
            return Err(damaged());
        }
        word.truncate(shared);
        let length = rest.length()?;
        word.push_str(std::str::from_utf8(rest.take(length)?).map_err(|_| damaged())?);
        let count = rest.length()?;
        if count > PART {
            return Err(damaged());
        }
        let take = wanted(&word);
        let mut numbers = Vec::with_capacity(if take { count } else { 0 });
        let mut before = 0_u32;
        for at in 0..count {
            let step = rest.number()?;
            if !take {
                continue;
            }
            let step = u32::try_from(step).map_err(|_| damaged())?;
            before = match at {
                0 => step,
                _ => before.checked_sub(step).ok_or_else(damaged)?,
            };
            numbers.push(before);
        }
        if take {
            call(Entry { word: word.clone(), numbers });
        }
    }
    Ok(())
}

/// A piece of the table of records, which come in order.
pub(crate) fn write_docs(docs: &[Doc]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(docs.len() * 40);
    let mut before = 0;
    for doc in docs {
        number(&mut bytes, doc.created_us.saturating_sub(before));
        before = doc.created_us;
        bytes.push(match doc.kind {
            DocKind::Job => 0,
            DocKind::Saga => 1,
        });
        number(&mut bytes, doc.id.len() as u64);
        bytes.extend_from_slice(doc.id.as_bytes());
    }
    bytes
}

/// Reads a piece of the table of records.
///
/// # Errors
/// `Internal` for bytes that were not written so.
pub(crate) fn read_docs(bytes: &[u8]) -> Result<Vec<Doc>> {
    let (mut rest, mut docs, mut before) = (Bytes(bytes), Vec::new(), 0_u64);
    while !rest.0.is_empty() {
        let created_us = before.checked_add(rest.number()?).ok_or_else(damaged)?;
        before = created_us;
        let kind = match rest.take(1)? {
            [0] => DocKind::Job,
            [1] => DocKind::Saga,
            _ => return Err(damaged()),
        };
        let length = rest.length()?;
        let id = std::str::from_utf8(rest.take(length)?).map_err(|_| damaged())?;
        docs.push(Doc { created_us, kind, id: id.to_owned() });
    }
    Ok(docs)
}

fn damaged() -> Error {
    Error::new(ErrorKind::Internal, "a record of the search index is damaged")
}

/// Appends a number, seven bits a byte, the low ones first.
fn number(bytes: &mut Vec<u8>, mut value: u64) {
    loop {
        let low = u8::try_from(value & 0x7f).unwrap_or_default();
        value >>= 7;
        if value == 0 {
            bytes.push(low);
            return;
        }
        bytes.push(low | 0x80);
    }
}

/// Bytes that are read from the front.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn number(&mut self) -> Result<u64> {
        let (mut value, mut shift) = (0_u64, 0);
        loop {
            let (byte, rest) = self.0.split_first().ok_or_else(damaged)?;
            self.0 = rest;
            if shift > 63 {
                return Err(damaged());
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
            shift += 7;
        }
    }

    fn length(&mut self) -> Result<usize> {
        usize::try_from(self.number()?).map_err(|_| damaged())
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or_else(damaged)?;
        self.0 = rest;
        Ok(taken)
    }
}

/// What two falling lists have in common, falling.
pub(crate) fn intersect(a: &[u32], b: &[u32]) -> Vec<u32> {
    let (short, long) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    if short.len() * 16 < long.len() {
        let is_in_long = |number: &&u32| long.binary_search_by(|probe| number.cmp(&probe)).is_ok();
        return short.iter().filter(is_in_long).copied().collect();
    }
    let (mut both, mut i, mut j) = (Vec::new(), 0, 0);
    while let (Some(x), Some(y)) = (short.get(i), long.get(j)) {
        match x.cmp(y) {
            Ordering::Greater => i += 1,
            Ordering::Less => j += 1,
            Ordering::Equal => {
                both.push(*x);
                i += 1;
                j += 1;
            }
        }
    }
    both
}

/// Brings numbers in falling order, each once.
pub(crate) fn falling(mut numbers: Vec<u32>) -> Vec<u32> {
    if !numbers.is_sorted_by(|a, b| a > b) {
        numbers.sort_unstable_by(|a, b| b.cmp(a));
        numbers.dedup();
    }
    numbers
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    fn written(words: &BTreeMap<String, Vec<u32>>) -> Vec<Block> {
        let mut writer = BlockWriter::default();
        let mut blocks: Vec<Block> =
            words.iter().flat_map(|(word, numbers)| writer.add(word, numbers)).collect();
        blocks.extend(writer.finish());
        blocks
    }

    #[test]
    fn a_long_list_is_cut_and_its_blocks_stand_in_the_order_of_their_names() {
        let all: Vec<u32> = (0..60_000).rev().collect();
        let words: BTreeMap<String, Vec<u32>> =
            [("a", vec![3]), ("ab", all.clone()), ("abc", vec![9, 1]), ("é", vec![0])]
                .into_iter()
                .map(|(word, numbers)| (word.to_owned(), numbers))
                .collect();
        let blocks = written(&words);
        assert!(blocks.len() > 2);
        assert!(blocks.is_sorted_by(|a, b| a.name < b.name), "{blocks:?}");
        let mut read: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        for block in &blocks {
            for entry in entries(&block.bytes).unwrap() {
                read.entry(entry.word).or_default().extend(entry.numbers);
            }
        }
        assert_eq!(read, words);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            words in prop::collection::btree_map(
                "[a-cé]{1,5}", prop::collection::btree_set(any::<u32>(), 1..20), 0..60,
            ),
        ) {
            let words: BTreeMap<String, Vec<u32>> = words.into_iter()
                .map(|(word, numbers)| (word, numbers.into_iter().rev().collect())).collect();
            let mut read = BTreeMap::new();
            for block in written(&words) {
                for entry in entries(&block.bytes).unwrap() {
                    read.insert(entry.word, entry.numbers);
                }
            }
            prop_assert_eq!(read, words);
        }

        #[test]
        fn records_come_back(
            docs in prop::collection::btree_set((any::<u64>(), any::<bool>(), "\\PC{0,12}"), 0..40),
        ) {
            let docs: BTreeSet<Doc> = docs.into_iter().map(|(created_us, job, id)| {
                let kind = if job { DocKind::Job } else { DocKind::Saga };
                Doc { created_us, kind, id }
            }).collect();
            let docs: Vec<Doc> = docs.into_iter().collect();
            prop_assert_eq!(read_docs(&write_docs(&docs)).unwrap(), docs);
        }

        #[test]
        fn damage_is_an_error_and_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            drop(entries(&bytes));
            drop(read_docs(&bytes));
        }

        #[test]
        fn an_intersection_is_that_of_sets(
            a in prop::collection::btree_set(0_u32..200, 0..100),
            b in prop::collection::btree_set(0_u32..200, 0..100),
            many in any::<bool>(),
        ) {
            let b: BTreeSet<u32> = if many { (0..4_000).collect() } else { b };
            let falling = |set: &BTreeSet<u32>| set.iter().rev().copied().collect::<Vec<u32>>();
            let both: BTreeSet<u32> = a.intersection(&b).copied().collect();
            prop_assert_eq!(intersect(&falling(&a), &falling(&b)), falling(&both));
        }
    }
}
