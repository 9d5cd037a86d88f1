//! Counting and telling what an entry has changed, for metrics and whoever listens.

use super::Sagas;
use super::log::{Cause, Entry, SagaStatus};
use super::record::Saga;
use crate::clock::Timestamp;
use crate::event::Event;
use crate::metrics::Metric;

/// Where a saga stood before an entry.
pub(super) struct Before {
    status: SagaStatus,
    turned: bool,
}

impl Before {
    pub(super) fn of(saga: &Saga) -> Self {
        Before { status: saga.status(), turned: saga.state.turned.is_some() }
    }
}

impl Sagas {
    /// Counts and tells what an entry has changed.
    pub(super) fn tell(&self, saga: &Saga, entry: &Entry, before: &Before) {
        let inner = &self.0;
        match entry {
            Entry::Done { .. } => inner.metrics.count(Metric::StepsExecuted),
            Entry::Undone { .. } => inner.metrics.count(Metric::StepsCompensated),
            Entry::Unknown { .. } => inner.metrics.count(Metric::StepsUnknown),
            Entry::Began { .. }
            | Entry::Failed { .. }
            | Entry::UndoFailed { .. }
            | Entry::TakenOver { .. }
            | Entry::TimedOut
            | Entry::Stuck { .. }
            | Entry::Operated { .. } => {}
        }
        if !before.turned
            && matches!(saga.state.turned, Some((Cause::Failed { .. } | Cause::TimedOut, _)))
        {
            inner.metrics.count(Metric::SagasFailed);
        }
        let status = saga.status();
        if status == before.status {
            return;
        }
        let saga_id = saga.id.to_string();
        let (metric, event) = match status {
            SagaStatus::Pending | SagaStatus::Running | SagaStatus::Compensating => return,
            SagaStatus::Completed => (Metric::SagasCompleted, Event::SagaCompleted { saga_id }),
            SagaStatus::Compensated => {
                let reason = saga.state.reason(&saga.head.definition).unwrap_or_default();
                (Metric::SagasCompensated, Event::SagaCompensated { saga_id, reason })
            }
            SagaStatus::Parked => {
                let reason = saga.state.reason(&saga.head.definition).unwrap_or_default();
                (Metric::SagasParked, Event::SagaParked { saga_id, reason })
            }
            SagaStatus::Abandoned => {
                let reason = saga.state.reason(&saga.head.definition).unwrap_or_default();
                (Metric::SagasAbandoned, Event::SagaAbandoned { saga_id, reason })
            }
        };
        inner.metrics.count(metric);
        if status.is_terminal() {
            let began = Timestamp::from_micros(saga.head.created_us);
            inner.metrics.observe(Metric::SagaSeconds, saga.state.changed.since(began));
        }
        inner.bus.tell(inner.clock.now(), event);
    }
}
