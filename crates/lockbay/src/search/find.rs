//! Finding: the newest first, from the segments, each record held against the query as it is now.
//!
//! A segment is looked into when everything newer is exhausted, by when its newest record was
//! created, so that what is common costs a look into the newest segments alone. Whatever the index
//! leads to is read and judged; what is gone, or matches no more, is passed over. Where segments
//! were merged meanwhile, the look is made again.

use std::cmp::Ordering;
use std::collections::{BTreeSet, BinaryHeap};

use futures_util::{StreamExt, stream};

use super::document::{Document, facet, facet_of};
use super::head::{Head, Segment, head_key};
use super::query::{Query, Wanted};
use super::read::{Table, find};
use super::segment::{Doc, DocKind};
use super::{Brief, Found, Hit, Inner, Look, Search, SearchPage};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::job::{self, JobInfo};
use crate::json::Json;
use crate::metrics::Metric;
use crate::saga::{self, SagaInfo};
use crate::scribe::audit_log;
use crate::store::{MAX_PAGE, Partition, log};

/// How many records one call reads and judges before it returns what it has.
const MAX_JUDGED: usize = 2_000;
/// How many are read at once.
const AT_ONCE: usize = 32;
/// About the most bytes of a page: a job may have two megabytes.
const MAX_PAGE_BYTES: usize = 8 * 1024 * 1024;
/// How often a look is made again because segments were merged meanwhile.
const LOOKS: usize = 5;
/// How many jobs of one key are found without the index.
const SAME_KEY: usize = 20;

impl Search {
    /// What matches, the newest first, at most `limit`, going on after `next` of an earlier page.
    ///
    /// What has exactly the id, or the business key, that is asked for comes first and is found
    /// whether it is indexed yet or not. A page may hold fewer than there are, with `next` set.
    /// Where the filter names a key, the query may be empty.
    ///
    /// # Errors
    /// `Invalid` for a query without a word, and for a `next` that was never handed out. `Refused`
    /// if nothing is indexed because of the settings.
    pub async fn find(
        &self,
        query: &str,
        look: &Look,
        next: Option<&str>,
        limit: usize,
    ) -> Result<SearchPage> {
        self.find_as(query, look, next, limit).await
    }

    /// The same as [`Search::find`] without parameters, results, contexts and metadata, so that a
    /// page of many large ones stays small.
    ///
    /// # Errors
    /// As of [`Search::find`].
    pub async fn find_brief(
        &self,
        query: &str,
        look: &Look,
        next: Option<&str>,
        limit: usize,
    ) -> Result<SearchPage<Brief>> {
        self.find_as(query, look, next, limit).await
    }

    async fn find_as<T: Kept>(
        &self,
        query: &str,
        look: &Look,
        next: Option<&str>,
        limit: usize,
    ) -> Result<SearchPage<T>> {
        let inner = &self.0;
        inner.check_on()?;
        let began = inner.clock.tick();
        let limit = limit.clamp(1, MAX_PAGE);
        let (text, key) = (query.trim(), look.key());
        let by_key = text.is_empty() && key.is_some_and(|key| !key.is_empty());
        let query = match by_key {
            true => Query::anything(),
            false => Query::parse(text)?,
        };
        let asked = Asked { query, look, masked: &inner.masked };
        let place = next.map(Place::parse).transpose()?;
        let direct = match text.is_empty() {
            true => inner.direct(key.unwrap_or_default(), &asked).await?,
            false => {
                let mut direct = inner.direct(text, &asked).await?;
                direct.extend(inner.started_by(key, &asked, &direct).await?);
                direct
            }
        };
        for _ in 0..LOOKS {
            let head = inner.head().await?;
            let mut walk = Walk::new(inner, &asked, &direct, &head);
            walk.go(place.clone().unwrap_or(Place::Direct(0)), limit).await?;
            // What was merged meanwhile may have been missed.
            if inner.head().await?.has_all(&walk.used) {
                inner.metrics.observe(Metric::SearchSeconds, inner.clock.tick().since(began));
                return Ok(SearchPage {
                    items: walk.items,
                    next: walk.next.as_ref().map(Place::text),
                    truncated: walk.truncated,
                    indexed_until: inner.indexed_until(&head).await?,
                });
            }
        }
        Err(Error::new(ErrorKind::Busy, "the search index changes faster than it can be read"))
    }

