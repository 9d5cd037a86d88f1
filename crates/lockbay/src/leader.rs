//! Leadership: one instance of a service leads, and every right it has carries a fencing token.
//!
//! # Terms
//! A *lease* is a record with a deadline. The *term* counts elections of a service. The *fencing
//! token* is the revision of the commit that granted the lease; it only grows. The *trust window*
//! is the time in which this instance may believe that it leads; see [`crate::keeper`].
//!
//! # What holds
//! At most one instance holds the lease under one token. [`Leadership::is_leader`] is never true
//! past the trust window. Whatever is committed under [`Leadership::fence`] is refused by the store
//! once the lease has lapsed or moved, however long this process slept.
//!
//! # What does not
//! A leader that was paused may still be running old code when another leads. Only the fence stops
//! its writes; nothing can stop its other effects. A machine that is suspended as a whole does not
//! see its own monotonic clock move, so `is_leader()` alone is no proof there either.
//!
//! The decision what to do next is [`decide`], a pure function. The rest reads, asks it, commits,
//! and tells.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Tick, Timestamp};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Bus, Event};
use crate::keeper::{End, Keeper, Right};
use crate::metrics::{Metric, Metrics};
use crate::scribe::{Caller, Entry, Scribe};
use crate::store::{
    Commit, Deadline, Fence, Guard, Hints, Key, Kind, Partition, Range, Record, Reply, Revision,
    Store, Write,
};

/// The leader's lease of a service. Key: the service name.
pub(crate) const LEADER: Kind = Kind::new("leader");

/// How long followers wait at most, at random, before they bid for a lease that was resigned.
const BID_SPREAD: Duration = Duration::from_millis(20);

/// How long an instance that resigned lets the others bid before it bids again.
const HOLD_BACK: Duration = Duration::from_millis(500);

/// The longest pause between bids while the store does not answer; up to as much jitter comes on
/// top.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How long a handover at shutdown may take.
const HANDOVER: Duration = Duration::from_secs(1);

/// How many edges wait for a subscriber before it is told that it missed some.
const EDGES: usize = 4_096;

/// What is stored in a leader's lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct LeaderRecord {
    /// Empty after a resignation.
    instance_id: String,
    instance_name: Option<String>,
    term: u64,
    elected_at: Timestamp,
    ttl_us: u64,
}

/// Who leads, as the store says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeaderInfo {
    /// The service led.
    pub service: String,
    /// The random identity of the leading process.
    pub instance_id: String,
    /// A name for people; not an identity.
    pub instance_name: Option<String>,
    /// How many elections there were.
    pub term: u64,
    /// The token of the right, as a string because it passes 2^53.
    pub fencing_token: String,
    /// When this term began.
    pub elected_at: Timestamp,
    /// When the lease was last renewed, by the store's clock.
    pub last_heartbeat: Timestamp,
    /// When the lease lapses unless it is renewed, by the store's clock.
    pub expires_at: Timestamp,
    /// Whether that is this instance.
    pub is_self: bool,
}

/// Leadership of this instance began or ended. Edges alternate, and none is dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edge {
    /// This instance leads, under this token.
    Elected {
        /// The number of the election.
        term: u64,
        /// The token of the right.
        token: Revision,
    },
    /// This instance leads no longer.
    Lost {
        /// The term that ended.
        term: u64,
        /// Why.
        reason: LossReason,
    },
}

/// Why a leadership ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LossReason {
    /// It was given up.
    Resigned,
    /// The lease could not be renewed in time, or was found taken.
    Lapsed,
}

impl LossReason {
    /// As told in events and logs.
    pub fn name(self) -> &'static str {
        match self {
            LossReason::Resigned => "resigned",
            LossReason::Lapsed => "lapsed",
        }
    }
}

/// The edges of this instance's leadership, in order.
#[derive(Debug)]
pub struct Edges(broadcast::Receiver<Edge>);

impl Edges {
    /// Waits for the next edge; `None` once every handle of the instance is gone.
    ///
    /// # Errors
    /// `Busy` with the number of edges that were missed, if this subscriber slept through more than
    /// 4,096 of them. Ask [`Leadership::is_leader`] and go on.
    pub async fn next(&mut self) -> Result<Option<Edge>> {
        match self.0.recv().await {
            Ok(edge) => Ok(Some(edge)),
            Err(broadcast::error::RecvError::Closed) => Ok(None),
            Err(broadcast::error::RecvError::Lagged(missed)) => Err(Error::new(
                ErrorKind::Busy,
                format!("leadership edges missed by a slow subscriber: {missed}"),
            )),
        }
    }
}

