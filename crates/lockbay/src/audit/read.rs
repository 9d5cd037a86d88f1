//! Reading entries: pages in either order, filtered, with a bound on what a page looks at.

use std::collections::VecDeque;

use super::checkpoint::{Checkpoint, Head, head_key};
use super::entry::{AuditEntry, Glance};
use super::{Audit, StoredCheckpoint};
use crate::clock::Timestamp;
use crate::error::{Error, Result};
use crate::scribe::audit_log;
use crate::store::{MAX_PAGE, Order, Partition, Range, Record, Revision, log};

/// How many entries one page looks at, at most about; it ends earlier, and says where to go on.
const LOOKED_AT: usize = 20_000;
/// Records of lines read at once.
const PAGE: usize = 100;
/// Checkpoints read at once to say which one seals what.
const CHECKPOINTS: usize = 200;

/// Which entries are asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AuditQuery {
    /// Of this entity; of all that begin so, if it ends with `*`.
    pub entity: Option<String>,
    /// By this actor.
    pub actor: Option<String>,
    /// Of this action.
    pub action: Option<String>,
    /// Not before this.
    pub from: Option<Timestamp>,
    /// Before this.
    pub until: Option<Timestamp>,
    /// Oldest or newest first.
    pub order: Order,
    /// Where an earlier page ended.
    pub place: Option<String>,
}

/// Some entries.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditPage {
    /// In the order asked for.
    pub items: Vec<AuditEntry>,
    /// Where to go on, if there may be more. There may be fewer items than asked for, or none.
    pub next: Option<String>,
}

/// An entry's place: its commit, and where in that commit.
type Place = (Revision, u32);

impl AuditQuery {
    fn matches(&self, line: &[u8]) -> bool {
        if self.entity.is_none() && self.actor.is_none() && self.action.is_none() {
            return true;
        }
        let Ok(seen) = serde_json::from_slice::<Glance<'_>>(line) else { return false };
        let entity = self.entity.as_deref().is_none_or(|wanted| match wanted.strip_suffix('*') {
            Some(prefix) => seen.entity.starts_with(prefix),
            None => seen.entity == wanted,
        });
        entity
            && self.actor.as_deref().is_none_or(|wanted| seen.actor == wanted)
            && self.action.as_deref().is_none_or(|wanted| seen.action == wanted)
    }

    fn place(&self) -> Result<Option<Place>> {
        let Some(place) = &self.place else { return Ok(None) };
        let read = place.split_once('/').and_then(|(revision, index)| {
            Some((Revision::new(revision.parse().ok()?), index.parse().ok()?))
        });
        read.map(Some).ok_or_else(|| {
            Error::invalid(format!("this is no place in the audit trail: {place:?}"))
        })
    }
}

impl Audit {
    /// A page of at most about `limit` entries.
    ///
    /// # Errors
    /// `Invalid` for a place that is none. `Internal` for a record that cannot be read.
    pub async fn entries(&self, query: &AuditQuery, limit: usize) -> Result<AuditPage> {
        let limit = limit.clamp(1, MAX_PAGE);
        let mut page = match query.order {
            Order::Forwards => self.forwards(query, limit).await?,
            Order::Backwards => self.backwards(query, limit).await?,
        };
        self.show_seals(&mut page.items).await?;
        Ok(page)
    }

    async fn forwards(&self, query: &AuditQuery, limit: usize) -> Result<AuditPage> {
        let place = query.place()?;
        let from = query.from.map_or(0, |from| from.as_micros().saturating_sub(1));
        let after = place.map_or(from, |(revision, _)| revision.number().saturating_sub(1));
        let mut range = log::range(&audit_log(Partition::FIRST), Revision::new(after.max(from)));
        let until = query.until.map(|until| Revision::new(until.as_micros()));
        let (mut items, mut looked_at, mut last) = (Vec::new(), 0, None);
        loop {
            let page = self.0.store.scan(&range, PAGE).await?;
            for record in &page.records {
                for (at, text) in places(record)? {
                    if until.is_some_and(|until| at.0 >= until) {
                        return Ok(AuditPage { items, next: None });
                    }
                    if at.0.number() <= from || place.is_some_and(|place| at <= place) {
                        continue;
                    }
                    if items.len() == limit || looked_at >= LOOKED_AT {
                        return Ok(AuditPage { items, next: last.map(told) });
                    }
                    (looked_at, last) = (looked_at + 1, Some(at));
                    if query.matches(text) {
                        items.push(AuditEntry::read(at.0, at.1, text));
                    }
                }
            }
            if !page.more {
                return Ok(AuditPage { items, next: None });
            }
            range = range.after(page.records.last().map(|record| record.key.id.to_string()));
        }
    }

