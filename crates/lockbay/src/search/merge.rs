//! Keeping the index small: segments of one size become one, what is gone is dropped, waste goes.
//!
//! A segment is written under a number that the head lists as waste, and becomes one in the commit
//! that takes it off that list and puts those that it replaces on it. All is read and written a
//! block at a time; what is held beside that is a number for each record.

use super::head::{SEARCH_DOCS, SEARCH_WORDS, Segment, prefix};
use super::index::Breaks;
use super::pen::Pen;
use super::read::{Docs, Words};
use super::segment::{BlockWriter, DOCS, Doc, DocKind, falling};
use super::{Inner, RECHECK};
use crate::error::Result;
use crate::store::{Fence, Key, Kind, Partition, Range, Store};

/// Records of waste that go in one commit.
const WASTE: usize = 500;
/// From so many records on a merge looks which of them are gone.
const WORTH_LOOKING: u64 = 4_096;
/// A segment is written anew when so large a part of it is gone: one in this many.
const GONE: u64 = 10;

/// The number of a record that is in the new segment no more.
const DROPPED: u32 = u32::MAX;

/// Whether records are looked for, so that those that are gone are dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    ForAll,
    ForNone,
}

impl Inner {
    /// Does what there is to do for the segments, if anything.
    pub(super) async fn tidy(&self, fence: &Fence, breaks: Breaks) -> Result<()> {
        let mut pen = Pen::begin(&*self.store, fence).await?;
        loop {
            self.clear_waste(&mut pen).await?;
            while let Some(segments) = pen.head.to_merge(&self.rule) {
                let docs: u64 = segments.iter().map(|segment| segment.docs).sum();
                let look = if docs < WORTH_LOOKING { Look::ForNone } else { Look::ForAll };
                self.merge(&mut pen, &segments, look, breaks).await?;
            }
            let other = pen.head.segments.iter().find(|other| other.rule != self.rule).cloned();
            let Some(other) = other else { break };
            self.renew(&mut pen, &other, breaks).await?;
        }
        self.recheck(&mut pen, breaks).await
    }

    /// Deletes what belongs to no segment.
    async fn clear_waste(&self, pen: &mut Pen<'_>) -> Result<()> {
        while let Some(number) = pen.head.waste.first().copied() {
            for kind in [SEARCH_WORDS, SEARCH_DOCS] {
                while let Some(page) = ids(&*self.store, kind, number).await? {
                    page.into_iter().for_each(|key| pen.delete(key));
                    pen.flush().await?;
                }
            }
            let mut head = pen.head.clone();
            head.waste.retain(|waste| *waste != number);
            pen.turn_to(head).await?;
        }
        Ok(())
    }

    /// Looks through one segment that was not looked through for a while.
    async fn recheck(&self, pen: &mut Pen<'_>, breaks: Breaks) -> Result<()> {
        let due = pen.now - RECHECK;
        let oldest = pen.head.segments.iter().min_by_key(|segment| segment.checked_us);
        let Some(segment) = oldest.filter(|segment| segment.checked_us < due.as_micros()).cloned()
        else {
            return Ok(());
        };
        let mut docs = Docs::new(&*self.store, segment.number);
        let mut gone = 0;
        while let Some(piece) = docs.next_piece().await? {
            let began = self.clock.tick();
            gone += self.are_gone(&piece).await?.into_iter().filter(|gone| *gone).count() as u64;
            self.pause(breaks, self.clock.tick().since(began)).await;
        }
        if gone.saturating_mul(GONE) >= segment.docs {
            return self.merge(pen, &[segment], Look::ForAll, breaks).await;
        }
        let mut head = pen.head.clone();
        for looked in head.segments.iter_mut().filter(|other| other.number == segment.number) {
            looked.checked_us = pen.now.as_micros();
        }
        pen.turn_to(head).await
    }

