//! The evaluation of alerts: rounds that the leader goes, each with one commit at most.
//!
//! The states of this process are those of the store, and more recent where nothing hangs on it.
//! A round that changes something commits all of it under the leader's fence: the states, the
//! entries of the audit trail, and what the audience wants written to tell of it. So a move is told
//! once, whoever leads then. A round whose commit was refused or came to no answer is forgotten:
//! the states are read again, and the next round finds out what is left to do.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::judge::{FINE, Tracks};
use super::record::{self, STATE, key_of};
use super::round::{Kept, Round, go_round};
use super::rule::Rule;
use super::service::Alerts;
use super::{Firing, Transition, Turn};
use crate::clock::Timestamp;
use crate::error::{ErrorKind, Result};
use crate::metrics::Metric;
use crate::monitor::history::History;
use crate::monitor::notify::Notifier;
use crate::monitor::series::Track;
use crate::scribe::Entry;
use crate::store::{Commit, Deadline, Effects, Fence, Guard, Partition, Reply, Revision, Write};

/// A firing alert whose value changes is written once in so many rounds.
const REFRESH: u32 = 6;
/// How often a commit without an answer is sent again before the states are read instead.
const RESENDS: usize = 4;
/// Between two of those.
const RESEND_PAUSE: Duration = Duration::from_millis(100);
/// So many rounds whose commit was refused are gone again at once, and not after an interval.
const SOON: usize = 3;
/// How long tracks in coarse steps are good for; a step takes five minutes.
const COARSE_FRESH: Duration = Duration::from_secs(60);

/// Who knows what was measured.
#[async_trait]
pub trait Source: Send + Sync {
    /// The tracks of a path between two moments, each with the last sample before, if there is one.
    async fn tracks(&self, path: &str, from: Timestamp, to: Timestamp) -> Result<Vec<Track>>;

    /// How long a sample of such tracks speaks for its instance.
    fn stale(&self, from: Timestamp, to: Timestamp) -> Duration;
}

/// Who has something written to tell of alerts.
#[async_trait]
pub trait Audience: Send + Sync {
    /// What goes into the commit of these moves. Asked in every round, also when nothing moved.
    async fn effects(
        &self,
        moves: &[Transition],
        firing: &[Firing],
        at: Timestamp,
    ) -> Result<Effects>;

    /// What it gave is committed.
    fn committed(&self);
}

#[async_trait]
impl Audience for Notifier {
    async fn effects(
        &self,
        moves: &[Transition],
        firing: &[Firing],
        at: Timestamp,
    ) -> Result<Effects> {
        Notifier::effects(self, moves, firing, at).await
    }

    fn committed(&self) {
        Notifier::committed(self);
    }
}

/// Tracks in coarse steps: as of when, over which span, and what they are.
type Coarse = (Timestamp, Duration, Result<Vec<Track>, String>);

/// The states of all alerts, as the leader knows them.
#[derive(Default)]
pub(super) struct Board {
    pub(super) current: BTreeMap<String, Kept>,
    stored: BTreeMap<String, (Kept, Revision)>,
    coarse: HashMap<String, Coarse>,
}

/// The tracks that a round needs.
pub(super) struct Gathered {
    pub(super) tracks: HashMap<(String, Step), Result<Vec<Track>, String>>,
    /// Of fine and of coarse steps.
    pub(super) stale: (Duration, Duration),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Step {
    Fine,
    Coarse,
}

impl Step {
    pub(super) fn of(span: Duration) -> Self {
        if span <= FINE { Step::Fine } else { Step::Coarse }
    }
}

impl Tracks for Gathered {
    fn of(&self, path: &str, span: Duration) -> Result<&[Track], String> {
        match self.tracks.get(&(path.to_owned(), Step::of(span))) {
            Some(Ok(tracks)) => Ok(tracks),
            Some(Err(error)) => Err(error.clone()),
            None => Err(format!("{path} was not read")),
        }
    }

