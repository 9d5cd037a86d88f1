//! Deleting what was judged: in commits under the leader's fence, counted exactly, and measured.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::Mode;
use super::pace::Pace;
use super::report::RuleReport;
use super::term::{Lost, Term};
use crate::clock::Tick;
use crate::error::{Error, ErrorKind, Result};
use crate::retire::{Doomed, Weight};
use crate::scribe::{Entry, Scribe};
use crate::store::{Commit, Guard, Key, Reply, Revision, Store, Write};

/// How many records of a batch are weighed.
const SAMPLE: usize = 16;
/// How many bytes one commit writes, about; deletions have few.
const COMMIT_BYTES: usize = 512 * 1024;
/// How often a commit without a clear answer is sent again, and after which pause at first.
const RESENDS: u32 = 5;
const RESEND_AFTER: Duration = Duration::from_millis(50);
/// How many commits go out at once where a batch had to be split.
const AT_ONCE: usize = 32;

/// Why something stays that was about to go.
const TOUCHED: &str = "touched meanwhile";

/// One who deletes.
pub(super) struct Deleter<'a> {
    pub(super) store: &'a dyn Store,
    pub(super) scribe: &'a Scribe,
    /// By which rule.
    pub(super) rule: &'a str,
    pub(super) term: &'a Term,
    pub(super) mode: Mode,
    pub(super) pace: Pace,
    /// When the sweeper last left the store alone.
    pub(super) rested: Tick,
    /// See [`Work`](super::work::Work).
    pub(super) progress: Option<&'a AtomicU64>,
}

