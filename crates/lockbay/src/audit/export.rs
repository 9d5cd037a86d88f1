//! Exports: the log as JSON lines that prove themselves without a store.
//!
//! The first line says where the export begins, then come entries, and behind the entries of each
//! checkpoint the checkpoint itself. The last line counts them and is signed over everything before
//! it, so that what is not sealed is covered as well. Each line can be written in one way only.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::check::{Checker, Problem};
use super::checkpoint::{self, Checkpoint};
use super::key::{PublicKey, Signer};
use super::verify::{self, Verdict};
use super::{Audit, StoredCheckpoint};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::hex::{hex, unhex};
use crate::scribe::audit_log;
use crate::store::{MAX_PAGE, Partition, Range, Record, Revision, log};

const VERSION: u32 = 1;
const SIGNED: &[u8] = b"lockbay audit export\n";
/// Records of lines read at once.
const PAGE: usize = 100;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    lockbay_audit: u32,
    at: Timestamp,
    public_key: Option<PublicKey>,
    /// The checkpoint behind which it begins, and the last revision that it sealed.
    after_checkpoint: u64,
    after_revision: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct End {
    entries: u64,
    checkpoints: u64,
    /// SHA-256 of every line before this one.
    sha256: String,
    key: Option<PublicKey>,
    signature: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Footer {
    end: End,
}

/// An export that is being written, piece by piece.
pub struct Export {
    audit: Audit,
    range: Range,
    records: VecDeque<Record>,
    more: bool,
    seals: VecDeque<StoredCheckpoint>,
    next_seal: u64,
    /// The newest checkpoint that is in it, and the last revision.
    last_seal: u64,
    until: Revision,
    header: Option<Vec<u8>>,
    signer: Option<Signer>,
    hash: Sha256,
    entries: u64,
    checkpoints: u64,
    ended: bool,
}

impl Audit {
    /// Begins an export of the entries from and until these times, and of all others that are
    /// sealed together with them; of everything for nothing. With an end it has no entries that are
    /// not sealed.
    ///
    /// # Errors
    /// What the store says.
    pub async fn export(
        &self,
        from: Option<Timestamp>,
        until: Option<Timestamp>,
    ) -> Result<Export> {
        let newest = self.newest().await?;
        let trimmed = newest.as_ref().and_then(|newest| newest.trimmed);
        let mut after = trimmed.map_or((0, Revision::ZERO), |it| (it.number, it.last));
        let at = |time: Timestamp| Revision::new(time.as_micros());
        let (mut last, mut to) = (0, Revision::new(u64::MAX));
        if let Some(newest) = newest {
            last = newest.number;
            if let Some(from) = from {
                // Later than everything that is sealed, it begins behind that.
                let before = match self.sealing(at(from), last).await? {
                    Some(number) => self.checkpoint(number.saturating_sub(1)).await?,
                    None => (newest.last < at(from)).then(|| newest.clone()),
                };
                if let Some(before) = before.filter(|before| before.number > after.0) {
                    after = (before.number, before.last);
                }
            }
            if let Some(until) = until {
                to = newest.last;
                if let Some(number) = self.sealing(at(until), last).await?
                    && let Some(end) = self.checkpoint(number).await?
                {
                    (last, to) = (number, end.last);
                }
            }
        } else if until.is_some() {
            to = Revision::ZERO;
        }
        let signer = self.export_signer().await?;
        let header = Header {
            lockbay_audit: VERSION,
            at: self.store_time().await?,
            public_key: signer.as_ref().map(Signer::public),
            after_checkpoint: after.0,
            after_revision: after.1.to_string(),
        };
        Ok(Export {
            audit: self.clone(),
            range: log::range(&audit_log(Partition::FIRST), after.1),
            records: VecDeque::new(),
            more: true,
            seals: VecDeque::new(),
            next_seal: after.0 + 1,
            last_seal: last,
            until: to,
            header: Some(checkpoint::write(&header)?),
            signer,
            hash: Sha256::new(),
            entries: 0,
            checkpoints: 0,
            ended: false,
        })
    }
}

impl Export {
    /// Some whole lines; nothing at the end.
    ///
    /// # Errors
    /// What the store says, and `Internal` for what cannot be read: there is no export of a log
    /// that is damaged so far.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>> {
        if self.ended {
            return Ok(None);
        }
        let mut out = Vec::new();
        if let Some(header) = self.header.take() {
            self.put(&mut out, &header);
        }
        while out.len() < 64 * 1024 {
            if !self.step(&mut out).await? {
                self.end(&mut out)?;
                break;
            }
        }
        Ok(Some(out))
    }

    /// Writes one checkpoint or one record of lines; says whether there was one.
    async fn step(&mut self, out: &mut Vec<u8>) -> Result<bool> {
        if self.seals.is_empty() && self.next_seal <= self.last_seal {
            let (page, _) =
                self.audit.checkpoints(self.next_seal.saturating_sub(1), MAX_PAGE).await?;
            let asked = self.next_seal..=self.last_seal;
            self.seals.extend(page.into_iter().filter(|seal| asked.contains(&seal.number)));
            if self.seals.is_empty() {
                return Err(self.gone());
            }
        }
        if self.records.is_empty() && self.more {
            let page = self.audit.0.store.scan(&self.range, PAGE).await?;
            self.more = page.more;
            let last = page.records.last().map(|record| record.key.id.to_string());
            self.range = self.range.clone().after(last);
            self.records.extend(page.records);
        }
        let sealed_to = match self.seals.front() {
            Some(seal) => Some(Checkpoint::decode(&seal.text)?.last),
            None => None,
        };
        let limit = sealed_to.unwrap_or(self.until);
        let lines_come_first = self.records.front().is_some_and(|record| record.revision <= limit);
        if lines_come_first && let Some(record) = self.records.pop_front() {
            for line in log::lines(&record)? {
                self.entries += 1;
                let text = entry_line(line.revision, line.text);
                self.put(out, &text);
            }
            return Ok(true);
        }
        let Some(seal) = self.seals.pop_front() else { return Ok(false) };
        if seal.number != self.next_seal {
            return Err(self.gone());
        }
        self.next_seal = seal.number.saturating_add(1);
        self.checkpoints += 1;
        let text = [b"{\"checkpoint\":", &*seal.text, b"}"].concat();
        self.put(out, &text);
        Ok(true)
    }

    /// What was to come next is missing: it was let go of meanwhile, or somebody took it.
    fn gone(&self) -> Error {
        let message = format!("checkpoint {} is gone; begin the export anew", self.next_seal);
        Error::new(ErrorKind::Internal, message)
    }

    fn put(&mut self, out: &mut Vec<u8>, line: &[u8]) {
        self.hash.update(line);
        self.hash.update(b"\n");
        out.extend_from_slice(line);
        out.push(b'\n');
    }

    fn end(&mut self, out: &mut Vec<u8>) -> Result<()> {
        self.ended = true;
        let (entries, checkpoints) = (self.entries, self.checkpoints);
        let sha256 = hex(&self.hash.clone().finalize());
        let key = self.signer.as_ref().map(Signer::public);
        let mut end = End { entries, checkpoints, sha256, key, signature: None };
        if let Some(signer) = &self.signer {
            end.signature = Some(hex(&signer.sign(&signed(&end)?)));
        }
        out.extend(checkpoint::write(&Footer { end })?);
        out.push(b'\n');
        Ok(())
    }
}

