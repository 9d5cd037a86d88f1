//! Reading segments: from the front, a block at a time, or just what belongs to a word.

use std::collections::{HashMap, VecDeque};

use super::head::{SEARCH_DOCS, SEARCH_WORDS, Segment, docs_key, prefix};
use super::query::Wanted;
use super::segment::{
    DOCS, Doc, Entry, block_name, each_entry, entries, falling, intersect, read_docs,
};
use crate::error::Result;
use crate::store::{Partition, Range, Record, Store};

/// Blocks, and pieces of tables, that are read ahead.
const AHEAD: usize = 8;
/// Blocks that one word is looked for in, of each segment. A word alone never has so many: this is
/// for beginnings of words that begin with nearly everything.
const MAX_BLOCKS: usize = 128;
/// Blocks that are read at once behind the first one.
const PAGE: usize = 8;

/// The records of one kind of a segment, in order.
struct Stream<'a> {
    store: &'a dyn Store,
    range: Range,
    ended: bool,
}

impl<'a> Stream<'a> {
    async fn next_page(&mut self) -> Result<Vec<Record>> {
        if self.ended {
            return Ok(Vec::new());
        }
        let page = self.store.scan(&self.range, AHEAD).await?;
        self.range.after = page.records.last().map(|record| record.key.id.to_string());
        self.ended = !page.more;
        Ok(page.records)
    }
}

/// The table of records of a segment, from the front.
pub(super) struct Docs<'a> {
    stream: Stream<'a>,
    ready: VecDeque<Doc>,
}

impl<'a> Docs<'a> {
    pub(super) fn new(store: &'a dyn Store, segment: u64) -> Self {
        let range = Range::new(Partition::FIRST, SEARCH_DOCS, prefix(segment));
        Docs { stream: Stream { store, range, ended: false }, ready: VecDeque::new() }
    }

    /// The next record, which stays the next.
    pub(super) async fn peek(&mut self) -> Result<Option<&Doc>> {
        if self.ready.is_empty() {
            for record in self.stream.next_page().await? {
                self.ready.extend(read_docs(&record.value)?);
            }
        }
        Ok(self.ready.front())
    }

    pub(super) fn advance(&mut self) {
        self.ready.pop_front();
    }

    /// The next records, at most as many as are read at once.
    pub(super) async fn next_piece(&mut self) -> Result<Option<Vec<Doc>>> {
        self.peek().await?;
        let piece: Vec<Doc> = self.ready.drain(..self.ready.len().min(DOCS)).collect();
        Ok((!piece.is_empty()).then_some(piece))
    }
}

/// The words of a segment, from the front.
pub(super) struct Words<'a> {
    stream: Stream<'a>,
    ready: VecDeque<Entry>,
}

impl<'a> Words<'a> {
    pub(super) fn new(store: &'a dyn Store, segment: u64) -> Self {
        let range = Range::new(Partition::FIRST, SEARCH_WORDS, prefix(segment));
        Words { stream: Stream { store, range, ended: false }, ready: VecDeque::new() }
    }

    /// The next word with a part of its list, which stays the next.
    pub(super) async fn peek(&mut self) -> Result<Option<&Entry>> {
        if self.ready.is_empty() {
            for record in self.stream.next_page().await? {
                self.ready.extend(entries(&record.value)?);
            }
        }
        Ok(self.ready.front())
    }

    /// Takes the list that is next.
    pub(super) fn take(&mut self) -> Option<Vec<u32>> {
        self.ready.pop_front().map(|entry| entry.numbers)
    }
}

/// What a look into a segment found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The newest first.
    pub(super) numbers: Vec<u32>,
    /// Whether there may be more.
    pub(super) truncated: bool,
}