impl Deleter<'_> {
    /// Deletes these, and enters in the report what came of each.
    pub(super) async fn delete(
        &mut self,
        doomed: Vec<Doomed>,
        report: &mut RuleReport,
    ) -> Result<(), Lost> {
        let (mut pack, mut writes, mut bytes) = (Vec::new(), 0, 0);
        for one in doomed {
            writes += one.writes.len();
            bytes += one.writes.iter().map(size_of).sum::<usize>();
            if one.rest.is_some() && self.mode == Mode::Delete {
                self.in_pieces(one, report).await?;
                continue;
            }
            pack.push(one);
            if writes >= self.pace.size() || bytes >= COMMIT_BYTES {
                self.flush(std::mem::take(&mut pack), report).await?;
                (writes, bytes) = (0, 0);
            }
        }
        self.flush(pack, report).await
    }

    async fn flush(&mut self, pack: Vec<Doomed>, report: &mut RuleReport) -> Result<(), Lost> {
        if pack.is_empty() {
            return Ok(());
        }
        let (many, bytes) = (pack.len() as u64, self.weigh(&pack).await?);
        let cleaned = match self.mode {
            Mode::DryRun => many,
            Mode::Delete => self.commit(pack, report).await?,
        };
        report.cleaned += cleaned;
        report.bytes_freed += bytes * cleaned / many;
        self.rest().await
    }

    /// Leaves the store alone for as long as it was busy with this.
    pub(super) async fn rest(&mut self) -> Result<(), Lost> {
        let now = self.term.clock.tick();
        if let Some(progress) = self.progress {
            progress.store(now.as_nanos(), Ordering::Relaxed);
        }
        let busy = now.since(self.rested);
        let rested = self.term.sleep(Pace::pause(busy)).await;
        self.rested = self.term.clock.tick();
        rested
    }

    /// Deletes all of these in one commit, or, if one of them has changed, each that has not.
    async fn commit(&mut self, pack: Vec<Doomed>, report: &mut RuleReport) -> Result<u64, Lost> {
        let commit = match self.together(&pack) {
            Ok(commit) => commit,
            Err(error) => return Ok(all_failed(&pack, &error, report)),
        };
        let began = self.term.clock.tick();
        let reply = self.send(&commit).await?;
        self.pace.took(self.term.clock.tick().since(began), commit.writes.len());
        match reply {
            Ok(Reply::Committed { .. }) => Ok(pack.len() as u64),
            Ok(Reply::Conflict { guard: 0, .. }) => Err(Lost),
            Ok(Reply::Conflict { .. }) if pack.len() == 1 => {
                report.keep(TOUCHED, 1);
                Ok(0)
            }
            Ok(Reply::Conflict { .. }) => self.one_by_one(&pack, report).await,
            Err(error) => Ok(all_failed(&pack, &error, report)),
        }
    }

    async fn one_by_one(&mut self, pack: &[Doomed], report: &mut RuleReport) -> Result<u64, Lost> {
        let mut cleaned = 0;
        for some in pack.chunks(AT_ONCE) {
            let commits: Result<Vec<Commit>> =
                some.iter().map(|one| self.together(std::slice::from_ref(one))).collect();
            let commits = match commits {
                Ok(commits) => commits,
                Err(error) => {
                    all_failed(some, &error, report);
                    continue;
                }
            };
            let replies = self.term.alive(self.store.commit_all(&commits)).await?;
            for (commit, reply) in commits.iter().zip(replies) {
                let reply = match reply {
                    Ok(reply) => Ok(reply),
                    Err(_) => self.send(commit).await?,
                };
                match reply {
                    Ok(Reply::Committed { .. }) => cleaned += 1,
                    Ok(Reply::Conflict { guard: 0, .. }) => return Err(Lost),
                    Ok(Reply::Conflict { .. }) => report.keep(TOUCHED, 1),
                    Err(error) => report.failed(error.to_string()),
                }
            }
        }
        Ok(cleaned)
    }

    /// Deletes something that is too large for one commit. Whoever is interrupted leaves it so that
    /// the next one goes on.
    async fn in_pieces(&mut self, one: Doomed, report: &mut RuleReport) -> Result<(), Lost> {
        let bytes = self.weigh(std::slice::from_ref(&one)).await?;
        let Some(rest) = &one.rest else { return Ok(()) };
        let first = match self.together(std::slice::from_ref(&one)) {
            Ok(commit) => self.piece(&commit, report).await?,
            Err(error) => {
                report.failed(error.to_string());
                None
            }
        };
        let Some(revision) = first else { return Ok(()) };
        // What the first commit deletes does not touch the anchor, unless it put it.
        let put = one.writes.iter().any(|write| *write.key() == rest.anchor);
        let anchored = one.guards.iter().find_map(|guard| match guard {
            Guard::RevisionIs(key, revision) if *key == rest.anchor && !put => Some(*revision),
            Guard::RevisionIs(..) | Guard::Absent(_) | Guard::Lapsed(_) | Guard::Held(_) => None,
        });
        let anchor = Guard::RevisionIs(rest.anchor.clone(), anchored.unwrap_or(revision));
        for writes in &rest.commits {
            self.rest().await?;
            let guards = vec![Guard::Held(self.term.fence.clone()), anchor.clone()];
            let mut writes = writes.clone();
            writes.extend(self.entered(0, &writes));
            let commit = Commit::new(rest.anchor.partition, guards, writes, Vec::new());
            let commit = match commit {
                Ok(commit) => commit,
                Err(error) => {
                    report.failed(error.to_string());
                    return Ok(());
                }
            };
            if self.piece(&commit, report).await?.is_none() {
                return Ok(());
            }
        }
        report.cleaned += 1;
        report.bytes_freed += bytes;
        self.rest().await
    }

    /// One of several commits; `None` if there is nothing to go on with.
    async fn piece(
        &mut self,
        commit: &Commit,
        report: &mut RuleReport,
    ) -> Result<Option<Revision>, Lost> {
        match self.send(commit).await? {
            Ok(Reply::Committed { revision, .. }) => Ok(Some(revision)),
            Ok(Reply::Conflict { guard: 0, .. }) => Err(Lost),
            Ok(Reply::Conflict { .. }) => {
                report.keep(TOUCHED, 1);
                Ok(None)
            }
            Err(error) => {
                report.failed(error.to_string());
                Ok(None)
            }
        }
    }

    fn together(&self, pack: &[Doomed]) -> Result<Commit> {
        let fence = self.term.fence.clone();
        let partition = fence.key.partition;
        let mut guards = vec![Guard::Held(fence)];
        guards.extend(pack.iter().flat_map(|one| one.guards.iter().cloned()));
        let mut writes: Vec<Write> =
            pack.iter().flat_map(|one| one.writes.iter().cloned()).collect();
        writes.extend(self.entered(pack.len(), &writes));
        let hints = pack.iter().flat_map(|one| one.hints.iter().cloned()).collect();
        Commit::new(partition, guards, writes, hints)
    }

    /// What one commit enters: by which rule, how many things go, in how many records.
    fn entered(&self, things: usize, writes: &[Write]) -> Option<Write> {
        let mut kinds: Vec<&str> = writes.iter().map(|write| write.key().kind.name()).collect();
        kinds.sort_unstable();
        kinds.dedup();
        let entry = Entry::new("cleanup", self.rule, "removed")
            .with("things", things as u64)
            .with("records", writes.len() as u64)
            .with("kinds", kinds);
        self.scribe.enter(&entry)
    }

    /// Sends a commit until its outcome is clear, within limits. It is the same commit each time,
    /// and applied once at most.
    async fn send(&self, commit: &Commit) -> Result<Result<Reply>, Lost> {
        let mut pause = RESEND_AFTER;
        let mut resends = 0;
        loop {
            match self.term.alive(self.store.commit(commit)).await? {
                Err(error) if is_passing(&error) && resends < RESENDS => {
                    resends += 1;
                    self.term.sleep(pause).await?;
                    pause *= 2;
                }
                reply => return Ok(reply),
            }
        }
    }

    /// What these occupy, as far as the store can tell: a sample is weighed and scaled.
    async fn weigh(&self, pack: &[Doomed]) -> Result<u64, Lost> {
        let mut known = 0;
        let mut keys: Vec<&Key> = Vec::new();
        for one in pack {
            match &one.weight {
                Weight::Known(bytes) => known += bytes,
                Weight::Measure(of) => keys.extend(of),
            }
        }
        if keys.is_empty() {
            return Ok(known);
        }
        let step = keys.len().div_ceil(SAMPLE);
        let sample: Vec<Key> = keys.iter().step_by(step).map(|key| (*key).clone()).collect();
        match self.term.alive(self.store.upkeep().weigh(&sample)).await? {
            Ok(bytes) => Ok(known + bytes * keys.len() as u64 / sample.len() as u64),
            Err(error) => {
                // Nothing that must be right rests on it.
                tracing::debug!(%error, "what is cleaned up could not be weighed");
                Ok(known)
            }
        }
    }
}

/// Whether the same commit may fare better a moment later.
fn is_passing(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Unknown | ErrorKind::Busy)
}

fn all_failed(pack: &[Doomed], error: &Error, report: &mut RuleReport) -> u64 {
    for _ in pack {
        report.failed(error.to_string());
    }
    0
}

fn size_of(write: &Write) -> usize {
    match write {
        Write::Put { key, value, .. } => key.id.len() + value.len(),
        Write::Append { key, line } => key.id.len() + line.len(),
        Write::Touch { key, .. } | Write::Delete { key } | Write::Mark { key } => key.id.len(),
    }
}
