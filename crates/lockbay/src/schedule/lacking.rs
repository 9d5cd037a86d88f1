//! How long ticks wait for somebody who handles them: an instance that was just started, or still
//! runs an older version, may lead before there is one. It knows nothing of what a tick does.

use std::collections::HashMap;
use std::time::Duration;

use super::Schedules;
use super::decide::Misfire;
use super::definition::Definition;
use super::record::{Content, TickId};
use super::tick::Trouble;
use crate::clock::Tick;
use crate::job::JobStatus;

/// How long ticks wait at most, counted from the first that does.
const LONGEST: Duration = Duration::from_secs(60);

/// The ticks of a schedule that wait, and since when nobody is known for a handler of theirs, as long
/// as it is driven here.
#[derive(Default)]
pub(super) struct Lacking {
    since: HashMap<String, Tick>,
    waiting: HashMap<TickId, Trouble>,
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
            Ok(true) => {
                self.since.remove(handler);
                self.waiting.remove(tick);
                return false;
            }
            Ok(false) => format!("waits until somebody is known to handle {handler:?}"),
            Err(error) => format!("handler {handler:?} could not be looked up: {error}"),
        };
        let job_key = tick.job_key(job_id);
        if !self.waiting.contains_key(tick) && has_ended(schedules, &job_key).await {
            return false; // there is nothing left to handle
        }
        let now = inner.clock.tick();
        let rules = definition.rules();
        let limit = match rules.misfire {
            Misfire::Skip => rules.grace.min(LONGEST),
            Misfire::RunOnce | Misfire::RunAll => LONGEST,
        };
        let waits = now.since(*self.since.entry(handler.clone()).or_insert(now)) < limit;
        if waits {
            let trouble = || Trouble::of(schedules, job_key);
            self.waiting.entry(tick.clone()).or_insert_with(trouble).show(told);
        } else {
            self.waiting.remove(tick);
        }
        waits
    }

    /// Forgets ticks that are not open any more, and handlers that no tick will ask for.
    pub(super) fn forget_all_but(&mut self, content: &Content) {
        self.waiting.retain(|tick, _| content.open.iter().any(|open| open.tick == *tick));
        let definitions = content.definitions.iter();
        let names: Vec<_> = definitions.map(|known| known.definition.handler.as_str()).collect();
        self.since.retain(|name, _| names.contains(&name.as_str()));
    }

    /// Whether any tick waits.
    pub(super) fn has_any_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }
}

/// Whether the job of a tick has ended already, by a leader before this one. One that cannot be read
/// has not.
async fn has_ended(schedules: &Schedules, job_key: &str) -> bool {
    let job = schedules.job(job_key).await.ok().flatten();
    job.is_some_and(|job| job.status != JobStatus::Claimed && job.next_retry_at.is_none())
}