/// What a bidder saw of the lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Nothing yet, or nothing there.
    Nothing,
    /// A record of this revision and term whose lease has lapsed or was resigned.
    Free { revision: Revision, term: u64 },
    /// A record of ours under which we do not lead: its reply was lost, or came too late.
    Own { revision: Revision, term: u64 },
    /// Somebody leads, for this much longer by the store's clock.
    Led { left: Duration },
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Bid for this term; the record must still be as it was seen, and lapsed.
    Bid { expected: Option<Revision>, term: u64 },
    /// Replace a record of ours, which nobody else can lead under, without waiting for its lapse.
    /// The new term gets a new token, so that nothing begun under the old one can still write.
    Rebid { expected: Revision, term: u64 },
    /// Wait for the exact lapse, or for a hint.
    Wait(Duration),
}

/// The whole decision of a follower.
pub(crate) fn decide(seen: &Seen) -> Step {
    match seen {
        Seen::Nothing => Step::Bid { expected: None, term: 1 },
        Seen::Free { revision, term } => Step::Bid { expected: Some(*revision), term: term + 1 },
        Seen::Own { revision, term } => Step::Rebid { expected: *revision, term: term + 1 },
        Seen::Led { left } => Step::Wait(*left),
    }
}

/// Who this process is, and which lease it runs for.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    pub(crate) service: String,
    pub(crate) instance_id: String,
    pub(crate) instance_name: Option<String>,
    pub(crate) ttl: Duration,
}

impl Candidate {
    fn key(&self) -> Key {
        Key::new(Partition::of(&self.service), LEADER, self.service.as_str())
    }
}

/// This instance's view of leadership. Cheap to clone.
#[derive(Clone)]
pub struct Leadership(Arc<Shared>);

struct Shared {
    store: Arc<dyn Store>,
    clock: Clock,
    keeper: Keeper,
    metrics: Arc<Metrics>,
    bus: Bus,
    scribe: Scribe,
    candidate: Candidate,
    /// The end of the trust window while this instance leads, in ticks; zero otherwise.
    leads_until: Arc<AtomicU64>,
    term: Mutex<Option<Term>>,
    edges: broadcast::Sender<Edge>,
    last_seen: Mutex<Option<String>>,
    /// The tick at which a leader was last seen; zero if never.
    led_at: AtomicU64,
}

#[derive(Clone)]
struct Term {
    number: u64,
    right: Right,
}

