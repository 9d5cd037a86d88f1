//! What happened, told to whoever listens.
//!
//! The enum is closed: every event is in the table of `docs/operations.md`. The bus is bounded; a
//! listener that falls behind is told how many events it missed. Leadership is also told on a
//! channel of its own ([`crate::leader::Edges`]), so that no burst of other events can push an edge
//! out. The latest events are kept, so that a listener that was away for a moment can go on where it
//! stopped ([`Tail`]).

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::{broadcast, watch};

use crate::clock::Timestamp;

/// How many events wait for a listener before it starts to miss some.
const CAPACITY: usize = 4_096;
/// How many events are kept for those who come back for them.
const KEPT: usize = 8_192;
/// And how many bytes of text in them, because errors may be long.
const KEPT_BYTES: usize = 8 * 1024 * 1024;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// This instance leads.
    LeaderElected {
        /// The number of the election.
        term: u64,
        /// The token of its right.
        fencing_token: String,
    },
    /// This instance leads no longer.
    LeaderLost {
        /// The term that ended.
        term: u64,
        /// Why.
        reason: String,
    },
    /// Another instance was seen to lead.
    LeaderChanged {
        /// Its identity.
        instance_id: String,
        /// Its term.
        term: u64,
    },
    /// A health check turned bad.
    SystemUnhealthy {
        /// What is wrong.
        issues: Vec<String>,
    },
    /// Health is good again.
    SystemHealthy,
    /// A job reached its last retry or failed for good.
    JobFailed {
        /// Which.
        job_id: String,
        /// Why.
        error: String,
    },
    /// A claim that this instance held was lost.
    ClaimLost {
        /// Of which job.
        job_id: String,
    },
    /// Every step of a saga is done.
    SagaCompleted {
        /// Which saga.
        saga_id: String,
    },
    /// Every effect of a saga is undone.
    SagaCompensated {
        /// Which saga.
        saga_id: String,
        /// Why it went back.
        reason: String,
    },
    /// A saga needs a person.
    SagaParked {
        /// Which saga.
        saga_id: String,
        /// What is in the way.
        reason: String,
    },
    /// A person decided that nothing more is done about a saga.
    SagaAbandoned {
        /// Which saga.
        saga_id: String,
        /// Why, and who.
        reason: String,
    },
    /// Another instance is gone, and this one goes on with its sagas.
    SessionTakenOver {
        /// The session under which they are executed.
        session: String,
    },
    /// Ticks of a schedule were too late, and do not run.
    ScheduleMisfired {
        /// Which schedule.
        job_id: String,
        /// How many, counted up to a thousand.
        count: u64,
    },
    /// A tick failed for good, or its job was cancelled.
    ScheduleTickFailed {
        /// Of which schedule.
        job_id: String,
        /// When it was due.
        scheduled_time: Timestamp,
        /// Why.
        error: String,
    },
    /// A channel has delivered a notice of alerts.
    AlertNotified {
        /// Which notice.
        notice_id: String,
        /// Which channel.
        channel: String,
        /// Whether its alerts fire or are over.
        status: String,
    },
    /// A channel gave up a notice of alerts, which is a dead letter now.
    NotificationDead {
        /// Which notice.
        notice_id: String,
        /// Which channel.
        channel: String,
        /// Why the last attempt failed.
        reason: String,
    },
    /// The audit trail is not as it was sealed.
    AuditBroken {
        /// What was found first.
        reason: String,
    },
    /// The store has lost acknowledged data; effects are halted.
    StoreRolledBack {
        /// What was seen.
        reason: String,
    },
    /// An alert has begun to fire.
    AlertFired {
        /// Its rule.
        rule: String,
        /// How bad it is.
        severity: String,
        /// The number of the firing.
        episode: u64,
        /// In words.
        summary: String,
    },
    /// An alert fires no longer.
    AlertResolved {
        /// Its rule.
        rule: String,
        /// How bad it was.
        severity: String,
        /// The number of the firing.
        episode: u64,
        /// In words.
        summary: String,
    },
}