    fn stale(&self, span: Duration) -> Duration {
        match Step::of(span) {
            Step::Fine => self.stale.0,
            Step::Coarse => self.stale.1,
        }
    }
}

/// How a round ended.
enum Ended {
    /// The states are what the board says.
    Known,
    /// What the board says is no longer sure.
    Unsure,
    /// The right to lead is gone.
    Lost,
}

/// Which spans of which paths the rules need.
pub(super) fn needs<'a>(
    rules: impl Iterator<Item = &'a Rule>,
) -> BTreeMap<(String, bool), Duration> {
    let mut needs: BTreeMap<(String, bool), Duration> = BTreeMap::new();
    for rule in rules.filter(|rule| rule.enabled) {
        for path in rule.paths() {
            let path = crate::metrics::find(path).map_or(path, |series| series.path);
            for window in std::iter::once(rule.window()).chain(rule.confirm_window()) {
                let coarse = Step::of(window) == Step::Coarse;
                let span = needs.entry((path.to_owned(), coarse)).or_default();
                *span = window.max(*span);
            }
        }
    }
    needs
}

impl Alerts {
    /// Goes rounds while this instance leads, until it ends.
    pub(crate) async fn watch_over(self, stop: CancellationToken) {
        let (clock, interval) = (self.0.clock.clone(), self.0.interval);
        let mut edges = self.0.leadership.subscribe();
        while !stop.is_cancelled() {
            let Some(right) = self.0.leadership.right() else {
                self.rest();
                let woken = clock.timeout(interval, edges.next());
                stop.run_until_cancelled(woken).await;
                continue;
            };
            self.begin();
            let rounds = self.rounds(right.fence());
            tokio::select! {
                () = stop.cancelled() => {}
                () = right.lost().cancelled() => {}
                () = rounds => {}
            }
        }
        self.rest();
    }

    async fn rounds(&self, fence: &Fence) {
        let mut board: Option<Board> = None;
        let mut unsure = 0;
        loop {
            match self.round(&mut board, fence).await {
                Ok(Ended::Known) => {}
                Ok(Ended::Unsure) => {
                    board = None;
                    unsure += 1;
                    // Somebody silenced something at that moment, most likely.
                    if unsure <= SOON {
                        self.0.clock.sleep(RESEND_PAUSE).await;
                        continue;
                    }
                }
                // It is told soon; until then nothing is gained by haste.
                Ok(Ended::Lost) => return self.0.clock.sleep(self.0.interval).await,
                Err(error) => {
                    tracing::warn!(%error, "alerts could not be judged");
                    board = None;
                }
            }
            unsure = 0;
            tokio::task::yield_now().await;
            self.0.clock.sleep(self.0.interval).await;
        }
    }

    async fn round(&self, board: &mut Option<Board>, fence: &Fence) -> Result<Ended> {
        let (rules, at) = self.0.book.rules().await?;
        let board = match board {
            Some(board) => board,
            None => board.insert(Board::load(record::states(&*self.0.store).await?)),
        };
        let gathered = self.gather(board, &rules, at).await;
        let round = go_round(&rules, &board.current, &gathered, at, self.0.interval);
        let ended = self.enter(board, &round, fence, at).await?;
        if matches!(ended, Ended::Known) {
            let firing = i64::try_from(round.firing.len()).unwrap_or(i64::MAX);
            self.0.metrics.set(Metric::AlertsFiring, firing);
            board.current = round.kept;
            self.judged(&board.current);
        }
        Ok(ended)
    }

    async fn gather(&self, board: &mut Board, rules: &[Rule], at: Timestamp) -> Gathered {
        let source = &self.0.source;
        let stale = (source.stale(at - FINE, at), source.stale(at - FINE * 2, at));
        let mut gathered = Gathered { tracks: HashMap::new(), stale };
        let mut coarse = std::mem::take(&mut board.coarse);
        for ((path, is_coarse), span) in needs(rules.iter()) {
            let step = if is_coarse { Step::Coarse } else { Step::Fine };
            // Fine steps are read anew each time; what is known of coarse ones stays.
            let known = if is_coarse { coarse.remove(&path) } else { None };
            let fresh = known.filter(|(read, had, _)| {
                *had >= span && at >= *read && at.since(*read) < COARSE_FRESH
            });
            let (read, tracks) = match fresh {
                Some((read, _, tracks)) => (read, tracks),
                None => {
                    let tracks = source.tracks(&path, at - span, at).await;
                    (at, tracks.map_err(|error| error.to_string()))
                }
            };
            if is_coarse && tracks.is_ok() {
                board.coarse.insert(path.clone(), (read, span, tracks.clone()));
            }
            gathered.tracks.insert((path, step), tracks);
        }
        gathered
    }

