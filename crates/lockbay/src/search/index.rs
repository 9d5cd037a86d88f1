//! Indexing: the leader reads what was appended to the audit log, and writes a segment of it.
//!
//! A line tells that a job or a saga has something new to be found by; what that is stands in the
//! record, which is read as it is now. The segment and the place in the log are one commit, so that
//! no line is passed over or counted twice, whenever leadership moves. A record that changes again
//! stands in a later segment once more, with everything in it.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use serde::Deserialize;
use serde::de::IgnoredAny;
use tokio_util::sync::CancellationToken;

use super::document::Document;
use super::head::{Head, Segment};
use super::pen::Pen;
use super::segment::{BlockWriter, DOCS, Doc};
use super::{INTERVAL, Inner, Search};
use crate::error::{Error, ErrorKind, Result};
use crate::metrics::Metric;
use crate::scribe::audit_log;
use crate::store::{Fence, Partition, log};

/// A round ends with the record of lines by which it comes to so many lines, bytes, or jobs and
/// sagas together.
const MAX_LINES: usize = 16_384;
const MAX_BYTES: usize = 8 * 1024 * 1024;
pub(super) const MAX_DOCS: usize = 2_048;
/// Records of lines read at once.
const PAGE: usize = 32;
/// Jobs and sagas read at once.
const READ_AT_ONCE: usize = 50;
/// Sagas whose logs are read at once.
const LOGS_AT_ONCE: usize = 8;
/// Rounds in a row before anything else has a turn.
const ROUNDS: usize = 1_000;

/// What a round came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Round {
    /// Lines of the audit log.
    entries: u64,
    /// Whether there may be more at once.
    more: bool,
}

/// What lines tell of.
#[derive(Default)]
pub(super) struct Touched {
    pub(super) jobs: BTreeSet<String>,
    /// Sagas of which it is only told that they started.
    started: BTreeSet<String>,
    /// Sagas whose logs are to be read.
    pub(super) changed: BTreeSet<String>,
    lines: usize,
    until: u64,
    more: bool,
}

/// A line as far as it matters here.
#[derive(Deserialize)]
struct Told<'a> {
    #[serde(borrow)]
    entity: Cow<'a, str>,
    #[serde(borrow)]
    action: Cow<'a, str>,
    reason: Option<IgnoredAny>,
    detail: Option<Detail>,
}

#[derive(Deserialize)]
struct Detail {
    error: Option<IgnoredAny>,
}

impl Touched {
    pub(super) fn len(&self) -> usize {
        self.jobs.len() + self.started.len() + self.changed.len()
    }

    /// Takes note of a line. What cannot be read is the business of those who verify the log.
    fn note(&mut self, line: &[u8]) {
        self.lines += 1;
        if !line.starts_with(b"{\"entity\":\"job/") && !line.starts_with(b"{\"entity\":\"saga/") {
            return;
        }
        let Ok(told) = serde_json::from_slice::<Told<'_>>(line) else { return };
        let failed = told.detail.is_some_and(|detail| detail.error.is_some());
        let news = failed || told.reason.is_some();
        match told.entity.split_once('/') {
            Some(("job", id)) if news || told.action == "claimed" => {
                self.jobs.insert(id.to_owned());
            }
            Some(("saga", id)) if told.action == "started" => {
                self.started.insert(id.to_owned());
            }
            // Why a saga stands as it does may be its deadline alone.
            Some(("saga", id)) if news || told.action == "timed_out" => {
                self.changed.insert(id.to_owned());
            }
            _ => {}
        }
    }
}

/// A segment in the making, as a whole in memory.
#[derive(Default)]
pub(super) struct Draft {
    docs: BTreeMap<Doc, BTreeSet<String>>,
}

impl Draft {
    fn add(&mut self, found: &impl Document, masked: &[String]) {
        self.docs.entry(found.doc()).or_default().extend(found.words(masked));
    }

