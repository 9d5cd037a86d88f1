//! Runs that somebody asks for, wherever that is: asked of the leader by a record that it takes,
//! carries out and answers.
//!
//! A request outlives a leader: the next one begins it anew. It has a deadline in every state, so
//! that none stays.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::report::{OptimizeReport, Report, megabytes};
use super::rule::Strategy;
use super::term::{Lost, Term};
use super::work::{Extent, Part, Wanted};
use super::{Mode, RunRequest, Sweeper};
use crate::error::{Error, ErrorKind, Result};
use crate::scribe::Entry;
use crate::store::{
    Commit, Deadline, Guard, Hints, Key, Kind, MAX_PAGE, Partition, Range, Record, Reply, Write,
};

/// A run that somebody asked the leader for, and its answer. Key: time, random digits.
pub(crate) const REQUEST: Kind = Kind::new("sweep-request");

/// How many requests there may be at once.
const MOST: usize = 64;
/// How long a caller waits, and its request stays if nobody takes it.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long a caller waits for somebody to lead.
const NOBODY: Duration = Duration::from_secs(5);
/// How long a request may be in progress, and how long its answer stays.
const LONGEST: Duration = Duration::from_secs(86_400);
const ANSWERED: Duration = Duration::from_secs(600);
/// How often a caller, and the leader, look without a hint.
const POLL: Duration = Duration::from_millis(500);
const SERVE_EVERY: Duration = Duration::from_secs(1);
/// How often a commit without a clear answer is sent again.
const RESENDS: u32 = 5;
/// How long the store may take to give its space back.
const RECLAIM: Duration = Duration::from_secs(60);

/// What is asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Wish {
    Run(RunRequest),
    Optimize,
}

/// What a wish came to.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    Ran(Box<Report>),
    Optimized(Box<OptimizeReport>),
    Failed { kind: String, message: String },
}

impl Outcome {
    pub(super) fn into_report(self) -> Result<Report> {
        match self {
            Outcome::Ran(report) => Ok(*report),
            Outcome::Optimized(report) => Ok(report.cleanup),
            Outcome::Failed { kind, message } => Err(error(&kind, message)),
        }
    }

    pub(super) fn into_optimized(self) -> Result<OptimizeReport> {
        match self {
            Outcome::Optimized(report) => Ok(*report),
            Outcome::Ran(report) => Ok(OptimizeReport { cleanup: *report, ..Default::default() }),
            Outcome::Failed { kind, message } => Err(error(&kind, message)),
        }
    }

    fn failed(error: &Error) -> Self {
        Outcome::Failed { kind: error.kind().name().into(), message: error.to_string() }
    }
}

fn error(kind: &str, message: String) -> Error {
    let kind = ErrorKind::ALL.into_iter().find(|known| known.name() == kind);
    Error::new(kind.unwrap_or(ErrorKind::Internal), message)
}

/// What is stored of a request.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Asked {
    wish: Wish,
    /// The instance that asks.
    by: String,
    /// How many leaders have begun it.
    leaders: u32,
    state: State,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Waiting,
    Running,
    Ended(Outcome),
}

/// A request as it was found.
struct Found {
    record: Record,
    asked: Asked,
}

impl Sweeper {
    /// Has the leader carry a wish out, also where that is this instance: so a run outlives its
    /// caller and its leader, and they are carried out one after another.
    pub(super) async fn carry_out(&self, wish: Wish) -> Result<Outcome> {
        if self.0.stop.is_cancelled() {
            return Err(Error::new(ErrorKind::Unavailable, "this instance shuts down"));
        }
        self.ask(wish).await
    }

    /// Carries a wish out under the leader's right, as long as that is held.
    async fn fulfil(&self, wish: &Wish, term: &Term) -> (Outcome, Result<(), Lost>) {
        match wish {
            Wish::Run(request) => match self.run_here(request, term).await {
                Ok((report, ended)) => (Outcome::Ran(Box::new(report)), ended),
                Err(error) => (Outcome::failed(&error), Ok(())),
            },
            Wish::Optimize => match self.optimize_here(term).await {
                Ok((report, ended)) => (Outcome::Optimized(Box::new(report)), ended),
                Err(error) => (Outcome::failed(&error), Ok(())),
            },
        }
    }