/// The records of a segment that have everything that is wanted.
pub(super) async fn find(store: &dyn Store, segment: &Segment, wanted: &[Wanted]) -> Result<Found> {
    let mut found: Option<Found> = None;
    for wanted in wanted {
        let next = find_one(store, segment, wanted).await?;
        let both = match found {
            None => next,
            // What it lacks may be what is looked for: the records themselves are held against it.
            Some(before) if next.truncated => before,
            Some(before) => Found {
                numbers: intersect(&before.numbers, &next.numbers),
                truncated: before.truncated,
            },
        };
        if both.numbers.is_empty() {
            return Ok(both);
        }
        found = Some(both);
    }
    Ok(found.unwrap_or_default())
}

async fn find_one(store: &dyn Store, segment: &Segment, wanted: &Wanted) -> Result<Found> {
    let within = segment.block_prefix();
    let all = Range::new(Partition::FIRST, SEARCH_WORDS, within.as_str());
    // The last block that begins before the word, or with it.
    let begin = format!("{within}{}~", block_name(wanted.text(), 0));
    let before = all.clone().backwards().after(Some(begin));
    let first = store.scan(&before, 1).await?.records.pop();
    let mut found = Found::default();
    let mut blocks = 1;
    if let Some(first) = &first
        && collect(&first.value, wanted, &mut found.numbers)? == After::Nothing
    {
        return Ok(found.in_order());
    }
    // What the word, or its beginning, goes on with.
    let mut range = all.after(Some(match first {
        Some(first) => first.key.id.into(),
        None => within.clone(),
    }));
    let goes_on = format!("{within}{}", wanted.text());
    let mut many = 1;
    loop {
        let page = store.scan(&range, many).await?;
        many = PAGE;
        for record in &page.records {
            let name = record.key.id.strip_prefix(&within).unwrap_or_default();
            let word = name.rsplit_once(' ').map_or(name, |(word, _)| word);
            if !record.key.id.starts_with(&goes_on) || !wanted.takes(word) {
                return Ok(found.in_order());
            }
            collect(&record.value, wanted, &mut found.numbers)?;
            blocks += 1;
            if blocks >= MAX_BLOCKS {
                found.truncated = true;
                return Ok(found.in_order());
            }
        }
        if !page.more {
            return Ok(found.in_order());
        }
        range.after = page.records.last().map(|record| record.key.id.to_string());
    }
}

/// What may stand behind a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    /// More of what is wanted.
    More,
    Nothing,
}

/// Takes from a block what is wanted.
fn collect(bytes: &[u8], wanted: &Wanted, numbers: &mut Vec<u32>) -> Result<After> {
    let mut after = After::More;
    let takes = |word: &str| {
        let takes = wanted.takes(word);
        let before = matches!(wanted, Wanted::Prefix(_)) && word < wanted.text();
        after = if takes || before { After::More } else { After::Nothing };
        takes
    };
    each_entry(bytes, takes, |entry| numbers.extend(entry.numbers))?;
    Ok(after)
}

impl Found {
    fn in_order(mut self) -> Self {
        self.numbers = falling(self.numbers);
        self
    }
}

/// Looks up which records numbers stand for, and remembers the pieces it has read.
pub(super) struct Table<'a> {
    store: &'a dyn Store,
    segment: u64,
    pieces: HashMap<usize, Vec<Doc>>,
}

impl<'a> Table<'a> {
    pub(super) fn new(store: &'a dyn Store, segment: u64) -> Self {
        Table { store, segment, pieces: HashMap::new() }
    }

    /// The record of this number; nothing if the segment is gone.
    pub(super) async fn doc(&mut self, number: u32) -> Result<Option<&Doc>> {
        let (piece, at) = (number as usize / DOCS, number as usize % DOCS);
        if !self.pieces.contains_key(&piece) {
            let read = self.store.get(&[docs_key(self.segment, number)]).await?;
            let Some(record) = read.records.into_iter().flatten().next() else { return Ok(None) };
            self.pieces.insert(piece, read_docs(&record.value)?);
        }
        Ok(self.pieces.get(&piece).and_then(|docs| docs.get(at)))
    }
}
