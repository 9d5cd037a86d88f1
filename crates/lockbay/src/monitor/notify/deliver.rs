//! Delivery: a desk on the leader, which gives each channel what it is to deliver and keeps what
//! came of it.
//!
//! Attempts run side by side, a few for each channel, so that a slow one holds up nobody else; what
//! they come to is committed by the desk alone, under the leader's fence. An attempt is not
//! announced before it is made: if this process dies in between, the next leader makes it again,
//! under the same identity. What an attempt has come to and the store did not take is kept and
//! given to it again, so that nothing is told twice meanwhile. All else that is in memory is the
//! beginning of each channel's list.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use super::channel::{Channel, Undelivered};
use super::lane::{self, Entry, MAX_AGE, Standing};
use super::outbox::{self, Kept, Loaded, NOTICE_LIST, NoticeStatus, WAITING};
use super::seen::Waits;
use super::{Inner, Notifier};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::metrics::Metric;
use crate::store::{Commit, Fence, Guard, MAX_PAGE, Partition, Range, Reply, Write};

/// How often the desk looks for what is new, unless it is told.
const LOOK: Duration = Duration::from_secs(1);
/// How many notices of one channel are at hand: so many must wait before others wait for them.
const WINDOW: usize = 64;
/// How many attempts of one channel run at once.
const AT_ONCE: usize = 8;
/// How many records are read at once.
const CHUNK: usize = 32;
/// How long an attempt may take, whatever the channel's own limit is.
pub(super) const ATTEMPT_WITHIN: Duration = Duration::from_secs(30);
/// How often a commit whose outcome is unknown is sent again.
const MAX_REPEATS: usize = 3;
/// How often dead letters are counted, and entries looked for that no channel here delivers.
const COUNT_EVERY: Duration = Duration::from_secs(60);

type Outcome = Result<(), Undelivered>;

impl Notifier {
    /// Delivers what is to be delivered while this instance leads, until it is stopped.
    pub(crate) async fn watch_over(self, stop: CancellationToken) {
        let inner = &self.0;
        let mut edges = inner.leadership.subscribe();
        while !stop.is_cancelled() {
            let Some(right) = inner.leadership.right() else {
                // An edge wakes it; should one be missed, it looks again all the same.
                let woken = inner.clock.timeout(LOOK, edges.next());
                stop.run_until_cancelled(woken).await;
                continue;
            };
            inner.seen.looked(inner.clock.tick(), None);
            let desk = Desk::new(inner, right.fence().clone());
            tokio::select! {
                () = stop.cancelled() => {}
                () = right.lost().cancelled() => {}
                () = desk.work() => {}
            }
            inner.metrics.set(Metric::NotificationsDead, 0);
            inner.seen.rest();
        }
    }
}

/// The work of one leadership. Dropped, it gives up the attempts that run.
struct Desk<'a> {
    inner: &'a Inner,
    fence: Fence,
    /// By channel: the entries of what it is to deliver, in order, as far as they are at hand.
    lanes: BTreeMap<String, Vec<String>>,
    /// Whether what is at hand may be old, so that it is to be looked at anew.
    stale: bool,
    records: HashMap<String, Loaded>,
    /// Notices that cannot be read, which hold up nobody.
    broken: BTreeSet<String>,
    /// By notice: what attempts have come to by channel and the store did not take yet. They count as
    /// in flight, so there are no more of them than may run at once.
    unnoted: BTreeMap<String, Vec<(String, Outcome)>>,
    attempts: JoinSet<Outcome>,
    /// Which channel and notice an attempt is about.
    about: HashMap<Id, (String, String)>,
    /// When dead letters were last counted: a tick in nanoseconds.
    counted: Option<crate::clock::Tick>,
}

impl<'a> Desk<'a> {
    fn new(inner: &'a Inner, fence: Fence) -> Self {
        let (lanes, records, about) = (BTreeMap::new(), HashMap::new(), HashMap::new());
        let (attempts, broken, unnoted) = (JoinSet::new(), BTreeSet::new(), BTreeMap::new());
        let (stale, counted) = (false, None);
        Desk { inner, fence, lanes, stale, records, broken, unnoted, attempts, about, counted }
    }