    /// Up to when everything that was entered can be found.
    ///
    /// # Errors
    /// `Refused` if nothing is indexed because of the settings. What the store says otherwise.
    pub async fn indexed_until(&self) -> Result<Timestamp> {
        self.0.check_on()?;
        let head = self.0.head().await?;
        self.0.indexed_until(&head).await
    }
}

impl Inner {
    async fn head(&self) -> Result<Head> {
        let read = self.store.get(&[head_key()]).await?;
        let record = read.records.into_iter().flatten().next();
        let head = record.map(|record| Head::decode(&record.value)).transpose()?;
        Ok(head.unwrap_or_default())
    }

    async fn indexed_until(&self, head: &Head) -> Result<Timestamp> {
        let behind = log::range(&audit_log(Partition::FIRST), head.until());
        let page = self.store.scan(&behind, 1).await?;
        let is_all = page.records.is_empty();
        Ok(if is_all { page.now } else { head.until().time() })
    }

    /// What is named by its id or its business key to the letter.
    async fn direct(&self, text: &str, asked: &Asked<'_>) -> Result<Vec<Hit>> {
        let mut hits = Vec::new();
        if asked.look.takes(DocKind::Job) {
            hits.extend(self.direct_jobs(text, asked).await?);
        }
        if asked.look.takes(DocKind::Saga) {
            let by_key = saga::id_of(text).ok().map(|id| (id, "idempotency_key"));
            for (id, name) in [(text.to_owned(), "saga_id")].into_iter().chain(by_key) {
                let found = self.saga(&id, asked).await?.map(|saga| Found::Saga(Box::new(saga)));
                hits.extend(found.map(|found| Hit { found, matched: vec![name.into()] }));
            }
        }
        hits.sort_by_key(|hit| std::cmp::Reverse(hit.doc()));
        hits.dedup_by_key(|hit| hit.doc());
        Ok(hits)
    }

    /// The saga that the idempotency key of the filter started, if it has the words, too: the index
    /// knows it by them and not by this key.
    async fn started_by(
        &self,
        key: Option<&str>,
        asked: &Asked<'_>,
        known: &[Hit],
    ) -> Result<Option<Hit>> {
        let id = key.filter(|_| asked.look.takes(DocKind::Saga)).map(saga::id_of);
        let Some(Ok(id)) = id else { return Ok(None) };
        let Some(saga) = self.saga(&id, asked).await? else { return Ok(None) };
        let Some(matched) = saga.matched(&asked.query, asked.masked) else { return Ok(None) };
        let hit = Hit { found: Found::Saga(Box::new(saga)), matched };
        Ok(Some(hit).filter(|hit| known.iter().all(|known| known.doc() != hit.doc())))
    }

