//! How long ticks wait for somebody who handles them: an instance that was just started, or still
//! runs an older version, may lead before there is one. It knows nothing of what a tick does.

use std::collections::HashMap;
use std::time::Duration;

use super::Schedules;
use super::decide::Misfire;
use super::definition::Definition;
use super::record::{Open, TickId};
use super::tick::Trouble;
use crate::clock::Tick;
use crate::job::JobStatus;

/// How long a tick waits at most.
const LONGEST: Duration = Duration::from_secs(60);

/// The ticks of a schedule that nobody is known to handle, as long as it is driven here.
#[derive(Default)]
pub(super) struct Lacking(HashMap<TickId, Lack>);

struct Lack {
    since: Tick,
    /// `None` once the tick has waited long enough.
    shown: Option<Trouble>,
}

impl Lacking {
    /// Whether a tick waits: nobody is known to handle it, or that cannot be asked, and not for long.
    /// One that does not wait is attempted, and says what it lacks by failing.
    pub(super) async fn waits(
        &mut self,
        schedules: &Schedules,
        job_id: &str,
        (tick, definition): (&TickId, &Definition),
    ) -> bool {
        let (inner, handler) = (&schedules.0, &definition.handler);
        let told = match inner.handlers.knows(handler).await {
            Ok(true) => None,
            Ok(false) => Some(format!("waits until somebody is known to handle {handler:?}")),
            Err(error) => Some(format!("handler {handler:?} could not be looked up: {error}")),
        };
        let job_key = tick.job_key(job_id);
        let told = match told {
            Some(told) if !has_ended(schedules, &job_key).await => told,
            Some(_) | None => {
                self.0.remove(tick);
                return false;
            }
        };
        let now = inner.clock.tick();
        let start = || Lack { since: now, shown: None };
        let lack = self.0.entry(tick.clone()).or_insert_with(start);
        let waits = now.since(lack.since) < longest(definition);
        if waits {
            let trouble = || Trouble::of(schedules, job_key);
            lack.shown.get_or_insert_with(trouble).show(told);
        } else {
            lack.shown = None;
        }
        waits
    }

    /// Forgets ticks that are not open any more.
    pub(super) fn forget_all_but(&mut self, open: &[Open]) {
        self.0.retain(|tick, _| open.iter().any(|open| open.tick == *tick));
    }

    /// Whether any tick waits.
    pub(super) fn has_any_waiting(&self) -> bool {
        self.0.values().any(|lack| lack.shown.is_some())
    }
}

/// How long a tick waits: where what is late is skipped, no longer than it may be late.
fn longest(definition: &Definition) -> Duration {
    let rules = definition.rules();
    match rules.misfire {
        Misfire::Skip => rules.grace.min(LONGEST),
        Misfire::RunOnce | Misfire::RunAll => LONGEST,
    }
}

/// Whether the job of a tick has ended already, so that there is nothing left to handle: under a
/// leader that died before it noted so, or by a person. One that cannot be read has not.
async fn has_ended(schedules: &Schedules, job_key: &str) -> bool {
    let job = schedules.job(job_key).await.ok().flatten();
    job.is_some_and(|job| job.status != JobStatus::Claimed && job.next_retry_at.is_none())
}