    async fn run_here(
        &self,
        request: &RunRequest,
        term: &Term,
    ) -> Result<(Report, Result<(), Lost>)> {
        let wanted = request.wanted()?;
        let lost = || Ok((Report::default(), Err(Lost)));
        let Ok(rules) = term.alive(self.rules()).await else { return lost() };
        let mut rules = rules?;
        rules.retain(|rule| request.means(rule));
        // What a dry run finds may go meanwhile, and nobody waits for it.
        let turn = match wanted.mode {
            Mode::Delete => Some(term.alive(self.0.others.lock()).await),
            Mode::DryRun => None,
        };
        if matches!(turn, Some(Err(Lost))) {
            return lost();
        }
        let came_to = self.go_through(&rules, &wanted, term).await;
        drop(turn);
        Ok(came_to)
    }

    async fn optimize_here(&self, term: &Term) -> Result<(OptimizeReport, Result<(), Lost>)> {
        let began = self.0.clock.tick();
        let mut report = OptimizeReport::default();
        let Ok(_others) = term.alive(self.0.others.lock()).await else {
            return Ok((report, Err(Lost)));
        };
        let Ok(rules) = term.alive(self.rules()).await else { return Ok((report, Err(Lost))) };
        let mut rules = rules?;
        rules.retain(|rule| rule.strategy == Strategy::Lazy);
        let (mode, extent, part) = (Mode::Delete, Extent::All, Part::All);
        let wanted = Wanted { mode, pattern: None, ttl: None, extent, part, named: false };
        let ended;
        (report.cleanup, ended) = self.go_through(&rules, &wanted, term).await;
        if ended.is_err() {
            return Ok((report, ended));
        }
        let upkeep = self.0.store.upkeep();
        let Ok(before) = term.alive(upkeep.footprint()).await else {
            return Ok((report, Err(Lost)));
        };
        report.used_bytes_before = before?.used_bytes;
        let until = self.0.clock.tick() + RECLAIM;
        loop {
            let begun = self.0.clock.tick();
            let Ok(piece) = term.alive(upkeep.reclaim()).await else {
                return Ok((report, Err(Lost)));
            };
            let piece = piece?;
            report.pieces += 1;
            report.bytes_freed += piece.bytes;
            report.more = piece.more;
            let now = self.0.clock.tick();
            if !piece.more || now >= until {
                break;
            }
            if term.sleep(now.since(begun)).await.is_err() {
                return Ok((report, Err(Lost)));
            }
        }
        let Ok(after) = term.alive(upkeep.footprint()).await else {
            return Ok((report, Err(Lost)));
        };
        report.used_bytes_after = after?.used_bytes;
        report.memory_freed_mb = megabytes(report.bytes_freed);
        report.time_ms = self.0.clock.tick().since(began).as_secs_f64() * 1e3;
        Ok((report, Ok(())))
    }

    /// Asks whoever leads, and waits for the answer.
    async fn ask(&self, wish: Wish) -> Result<Outcome> {
        let all = Range::new(Partition::FIRST, REQUEST, "");
        let there = self.0.store.scan(&all, MAX_PAGE).await?;
        let now = there.now;
        let waits = |record: Record| {
            !record.lapsed(now)
                && found(record).is_ok_and(|found| matches!(found.asked.state, State::Waiting))
        };
        if there.more || there.records.into_iter().filter(|one| waits(one.clone())).count() >= MOST
        {
            let message = "too many runs of cleanup were asked for: ask again later";
            return Err(Error::new(ErrorKind::Busy, message));
        }
        let (clock, random) = (&self.0.clock, self.0.clock.random_id());
        let id = format!("{:016x}{}", clock.now().as_micros(), &random[..16]);
        let key = Key::new(Partition::FIRST, REQUEST, id);
        let by = self.0.settings.instance_id.clone();
        let asked = Asked { wish, by, leaders: 0, state: State::Waiting };
        let put = put(&key, &asked, PATIENCE)?;
        let guards = vec![Guard::Absent(key.clone())];
        let entry = Entry::new("cleanup-request", &key.id, "asked");
        let writes = std::iter::once(put).chain(self.0.book.scribe.enter(&entry)).collect();
        self.send(&Commit::new(key.partition, guards, writes, vec![key.clone()])?).await?;
        self.wait_for(&key).await
    }