    /// Commits what changed, if something did.
    async fn enter(
        &self,
        board: &mut Board,
        round: &Round,
        fence: &Fence,
        at: Timestamp,
    ) -> Result<Ended> {
        let refresh = self.0.interval * REFRESH;
        let changed: Vec<(&String, &Kept)> = round
            .kept
            .iter()
            .filter(|(name, kept)| {
                kept.must_be_written(board.stored.get(*name).map(|(kept, _)| kept), refresh)
            })
            .collect();
        let gone: Vec<String> =
            board.stored.keys().filter(|name| !round.kept.contains_key(*name)).cloned().collect();
        let told = self.0.audience.effects(&round.moves, &round.firing, at).await?;
        if changed.is_empty() && gone.is_empty() && round.moves.is_empty() && told.is_empty() {
            return Ok(Ended::Known);
        }
        let mut guards = vec![Guard::Held(fence.clone())];
        let mut writes = Vec::new();
        for name in changed.iter().map(|(name, _)| *name).chain(&gone) {
            let key = key_of(STATE, name);
            guards.push(match board.stored.get(name) {
                None => Guard::Absent(key),
                Some((_, revision)) => Guard::RevisionIs(key, *revision),
            });
        }
        for (name, kept) in &changed {
            let (key, value) = (key_of(STATE, name), record::encode(kept)?);
            writes.push(Write::Put { key, value, deadline: Deadline::Never });
        }
        writes.extend(gone.iter().map(|name| Write::Delete { key: key_of(STATE, name) }));
        writes.extend(round.moves.iter().filter_map(|moved| self.audit(moved)));
        guards.extend(told.guards);
        writes.extend(told.writes);
        let hints = writes.iter().map(|write| write.key().clone()).collect();
        let commit = Commit::new(Partition::FIRST, guards, writes, hints)?;
        let ended = match self.send(&commit).await? {
            Reply::Committed { revision, .. } => {
                self.0.audience.committed();
                for name in &gone {
                    board.stored.remove(name);
                }
                for (name, kept) in changed {
                    board.stored.insert(name.clone(), (kept.clone(), revision));
                }
                Ended::Known
            }
            Reply::Conflict { guard: 0, .. } => Ended::Lost,
            Reply::Conflict { .. } => Ended::Unsure,
        };
        Ok(ended)
    }

    fn audit(&self, moved: &Transition) -> Option<Write> {
        let action = match moved.turn {
            Turn::Fired => "fired",
            Turn::Resolved => "resolved",
        };
        let mut entry = Entry::new("alert", &moved.rule, action);
        entry.reason = Some(&moved.summary);
        let entry = entry.with("severity", moved.severity.name()).with("episode", moved.episode);
        self.0.scribe.enter_own(&entry)
    }

    /// Sends a commit until its outcome is clear, within limits.
    async fn send(&self, commit: &Commit) -> Result<Reply> {
        let mut resends = 0;
        loop {
            match self.0.store.commit(commit).await {
                Err(error) if error.kind() == ErrorKind::Unknown && resends < RESENDS => {
                    resends += 1;
                    self.0.clock.sleep(RESEND_PAUSE).await;
                }
                reply => return reply,
            }
        }
    }
}

impl Board {
    fn load(stored: BTreeMap<String, (Kept, Revision)>) -> Self {
        let current = stored.iter().map(|(name, (kept, _))| (name.clone(), kept.clone())).collect();
        Board { current, stored, coarse: HashMap::new() }
    }
}

#[async_trait]
impl Source for History {
    async fn tracks(&self, path: &str, from: Timestamp, to: Timestamp) -> Result<Vec<Track>> {
        History::tracks(self, path, from, to).await
    }

    fn stale(&self, from: Timestamp, to: Timestamp) -> Duration {
        self.resolution(from, to) * 5 / 2
    }
}