    async fn work(mut self) {
        let mut looked = None;
        loop {
            let now = self.inner.clock.tick();
            let due = looked.is_none_or(|at| now.since(at) >= LOOK);
            if due || self.stale || self.runs_dry() {
                (looked, self.stale) = (Some(now), false);
                self.note().await;
                match self.look().await {
                    Ok(()) => self.inner.seen.looked(self.inner.clock.tick(), self.longest()),
                    Err(error) => {
                        tracing::warn!(%error, "notifications cannot be read now");
                        self.inner.clock.sleep(LOOK).await;
                    }
                }
            }
            let wake = self.begin();
            let left = looked.map_or(LOOK, |at| (at + LOOK).since(self.inner.clock.tick()));
            let nap = wake.map_or(left, |wake| left.min(wake.since(self.inner.time.now())));
            tokio::select! {
                Some(ended) = self.attempts.join_next_with_id() => self.settle(ended).await,
                () = self.inner.nudge.notified() => looked = None,
                () = self.inner.clock.sleep(nap.max(Duration::from_millis(1))) => {}
            }
        }
    }

    /// Whether a channel has nearly done what is at hand, and there was more than that.
    fn runs_dry(&self) -> bool {
        self.lanes.iter().any(|(name, lane)| {
            let open = |entry: &&String| self.waits(name, entry);
            lane.len() >= WINDOW && lane.iter().filter(open).count() <= WINDOW / 2
        })
    }

    /// Whether an entry of a channel says what is still to be done, as far as is known.
    fn waits(&self, channel: &str, entry: &str) -> bool {
        let Some(Loaded { kept, .. }) = self.records.get(outbox::behind(entry)) else {
            return true;
        };
        let next = kept.channels.get(channel).and_then(lane::Progress::next);
        next.is_some() && *kept.todo(channel).id == *entry
    }

    /// What has waited longest, of what is at hand.
    fn longest(&self) -> Option<Waits> {
        let of = |(name, lane): (&String, &Vec<String>)| {
            let first = lane.iter().find_map(|entry| {
                let kept = &self.records.get(outbox::behind(entry))?.kept;
                kept.channels.get(name).filter(|progress| progress.next().is_some())
            })?;
            let (channel, error) = (name.clone(), first.error.clone());
            Some(Waits { since: first.since, channel, error })
        };
        self.lanes.iter().filter_map(of).min()
    }

    /// Brings to hand the beginning of every channel's list.
    async fn look(&mut self) -> Result<()> {
        let asked = self.inner.clock.tick();
        let range = Range::new(Partition::FIRST, NOTICE_LIST, WAITING);
        let page = self.inner.store.scan(&range, 1).await?;
        self.inner.time.told(page.now, asked);
        self.upkeep().await?;
        let names = if page.records.is_empty() { Vec::new() } else { self.inner.channels.names() };
        self.lanes.retain(|name, _| names.contains(name));
        for name in names {
            let entries = self.entries(&name).await?;
            self.lanes.insert(name, entries);
        }
        let entries = self.lanes.values().flatten();
        let mut wanted: BTreeSet<&str> = entries.map(|entry| outbox::behind(entry)).collect();
        wanted.extend(self.about.values().map(|(_, id)| id.as_str()));
        wanted.extend(self.unnoted.keys().map(String::as_str));
        self.records.retain(|id, _| wanted.contains(id.as_str()));
        let missing = wanted.into_iter().filter(|id| !self.records.contains_key(*id));
        let missing: Vec<String> = missing.map(str::to_owned).collect();
        for ids in missing.chunks(CHUNK) {
            self.load(ids).await?;
        }
        self.clear().await
    }