    /// A saga, if it is there, can be read, and the filter takes it.
    async fn saga(&self, id: &str, asked: &Asked<'_>) -> Result<Option<SagaInfo>> {
        match self.sagas.show(id).await {
            Ok(saga) => Ok(Some(saga).filter(|saga| asked.look.takes_saga(saga, self.clock.now()))),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Invalid) => {
                Ok(None)
            }
            // It would be in the way of everything else that is found.
            Err(error) if error.kind() == ErrorKind::Internal => {
                tracing::warn!(%error, saga = id, "a saga that cannot be read is not shown");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn direct_jobs(&self, text: &str, asked: &Asked<'_>) -> Result<Vec<Hit>> {
        let by_id = self.jobs.found(&[text]).await?.into_iter().flatten();
        let by_id = by_id.map(|found| (found, "job_id"));
        // Of more than a few the newest come first, as everything else does.
        let by_key = self.jobs.few_of_key(text, SAME_KEY).await?;
        let all = by_id.chain(by_key.into_iter().map(|found| (found, "job_key")));
        let taken = all.filter(|(found, _)| asked.look.takes_job(found));
        Ok(taken
            .map(|(found, name)| Hit {
                found: Found::Job(Box::new(found)),
                matched: vec![name.into()],
            })
            .collect())
    }

    /// Reads a record that the index led to, and holds it against the query.
    async fn judge(&self, doc: Doc, asked: &Asked<'_>) -> Result<Option<Hit>> {
        let found = match doc.kind {
            DocKind::Job => {
                let job = self.jobs.found(&[doc.id.as_str()]).await?.into_iter().flatten().next();
                job.filter(|job| asked.look.takes_job(job)).map(|job| Found::Job(Box::new(job)))
            }
            DocKind::Saga => {
                self.saga(&doc.id, asked).await?.map(|saga| Found::Saga(Box::new(saga)))
            }
        };
        // A job that was forgotten and claimed anew stands in the index as another.
        let Some(found) = found.filter(|found| found.as_document().doc() == doc) else {
            return Ok(None);
        };
        let matched = found.as_document().matched(&asked.query, asked.masked);
        Ok(matched.map(|matched| Hit { found, matched }))
    }
}

/// What is asked for.
struct Asked<'a> {
    query: Query,
    look: &'a Look,
    masked: &'a [String],
}

impl Asked<'_> {
    /// What the index is asked for, the rarest first.
    fn wanted(&self) -> Vec<Wanted> {
        let facets = self.look.facets().into_iter().map(Wanted::Word);
        self.query.wanted().into_iter().chain(facets).collect()
    }
}

impl Look {
    fn takes(&self, kind: DocKind) -> bool {
        match self {
            Look::Any => true,
            Look::Jobs(_) => kind == DocKind::Job,
            Look::Sagas(_) => kind == DocKind::Saga,
        }
    }

    fn takes_job(&self, found: &JobInfo) -> bool {
        match self {
            Look::Any => true,
            Look::Jobs(filter) => job::matches(filter, found),
            Look::Sagas(_) => false,
        }
    }

    fn takes_saga(&self, found: &SagaInfo, now: Timestamp) -> bool {
        match self {
            Look::Any => true,
            Look::Jobs(_) => false,
            Look::Sagas(filter) => saga::matches(filter, found, now),
        }
    }

    /// The key that the filter names.
    fn key(&self) -> Option<&str> {
        match self {
            Look::Any => None,
            Look::Jobs(filter) => filter.job_key.as_deref(),
            Look::Sagas(filter) => filter.key.as_deref(),
        }
    }

    /// What the index is asked for on behalf of the filter, the rarest first.
    fn facets(&self) -> Vec<String> {
        let (kind, name) = match self {
            Look::Any => return Vec::new(),
            Look::Jobs(filter) => (DocKind::Job, filter.job_type.as_deref().map(|of| ("type", of))),
            Look::Sagas(filter) => {
                (DocKind::Saga, filter.saga_name.as_deref().map(|of| ("name", of)))
            }
        };
        let key = self.key().map(|key| facet("key", key));
        let name = name.map(|(name, value)| facet(name, value));
        key.into_iter().chain(name).chain([facet_of(kind)]).collect()
    }
}

impl Found {
    pub(super) fn as_document(&self) -> &dyn Document {
        match self {
            Found::Job(job) => &**job,
            Found::Saga(saga) => &**saga,
        }
    }
}

impl Hit {
    fn doc(&self) -> Doc {
        self.found.as_document().doc()
    }
}

/// What a page keeps of what was found.
trait Kept: From<Hit> {
    /// How much of a page it takes, about.
    fn bytes(&self) -> usize;
}

impl Kept for Hit {
    fn bytes(&self) -> usize {
        let of = |json: &Option<Json>| json.as_ref().map_or(0, |json| json.text().len());
        match &self.found {
            Found::Job(job) => job.parameters.text().len() + of(&job.result),
            Found::Saga(saga) => {
                let steps = saga.steps.iter().map(|step| {
                    step.parameters.text().len() + of(&step.result) + of(&step.compensation_result)
                });
                saga.context.text().len() + saga.metadata.text().len() + steps.sum::<usize>()
            }
        }
    }
}