impl Event {
    /// The name under which callbacks are registered.
    pub fn name(&self) -> &'static str {
        match self {
            Event::LeaderElected { .. } => "leader_elected",
            Event::LeaderLost { .. } => "leader_lost",
            Event::LeaderChanged { .. } => "leader_changed",
            Event::SystemUnhealthy { .. } => "system_unhealthy",
            Event::SystemHealthy => "system_healthy",
            Event::JobFailed { .. } => "job_failed",
            Event::ClaimLost { .. } => "claim_lost",
            Event::SagaCompleted { .. } => "saga_completed",
            Event::SagaCompensated { .. } => "saga_compensated",
            Event::SagaParked { .. } => "saga_parked",
            Event::SagaAbandoned { .. } => "saga_abandoned",
            Event::SessionTakenOver { .. } => "session_taken_over",
            Event::ScheduleMisfired { .. } => "schedule_misfired",
            Event::ScheduleTickFailed { .. } => "schedule_tick_failed",
            Event::AlertNotified { .. } => "alert_notified",
            Event::NotificationDead { .. } => "notification_dead",
            Event::AuditBroken { .. } => "audit_broken",
            Event::StoreRolledBack { .. } => "store_rolled_back",
            Event::AlertFired { .. } => "alert_fired",
            Event::AlertResolved { .. } => "alert_resolved",
        }
    }

    /// About how many bytes it keeps.
    fn weight(&self) -> usize {
        let texts = match self {
            Event::LeaderElected { fencing_token: text, .. }
            | Event::LeaderLost { reason: text, .. }
            | Event::LeaderChanged { instance_id: text, .. }
            | Event::ClaimLost { job_id: text }
            | Event::SagaCompleted { saga_id: text }
            | Event::SessionTakenOver { session: text }
            | Event::ScheduleMisfired { job_id: text, .. }
            | Event::AuditBroken { reason: text }
            | Event::StoreRolledBack { reason: text } => text.len(),
            Event::JobFailed { job_id: id, error: text }
            | Event::SagaCompensated { saga_id: id, reason: text }
            | Event::SagaParked { saga_id: id, reason: text }
            | Event::SagaAbandoned { saga_id: id, reason: text }
            | Event::ScheduleTickFailed { job_id: id, error: text, .. } => id.len() + text.len(),
            Event::AlertFired { rule: id, summary: text, .. }
            | Event::AlertResolved { rule: id, summary: text, .. }
            | Event::AlertNotified { notice_id: id, channel: text, .. }
            | Event::NotificationDead { notice_id: id, channel: text, .. } => id.len() + text.len(),
            Event::SystemUnhealthy { issues } => issues.iter().map(String::len).sum(),
            Event::SystemHealthy => 0,
        };
        std::mem::size_of::<Told>() + texts
    }

    /// Every name, in the order of the documentation.
    pub const NAMES: &'static [&'static str] = &[
        "leader_elected",
        "leader_lost",
        "leader_changed",
        "system_unhealthy",
        "system_healthy",
        "job_failed",
        "claim_lost",
        "saga_completed",
        "saga_compensated",
        "saga_parked",
        "saga_abandoned",
        "session_taken_over",
        "schedule_misfired",
        "schedule_tick_failed",
        "alert_notified",
        "notification_dead",
        "audit_broken",
        "store_rolled_back",
        "alert_fired",
        "alert_resolved",
    ];
}

/// An event and when it was told.
#[derive(Debug, Clone, Serialize)]
pub struct Told {
    /// Its number within this process; the first is 1.
    pub sequence: u64,
    /// When, by this machine's clock.
    pub at: Timestamp,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// The way from services to listeners.
#[derive(Debug, Clone)]
pub struct Bus(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    listeners: broadcast::Sender<Told>,
    kept: Mutex<Kept>,
    /// The number of the last event; wakes the tails.
    last: watch::Sender<u64>,
}

/// The latest events, for those who come back for them.
#[derive(Debug, Default)]
struct Kept {
    events: VecDeque<Arc<Told>>,
    bytes: usize,
    /// The number of the last event; the first is 1.
    last: u64,
}

impl Default for Bus {
    fn default() -> Self {
        Bus(Arc::new(Shared {
            listeners: broadcast::channel(CAPACITY).0,
            kept: Mutex::default(),
            last: watch::Sender::new(0),
        }))
    }
}

impl Bus {
    /// Tells an event to all listeners. Never waits for any of them.
    pub(crate) fn tell(&self, at: Timestamp, event: Event) {
        // Under the lock, so that all hear the events in the order of their numbers.
        let mut kept = self.0.kept.lock();
        kept.last += 1;
        let told = Told { sequence: kept.last, at, event };
        if self.0.listeners.receiver_count() > 0 {
            let _ = self.0.listeners.send(told.clone()); // one that has just gone is fine
        }
        kept.keep(told);
        self.0.last.send_replace(kept.last);
    }

    /// Listens from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Told> {
        self.0.listeners.subscribe()
    }

    /// Follows the events behind the one of this number, or from now on.
    pub fn follow(&self, after: Option<u64>) -> Tail {
        let news = self.0.last.subscribe();
        let seen = after.unwrap_or_else(|| self.last());
        Tail { bus: self.clone(), news, seen }
    }