impl Leadership {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        clock: Clock,
        keeper: Keeper,
        metrics: Arc<Metrics>,
        bus: Bus,
        scribe: Scribe,
        candidate: Candidate,
    ) -> Self {
        Leadership(Arc::new(Shared {
            store,
            clock,
            keeper,
            metrics,
            bus,
            scribe,
            candidate,
            leads_until: Arc::default(),
            term: Mutex::default(),
            edges: broadcast::channel(EDGES).0,
            last_seen: Mutex::default(),
            led_at: AtomicU64::new(0),
        }))
    }

    /// Whether this instance may believe that it leads. An atomic load and a compare.
    ///
    /// Never true past the trust window. What must not happen twice is committed under
    /// [`fence`](Leadership::fence): between this answer and the next line, anything can happen.
    #[inline]
    pub fn is_leader(&self) -> bool {
        let until = self.0.leads_until.load(Ordering::Acquire);
        until != 0 && self.0.clock.coarse_tick().as_nanos() < until
    }

    /// The guard for writes that only the leader may do, while this instance leads.
    pub fn fence(&self) -> Option<Fence> {
        let term = self.0.term.lock().clone()?;
        term.right.is_held().then(|| term.right.fence().clone())
    }

    /// Fires before the current leadership can lapse; `None` if this instance does not lead.
    pub fn cancellation(&self) -> Option<CancellationToken> {
        let term = self.0.term.lock().clone()?;
        term.right.is_held().then(|| term.right.lost().clone())
    }

    /// The current term of this instance, while it leads.
    pub fn term(&self) -> Option<u64> {
        let term = self.0.term.lock().clone()?;
        term.right.is_held().then_some(term.number)
    }

    /// The random identity of this process.
    pub fn instance_id(&self) -> &str {
        &self.0.candidate.instance_id
    }

    /// The edges from now on, in order, none dropped.
    pub fn subscribe(&self) -> Edges {
        Edges(self.0.edges.subscribe())
    }

    /// Who leads, as the store says; `None` if nobody does.
    pub async fn current(&self) -> Result<Option<LeaderInfo>> {
        let read = self.0.store.get(&[self.0.candidate.key()]).await?;
        let record = read.records.into_iter().flatten().next();
        let info = record.filter(|record| !record.lapsed(read.now)).and_then(|r| self.info(&r));
        if info.is_some() {
            self.saw_a_leader();
        }
        Ok(info)
    }

    fn info(&self, record: &Record) -> Option<LeaderInfo> {
        let content = parse(record)?;
        let expires_at = record.deadline?;
        Some(LeaderInfo {
            service: self.0.candidate.service.clone(),
            is_self: content.instance_id == self.0.candidate.instance_id,
            instance_id: content.instance_id,
            instance_name: content.instance_name,
            term: content.term,
            fencing_token: record.revision.to_string(),
            elected_at: content.elected_at,
            last_heartbeat: expires_at - Duration::from_micros(content.ttl_us),
            expires_at,
        })
    }

    /// The right to lead, while this instance does.
    pub(crate) fn right(&self) -> Option<Right> {
        let term = self.0.term.lock().clone()?;
        term.right.is_held().then_some(term.right)
    }

    /// How long ago a leader was last seen, here or in the store; `None` if never.
    pub(crate) fn vacant_for(&self) -> Option<Duration> {
        match self.0.led_at.load(Ordering::Acquire) {
            0 => None,
            nanos => Some(self.0.clock.tick().since(Tick::from_nanos(nanos))),
        }
    }

    fn saw_a_leader(&self) {
        self.0.led_at.store(self.0.clock.tick().as_nanos(), Ordering::Release);
    }

    /// Gives leadership up, and lets the others bid first.
    ///
    /// This instance stops believing before the store is told. If the store does not answer, the
    /// lease lapses by itself. Once begun, it goes on even if the caller goes away.
    ///
    /// # Errors
    /// `Held` if this instance does not lead.
    pub async fn resign(&self) -> Result<()> {
        let Some(term) = self.0.term.lock().clone() else { return Err(not_leading()) };
        if !self.0.keeper.let_go(&term.right) {
            return Err(not_leading());
        }
        let (this, fence) = (self.clone(), term.right.fence().clone());
        let caller = Caller::current();
        let vacate = tokio::spawn(caller.scope(async move {
            let token = fence.token;
            this.vacate(term.number, token, Guard::Held(fence)).await
        }));
        vacate.await.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Unavailable, "the runtime is shutting down"))
        })
    }

    /// Puts an empty seat in the place of our record, if the guard holds.
    async fn vacate(&self, term: u64, token: Revision, guard: Guard) -> Result<()> {
        let vacated = LeaderRecord {
            instance_id: String::new(),
            instance_name: None,
            term,
            elected_at: self.0.clock.now(),
            ttl_us: 0,
        };
        let key = self.0.candidate.key();
        let value = encode(&vacated)?;
        let mut entry = Entry::new("leader", &key.id, "resigned").with("term", term);
        entry.previous = Some(token);
        entry.record = Some(&value);
        let mut writes: Vec<Write> = self.0.scribe.enter(&entry).into_iter().collect();
        let deadline = Deadline::After(Duration::ZERO);
        writes.push(Write::Put { key: key.clone(), value, deadline });
        let commit = Commit::new(key.partition, vec![guard], writes, vec![key])?;
        // A conflict means that the lease is gone already, which is what was wanted.
        self.0.store.commit(&commit).await.map(drop)
    }

    /// Runs for leadership until stopped, then resigns.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let range = {
            let key = self.0.candidate.key();
            Range::new(key.partition, key.kind, String::from(key.id))
        };
        let mut hints = None;
        while !stop.is_cancelled() {
            // A bid on its way is waited for, or its lease would belong to nobody.
            let stopped = async {
                stop.cancelled().await;
                self.0.clock.sleep(HANDOVER).await;
            };
            tokio::select! {
                () = stopped => break,
                () = self.follow(&range, &mut hints, &stop) => {}
            }
            let Some(term) = self.0.term.lock().clone() else { continue };
            tokio::select! {
                () = stop.cancelled() => {}
                () = term.right.lost().cancelled() => {}
            }
            if stop.is_cancelled() {
                let resigned = self.0.clock.timeout(HANDOVER, self.resign()).await;
                if !matches!(resigned, Some(Ok(()))) {
                    tracing::warn!(
                        term = term.number,
                        "leadership not handed over, it lapses by itself"
                    );
                }
            }
            if self.lead_no_longer(&term) == LossReason::Resigned {
                let pause = HOLD_BACK.min(self.0.candidate.ttl);
                self.0.clock.timeout(pause, stop.cancelled()).await;
            }
        }
        // A bid that was cut off may have been won.
        let won = async {
            if let Seen::Own { revision, term } = self.look().await {
                let guard = Guard::RevisionIs(self.0.candidate.key(), revision);
                drop(self.vacate(term, revision, guard).await);
            }
        };
        self.0.clock.timeout(HANDOVER, won).await;
    }

    /// Tells that a term is over.
    fn lead_no_longer(&self, term: &Term) -> LossReason {
        *self.0.term.lock() = None;
        let reason = match term.right.end() {
            Some(End::GivenUp) => LossReason::Resigned,
            Some(End::Lapsed) | None => LossReason::Lapsed,
        };
        tracing::info!(term = term.number, reason = reason.name(), "leader_lost");
        self.0.metrics.count(Metric::LeaderLosses);
        self.0.metrics.set(Metric::IsLeader, 0);
        let _ = self.0.edges.send(Edge::Lost { term: term.number, reason });
        let event = Event::LeaderLost { term: term.number, reason: reason.name().into() };
        self.0.bus.tell(self.0.clock.now(), event);
        reason
    }

    /// Bids until this instance leads, or is stopped.
    async fn follow(&self, range: &Range, hints: &mut Option<Hints>, stop: &CancellationToken) {
        let mut seen = Seen::Nothing;
        let mut errors = 0u32;
        while !stop.is_cancelled() {
            match decide(&seen) {
                step @ (Step::Bid { .. } | Step::Rebid { .. }) => match self.bid(&step).await {
                    Ok(None) => return,
                    Ok(Some(now_seen)) => {
                        errors = 0;
                        seen = now_seen;
                    }
                    Err(error) => {
                        errors += 1;
                        tracing::warn!(%error, "bid for leadership failed");
                        let pause = (self.0.candidate.ttl / 20 * errors.min(5)).min(LONGEST_PAUSE);
                        let pause = pause + self.0.clock.jitter(pause);
                        self.0.clock.timeout(pause, stop.cancelled()).await;
                        seen = Seen::Nothing;
                    }
                },
                Step::Wait(left) => {
                    // Where there are no hints, the exact lapse is waited for.
                    if hints.is_none() {
                        *hints = self.0.store.watch(range).await.ok();
                    }
                    if stop.run_until_cancelled(self.wait(left, hints)).await.is_none() {
                        return;
                    }
                    seen = self.look().await;
                }
            }
        }
    }

    /// Waits for the exact lapse, or for a hint and a random moment after it.
    async fn wait(&self, left: Duration, hints: &mut Option<Hints>) {
        let clock = &self.0.clock;
        let hinted = async {
            match hints {
                Some(hints) => drop(hints.next().await),
                None => std::future::pending().await,
            }
        };
        if clock.timeout(left, hinted).await.is_some() {
            // Several followers were woken at once: the first bid wins, the others need not collide.
            clock.sleep(clock.jitter(BID_SPREAD)).await;
        }
    }

    async fn look(&self) -> Seen {
        match self.0.store.get(&[self.0.candidate.key()]).await {
            Ok(read) => self.judge(read.records.first().and_then(Option::as_ref), read.now),
            Err(_) => Seen::Nothing,
        }
    }

    /// `None` if the bid was won, else what is there instead.
    async fn bid(&self, step: &Step) -> Result<Option<Seen>> {
        let shared = &self.0;
        let candidate = &shared.candidate;
        let key = candidate.key();
        let (guards, term, previous) = match step {
            Step::Bid { expected, term } => {
                let unchanged = match expected {
                    Some(revision) => Guard::RevisionIs(key.clone(), *revision),
                    None => Guard::Absent(key.clone()),
                };
                (vec![unchanged, Guard::Lapsed(key.clone())], *term, *expected)
            }
            Step::Rebid { expected, term } => {
                (vec![Guard::RevisionIs(key.clone(), *expected)], *term, Some(*expected))
            }
            Step::Wait(_) => return Ok(Some(Seen::Nothing)),
        };
        let content = LeaderRecord {
            instance_id: candidate.instance_id.clone(),
            instance_name: candidate.instance_name.clone(),
            term,
            elected_at: shared.clock.now(),
            ttl_us: crate::clock::micros(candidate.ttl),
        };
        let value = encode(&content)?;
        let mut entry = Entry::new("leader", &key.id, "elected")
            .with("term", term)
            .with("instance_id", candidate.instance_id.as_str());
        entry.previous = previous;
        entry.record = Some(&value);
        let mut writes: Vec<Write> = shared.scribe.enter_own(&entry).into_iter().collect();
        let deadline = Deadline::After(candidate.ttl);
        writes.push(Write::Put { key: key.clone(), value, deadline });
        let commit = Commit::new(key.partition, guards, writes, Vec::new())?;
        let attempt = shared.clock.tick();
        match shared.store.commit(&commit).await? {
            Reply::Committed { revision, .. } => {
                let fence = Fence { key, token: revision };
                self.elected(term, fence, attempt);
                Ok(None)
            }
            Reply::Conflict { found, now, .. } => Ok(Some(self.judge(found.as_ref(), now))),
        }
    }

    fn elected(&self, number: u64, fence: Fence, attempt: Tick) {
        let shared = &self.0;
        let token = fence.token;
        let ttl = shared.candidate.ttl;
        let window = Arc::clone(&shared.leads_until);
        let right = shared.keeper.keep_as(fence, ttl, attempt, window);
        *shared.term.lock() = Some(Term { number, right });
        *shared.last_seen.lock() = Some(shared.candidate.instance_id.clone());
        self.saw_a_leader();
        tracing::info!(term = number, %token, "leader_elected");
        shared.metrics.count(Metric::LeaderElections);
        shared.metrics.set(Metric::IsLeader, 1);
        let _ = shared.edges.send(Edge::Elected { term: number, token });
        let event = Event::LeaderElected { term: number, fencing_token: token.to_string() };
        shared.bus.tell(shared.clock.now(), event);
    }

    /// What a record means to a bidder; tells when another leader is seen for the first time.
    fn judge(&self, found: Option<&Record>, now: Timestamp) -> Seen {
        let Some(record) = found else { return Seen::Nothing };
        let content = parse(record);
        // A record that we cannot read is a lease all the same.
        let term = content.as_ref().map_or(0, |content| content.term);
        if record.lapsed(now) {
            return Seen::Free { revision: record.revision, term };
        }
        let Some(content) = content else { return Seen::Led { left: self.left(record, now) } };
        if content.instance_id == self.0.candidate.instance_id {
            return Seen::Own { revision: record.revision, term };
        }
        self.saw_a_leader();
        let mut last = self.0.last_seen.lock();
        if last.as_ref() != Some(&content.instance_id) {
            *last = Some(content.instance_id.clone());
            let event = Event::LeaderChanged { instance_id: content.instance_id, term };
            self.0.bus.tell(self.0.clock.now(), event);
        }
        Seen::Led { left: self.left(record, now) }
    }

    /// How long a lease has left; for one without end, until the next look.
    fn left(&self, record: &Record, now: Timestamp) -> Duration {
        let left = record.deadline.map_or(self.0.candidate.ttl, |deadline| deadline.since(now));
        // One more millisecond, so that the store's clock has passed the deadline when we bid.
        left + Duration::from_millis(1)
    }
}

fn not_leading() -> Error {
    Error::new(ErrorKind::Held, "this instance does not lead")
}

fn parse(record: &Record) -> Option<LeaderRecord> {
    serde_json::from_slice(&record.value).ok()
}

fn encode(content: &LeaderRecord) -> Result<Vec<u8>> {
    serde_json::to_vec(content).map_err(|error| {
        Error::new(ErrorKind::Internal, "a leader record has no JSON form").with_source(error)
    })
}
