//! Taking samples, and keeping them in the store while they are taken.
//!
//! Each sample is one commit at most: the chunk that is being filled is written anew, so a crash
//! loses what came after the last sample. What the store did not take is given to it with the next
//! sample. It writes records that nobody else writes, so it needs no guards.
//!
//! The time of a sample is the store's. Samples stay in their order: if the store's clock goes back,
//! samples are dropped until it has passed the last one, and health says so where that takes long.
//! Nothing is lost of counters by that, as they are totals.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Shared;
use super::chunk::{Ending, Open, with_paths};
use super::record::{Grain, StoredLife, chunk_key, slot_of};
use crate::clock::{Clock, Tick, Timestamp};
use crate::metrics::{Sampled, TABLE};
use crate::store::{Commit, Deadline, Key, Partition, Reply, Write};

/// Full chunks that the store did not take yet; with more of them, the oldest is given up. So an
/// outage of four hours loses nothing, and a longer one no more memory than this takes.
const MAX_UNSENT: usize = 8;
/// How long the store may take for a sample.
const COMMIT_WITHIN: Duration = Duration::from_secs(10);
/// How long the last sample may hold up the end of this instance.
const LAST_WITHIN: Duration = Duration::from_millis(250);

/// How long a store is left alone that did not tell its time.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Takes the samples of one life.
pub(super) struct Recorder {
    shared: Arc<Shared>,
    life: StoredLife,
    last: Option<Timestamp>,
    fine: Strand,
    coarse: Strand,
    unsent: VecDeque<Write>,
    /// There is a sample that the store does not have.
    fresh: bool,
    /// The record of this life is to be written.
    announce: bool,
}

/// The samples of one grain.
struct Strand {
    grain: Grain,
    every: Duration,
    slot: Duration,
    /// The chunk that is being filled, and when its slot begins.
    open: Option<(Timestamp, Open)>,
    last: Option<Timestamp>,
}

impl Recorder {
    /// For a life that began at this tick.
    fn new(shared: Arc<Shared>, opened: Tick) -> Self {
        let interval = shared.settings.interval;
        let age = shared.clock.tick().since(opened);
        let life = StoredLife {
            instance_id: shared.settings.instance_id.clone(),
            instance_name: shared.settings.instance_name.clone(),
            born: shared.time.now() - age,
            interval_ms: u64::try_from(interval.as_millis()).unwrap_or(u64::MAX),
        };
        let (fine, coarse) =
            (Strand::new(Grain::Fine, interval), Strand::new(Grain::Coarse, interval));
        let (last, unsent) = (None, VecDeque::new());
        Recorder { shared, life, last, fine, coarse, unsent, fresh: false, announce: true }
    }

    /// Samples until told to stop, and once more then. A life that ends before the store has told
    /// its time once leaves nothing.
    pub(super) async fn run(
        shared: Arc<Shared>,
        opened: Tick,
        refresh: impl Fn() + Send,
        stop: CancellationToken,
    ) {
        let clock = shared.clock.clone();
        tokio::select! {
            () = stop.cancelled() => return,
            () = learn_time(&shared) => {}
        }
        let mut recorder = Recorder::new(shared, opened);
        recorder.shared.stored();
        recorder.sample_until(&clock, &refresh, &stop).await;
        refresh();
        recorder.take();
        recorder.finish();
        if clock.timeout(LAST_WITHIN, recorder.keep()).await.is_none() {
            tracing::warn!("the last sample of the metrics was not stored in time");
        }
    }

    async fn sample_until(&mut self, clock: &Clock, refresh: &impl Fn(), stop: &CancellationToken) {
        let mut due = clock.tick();
        while !stop.is_cancelled() {
            refresh();
            self.take();
            let _ = clock.timeout(COMMIT_WITHIN, self.keep()).await;
            due = due + self.shared.settings.interval;
            // After a pause there is nothing to make up for.
            due = due.max(clock.tick());
            tokio::select! {
                () = stop.cancelled() => {}
                () = clock.sleep_until(due) => {}
            }
        }
    }