    /// The number of the last event; 0 before the first.
    pub fn last(&self) -> u64 {
        self.0.kept.lock().last
    }
}

impl Kept {
    fn keep(&mut self, told: Told) {
        self.bytes += told.event.weight();
        self.events.push_back(Arc::new(told));
        while self.events.len() > KEPT || (self.bytes > KEPT_BYTES && self.events.len() > 1) {
            let gone = self.events.pop_front();
            self.bytes -= gone.map_or(0, |told| told.event.weight());
        }
    }

    /// The number of the last event that is not kept any more.
    fn forgotten(&self) -> u64 {
        self.last - u64::try_from(self.events.len()).unwrap_or_default()
    }
}

/// Follows the events one by one. It holds none itself: one that falls behind what is kept is told
/// how many it missed.
#[derive(Debug)]
pub struct Tail {
    bus: Bus,
    news: watch::Receiver<u64>,
    seen: u64,
}

/// What a [`Tail`] comes upon.
#[derive(Debug, Clone)]
pub enum Heard {
    /// The next event.
    Event(Arc<Told>),
    /// Events that are not kept any more, or never were; the tail goes on behind them.
    Gap {
        /// The number of the last event that is missing.
        until: u64,
    },
}

impl Tail {
    /// The number of the last event that was heard.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// Waits for the next event. Nothing is lost when the wait is given up.
    pub async fn next(&mut self) -> Heard {
        loop {
            if let Some(heard) = self.take() {
                return heard;
            }
            // The sender lives in the bus, which we hold.
            let _ = self.news.changed().await;
        }
    }

    /// Goes on with the oldest event that is kept if the next one is not kept any more, or never
    /// was; the number of the last that is missing.
    pub fn skip_missing(&mut self) -> Option<u64> {
        let kept = self.bus.0.kept.lock();
        let forgotten = kept.forgotten();
        let missing = self.seen < forgotten || self.seen > kept.last;
        missing.then(|| {
            self.seen = forgotten;
            forgotten
        })
    }

    fn take(&mut self) -> Option<Heard> {
        self.news.mark_unchanged();
        if let Some(until) = self.skip_missing() {
            return Some(Heard::Gap { until });
        }
        let kept = self.bus.0.kept.lock();
        // Some may have been forgotten since; the next look says so.
        let next = self.seen.checked_sub(kept.forgotten());
        let next =
            next.and_then(|at| usize::try_from(at).ok()).and_then(|at| kept.events.get(at))?;
        self.seen += 1;
        Some(Heard::Event(Arc::clone(next)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tell(bus: &Bus, times: u64) {
        for _ in 0..times {
            bus.tell(Timestamp::default(), Event::SystemHealthy);
        }
    }

    async fn number(tail: &mut Tail) -> u64 {
        match tail.next().await {
            Heard::Event(told) => told.sequence,
            Heard::Gap { until } => panic!("a gap until {until}"),
        }
    }

    #[tokio::test]
    async fn whoever_comes_back_hears_what_was_missed_once_and_in_order() {
        let bus = Bus::default();
        tell(&bus, 5);
        let mut tail = bus.follow(Some(2));
        for expected in 3..=5 {
            assert_eq!(number(&mut tail).await, expected);
        }
        let waiting = tokio::spawn(async move { number(&mut tail).await });
        tokio::task::yield_now().await;
        tell(&bus, 1);
        assert_eq!(waiting.await.unwrap(), 6);
    }

    #[tokio::test]
    async fn whoever_falls_behind_what_is_kept_is_told_and_goes_on() {
        let bus = Bus::default();
        let mut slow = bus.follow(None);
        tell(&bus, KEPT as u64 + 3);
        assert!(matches!(slow.next().await, Heard::Gap { until: 3 }));
        assert_eq!(number(&mut slow).await, 4);
        let mut stranger = bus.follow(Some(1_000_000));
        assert!(matches!(stranger.next().await, Heard::Gap { until: 3 }));
    }

    #[tokio::test]
    async fn large_events_do_not_fill_the_memory() {
        let bus = Bus::default();
        let error = "x".repeat(KEPT_BYTES / 4);
        for _ in 0..10 {
            let event = Event::JobFailed { job_id: "a".into(), error: error.clone() };
            bus.tell(Timestamp::default(), event);
        }
        assert!(bus.0.kept.lock().bytes <= KEPT_BYTES);
        assert!(matches!(bus.follow(Some(0)).next().await, Heard::Gap { until: 7 }));
    }
}
