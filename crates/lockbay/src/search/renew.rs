//! Reading anew what was indexed by another rule, such as one that masks other names.
//!
//! A segment names its records, so they are read as they are now and written into new segments, a
//! few at a time; the old one goes when all of it is read. Meanwhile both are looked into: whatever
//! they lead to is judged by the rule of now. A leader that dies begins the segment again. Nothing
//! is lost of which the audit log tells no more.

use super::Inner;
use super::head::Segment;
use super::index::{Breaks, MAX_DOCS, Touched};
use super::pen::Pen;
use super::read::Docs;
use super::segment::{Doc, DocKind};
use crate::error::Result;

impl Touched {
    /// Takes note of records to read as a whole.
    fn extend(&mut self, docs: Vec<Doc>) {
        for Doc { kind, id, .. } in docs {
            match kind {
                DocKind::Job => self.jobs.insert(id),
                DocKind::Saga => self.changed.insert(id),
            };
        }
    }
}

impl Inner {
    /// Writes a segment anew that was written by another rule.
    pub(super) async fn renew(
        &self,
        pen: &mut Pen<'_>,
        old: &Segment,
        breaks: Breaks,
    ) -> Result<()> {
        tracing::info!(segment = old.number, records = old.docs, "search_segment_renewed");
        let mut docs = Docs::new(&*self.store, old.number);
        let mut touched = Touched::default();
        loop {
            let piece = docs.next_piece().await?;
            let is_over = piece.is_none();
            touched.extend(piece.unwrap_or_default());
            if touched.len() < MAX_DOCS && !is_over {
                continue;
            }
            let began = self.clock.tick();
            let mut head = pen.head.clone();
            let draft = self.draft(std::mem::take(&mut touched)).await?;
            draft.write(pen, &mut head, &self.rule).await?;
            if is_over {
                head.segments.retain(|segment| segment.number != old.number);
                head.waste.push(old.number);
            }
            pen.turn_to(head).await?;
            if is_over {
                return Ok(());
            }
            self.pause(breaks, self.clock.tick().since(began)).await;
        }
    }
}
