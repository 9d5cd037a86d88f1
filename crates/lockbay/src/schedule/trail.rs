//! What the commits of schedules enter into the audit trail.
//!
//! A change that somebody makes is one entry. What the leader does in one commit is an entry for
//! each tick that begins or has ended, and one for all that were skipped or came too late.

use super::decide::Plan;
use super::record::{Content, LastRun, Standing, TickOutcome};
use crate::scribe::{Entry, Scribe};
use crate::store::{Revision, Write};

/// What somebody did, by how the schedule stood before and stands now.
pub(super) fn change(
    scribe: &Scribe,
    job_id: &str,
    from: Option<(Revision, Standing)>,
    content: Option<&Content>,
) -> Option<Write> {
    let before = from.map(|(_, standing)| standing);
    let action = match (before, content.map(|content| content.standing)) {
        (_, None | Some(Standing::Ending)) => "deleted",
        (Some(Standing::Active), Some(Standing::Paused)) => "paused",
        (Some(Standing::Paused), Some(Standing::Active)) => "resumed",
        (
            None | Some(Standing::Active | Standing::Paused | Standing::Ending),
            Some(Standing::Active | Standing::Paused),
        ) => "put",
    };
    let definition = content.map(|content| &content.current().definition);
    let put = definition.filter(|_| action == "put");
    let mut entry = Entry::new("schedule", job_id, action)
        .with_some("handler", put.map(|definition| definition.handler.as_str()))
        .with_some("expression", put.map(|definition| definition.schedule_expression.as_str()))
        .with_some("time_zone", put.map(|definition| definition.time_zone.as_str()));
    entry.previous = from.map(|(revision, _)| revision);
    scribe.enter(&entry)
}

/// A tick that somebody asks for.
pub(super) fn asked(scribe: &Scribe, job_id: &str, from: Revision, job_key: &str) -> Option<Write> {
    let mut entry = Entry::new("schedule", job_id, "run_asked").with("job_key", job_key);
    entry.previous = Some(from);
    scribe.enter(&entry)
}

/// What the leader does in one commit; `removed` says that the schedule is gone with it.
pub(super) fn advance(
    scribe: &Scribe,
    job_id: &str,
    from: Revision,
    (plan, ended): (&Plan, &[LastRun]),
    content: Option<&Content>,
) -> Vec<Write> {
    let mut writes = Vec::new();
    let mut enter = |mut entry: Entry<'_>| {
        entry.previous = Some(from);
        writes.extend(scribe.enter_own(&entry));
    };
    for last in ended {
        let action = match last.outcome {
            TickOutcome::Completed => "tick_completed",
            TickOutcome::Failed => "tick_failed",
            TickOutcome::Cancelled => "tick_cancelled",
        };
        let entry = Entry::new("schedule", job_id, action)
            .with("scheduled_time", last.scheduled_time.to_string())
            .with("job_key", last.job_key.as_str())
            .with_some("error", last.error.as_deref());
        enter(entry);
    }
    for due in &plan.begin {
        let entry = Entry::new("schedule", job_id, "tick_begun");
        enter(entry.with("scheduled_time", due.to_string()));
    }
    for (count, action) in [(plan.skipped, "ticks_skipped"), (plan.misfired, "ticks_misfired")] {
        if count > 0 {
            enter(Entry::new("schedule", job_id, action).with("count", count));
        }
    }
    if content.is_none() {
        enter(Entry::new("schedule", job_id, "removed"));
    }
    writes
}