    /// Writes it, and adds it to the head.
    pub(super) async fn write(self, pen: &mut Pen<'_>, head: &mut Head, rule: &str) -> Result<()> {
        let (Some((first, _)), Some((last, _))) =
            (self.docs.first_key_value(), self.docs.last_key_value())
        else {
            return Ok(());
        };
        let (first_us, last_us) = (first.created_us, last.created_us);
        let number = head.take_number();
        let mut words: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        let mut docs = Vec::with_capacity(self.docs.len());
        for (number, (doc, found)) in (0_u32..).zip(self.docs) {
            docs.push(doc);
            for word in found {
                words.entry(word).or_default().push(number);
            }
        }
        for (first, piece) in (0_u32..).step_by(DOCS).zip(docs.chunks(DOCS)) {
            pen.docs(number, first, piece);
        }
        let mut writer = BlockWriter::default();
        for (word, mut numbers) in words {
            numbers.reverse();
            for block in writer.add(&word, &numbers) {
                pen.block(number, block);
            }
        }
        if let Some(block) = writer.finish() {
            pen.block(number, block);
        }
        let (docs, checked_us) = (docs.len() as u64, pen.now.as_micros());
        let rule = rule.to_owned();
        head.segments.push(Segment { number, docs, first_us, last_us, checked_us, rule });
        Ok(())
    }
}

impl Search {
    /// Indexes while this instance leads, until it ends.
    pub(crate) async fn watch_over(self, stop: CancellationToken) {
        let inner = &self.0;
        if inner.refusal.is_some() {
            return;
        }
        let mut well = inner.clock.now();
        while !stop.is_cancelled() {
            stop.run_until_cancelled(inner.clock.sleep(INTERVAL)).await;
            if inner.leadership.fence().is_none() {
                inner.tell_lag(Duration::ZERO);
                well = inner.clock.now();
                continue;
            }
            match stop.run_until_cancelled(self.index_all(Breaks::Paced)).await {
                Some(Err(error)) => {
                    tracing::warn!(%error, "the search index was not brought up to date; it is tried again");
                    well = self.indexed_until().await.unwrap_or(well);
                    inner.tell_lag(inner.clock.now().since(well));
                }
                Some(Ok(_)) => well = inner.clock.now(),
                None => {}
            }
        }
    }

    /// Indexes everything that was entered until now, if this instance leads, and says how many
    /// entries of the audit log that were.
    ///
    /// # Errors
    /// `Held` if another instance leads, which indexes by itself. `Refused` if nothing is indexed
    /// because of the settings. What the store says otherwise.
    pub async fn index_now(&self) -> Result<u64> {
        self.0.check_on()?;
        self.index_all(Breaks::None).await
    }

    async fn index_all(&self, breaks: Breaks) -> Result<u64> {
        let inner = &self.0;
        let _one_at_a_time = inner.indexing.lock().await;
        let mut entries = 0;
        for _ in 0..ROUNDS {
            let fence = inner
                .leadership
                .fence()
                .ok_or_else(|| Error::new(ErrorKind::Held, "the leader keeps the search index"))?;
            let began = inner.clock.tick();
            let round = inner.round(&fence).await?;
            entries += round.entries;
            inner.tidy(&fence, breaks).await?;
            if !round.more {
                break;
            }
            inner.pause(breaks, inner.clock.tick().since(began)).await;
        }
        Ok(entries)
    }
}

/// Whether others have a turn between two pieces of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Breaks {
    Paced,
    None,
}

impl Inner {
    /// A backlog is worked off in half the time, and the rest is for others.
    pub(super) async fn pause(&self, breaks: Breaks, worked: std::time::Duration) {
        match breaks {
            Breaks::Paced => self.clock.sleep(worked).await,
            Breaks::None => tokio::task::yield_now().await,
        }
    }

    /// Indexes some of what is not indexed.
    async fn round(&self, fence: &Fence) -> Result<Round> {
        let mut pen = Pen::begin(&*self.store, fence).await?;
        let touched = self.touched(&pen.head).await?;
        if touched.until == pen.head.until {
            self.tell_lag(Duration::ZERO);
            return Ok(Round::default());
        }
        let (entries, more) = (touched.lines as u64, touched.more);
        let mut head = pen.head.clone();
        head.until = touched.until;
        self.draft(touched).await?.write(&mut pen, &mut head, &self.rule).await?;
        let behind = pen.now.since(head.until().time());
        pen.turn_to(head).await?;
        self.metrics.add(Metric::SearchEntriesIndexed, entries);
        self.tell_lag(if more { behind } else { Duration::ZERO });
        Ok(Round { entries, more })
    }