    /// Which of these records are not there any more.
    async fn are_gone(&self, docs: &[Doc]) -> Result<Vec<bool>> {
        let of = |kind| {
            let ids = docs.iter().filter(move |doc| doc.kind == kind);
            ids.map(|doc| doc.id.as_str()).collect::<Vec<_>>()
        };
        let jobs = self.jobs.found(&of(DocKind::Job)).await?;
        let sagas = self.sagas.as_started(&of(DocKind::Saga)).await?;
        let (mut jobs, mut sagas) = (jobs.into_iter(), sagas.into_iter());
        let is_gone = |doc: &Doc| match doc.kind {
            DocKind::Job => jobs.next().flatten().is_none(),
            DocKind::Saga => sagas.next().flatten().is_none(),
        };
        Ok(docs.iter().map(is_gone).collect())
    }

    /// Makes one segment of these.
    async fn merge(
        &self,
        pen: &mut Pen<'_>,
        segments: &[Segment],
        look: Look,
        breaks: Breaks,
    ) -> Result<()> {
        let mut head = pen.head.clone();
        let number = head.take_number();
        head.waste.push(number);
        pen.turn_to(head).await?;
        let (merged, renumbered) = self.merge_docs(pen, number, segments, look, breaks).await?;
        self.merge_words(pen, number, segments, &renumbered, breaks).await?;
        let mut head = pen.head.clone();
        let is_old = |found: u64| segments.iter().any(|segment| segment.number == found);
        head.segments.retain(|segment| !is_old(segment.number));
        head.waste.extend(segments.iter().map(|segment| segment.number));
        if let Some(merged) = merged {
            head.waste.retain(|waste| *waste != number);
            head.segments.push(merged);
        }
        pen.turn_to(head).await
    }

    /// Writes the table of records, and says which number each record of the old ones has in it.
    async fn merge_docs(
        &self,
        pen: &mut Pen<'_>,
        number: u64,
        segments: &[Segment],
        look: Look,
        breaks: Breaks,
    ) -> Result<(Option<Segment>, Vec<Vec<u32>>)> {
        let mut sources: Vec<Docs<'_>> =
            segments.iter().map(|segment| Docs::new(&*self.store, segment.number)).collect();
        let mut renumbered: Vec<Vec<u32>> = segments.iter().map(|_| Vec::new()).collect();
        let mut table =
            Table { segment: number, written: 0, piece: Vec::new(), first_us: None, last_us: 0 };
        loop {
            // A piece of records in order, each with the sources that have it.
            let mut piece: Vec<(Doc, Vec<usize>)> = Vec::new();
            while piece.len() < DOCS {
                let Some(least) = least(&mut sources).await? else { break };
                let mut from = Vec::new();
                for (at, source) in sources.iter_mut().enumerate() {
                    if source.peek().await? == Some(&least) {
                        source.advance();
                        from.push(at);
                    }
                }
                piece.push((least, from));
            }
            if piece.is_empty() {
                break;
            }
            let began = self.clock.tick();
            let docs: Vec<Doc> = piece.iter().map(|(doc, _)| doc.clone()).collect();
            let gone = match look {
                Look::ForAll => self.are_gone(&docs).await?,
                Look::ForNone => vec![false; docs.len()],
            };
            for ((doc, from), gone) in piece.into_iter().zip(gone) {
                let new = if gone { DROPPED } else { table.add(pen, doc) };
                for source in from {
                    if let Some(numbers) = renumbered.get_mut(source) {
                        numbers.push(new);
                    }
                }
            }
            if pen.is_full() {
                pen.flush().await?;
            }
            if look == Look::ForAll {
                self.pause(breaks, self.clock.tick().since(began)).await;
            }
        }
        let checked_us = match look {
            Look::ForAll => pen.now.as_micros(),
            Look::ForNone => segments.iter().map(|old| old.checked_us).min().unwrap_or_default(),
        };
        Ok((table.finish(pen, checked_us, &self.rule), renumbered))
    }