    /// Takes a sample of everything, if time has gone on since the last one.
    fn take(&mut self) {
        // Whole milliseconds take fewer bytes.
        let micros = self.shared.time.now().as_micros();
        let at = Timestamp::from_micros(micros - micros % 1_000);
        if let Some(last) = self.last.filter(|last| at <= *last) {
            if last.since(at) > self.shared.settings.interval {
                tracing::warn!(%last, "the store's clock went back: samples are dropped until then");
            }
            return;
        }
        self.last = Some(at);
        self.fresh = true;
        let sample = self.shared.metrics.sample();
        let id = &self.life.instance_id;
        self.unsent.extend(self.fine.push(id, at, &sample));
        if self.coarse.is_due(at) {
            self.unsent.extend(self.coarse.push(id, at, &sample));
            self.announce = true;
        }
        while self.unsent.len() > MAX_UNSENT {
            self.unsent.pop_front();
            tracing::warn!("a chunk of the metrics' history is lost: the store did not take it");
        }
    }

    /// The last sample of a life is in both grains, so that its totals outlive the finer one.
    fn finish(&mut self) {
        let id = &self.life.instance_id;
        if let Some(at) = self.last.filter(|at| self.coarse.last.is_none_or(|last| last < *at)) {
            let sample = self.shared.metrics.sample();
            self.unsent.extend(self.coarse.push(id, at, &sample));
        }
        self.unsent.extend(self.fine.close(id));
        self.unsent.extend(self.coarse.close(id));
        self.announce = true;
    }

    /// Gives the store what it does not have.
    async fn keep(&mut self) {
        let id = &self.life.instance_id;
        let mut writes: Vec<Write> = self.unsent.iter().cloned().collect();
        writes.extend(self.fine.current(id));
        if self.announce {
            writes.extend(self.coarse.current(id));
            writes.push(self.announcement());
        }
        let keys: Vec<Key> = writes.iter().map(|write| write.key().clone()).collect();
        let asked = self.shared.clock.tick();
        let answer = match Commit::new(Partition::FIRST, vec![], writes, vec![]) {
            Ok(commit) => self.shared.store.commit(&commit).await,
            Err(error) => Err(error),
        };
        match answer {
            Ok(Reply::Committed { now, .. } | Reply::Conflict { now, .. }) => {
                self.shared.time.told(now, asked);
                if std::mem::take(&mut self.fresh) {
                    self.shared.stored();
                }
                self.unsent.clear();
                self.announce = false;
                keys.iter().for_each(|key| self.shared.shelf.forget(key));
            }
            Err(error) => tracing::warn!(%error, "a sample of the metrics was not stored yet"),
        }
    }

    fn announcement(&self) -> Write {
        let value = serde_json::to_vec(&self.life).expect("texts and numbers become JSON");
        Write::Put { key: self.life.key(), value, deadline: Deadline::After(Grain::Coarse.kept()) }
    }
}

/// Asks the store for its time until it tells.
async fn learn_time(shared: &Shared) {
    loop {
        let asked = shared.clock.tick();
        match shared.clock.timeout(COMMIT_WITHIN, shared.store.ping()).await {
            Some(Ok(pong)) => return shared.time.told(pong.now, asked),
            Some(Err(_)) | None => shared.clock.sleep(ASK_AGAIN).await,
        }
    }
}

impl Strand {
    fn new(grain: Grain, interval: Duration) -> Self {
        let (every, slot) = (grain.every(interval), grain.slot(interval));
        Strand { grain, every, slot, open: None, last: None }
    }

    /// Whether a sample of this time is the first of its stretch.
    fn is_due(&self, at: Timestamp) -> bool {
        let stretch = |at| slot_of(at, self.every);
        self.last.is_none_or(|last| stretch(last) != stretch(at))
    }

    /// Adds a sample. Gives the chunk before it, if that is full.
    fn push(&mut self, id: &str, at: Timestamp, sample: &[Sampled]) -> Option<Write> {
        let slot = slot_of(at, self.slot);
        let full = match &self.open {
            Some((open, _)) if *open != slot => self.close(id),
            Some(_) | None => None,
        };
        let (_, open) =
            self.open.get_or_insert_with(|| (slot, Open::new(with_paths(TABLE, sample))));
        open.push(at, sample);
        self.last = Some(at);
        full
    }

    fn close(&mut self, id: &str) -> Option<Write> {
        let (slot, open) = self.open.take()?;
        Some(self.write(id, slot, &open, Ending::Closed))
    }

    fn current(&self, id: &str) -> Option<Write> {
        let (slot, open) = self.open.as_ref()?;
        Some(self.write(id, *slot, open, Ending::Open))
    }

    fn write(&self, id: &str, slot: Timestamp, open: &Open, ending: Ending) -> Write {
        Write::Put {
            key: chunk_key(id, self.grain, slot),
            value: open.encode(ending),
            deadline: Deadline::After(self.grain.kept()),
        }
    }
}
