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

/// How long ticks wait at most, counted from the first that does.
const LONGEST: Duration = Duration::from_secs(60);

/// The ticks of a schedule that wait, and since when nobody is known to handle them, as long as it is
/// driven here.
#[derive(Default)]
pub(super) struct Lacking {
    since: Option<Tick>,
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
                self.since = None;
                self.waiting.remove(tick);
                return false;
            }
            Ok(false) => format!("waits until somebody is known to handle {handler:?}"),
            Err(error) => format!("handler {handler:?} could not be looked up: {error}"),
        };
        let now = inner.clock.tick();
        let rules = definition.rules();
        let limit = match rules.misfire {
            Misfire::Skip => rules.grace.min(LONGEST),
            Misfire::RunOnce | Misfire::RunAll => LONGEST,
        };
        let waits = now.since(*self.since.get_or_insert(now)) < limit;
        if waits {
            let trouble = || Trouble::of(schedules, tick.job_key(job_id));
            self.waiting.entry(tick.clone()).or_insert_with(trouble).show(told);
        } else {
            self.waiting.remove(tick);
        }
        waits
    }

    /// Forgets ticks that are not open any more.
    pub(super) fn forget_all_but(&mut self, open: &[Open]) {
        self.waiting.retain(|tick, _| open.iter().any(|open| open.tick == *tick));
    }

    /// Whether any tick waits.
    pub(super) fn has_any_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }
}