    async fn backwards(&self, query: &AuditQuery, limit: usize) -> Result<AuditPage> {
        let log = audit_log(Partition::FIRST);
        let place = query.place()?;
        let until = query.until.map(|until| (Revision::new(until.as_micros()), 0));
        let before = [place, until].into_iter().flatten().min();
        let from = query.from.map(|from| Revision::new(from.as_micros()));
        let mut waiting: VecDeque<Record> = VecDeque::new();
        let mut range = log::backwards(&log, before.map(|(revision, _)| revision));
        if let Some((revision, _)) = before {
            // The record in which that revision stands may begin before it.
            let at = log::range(&log, Revision::new(revision.number().saturating_sub(1)));
            waiting.extend(self.0.store.scan(&at, 1).await?.records);
        }
        let (mut items, mut looked_at, mut last, mut more) = (Vec::new(), 0, None, true);
        loop {
            let Some(record) = waiting.pop_front() else {
                if !more {
                    return Ok(AuditPage { items, next: None });
                }
                let page = self.0.store.scan(&range, PAGE).await?;
                more = page.more;
                let end = page.records.last().map(|record| record.key.id.to_string());
                range = range.after(end);
                waiting.extend(page.records);
                continue;
            };
            for (at, text) in places(&record)?.into_iter().rev() {
                if before.is_some_and(|before| at >= before) {
                    continue;
                }
                if from.is_some_and(|from| at.0 < from) {
                    return Ok(AuditPage { items, next: None });
                }
                if items.len() == limit || looked_at >= LOOKED_AT {
                    return Ok(AuditPage { items, next: last.map(told) });
                }
                (looked_at, last) = (looked_at + 1, Some(at));
                if query.matches(text) {
                    items.push(AuditEntry::read(at.0, at.1, text));
                }
            }
        }
    }

    /// The entries of one entity from one of its entries on backwards, by the links between them,
    /// so that nothing else is looked at. Begins with its newest entry if no revision is given,
    /// which is looked for among the newest of all. Ends where an entry names none before it, or one
    /// that was let go of; then `next` is nothing.
    ///
    /// # Errors
    /// `NotFound` if there is no such entry, or none among those looked at.
    pub async fn history(
        &self,
        entity: &str,
        from: Option<Revision>,
        limit: usize,
    ) -> Result<(Vec<AuditEntry>, Option<Revision>)> {
        let mut next = match from {
            Some(from) => Some(from),
            None => self.last_of(entity).await?,
        };
        let mut items = Vec::new();
        while let Some(revision) = next.filter(|_| items.len() < limit.clamp(1, MAX_PAGE)) {
            let found = self.at(revision).await?;
            let found = found.into_iter().rev().find(|entry| entry.entity == entity);
            let Some(entry) = found else {
                if !items.is_empty() {
                    // The entry that it leads to was let go of: the history begins here.
                    break;
                }
                let kind = crate::error::ErrorKind::NotFound;
                let message = format!("{entity:?} has no entry of revision {revision}");
                return Err(Error::new(kind, message));
            };
            let before = entry.previous.as_deref().and_then(super::checkpoint::revision);
            // A link leads back, or it would be followed for ever.
            next = before.filter(|before| *before < revision);
            items.push(entry);
        }
        if let Some(revision) = next
            && !self.at(revision).await?.iter().any(|entry| entry.entity == entity)
        {
            next = None;
        }
        self.show_seals(&mut items).await?;
        Ok((items, next))
    }

