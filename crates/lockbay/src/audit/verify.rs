//! Verifying the log in the store: lines and checkpoints in one pass, in bounded memory.

use std::time::Duration;

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::check::{Checker, Found, Problem};
use super::checkpoint::{self, Checkpoint, Head, head_key};
use super::key::PublicKey;
use super::{Audit, StoredCheckpoint, entry, used_key};
use crate::clock::Timestamp;
use crate::error::Result;
use crate::hex::hex;
use crate::scribe::audit_log;
use crate::store::{Key, MAX_PAGE, Partition, Range, Record, Revision, log};

/// Records of lines read at once.
const PAGE: usize = 500;
/// Records compared with their entries at once.
const COMPARED: usize = 200;
/// How often it is begun anew when the beginning of the log is let go meanwhile.
const TRIES: usize = 3;

/// What is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Thoroughness {
    /// The log.
    #[default]
    Log,
    /// The log, and that the records that entries tell of are still as they were left.
    Records,
}

/// How fast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    Full,
    /// A page, then a rest of nine times as long.
    Slow,
}

/// What a verification found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    /// Whether there is no problem.
    pub ok: bool,
    /// How many entries there are.
    pub entries: u64,
    /// How many of them are sealed.
    pub sealed: u64,
    /// How many are not yet.
    pub unsealed: u64,
    /// How many checkpoints there are.
    pub checkpoints: u64,
    /// The number of the newest one.
    pub newest_checkpoint: u64,
    /// The hash of the newest one: keep it elsewhere, and nobody can set the log back unnoticed.
    pub newest_hash: Option<String>,
    /// The last checkpoint that may be gone, because it was kept long enough.
    pub trimmed: Option<u64>,
    /// When the first entry was made.
    pub first_at: Option<Timestamp>,
    /// When the last entry was made.
    pub last_at: Option<Timestamp>,
    /// The first checkpoint that is signed by a key that is trusted. What stands before it was
    /// sealed by a key of the store, or by one that is not known here any more, and is as it was
    /// when that key gave way.
    pub vouched_from: Option<u64>,
    /// The key that signs now.
    pub public_key: Option<PublicKey>,
    /// Whether that key came from a setting, so that the store does not know it.
    pub key_outside_of_store: bool,
    /// How many records were compared with their entries.
    pub records_compared: u64,
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// How many more problems there are.
    pub more_problems: u64,
    /// How long it took.
    pub took_ms: u64,
}

/// Checkpoints, page by page.
struct Checkpoints<'a> {
    audit: &'a Audit,
    page: std::vec::IntoIter<StoredCheckpoint>,
    after: u64,
    more: bool,
}

impl Checkpoints<'_> {
    async fn next(&mut self) -> Result<Option<StoredCheckpoint>> {
        loop {
            if let Some(next) = self.page.next() {
                self.after = self.after.max(next.number);
                return Ok(Some(next));
            }
            if !self.more {
                return Ok(None);
            }
            let (page, more) = self.audit.checkpoints(self.after, MAX_PAGE).await?;
            // Keys that are none of ours cannot be gone on behind.
            self.more = more && page.iter().any(|found| found.number > self.after);
            self.page = page.into_iter();
        }
    }
}

impl Audit {
    /// Goes through the whole log, and says everything that is wrong with it and where.
    ///
    /// It reads every entry once, in memory of a few pages. Entries that are made meanwhile are
    /// left for the next time.
    ///
    /// # Errors
    /// What the store says. A damaged log is no error but a verdict.
    pub async fn verify(&self, thoroughness: Thoroughness) -> Result<Verdict> {
        self.verify_at(thoroughness, Pace::Full).await
    }

    pub(super) async fn verify_at(
        &self,
        thoroughness: Thoroughness,
        pace: Pace,
    ) -> Result<Verdict> {
        let began = self.0.clock.tick();
        let mut verdict = self.pass(thoroughness, pace).await?;
        for _ in 1..TRIES {
            let trimmed = self.newest().await?.and_then(|newest| newest.trimmed);
            let trimmed = trimmed.map(|trimmed| trimmed.number);
            if verdict.ok || trimmed == verdict.trimmed {
                break;
            }
            verdict = self.pass(thoroughness, pace).await?;
        }
        let took = self.0.clock.tick().since(began);
        verdict.took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let first = verdict.problems.first().map(|first| first.problem.clone());
        self.verified(verdict.problems.len() as u64 + verdict.more_problems, first);
        Ok(verdict)
    }