    /// Takes away entries behind which there is nothing to do, which would fill the room of others.
    async fn clear(&mut self) -> Result<()> {
        let mut idle = Vec::new();
        for (name, lane) in &self.lanes {
            let gone = |entry: &str| !self.records.contains_key(outbox::behind(entry));
            let idles = |entry: &&String| gone(entry) || !self.waits(name, entry);
            idle.extend(lane.iter().filter(idles).cloned());
        }
        for entry in idle {
            let id = outbox::behind(&entry).to_owned();
            let unchanged = match self.records.get(&id) {
                Some(loaded) => Guard::RevisionIs(outbox::key(&id), loaded.revision),
                None => Guard::Absent(outbox::key(&id)),
            };
            let guards = vec![Guard::Held(self.fence.clone()), unchanged];
            let delete = Write::Delete { key: outbox::list(entry.clone()) };
            match self.send(guards, vec![delete]).await? {
                Reply::Committed { .. } => {
                    self.lanes.values_mut().for_each(|lane| lane.retain(|other| *other != entry));
                }
                // Somebody tries it again, or it cannot be read by this version.
                Reply::Conflict { .. } => drop(self.records.remove(&id)),
            }
        }
        Ok(())
    }

    /// What a channel is to deliver, as far as it is taken to hand.
    async fn entries(&self, channel: &str) -> Result<Vec<String>> {
        let prefix = format!("{WAITING}{channel}/");
        let range = Range::new(Partition::FIRST, NOTICE_LIST, prefix);
        let page = self.inner.store.scan(&range, WINDOW).await?;
        Ok(page.records.into_iter().map(|entry| entry.key.id.into()).collect())
    }

    async fn load(&mut self, ids: &[String]) -> Result<()> {
        let keys: Vec<_> = ids.iter().map(|id| outbox::key(id)).collect();
        let read = self.inner.store.get(&keys).await?;
        for record in read.records.iter().flatten() {
            match Loaded::of(record) {
                Ok(loaded) => drop(self.records.insert(record.key.id.to_string(), loaded)),
                Err(error) => {
                    if self.broken.insert(record.key.id.to_string()) {
                        tracing::error!(%error, "a notice is passed over");
                    }
                }
            }
        }
        Ok(())
    }

    /// Begins what can be tried now; says when the next can be.
    fn begin(&mut self) -> Option<Timestamp> {
        let now = self.inner.time.now();
        let mut wake = None::<Timestamp>;
        let mut tried = Vec::new();
        for (name, lane) in &self.lanes {
            let in_flight = self.in_flight(name);
            let entries = self.known(name, lane, &in_flight);
            let room = AT_ONCE.saturating_sub(in_flight.len());
            let (ready, next) = lane::ready(&entries, room, now);
            tried.extend(ready.into_iter().map(|id| (name.clone(), id.to_owned())));
            wake = wake.into_iter().chain(next).min();
        }
        for (channel, id) in tried {
            self.attempt(channel, id);
        }
        wake
    }

    /// The notices of which an attempt of a channel runs, or has ended and is not noted yet.
    fn in_flight(&self, channel: &str) -> BTreeSet<&str> {
        let running = self.about.values().filter(|(of, _)| of == channel);
        let ended = |outcomes: &[(String, Outcome)]| outcomes.iter().any(|(of, _)| of == channel);
        let unnoted = self.unnoted.iter().filter(|(_, outcomes)| ended(outcomes));
        running.map(|(_, id)| id.as_str()).chain(unnoted.map(|(id, _)| id.as_str())).collect()
    }