impl Kept for Brief {
    /// Keys and names are short: the number of items is bound enough.
    fn bytes(&self) -> usize {
        0
    }
}

/// Where a page ends.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// So many of those that are named to the letter were shown.
    Direct(usize),
    /// Behind this one.
    Behind(Doc),
}

impl Place {
    fn text(&self) -> String {
        match self {
            Place::Direct(shown) => format!("direct/{shown}"),
            Place::Behind(Doc { created_us, kind, id }) => {
                let kind = match kind {
                    DocKind::Job => "job",
                    DocKind::Saga => "saga",
                };
                format!("{kind}/{created_us:016x}/{id}")
            }
        }
    }

    fn parse(text: &str) -> Result<Place> {
        let parse = || match text.split_once('/')? {
            ("direct", shown) => shown.parse().ok().map(Place::Direct),
            (kind, doc) => {
                let (created, id) = doc.split_once('/')?;
                let created_us = u64::from_str_radix(created, 16).ok()?;
                let kind = match kind {
                    "job" => DocKind::Job,
                    "saga" => DocKind::Saga,
                    _ => return None,
                };
                Some(Place::Behind(Doc { created_us, kind, id: id.to_owned() }))
            }
        };
        parse().ok_or_else(|| Error::invalid("this page token does not belong to this search"))
    }
}

/// A segment on the way.
struct Source<'a> {
    segment: &'a Segment,
    table: Table<'a>,
    /// What it has, the newest first; from `at` on it is to come.
    numbers: Vec<u32>,
    at: usize,
}

/// What comes next of a source: a record, or whatever it has from some time on.
#[derive(Debug, PartialEq, Eq)]
struct Next {
    created_us: u64,
    doc: Option<Doc>,
    source: usize,
}

impl Ord for Next {
    /// The newest is the greatest. A segment is looked into before what is as new is taken.
    fn cmp(&self, other: &Self) -> Ordering {
        let key = |next: &Next| (next.created_us, next.doc.is_none());
        key(self)
            .cmp(&key(other))
            .then_with(|| self.doc.cmp(&other.doc))
            .then_with(|| self.source.cmp(&other.source))
    }
}

impl PartialOrd for Next {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// One way through the segments.
struct Walk<'a, T> {
    inner: &'a Inner,
    asked: &'a Asked<'a>,
    wanted: Vec<Wanted>,
    direct: &'a [Hit],
    named: BTreeSet<Doc>,
    sources: Vec<Source<'a>>,
    heap: BinaryHeap<Next>,
    items: Vec<T>,
    bytes: usize,
    next: Option<Place>,
    truncated: bool,
    /// The segments that were looked into.
    used: Vec<u64>,
}

impl<'a, T: Kept> Walk<'a, T> {
    fn new(inner: &'a Inner, asked: &'a Asked<'a>, direct: &'a [Hit], head: &'a Head) -> Self {
        let sources: Vec<Source<'a>> = head
            .segments
            .iter()
            .map(|segment| Source {
                segment,
                table: Table::new(&*inner.store, segment.number),
                numbers: Vec::new(),
                at: 0,
            })
            .collect();
        Walk {
            inner,
            asked,
            wanted: asked.wanted(),
            direct,
            named: direct.iter().map(Hit::doc).collect(),
            sources,
            heap: BinaryHeap::new(),
            items: Vec::new(),
            bytes: 0,
            next: None,
            truncated: false,
            used: Vec::new(),
        }
    }