    fn tell_lag(&self, lag: Duration) {
        self.metrics.set(Metric::SearchLag, i64::try_from(lag.as_secs()).unwrap_or(i64::MAX));
    }

    /// Reads lines behind those that are indexed, whole records of them.
    async fn touched(&self, head: &Head) -> Result<Touched> {
        let after = head.until();
        let mut touched = Touched { until: head.until, ..Touched::default() };
        let mut range = log::range(&audit_log(Partition::FIRST), after);
        let mut bytes = 0;
        loop {
            let page = self.store.scan(&range, PAGE).await?;
            for record in &page.records {
                if touched.lines >= MAX_LINES || bytes >= MAX_BYTES || touched.len() >= MAX_DOCS {
                    return Ok(Touched { more: true, ..touched });
                }
                bytes += record.value.len();
                touched.until = touched.until.max(record.revision.number());
                // A damaged one is told by those who seal.
                let Ok(lines) = log::lines(record) else { continue };
                for line in lines.iter().filter(|line| line.revision > after) {
                    touched.note(line.text);
                }
            }
            if !page.more {
                return Ok(touched);
            }
            range = range.after(page.records.last().map(|record| record.key.id.to_string()));
        }
    }

    /// Reads what was touched, a few records at a time.
    pub(super) async fn draft(&self, touched: Touched) -> Result<Draft> {
        let mut draft = Draft::default();
        let jobs: Vec<&str> = touched.jobs.iter().map(String::as_str).collect();
        for ids in jobs.chunks(READ_AT_ONCE) {
            for job in self.jobs.found(ids).await?.iter().flatten() {
                draft.add(job, &self.masked);
            }
        }
        let started: Vec<&str> =
            touched.started.difference(&touched.changed).map(String::as_str).collect();
        for ids in started.chunks(READ_AT_ONCE) {
            for saga in self.sagas.as_started(ids).await?.iter().flatten() {
                draft.add(saga, &self.masked);
            }
        }
        let show = |id: String| async move { (self.sagas.show(&id).await, id) };
        let mut changed = stream::iter(touched.changed).map(show).buffered(LOGS_AT_ONCE);
        while let Some((saga, id)) = changed.next().await {
            match saga {
                Ok(saga) => draft.add(&saga, &self.masked),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                // It would be in the way of everything behind it.
                Err(error) if error.kind() == ErrorKind::Internal => {
                    tracing::warn!(%error, saga = id, "a saga that cannot be read is not indexed");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(draft)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_what_has_something_new_to_be_found_by() {
        let mut touched = Touched::default();
        for line in [
            r#"{"entity":"job/1","action":"claimed","actor":"a","detail":{"type":"t"}}"#,
            r#"{"entity":"job/2","action":"completed","actor":"a"}"#,
            r#"{"entity":"job/3","action":"failed","actor":"a","detail":{"error":"no"}}"#,
            r#"{"entity":"saga/4","action":"started","actor":"a"}"#,
            r#"{"entity":"saga/5","action":"step_completed","actor":"a","detail":{"number":1}}"#,
            r#"{"entity":"saga/6","action":"step_failed","actor":"a","detail":{"error":"no"}}"#,
            r#"{"entity":"saga/7","action":"step_retried","actor":"a","reason":"because"}"#,
            r#"{"entity":"saga/70","action":"timed_out","actor":"a"}"#,
            r#"{"entity":"movement/8","action":"committed","actor":"a","reason":"because"}"#,
            r#"{"entity":"saga/9","#,
        ] {
            touched.note(line.as_bytes());
        }
        let all = |ids: &BTreeSet<String>| ids.iter().cloned().collect::<Vec<_>>().join(" ");
        assert_eq!(all(&touched.jobs), "1 3");
        assert_eq!(all(&touched.started), "4");
        assert_eq!(all(&touched.changed), "6 7 70");
        assert_eq!(touched.lines, 10);
    }
}
