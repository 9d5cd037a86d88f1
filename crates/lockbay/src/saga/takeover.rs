//! Going on where another instance died, and finding what this one has lost sight of.
//!
//! One loop looks for sessions whose owner is gone, and takes each over whole. Its sagas are then
//! streamed from the list, a page at a time, and only as fast as there is room for them: a million
//! need no more memory than a thousand. The same loop empties the inbox, in which other instances
//! say that they have added to the log of a saga that is executed here.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Sagas;
use super::driver::Driver;
use super::log::SagaStatus;
use super::record::{executed_by, inbox_of, saga_behind};
use super::session::Session;
use crate::error::Result;
use crate::event::Event;
use crate::metrics::Metric;
use crate::store::{Commit, MAX_PAGE, Record, Write};

/// How often sessions are looked at, if none lapses before.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often the inbox is looked at while sagas are executed here.
const INBOX_EVERY: Duration = Duration::from_millis(200);
/// How often it is looked whether a session still executes anything.
const EMPTY_EVERY: Duration = Duration::from_secs(1);
/// How many sagas are read from the list at a time.
const PAGE: usize = 500;

/// Where the sagas of a session stand that somebody must execute, in the only order they move in: so
/// one that turns around between two looks is not missed.
const TO_EXECUTE: [SagaStatus; 2] = [SagaStatus::Running, SagaStatus::Compensating];

/// Which sagas of a session are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    /// All: their executor is gone.
    Orphaned,
    /// Those that are not executed here, though they should be.
    OutOfSight,
}

impl Sagas {
    /// Looks after sagas until this instance ends.
    pub(crate) async fn watch_over(self) {
        let inner = &self.0;
        let mut look_at = inner.clock.tick();
        while !inner.closing.is_cancelled() {
            let looked = look_at <= inner.clock.tick();
            if looked {
                let pause = self.take_over().await.unwrap_or_else(|error| {
                    tracing::warn!(%error, "sessions of other instances could not be looked at");
                    LOOK_EVERY
                });
                look_at = inner.clock.tick() + pause.min(LOOK_EVERY);
            }
            if inner.out_of_sight.swap(false, Ordering::AcqRel) {
                for session in inner.sessions.held() {
                    self.spawn_stream(session, Which::OutOfSight);
                }
            }
            // Without sagas here there may be some that should be, and then it is not urgent.
            let looks = self.running() > 0 || looked;
            if looks && let Err(error) = self.empty_inbox().await {
                tracing::warn!(%error, "the inbox of sagas could not be read");
            }
            let pause = look_at.since(inner.clock.tick()).min(INBOX_EVERY);
            inner.clock.timeout(pause, inner.closing.cancelled()).await;
        }
    }

    /// A start whose end nobody saw may have left a saga that is durable and not executed.
    pub(super) fn look_for_lost(&self) {
        self.0.out_of_sight.store(true, Ordering::Release);
    }

    /// Takes over what is orphaned, and says when to look again.
    async fn take_over(&self) -> Result<Duration> {
        self.learn_the_time().await?;
        let (taken, next) = self.0.sessions.take_over().await?;
        for session in taken {
            tracing::info!(session = %session.id, "session taken over");
            self.0.metrics.count(Metric::SessionsTakenOver);
            let event = Event::SessionTakenOver { session: session.id.to_string() };
            self.0.bus.tell(self.0.clock.now(), event);
            self.spawn_stream(session, Which::Orphaned);
        }
        // A moment later, so that the deadline has passed by then.
        Ok(next.map_or(LOOK_EVERY, |next| next + Duration::from_millis(1)))
    }

    fn spawn_stream(&self, session: Session, which: Which) {
        let sagas = self.clone();
        self.0.drivers.spawn(async move {
            let (lost, closing) = (session.right.lost().clone(), sagas.0.closing.clone());
            tokio::select! {
                () = lost.cancelled() => {}
                () = closing.cancelled() => {}
                () = sagas.stream(&session, which) => {}
            }
        });
    }

    /// Executes the sagas of a session; then lets a session that was taken over go, once it
    /// executes nothing any more.
    async fn stream(&self, session: &Session, which: Which) {
        for status in TO_EXECUTE {
            let mut range = executed_by(&session.id, status);
            loop {
                let page = match self.0.store.scan(&range, PAGE).await {
                    Ok(page) => page,
                    Err(error) => {
                        tracing::warn!(%error, session = %session.id, "sagas could not be listed");
                        self.0.clock.sleep(LOOK_EVERY).await;
                        continue;
                    }
                };
                for record in &page.records {
                    self.carry_on(saga_behind(record).into(), session, which).await;
                }
                range.after = page.records.last().map(|record| record.key.id.to_string());
                if !page.more {
                    break;
                }
            }
        }
        if which == Which::OutOfSight {
            return;
        }
        loop {
            self.0.clock.sleep(EMPTY_EVERY).await;
            if matches!(self.executes_nothing(session).await, Ok(true)) {
                if let Err(error) = self.0.sessions.remove(session).await {
                    tracing::debug!(%error, session = %session.id, "session not removed, it lapses");
                }
                return;
            }
        }
    }

    /// Executes one saga of a session, as soon as there is room.
    async fn carry_on(&self, id: Arc<str>, session: &Session, which: Which) {
        // Closed never, so that this waits.
        let Ok(place) = Arc::clone(&self.0.places).acquire_owned().await else { return };
        loop {
            if let Some(entrance) = self.enter(&id) {
                return Driver::resume(self, entrance.pass(), session.clone(), place, id);
            }
            if which == Which::OutOfSight {
                return; // it is in sight
            }
            // A driver of ours from before the takeover is on its way out.
            if let Some(live) = self.live(&id) {
                live.ended().await;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Whether a session has no saga any more that somebody must execute.
    pub(super) async fn executes_nothing(&self, session: &Session) -> Result<bool> {
        for status in TO_EXECUTE {
            let page = self.0.store.scan(&executed_by(&session.id, status), 1).await?;
            if !page.records.is_empty() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Tells drivers here what others have added to the logs of their sagas.
    async fn empty_inbox(&self) -> Result<()> {
        for session in self.0.sessions.held() {
            let page = self.0.store.scan(&inbox_of(&session.id), MAX_PAGE).await?;
            let Some(first) = page.records.first() else { continue };
            let partition = first.key.partition;
            let ids: Vec<Arc<str>> = page.records.iter().map(|at| saga_behind(at).into()).collect();
            let delete = |record: Record| Write::Delete { key: record.key };
            let writes = page.records.into_iter().map(delete).collect();
            let commit = Commit::new(partition, vec![session.guard()], writes, Vec::new())?;
            let deleted = self.0.store.commit(&commit).await;
            // Afterwards, and whatever came of it: what was added until then is looked at as well.
            for id in ids {
                if !self.nudge(&id) {
                    self.look_for_lost();
                }
            }
            deleted?;
        }
        Ok(())
    }

    /// Tells a driver here that somebody has added to its saga's log. Returns whether there is one:
    /// then it will look before it lets go.
    pub(super) fn nudge(&self, id: &str) -> bool {
        let all = self.0.live.lock();
        let Some(live) = all.get(id) else { return false };
        live.nudged.store(true, Ordering::Release);
        live.nudge.notify_one();
        true
    }
}