    async fn pass(&self, thoroughness: Thoroughness, pace: Pace) -> Result<Verdict> {
        let seen = self.seen();
        let read = self.0.store.get(&[head_key(), used_key()]).await?;
        let mut found = read.records.into_iter();
        let (head, used) = (found.next().flatten(), found.next().flatten());
        let named = head.as_ref().map(|record| Head::decode(&record.value));
        let known = named.clone().flatten();
        // Reading is faster than writing: the end of the log is met. No ping, which a store that
        // was found rolled back refuses.
        let until = Revision::new(u64::MAX);
        let newest = match &known {
            Some(head) => self.checkpoint(head.number).await?,
            None => None,
        };
        let trimmed = newest.filter(Checkpoint::is_signed).and_then(|newest| newest.trimmed);
        let (after, from) = trimmed.map_or((0, Revision::ZERO), |it| (it.number, it.last));
        let mut checker = Checker::behind(after, from);
        // Where nothing was sealed yet, whatever is sealed meanwhile is left for the next time.
        let limit = match (&head, &used) {
            (None, None) => Some(0),
            (Some(_), _) | (_, Some(_)) => known.as_ref().map(|head| head.number),
        };
        let mut compared = 0;
        let mut walk = Walk::new(self, &mut checker, pace, (from, until));
        if thoroughness == Thoroughness::Records {
            walk.compared = Some((Vec::new(), &mut compared));
        }
        walk.go(after, limit).await?;
        let (number, hash) = checker.newest();
        match (&named, &used) {
            (None, None) if checker.found.checkpoints == 0 => {}
            (None, _) => checker.found.add(None, None, "the head is missing"),
            (Some(None), _) => checker.found.add(None, None, "the head is damaged"),
            (Some(Some(head)), _) => {
                self.compare_head((seen.as_ref(), head), (number, hash), &mut checker).await?;
            }
        }
        let used_now = used.as_ref().and_then(|record| std::str::from_utf8(&record.value).ok());
        let signs = checker.found.key.map(|key| key.to_string());
        if checker.found.checkpoints > 0 && used_now != signs.as_deref() {
            checker.found.add(
                None,
                Some(number),
                "the note of the key in use is missing or changed",
            );
        }
        let trusted = match self.trusted().await {
            Ok(trusted) => trusted,
            Err(error) => {
                checker.found.add(None, None, error.message().to_owned());
                Vec::new()
            }
        };
        if trusted.is_empty() && checker.found.checkpoints > 0 {
            checker.found.add(None, None, "the key in the store is missing");
        }
        checker.end(&trusted);
        let hash = hash.map(|hash| hex(&hash));
        let outside = self.has_a_key_of_its_own();
        Ok(Verdict {
            newest_checkpoint: number,
            newest_hash: hash,
            trimmed: trimmed.map(|trimmed| trimmed.number),
            key_outside_of_store: outside,
            records_compared: compared,
            ..verdict(checker.found)
        })
    }

    /// Whether the head names the last checkpoint, and no later one was ever seen.
    async fn compare_head(
        &self,
        (seen, head): (Option<&Head>, &Head),
        (number, hash): (u64, Option<[u8; 32]>),
        checker: &mut Checker,
    ) -> Result<()> {
        if head.number != number {
            let named = head.number;
            let problem = format!("checkpoint {named}, the newest, is missing");
            checker.found.add(None, Some(named), problem);
        } else if hash.is_some_and(|hash| hash != head.hash) {
            checker.found.add(None, Some(number), "it is not the one that the head names");
        }
        if let Some(why) = self.forgotten(seen, head).await? {
            checker.found.add(None, None, why);
        } else {
            self.saw(head.clone());
        }
        Ok(())
    }
}

/// What was found, told.
pub(super) fn verdict(found: Found) -> Verdict {
    Verdict {
        ok: found.problems.is_empty(),
        entries: found.entries,
        sealed: found.sealed,
        unsealed: found.entries - found.sealed,
        checkpoints: found.checkpoints,
        newest_checkpoint: 0,
        newest_hash: None,
        trimmed: None,
        first_at: found.first.map(Revision::time),
        last_at: found.last.map(Revision::time),
        vouched_from: found.vouched_from,
        public_key: found.key,
        key_outside_of_store: false,
        records_compared: 0,
        problems: found.problems,
        more_problems: found.more,
        took_ms: 0,
    }
}

/// Entries whose records are still to be looked at.
type Waiting = Vec<(Revision, Key, String)>;

/// The way through lines and checkpoints together.
struct Walk<'a> {
    audit: &'a Audit,
    checker: &'a mut Checker,
    pace: Pace,
    range: Range,
    records: std::vec::IntoIter<Record>,
    more: bool,
    /// The store's time of that page.
    now: Timestamp,
    /// The lines between these are looked at.
    between: (Revision, Revision),
    compared: Option<(Waiting, &'a mut u64)>,
}

impl<'a> Walk<'a> {
    fn new(
        audit: &'a Audit,
        checker: &'a mut Checker,
        pace: Pace,
        between: (Revision, Revision),
    ) -> Self {
        Walk {
            audit,
            checker,
            pace,
            range: log::range(&audit_log(Partition::FIRST), between.0),
            records: Vec::new().into_iter(),
            more: true,
            now: Timestamp::from_micros(0),
            between,
            compared: None,
        }
    }