    /// What a channel is to deliver, up to the first that is not at hand: behind it nothing is
    /// tried, as it may be the firing of what ends there.
    fn known(&self, channel: &str, lane: &[String], in_flight: &BTreeSet<&str>) -> Vec<Entry<'_>> {
        let mut entries = Vec::new();
        for entry in lane {
            let id = outbox::behind(entry);
            if self.broken.contains(id) {
                continue;
            }
            let Some(Loaded { kept, .. }) = self.records.get(id) else { return entries };
            let Some(next) = kept.channels.get(channel).and_then(lane::Progress::next) else {
                continue;
            };
            let rules = kept.notice.alerts.iter().map(|alert| &*alert.rule).collect();
            let in_flight = in_flight.contains(id);
            entries.push(Entry { id: &kept.notice.id, rules, next, in_flight });
        }
        entries
    }

    fn attempt(&mut self, name: String, id: String) {
        let (Some(channel), Some(loaded)) = (self.inner.channels.get(&name), self.records.get(&id))
        else {
            return;
        };
        let notice = loaded.kept.notice.clone();
        let clock = self.inner.clock.clone();
        let handle = self.attempts.spawn(async move { deliver(&*channel, &notice, &clock).await });
        self.about.insert(handle.id(), (name, id));
    }

    /// Keeps what attempts have come to: this one, and all others that have ended meanwhile.
    async fn settle(&mut self, first: std::result::Result<(Id, Outcome), JoinError>) {
        let mut ended = BTreeMap::<String, Vec<(String, Outcome)>>::new();
        let mut next = Some(first);
        while let Some(joined) = next {
            let (task, outcome) = match joined {
                Ok(ended) => ended,
                Err(error) => (error.id(), Err(Undelivered::for_now("the channel panicked"))),
            };
            if let Some((channel, id)) = self.about.remove(&task) {
                ended.entry(id).or_default().push((channel, outcome));
            }
            next = self.attempts.try_join_next_with_id();
        }
        for (id, outcomes) in ended {
            self.keep(&id, outcomes).await;
        }
    }

    /// Gives the store again what it did not take, until it does not take one of them.
    async fn note(&mut self) {
        for id in self.unnoted.keys().cloned().collect::<Vec<_>>() {
            self.keep(&id, Vec::new()).await;
            if self.unnoted.contains_key(&id) {
                return;
            }
        }
    }

    /// Keeps these outcomes, behind those that are not noted yet.
    async fn keep(&mut self, id: &str, more: Vec<(String, Outcome)>) {
        let mut outcomes = self.unnoted.remove(id).unwrap_or_default();
        outcomes.extend(more);
        let Some(loaded) = self.records.remove(id) else { return };
        let Loaded { mut kept, revision } = loaded.clone();
        let now = self.inner.time.now();
        for (channel, outcome) in &outcomes {
            let Some(before) = kept.channels.get(channel) else { continue };
            let jitter = |most| self.inner.clock.jitter(most);
            kept.came_to(channel, lane::judge(before, outcome.clone(), now, jitter));
        }
        match self.commit(&mut kept, revision, now).await {
            Ok(Some(revision)) => {
                self.tell(&kept, &outcomes);
                self.records.insert(id.to_owned(), Loaded { kept, revision });
            }
            // Another has changed it: what is there is read again.
            Ok(None) => self.stale = true,
            Err(error) => {
                tracing::warn!(%error, notice = id, "a delivery could not be noted yet");
                self.records.insert(id.to_owned(), loaded);
                self.unnoted.insert(id.to_owned(), outcomes);
            }
        }
    }

    /// Commits a notice as it stands now; `None` if it was changed meanwhile.
    async fn commit(
        &self,
        kept: &mut Kept,
        revision: crate::store::Revision,
        now: Timestamp,
    ) -> Result<Option<crate::store::Revision>> {
        let key = outbox::key(&kept.notice.id);
        let writes = kept.settle(now)?;
        let guards = vec![Guard::Held(self.fence.clone()), Guard::RevisionIs(key, revision)];
        match self.send(guards, writes).await? {
            Reply::Committed { revision, .. } => Ok(Some(revision)),
            Reply::Conflict { guard: 0, .. } => {
                Err(Error::new(ErrorKind::Fenced, "this instance leads no longer"))
            }
            Reply::Conflict { .. } => Ok(None),
        }
    }

    async fn send(&self, guards: Vec<Guard>, writes: Vec<Write>) -> Result<Reply> {
        let commit = Commit::new(Partition::FIRST, guards, writes, Vec::new())?;
        let mut reply = self.inner.store.commit(&commit).await;
        for _ in 0..MAX_REPEATS {
            match &reply {
                Err(error) if error.kind() == ErrorKind::Unknown => {
                    reply = self.inner.store.commit(&commit).await;
                }
                Ok(_) | Err(_) => break,
            }
        }
        reply
    }

    fn tell(&self, kept: &Kept, outcomes: &[(String, Outcome)]) {
        let metrics = &self.inner.metrics;
        let at = self.inner.clock.now();
        for (channel, outcome) in outcomes {
            let (notice_id, channel) = (kept.notice.id.clone(), channel.clone());
            let Err(failure) = outcome else {
                metrics.count(Metric::NotificationsDelivered);
                let status = kept.notice.status.name().to_owned();
                self.inner.bus.tell(at, Event::AlertNotified { notice_id, channel, status });
                continue;
            };
            metrics.count(Metric::NotificationFailures);
            let reason = failure.why.clone();
            let standing = kept.channels.get(&channel).map(|progress| &progress.standing);
            if matches!(standing, Some(Standing::Dead { .. })) {
                tracing::error!(notice = notice_id, channel, reason, "notification_dead");
                self.inner.bus.tell(at, Event::NotificationDead { notice_id, channel, reason });
            } else {
                tracing::warn!(notice = notice_id, channel, reason, "a notice was not delivered");
            }
        }
        if kept.status == NoticeStatus::Dead {
            let dead = metrics.value(Metric::NotificationsDead) + 1;
            metrics.set(Metric::NotificationsDead, dead);
        }
    }

    /// Now and then: counts dead letters, and gives up what no channel here can deliver.
    async fn upkeep(&mut self) -> Result<()> {
        let now = self.inner.clock.tick();
        if self.counted.is_some_and(|at| now.since(at) < COUNT_EVERY) {
            return Ok(());
        }
        let prefix = format!("{}/", NoticeStatus::Dead.name());
        let range = Range::new(Partition::FIRST, NOTICE_LIST, prefix);
        let dead = self.inner.store.scan(&range, MAX_PAGE).await?.records.len();
        self.inner.metrics.set(Metric::NotificationsDead, i64::try_from(dead).unwrap_or(i64::MAX));
        self.give_up_strays().await?;
        self.counted = Some(now);
        Ok(())
    }

    /// What waits for a channel that no leader has had for [`MAX_AGE`] is a dead letter.
    async fn give_up_strays(&mut self) -> Result<()> {
        let mut after = None;
        // There are few channels; a bound all the same.
        for _ in 0..4 * super::channel::MAX_CHANNELS {
            let range = Range::new(Partition::FIRST, NOTICE_LIST, WAITING).after(after);
            let page = self.inner.store.scan(&range, 1).await?;
            let Some(entry) = page.records.first() else { return Ok(()) };
            let rest = entry.key.id.strip_prefix(WAITING).unwrap_or_default();
            let name = rest.split('/').next().unwrap_or_default().to_owned();
            after = Some(format!("{WAITING}{name}/~")); // behind every place, which is hexadecimal
            if self.inner.channels.get(&name).is_none() {
                self.give_up(&name).await?;
            }
        }
        Ok(())
    }

    async fn give_up(&mut self, channel: &str) -> Result<()> {
        for entry in self.entries(channel).await? {
            let id = outbox::behind(&entry).to_owned();
            self.load(std::slice::from_ref(&id)).await?;
            let Some(kept) = self.records.get(&id).map(|loaded| &loaded.kept) else { continue };
            let since = kept.channels.get(channel).map(|progress| progress.since);
            if since.is_some_and(|since| self.inner.time.now().since(since) >= MAX_AGE) {
                let why = Undelivered::for_good("no leader had this channel");
                self.keep(&id, vec![(channel.to_owned(), Err(why))]).await;
            }
        }
        Ok(())
    }
}

/// One attempt.
pub(super) async fn deliver(
    channel: &dyn Channel,
    notice: &super::Notice,
    clock: &crate::clock::Clock,
) -> Outcome {
    let delivered = clock.timeout(ATTEMPT_WITHIN, channel.deliver(notice)).await;
    delivered.unwrap_or_else(|| {
        Err(Undelivered::for_now(format!("the channel took longer than {ATTEMPT_WITHIN:?}")))
    })
}
