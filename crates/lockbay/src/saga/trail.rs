//! What a saga's commits enter into the audit trail: one entry for its start, and one for each
//! record of its log.
//!
//! Parameters, context, results and metadata do not appear: each entry has the digest of the record
//! that was written with it, which holds them.

use super::list::event;
use super::log::{Entry, SagaStatus};
use super::record::Saga;
use crate::scribe::{self, Scribe};
use crate::store::{Revision, Write};

impl Saga {
    /// What is entered when it starts.
    pub(super) fn start_entry<'a>(&'a self, head: &'a [u8]) -> scribe::Entry<'a> {
        let definition = &self.head.definition;
        let mut entry = scribe::Entry::new("saga", &self.id, "started")
            .with("saga_name", definition.saga_name.as_str())
            .with("steps", definition.steps.len() as u64)
            .with("session", self.head.session.as_str());
        entry.record = Some(head);
        entry
    }

    /// What is entered with a record of its log, into which the record has been folded already.
    pub(super) fn enter(
        &self,
        entry: &Entry,
        status_before: SagaStatus,
        record: &[u8],
        previous: Revision,
        scribe: &Scribe,
    ) -> Option<Write> {
        if !scribe.writes() {
            return None;
        }
        let steps = &self.head.definition.steps;
        let step = entry.step().and_then(|step| steps.get(step)).map(|step| step.name.as_str());
        let status = self.status();
        let turned_to = (status != status_before).then(|| status.name());
        let mut told = scribe::Entry::new("saga", &self.id, event(entry))
            .with("number", self.next + 1)
            .with_some("step", step)
            .with_some("error", error(entry))
            .with_some("status", turned_to);
        told.previous = Some(previous);
        told.record = Some(record);
        match entry {
            Entry::Operated { actor, reason, session, .. } => {
                told.actor = Some(actor);
                told.reason = Some(reason);
                scribe.enter(&told.with_some("session", session.as_deref()))
            }
            Entry::TakenOver { by } => scribe.enter_own(&told.with("session", by.as_str())),
            Entry::Began { .. }
            | Entry::Done { .. }
            | Entry::Failed { .. }
            | Entry::Unknown { .. }
            | Entry::Undone { .. }
            | Entry::UndoFailed { .. }
            | Entry::TimedOut
            | Entry::Stuck { .. } => scribe.enter_own(&told),
        }
    }
}

/// Why something did not go well.
fn error(entry: &Entry) -> Option<&str> {
    match entry {
        Entry::Failed { error, .. }
        | Entry::Unknown { error, .. }
        | Entry::UndoFailed { error, .. } => Some(error),
        Entry::Stuck { why, .. } => Some(why),
        Entry::Began { .. }
        | Entry::Done { .. }
        | Entry::Undone { .. }
        | Entry::TakenOver { .. }
        | Entry::TimedOut
        | Entry::Operated { .. } => None,
    }
}