    /// Goes through everything behind the checkpoint of number `after`.
    async fn go(&mut self, after: u64, limit: Option<u64>) -> Result<()> {
        let page = Vec::new().into_iter();
        let mut checkpoints = Checkpoints { audit: self.audit, page, after, more: true };
        while let Some(next) = checkpoints.next().await? {
            if limit.is_some_and(|limit| next.number > limit && next.number != 0) {
                // Made meanwhile, unless nothing leads to it from the head; then the head is wrong.
                if !self.is_later(next.number).await? {
                    let problem = "it is newer than the one that the head names";
                    self.checker.found.add(None, Some(next.number), problem);
                }
                break;
            }
            if next.number == 0 {
                self.checker.found.add(None, None, "a checkpoint stands under no number");
                continue;
            }
            if let Ok(read) = Checkpoint::decode(&next.text) {
                self.lines(read.last).await?;
            }
            self.checker.checkpoint(next.number, &next.text);
        }
        self.lines(self.between.1).await?;
        self.compare().await
    }

    async fn is_later(&self, number: u64) -> Result<bool> {
        let head = self.audit.record(head_key()).await?;
        let head = head.and_then(|record| Head::decode(&record.value));
        Ok(head.is_some_and(|head| head.number >= number))
    }

    /// Gives the checker the lines up to this revision.
    async fn lines(&mut self, upto: Revision) -> Result<()> {
        loop {
            if let Some(next) = self.records.as_slice().first() {
                let last = revision_of(next);
                if last.is_some_and(|last| last > upto) {
                    return Ok(());
                }
            }
            let Some(record) = self.records.next() else {
                if !self.more {
                    return Ok(());
                }
                self.next_page().await?;
                continue;
            };
            match log::lines(&record) {
                Ok(lines) => {
                    let reached = self.reached(&record).await;
                    for line in lines {
                        if line.revision > reached {
                            let problem = "this entry is ahead of the store";
                            self.checker.found.add(Some(line.revision), None, problem);
                        }
                        self.checker.line(line.revision, line.text);
                        self.note(line.revision, line.text);
                    }
                }
                Err(error) => self.checker.unreadable(error.message().to_owned()),
            }
            if self.compared.as_ref().is_some_and(|(waiting, _)| waiting.len() >= COMPARED) {
                self.compare().await?;
            }
        }
    }

    /// Up to which revision a line can have been appended. Where the store does not say, as one
    /// that was found rolled back, nothing is held against it.
    async fn reached(&self, record: &Record) -> Revision {
        let reached = self.audit.reached(record.revision, self.now).await;
        reached.unwrap_or(record.revision)
    }

    async fn next_page(&mut self) -> Result<()> {
        let clock = &self.audit.0.clock;
        let began = clock.tick();
        let page = self.audit.0.store.scan(&self.range, PAGE).await?;
        let last = page.records.last().map(|record| record.key.id.to_string());
        self.range = self.range.clone().after(last.or(self.range.after.take()));
        self.more = page.more;
        self.now = page.now;
        self.records = page.records.into_iter();
        match self.pace {
            Pace::Full => {}
            Pace::Slow => {
                let took = clock.tick().since(began).max(Duration::from_millis(1));
                clock.sleep(took * 9).await;
            }
        }
        Ok(())
    }

    /// Keeps an entry whose record is to be compared.
    fn note(&mut self, revision: Revision, text: &[u8]) {
        let Some((waiting, _)) = &mut self.compared else { return };
        let entry = entry::AuditEntry::read(revision, 0, text);
        let Some(digest) = entry.digest else { return };
        let detail = entry.detail.unwrap_or_default();
        if let Some(key) = (self.audit.0.record_of)(&entry.entity, &detail) {
            waiting.push((revision, key, digest));
        }
    }

    /// Compares the records of entries with their digests, as far as they are still there.
    async fn compare(&mut self) -> Result<()> {
        let Some((waiting, compared)) = &mut self.compared else { return Ok(()) };
        let waiting = std::mem::take(waiting);
        if waiting.is_empty() {
            return Ok(());
        }
        let keys: Vec<Key> = waiting.iter().map(|(_, key, _)| key.clone()).collect();
        let read = self.audit.0.store.get(&keys).await?;
        for ((revision, key, digest), record) in waiting.into_iter().zip(read.records) {
            let Some(record) = record else { continue };
            **compared += 1;
            if hex(&Sha256::digest(&record.value)) != digest {
                let problem = format!("the record {key} is not as this entry says");
                self.checker.found.add(Some(revision), None, problem);
            }
        }
        Ok(())
    }
}

/// The revision that the key of a record of lines names.
fn revision_of(record: &Record) -> Option<Revision> {
    let (_, last) = record.key.id.rsplit_once('/')?;
    u64::from_str_radix(last, 16).ok().map(Revision::new)
}

/// The hash of a checkpoint in digits, as it is compared with what somebody kept.
pub(super) fn hash_text(stored: &[u8]) -> String {
    hex(&checkpoint::hash_of(stored))
}