fn signed(end: &End) -> Result<Vec<u8>> {
    let End { entries, checkpoints, sha256, key, .. } = end;
    let (sha256, key) = (sha256.clone(), *key);
    let bare = End { entries: *entries, checkpoints: *checkpoints, sha256, key, signature: None };
    Ok([SIGNED, &checkpoint::write(&bare)?].concat())
}

/// A line as it is exported: its text as it is if that is JSON, else as text in quotes.
fn entry_line(revision: Revision, text: &[u8]) -> Vec<u8> {
    let head = format!("{{\"revision\":\"{revision}\",");
    match serde_json::from_slice::<&serde_json::value::RawValue>(text) {
        Ok(_) => [head.as_bytes(), b"\"entry\":", text, b"}"].concat(),
        Err(_) => [head.as_bytes(), b"\"hex\":\"", hex_text(text).as_bytes(), b"\"}"].concat(),
    }
}

fn hex_text(text: &[u8]) -> String {
    hex(text)
}

/// What stands on a line of an export.
enum Piece {
    Entry(Revision, Vec<u8>),
    Checkpoint(Vec<u8>),
}

fn piece(line: &[u8]) -> Option<Piece> {
    if let Some(rest) = line.strip_prefix(b"{\"checkpoint\":") {
        return rest.strip_suffix(b"}").map(|text| Piece::Checkpoint(text.to_vec()));
    }
    let rest = line.strip_prefix(b"{\"revision\":\"")?.strip_suffix(b"}")?;
    let quote = rest.iter().position(|byte| *byte == b'"')?;
    let revision = checkpoint::revision(std::str::from_utf8(&rest[..quote]).ok()?)?;
    let rest = &rest[quote..];
    let text = match rest.strip_prefix(b"\",\"entry\":") {
        Some(text) => text.to_vec(),
        None => {
            let digits = rest.strip_prefix(b"\",\"hex\":\"")?.strip_suffix(b"\"")?;
            let digits = std::str::from_utf8(digits).ok()?;
            let pairs = digits.as_bytes().chunks(2);
            let bytes = pairs.map(|pair| unhex::<1>(std::str::from_utf8(pair).ok()?));
            bytes.map(|byte| byte.map(|[byte]| byte)).collect::<Option<Vec<u8>>>()?
        }
    };
    // There is one way to write it.
    (entry_line(revision, &text) == line).then_some(Piece::Entry(revision, text))
}

/// Checks an export line by line.
pub struct FileCheck {
    trusted: Option<PublicKey>,
    checker: Option<Checker>,
    hash: Sha256,
    lines: u64,
    key: Option<PublicKey>,
    footer: Option<End>,
    problems: Vec<Problem>,
}