    async fn go(&mut self, place: Place, limit: usize) -> Result<()> {
        let behind = match place {
            Place::Direct(shown) => {
                for hit in self.direct.iter().skip(shown) {
                    self.add(hit.clone());
                    if self.is_full(limit) {
                        let shown = shown.saturating_add(self.items.len());
                        self.next = Some(Place::Direct(shown));
                        return Ok(());
                    }
                }
                None
            }
            Place::Behind(doc) => Some(doc),
        };
        for (source, Source { segment, .. }) in self.sources.iter().enumerate() {
            if behind.as_ref().is_none_or(|behind| segment.first_us <= behind.created_us) {
                let created_us = segment.last_us;
                self.heap.push(Next { created_us, doc: None, source });
            }
        }
        let (mut last, mut judged) = (behind.clone(), 0);
        loop {
            let most = limit.saturating_sub(self.items.len()).min(AT_ONCE);
            let batch = self.batch(&mut last, behind.as_ref(), most).await?;
            judged += batch.len();
            if batch.is_empty() {
                return Ok(());
            }
            let (inner, asked) = (self.inner, self.asked);
            let judge = |doc| inner.judge(doc, asked);
            let mut hits = stream::iter(batch.iter().cloned()).map(judge).buffered(AT_ONCE);
            for doc in &batch {
                if let Some(hit) = hits.next().await.transpose()?.flatten() {
                    self.add(hit);
                }
                // What is behind it in the batch is judged again, for the next page.
                if self.bytes >= MAX_PAGE_BYTES {
                    let more = batch.last() != Some(doc) || !self.heap.is_empty();
                    self.next = more.then(|| Place::Behind(doc.clone()));
                    return Ok(());
                }
            }
            if self.is_full(limit) || judged >= MAX_JUDGED {
                self.next = last.filter(|_| !self.heap.is_empty()).map(Place::Behind);
                return Ok(());
            }
        }
    }

    fn add(&mut self, hit: Hit) {
        let kept = T::from(hit);
        self.bytes += kept.bytes();
        self.items.push(kept);
    }

    fn is_full(&self, limit: usize) -> bool {
        self.items.len() >= limit || self.bytes >= MAX_PAGE_BYTES
    }

    /// The next records that the index leads to, at most so many.
    async fn batch(
        &mut self,
        last: &mut Option<Doc>,
        behind: Option<&Doc>,
        most: usize,
    ) -> Result<Vec<Doc>> {
        let mut batch = Vec::new();
        while batch.len() < most {
            let Some(Next { doc, source, .. }) = self.heap.pop() else { break };
            match doc {
                None => self.open(source, behind).await?,
                Some(doc) => {
                    if let Some(source) = self.sources.get_mut(source) {
                        source.at += 1;
                    }
                    // A record may stand in several segments.
                    if last.as_ref() != Some(&doc) {
                        if !self.named.contains(&doc) {
                            batch.push(doc.clone());
                        }
                        *last = Some(doc);
                    }
                }
            }
            self.push(source).await?;
        }
        Ok(batch)
    }

    /// Looks into a segment.
    async fn open(&mut self, source: usize, behind: Option<&Doc>) -> Result<()> {
        let Some(source) = self.sources.get_mut(source) else { return Ok(()) };
        self.used.push(source.segment.number);
        let found = find(&*self.inner.store, source.segment, &self.wanted).await?;
        self.truncated |= found.truncated;
        source.numbers = found.numbers;
        let Some(behind) = behind else { return Ok(()) };
        let (mut low, mut high) = (0, source.numbers.len());
        while low < high {
            let middle = low + (high - low) / 2;
            let number = source.numbers.get(middle).copied().unwrap_or_default();
            match source.table.doc(number).await? {
                Some(doc) if doc >= behind => low = middle + 1,
                _ => high = middle,
            }
        }
        source.at = low;
        Ok(())
    }

    /// Says what comes next of a segment, if anything does.
    async fn push(&mut self, at: usize) -> Result<()> {
        let Some(source) = self.sources.get_mut(at) else { return Ok(()) };
        let Some(number) = source.numbers.get(source.at).copied() else { return Ok(()) };
        if let Some(doc) = source.table.doc(number).await?.cloned() {
            self.heap.push(Next { created_us: doc.created_us, doc: Some(doc), source: at });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_written_in_one_way() {
        let behind = Doc { created_us: 17, kind: DocKind::Saga, id: "a/b".into() };
        for place in [Place::Direct(3), Place::Behind(behind)] {
            assert_eq!(Place::parse(&place.text()).unwrap(), place);
        }
        for wrong in ["", "direct/x", "saga/zz/1", "lease/00/1", "saga/1"] {
            Place::parse(wrong).unwrap_err();
        }
    }
}
