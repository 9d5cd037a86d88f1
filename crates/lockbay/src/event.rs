//! What happened, told to whoever listens inside this process.
//!
//! The enum is closed: every event is in the table of `docs/operations.md`. The bus is bounded; a
//! listener that falls behind is told how many events it missed. Leadership is also told on a
//! channel of its own ([`crate::leader::Edges`]), so that no burst of other events can push an edge
//! out.

use serde::Serialize;
use tokio::sync::broadcast;

use crate::clock::Timestamp;

/// How many events wait for a listener before it starts to miss some.
const CAPACITY: usize = 4_096;

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
            Event::AuditBroken { .. } => "audit_broken",
            Event::StoreRolledBack { .. } => "store_rolled_back",
        }
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
        "audit_broken",
        "store_rolled_back",
    ];
}

/// An event and when it was told.
#[derive(Debug, Clone, Serialize)]
pub struct Told {
    /// Its number within this process.
    pub sequence: u64,
    /// When, by this machine's clock.
    pub at: Timestamp,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// The way from services to listeners.
#[derive(Debug, Clone)]
pub struct Bus(broadcast::Sender<Told>, std::sync::Arc<std::sync::atomic::AtomicU64>);

impl Default for Bus {
    fn default() -> Self {
        Bus(broadcast::channel(CAPACITY).0, std::sync::Arc::default())
    }
}

impl Bus {
    /// Tells an event to all listeners. Never waits.
    pub(crate) fn tell(&self, at: Timestamp, event: Event) {
        let sequence = self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let _ = self.0.send(Told { sequence, at, event }); // nobody listening is fine
    }

    /// Listens from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Told> {
        self.0.subscribe()
    }
}