    async fn wait_for(&self, key: &Key) -> Result<Outcome> {
        let clock = &self.0.clock;
        let range = Range::new(key.partition, REQUEST, &*key.id);
        let mut hints = self.0.store.watch(&range).await.ok();
        let (until, mut led) = (clock.tick() + PATIENCE, clock.tick());
        while clock.tick() < until {
            match self.0.store.get(std::slice::from_ref(key)).await {
                Err(error) => tracing::debug!(%error, "the answer of a run is not there yet"),
                Ok(read) => {
                    let record = read.records.into_iter().flatten().next();
                    let found = record.map(found).transpose()?.ok_or_else(gone)?;
                    match found.asked.state.clone() {
                        State::Ended(outcome) => {
                            self.remove(&found).await;
                            return Ok(outcome);
                        }
                        State::Running => led = clock.tick(),
                        State::Waiting => {
                            if !matches!(self.0.leadership.current().await, Ok(None)) {
                                led = clock.tick();
                            }
                            let vacant = clock.tick().since(led);
                            // What somebody takes at this moment is waited for.
                            if vacant >= NOBODY && self.remove(&found).await {
                                return Err(nobody_leads());
                            }
                        }
                    }
                }
            }
            let looked = async {
                match &mut hints {
                    Some(hints) => drop(clock.timeout(POLL, hints.next()).await),
                    None => clock.sleep(POLL).await,
                }
            };
            if self.0.stop.run_until_cancelled(looked).await.is_none() {
                return Err(Error::new(
                    ErrorKind::Unknown,
                    "this instance shuts down; the run goes on",
                ));
            }
        }
        let read = self.0.store.get(std::slice::from_ref(key)).await?;
        let record = read.records.into_iter().flatten().next();
        if let Some(found) = record.map(found).transpose()?
            && matches!(found.asked.state, State::Waiting)
            && self.remove(&found).await
        {
            let message = "other runs took ten minutes; this one was not begun: ask again";
            return Err(Error::new(ErrorKind::Unavailable, message));
        }
        Err(Error::new(ErrorKind::Unknown, "the run was not over within ten minutes; it goes on"))
    }

    /// Removes a request as it was found. Returns whether it is gone by that.
    async fn remove(&self, found: &Found) -> bool {
        let key = found.record.key.clone();
        let guard = Guard::RevisionIs(key.clone(), found.record.revision);
        let commit =
            Commit::new(key.partition, vec![guard], vec![Write::Delete { key }], Vec::new());
        match commit {
            Ok(commit) => {
                matches!(self.0.store.commit(&commit).await, Ok(Reply::Committed { .. }))
            }
            Err(_) => false,
        }
    }

    /// Carries out what others ask for, one after another, while this instance leads.
    pub(super) async fn serve(&self, term: &Term) -> Result<(), Lost> {
        let all = Range::new(Partition::FIRST, REQUEST, "");
        let mut hints: Option<Hints> = None;
        loop {
            if hints.is_none() {
                hints = term.alive(self.0.store.watch(&all)).await?.ok();
            }
            match term.alive(self.0.store.scan(&all, MAX_PAGE)).await? {
                Ok(page) => {
                    for record in page.records {
                        let lapsed = record.lapsed(page.now);
                        self.answer(record, lapsed, term).await?;
                    }
                }
                Err(error) => tracing::warn!(%error, "requests for cleanup could not be read"),
            }
            match &mut hints {
                Some(hints) => {
                    let hinted = self.0.clock.timeout(SERVE_EVERY, hints.next());
                    drop(term.alive(hinted).await?);
                }
                None => term.sleep(SERVE_EVERY).await?,
            }
        }
    }