/// What the check of an export found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FileVerdict {
    /// As of the log in the store.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// The key by which it was judged.
    pub judged_by: Option<PublicKey>,
    /// Whether that is the one which the file itself names, so that anybody may have made it.
    pub key_is_from_the_file: bool,
}

impl FileCheck {
    /// Checks by this key, or by the one that the file names.
    pub fn new(trusted: Option<PublicKey>) -> Self {
        FileCheck {
            trusted,
            checker: None,
            hash: Sha256::new(),
            lines: 0,
            key: None,
            footer: None,
            problems: Vec::new(),
        }
    }

    fn wrong(&mut self, problem: impl Into<String>) {
        let problem = format!("line {}: {}", self.lines, problem.into());
        match &mut self.checker {
            Some(checker) => checker.found.add(checker.last, None, problem),
            None if self.problems.len() < 100 => {
                self.problems.push(Problem { revision: None, checkpoint: None, problem });
            }
            None => {}
        }
    }

    /// Takes the next line, with its newline.
    pub fn line(&mut self, raw: &[u8]) {
        self.lines += 1;
        let Some(line) = raw.strip_suffix(b"\n") else {
            return self.wrong("it does not end; the file is cut off");
        };
        if self.footer.is_some() {
            return self.wrong("something stands behind the end");
        }
        if let Some(footer) = footer(line) {
            return self.end(footer);
        }
        self.hash.update(raw);
        if self.lines == 1 {
            return self.begin(line);
        }
        let piece = piece(line);
        match (&mut self.checker, piece) {
            (Some(checker), Some(Piece::Entry(revision, text))) => checker.line(revision, &text),
            (Some(checker), Some(Piece::Checkpoint(stored))) => {
                let number = Checkpoint::decode(&stored).map(|read| read.number);
                let number = number.unwrap_or(checker.newest().0.saturating_add(1));
                checker.checkpoint(number, &stored);
            }
            (_, None) => self.wrong("it is neither an entry nor a checkpoint"),
            (None, Some(_)) => {}
        }
    }

    fn begin(&mut self, line: &[u8]) {
        let header = serde_json::from_slice::<Header>(line).ok();
        let header =
            header.filter(|header| checkpoint::write(header).is_ok_and(|text| text == line));
        let read = header.and_then(|header| {
            let after = checkpoint::revision(&header.after_revision)?;
            (header.lockbay_audit == VERSION).then_some((header, after))
        });
        match read {
            Some((header, after)) => {
                self.key = header.public_key;
                self.checker = Some(Checker::behind(header.after_checkpoint, after));
            }
            None => self.wrong("it is not the beginning of an export of the audit trail"),
        }
    }

    fn end(&mut self, footer: End) {
        let there = self.checker.as_ref();
        let (entries, seals) = there.map_or((0, 0), |it| (it.found.entries, it.found.checkpoints));
        if (entries, seals) != (footer.entries, footer.checkpoints) {
            let (said, and) = (footer.entries, footer.checkpoints);
            self.wrong(format!(
                "it counts {said} entries and {and} checkpoints, there are {entries} and {seals}"
            ));
        }
        if hex(&self.hash.clone().finalize()) != footer.sha256 {
            self.wrong("the lines before it are not those that were exported");
        }
        let judged_by = self.trusted.or(self.key);
        let signature = footer.signature.as_deref().and_then(unhex::<64>);
        match (footer.key, signature, signed(&footer)) {
            (Some(key), Some(signature), Ok(signed)) if key.verifies(&signed, &signature) => {
                if Some(key) != judged_by {
                    self.wrong(format!("it is signed by key {key}"));
                }
            }
            (None, None, _) => self.wrong("nobody has signed it"),
            (..) => self.wrong("its signature is not that of its key"),
        }
        self.footer = Some(footer);
    }

    /// Ends it.
    pub fn finish(mut self) -> FileVerdict {
        if self.footer.is_none() {
            self.wrong("there is no end; the file is cut off");
        }
        let judged_by = self.trusted.or(self.key);
        let mut checker = self.checker.unwrap_or_else(|| Checker::behind(0, Revision::ZERO));
        let trusted: Vec<PublicKey> = judged_by.into_iter().collect();
        checker.end(&trusted);
        let (number, hash) = checker.newest();
        checker.found.problems.splice(0..0, self.problems);
        let verdict = Verdict {
            newest_checkpoint: number,
            newest_hash: hash.map(|hash| hex(&hash)),
            ..verify::verdict(checker.found)
        };
        FileVerdict { verdict, judged_by, key_is_from_the_file: self.trusted.is_none() }
    }
}

fn footer(line: &[u8]) -> Option<End> {
    if !line.starts_with(b"{\"end\":") {
        return None;
    }
    let footer: Footer = serde_json::from_slice(line).ok()?;
    checkpoint::write(&footer).is_ok_and(|text| text == line).then_some(footer.end)
}