    /// Writes the words with the numbers that records have now.
    async fn merge_words(
        &self,
        pen: &mut Pen<'_>,
        number: u64,
        segments: &[Segment],
        renumbered: &[Vec<u32>],
        breaks: Breaks,
    ) -> Result<()> {
        let mut sources: Vec<Words<'_>> =
            segments.iter().map(|segment| Words::new(&*self.store, segment.number)).collect();
        let mut writer = BlockWriter::default();
        let mut began = self.clock.tick();
        loop {
            let mut word: Option<String> = None;
            for source in &mut sources {
                if let Some(next) = source.peek().await?
                    && word.as_ref().is_none_or(|least| next.word < *least)
                {
                    word = Some(next.word.clone());
                }
            }
            let Some(word) = word else { break };
            let mut numbers = Vec::new();
            for (source, new) in sources.iter_mut().zip(renumbered) {
                while source.peek().await?.is_some_and(|next| next.word == word) {
                    let old = source.take().unwrap_or_default();
                    let new = old.iter().filter_map(|old| new.get(*old as usize).copied());
                    numbers.extend(new.filter(|new| *new != DROPPED));
                }
            }
            for block in writer.add(&word, &falling(numbers)) {
                pen.block(number, block);
            }
            if pen.is_full() {
                pen.flush().await?;
                self.pause(breaks, self.clock.tick().since(began)).await;
                began = self.clock.tick();
            }
        }
        if let Some(block) = writer.finish() {
            pen.block(number, block);
        }
        Ok(())
    }
}

/// A table of records as it is written.
struct Table {
    segment: u64,
    written: u32,
    /// Those of the piece that is not full yet.
    piece: Vec<Doc>,
    first_us: Option<u64>,
    last_us: u64,
}

impl Table {
    /// Adds a record, and says its number.
    fn add(&mut self, pen: &mut Pen<'_>, doc: Doc) -> u32 {
        self.first_us.get_or_insert(doc.created_us);
        self.last_us = doc.created_us;
        let number =
            self.written.saturating_add(u32::try_from(self.piece.len()).unwrap_or(u32::MAX));
        self.piece.push(doc);
        if self.piece.len() == DOCS {
            self.end_piece(pen);
        }
        number
    }

    fn end_piece(&mut self, pen: &mut Pen<'_>) {
        if self.piece.is_empty() {
            return;
        }
        pen.docs(self.segment, self.written, &self.piece);
        let count = u32::try_from(self.piece.len()).unwrap_or(u32::MAX);
        self.written = self.written.saturating_add(count);
        self.piece.clear();
    }

    /// The segment; nothing if no record is in it.
    fn finish(mut self, pen: &mut Pen<'_>, checked_us: u64, rule: &str) -> Option<Segment> {
        self.end_piece(pen);
        let (number, docs, last_us) = (self.segment, self.written.into(), self.last_us);
        let rule = rule.to_owned();
        self.first_us.map(|first_us| Segment { number, docs, first_us, last_us, checked_us, rule })
    }
}

/// The least record that is next in any of these.
async fn least(sources: &mut [Docs<'_>]) -> Result<Option<Doc>> {
    let mut least: Option<Doc> = None;
    for source in sources {
        if let Some(doc) = source.peek().await?
            && least.as_ref().is_none_or(|least| doc < least)
        {
            least = Some(doc.clone());
        }
    }
    Ok(least)
}

/// The keys of some records of a segment, if there are any.
async fn ids(store: &dyn Store, kind: Kind, number: u64) -> Result<Option<Vec<Key>>> {
    let range = Range::new(Partition::FIRST, kind, prefix(number));
    let page = store.scan(&range, WASTE).await?;
    let keys: Vec<_> = page.records.into_iter().map(|record| record.key).collect();
    Ok((!keys.is_empty()).then_some(keys))
}