    async fn answer(&self, record: Record, lapsed: bool, term: &Term) -> Result<(), Lost> {
        let key = record.key.clone();
        let unchanged = Guard::RevisionIs(key.clone(), record.revision);
        let held = Guard::Held(term.fence.clone());
        if lapsed {
            let guards = vec![held, unchanged, Guard::Lapsed(key.clone())];
            let delete = Write::Delete { key: key.clone() };
            if let Ok(commit) = Commit::new(key.partition, guards, vec![delete], Vec::new()) {
                drop(term.alive(self.0.store.commit(&commit)).await?);
            }
            return Ok(());
        }
        // What cannot be read goes when its time is over.
        let Ok(Found { mut asked, .. }) = found(record) else { return Ok(()) };
        if matches!(asked.state, State::Ended(_)) {
            return Ok(());
        }
        asked.leaders += 1;
        asked.state = State::Running;
        let Some(taken) =
            self.write(&key, &asked, vec![held.clone(), unchanged], LONGEST, term).await?
        else {
            return Ok(());
        };
        let (mut outcome, ended) = self.fulfil(&asked.wish, term).await;
        ended?;
        if let Outcome::Ran(report) = &mut outcome {
            report.leaders = asked.leaders;
        }
        asked.state = State::Ended(outcome);
        let guards = vec![held, Guard::RevisionIs(key.clone(), taken)];
        self.write(&key, &asked, guards, ANSWERED, term).await.map(drop)
    }

    /// Writes a request if the guards hold, and says at which revision.
    async fn write(
        &self,
        key: &Key,
        asked: &Asked,
        guards: Vec<Guard>,
        ttl: Duration,
        term: &Term,
    ) -> Result<Option<crate::store::Revision>, Lost> {
        let commit = put(key, asked, ttl)
            .and_then(|put| Commit::new(key.partition, guards, vec![put], vec![key.clone()]));
        let commit = match commit {
            Ok(commit) => commit,
            Err(error) => {
                tracing::error!(%error, "a request for cleanup could not be written");
                return Ok(None);
            }
        };
        match term.alive(self.send(&commit)).await? {
            Ok(Reply::Committed { revision, .. }) => Ok(Some(revision)),
            Ok(Reply::Conflict { guard: 0, .. }) => Err(Lost),
            Ok(Reply::Conflict { .. }) => Ok(None),
            Err(error) => {
                tracing::warn!(%error, "a request for cleanup was not written");
                Ok(None)
            }
        }
    }

    /// Sends a commit until its outcome is clear, within limits.
    async fn send(&self, commit: &Commit) -> Result<Reply> {
        let mut pause = Duration::from_millis(50);
        let mut resends = 0;
        loop {
            match self.0.store.commit(commit).await {
                Err(error)
                    if matches!(error.kind(), ErrorKind::Unknown | ErrorKind::Unavailable)
                        && resends < RESENDS =>
                {
                    resends += 1;
                    self.0.clock.sleep(pause).await;
                    pause *= 2;
                }
                reply => return reply,
            }
        }
    }
}

fn put(key: &Key, asked: &Asked, ttl: Duration) -> Result<Write> {
    let value = serde_json::to_vec(asked).map_err(|error| {
        let message = "a request for cleanup has no JSON form";
        Error::new(ErrorKind::Internal, message).with_source(error)
    })?;
    Ok(Write::Put { key: key.clone(), value, deadline: Deadline::After(ttl) })
}

fn found(record: Record) -> Result<Found> {
    let asked = serde_json::from_slice(&record.value).map_err(|error| {
        let message = format!("stored {} cannot be read", record.key);
        Error::new(ErrorKind::Internal, message).with_source(error)
    })?;
    Ok(Found { record, asked })
}

fn gone() -> Error {
    let message = "the request for the run is gone; what became of it is not known";
    Error::new(ErrorKind::Unknown, message)
}

fn nobody_leads() -> Error {
    let message = "nobody leads, and only the leader cleans up: start an instance, or wait for an \
                   election";
    Error::new(ErrorKind::Unavailable, message)
}