    async fn last_of(&self, entity: &str) -> Result<Option<Revision>> {
        let entity = Some(entity.to_owned());
        let query = AuditQuery { entity, order: Order::Backwards, ..AuditQuery::default() };
        let page = self.backwards(&query, 1).await?;
        Ok(page.items.first().map(|entry| entry.revision))
    }

    /// The entries of one commit.
    pub(super) async fn at(&self, revision: Revision) -> Result<Vec<AuditEntry>> {
        let before = Revision::new(revision.number().saturating_sub(1));
        let range = log::range(&audit_log(Partition::FIRST), before);
        let Some(record) = self.0.store.scan(&range, 1).await?.records.into_iter().next() else {
            return Ok(Vec::new());
        };
        let found = places(&record)?.into_iter().filter(|(at, _)| at.0 == revision);
        Ok(found.map(|((revision, index), text)| AuditEntry::read(revision, index, text)).collect())
    }

    /// Says of each entry which checkpoint seals it.
    async fn show_seals(&self, items: &mut [AuditEntry]) -> Result<()> {
        let Some(head) = self.record(head_key()).await? else { return Ok(()) };
        let Some(head) = Head::decode(&head.value) else { return Ok(()) };
        let mut known: Vec<Checkpoint> = Vec::new();
        for entry in items {
            let seals =
                |seal: &&Checkpoint| seal.first <= entry.revision && entry.revision <= seal.last;
            if let Some(seal) = known.iter().rev().find(seals) {
                entry.sealed_by = Some(seal.number);
                continue;
            }
            let Some(number) = self.sealing(entry.revision, head.number).await? else { continue };
            let about = u64::try_from(CHECKPOINTS / 2).unwrap_or(0);
            let (near, _) = self.checkpoints(number.saturating_sub(about), CHECKPOINTS).await?;
            let read = |found: &StoredCheckpoint| Checkpoint::decode(&found.text).ok();
            known.extend(near.iter().filter_map(read).filter(|read| read.count > 0));
            // What is not let go of yet, and whose seal is, is sealed by none.
            entry.sealed_by = known.iter().rev().find(seals).map(|seal| seal.number);
        }
        Ok(())
    }

    /// The number of the checkpoint that seals this revision, found by halves.
    pub(super) async fn sealing(&self, revision: Revision, newest: u64) -> Result<Option<u64>> {
        let (mut low, mut high) = (1, newest);
        let Some(last) = self.checkpoint(newest).await? else { return Ok(None) };
        if last.last < revision {
            return Ok(None);
        }
        low = last.trimmed.map_or(low, |trimmed| trimmed.number.saturating_add(1));
        // The first one whose last line is not before it.
        while low < high {
            let middle = low + (high - low) / 2;
            match self.checkpoint(middle).await? {
                Some(read) if read.last < revision => low = middle + 1,
                Some(_) => high = middle,
                None => return Ok(None),
            }
        }
        Ok(Some(low))
    }

    /// The lines of a checkpoint, in order.
    pub(super) async fn lines_of(&self, seal: &Checkpoint) -> Result<Vec<(Revision, Vec<u8>)>> {
        let before = Revision::new(seal.first.number().saturating_sub(1));
        let mut range: Range = log::range(&audit_log(Partition::FIRST), before);
        let mut lines = Vec::new();
        loop {
            let page = self.0.store.scan(&range, PAGE).await?;
            for record in &page.records {
                for line in log::lines(record)? {
                    if line.revision > seal.last {
                        return Ok(lines);
                    }
                    lines.push((line.revision, line.text.to_vec()));
                }
            }
            if !page.more {
                return Ok(lines);
            }
            range = range.after(page.records.last().map(|record| record.key.id.to_string()));
        }
    }
}

/// The lines of a record with their places.
fn places(record: &Record) -> Result<Vec<(Place, &[u8])>> {
    let mut placed: Vec<(Place, &[u8])> = Vec::new();
    for line in log::lines(record)? {
        let index = match placed.last() {
            Some(((revision, index), _)) if *revision == line.revision => index + 1,
            Some(_) | None => 0,
        };
        placed.push(((line.revision, index), line.text));
    }
    Ok(placed)
}

fn told((revision, index): Place) -> String {
    format!("{revision}/{index}")
}
